"""The forecaster in Python: what goes in matters, what lies ahead does not, and what comes out is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from sklearn.base import clone

import tidegate as tg
from tidegate.data.calendar import calendar_features
from tidegate.data.windows import Origins
from tidegate.errors import ConfigError, DataError, RunError
from tidegate.tasks.estimator import NotFitted
from tidegate.training.checkpoint import load_tensors, save_tensors

STEPS, HORIZON = 500, 6
OPTIONS = {
    "time": "t", "horizon": HORIZON, "history": 24, "epochs": 6, "windows": 512, "batch_size": 32, "hidden_size": 16,
    "learning_rate": 0.02, "dropout": 0.0, "input_dropout": 0.0, "average": 0.5, "cpu": True,
}  # fmt: skip
LEVELS = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]


def series(name: str, level: float, sign: float, seed: int) -> pl.DataFrame:
    """What y is follows from k in the same hour, but for a little noise; p is another measurement."""
    rng = np.random.default_rng(seed)
    hour = np.arange(STEPS)
    k = rng.normal(size=STEPS)
    start = pl.datetime(2021, 3, 1)
    return pl.DataFrame(
        {
            "t": pl.datetime_range(start, start + pl.duration(hours=STEPS - 1), "1h", eager=True),
            "s": [name] * STEPS,
            "y": level + 2 * np.sin(2 * np.pi * hour / 24) + 3 * sign * k + 0.05 * rng.normal(size=STEPS),
            "k": k,
            "p": rng.normal(size=STEPS),
            "kind": ["plus" if sign > 0 else "minus"] * STEPS,
        }
    )


TABLE = pl.concat([series("a", 100.0, 1.0, 1), series("b", -50.0, -1.0, 2)])


def without_last(table: pl.DataFrame, steps: int = HORIZON) -> pl.DataFrame:
    """The targets and past covariates of the last steps taken away; the known ones stay."""
    last = pl.col("t") > table["t"].max() - pl.duration(hours=steps)
    return table.with_columns(pl.when(~last).then(pl.col(c)).name.keep() for c in ("y", "p"))


@pytest.fixture(scope="module")
def model() -> tg.Forecaster:
    """Trained on both series with covariates of every kind, for long enough that the seed does not matter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    longer = {**OPTIONS, "epochs": 20, "hidden_size": 24}
    made = tg.Forecaster(**longer, series="s", known="k", past="p", static="kind").fit(TABLE, target="y")
    torch.set_num_threads(threads)
    return made


def quantiles(model: tg.Forecaster, table: pl.DataFrame, step: int) -> np.ndarray:
    """Uncorrected quantiles (h, 1, Q) of the first series' forecast from one origin."""
    return model.quantiles(model.windows_for(table), Origins(np.array([0]), np.array([step])))[0]


# --- in and out ----------------------------------------------------------------------------------------------


def test_forecast_follows_the_known_future(model):
    """Without the covariate of the hour forecast itself, the error would be 3 times E|N(0, 1)|, or 2.4."""
    ahead = without_last(TABLE)
    found = model.predict(ahead)
    truth = TABLE.filter(pl.col("t") > TABLE["t"].max() - pl.duration(hours=HORIZON))
    assert found.columns == ["s", "t", "y", *(f"y_q{q:g}" for q in LEVELS)]
    joined = found.join(truth, on=["s", "t"], suffix="_true")
    assert joined.height == 2 * HORIZON
    assert (joined["y"] - joined["y_true"]).abs().mean() < 0.6

    last = pl.col("t") == TABLE["t"].max()
    more = model.predict(ahead.with_columns(k=pl.when(last).then(pl.col("k") + 1).otherwise(pl.col("k"))))
    change = (more["y"] - found["y"]).to_numpy().reshape(2, HORIZON)
    np.testing.assert_array_equal(change[:, :-1], 0)  # one LSTM forwards in time: an earlier hour cannot know
    np.testing.assert_allclose(change[:, -1], [3, -3], atol=0.8)


def test_pandas_in_pandas_out(model):
    expected = model.predict(TABLE)
    found = model.predict(TABLE.to_pandas())
    assert isinstance(found, pd.DataFrame)
    assert str(found["t"].dtype).startswith("datetime64")
    assert_frame_equal(pl.from_pandas(found), expected, check_dtypes=False)
    indexed = model.predict(TABLE.to_pandas().set_index(["s", "t"]))
    pd.testing.assert_frame_equal(indexed, found)


def test_a_file_and_a_lazy_frame(model, tmp_path):
    TABLE.write_parquet(tmp_path / "a.parquet")
    expected = model.predict(TABLE)
    assert_frame_equal(model.predict(tmp_path / "a.parquet"), expected)
    assert_frame_equal(model.predict(str(tmp_path / "a.parquet")), expected)
    assert_frame_equal(model.predict(TABLE.lazy()), expected)


def test_quantiles_do_not_cross(model):
    found = model.predict(TABLE).select(f"y_q{q:g}" for q in LEVELS).to_numpy()
    assert (np.diff(found, axis=1) >= 0).all()
    windows = model.windows_for(TABLE)
    raw = model.quantiles(windows, windows.origins(windows.start, windows.end, 7))
    assert len(raw) > 100
    assert (np.diff(raw, axis=-1) > 0).all()


def test_paths_have_the_marginals_of_the_quantiles(model):
    wanted = model.predict(TABLE).select(f"y_q{q:g}" for q in LEVELS).to_numpy().reshape(2, HORIZON, -1)
    paths = model.predict(TABLE, samples=2_000, seed=3)
    assert paths.columns == ["s", "t", "path", "y"]
    assert paths.height == 2 * HORIZON * 2_000
    spread = wanted[..., -1:] - wanted[..., :1]
    for row, name in enumerate(["a", "b"]):
        drawn = paths.filter(s=name).sort("path", "t")["y"].to_numpy().reshape(2_000, HORIZON)
        found = np.quantile(drawn, LEVELS, axis=0).T  # (h, Q)
        np.testing.assert_allclose((found - wanted[row]) / spread[row], 0, atol=0.03)
    assert_frame_equal(model.predict(TABLE, samples=5, seed=3), model.predict(TABLE, samples=5, seed=3))
    other = model.predict(TABLE, samples=5, seed=4)
    assert not other["y"].equals(model.predict(TABLE, samples=5, seed=3)["y"])
    with pytest.raises(ConfigError, match="seed is a number of at least 0; given -1"):
        model.predict(TABLE, samples=5, seed=-1)


def test_several_targets():
    table = TABLE.filter(s="a").with_columns(z=-10 * pl.col("y"))
    made = tg.Forecaster(**OPTIONS | {"epochs": 10}, known=["k"]).fit(table, target=["y", "z"])
    found = made.predict(without_last(table).with_columns(z=-10 * pl.col("y")))
    truth = table.tail(HORIZON)
    assert (found["y"] - truth["y"]).abs().mean() < 1.2
    assert (found["z"] - truth["z"]).abs().mean() < 12
    scores = made.evaluate()["models"]["LSTM"]
    assert scores["by_target"]["z"]["mae"] == pytest.approx(10 * scores["by_target"]["y"]["mae"], rel=0.5)


def test_static_text(model):
    assert model.windows_.names[-3:] == ["kind=minus", "kind=plus", "future"]
    swapped = TABLE.with_columns(kind=pl.lit("plus"))
    before, after = model.predict(TABLE), model.predict(swapped)
    assert before.filter(s="a").equals(after.filter(s="a"))
    assert not np.allclose(before.filter(s="b")["y"], after.filter(s="b")["y"], atol=1e-3)
    model.predict(TABLE.with_columns(kind=pl.lit("neither")))
    assert "kind: 'neither' did not occur in training and tells nothing" in model.predict_notes_


def test_categories_of_text_that_look_like_numbers(tmp_path):
    """In a file of its own "01" would be read as 1, which training did not have."""
    coded = TABLE.with_columns(kind=pl.col("kind").replace({"plus": "01", "minus": "02"}))
    made = tg.Forecaster(**OPTIONS | {"epochs": 1, "windows": 64}, series="s", static="kind").fit(coded, target="y")
    coded.write_csv(tmp_path / "coded.csv")
    assert_frame_equal(made.predict(tmp_path / "coded.csv"), made.predict(coded))
    assert not any("did not occur" in note for note in made.predict_notes_)


@pytest.mark.parametrize(
    ("names", "options", "twice"),
    [
        ({"s": "step"}, {"time": None, "series": "step", "target": "y"}, "step"),
        ({"y": "step"}, {"time": None, "target": "step"}, "step"),
        ({"k": "y_q0.1"}, {"target": ["y", "y_q0.1"]}, "y_q0.1"),
        ({}, {"target": "y", "quantiles": [0.1, 0.1000000001, 0.5, 0.9]}, "y_q0.1"),
    ],
)
def test_columns_of_forecasts_that_would_be_there_twice(names, options, twice):
    table = (TABLE if "s" in names else TABLE.filter(s="a")).rename(names)
    with pytest.raises(ConfigError, match=f"predictions would have two columns named '{twice}'; rename that of the"):
        tg.Forecaster(**OPTIONS | {"epochs": 1} | options).fit(table)


def test_a_target_named_as_the_column_of_paths():
    table = TABLE.filter(s="a").select("t", path="y")
    made = tg.Forecaster(**OPTIONS | {"epochs": 1, "windows": 64}).fit(table, target="path")
    assert made.predict(table).columns[:2] == ["t", "path"]
    with pytest.raises(ConfigError, match="predictions would have two columns named 'path'"):
        made.predict(table, samples=2)


def test_an_unseen_series_is_scaled_by_itself(model):
    new = TABLE.filter(s="a").with_columns(s=pl.lit("c"), y=10 * pl.col("y") + 5_000)
    found = model.predict(pl.concat([TABLE, new]))
    assert "1 series did not occur in training; each is scaled by itself: c" in model.predict_notes_
    known = found.filter(s="a")["y"]
    np.testing.assert_allclose(found.filter(s="c")["y"], 10 * known + 5_000, atol=3)
    assert_frame_equal(found.filter(pl.col("s") != "c"), model.predict(TABLE))


def test_a_series_without_any_target_is_skipped_by_name(model):
    empty = TABLE.filter(s="a").with_columns(s=pl.lit("c"), y=pl.lit(None, pl.Float64))
    found = model.predict(pl.concat([empty, TABLE]))
    assert "1 series have no known target and are skipped: c" in model.predict_notes_
    assert_frame_equal(found, model.predict(TABLE))


# --- the calendar --------------------------------------------------------------------------------------------


def test_calendar_features(model):
    assert model.calendar_ == ["hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "weekend"]  # not yet two years
    windows = model.windows_for(TABLE)
    batch = windows.batch(Origins(np.array([0]), np.array([100])))
    at = [windows.names.index(name) for name in model.calendar_]
    expected = calendar_features(windows.panel.grid, int(windows.panel.first[0]) + np.arange(100 - 24, 100 + HORIZON))
    np.testing.assert_allclose(batch.inputs[:, 0, at], expected[:, :5], atol=1e-6)
    noon = batch.inputs[24 + 8, 0] if HORIZON > 8 else batch.inputs[24 - 4 - 12, 0]  # 100 hours on is 4 o'clock
    assert noon[windows.names.index("hour_cos")] == pytest.approx(-1)


def test_the_hour_of_the_day_matters_unless_it_is_left_out():
    table = TABLE.filter(s="a").select("t", "y")
    later = table.with_columns(t=pl.col("t") + pl.duration(hours=7))
    for calendar in (True, False):
        made = tg.Forecaster(**OPTIONS | {"epochs": 1}, calendar=calendar).fit(table, target="y")
        assert (made.calendar_ != []) == calendar
        assert made.predict(table)["y"].equals(made.predict(later)["y"]) != calendar


# --- no look-ahead -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [100, 333])
def test_what_comes_after_an_origin_does_not_change_its_forecast(model, step):
    expected = quantiles(model, TABLE, step)
    row = pl.int_range(pl.len()).over("s")
    later = TABLE.with_columns(pl.when(row >= step).then(1e3 - 2 * pl.col(c)).otherwise(c).alias(c) for c in "yp")
    np.testing.assert_array_equal(quantiles(model, later, step), expected)
    far = TABLE.with_columns(k=pl.when(row >= step + HORIZON).then(7.0).otherwise("k"))
    np.testing.assert_array_equal(quantiles(model, far, step), expected)
    for column in "yp":
        before = TABLE.with_columns(pl.when(row == step - 1).then(pl.col(column) + 1).otherwise(column).alias(column))
        assert not np.array_equal(quantiles(model, before, step), expected), column


def test_a_missing_value_is_not_a_zero(model):
    row = pl.int_range(pl.len()).over("s")
    found = []
    for value in (None, 0.0, 100.0):
        changed = TABLE.with_columns(y=pl.when(row == 98).then(pl.lit(value)).otherwise("y"))
        found.append(quantiles(model, changed, 100))
    assert not np.allclose(found[0], found[1], atol=1e-3)
    assert not np.allclose(found[0], found[2], atol=1e-5)


def test_the_loss_leaves_missing_targets_out(model):
    from tidegate.tasks.forecast_job import ForecastJob

    windows = model.windows_for(TABLE.with_columns(y=pl.when(pl.int_range(pl.len()) % 3 != 0).then("y")))
    origins = windows.origins(windows.start, windows.end, 50)
    job = ForecastJob(model.model_, windows, origins, origins, model.config)
    rows, device = torch.arange(len(origins)), torch.device("cpu")
    batch = windows.batch(origins)
    model.model_.eval()
    with torch.no_grad():
        loss, weight = job.loss(model.model_, rows, device)
        ahead = model.model_(batch)  # (B, h, C, Q)
    seen = batch.observed.bool()
    assert weight == seen.sum() == pytest.approx(2 / 3 * seen.numel(), rel=0.1)
    error = batch.target[..., None] - ahead
    levels = torch.tensor(LEVELS)
    by_hand = torch.where(error > 0, levels * error, (levels - 1) * error).mean(-1)[seen].mean()
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-5)


def test_the_test_part_changes_neither_weights_nor_scaling():
    table = TABLE.filter(s="a")
    small = OPTIONS | {"epochs": 2, "windows": 128}
    made = tg.Forecaster(**small, known="k", past="p").fit(table, target="y")
    row = pl.int_range(pl.len())
    cut = made.parts_.test_start - made.windows_.start
    assert 0.8 * STEPS < cut < 0.9 * STEPS

    def weights(first: int) -> list[torch.Tensor]:
        changed = table.with_columns(pl.when(row >= first).then(500 + pl.col(c)).otherwise(c).alias(c) for c in "ykp")
        other = tg.Forecaster(**small, known="k", past="p").fit(changed, target="y")
        return [*other.model_.state_dict().values(), *other.scaling_.tensors().values()]

    kept = [*made.model_.state_dict().values(), *made.scaling_.tensors().values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, weights(cut), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(kept, weights(cut // 2), strict=True))


def test_the_backtest_uses_no_later_truth(model):
    expected = model.backtest(TABLE)
    row = pl.int_range(pl.len()).over("s")
    cut = STEPS - 20
    changed = model.backtest(TABLE.with_columns(y=pl.when(row >= cut).then(9.0).otherwise("y")))
    assert expected.quantiles.keys() >= {"LSTM", "naive", "seasonal naive", "ridge"}
    before = expected.origins.step <= cut
    assert 0 < before.sum() < len(before)
    for name, found in expected.quantiles.items():
        np.testing.assert_array_equal(changed.quantiles[name][before], found[before], err_msg=name)
    assert not np.array_equal(changed.quantiles["LSTM"], expected.quantiles["LSTM"])


# --- scores --------------------------------------------------------------------------------------------------


def test_evaluate_scores_the_untouched_last_part(model):
    found = model.evaluate(TABLE)
    test = model.backtest(TABLE)
    assert (test.start >= model.parts_.test_start).all()
    assert found["test"]["forecasts"] == len(test.origins) == found["test"]["series"] * (len(test.origins) // 2)
    values = {name: TABLE.filter(s=name)["y"].to_numpy() for name in "ab"}
    truth, naive, seasonal = [], [], []
    for s, step in zip(test.origins.series, test.origins.step, strict=True):
        y = values["ab"[s]]
        truth.append(y[step : step + HORIZON])
        naive.append(np.full(HORIZON, y[step - 1]))
        seasonal.append(y[step - 24 : step - 24 + HORIZON])
    np.testing.assert_allclose(test.truth[..., 0], truth, rtol=1e-6)
    for name, by_hand in (("naive", naive), ("seasonal naive", seasonal)):
        error = np.abs(np.array(by_hand) - truth)
        assert found["models"][name]["overall"]["mae"] == pytest.approx(error.mean(), rel=1e-4)
        np.testing.assert_allclose(found["models"][name]["by_horizon"]["mae"], error.mean(0), rtol=1e-4)
    lstm = np.abs(test.quantiles["LSTM"][..., 3] - test.truth).mean()
    assert found["models"]["LSTM"]["overall"]["mae"] == pytest.approx(lstm)
    assert lstm < 0.3 * found["models"]["naive"]["overall"]["mae"]
    assert 0.6 < found["models"]["LSTM"]["overall"]["coverage_80"] <= 1


def test_compare_with_the_vanilla_rnn():
    table = TABLE.filter(s="a").head(300)
    made = tg.Forecaster(**OPTIONS | {"epochs": 1, "windows": 64}).fit(table, target="y")
    found = made.evaluate(compare=["rnn"])["models"]
    assert found["RNN"]["overall"]["mae"] != found["LSTM"]["overall"]["mae"]
    with pytest.raises(ConfigError, match="knows 'rnn', 'lstm'; given 'gru'"):
        made.evaluate(compare=["gru"])


# --- an estimator as scikit-learn has them -------------------------------------------------------------------


def test_parameters():
    made = tg.Forecaster(horizon=6, target="y", quantiles=[0.1, 0.5, 0.9])
    params = made.get_params()
    assert params["horizon"] == 6
    assert params["epochs"] == 30
    other = clone(made)
    assert other is not made
    assert other.get_params() == params
    assert other.config == made.config
    other.set_params(horizon=7)
    assert (made.config.horizon, other.config.horizon) == (6, 7)
    assert clone(other).config.horizon == 7
    with pytest.raises(ConfigError, match="unknown option 'horizn'; did you mean 'horizon'"):
        other.set_params(horizn=3)
    with pytest.raises(ConfigError, match="horizon: it must be greater than or equal to 1; given 0"):
        other.set_params(horizon=0)
    assert other.config.horizon == 7
    with pytest.raises(ConfigError, match="did you mean 'hidden_size'"):
        tg.Forecaster(hiden_size=3)


def test_before_fit(tmp_path):
    made = tg.Forecaster(target="y")
    for call in (lambda: made.predict(TABLE), lambda: made.evaluate(TABLE), lambda: made.save(tmp_path)):
        with pytest.raises(NotFitted, match="needs a trained model: call fit first"):
            call()


def test_fitting_again_is_the_same(model):
    table = TABLE.filter(s="a").head(200)
    made = tg.Forecaster(**OPTIONS | {"epochs": 2, "windows": 64}).fit(table, target="y")
    first = made.predict(table)
    assert_frame_equal(made.fit(table).predict(table), first)
    assert_frame_equal(clone(made).fit(table).predict(table), first)
    assert not clone(made).set_params(seed=1).fit(table).predict(table)["y"].equals(first["y"])


def test_refit_learns_from_all_of_the_data():
    table = TABLE.filter(s="a").head(300).select("t", "y")
    table = table.with_columns(y=pl.when(pl.int_range(pl.len()) >= 255).then(pl.col("y") + 40).otherwise("y"))
    made = tg.Forecaster(**OPTIONS | {"epochs": 2, "windows": 64}).fit(table, target="y")
    assert made.scaling_.target[0, 0, 0] == pytest.approx(table["y"][: made.parts_.train_end - made.parts_.end].mean())
    before = {k: v.clone() for k, v in made.model_.state_dict().items()}
    made.refit(table)
    assert made.scaling_.target[0, 0, 0] == pytest.approx(table["y"].mean())
    assert any(not torch.equal(before[k], v) for k, v in made.model_.state_dict().items())
    assert made.predict(table)["y"].is_between(80, 180).all()
    with pytest.raises(DataError, match="the test part has no whole window"):
        made.evaluate()  # nothing is untouched any more


def test_a_series_whose_last_values_are_missing_is_noted(model):
    row = pl.int_range(pl.len()).over("s")

    def noted(table: pl.DataFrame, made: tg.Forecaster = model) -> list[str]:
        made.predict(table)
        return [note for note in made.predict_notes_ if "latest steps" in note]

    said = "no value in the latest steps, and {} forecast from an earlier one on: "
    late = pl.when((pl.col("s") == "a") | (row < STEPS - 3)).then("y")
    one = ["1 series has " + said.format("is") + "b (last value 3 steps ago)"]
    assert noted(TABLE) == noted(without_last(TABLE)) == []
    assert noted(TABLE.with_columns(y=late)) == one
    assert noted(TABLE.filter(late.is_not_null())) == one
    both = TABLE.with_columns(y=pl.when(row < STEPS - 1).then("y"))  # the past covariate goes on
    assert noted(both) == [
        "2 series have " + said.format("are") + "a (last value 1 step ago), b (last value 1 step ago)"
    ]
    long_ago = TABLE.with_columns(y=pl.when((pl.col("s") == "a") | (row < STEPS - HORIZON - 1)).then("y"))
    assert noted(long_ago) == []  # there is a note on that already

    # Where nothing is known ahead, rows without a target are not there for that.
    alone = TABLE.filter(s="a").select("t", "y")
    made = tg.Forecaster(**OPTIONS | {"epochs": 1, "windows": 64}).fit(alone, target="y")
    assert noted(alone, made) == []
    gap = alone.with_columns(y=pl.when(pl.int_range(STEPS) < STEPS - 2).then("y"))
    assert noted(gap, made) == ["1 series has " + said.format("is") + "y (last value 2 steps ago)"]


# --- kept on disk --------------------------------------------------------------------------------------------


def test_save_load_predict(model, tmp_path):
    model.save(tmp_path / "run")
    other = tg.Forecaster.load(tmp_path / "run")
    assert_frame_equal(other.predict(TABLE), model.predict(TABLE), check_exact=True)
    assert_frame_equal(other.predict(TABLE, samples=3), model.predict(TABLE, samples=3), check_exact=True)
    assert other.evaluate(TABLE) == model.evaluate(TABLE)
    assert other.config.horizon == HORIZON
    assert other.notes_ == model.notes_
    with pytest.raises(DataError, match="evaluate needs data: this model was fitted on data in memory"):
        other.evaluate()


def test_a_run_of_a_later_format_is_refused(model, tmp_path):
    model.save(tmp_path)
    tensors, facts = load_tensors(tmp_path / "model.safetensors")
    save_tensors(tmp_path / "model.safetensors", tensors, facts | {"format": facts["format"] + 1, "version": "7.0"})
    with pytest.raises(RunError, match=r"was written by tidegate 7\.0, whose run folders this version"):
        tg.Forecaster.load(tmp_path)


def test_missing_covariates_are_noted(model):
    row = pl.int_range(pl.len()).over("s")
    gaps = without_last(TABLE).with_columns(
        k=pl.when(row % 5 != 0).then("k"), p=pl.when((row % 4 != 0) | (pl.col("s") == "b")).then("p")
    )
    known = 2 * (STEPS - HORIZON)
    expected = [f"k: 198 of {known} steps are missing (20%)", f"p: 124 of {known} steps are missing (13%)"]
    model.predict(gaps)
    assert [note for note in model.predict_notes_ if "missing" in note] == expected
    made = tg.Forecaster(**OPTIONS | {"epochs": 1, "windows": 64}, series="s", known="k", past="p")
    made.fit(gaps, target="y")
    assert [note for note in made.notes_ if "missing" in note] == expected

    # Rows that only the forecast adds are not missing in the table.
    model.predict(TABLE.filter((pl.col("s") == "a") | (row < STEPS - 2)))
    assert not [note for note in model.predict_notes_ if "missing" in note]


def test_a_series_that_ended_long_ago_is_noted(model):
    row = pl.int_range(pl.len()).over("s")
    model.predict(TABLE.filter((pl.col("s") == "a") | (row < STEPS - HORIZON)))
    assert not any("end long before" in note for note in model.predict_notes_)
    model.predict(TABLE.filter((pl.col("s") == "a") | (row < STEPS - HORIZON - 1)))
    assert "1 series end long before the others, and are forecast from their own end: b" in model.predict_notes_
