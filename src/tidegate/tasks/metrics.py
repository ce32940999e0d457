"""Scores of forecasts against what happened. Missing truths (NaN) are left out.

n forecasts, h steps ahead, C targets, Q quantiles.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def scores(forecast: Array, truth: Array, levels: Sequence[float], scale: Array) -> dict[str, float]:
    """Point scores of the median and interval scores of the quantiles.

    Parameters
    ----------
    forecast : (n, h, C, Q)
    truth : (n, h, C)
    levels : Q quantile levels
    scale : (n, C)
        In-sample mean absolute error of the seasonal naive forecast, the unit of MASE
        (Hyndman & Koehler 2006).

    Returns
    -------
    dict
        mae, rmse, pinball (in the data's units, pinball as the mean over the levels), mase (no
        unit), smape (percent), and for each interval that the levels span its coverage, a share.
    """
    point = forecast[..., list(levels).index(0.5)]
    error = point - truth
    found = {
        "mae": _mean(np.abs(error)),
        "rmse": float(np.sqrt(_mean(error**2))),
        "mase": _mean(np.abs(error) / np.where(scale > 0, scale, np.nan)[:, None]),
        "smape": _mean(200 * _divide(np.abs(error), np.abs(point) + np.abs(truth))),
        "pinball": _mean(pinball(forecast, truth, levels)),
    }
    for low, high in intervals(levels):
        inside = covered(forecast, truth, levels, low, high)
        found[f"coverage_{round(100 * (high - low))}"] = _mean(inside)
    return found


def pinball(forecast: Array, truth: Array, levels: Sequence[float]) -> Array:
    """Quantile loss (n, h, C, Q) (Koenker & Bassett 1978)."""
    error = truth[..., None] - forecast
    q = np.asarray(levels)
    return np.maximum(q * error, (q - 1) * error)


def intervals(levels: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs of levels that lie as far from 0 as from 1, the widest first."""
    return [(q, p) for q in levels for p in levels if q < 0.5 and abs(q + p - 1) < 1e-9]


def covered(forecast: Array, truth: Array, levels: Sequence[float], low: float, high: float) -> Array:
    """1 where the truth lies in the interval, 0 where not, NaN where it is missing: (n, h, C)."""
    at = list(levels)
    inside = (truth >= forecast[..., at.index(low)]) & (truth <= forecast[..., at.index(high)])
    return np.where(np.isfinite(truth), inside.astype(float), np.nan)


def bootstrap_coverage(inside: Array, when: Array, blocks: int = 20, draws: int = 2000, seed: int = 0) -> list[float]:
    """95% interval of a coverage, by a bootstrap over blocks of consecutive forecasts.

    Parameters
    ----------
    inside : (n, ...)
        1, 0 or NaN for each forecast.
    when : (n,)
        Time of each forecast; forecasts of one time stay together.
    blocks : int
        About how many blocks the time is cut into (moving blocks, Künsch 1989).
    """
    times, place = np.unique(when, return_inverse=True)
    flat = inside.reshape(len(inside), -1)
    hits = np.bincount(place, np.nansum(flat, 1), len(times))
    count = np.bincount(place, np.isfinite(flat).sum(1), len(times))
    size = max(1, len(times) // blocks)
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(times) - size + 1, (draws, -(-len(times) // size)))
    rows = (starts[..., None] + np.arange(size)).reshape(draws, -1)
    drawn = hits[rows].sum(1) / np.maximum(count[rows].sum(1), 1)
    return [float(v) for v in np.quantile(drawn, [0.025, 0.975])]


def by_horizon(forecast: Array, truth: Array, levels: Sequence[float], scale: Array) -> dict[str, list[float]]:
    """``scores`` for each step ahead alone."""
    steps = [scores(forecast[:, k : k + 1], truth[:, k : k + 1], levels, scale) for k in range(truth.shape[1])]
    return {name: [step[name] for step in steps] for name in steps[0]} if steps else {}


def finite(value: Any) -> Any:
    """Scores as JSON holds them: no NaN, no numpy."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _mean(values: Array) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing known: NaN
        return float(np.nanmean(values)) if values.size else float("nan")


def _divide(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.where(np.isfinite(a), 0.0, np.nan), where=b > 0)
