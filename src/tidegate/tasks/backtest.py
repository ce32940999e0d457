"""Rolling-origin backtest on the untouched last part, beside baselines.

n forecasts, h steps ahead, C targets, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.data.windows import Origins, Windows
from tidegate.errors import DataError
from tidegate.tasks.metrics import bootstrap_coverage, by_horizon, covered, finite, intervals, scores

if TYPE_CHECKING:
    from tidegate.tasks.forecast import Forecaster

Array = np.ndarray


@dataclass
class Backtest:
    """Forecasts of the test part, in the data's units."""

    windows: Windows
    origins: Origins
    truth: Array  # (n, h, C)
    quantiles: dict[str, Array]  # by model: (n, h, C, Q)
    scale: Array  # (n, C) unit of MASE
    levels: list[float]

    @property
    def start(self) -> Array:
        """Grid index of each forecast's first step, (n,)."""
        return self.windows.panel.first[self.origins.series] + self.origins.step


def run_backtest(
    forecaster: Forecaster, data: Any = None, *, compare: Sequence[str] = (), progress: bool = False
) -> Backtest:
    """Forecast from origins a quarter of a horizon apart, with what was known at each.

    The model's intervals are corrected at each origin with the errors known by then, those of the
    validation part included; the baselines have quantiles from their training errors.
    """
    from tidegate.tasks.baselines import fit_baselines  # scikit-learn, which other commands need not wait for

    forecaster.check_comparisons(compare)
    windows = forecaster.windows_for(data)
    parts, config = forecaster.parts_, forecaster.resolved_
    end = windows.end
    rolled = forecaster.rolled(windows)
    tested = rolled.start >= parts.test_start
    test = rolled.origins.take(tested)
    if len(test) == 0:
        raise DataError(
            f"the test part has no whole window: the data end {max(0, end - parts.test_start)} steps after it begins, "
            f"and a forecast needs {config.horizon}, with {windows.history} steps of the same series before it; bring "
            "newer data or more of the history, or train with a larger --test"
        )
    levels = config.quantiles
    models: dict[str, Forecaster] = {config.cell: forecaster}
    for cell in compare:
        if cell not in models:
            models[cell] = forecaster.twin(cell, progress=progress)
    found = {}
    for name, model in models.items():
        rolled = model.rolled(windows)
        found[name.upper()] = windows.unscale(rolled.corrected[tested], test.series)
        found[f"{name.upper()} uncorrected"] = windows.unscale(rolled.quantiles[tested], test.series)
    train, valid = windows.origins(windows.start, parts.train_end), windows.origins(parts.train_end, parts.test_start)
    if len(train) and len(valid):
        for name, predict in fit_baselines(windows, train, valid, levels, config.seed).items():
            found[name] = windows.unscale(predict(test), test.series)
    scale = _seasonal_error(windows, parts.train_end)[test.series]
    return Backtest(windows, test, windows.truth(test), found, scale, levels)


def evaluate(test: Backtest, seed: int = 0) -> dict[str, Any]:
    """Scores of every model: overall, by step ahead and, where there are several, by target.

    Returns
    -------
    dict
        ``models`` by name with ``overall``, ``by_horizon`` and ``by_target``; ``coverage_interval``
        by name and interval with a 95% block-bootstrap interval; what was forecast, and how often.
    """
    models, ranges = {}, {}
    for name, quantiles in test.quantiles.items():
        args = (quantiles, test.truth, test.levels, test.scale)
        models[name] = {"overall": scores(*args), "by_horizon": by_horizon(*args)}
        if test.truth.shape[-1] > 1:
            models[name]["by_target"] = {
                column: scores(quantiles[:, :, [c]], test.truth[:, :, [c]], test.levels, test.scale[:, [c]])
                for c, column in enumerate(test.windows.panel.target_names)
            }
        ranges[name] = {
            f"coverage_{round(100 * (high - low))}": bootstrap_coverage(
                covered(quantiles, test.truth, test.levels, low, high), test.start, seed=seed
            )
            for low, high in intervals(test.levels)
        }
    grid = test.windows.panel.grid
    first, last = (_text(grid.timestamps(np.array([t]))[0]) for t in (test.start.min(), test.start.max()))
    about = {
        "forecasts": len(test.origins),
        "series": len(np.unique(test.origins.series)),
        "horizon": test.windows.horizon,
        "step": str(grid),
        "first_origin": first,
        "last_origin": last,
        "season": test.windows.season,
    }
    return finite({"test": about, "models": models, "coverage_interval": ranges})


def _text(time: np.generic) -> str:
    """A time without the parts that are zero."""
    return str(time).replace("T", " ").removesuffix(".000000").removesuffix(":00").removesuffix(" 00:00")


def _seasonal_error(windows: Windows, end: int) -> Array:
    """Mean absolute error of the seasonal naive forecast before ``end``, by series and target: (S, C)."""
    panel, found = windows.panel, []
    for s in range(len(panel.names)):
        values = panel.targets[panel.slice(s)][: max(0, end - int(panel.first[s]))].astype(np.float64)
        steps = np.abs(values[windows.season :] - values[: -windows.season])
        count = np.isfinite(steps).sum(0)
        found.append(np.where(count > 0, np.nansum(steps, 0) / np.maximum(count, 1), np.nan))
    return np.stack(found)


def table(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores, for people; the best of each column of losses is marked."""
    columns = {"mae": "MAE", "rmse": "RMSE", "mase": "MASE", "smape": "sMAPE %", "pinball": "pinball"}
    shown = {name: m["overall"] for name, m in metrics["models"].items() if not name.endswith("uncorrected")}
    coverages = [key for key in next(iter(shown.values())) if key.startswith("coverage")]
    least = {key: min((row[key] for row in shown.values() if row[key] is not None), default=None) for key in columns}
    rows = []
    for name, row in shown.items():
        cells = [name]
        for key in columns:
            value = row[key]
            cells.append("–" if value is None else _shown(value, least[key]) + ("*" if value == least[key] else " "))
        cells += ["–" if row[key] is None else f"{100 * row[key]:.1f}%" for key in coverages]
        rows.append(cells)
    return ["", *columns.values(), *(f"in {key.split('_')[1]}%" for key in coverages)], rows


def _shown(value: float, least: float | None) -> str:
    """Three digits at least of the least of a column, whose values share their decimals."""
    power = math.floor(math.log10(least)) if least else 0
    if not -9 < power < 9 or value >= 1e12:
        return f"{value:.3g}"
    return f"{value:.{3 if -2 <= power <= 2 else max(0, 2 - power)}f}"
