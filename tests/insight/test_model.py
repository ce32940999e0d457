"""A trained forecaster opened up: its numbers are the forecaster's own, and every view runs on it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from tables import hourly

import tidegate as tg
from tidegate import insight
from tidegate.data.grid import Grid
from tidegate.errors import RunError
from tidegate.insight.model import time_unit

SMALL = {"horizon": 4, "history": 12, "epochs": 1, "windows": 64, "hidden_size": 5, "time": "t"}


def table() -> pl.DataFrame:
    """Two series with gaps, a covariate known in the future, one of the past, and a category."""
    frames = []
    for k, name in enumerate("ab"):
        frame = hourly(seed=k).with_columns(s=pl.lit(name), kind=pl.lit(f"k{k}"), size=pl.lit(1.5 + k))
        frames.append(frame.with_columns(plan=pl.col("y") * 0.5 + k, felt=pl.col("y").shift(1)))
    whole = pl.concat(frames)
    return whole.with_columns(y=pl.when(pl.int_range(pl.len()) % 17 == 3).then(None).otherwise("y"))


@pytest.fixture(scope="module")
def fitted() -> tg.Forecaster:
    forecaster = tg.Forecaster(**SMALL, series="s", known=["plan"], past=["felt"], static=["kind", "size"])
    return forecaster.fit(table(), target="y")


@pytest.fixture(scope="module")
def opened(fitted) -> insight.OpenForecast:
    return insight.open_forecast(fitted, most=20)


def test_facts(opened):
    T, B, _ = opened.x.shape
    assert opened.x.shape == (16, 20, len(opened.names))
    assert (opened.time, opened.unit, opened.history) == (1.0, "hour", 12)
    assert opened.targets == ["y"]
    fixed = dict(zip(opened.names, opened.fixed.tolist(), strict=True))
    assert {n for n, f in fixed.items() if not f} == {"y", "y a season ago", "plan", "felt", "size"}
    assert fixed["kind=k0"]
    assert fixed["future"]
    assert fixed["hour_sin"]
    assert set(opened.series()) == {"a", "b"}
    assert opened.times().shape == (T, B)
    assert (np.diff(opened.times(), axis=0) == np.timedelta64(1, "h")).all()


def test_forecasts_are_the_forecasters(fitted, opened):
    expected = opened.windows.unscale(fitted.quantiles(opened.windows, opened.origins), opened.origins.series)
    np.testing.assert_allclose(opened.forecast(), expected, rtol=1e-5)
    levels = fitted.resolved_.quantiles
    for step, quantile in ((0, 0.5), (3, 0.1)):
        value = opened.score(step, 0, quantile)(opened.x).detach()
        np.testing.assert_allclose(value, expected[:, step, 0, levels.index(quantile)], rtol=1e-5)
    times = opened.times()[12:]
    by_time = {(s, t): y for s, t, y in table().select("s", pl.col("t").str.to_datetime(), "y").iter_rows()}
    for row, name in enumerate(opened.series()):
        for h in range(4):
            want = by_time[name, times[h, row].astype("datetime64[us]").item()]
            got = opened.truth()[row, h, 0]
            assert np.isnan(got) if want is None else got == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="quantile is one of"):
        opened.score(quantile=0.33)


def test_baseline(opened):
    """The training mean where a value is known; flags, calendar and unknown values as they are."""
    x, baseline = opened.x, opened.baseline
    place = {name: k for k, name in enumerate(opened.names)}
    assert torch.equal(baseline[..., opened.fixed], x[..., opened.fixed])
    y, known = x[..., place["y"]], x[..., place["y known"]] > 0
    assert not known[12:].any()  # the future
    assert torch.equal(baseline[..., place["y"]][~known], y[~known])
    assert (baseline[..., place["y"]][known] == opened.mean[place["y"]]).all()
    train = insight.open_forecast(opened.forecaster, part="train", most=10_000)
    seen = train.x[..., place["y known"]] > 0
    np.testing.assert_allclose(opened.mean[place["y"]], train.x[..., place["y"]][seen].mean(), rtol=0.2)


def test_every_view(opened):
    """Each runs on a trained model and agrees with what it says of itself."""
    some = opened.take(slice(0, 6))
    score, x, lstm = some.score(2), some.x, some.lstm
    ledger = insight.ledger(lstm, x)
    assert ledger.error < 1e-5
    shares = insight.output_ledger(lstm, x, score, unit=some.targets[0])
    np.testing.assert_allclose(shares.by_step().sum(0) + shares.rest, shares.value, rtol=1e-6)
    assert (shares.by_step()[15:] == 0).all()  # the third step ahead sees nothing of the fourth
    head = some.head
    hidden = lstm.trace(x).layers[-1].hidden[14, :, 0]
    middle = head(hidden)[:, some.model.median] - head.bias[some.model.median]
    spread = some.windows.scaling.target[some.origins.series, 0, 1]
    np.testing.assert_allclose(shares.by_step().sum(0), middle.detach().numpy() * spread, rtol=1e-4)
    gap = insight.ledger_gap(lstm, x, [3, 10], score=score, baseline=some.baseline)
    assert np.isfinite(gap.output["replaced"].gap)
    found = insight.attribute(score, x, baseline=some.baseline, fixed=some.fixed, names=some.names)
    assert np.abs(found.error).max() < 1e-3 * np.abs(found.value - found.baseline_value).max()
    assert (found.shares[..., some.fixed.numpy()] == 0).all()
    changes = insight.ablate_each(lstm, x, some.error())
    assert changes.change.shape == (4 + 5, 6)
    history = insight.history_kept(lstm, x, some.error(), [1, 12], end=some.history, time=some.time, unit=some.unit)
    np.testing.assert_allclose(history.scores[1], history.whole, rtol=1e-5)  # all of it: the reset is at the start
    assert np.abs(history.scores[0] - history.whole).max() > 0
    assert insight.memory_spans(lstm, x, time=some.time, unit=some.unit).to_frame()["half_life_hour"].len() == 5
    traced = insight.trace(lstm, run=lambda: score(x))
    torch.testing.assert_close(traced.layers[0].forget, insight.trace(lstm, x).layers[0].forget)


def test_untrained_control(opened):
    assert torch.equal(opened.untrained().x, opened.x)
    a, b = opened.untrained(1).forecast(), opened.untrained(2).forecast()
    assert np.abs(a - opened.forecast()).max() > 1e-3
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(a, opened.untrained(1).forecast())


def test_folder_and_refusals(tmp_path):
    hourly().write_csv(tmp_path / "y.csv")
    tg.Forecaster(**SMALL).fit(tmp_path / "y.csv", target="y", folder=tmp_path / "run")
    found = insight.open_forecast(tmp_path / "run")
    again = insight.open_forecast(tmp_path / "run", tmp_path / "y.csv")
    assert torch.equal(found.x, again.x)
    with pytest.raises(ValueError, match="part is one of"):
        insight.open_forecast(tmp_path / "run", part="future")
    rnn = tg.Forecaster(**SMALL, cell="rnn").fit(tmp_path / "y.csv", target="y")
    with pytest.raises(RunError, match="neither gates"):
        insight.open_forecast(rnn)


def test_time_units():
    minute = 60_000_000
    assert time_unit(Grid("fixed", 15 * minute)) == (15.0, "minute")
    assert time_unit(Grid("fixed", 60 * minute)) == (1.0, "hour")
    assert time_unit(Grid("fixed", 7 * 24 * 60 * minute)) == (7.0, "day")
    assert time_unit(Grid("fixed", 500_000)) == (0.5, "second")
    assert time_unit(Grid("months", 3)) == (3.0, "month")
    assert time_unit(Grid("steps", 10)) == (10.0, "step")
