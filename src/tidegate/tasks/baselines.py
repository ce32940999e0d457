"""What a forecaster is measured against: naive, seasonal naive and ridge regression.

Each gives quantiles from its errors on the training part, by step ahead. All in scaled units.

n forecasts, h steps ahead, C targets, Q quantiles, T = history + h steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from tidegate.data.windows import Origins, Windows

Array = np.ndarray
Predict = Callable[[Origins], Array]  # points (n, h, C)
MAX_ROWS = 20_000  # training windows of the regression, and of the errors' quantiles
MAX_CELLS = 60_000_000  # values in the regression's design matrix
PENALTIES = (10.0, 100.0, 1_000.0, 10_000.0)


def fit_baselines(
    windows: Windows, train: Origins, valid: Origins, levels: Sequence[float], seed: int
) -> dict[str, Callable[[Origins], Array]]:
    """Each baseline by name: a function from origins to quantiles (n, h, C, Q)."""
    train = train.sample(MAX_ROWS, seed)
    points: dict[str, Predict] = {
        "naive": lambda origins: _naive(windows, origins),
        "seasonal naive": lambda origins: _seasonal(windows, origins),
        "ridge": _ridge(windows, train, valid, seed),
    }
    return {name: _with_quantiles(windows, point, train, levels) for name, point in points.items()}


def _with_quantiles(
    windows: Windows, point: Predict, train: Origins, levels: Sequence[float]
) -> Callable[[Origins], Array]:
    errors = windows.scaled_truth(train) - point(train)  # (n, h, C)
    spread = np.moveaxis(np.nan_to_num(np.nanquantile(errors, levels, axis=0)), 0, -1)  # (h, C, Q)
    spread -= spread[..., [list(levels).index(0.5)]]  # the point stays the median
    return lambda origins: point(origins)[..., None] + spread


def _naive(windows: Windows, origins: Origins) -> Array:
    """The last value observed, for all steps."""
    last = np.concatenate([windows.batch(part).last.numpy() for part in origins.parts()])
    return np.repeat(last[:, None], windows.horizon, 1)


def _seasonal(windows: Windows, origins: Origins) -> Array:
    """The value a season before; the last value observed where that is missing."""
    c, h = len(windows.panel.target_names), windows.horizon
    found = []
    for part in origins.parts():
        batch = windows.batch(part)
        ahead = batch.inputs[-h:].transpose(0, 1).numpy()  # (n, h, I)
        lag = ahead[..., 2 * c : 3 * c]
        found.append(lag + batch.last.numpy()[:, None])  # 0 off the last value where it is missing
    return np.concatenate(found)


def _ridge(windows: Windows, train: Origins, valid: Origins, seed: int) -> Predict:
    """Linear regression of all steps ahead on the whole window, penalty chosen on the validation part."""
    columns = len(windows.names) * (windows.history + windows.horizon)
    train = train.sample(max(200, MAX_CELLS // columns), seed)
    keep: Array | None = None

    def design(origins: Origins) -> tuple[Array, Array]:
        """What the network sees, the levels that it is relative to included, and the last value."""
        rows, lasts = [], []
        for part in origins.parts():
            batch = windows.batch(part)
            x = torch.cat([batch.inputs.transpose(0, 1).flatten(1), batch.last, batch.level], 1)  # (n, T * I + C + P)
            rows.append(x.numpy() if keep is None else x.numpy()[:, keep])
            lasts.append(batch.last.numpy())
        return np.concatenate(rows), np.concatenate(lasts)[:, None]

    x, last = design(train)
    keep = np.flatnonzero(x.std(0, dtype=np.float64) > 1e-6)
    keep = keep[_distinct(x[:, keep])]
    scaler = StandardScaler()
    x = scaler.fit_transform(x[:, keep])
    y = (windows.scaled_truth(train) - last).reshape(len(train), -1)
    checked = valid.sample(2_000, seed)
    x_valid, last = design(checked)
    y_valid = (windows.scaled_truth(checked) - last).reshape(len(checked), -1)
    models = _lines_with_gaps(x, y) if np.isnan(y).any() else _lines(x, y)
    losses = [np.nanmean(np.abs(line(scaler.transform(x_valid)) - y_valid)) for line in models]
    best = models[int(np.nanargmin(losses))]

    def predict(origins: Origins) -> Array:
        x, last = design(origins)
        return best(scaler.transform(x)).reshape(len(x), windows.horizon, -1) + last

    return predict


def _lines(x: Array, y: Array) -> list[Callable[[Array], Array]]:
    """Ridge regressions of y (n, O) on x (n, I), one a penalty."""
    return [Ridge(alpha=alpha, solver="cholesky").fit(x, y).predict for alpha in PENALTIES]


def _lines_with_gaps(x: Array, y: Array) -> list[Callable[[Array], Array]]:
    """The same, each column of y on the rows where it is known; the penalties share the products of x."""
    weights = np.zeros((len(PENALTIES), x.shape[1], y.shape[1]), x.dtype)
    offsets = np.zeros((len(PENALTIES), 1, y.shape[1]), x.dtype)
    masks, group = np.unique(np.isfinite(y), axis=1, return_inverse=True)  # (n, G), (O,)
    whole = x.T @ x
    for g, seen in enumerate(masks.T):
        count = int(seen.sum())
        if count == 0:
            continue  # nothing says that it is not the last value
        columns = np.flatnonzero(group == g)
        mean_x = (seen.astype(x.dtype) @ x) / count
        mean_y = y[seen][:, columns].mean(0)
        fewer = x[~seen] if 2 * count > len(x) else x[seen]  # the product of the others is the rest of the whole
        product = whole - fewer.T @ fewer if 2 * count > len(x) else fewer.T @ fewer
        product -= count * np.outer(mean_x, mean_x)
        off = np.where(seen[:, None], y[:, columns] - mean_y, 0).astype(x.dtype)
        right = x.T @ off
        for k, alpha in enumerate(PENALTIES):
            weights[k][:, columns] = cho_solve(cho_factor(product + alpha * np.eye(len(product), dtype=x.dtype)), right)
            offsets[k][:, columns] = mean_y - mean_x @ weights[k][:, columns]
    return [lambda x, w=w, b=b: x @ w + b for w, b in zip(weights, offsets, strict=True)]  # type: ignore[misc]


def _distinct(x: Array) -> Array:
    """Indices of columns that repeat no earlier one (a lag is also a step of the history)."""
    few = x[np.unique(np.linspace(0, len(x) - 1, 200).astype(int))]
    _, first, which = np.unique(few, axis=1, return_index=True, return_inverse=True)
    earlier = first[which]  # for each column the first one that is like it in these rows
    return np.array([k for k, e in enumerate(earlier) if e == k or not np.array_equal(x[:, e], x[:, k])])
