"""A forecaster's data: which windows train, stop and test, and forecasts as a table.

h = horizon steps, C targets, Q quantiles, S series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tidegate.data.columns import when
from tidegate.data.panel import Panel
from tidegate.data.windows import Origins, Scaling, Windows
from tidegate.errors import DataError

MARKS = ("-99", "-99.9", "-999", "-999.9", "-9999", "-9999.9", "-99999")  # that tables give for missing values
STEP, PATH = "step", "path"  # columns of forecasts: where there is no --time, and with sample paths


class Parts(NamedTuple):
    """Grid indices that part the time: training, validation, test."""

    train_end: int
    test_start: int
    end: int


def about_series(sentence: str, names: list[str]) -> list[str]:
    """A note on some series, by name, with {have} and {are} for their number; none where there are none."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    verbs = {"have": "has", "are": "is"} if len(names) == 1 else {"have": "have", "are": "are"}
    return [f"{sentence.format(f'{len(names)} series', **verbs)}: {shown}"] if names else []


def about_values(panel: Panel) -> list[str]:
    """Notes on values that can hardly be meant.

    Raises
    ------
    DataError
        If a covariate has no value to learn from.
    """
    for option, names, values in (
        ("--known", panel.known_names, panel.known),
        ("--past", panel.past_names, panel.past),
        ("--static", panel.static_names, panel.static),
    ):
        for column, one in zip(names, values.T, strict=True):
            if np.isnan(one).all():
                raise DataError(f"{option} {column}: the column holds no value at all")
    notes = []
    for column, values in zip(panel.target_names, panel.targets.T, strict=True):
        size = np.abs(values[np.isfinite(values)])
        if (largest := size.max()) > 1e6 * np.quantile(size, 0.99) > 0:
            notes.append(
                f"{column}: the largest value, {largest:.3g}, is over a million times as large as nearly all others; "
                "if it is a mistake, leave it empty"
            )
    return missing_covariates(panel) + notes + marks_of_missing(panel)


def missing_covariates(panel: Panel) -> list[str]:
    """Notes on values of covariates that are missing before the steps to be forecast."""
    return [*panel.about_missing(panel.known_names, panel.known), *panel.about_missing(panel.past_names, panel.past)]


def marks_of_missing(panel: Panel) -> list[str]:
    """Notes on columns whose least value is -999 or the like, far below all others."""
    notes = []
    for names, values in (
        (panel.target_names, panel.targets), (panel.known_names, panel.known), (panel.past_names, panel.past)
    ):  # fmt: skip
        for column, one in zip(names, values.T, strict=True):
            seen = one[np.isfinite(one)]
            low = seen.min(initial=np.inf)
            others = seen[seen > low]
            if f"{low:g}" not in MARKS or not len(others):
                continue
            first, third = np.quantile(others, (0.25, 0.75))
            if others.min() - low > 3 * (third - first):
                count = len(seen) - len(others)
                notes.append(
                    f"{column} is {low:g} in {count:,} row{'s' * (count > 1)}, far below all others; "
                    "if that stands for a missing value, leave those cells empty"
                )
    return notes


def about_scaling(scaling: Scaling, panel: Panel) -> list[str]:
    """Notes on covariates that are masked because nothing can be learnt of them."""
    columns = [
        *zip(panel.known_names, scaling.known[:, 0], strict=True),
        *zip(panel.past_names, scaling.past[0, :, 0], strict=True),  # all series alike
    ]
    return [f"{name}: no value in the part that trains, and so masked" for name, mean in columns if np.isnan(mean)]


def split(windows: Windows, parts: Parts) -> tuple[Origins, Origins, list[str]]:
    """Origins to train on and to stop by, and notes on series that are too short.

    Raises
    ------
    DataError
        If a part has no whole window.
    """
    panel, notes = windows.panel, []
    low = windows.start
    train_origins = windows.origins(low, parts.train_end)
    valid_origins = windows.origins(parts.train_end, parts.test_start)
    need = windows.history + windows.horizon
    short = [name for s, name in enumerate(panel.names) if panel.length(s) < need]
    if short:
        shown = ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
        notes.append(f"skipped {len(short)} series shorter than one window of {need} steps: {shown}")
    flat = [name for s, name in enumerate(panel.names) if _constant(panel.targets[panel.slice(s)])]
    if flat:
        shown = ", ".join(name or panel.target_names[0] for name in flat[:5])
        verb = "changes" if len(flat) == 1 else "change"
        notes.append(f"{len(flat)} series never {verb}, which leaves nothing to learn there: {shown}")
    if len(train_origins) == 0:
        raise DataError(
            f"no series has a whole window of {need} steps (history {windows.history} + horizon "
            f"{windows.horizon}) with known targets in the training part, which has {parts.train_end - low} steps; "
            "lower --history or --horizon, lower --validation and --test, or bring more data"
        )
    later = {"validation": (parts.train_end, parts.test_start), "test": (parts.test_start, parts.end)}
    for part, (start, end) in later.items():
        if len(windows.origins(start, end)) == 0:
            fit = f"to {end - start} or less" if end - start < windows.horizon else "or --history"
            since = when(int(panel.grid.moments([start])[0]), panel.grid.kind != "steps", panel.grid.zone)
            raise DataError(
                f"the {part} part is the {end - start} steps from {since}, and "
                f"no forecast of {windows.horizon} steps with known targets and {windows.history} steps of history "
                f"before it fits there; lower --horizon {fit}, raise --{part}, or bring more data"
            )
    return train_origins, valid_origins, notes


def steps_behind(panel: Panel) -> np.ndarray:
    """How many steps before the latest one each series has its last target, (S,).

    Without covariates known ahead, the last row of the table is the latest; with them, rows may be the future.
    """
    end = panel.now if panel.known_names else int((panel.first + panel.lengths).max())
    return end - panel.first - panel.history_ends


def unknown_ahead(panel: Panel, horizon: int) -> list[str]:
    """Covariates known in the future that lack values in the steps to forecast, with how many."""
    starts = (panel.offsets[:-1] + panel.history_ends)[panel.history_ends > 0]  # of the futures that are forecast
    values = np.concatenate([panel.known[a : a + horizon] for a in starts] or [panel.known[:0]])  # (S h, K)
    missing = np.isnan(values).sum(0).tolist()
    return [
        name if count == len(values) else f"{name} ({count:,} of {len(values):,} values)"
        for name, count in zip(panel.known_names, missing, strict=True)
        if count
    ]


def forecast_columns(panel: Panel, levels: Sequence[float], samples: int = 0) -> list[str]:
    """Names of the columns of ``forecast_frame``."""
    places = [*([panel.series_name] if panel.series_name is not None else []), panel.time_name or STEP]
    if samples:
        return [*places, PATH, *panel.target_names]
    return [*places, *panel.target_names, *(_level(name, q) for name in panel.target_names for q in levels)]


def _level(name: str, q: float) -> str:
    return f"{name}_q{q:g}"


def forecast_frame(
    panel: Panel, origins: Origins, values: np.ndarray, levels: Sequence[float], samples: int = 0
) -> pl.DataFrame:
    """Forecasts (S, h, C, Q or samples) as a long table."""
    count, h = values.shape[:2]
    index = (panel.first[origins.series] + origins.step)[:, None] + np.arange(h)  # (S, h)
    stamps = pl.Series(panel.time_name or STEP, panel.grid.timestamps(index.reshape(-1)))
    columns = [stamps.dt.replace_time_zone("UTC") if panel.grid.zone else stamps]
    if panel.series_name is not None:
        names = [panel.names[s] for s in origins.series for _ in range(h)]
        columns.insert(0, pl.Series(panel.series_name, names, dtype=pl.String))
    frame = pl.DataFrame(columns)
    if samples:
        paths = pl.concat([frame.with_columns(pl.lit(k + 1).alias(PATH)) for k in range(samples)])
        flat = values.transpose(3, 0, 1, 2).reshape(samples * count * h, -1)
        return paths.with_columns(pl.Series(name, flat[:, c]) for c, name in enumerate(panel.target_names))
    for c, name in enumerate(panel.target_names):
        flat = values[:, :, c].reshape(count * h, -1)
        frame = frame.with_columns(
            pl.Series(name, flat[:, levels.index(0.5)]),
            *(pl.Series(_level(name, q), flat[:, k]) for k, q in enumerate(levels)),
        )
    return frame


def _constant(values: np.ndarray) -> bool:
    known = values[np.isfinite(values).all(1)]
    return len(known) > 0 and bool((known == known[0]).all())
