"""What a forecaster is measured against, by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge
from tables import hourly

from tidegate.data.build import make_panel
from tidegate.data.windows import Origins, Scaling, Windows
from tidegate.tasks.baselines import PENALTIES, _lines_with_gaps, fit_baselines

LEVELS = [0.1, 0.5, 0.9]
HORIZON, SEASON = 30, 24  # farther than one season


def windows_of(table: pl.DataFrame, horizon: int = HORIZON, known: tuple[str, ...] = ()) -> Windows:
    panel = make_panel(table, target=["y"], time="t", known=known)
    return Windows(panel, Scaling.fit(panel, 10**9), 48, horizon, SEASON, [])


def fitted(windows: Windows):
    """Baselines trained on the first 400 steps, and their forecasts in the data's units."""
    low = windows.start
    train, valid = windows.origins(low, low + 300), windows.origins(low + 300, low + 400)
    made = fit_baselines(windows, train, valid, LEVELS, 0)
    return {name: lambda o, p=p: windows.unscale(p(o), o.series)[:, :, 0] for name, p in made.items()}, train


def at(*steps: int) -> Origins:
    return Origins(np.zeros(len(steps), np.int64), np.array(steps))


def test_naive_and_seasonal_naive_by_hand():
    table = hourly(500)
    y = table["y"].to_numpy()
    found, train = fitted(windows_of(table))
    naive = found["naive"](at(410, 450))
    np.testing.assert_allclose(naive[..., 1], [[y[409]] * HORIZON, [y[449]] * HORIZON], rtol=1e-5)
    seasonal = found["seasonal naive"](at(410))[0]
    day = y[410 - 24 : 410]
    np.testing.assert_allclose(seasonal[:, 1], np.concatenate([day, day[:6]]), rtol=1e-5)  # the last whole day, again

    # Their quantiles are those of the errors in training, by step ahead, around the same point.
    for name, point in (("naive", lambda s: np.full(HORIZON, y[s - 1])), ("seasonal naive", None)):
        if point is None:
            point = lambda s: np.resize(y[s - 24 : s], HORIZON)  # noqa: E731
        errors = np.stack([y[s : s + HORIZON] - point(s) for s in train.step])
        spread = np.quantile(errors, LEVELS, axis=0).T
        expected = point(410)[:, None] + spread - spread[:, [1]]
        np.testing.assert_allclose(found[name](at(410))[0], expected, rtol=1e-4)


def test_missing_values_are_passed_over():
    table = hourly(500).with_columns(y=pl.when(~pl.int_range(500).is_in([408, 409, 395])).then("y"))
    y = table["y"].to_numpy()
    found, _ = fitted(windows_of(table))
    np.testing.assert_allclose(found["naive"](at(410))[0, :, 1], y[407], rtol=1e-5)  # the last one known
    seasonal = found["seasonal naive"](at(410))[0, :, 1]
    assert seasonal[9] == pytest.approx(y[407], rel=1e-5)  # a day before step 419 is 395, which is missing
    assert seasonal[8] == pytest.approx(y[394], rel=1e-5)


def test_ridge_finds_a_linear_rule():
    """y is twice the covariate of its hour: least squares on the window must see it."""
    rng = np.random.default_rng(0)
    k = rng.normal(size=500)
    table = hourly(500).with_columns(k=pl.Series(k), y=pl.Series(7 + 2 * k))
    found, _ = fitted(windows_of(table, 3, ("k",)))
    origins = at(*range(410, 480))
    ridge, naive = found["ridge"](origins), found["naive"](origins)
    truth = np.stack([7 + 2 * k[s : s + 3] for s in origins.step])
    assert np.abs(ridge[..., 1] - truth).mean() < 0.35 * np.abs(naive[..., 1] - truth).mean()
    assert (np.diff(ridge, axis=-1) >= 0).all()


def test_ridge_learns_nothing_from_missing_targets():
    """Half of the values are missing: the known ones of the future must not be mixed with "no change"."""
    rng = np.random.default_rng(0)
    whole = hourly(1_200).with_columns(y=pl.Series(10 * np.sin(2 * np.pi * np.arange(1_200) / 24)))
    windows = windows_of(whole.with_columns(y=pl.when(pl.Series(rng.random(1_200) < 0.5)).then("y")), 12)
    low = windows.start
    train, valid = windows.origins(low, low + 900), windows.origins(low + 900, low + 1_100)
    ridge = fit_baselines(windows, train, valid, LEVELS, 0)["ridge"]
    origins = at(*range(1_110, 1_180))
    found = windows.unscale(ridge(origins), origins.series)[..., 0, 1]
    assert np.abs(found - windows_of(whole, 12).truth(origins)[..., 0]).mean() < 2


def test_regressions_with_gaps_are_those_of_the_rows_without():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    x -= x.mean(0)
    y = x @ rng.normal(size=(20, 5)) + rng.normal(size=(300, 5))
    y[rng.random(300) < 0.3, 0] = y[rng.random(300) < 0.8, 1] = y[:, 2] = np.nan
    for line, alpha in zip(_lines_with_gaps(x, y), PENALTIES, strict=True):
        found = line(x)
        for column in (0, 1, 3, 4):
            seen = np.isfinite(y[:, column])
            expected = Ridge(alpha=alpha).fit(x[seen], y[seen, column]).predict(x)
            np.testing.assert_allclose(found[:, column], expected, atol=1e-9)
        np.testing.assert_array_equal(found[:, 2], 0)


def test_ridge_sees_what_first_happens_late_in_the_table():
    """A flag that is 0 in the first windows is no repetition of another that is 0 there."""
    rng = np.random.default_rng(0)
    tables = []
    for name in ("a", "b"):
        flags = {key: np.where(np.arange(500) < 260, 0.0, rng.random(500) < 0.2) for key in ("k", "m")}
        y = 3 * flags["k"] - 2 * flags["m"] + 0.1 * rng.normal(size=500)
        tables.append(
            hourly(500).with_columns(s=pl.lit(name), y=pl.Series(y), **{k: pl.Series(v) for k, v in flags.items()})
        )
    panel = make_panel(pl.concat(tables), target=["y"], time="t", series="s", known=("k", "m"))
    windows = Windows(panel, Scaling.fit(panel, 10**9), 48, 3, SEASON, [])
    low = windows.start
    made = fit_baselines(windows, windows.origins(low, low + 400), windows.origins(low + 400, low + 450), LEVELS, 0)
    origins = windows.origins(low + 450, low + 500)
    truth = windows.scaled_truth(origins)
    errors = {name: np.nanmean(np.abs(made[name](origins)[..., 1] - truth)) for name in ("ridge", "naive")}
    assert errors["ridge"] < 0.25 * errors["naive"]
