"""Intervals that keep their word: quantiles corrected by past errors, and paths drawn from them.

n forecasts, h steps ahead, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Array = np.ndarray
NEIGHBOURS = 3  # steps ahead on each side that lend their errors to a step
LEAST = 20  # errors below which a quantile is left as it is


def corrections(residuals: Array, levels: Sequence[float]) -> Array:
    """What to add to each quantile so that past errors would have fallen below it at its level.

    Split conformal prediction on each quantile (Romano et al. 2019), with its correction for
    finite samples. Errors of neighbouring steps ahead are pooled.

    Parameters
    ----------
    residuals : (n, h, C, Q)
        Truth minus quantile, in scaled units; NaN where the truth is missing.
    levels : Q

    Returns
    -------
    (h, C, Q)
    """
    n, h, targets, _ = residuals.shape
    found = np.zeros(residuals.shape[1:])
    for step in range(h):
        near = residuals[:, max(0, step - NEIGHBOURS) : step + NEIGHBOURS + 1]
        for c in range(targets):
            pool = near[:, :, c].reshape(-1, len(levels))
            pool = pool[np.isfinite(pool[:, 0])]
            if len(pool) < LEAST:
                continue
            for k, level in enumerate(levels):
                found[step, c, k] = np.quantile(pool[:, k], _finite_sample(level, n))
    return found


def apply(quantiles: Array, correction: Array) -> Array:
    """Corrected quantiles (..., h, C, Q), increasing."""
    return np.sort(quantiles + correction, -1)


def rolling(quantiles: Array, truth: Array, start: Array, levels: Sequence[float], window: int) -> Array:
    """Correct each forecast with the errors known when it was made, and no others.

    Parameters
    ----------
    quantiles : (n, h, C, Q) in scaled units
    truth : (n, h, C), NaN where missing
    start : (n,)
        Grid index of each forecast's first step.
    levels : Q
    window : int
        How many of the latest forecasts of each series (by their times) are looked at.

    Returns
    -------
    (n, h, C, Q)
    """
    h = truth.shape[1]
    residuals = truth[..., None] - quantiles
    corrected = quantiles.copy()
    times = np.unique(start)
    for now in times:
        past = times[times + h <= now][-window:]
        if len(past) == 0:
            continue
        pool = residuals[(start >= past[0]) & (start <= past[-1])]
        rows = start == now
        corrected[rows] = apply(quantiles[rows], corrections(pool, levels))
    return corrected


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


def _finite_sample(level: float, n: int) -> float:
    """The empirical level that holds for the next error too, when n independent ones were seen."""
    if level == 0.5 or n == 0:
        return level
    return min(1.0, np.ceil((n + 1) * level) / n) if level > 0.5 else max(0.0, np.floor((n + 1) * level - 1e-9) / n)


def _interpolate(x: Array, xs: Array, ys: Array) -> Array:
    """Linear by pieces, and on in a straight line beyond the ends."""
    x = np.asarray(x, float)
    inner = np.interp(x, xs, ys)
    low = ys[0] + (x - xs[0]) * (ys[1] - ys[0]) / max(xs[1] - xs[0], 1e-12)
    high = ys[-1] + (x - xs[-1]) * (ys[-1] - ys[-2]) / max(xs[-1] - xs[-2], 1e-12)
    return np.where(x < xs[0], low, np.where(x > xs[-1], high, inner))
