"""When was this memory written: the long-term memory as an exact sum over the steps that wrote it.

Unrolling ``c_t = F_t c_{t-1} + w_t`` (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000),
with ``w_t = i_t g_t``, gives

    c_e = (prod_{s<=e} F_s) c_0 + sum_{t<=e} (prod_{t<s<=e} F_s) w_t

Every term is a ledger entry. F and w are the effective ones: zoneout's share counted in, F = 0
where a reset empties the memory. Products are taken from the end, without division or logarithm.

E end times, T steps, B batch rows, H hidden units, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tidegate.frames import array, long_frame
from tidegate.insight.calls import evaluation
from tidegate.layer import LSTM
from tidegate.ops import LayerTrace
from tidegate.trace import DIRECTIONS

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Ledger:
    """The long-term memory at some moments, entry by entry; values without unit, as c itself.

    Attributes
    ----------
    entries : (E, T, B, D, H)
        What step t wrote of the memory at the end time; 0 for steps not read by then.
    initial : (E, B, D, H)
        What is left of c_0.
    memory : (E, B, D, H)
        The memory itself, which entries and ``initial`` add up to.
    ends : (E, B, D)
        The end times, as indices of steps.
    steps : (B,)
        Valid steps of each row.
    """

    entries: np.ndarray
    initial: np.ndarray
    memory: np.ndarray
    ends: np.ndarray
    steps: np.ndarray

    @property
    def error(self) -> float:
        """Completeness: the largest difference of sum and memory, relative to the largest memory."""
        largest = np.abs(self.memory).max(initial=0.0)
        gap = np.abs(self.entries.sum(1) + self.initial - self.memory).max(initial=0.0)
        return float(gap / largest) if largest else float(gap)

    def by_lag(self) -> tuple[np.ndarray, np.ndarray]:
        """Lags, and the mean of |entry| at each over rows, end times and units: (K,), (K, D)."""
        _, T, _, D, _ = self.entries.shape
        size = np.abs(self.entries).mean(-1)  # (E, T, B, D)
        total, count = np.zeros((T, D)), np.zeros((T, D))
        time = np.arange(T)[None, :, None, None]
        forward = np.arange(D) == 0
        # Past a row's length the forward memory is that of its last valid step; the backward one has read nothing.
        ends = np.where(forward, np.minimum(self.ends, self.steps[:, None] - 1), self.ends)  # (E, B, D)
        lag = (ends[:, None] - time) * np.where(forward, 1, -1)
        read = (lag >= 0) & (time < self.steps[:, None])
        for d in range(D):
            chosen = read[..., d]
            np.add.at(total[:, d], lag[..., d][chosen], size[..., d][chosen])
            np.add.at(count[:, d], lag[..., d][chosen], 1)
        there = count.any(1)
        return np.flatnonzero(there), (total / np.maximum(count, 1))[there]

    def to_frame(self) -> pl.DataFrame:
        """One row an end time, step, row, direction and unit, steps past a row's length left out."""
        E, T, B, D, H = self.entries.shape
        axes = {"number": range(E), "step": range(T), "row": range(B), "direction": DIRECTIONS[:D], "unit": range(H)}
        keep = (np.arange(T)[:, None] < self.steps)[None, :, :, None, None]
        frame = long_frame(axes, {"end": self.ends[:, None, :, :, None], "entry": self.entries}, keep)
        return frame.drop("number")


def ledger(
    lstm: LSTM,
    x: Any,
    ends: Sequence[int] | None = None,
    *,
    layer: int = -1,
    hx: Any = None,
    lengths: Any = None,
    reset: Any = None,
) -> Ledger:
    """The ledger of one layer's long-term memory, of every unit and both directions.

    Parameters
    ----------
    lstm : LSTM
        Read in evaluation mode.
    x, hx, lengths, reset
        As :meth:`LSTM.forward` takes them.
    ends : sequence of int, optional
        Steps after which the memory is taken apart. By default the last that each direction reads:
        a row's last valid step, and step 0 for the backward direction. Past a row's length the
        memory is that of its last valid step.
    layer : int
        The last one by default.

    Returns
    -------
    Ledger
        In float64, whatever the layer's dtype.

    Raises
    ------
    ValueError
        For an end time outside the sequence, or a layer that is not there.
    """
    with evaluation(lstm), torch.no_grad():
        trace = lstm.trace(x, hx, lengths, reset)
    return layer_ledger(pick_layer(trace.layers, layer), ends)


def pick_layer(layers: Sequence[LayerTrace], layer: int) -> LayerTrace:
    """One of a trace's layers, with a sentence where it is not there."""
    check_layer(layer, len(layers))
    return layers[layer]


def check_layer(layer: int, layers: int) -> None:
    """Refuse the number of a layer that is not there."""
    if not -layers <= layer < layers:
        raise ValueError(f"layer is from 0 to {layers - 1}, or counted from the end; given {layer}")


def layer_ledger(trace: LayerTrace, ends: Sequence[int] | None = None) -> Ledger:
    """The ledger from a layer's trace."""
    T, B, D, H = trace.cell.shape
    steps = array(trace.steps)
    if ends is not None:
        for end in ends:
            if not 0 <= end < T:
                raise ValueError(f"an end time is a step from 0 to {T - 1}; given {end}")
    chosen: list[Any] = [None] if ends is None else list(ends)
    keep, write = trace.keep.double(), trace.write.double()
    shape = (len(chosen), T, B, D, H)
    entries, initial = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[:1] + shape[2:], dtype=torch.float64)
    memory, at = torch.zeros_like(initial), np.zeros((len(chosen), B, D), dtype=np.int64)
    for d in range(D):
        F, w = along(keep[:, :, d], d), along(write[:, :, d], d)  # (T, B, H) in the order of reading
        c = held(along(trace.cell[:, :, d].double(), d), trace, d)
        c_0 = trace.c_0[d].double()
        for n, end in enumerate(chosen):
            last = T - 1 if end is None else T - 1 - end if d else end
            left = retention(F[: last + 1])  # (last + 1, B, H)
            found = torch.zeros_like(F)
            found[: last + 1] = left * w[: last + 1]
            entries[n, :, :, d] = along(found, d)
            initial[n, :, d] = initial_share(F[: last + 1], left, c_0)
            memory[n, :, d] = c[last] if T else c_0
            at[n, :, d] = np.maximum(steps - 1, 0) * (d == 0) if end is None else end
    return Ledger(array(entries), array(initial), array(memory), at, steps)


def retention(F: Tensor) -> Tensor:
    """What is left at the end of what each step writes: prod_{s>t} F_s, (T, B, H), from the end."""
    after = torch.cat([torch.ones_like(F[:1]), F.flip(0)[:-1]])[: len(F)]
    return after.cumprod(0).flip(0)


def initial_share(F: Tensor, left: Tensor, c_0: Tensor) -> Tensor:
    """What is left of c_0 (B, H) at the end."""
    return left[0] * F[0] * c_0 if len(F) else c_0


def along(values: Tensor, direction: int) -> Tensor:
    """(T, ...) in the order in which a direction reads, or back."""
    return values.flip(0) if direction == 1 else values


def held(c: Tensor, trace: LayerTrace, d: int) -> Tensor:
    """c (T, B, H) in the order of reading, with the state that stays in place of the zeros of padding."""
    if trace.valid is None:
        return c
    valid = along(trace.valid[:, :, 0], d)  # (T, B, 1)
    if d == 1:  # padding is read first: c_0 stays
        return torch.where(valid, c, trace.c_0[d].double())
    last = (valid.sum(0, keepdim=True) - 1).clamp(min=0)  # (1, B, 1)
    final = torch.where(valid.any(0), c.gather(0, last.expand(1, *c.shape[1:]))[0], trace.c_0[d].double())
    return torch.where(valid, c, final)
