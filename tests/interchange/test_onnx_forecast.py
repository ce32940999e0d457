"""A trained forecaster as ONNX: the table's own values in, what ``predict`` says out."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnx_models as om
import polars as pl
import pytest
import torch
from tables import hourly

import tidegate as tg
from tidegate.cli import main
from tidegate.data import samples
from tidegate.data.calendar import calendar_features
from tidegate.data.grid import Grid
from tidegate.errors import DataError, InterchangeError, MissingExtra
from tidegate.interchange import export_onnx, onnx_forecast
from tidegate.tasks.estimator import NotFitted

STEPS, HISTORY, HORIZON, SEASON = 300, 20, 30, 24  # a horizon of more than a season
OPTIONS = {
    "time": "t", "horizon": HORIZON, "history": HISTORY, "epochs": 1, "windows": 128, "batch_size": 32,
    "hidden_size": 8, "dropout": 0.0, "learning_rate": 0.02, "cpu": True,
}  # fmt: skip


def series(name: str, level: float, kind: str, seed: int) -> pl.DataFrame:
    """Two targets of very different size, a known and a past covariate with outliers, and gaps in all of them."""
    rng = np.random.default_rng(seed)
    start = pl.datetime(2021, 3, 1)
    values = {
        "y": level + rng.normal(size=STEPS).cumsum(),
        "z": 1e-3 * rng.normal(size=STEPS),
        "k": rng.normal(size=STEPS) ** 9,  # beyond the limit of ten standard deviations
        "p": rng.normal(size=STEPS) ** 9,
    }
    for column in values.values():
        column[rng.random(STEPS) < 0.15] = np.nan
    values["y"][40:75] = np.nan
    values["z"][40:75] = np.nan  # a whole history without a value
    times = pl.datetime_range(start, start + pl.duration(hours=STEPS - 1), "1h", eager=True)
    facts = {"s": [name] * STEPS, "kind": [kind] * STEPS, "size": [float(seed)] * STEPS}
    return pl.DataFrame({"t": times, **values, **facts}).fill_nan(None)


TABLE = pl.concat([series("a", 5000.0, "plus", 1), series("b", -50.0, "minus", 2)])
COLUMNS = {"series": "s", "known": "k", "past": "p", "static": ["kind", "size"]}


@pytest.fixture(scope="module")
def model() -> tg.Forecaster:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = tg.Forecaster(**OPTIONS, **COLUMNS, num_layers=2).fit(TABLE, target=["y", "z"])
    torch.set_num_threads(threads)
    return made


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "f.onnx"
    done = model.export_onnx(path)
    assert done.opset == 22
    assert done.checks > 60
    assert done.error < 1e-5
    return path


def facts_of(path) -> dict:
    [entry] = onnx.load(path).metadata_props
    assert entry.key == "tidegate.forecaster"
    return json.loads(entry.value)


def test_values_of_the_table_give_what_predict_says(model, path):
    """Inputs put together from the table and the metadata alone, as a user would."""
    facts = facts_of(path)
    future = TABLE.group_by("s", maintain_order=True).tail(HORIZON).with_columns(y=None, z=None, p=None)
    future = future.with_columns(pl.col("t") + pl.duration(hours=HORIZON))
    table = pl.concat([TABLE, future.select(TABLE.columns)], how="vertical_relaxed")
    expected = model.predict(table)
    feeds: dict[str, list] = {name: [] for name in facts["inputs"]}
    assert list(feeds) == ["target", "known", "past", "calendar", "static", "series"]
    grid = Grid.from_dict(facts["grid"])
    for name in ("a", "b"):
        rows = table.filter(s=name)
        ends = model.windows_.panel.history_ends[["a", "b"].index(name)]
        now, later = rows[: int(ends)], rows[: int(ends) + HORIZON]
        feeds["target"].append(now.tail(HISTORY + SEASON).select(facts["inputs"]["target"]["columns"]).to_numpy())
        feeds["known"].append(later.tail(HISTORY + HORIZON).select(facts["inputs"]["known"]["columns"]).to_numpy())
        feeds["past"].append(now.tail(HISTORY).select(facts["inputs"]["past"]["columns"]).to_numpy())
        moments = later.tail(HISTORY + HORIZON)["t"].dt.epoch("us").to_numpy()
        step = (moments - grid.moments([0])[0]) // grid.step
        feeds["calendar"].append(calendar_features(grid, step, facts["inputs"]["calendar"]["columns"]))
        features = {f"kind={rows['kind'][0]}": 1.0, "size": rows["size"][0]}
        feeds["static"].append([features.get(column, 0.0) for column in facts["inputs"]["static"]["columns"]])
        feeds["series"].append(facts["inputs"]["series"]["names"].index(name))
    arrays = {k: np.array(v, np.int64 if k == "series" else np.float32) for k, v in feeds.items()}
    [found] = om.run(path.read_bytes(), arrays)
    assert found.shape == (2, HORIZON, 2, len(facts["output"]["quantiles"]))
    for c, target in enumerate(facts["output"]["columns"]):
        for q, level in enumerate(facts["output"]["quantiles"]):
            wanted = expected[f"{target}_q{level:g}"].to_numpy().reshape(2, HORIZON)
            np.testing.assert_allclose(found[:, :, c, q], wanted, rtol=1e-5, atol=1e-8 if target == "z" else 1e-4)


def test_a_window_without_any_known_value(model, path):
    """Nothing known in the history: the last value counts as the mean, as in Python."""
    windows = model.windows_
    origins = windows.origins(windows.start, windows.end, observed=False)
    origins = origins.take((origins.step > 62) & (origins.step < 75))
    assert len(origins) == 24
    feeds = onnx_forecast.onnx_inputs(model, windows, origins)
    assert np.isnan(feeds["target"][:, -HISTORY:]).all((1, 2)).any()
    expected = onnx_forecast.predicted(model, windows, origins)
    spread = windows.scaling.target[origins.series][:, None, :, None, 1]
    assert (np.abs(om.run(path.read_bytes(), feeds)[0] - expected) / spread).max() < 1e-3
    assert np.abs(expected[0] - expected[-1]).max() > 1


def test_rows_do_not_mix_and_any_number_runs(model, path):
    windows = model.windows_
    origins = windows.origins(windows.start, windows.end, 5)
    feeds = onnx_forecast.onnx_inputs(model, windows, origins)
    whole = om.run(path.read_bytes(), feeds)[0]
    one = om.run(path.read_bytes(), {k: v[7:8] for k, v in feeds.items()})[0]
    np.testing.assert_allclose(one[0], whole[7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", [-1, 2])
def test_a_series_that_is_not_there(model, path, place):
    windows = model.windows_
    origins = windows.origins(windows.start, windows.end, 50).take(slice(0, 1))
    feeds = onnx_forecast.onnx_inputs(model, windows, origins) | {"series": np.array([place])}
    with pytest.raises(Exception, match="indices element out of data bounds"):
        om.run(path.read_bytes(), feeds)


def test_one_series_without_covariates(tmp_path):
    made = tg.Forecaster(**OPTIONS | {"calendar": False}).fit(hourly(), target="y")
    done = export_onnx(made, tmp_path / "f.onnx", opset=18)
    assert done.opset == 18
    assert done.error < 1e-5
    assert [i.name for i in onnx.load(done.path).graph.input] == ["target"]
    assert list(facts_of(done.path)["inputs"]) == ["target"]


def test_the_embedded_sample(tmp_path):
    fields = {"target": "temp", "time": "time_hour", "series": "origin", "past": ["dewp", "precip"]}
    small = OPTIONS | {"history": 48, "horizon": 24} | fields
    made = tg.Forecaster(**small).fit(samples.path("nyc_weather"))
    assert made.export_onnx(tmp_path / "f.onnx").error < 1e-5


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported(model, tmp_path, monkeypatch):
    path = tmp_path / "f.onnx"
    with pytest.raises(NotFitted, match="export_onnx needs a trained model"):
        tg.Forecaster(horizon=2).export_onnx(path)
    rnn = tg.Forecaster(**OPTIONS | {"cell": "rnn"}).fit(hourly(), target="y")
    with pytest.raises(InterchangeError, match="the cell 'rnn' is there to be compared with"):
        rnn.export_onnx(path)
    with pytest.raises(DataError, match="data of a series that the model was trained on; there is none"):
        model.export_onnx(path, TABLE.filter(s="a").with_columns(s=pl.lit("c")))
    model.save(tmp_path / "run")
    with pytest.raises(DataError, match="checked on data: this model was fitted on a data frame"):
        tg.Forecaster.load(tmp_path / "run").export_onnx(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r'pip install "tidegate\[onnx\]"'):
        model.export_onnx(path)
    assert not path.exists()


def test_nothing_is_written_where_forecasts_differ(model, tmp_path, monkeypatch):
    path = tmp_path / "f.onnx"
    path.write_bytes(b"as it was")
    honest = onnx_forecast._until_now
    monkeypatch.setattr(onnx_forecast, "_until_now", lambda g, x, h: g.add("Mul", honest(g, x, h), g.constant(1.01)))
    with pytest.raises(InterchangeError, match="forecasts differ from tidegate's by .*; nothing was written"):
        model.export_onnx(path)
    assert path.read_bytes() == b"as it was"


# --- the command ------------------------------------------------------------------------------------------------------


def test_command(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    hourly().write_csv(tmp_path / "good.csv")
    made = tg.Forecaster(**OPTIONS).fit(str(tmp_path / "good.csv"), target="y", folder=tmp_path / "run")
    for name in ("f", "f.pt", "f.onnx.csv"):
        with pytest.raises(SystemExit):
            main(["export", str(tmp_path / "run"), "--out", str(tmp_path / name)])
        assert "what is written is ONNX, and the file's name ends in .onnx" in capfd.readouterr().err
        assert not (tmp_path / name).exists()
    main(["export", str(tmp_path / "run"), "--format", "onnx", "--out", str(tmp_path / "f.onnx")])
    assert "forecasts in onnxruntime differ from tidegate's by at most" in capfd.readouterr().out
    made.export_onnx(tmp_path / "g.onnx")
    assert (tmp_path / "f.onnx").read_bytes() == (tmp_path / "g.onnx").read_bytes()
    (tmp_path / "good.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "h.onnx")])
    assert stop.value.code == 2
    assert "good.csv" in capfd.readouterr().err
    main(["export", str(tmp_path / "run"), str(tmp_path / "moved.csv"), "--out", str(tmp_path / "h.onnx")])
    assert (tmp_path / "h.onnx").read_bytes() == (tmp_path / "g.onnx").read_bytes()
