"""Which units mark a span, and where else in the data they do so.

As in LSTMVis (Strobelt et al. 2018): a person marks a span; a unit is selected when it is on throughout and
off just before and just after it. Other spans at which the same units are on are then ranked.

T steps, B batch rows, H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from tidegate.checks import check_choice
from tidegate.frames import array, polars
from tidegate.insight.calls import evaluation
from tidegate.insight.ledger import pick_layer
from tidegate.layer import LSTM

if TYPE_CHECKING:
    import polars as pl


class Span(NamedTuple):
    """Steps from ``start`` to ``end`` (not included) of one row."""

    row: int
    start: int
    end: int


@dataclass(frozen=True)
class Match:
    """Units that mark a span, and other spans that they mark.

    Attributes
    ----------
    span : Span
        The one marked.
    units : (U,)
        Selected units, the clearest first.
    signs : (U,)
        1 where a unit is on by a large value, -1 by a large negative one.
    contrast : (H,)
        Of every unit: how far its weakest value inside is above its strongest at the edges, with the
        better of both signs; a unit can be selected only where this is above 0.
    spans : list of Span
        Elsewhere, the best first.
    scores : (N,)
        Of each: the share of the units that are on throughout and off at its edges.
    """

    span: Span
    units: np.ndarray
    signs: np.ndarray
    contrast: np.ndarray
    spans: list[Span]
    scores: np.ndarray

    def to_frame(self) -> pl.DataFrame:
        """One row a span found elsewhere."""
        rows, starts, ends = np.array(self.spans, dtype=np.int64).reshape(-1, 3).T
        return polars().DataFrame({"row": rows, "start": starts, "end": ends, "score": self.scores})


def match(
    lstm: LSTM,
    x: Any,
    span: tuple[int, int, int],
    *,
    threshold: float = 0.5,
    of: str = "cell",
    most: int = 20,
    layer: int = -1,
    direction: int = 0,
    hx: Any = None,
    lengths: Any = None,
    reset: Any = None,
) -> Match:
    """Find the units that mark a span, and rank where else they do.

    Parameters
    ----------
    lstm : LSTM
        Read in evaluation mode.
    x, hx, lengths, reset
        As :meth:`LSTM.forward` takes them: the marked sequence and those to search.
    span : (row, start, end)
        Steps from start to end, end not included.
    threshold : float
        A unit is on where its value is at least this, or at most minus this for a unit that marks by negative
        values; in the units of c (or of h, between -1 and 1).
    of : "cell" or "hidden"
        The memory that is looked at.
    most : int
        At most so many units are selected, and spans at which half of them or more are on are ranked.
    layer, direction : int

    Returns
    -------
    Match
        Without units and spans where no unit marks the span.
    """
    check_choice("of", of, ("cell", "hidden"))
    with evaluation(lstm), torch.no_grad():
        trace = pick_layer(lstm.trace(x, hx, lengths, reset).layers, layer)
    marked, steps = Span(*span), array(trace.steps)
    if direction not in range(trace.cell.shape[2]):
        raise ValueError(f"direction is from 0 to {trace.cell.shape[2] - 1}; given {direction}")
    row, start, end = marked
    if not 0 <= row < len(steps):
        raise ValueError(f"span is (row, start, end) with a row from 0 to {len(steps) - 1}; given {tuple(span)}")
    if not 0 <= start < end <= steps[row]:
        raise ValueError(f"span lies in its row's {steps[row]} steps, 0 <= start < end; given {tuple(span)}")
    values = array(getattr(trace, of))[:, :, direction]  # (T, B, H)
    inside, edges = values[start:end, row], _edges(values[: steps[row], row], start, end)
    each = []
    for sign in (1, -1):
        low = (sign * inside).min(0)
        high = (sign * edges).max(0) if len(edges) else np.full(low.shape, -np.inf)
        each.append((low, high, low - high))
    better = each[1][2] > each[0][2]
    if not len(edges):
        better = each[1][0] > each[0][0]
    low, high, contrast = (np.where(better, b, a) for a, b in zip(*each, strict=True))
    chosen = np.flatnonzero((low >= threshold) & (high < threshold))
    chosen = chosen[np.argsort(-contrast[chosen], kind="stable")][:most]
    signs = np.where(better, -1, 1)[chosen]
    on = values[:, :, chosen] * signs >= threshold  # (T, B, U)
    found = _spans(on, steps, marked) if len(chosen) else []
    return Match(marked, chosen, signs, contrast, [f[0] for f in found], np.array([f[1] for f in found]))


def _edges(values: np.ndarray, start: int, end: int) -> np.ndarray:
    """The steps just before and just after a span, where there are any."""
    return np.concatenate([values[max(0, start - 1) : start], values[end : end + 1]])


def _spans(on: np.ndarray, steps: np.ndarray, marked: Span) -> list[tuple[Span, float]]:
    """Runs of steps at which at least half of the units are on, the best first, the marked one left out."""
    found = []
    for row, length in enumerate(steps):
        here = on[:length, row]  # (t, U)
        many = np.concatenate([[False], here.mean(1) >= 0.5, [False]])
        starts, ends = np.flatnonzero(many[1:] & ~many[:-1]), np.flatnonzero(many[:-1] & ~many[1:])
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if row == marked.row and start < marked.end and marked.start < end:
                continue
            edges = _edges(here, start, end)
            clear = here[start:end].all(0) & ~edges.any(0)
            found.append((Span(row, start, end), float(clear.mean())))
    length = marked.end - marked.start
    return sorted(found, key=lambda f: (-f[1], abs(f[0].end - f[0].start - length)))
