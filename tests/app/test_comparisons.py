"""Another form of a model has learnt from what the model has learnt from, and is kept for no other data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tables import hourly
from task_cases import next_token

import tidegate as tg
from tidegate.errors import DataError
from tidegate.insight.model import open_forecast
from tidegate.insight.study import _twin
from tidegate.tasks.run import source_of

OPTIONS = {
    "target": "y", "time": "t", "horizon": 4, "history": 12, "epochs": 1, "windows": 64, "hidden_size": 4, "cpu": True,
}  # fmt: skip


def fitted(table: pl.DataFrame, folder: Path) -> tg.Forecaster:
    table.write_csv(folder / "table.csv")
    return tg.Forecaster(**OPTIONS).fit(folder / "table.csv", folder=folder / "run")


def weights(model: tg.Forecaster) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.model_.state_dict().values()])


@pytest.mark.parametrize("rows", [300, 24])
def test_another_table_is_scored_and_not_learnt_from(tmp_path, rows):
    """A longer table, and one that begins with the test part: too short to have parts of its own."""
    fitted(hourly(240), tmp_path)
    model = tg.Forecaster.load(tmp_path / "run")
    longer = hourly(300).with_columns(y=pl.col("y") + pl.when(pl.int_range(300) >= 240).then(500.0).otherwise(0.0))
    found = model.evaluate(longer.tail(rows + 60 if rows < 300 else rows), compare=["rnn"])["models"]
    assert found["RNN"]["overall"]["mae"] < 3 * found["LSTM"]["overall"]["mae"]
    twin = tg.Forecaster.load(tmp_path / "run" / "compare-rnn")
    assert twin.parts_ == model.parts_
    np.testing.assert_array_equal(twin.scaling_.target, model.scaling_.target)
    (tmp_path / "other").mkdir()
    assert torch.equal(weights(twin), weights(fitted(hourly(240), tmp_path / "other").twin("rnn")))


def test_it_is_kept_for_the_same_file_only(tmp_path):
    first = fitted(hourly(240), tmp_path).twin("rnn")
    (tmp_path / "table.csv").unlink()
    kept = tg.Forecaster.load(tmp_path / "run").twin("rnn")  # nothing is read for it
    assert torch.equal(weights(kept), weights(first))
    again = fitted(hourly(240, seed=1), tmp_path)
    assert not torch.equal(weights(again.twin("rnn")), weights(first))
    assert source_of(tmp_path / "run" / "compare-rnn").sha256 == source_of(tmp_path / "run").sha256


def test_it_is_kept_for_the_same_data_in_memory_only(tmp_path):
    found = []
    for seed in (0, 0, 1):
        model = tg.Forecaster(**OPTIONS).fit(hourly(240, seed), folder=tmp_path / "run")
        found.append((weights(model.twin("rnn")), (tmp_path / "run/compare-rnn/model.safetensors").stat().st_mtime_ns))
    assert found[0][1] == found[1][1] < found[2][1]
    assert not torch.equal(found[0][0], found[2][0])

    tokens, tags = next_token(30)
    options = {"hidden_size": 4, "epochs": 1, "cpu": True}
    kept = []
    for words in (tokens, tokens, [[f"{word}!" for word in line] for line in tokens]):
        tagger = tg.Tagger(**options).fit(words, tags, folder=tmp_path / "tags")
        kept.append(tagger.twin("one-way").vocabulary_.words)
    assert kept[0] == kept[1] != kept[2]


def test_data_that_have_changed_are_not_learnt_from(tmp_path):
    model = fitted(hourly(240), tmp_path)
    hourly(240, seed=1).write_csv(tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"--compare rnn: .*table\.csv has changed since the model was trained on it"):
        tg.Forecaster.load(tmp_path / "run").evaluate(compare=["rnn"])
    model.twin("rnn")  # it still holds what it was fitted on
    (tmp_path / "table.csv").unlink()
    assert tg.Forecaster.load(tmp_path / "run").evaluate(hourly(240), compare=["rnn"])["models"]["RNN"]


def test_without_the_data_of_fit_nothing_is_trained(tmp_path):
    fitted(hourly(240), tmp_path)
    (tmp_path / "table.csv").unlink()
    with pytest.raises(DataError, match="which this model was trained on, is not there any more"):
        tg.Forecaster.load(tmp_path / "run").evaluate(hourly(240), compare=["rnn"])


def test_a_run_that_does_not_say_what_its_data_were(tmp_path):
    fitted(hourly(240), tmp_path)
    said = tmp_path / "run" / "data.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"sha256": None}))
    first = tg.Forecaster.load(tmp_path / "run").twin("rnn")
    assert tg.Forecaster.load(tmp_path / "run").twin("rnn").training_ == first.training_  # with its seconds


def test_gradients_stand_beside_an_rnn_of_the_same_data_only(tmp_path):
    model = fitted(hourly(240), tmp_path)
    made = model.twin("rnn").model_.recurrent.state_dict()
    twin, what = _twin(open_forecast(tmp_path / "run"))
    assert what == "trained on the same data"
    assert all(torch.equal(value, made[name]) for name, value in twin.state_dict().items())
    fitted(hourly(240, seed=1), tmp_path)
    twin, what = _twin(open_forecast(tmp_path / "run"))
    assert twin is None
    assert what.startswith("untrained; `tidegate evaluate RUN --compare rnn` trains one")


def test_scores_keep_beside_them_what_was_trained(run, tmp_path):
    fitted(hourly(240), tmp_path).twin("rnn")
    assert run("evaluate", tmp_path / "run").code == 0
    assert "RNN" in json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]
    hourly(240, seed=1).write_csv(tmp_path / "table.csv")  # of other data, as the run itself may be trained anew
    (tmp_path / "run" / "compare-rnn" / "data.json").unlink()
    assert run("evaluate", tmp_path / "run").code == 0
    assert "RNN" not in json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]
