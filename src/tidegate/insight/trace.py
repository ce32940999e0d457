"""Every gate and both memories of a layer, alone or inside a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tidegate.insight.calls import capture, evaluation
from tidegate.layer import LSTM
from tidegate.trace import Trace


def trace(lstm: LSTM, x: Any = None, *, run: Callable[[], Any] | None = None, **options: Any) -> Trace:
    """All gates and memories in evaluation mode, cut from the graph.

    For a trace to differentiate by, or in training mode, call ``lstm.trace`` itself.

    Parameters
    ----------
    lstm : LSTM
    x : any
        The layer's input, with ``hx``, ``lengths`` and ``reset`` as :meth:`LSTM.forward` takes them.
    run : callable, optional
        Instead of x: runs a model that calls the layer once, such as ``lambda: model(tokens)``.

    Returns
    -------
    Trace
        Gates and memories (T, B, D, H) of each layer.
    """
    if (x is None) == (run is None):
        raise ValueError("trace reads either x or what run hands to the layer; give one of them")
    with evaluation(lstm), torch.no_grad():
        return lstm.trace(x, **options) if run is None else lstm.trace(*capture(lstm, run))
