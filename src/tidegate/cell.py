"""One step of an LSTM and of a vanilla RNN, written as their equations.

Everything else in the package is measured against these functions. They work in any
floating dtype, on any device, under any transform, and are differentiable as often as wanted.

B batch rows, I inputs, H hidden units, P outputs of a step (P = H without projection).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5


class LSTMWeights(NamedTuple):
    """The parameters of one direction of one LSTM layer; gate order i, f, g, o as in torch."""

    ih: Tensor  # (4H, I) input to gates
    hh: Tensor  # (4H, P) short-term memory to gates
    b_ih: Tensor | None = None  # (4H,)
    b_hh: Tensor | None = None  # (4H,)
    hr: Tensor | None = None  # (P, H) projection of the output, Sak et al. 2014
    ch: Tensor | None = None  # (3, H) peepholes of i, f, o, Gers et al. 2002
    norm_ih: Tensor | None = None  # (4H,) layer norm gain of the input's part, Ba et al. 2016
    norm_hh: Tensor | None = None  # (4H,) layer norm gain of the recurrent part
    norm_c: Tensor | None = None  # (2, H) layer norm gain and bias of the long-term memory

    def fits(self, inputs: int, units: int, outputs: int) -> bool:
        """Have all that are there the shapes above?"""
        gates = 4 * units
        shapes: list[tuple[int, ...]] = [(gates, inputs), (gates, outputs), (gates,), (gates,), (outputs, units)]
        shapes += [(3, units), (gates,), (gates,), (2, units)]
        whole = self.hr is not None or outputs == units
        return whole and all(p is None or p.shape == shape for p, shape in zip(self, shapes, strict=True))

    def to(self, dtype: torch.dtype) -> LSTMWeights:
        """The same weights in another dtype."""
        cast: list[Any] = [None if p is None else p.to(dtype) for p in self]
        return LSTMWeights(*cast)


class LSTMStep(NamedTuple):
    """What one LSTM step computes: both memories and the activated gates."""

    hidden: Tensor  # (B, P) short-term memory h, also the output
    cell: Tensor  # (B, H) long-term memory c
    input: Tensor  # (B, H) i: how much is added
    forget: Tensor  # (B, H) f: how much is kept
    candidate: Tensor  # (B, H) g: what is added
    output: Tensor  # (B, H) o: how much is shown


class RNNWeights(NamedTuple):
    """The parameters of one direction of one vanilla RNN layer."""

    ih: Tensor  # (H, I)
    hh: Tensor  # (H, H)
    b_ih: Tensor | None = None  # (H,)
    b_hh: Tensor | None = None  # (H,)


def lstm_input(x: Tensor, w: LSTMWeights) -> Tensor:
    """The part of the gates that depends on the input alone, both biases included.

    Parameters
    ----------
    x : Tensor (..., I)
    w : LSTMWeights

    Returns
    -------
    Tensor (..., 4H)
    """
    a = F.linear(x, w.ih)
    if w.norm_ih is not None:
        a = F.layer_norm(a, a.shape[-1:], w.norm_ih, None, LAYER_NORM_EPS)
    for bias in (w.b_ih, w.b_hh):
        if bias is not None:
            a = a + bias
    return a


def lstm_step(a_x: Tensor, h: Tensor, c: Tensor, w: LSTMWeights, h_in: Tensor | None = None) -> LSTMStep:
    """One LSTM step (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    In half precision the products are rounded, the rest runs in the dtype of ``c`` (float32).

    Parameters
    ----------
    a_x : Tensor (B, 4H)
        ``lstm_input(x_t, w)``.
    h : Tensor (B, P)
        Short-term memory of the step before.
    c : Tensor (B, H)
        Long-term memory of the step before.
    w : LSTMWeights
    h_in : Tensor (B, P), optional
        What the gates see of ``h`` (recurrent dropout); ``h`` itself by default.

    Returns
    -------
    LSTMStep
    """
    a_h = F.linear(h if h_in is None else h_in, w.hh)
    if w.norm_hh is not None:
        a_h = F.layer_norm(a_h, a_h.shape[-1:], w.norm_hh, None, LAYER_NORM_EPS)
    a_i, a_f, a_g, a_o = (a_x.to(c.dtype) + a_h.to(c.dtype)).chunk(4, -1)  # each (B, H)
    if w.ch is not None:
        a_i = a_i + c * w.ch[0]
        a_f = a_f + c * w.ch[1]

    f = torch.sigmoid(a_f)
    i = torch.sigmoid(a_i)
    g = torch.tanh(a_g)
    c = f * c + i * g
    if w.ch is not None:
        a_o = a_o + c * w.ch[2]
    o = torch.sigmoid(a_o)
    h_new = o * torch.tanh(c if w.norm_c is None else _norm_cell(c, w.norm_c))

    h_new = h_new.to(h.dtype)
    if w.hr is not None:
        h_new = F.linear(h_new, w.hr)  # (B, P)
    return LSTMStep(h_new, c, i, f, g, o)


def _norm_cell(c: Tensor, norm_c: Tensor) -> Tensor:
    gain, bias = norm_c.to(c.dtype)
    return F.layer_norm(c, c.shape[-1:], gain, bias, LAYER_NORM_EPS)


def rnn_input(x: Tensor, w: RNNWeights) -> Tensor:
    """The part of a vanilla RNN step that depends on the input alone: (..., I) to (..., H)."""
    a = F.linear(x, w.ih)
    for bias in (w.b_ih, w.b_hh):
        if bias is not None:
            a = a + bias
    return a


def rnn_step(a_x: Tensor, h: Tensor, w: RNNWeights, nonlinearity: str = "tanh") -> Tensor:
    """One vanilla RNN step (Elman 1990): ``h = tanh(x W_x + h W_h + b)``.

    Parameters
    ----------
    a_x : Tensor (B, H)
        ``rnn_input(x_t, w)``.
    h : Tensor (B, H)
    w : RNNWeights
    nonlinearity : "tanh" or "relu"

    Returns
    -------
    Tensor (B, H)
    """
    a = a_x + F.linear(h, w.hh)
    return torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a)
