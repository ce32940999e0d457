"""What series and covariates are scaled by, where there is little or nothing before the training part ends."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import tidegate as tg
from tidegate.data.build import make_panel
from tidegate.data.sequences import from_arrays
from tidegate.data.windows import EVER, Scaling
from tidegate.errors import DataError
from tidegate.tasks.sequence_data import SequenceScaling

STEPS, END, LATER = 100, 70, 85
OPTIONS = {"time": "t", "horizon": 4, "history": 12, "epochs": 1, "windows": 64, "hidden_size": 4, "cpu": True}


def table(**series: np.ndarray) -> pl.DataFrame:
    """A row a series and step; NaN is missing. p is twice the target."""
    parts = [
        pl.DataFrame({"s": [name] * len(y), "t": np.arange(len(y)), "y": y, "p": 2 * y}) for name, y in series.items()
    ]
    return pl.concat(parts).fill_nan(None)


def wave(level: float, spread: float, seed: int, steps: int = STEPS) -> np.ndarray:
    return level + spread * np.random.default_rng(seed).normal(size=steps)


def from_step(values: np.ndarray, first: int, before: float = np.nan) -> np.ndarray:
    return np.where(np.arange(len(values)) < first, before, values)


def scaled(frame: pl.DataFrame, *ends: int) -> dict[str, np.ndarray]:
    """Mean and spread of the target and of p, (2, 2), by series."""
    panel = make_panel(frame, target=["y"], time="t", series="s", past=["p"])
    found = Scaling.fit(panel, *ends)
    return {name: np.concatenate([found.target[k], found.past[k]]) for k, name in enumerate(found.names)}


def of(values: np.ndarray) -> np.ndarray:
    return np.array([[values.mean(), values.std()], [2 * values.mean(), 2 * values.std()]])


def test_a_series_is_scaled_by_the_first_part_that_tells_its_spread():
    a, b = wave(100, 5, 0), wave(-50, 2, 1)
    late, latest, still = wave(4_000, 300, 2), wave(700, 40, 3), wave(9_000, 50, 4)
    found = scaled(
        table(a=a, b=b, late=from_step(late, 69), latest=from_step(latest, 84), still=from_step(still, 75, 8_000.0)),
        END, LATER, EVER,
    )  # fmt: skip
    np.testing.assert_allclose(found["a"], of(a[:END]), rtol=1e-5)
    np.testing.assert_allclose(found["b"], of(b[:END]), rtol=1e-5)
    np.testing.assert_allclose(found["late"], of(late[69:LATER]), rtol=1e-5)
    np.testing.assert_allclose(found["latest"], of(latest[84:]), rtol=1e-5)
    np.testing.assert_allclose(found["still"], of(from_step(still, 75, 8_000.0)[:LATER]), rtol=1e-5)


def test_too_few_values_borrow_the_spread_of_other_series():
    few = np.where(np.arange(STEPS) < 2, wave(1e5, 1e4, 5), np.nan)
    a, b, c = wave(100, 5, 0), wave(-50, 2, 1), wave(0, 50, 2)
    found = scaled(table(a=a, few=few, b=b, c=c), END, EVER)
    expected = [[few[:2].mean(), a[:END].std()], [2 * few[:2].mean(), 2 * a[:END].std()]]
    np.testing.assert_allclose(found["few"], expected, rtol=1e-5)


def test_an_unseen_series_that_has_just_begun_is_scaled_by_what_follows():
    panel = make_panel(table(a=wave(100, 5, 0)), target=["y"], time="t", series="s", past=["p"])
    new = wave(5_000, 200, 1)
    both = table(a=wave(100, 5, 0), new=from_step(new, LATER - 1))
    wider = Scaling.fit(panel, END).for_panel(make_panel(both, target=["y"], time="t", series="s", past=["p"]), LATER)
    np.testing.assert_allclose(wider.target[1, 0], of(new[LATER - 1 :])[0], rtol=1e-5)
    np.testing.assert_allclose(wider.past[1, 0], of(new[LATER - 1 :])[1], rtol=1e-5)


def test_a_late_series_is_named_and_does_not_touch_the_intervals_of_others():
    own = {f"n{k}": wave(100 * k, 5, k) for k in range(5)}
    alone = tg.Forecaster(**OPTIONS, series="s").fit(table(**own), target="y")
    late = from_step(wave(40_000, 3_000, 9), 69)
    beside = tg.Forecaster(**OPTIONS, series="s").fit(table(**own, late=late), target="y")
    note = "1 series began or changed too late to be learnt from; each is scaled by itself: late"
    assert note in beside.notes_
    assert not any("too late" in one for one in alone.notes_)

    def width(model: tg.Forecaster) -> float:
        found = model.predict(table(**own))
        return float((found["y_q0.95"] - found["y_q0.05"]).mean())

    assert width(beside) < 1.5 * width(alone)


@pytest.mark.parametrize("role", ["known", "past"])
def test_a_covariate_that_training_had_no_value_of_is_masked(role):
    y = wave(100, 5, 0)
    late = pl.when(pl.col("t") >= END).then("p")
    model = tg.Forecaster(**OPTIONS, **{role: "p"}).fit(table(a=y).with_columns(p=late), target="y")
    assert "p: no value in the part that trains, and so masked" in model.notes_
    expected = model.predict(table(a=y).with_columns(p=late))
    assert model.predict(table(a=y).with_columns(p=pl.lit(None, pl.Float64))).equals(expected)
    assert model.predict(table(a=y).with_columns(p=pl.lit(1e3))).equals(expected)


def test_a_static_column_without_a_value_is_refused():
    data = table(a=wave(100, 5, 0)).with_columns(q=pl.lit(None, pl.Float64))
    with pytest.raises(DataError, match="--static q: the column holds no value at all"):
        tg.Forecaster(**OPTIONS, static="q").fit(data, target="y")


def test_a_feature_that_training_had_no_value_of_is_masked():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, np.nan]], np.float32)
    scaling = SequenceScaling.fit(from_arrays([values[:2], values[2:]]))
    assert scaling.notes(["v", "w"]) == ["w: no value in what trains, and so masked"]
    given = np.array([[3.0, 7.0], [np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(scaling.apply(given), [[0, 0, 0], [0, 0, 0]])  # v, w, and the flag of w


def test_a_few_absurd_values_do_not_spoil_a_feature():
    values = np.random.default_rng(0).normal(3, 2, (5_000, 1)).astype(np.float32)
    plain = SequenceScaling.fit(from_arrays([values]))
    values[::2_500] = 1e9
    spoilt = SequenceScaling.fit(from_arrays([values]))
    np.testing.assert_allclose([*spoilt.mean, *spoilt.spread], [*plain.mean, *plain.spread], rtol=1e-2)


@pytest.mark.parametrize("task", [tg.Classifier, tg.Tagger])
def test_a_masked_feature_is_noted_and_tells_nothing(task):
    tags = [["up"] * 3, ["down"] * 3] * 10
    y = tags if task is tg.Tagger else [tag[0] for tag in tags]
    rows = [np.stack([np.arange(3) * (-1.0) ** n, np.zeros(3)], 1).astype(np.float32) for n in range(20)]
    options = {"hidden_size": 4, "epochs": 1, "validation": 0.3, "cpu": True}
    stops = int(task(**options).fit(rows, y).kept_["valid"][0])
    for n, row in enumerate(rows):
        row[:, 1] = 5.0 if n == stops else np.nan
    model = task(**options).fit(rows, y)
    assert "1: no value in what trains, and so masked" in model.notes_
    known = [np.where([False, True], np.float32(100), row) for row in rows]
    for a, b in zip(model.predict_proba(rows), model.predict_proba(known), strict=True):
        np.testing.assert_array_equal(a, b)
