"""How long each unit remembers, and which units do little: read off the gates over data.

Retention at lag k is ``prod_{s=t+1}^{t+k} F_s``, what is left after k steps of something written at t. It
reads the forget gate alone: a unit that keeps and then overwrites, or keeps what nobody reads, has a
long half-life too.

K lags, T steps, B batch rows, H hidden units, D directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tidegate.cell import _norm_cell
from tidegate.frames import array, long_frame
from tidegate.insight.calls import evaluation
from tidegate.insight.ledger import along, pick_layer
from tidegate.layer import LSTM
from tidegate.ops import LayerTrace
from tidegate.trace import DIRECTIONS

if TYPE_CHECKING:
    import polars as pl

GATES = ("input", "forget", "output")


@dataclass(frozen=True)
class MemorySpans:
    """How long each unit of a layer remembers, over some data.

    Attributes
    ----------
    retention : (K + 1, D, H)
        Median over the data at lags 0 to K.
    half_life : (D, H)
        First lag, in steps, at which the median retention is at most one half; infinite where that is
        not seen up to lag K.
    half_life_log : (D, H)
        ln(1/2) / mean ln f in steps: what a constant gate with the same mean logarithm would have. Infinite
        where f is 1 throughout, 0 where it is 0 at some step.
    low, high : (3, D, H)
        Share of steps at which the input, forget and output gates are below and above the thresholds of saturation.
    latched : bool (D, H)
        The forget gate is above ``latch`` at nearly all steps: the memory is written once or only added to.
    dead : bool (D, H)
        What the unit shows, o tanh(c), varies by less than ``still`` (standard deviation over the data). With
        layer_norm that is o tanh(LN(c)).
    duplicate : (D, H)
        The first other unit whose memory is the same up to scale and shift (|correlation| above ``same``), or -1.
    time : float
        Length of a step in ``unit``.
    unit : str
    """

    retention: np.ndarray
    half_life: np.ndarray
    half_life_log: np.ndarray
    low: np.ndarray
    high: np.ndarray
    latched: np.ndarray
    dead: np.ndarray
    duplicate: np.ndarray
    time: float
    unit: str

    @property
    def longest_lag(self) -> int:
        """K: a half-life beyond it cannot be seen in this data."""
        return len(self.retention) - 1

    @property
    def half_life_time(self) -> np.ndarray:
        """The half-life in the data's unit of time, (D, H)."""
        return self.half_life * self.time

    def to_frame(self) -> pl.DataFrame:
        """One row a direction and unit."""
        D, H = self.half_life.shape
        columns = {
            "half_life": self.half_life,
            f"half_life_{self.unit}": self.half_life_time,
            "half_life_log": self.half_life_log,
        }
        columns |= {f"{gate}_low": self.low[k] for k, gate in enumerate(GATES)}
        columns |= {f"{gate}_high": self.high[k] for k, gate in enumerate(GATES)}
        columns |= {name: getattr(self, name) for name in ("latched", "dead", "duplicate")}
        return long_frame({"direction": DIRECTIONS[:D], "unit": range(H)}, columns)


def memory_spans(
    lstm: LSTM,
    x: Any,
    *,
    layer: int = -1,
    hx: Any = None,
    lengths: Any = None,
    reset: Any = None,
    time: float = 1.0,
    unit: str = "step",
    longest: int = 1000,
    starts: int = 256,
    saturated: float = 0.05,
    latch: float = 0.99,
    still: float = 1e-3,
    same: float = 0.999,
) -> MemorySpans:
    """How long each unit remembers.

    Parameters
    ----------
    lstm : LSTM
        Read in evaluation mode.
    x, hx, lengths, reset
        As :meth:`LSTM.forward` takes them.
    layer : int
    time, unit
        Length of a step, and its name.
    longest : int
        The longest lag looked at; never more than the data has.
    starts : int
        At most so many steps of each row, equally far apart, are followed. Retention is not followed
        across a reset or the end of a row.
    saturated : float
        A gate below this, or above 1 less this, is saturated.
    latch, still, same : float
        See :class:`MemorySpans`. Latched means above ``latch`` at 95% of the steps.

    Returns
    -------
    MemorySpans
        The forget gate is the effective one (zoneout counted in).
    """
    with evaluation(lstm), torch.no_grad():
        trace = pick_layer(lstm.trace(x, hx, lengths, reset).layers, layer)
        pairs = zip(trace.cell.unbind(2), lstm.weights(layer % lstm.num_layers), strict=True)
        memory = torch.stack([c if w.norm_c is None else _norm_cell(c, w.norm_c) for c, w in pairs], 2)
    T, B, D, _ = trace.cell.shape
    there = torch.ones(T, B, dtype=torch.bool) if trace.valid is None else trace.valid[:, :, 0, 0]
    count = int(there.sum())
    if count == 0:
        raise ValueError("memory_spans needs at least one valid step; given none")
    keep = _effective(trace)
    curves = [_retention(along(keep[:, :, d], d), trace, d, min(longest, T - 1), starts) for d in range(D)]
    curve = np.stack(curves, 1)  # (K + 1, D, H)
    half = _first(curve <= 0.5)
    with np.errstate(divide="ignore"):
        mean_log = np.log(array(keep[there].double())).mean(0)  # (D, H)
        half_log = np.where(mean_log == 0.0, np.inf, math.log(0.5) / np.where(mean_log == 0.0, -1.0, mean_log))
    gates = torch.stack([trace.input, keep, trace.output])[:, there]  # (3, steps, D, H)
    cells = array(trace.cell[there].double())
    shown = array((trace.output * torch.tanh(memory))[there].double())
    return MemorySpans(
        curve,
        half,
        half_log,
        array((gates < saturated).double().mean(1)),
        array((gates > 1.0 - saturated).double().mean(1)),
        array((gates[1] > latch).double().mean(0) >= 0.95),
        shown.std(0) < still,
        _duplicates(cells, same),
        float(time),
        unit,
    )


def _effective(trace: LayerTrace) -> Tensor:
    """The forget gate with zoneout's share, without resets."""
    return trace._replace(cut=None).keep


def _retention(F: Tensor, trace: LayerTrace, d: int, lags: int, starts: int) -> np.ndarray:
    """Median retention (lags + 1, H) of one direction, F (T, B, H) in the order of reading."""
    T, _, H = F.shape
    valid = None if trace.valid is None else along(trace.valid[:, :, 0], d)
    cut = None if trace.cut is None else along(trace.cut[:, :, d], d)
    follow = F.double()
    for stop in (None if valid is None else ~valid, cut):
        if stop is not None:
            follow = torch.where(stop, torch.nan, follow)
    at = torch.linspace(0, T - 1, min(starts, T)).round().long().unique()
    left = torch.ones(len(at), *F.shape[1:], dtype=torch.float64)
    if valid is not None:
        left = torch.where(valid[at], left, torch.nan)
    curve = [_median(left.flatten(0, 1))]
    for lag in range(1, lags + 1):
        inside = at + lag < T
        left, at = left[inside], at[inside]
        if len(at) == 0:
            break
        left = left * follow[at + lag]
        rows = left.flatten(0, 1)
        if rows.isnan().all():
            break
        curve.append(_median(rows))
    return _pad(array(torch.stack(curve)), lags + 1, H)


def _median(rows: Tensor) -> Tensor:
    """Of each column, nan left out: torch's is the lower one of the middle two, so that from above is taken too."""
    return (rows.nanmedian(0).values - (-rows).nanmedian(0).values) / 2


def _pad(curve: np.ndarray, rows: int, units: int) -> np.ndarray:
    """Lags that the data does not have, as nan."""
    return np.concatenate([curve, np.full((rows - len(curve), units), np.nan)])


def _first(below: np.ndarray) -> np.ndarray:
    """The first true along the first axis, as a number; infinite where there is none."""
    return np.where(below.any(0), below.argmax(0), np.inf)


def _duplicates(cells: np.ndarray, same: float) -> np.ndarray:
    """For each unit of (steps, D, H) the first other one that it repeats, or -1."""
    _, D, H = cells.shape
    found = np.full((D, H), -1)
    for d in range(D):
        c = cells[:, d] - cells[:, d].mean(0)
        size = np.sqrt((c * c).sum(0))
        moves = size > 1e-12 * max(1.0, float(size.max(initial=0.0)))
        c = np.where(moves, c / np.where(moves, size, 1.0), 0.0)
        alike = np.abs(c.T @ c) > same
        np.fill_diagonal(alike, False)
        found[d] = np.where(alike.any(1), alike.argmax(1), -1)
    return found
