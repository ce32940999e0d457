"""Arrays made ready for the eye: units in an order that shows structure, long ones in blocks.

T steps, H hidden units, n blocks.
"""

from __future__ import annotations

import numpy as np

MOST_COLUMNS = 480  # of a heatmap: more than that no screen shows apart
_MOST_ROWS = 20_000  # that correlations are taken over
_MOST_OPTIMAL = 256  # units for which the best flip of every branch is found


def order_units(values: np.ndarray) -> np.ndarray:
    """Units so that those which move alike stand side by side, (H,).

    Leaves of the average-linkage tree over 1 - correlation, flipped so that neighbours are as alike as
    the tree allows (Bar-Joseph, Gifford & Jaakkola 2001). Units that never move come last.

    Parameters
    ----------
    values : (steps, H)
        Such as memories over time.
    """
    values = values[:: max(1, len(values) // _MOST_ROWS)].astype(np.float64)
    centred = values - values.mean(0)
    size = np.sqrt((centred**2).sum(0))
    moving = np.flatnonzero(size > 1e-9 * max(float(size.max(initial=0.0)), 1e-30))
    still = np.setdiff1d(np.arange(values.shape[1]), moving)
    if len(moving) < 3:
        return np.concatenate([moving, still])
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    unit = centred[:, moving] / size[moving]
    distance = np.clip(1.0 - unit.T @ unit, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform((distance + distance.T) / 2), "average", optimal_ordering=len(moving) <= _MOST_OPTIMAL)
    return np.concatenate([moving[leaves_list(tree)], still])


def block(steps: int, most: int = MOST_COLUMNS) -> int:
    """How many steps go into one column, so that there are at most so many."""
    return max(1, -(-steps // most))


def blocks(values: np.ndarray, size: int, how: str = "mean") -> np.ndarray:
    """(T, ...) to (n, ...): the mean or sum of each block of steps; the last block may be shorter."""
    if size == 1:
        return values
    starts = np.arange(0, len(values), size)
    total = np.add.reduceat(values, starts, axis=0)
    if how == "sum":
        return total
    count = np.diff(np.append(starts, len(values)))
    return total / count.reshape(-1, *[1] * (values.ndim - 1))


def thin(x: np.ndarray, y: np.ndarray, most: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """A line in at most about so many points: the lowest and highest of each block, in their order."""
    if len(y) <= most:
        return x, y
    size = block(len(y), most // 2)
    keep: set[int] = {0, len(y) - 1}
    for start in range(0, len(y), size):
        part = y[start : start + size]
        if np.isfinite(part).any():
            keep |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
        else:
            keep.add(start)
    at = np.array(sorted(keep))
    return x[at], y[at]
