"""Intervals that keep their word: widened by past errors only, and paths drawn from them.

n forecasts, h steps ahead, C targets, Q quantiles, K intervals (pairs of levels q and 1 - q).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tidegate.tasks.metrics import intervals

Array = np.ndarray
WINDOW = 80  # latest forecast times that an interval learns from
RATE = 0.01  # how fast an interval that held too seldom, or too often, is asked for more or less
NEIGHBOURS = 3  # steps ahead on each side that lend their errors to a step
LEAST = 20  # errors below which an interval is left as it is
MOST = 600  # forecasts that errors are taken from, evenly spread over the window


def rolling(quantiles: Array, truth: Array, start: Array, levels: Sequence[float]) -> tuple[Array, Array]:
    """Widen each forecast's intervals by the errors known when it was made, and no others.

    Conformalised quantile regression (Romano et al. 2019) over the latest forecasts, with the
    level asked for moved by how often the intervals held so far (Gibbs & Candès 2021), so that
    coverage holds when the errors drift. The median and levels without a counterpart stay.

    Parameters
    ----------
    quantiles : (n, h, C, Q) in scaled units
    truth : (n, h, C), NaN where missing
    start : (n,)
        Grid index of each forecast's first step.
    levels : Q

    Returns
    -------
    corrected : (n, h, C, Q)
    margins : (h, C, K)
        What the next forecast, made after all these, is to be widened by.
    """
    h, pairs = truth.shape[1], _pairs(levels)
    errors = _conformity(quantiles, truth, pairs)  # (n, h, C, K)
    wanted = np.array([levels[high] - levels[low] for low, high in pairs])
    extra, judged = np.zeros(len(pairs)), 0
    corrected = quantiles.copy()
    times = np.unique(start)
    rows = {time: np.flatnonzero(start == time) for time in times}

    def margins(now: int | float) -> Array:
        nonlocal extra, judged
        known = times[times + h <= now]
        for time in known[judged:]:
            held = _conformity(corrected[rows[time]], truth[rows[time]], pairs)  # positive: missed
            held = held[np.isfinite(held[..., 0])] if len(pairs) else held
            if len(held):
                extra = extra + RATE * (wanted - (held <= 0).mean(0))
        judged = len(known)
        latest = known[-WINDOW:]
        pool = np.concatenate([rows[time] for time in latest]) if len(latest) else np.zeros(0, int)
        if len(pool) > MOST:
            pool = pool[np.linspace(0, len(pool) - 1, MOST).astype(int)]
        return _margins(errors[pool], np.clip(wanted + extra, 0.0, 1.0))

    for now in times:
        corrected[rows[now]] = widen(quantiles[rows[now]], margins(now), levels)
    return corrected, margins(np.inf)


def widen(quantiles: Array, margins: Array, levels: Sequence[float]) -> Array:
    """Move the ends of each interval out by its margin: (..., h, C, Q) and (h, C, K); kept in order."""
    wide = quantiles.copy()
    for k, (low, high) in enumerate(_pairs(levels)):
        wide[..., low] -= margins[..., k]
        wide[..., high] += margins[..., k]
    middle = list(levels).index(0.5)
    centre = wide[..., [middle]]
    below = np.sort(np.minimum(wide[..., :middle], centre), -1)
    above = np.sort(np.maximum(wide[..., middle + 1 :], centre), -1)
    return np.concatenate([below, centre, above], -1)


def _pairs(levels: Sequence[float]) -> list[tuple[int, int]]:
    """Places of the lower and upper level of each interval."""
    return [(list(levels).index(low), list(levels).index(high)) for low, high in intervals(levels)]


def _conformity(quantiles: Array, truth: Array, pairs: list[tuple[int, int]]) -> Array:
    """How far outside each interval the truth fell, negative inside: (n, h, C, K)."""
    outside = [np.maximum(quantiles[..., low] - truth, truth - quantiles[..., high]) for low, high in pairs]
    return np.stack(outside, -1) if outside else np.zeros((*truth.shape, 0))


def _margins(errors: Array, wanted: Array) -> Array:
    """The quantile of past errors that each interval needs: (n, h, C, K) to (h, C, K)."""
    _, h, targets, pairs = errors.shape
    found = np.zeros((h, targets, pairs))
    for step in range(h):
        near = errors[:, max(0, step - NEIGHBOURS) : step + NEIGHBOURS + 1]
        for c in range(targets):
            pool = near[:, :, c].reshape(-1, pairs)
            pool = pool[np.isfinite(pool).all(1)]
            if len(pool) < LEAST:
                continue
            # One more error is to come, which may be the largest.
            place = np.minimum(1.0, wanted * (1 + 1 / len(pool))) * (len(pool) - 1)  # (K,)
            pool.sort(0)
            low = np.floor(place).astype(int)
            ends = pool[np.stack([low, np.minimum(low + 1, len(pool) - 1)]), np.arange(pairs)]  # (2, K)
            found[step, c] = ends[0] + (place - low) * (ends[1] - ends[0])
    return found


def normal_scores(quantiles: Array, truth: Array, levels: Sequence[float]) -> Array:
    """Where each truth fell in its forecast distribution, on the normal scale: (n, h, C)."""
    z = ndtri(np.asarray(levels))
    flat = quantiles.reshape(-1, len(levels))
    found = np.array([_interpolate(y, row, z) for y, row in zip(truth.reshape(-1), flat, strict=True)])
    return found.reshape(truth.shape)


def sample_paths(quantiles: Array, scores: Array, levels: Sequence[float], count: int, seed: int) -> Array:
    """Paths whose marginals are the quantiles and whose shape over time follows past errors.

    Each path takes one past forecast's normal scores over all steps and targets (an empirical
    copula: Clark et al. 2004, the Schaake shuffle) and reads the quantiles there; between levels
    and beyond them the distribution is normal by pieces.

    Parameters
    ----------
    quantiles : (n, h, C, Q)
    scores : (m, h, C)
        ``normal_scores`` of past forecasts, NaN where missing.
    levels : Q
    count, seed : int

    Returns
    -------
    (n, count, h, C)
    """
    rng = np.random.default_rng(seed)
    whole = scores[np.isfinite(scores).all((1, 2))]
    n, h, targets, _ = quantiles.shape
    if len(whole) < LEAST:
        drawn = np.repeat(rng.standard_normal((n, count, 1, targets)), h, 2)  # too few: errors last
    else:
        drawn = whole[rng.integers(0, len(whole), (n, count))]  # (n, count, h, C)
        # Ranks make the drawn scores standard normal at every step, so that marginals are kept.
        ranks = drawn.argsort(1).argsort(1)
        drawn = ndtri((ranks + rng.uniform(size=drawn.shape)) / count)
    z = ndtri(np.asarray(levels))
    paths = np.empty(drawn.shape)
    for row in np.ndindex(n, h, targets):
        paths[row[0], :, row[1], row[2]] = _interpolate(drawn[row[0], :, row[1], row[2]], z, quantiles[row])
    return paths


def ndtri(share: Array) -> Array:
    """The normal distribution's quantile function."""
    return torch.special.ndtri(torch.as_tensor(share, dtype=torch.float64)).numpy()


def _interpolate(x: Array, xs: Array, ys: Array) -> Array:
    """Linear by pieces, and on in a straight line beyond the ends."""
    x = np.asarray(x, float)
    inner = np.interp(x, xs, ys)
    low = ys[0] + (x - xs[0]) * (ys[1] - ys[0]) / max(xs[1] - xs[0], 1e-12)
    high = ys[-1] + (x - xs[-1]) * (ys[-1] - ys[-2]) / max(xs[-1] - xs[-2], 1e-12)
    return np.where(x < xs[0], low, np.where(x > xs[-1], high, inner))
