"""What the calendar says about a step: always known, in the future too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.data.grid import DAY, WEEK, Grid


def calendar_names(grid: Grid) -> list[str]:
    """The names of the features that vary at this size of step, in the order of ``calendar_features``."""
    if grid.kind == "steps":
        return []
    names = []
    if grid.kind == "fixed":
        if grid.step % DAY:
            names += ["hour_sin", "hour_cos"]
        if grid.step % WEEK:
            names += ["weekday_sin", "weekday_cos", "weekend"]
    if grid.step % 12 if grid.kind == "months" else grid.step < 365 * DAY:
        names += ["yearday_sin", "yearday_cos"]
    return names


def calendar_features(grid: Grid, index: Any, names: Sequence[str] | None = None) -> NDArray[np.float32]:
    """Time of day, day of the week and time of the year, as angles.

    In the table's own clock: in UTC where ``grid.zone`` says so.

    Parameters
    ----------
    grid : Grid
    index : int (n,)
        Steps of the grid.
    names : sequence of str, optional
        Some of ``calendar_names(grid)``; all by default.

    Returns
    -------
    float32 (n, F)
        Sine and cosine in [-1, 1], each turning once a day (``hour``), a week, by whole days from Monday
        (``weekday``), or a year, from 1 January (``yearday``); ``weekend`` is 1 on Saturday and Sunday.
        F is 0 for a grid without a calendar.
    """
    names = calendar_names(grid) if names is None else list(names)
    index = np.asarray(index, dtype=np.int64)
    if not names:
        return np.zeros((len(index), 0), dtype=np.float32)
    moments = grid.moments(index)  # (n,) microseconds
    days, clock = np.divmod(moments, DAY)
    weekday = (days + 3) % 7  # 1 January 1970 was a Thursday; Monday is 0
    out = np.empty((len(index), len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        what, _, wave = name.partition("_")
        if what == "weekend":
            out[:, column] = weekday >= 5
            continue
        turns = clock / DAY if what == "hour" else weekday / 7 if what == "weekday" else _part_of_year(moments)
        out[:, column] = (np.sin if wave == "sin" else np.cos)(2 * np.pi * turns)
    return out


def _part_of_year(moments: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much of its year has passed at each moment, in [0, 1); leap years included."""
    times = moments.astype("datetime64[us]")
    years = times.astype("datetime64[Y]")
    start, end = years.astype("datetime64[us]"), (years + np.timedelta64(1, "Y")).astype("datetime64[us]")
    return np.asarray((times - start) / (end - start))
