"""Many series from one long table, on one regular grid of time, as flat arrays.

S series, N steps of all series one after the other, C targets, K known and P past covariates, Q static features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidegate.data.columns import percent
from tidegate.data.grid import Grid, Ints

Floats = NDArray[np.float32]


class SeriesView(NamedTuple):
    """One series; the arrays are views into the panel. t steps."""

    name: str
    targets: Floats  # (t, C)
    known: Floats  # (t, K)
    past: Floats  # (t, P)
    static: Floats  # (Q,)
    steps: Ints  # (t,) indices of the grid


@dataclass(frozen=True, eq=False)
class Panel:
    """Series on a regular grid. Made by ``make_panel``; never changed afterwards.

    Attributes
    ----------
    names : list of str, S
        The series, in order of first appearance; ``""`` is the only one of a table without series.
    offsets : int64 (S + 1,)
        Series s holds the steps from ``offsets[s]`` to ``offsets[s + 1]``.
    targets : float32 (N, C)
        NaN where a value is missing, in every array.
    known, past : float32 (N, K), (N, P)
        Covariates known in the future too, and in the past only.
    static : float32 (S, Q)
        Numbers as they are; text as one column for each category (all zero when missing or not seen before).
    first : int64 (S,)
        Grid index of each series' first step.
    grid : Grid
    target_names, known_names, past_names, static_names : list of str
        Names of the columns; a category's feature is named ``column=category``.
    time_name, series_name : str or None
        The columns of the table.
    categories : dict of str to list of str
        The categories of each static column of text.
    notes : list of str
        What was done to the table, in sentences for a person.
    """

    names: list[str]
    offsets: Ints
    targets: Floats
    known: Floats
    past: Floats
    static: Floats
    first: Ints
    grid: Grid
    target_names: list[str]
    known_names: list[str] = field(default_factory=list)
    past_names: list[str] = field(default_factory=list)
    static_names: list[str] = field(default_factory=list)
    time_name: str | None = None
    series_name: str | None = None
    categories: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of series."""
        return len(self.names)

    @property
    def steps(self) -> int:
        """The number of steps of all series together, N."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> Ints:
        """The number of steps of each series, (S,)."""
        return np.diff(self.offsets)

    @cached_property
    def history_ends(self) -> Ints:
        """For each series 1 + its last step with any observed target, (S,); 0 where none is observed.

        What comes after it is the future, of which the covariates may be known.
        """
        seen = np.flatnonzero(~np.isnan(self.targets).all(axis=1))  # positions in N, rising
        last = np.searchsorted(seen, self.offsets[1:]) - 1
        position = np.where(last >= 0, seen[last], -1) if len(seen) else np.full(len(self), -1)
        return np.maximum(position + 1 - self.offsets[:-1], 0)

    @cached_property
    def now(self) -> int:
        """1 + the last grid index at which any series has a target or past covariate; the rest is to be forecast."""
        seen = np.flatnonzero(~np.isnan(np.concatenate([self.targets, self.past], axis=1)).all(axis=1))
        return int(self._indices[seen].max(initial=self.first.min(initial=0) - 1)) + 1

    @cached_property
    def _indices(self) -> Ints:
        """Grid index of every step, (N,)."""
        return np.arange(self.steps) + np.repeat(self.first - self.offsets[:-1], self.lengths)

    def about_missing(self, names: Sequence[str], values: Floats) -> list[str]:
        """Notes on the values that are missing in columns of the panel, (N, their number), up to ``now``."""
        lacking = np.isnan(values[self._indices < self.now])
        total, counts = len(lacking), lacking.sum(0).tolist()
        return [
            f"{name}: {count:,} of {total:,} steps are missing ({percent(count, total)})"
            for name, count in zip(names, counts, strict=True)
            if count
        ]

    def length(self, s: int) -> int:
        """The number of steps of series s."""
        return int(self.offsets[s + 1] - self.offsets[s])

    def history_end(self, s: int) -> int:
        """1 + the last step of series s with any observed target; 0 without one."""
        return int(self.history_ends[s])

    def slice(self, s: int) -> slice:
        """Where series s stands in the flat arrays."""
        return slice(int(self.offsets[s]), int(self.offsets[s + 1]))

    def index(self, s: int) -> Ints:
        """Grid index of each step of series s, (t,)."""
        return self.first[s] + np.arange(self.length(s), dtype=np.int64)

    def timestamps(self, s: int) -> NDArray[Any]:
        """Time of each step of series s, (t,): datetime64[us], or int64 on a grid without a calendar."""
        return self.grid.timestamps(self.index(s))

    def view(self, s: int) -> SeriesView:
        """Series s, without copying."""
        at = self.slice(s)
        return SeriesView(self.names[s], self.targets[at], self.known[at], self.past[at], self.static[s], self.index(s))

    def views(self) -> list[SeriesView]:
        """All series, without copying."""
        return [self.view(s) for s in range(len(self))]

    def select(self, series: Sequence[int]) -> Panel:
        """A panel of some of the series, in the order given."""
        chosen = np.asarray(series, dtype=np.int64)
        rows = np.concatenate([np.arange(self.offsets[s], self.offsets[s + 1]) for s in chosen] or [chosen])
        return replace(
            self,
            names=[self.names[s] for s in chosen],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64),
            targets=self.targets[rows],
            known=self.known[rows],
            past=self.past[rows],
            static=self.static[chosen],
            first=self.first[chosen],
        )

    def extend(self, steps: int) -> Panel:
        """Append missing rows until every series has at least ``steps`` of them after its history.

        Rows that are there already keep their covariates. The panel itself if nothing is needed.
        """
        lengths = np.maximum(self.lengths, self.history_ends + steps)  # (S,)
        if np.array_equal(lengths, self.lengths):
            return self
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        moved = np.arange(self.steps) + np.repeat(offsets[:-1] - self.offsets[:-1], self.lengths)  # (N,)

        def spread(values: Floats) -> Floats:
            out = np.full((int(offsets[-1]), values.shape[1]), np.nan, dtype=np.float32)
            out[moved] = values
            return out

        return replace(
            self,
            offsets=offsets,
            targets=spread(self.targets),
            known=spread(self.known),
            past=spread(self.past),
        )

    def to_frame(self) -> pl.DataFrame:
        """The panel as a long table: series, time, targets, known, past and static columns.

        The columns have the names of the table it came from; without a time column the step is in ``step``.
        """
        of = np.repeat(np.arange(len(self)), self.lengths)  # (N,) series of each row
        index = np.arange(self.steps) - self.offsets[of] + self.first[of]
        columns: list[pl.Series] = []
        if self.series_name is not None:
            columns.append(pl.Series(self.series_name, self.names)[of])
        stamps = pl.Series(self.time_name or "step", self.grid.timestamps(index))
        columns.append(stamps.dt.replace_time_zone("UTC") if self.grid.zone else stamps)
        for names, values in (
            (self.target_names, self.targets),
            (self.known_names, self.known),
            (self.past_names, self.past),
        ):
            columns += [pl.Series(n, values[:, i]).fill_nan(None) for i, n in enumerate(names)]
        return pl.DataFrame(columns + [c[of] for c in self._static_columns()])

    def _static_columns(self) -> list[pl.Series]:
        """The static columns as in the table, one value a series."""
        columns, place = [], 0
        while place < len(self.static_names):
            name = self.static_names[place].split("=", 1)[0]
            kinds = self.categories.get(name)
            if kinds is None or self.static_names[place] != f"{name}={kinds[0]}":
                columns.append(pl.Series(self.static_names[place], self.static[:, place]).fill_nan(None))
                place += 1
                continue
            flags = self.static[:, place : place + len(kinds)]
            text = [kinds[int(row.argmax())] if row.any() else None for row in flags]
            columns.append(pl.Series(name, text, dtype=pl.String))
            place += len(kinds)
        return columns
