"""How far a share or a mean could be off: bootstrap intervals over what is drawn whole.

U units.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
DRAWS, MOST = 2_000, 2**22  # of a bootstrap, and units drawn at once


def accuracy_interval(right: Array, groups: Array | None, seed: int) -> tuple[float, float]:
    """95% bootstrap interval of the accuracy; whole groups are drawn where there are groups."""
    if groups is None:
        hits = np.random.default_rng(seed).binomial(len(right), np.mean(right), DRAWS)  # as drawing each one is
        low, high = np.quantile(hits / len(right), [0.025, 0.975])
        return float(low), float(high)
    codes = np.unique(groups, return_inverse=True)[1]
    return ratio_interval(np.bincount(codes, right), np.bincount(codes), seed)


def ratio_interval(sums: Array, sizes: Array, seed: int) -> tuple[float, float]:
    """95% bootstrap interval of a mean over units (U,), each with a sum and a size, that are drawn whole."""
    rng, found = np.random.default_rng(seed), list[Array]()
    for rows in np.array_split(np.arange(DRAWS), min(DRAWS, -(-DRAWS * len(sizes) // MOST))):
        drawn = rng.integers(len(sizes), size=(len(rows), len(sizes)))
        found.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)
