"""How much history an output needs: the score when the layer's memory is emptied k steps back.

T steps, B batch rows, K amounts of history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tidegate.frames import array, polars
from tidegate.insight.calls import Call, Score, evaluation, scored
from tidegate.layer import LSTM

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class History:
    """A score against the amount of history kept; in the score's unit.

    Attributes
    ----------
    kept : (K,)
        Steps of history before ``end`` that the memory still holds.
    scores : (K, B)
    whole : (B,)
        With all of it.
    time : float
        Length of a step in ``unit``.
    unit : str
    """

    kept: np.ndarray
    scores: np.ndarray
    whole: np.ndarray
    time: float = 1.0
    unit: str = "step"

    def to_frame(self) -> pl.DataFrame:
        """One row an amount of history: the mean score."""
        columns = {"kept": self.kept, f"kept_{self.unit}": self.kept * self.time, "score": self.scores.mean(1)}
        return polars().DataFrame(columns)


def history_kept(
    lstm: LSTM,
    x: Any,
    score: Score,
    kept: Sequence[int],
    *,
    end: int | None = None,
    time: float = 1.0,
    unit: str = "step",
) -> History:
    """Score a model whose memory is emptied before all but the last steps.

    Parameters
    ----------
    lstm : LSTM
        The layer inside the model, one direction; read in evaluation mode.
    x : any
        What ``score`` takes.
    score : callable
        As in :func:`output_ledger`, or a loss of each row, (B,).
    kept : sequence of int
        Steps to keep: with k, a new sequence starts at step ``end - k``.
    end : int, optional
        The step that history ends at, such as the first one forecast. By default each sequence's end: its
        length, where the layer is given lengths. At least one step is then kept, as nothing is read after it.
    time, unit
        Length of a step, and its name.

    Returns
    -------
    History
    """
    lstm._refuse_streaming("history_kept")
    with evaluation(lstm), torch.no_grad():
        whole = array(scored(score, x)).astype(np.float64)
        scores = [array(_cut(lstm, x, score, end, int(k))).astype(np.float64) for k in kept]
    return History(np.asarray(kept), np.stack(scores) if scores else np.empty((0, len(whole))), whole, time, unit)


def _cut(lstm: LSTM, x: Any, score: Score, end: int | None, kept: int) -> torch.Tensor:
    """The score with a reset at step ``end - kept``, beside those that the model gives."""
    if kept < (1 if end is None else 0):
        raise ValueError(f"kept is a number of steps, at least 0 with end given and 1 without; given {kept}")
    calls = []

    def reset_at(module: Any, args: Any, kwargs: Any) -> Any:
        calls.append(1)
        call = Call(*args, **kwargs)
        x, lengths, reset, layout = lstm._enter(call.input, call.lengths, call.reset)
        T, B, _ = x.shape
        if end is not None and end - kept >= T:
            raise ValueError(f"a sequence of {T} steps reads nothing from end - kept = {end - kept} on; given {end=}")
        ends = torch.full((B,), T if end is None else end, device=x.device)
        if end is None and lengths is not None:
            ends = lengths
        mask = torch.arange(T, device=x.device)[:, None] == ends - kept  # (T, B)
        if reset is not None:
            mask |= reset
        if not layout.batched:
            mask = mask[:, 0]
        elif lstm.batch_first and layout.places is None:
            mask = mask.t()
        return (), call._replace(reset=mask)._asdict()

    handle = lstm.register_forward_pre_hook(reset_at, with_kwargs=True)
    try:
        value = scored(score, x)
    finally:
        handle.remove()
    if not calls:
        raise ValueError("score calls the layer, as lstm(x) or inside a model; it did not")
    return value
