"""The classifier in Python: what it learns, scikit-learn's tools, missing values, scaling, parts."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from polars.testing import assert_frame_equal
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from task_cases import first_of_two, waves

import tidegate as tg
from tidegate.data.sequences import from_table
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.classify_data import make_batch
from tidegate.tasks.classify_network import pool
from tidegate.tasks.sequence_data import batches, split

SMALL = {"hidden_size": 8, "epochs": 12, "batch_size": 8, "learning_rate": 0.03, "average": 0.5, "cpu": True}
TABLE = {"sequence": "s", "label": "kind", "time": "t", "feature": ["v", "w"]}


@pytest.fixture(scope="module")
def model() -> tg.Classifier:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = tg.Classifier(**SMALL, **TABLE, group="p").fit(waves())
    torch.set_num_threads(threads)
    return made


# --- what it learns --------------------------------------------------------------------------------------------


def test_order_is_learnt_and_its_worth_is_seen():
    x, y = first_of_two(160)
    made = tg.Classifier(**SMALL | {"hidden_size": 16, "epochs": 40}, dropout=0.0, test=0.25).fit(x, y)
    found = made.evaluate(compare=["shuffled"])
    accuracy = {name: m["overall"]["accuracy"] for name, m in found["models"].items()}
    assert list(accuracy) == ["LSTM", "LSTM, steps shuffled", "majority", "logistic regression"]
    assert accuracy["LSTM"] > 0.9
    assert all(accuracy[name] < 0.75 for name in list(accuracy)[1:])
    assert np.sum(found["confusion"]) == found["test"]["sequences"] == 40


def test_a_sequence_is_judged_alone(model):
    """Whatever stands beside it in a batch, in whatever order."""
    data = from_table(waves(seed=1), sequence="s", feature=["v", "w"])
    p = model.probabilities(data)
    back = np.arange(len(data))[::-1]
    np.testing.assert_allclose(model.probabilities(data.take(back)), p[back], atol=1e-6)
    np.testing.assert_allclose(model.probabilities(data.take(np.array([7]))), p[[7]], atol=1e-6)
    assert np.ptp(p[:, 0]) > 0.05


def test_steps_are_sorted_by_time(model):
    table = waves(seed=1)
    mixed = table.sample(fraction=1, shuffle=True, seed=3)
    a, b = (model.predict(t).sort("s") for t in (table, mixed))
    assert_frame_equal(a, b, abs_tol=1e-6)
    assert "sorted the steps of each sequence by time" in model.predict_notes_


def test_pooling_against_each_row_by_itself():
    output = torch.randn(6, 4, 3) - 2  # all below zero: padding would win the maximum
    lengths = torch.tensor([6, 1, 0, 4])
    mean, highest = pool(output, lengths)
    for row, length in enumerate(lengths.tolist()):
        own = output[:length, row]
        expected = (own.mean(0), own.amax(0)) if length else (torch.zeros(3), torch.zeros(3))
        torch.testing.assert_close(mean[row], expected[0])
        torch.testing.assert_close(highest[row], expected[1])


def test_saved_and_loaded(model, tmp_path):
    model = copy.copy(model)
    model.temperature_ = 2.0
    model.save(tmp_path)
    other = tg.Classifier.load(tmp_path)
    np.testing.assert_array_equal(other.predict_proba(waves(seed=1)), model.predict_proba(waves(seed=1)))
    with pytest.raises(DataError, match="evaluate needs data: this model was fitted on data in memory"):
        other.evaluate()
    alone = other.evaluate(waves(seed=5).with_columns(s=pl.lit("new ") + pl.col("s")))
    assert list(alone["models"]) == ["LSTM"]  # what the baselines would learn from is not kept


def test_class_weights_are_those_of_the_classes():
    x, y = first_of_two(40)
    y = np.where(np.arange(40) < 30, 0, 1)
    made = tg.Classifier(**SMALL | {"epochs": 1}, class_weights="balanced").fit(x, y)
    job = made._job()
    count = np.bincount(y[made._parts[0]])
    np.testing.assert_allclose(job.weights.numpy(), count.sum() / (2 * count), rtol=1e-6)
    made.model_.eval()
    index = torch.arange(8)
    loss, weight = job.loss(made.model_, index, torch.device("cpu"))
    own = made._parts[0][index.numpy()]
    expected = F.cross_entropy(
        torch.tensor(made.logits(made.sequences_.take(own))), torch.tensor(y[own]), reduction="none"
    )
    assert weight == 8
    assert float(loss.detach()) == pytest.approx(float((expected * job.weights[y[own]]).mean()), rel=1e-5)


# --- scikit-learn ----------------------------------------------------------------------------------------------


def test_cross_validation_and_grid_search_of_ragged_sequences():
    x, y = first_of_two(60)
    labels = np.array(["down first", "up first"])[y]
    made = tg.Classifier(**SMALL | {"epochs": 2}, validation=0)
    assert is_classifier(made)
    found = cross_val_score(made, x, labels, cv=3)
    assert found.shape == (3,)
    assert ((found >= 0) & (found <= 1)).all()
    search = GridSearchCV(made, {"hidden_size": [8], "epochs": [1, 30]}, cv=2, scoring="accuracy").fit(x, labels)
    assert search.best_params_ == {"hidden_size": 8, "epochs": 30}
    assert search.best_score_ > 0.8
    assert search.predict(x[:4]).tolist() == search.best_estimator_.predict(x[:4]).tolist()
    assert search.classes_.tolist() == ["down first", "up first"]
    again = clone(search.best_estimator_).fit(x, labels)
    np.testing.assert_array_equal(again.predict_proba(x), search.best_estimator_.predict_proba(x))


def test_labels_come_back_as_they_went_in():
    x, y = first_of_two(20)
    for labels in (y + 5, y.astype(bool), np.array(["a", "b"])[y]):
        made = tg.Classifier(**SMALL | {"epochs": 1}).fit(x, labels)
        assert made.classes_.tolist() == np.unique(labels).tolist()
        assert made.predict(x).dtype.kind == labels.dtype.kind
        assert made.score(x, labels) == np.mean(made.predict(x) == labels)


# --- tables, folders, text -------------------------------------------------------------------------------------


def test_predictions_as_a_table(model):
    table = waves(seed=1)
    found = model.predict(table.drop("kind", "p"))
    assert found.columns == ["s", "kind", "probability", "p_down", "p_up"]
    assert found["s"].to_list() == table["s"].unique(maintain_order=True).to_list()
    np.testing.assert_allclose(found["p_down"] + found["p_up"], 1)
    named = np.where(found["p_down"] > found["p_up"], "down", "up")
    assert found["kind"].to_list() == named.tolist()
    other = model.predict(table.to_pandas())
    assert isinstance(other, pd.DataFrame)
    assert_frame_equal(pl.from_pandas(other), found)
    truth = table.group_by("s", maintain_order=True).first()["kind"]
    assert (found["kind"] == truth).mean() > 0.9


# --- missing values, scaling, parts ----------------------------------------------------------------------------


def test_missing_values_are_masked():
    table = waves().with_columns(v=pl.when(pl.int_range(pl.len()) % 3 != 1).then("v"))
    made = tg.Classifier(**SMALL, **TABLE).fit(table)
    missing = table["v"].null_count()
    assert (
        f"v: {missing} of {table.height} values are missing ({100 * missing / table.height:.2g}%), and masked"
        in made.notes_
    )
    assert made.scaling_.gaps.tolist() == [True, False]
    assert made.model_.recurrent.input_size == 3  # v, w, and whether v is known
    assert np.isfinite(made.predict_proba(table)).all()
    data = from_table(table, sequence="s", feature=["v", "w"])
    batch = make_batch(data, np.array([0]), made.scaling_)
    gone = np.isnan(data.one(0)[:, 0])
    assert (batch.inputs[:, 0, 0].numpy()[gone] == 0).all()
    np.testing.assert_array_equal(batch.inputs[:, 0, 2].numpy(), ~gone)
    assert made.evaluate()["models"]["logistic regression"]["overall"]["log_loss"] < 1


def test_a_column_without_values_is_masked_where_others_have_some(model):
    one = waves().drop("kind").filter(pl.col("s") == "n31")
    gone = one.with_columns(v=pl.lit(None, pl.Float64))
    found = model.predict(gone)
    assert f"v: {one.height} of {one.height} values are missing (100%), and masked" in model.predict_notes_
    at_mean = one.with_columns(v=pl.lit(float(model.scaling_.mean[0])))
    np.testing.assert_allclose(found["p_up"], model.predict(at_mean)["p_up"], atol=1e-6)
    with pytest.raises(DataError, match="--feature v: the column holds no value at all"):
        model.predict(gone.with_columns(w=pl.lit(None, pl.Float64)))


def test_scaling_is_that_of_the_training_part(model):
    table = waves()
    trained = table.filter(pl.col("s").is_in(model.kept_["train"]))
    np.testing.assert_allclose(model.scaling_.mean, [trained["v"].mean(), trained["w"].mean()], atol=1e-6)
    np.testing.assert_allclose(model.scaling_.spread, [trained[c].std(ddof=0) for c in "vw"], rtol=1e-5)


def test_groups_are_never_parted(model):
    table = waves()
    person = dict(table.select("s", "p").unique().iter_rows())
    train, valid = ({person[s] for s in model.kept_[part]} for part in ("train", "valid"))
    test = {person[s] for s in model.untouched().names}
    assert not train & valid
    assert not (train | valid) & test
    assert train | valid | test == set(person.values())
    assert model.evaluate()["test"] == {"sequences": len(model.untouched()), "groups": len(test)}


def test_parts_are_stratified_by_class():
    codes = np.repeat([0, 1, 2], [100, 20, 3])
    train, valid, test = split(codes, None, 0.1, 0.2, seed=0)
    assert np.bincount(codes[test]).tolist() == [20, 4, 1]
    assert np.bincount(codes[valid]).tolist() == [10, 2, 1]
    assert np.bincount(codes[train]).tolist() == [70, 14, 1]
    assert sorted([*train, *valid, *test]) == list(range(123))
    assert [len(part) for part in split(codes, None, 0.0, 0.0, seed=0)] == [123, 0, 0]
    assert split(codes, None, 0.1, 0.2, seed=1)[2].tolist() != test.tolist()
    people = np.repeat(np.arange(12), 10)
    tests = [set(people[split(people % 2, people, 0.2, 0.25, seed)[2]]) for seed in range(4)]
    assert [len(test) for test in tests] == [3, 3, 3, 3]
    assert set.union(*tests) == set(range(12))  # each seed tests on other groups
    with pytest.raises(DataError, match="--group leaves too few groups"):
        split(codes, np.zeros(123), 0.1, 0.2, seed=0)
    with pytest.raises(DataError, match="1 of 3 labels occur only in groups that are not trained on"):
        for seed in range(20):
            split(codes, np.repeat([0, 1, 2, 3], [50, 50, 20, 3]), 0.1, 0.2, seed)


def test_every_sequence_is_drawn_once_beside_its_like():
    lengths = np.random.default_rng(0).integers(1, 100, size=500)
    drawn = batches(lengths, 16, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(drawn).tolist()) == list(range(500))
    padded = sum(len(b) * lengths[b].max() for b in drawn)
    assert padded < 1.3 * lengths.sum()
    again = batches(lengths, 16, torch.Generator().manual_seed(2))
    assert torch.cat(drawn).tolist() != torch.cat(again).tolist()


def test_without_a_validation_part_the_last_epoch_is_kept():
    x, y = first_of_two(20)
    made = tg.Classifier(**SMALL | {"epochs": 7, "patience": 1}, validation=0).fit(x, y)
    assert (made.training_.epoch, made.training_.best_epoch) == (7, 7)
    assert made.temperature_ == 1.0
    assert made.notes_[-1] == "20 train"


def test_refitting_learns_from_the_validation_part_too(model):
    """The scores of the sequences that stopped training change; epochs and temperature are those found before."""
    other = tg.Classifier(**SMALL, **TABLE, group="p", refit=True).fit(waves())
    assert other.training_.best_epoch == model.training_.best_epoch
    assert other.temperature_ == model.temperature_
    assert other.kept_ == model.kept_
    assert len(other._job().train) + len(other._job().valid) == len(other._job(both=True).train) == 32
    valid = waves().filter(pl.col("s").is_in(model.kept_["valid"]))
    truth = (valid.group_by("s", maintain_order=True).first()["kind"] == "up").to_numpy().astype(int)

    def loss(made):
        return -np.log(made.predict_proba(valid)[np.arange(len(truth)), truth]).mean()

    assert loss(other) < loss(model)


def test_what_training_has_seen_is_not_scored(model, tmp_path):
    more = pl.concat([waves(), waves(seed=5).with_columns(s=pl.lit("new ") + pl.col("s"))])
    assert model.evaluate(more)["test"]["sequences"] == 40 + len(model.untouched())
    texts = pl.DataFrame({"say": ["yes"] * 20 + ["no"] * 20, "what": ["y"] * 20 + ["n"] * 20})
    texts.write_csv(tmp_path / "a.csv")
    made = tg.Classifier(**SMALL | {"epochs": 1}, text="say", label="what").fit(tmp_path / "a.csv")
    assert made.evaluate(tmp_path / "a.csv") == made.evaluate()  # rows have no names, but these are its own
    assert made.evaluate(texts)["test"]["sequences"] == 40
    seen = waves().filter(pl.col("s").is_in(model.kept_["train"]))
    with pytest.raises(DataError, match="no sequences to score: training has seen all that are given"):
        model.evaluate(seen)


def test_what_is_left_out_by_name_is_told(model):
    more = pl.concat([waves(), waves(seed=5).with_columns(s=pl.lit("new ") + pl.col("s"))])
    assert (
        model.untouched(more).notes[-1] == f"left out {40 - len(model.untouched())} sequences that training has seen"
        ", by their names"
    )
    assert "left out" not in str(model.untouched(more.filter(pl.col("s").str.starts_with("new"))).notes)


def test_a_table_without_names_that_has_changed_is_not_scored(tmp_path):
    """Its rows are all that says which texts trained: sorted otherwise, others would be taken for them."""
    texts = pl.DataFrame({"say": [f"{word} {n}" for n in range(20) for word in ("yes", "no")], "what": ["y", "n"] * 20})
    texts.write_csv(tmp_path / "a.csv")
    tg.Classifier(**SMALL | {"epochs": 1}, text="say", label="what").fit(tmp_path / "a.csv", folder=tmp_path / "run")
    assert tg.Classifier.load(tmp_path / "run").evaluate()["test"]["sequences"] == 8
    texts.sort("say").write_csv(tmp_path / "a.csv")
    made = tg.Classifier.load(tmp_path / "run")
    for data in (None, tmp_path / "a.csv"):
        with pytest.raises(
            DataError, match="a.csv has changed since the model was trained on it, and its sequences have"
        ):
            made.evaluate(data)
    with pytest.raises(DataError, match="has changed since the model was trained on it"):
        made.twin("rnn")
    assert list(made.evaluate(texts)["models"]) == ["LSTM"]  # baselines cannot tell what to learn from


def test_fitted_again_on_other_columns():
    made = tg.Classifier(**SMALL | {"epochs": 1}, sequence="s", label="kind", time="t").fit(waves())
    assert made.resolved_.feature == ["v", "w"]
    made.fit(waves().rename({"w": "x"}))
    assert made.resolved_.feature == ["v", "x"]
    with pytest.raises(DataError, match="has no column 'x'"):
        made.predict(waves())


def test_another_form_learns_from_the_same_sequences(model):
    model = copy.copy(model)
    model.sequences_ = model.training_data().take(np.arange(40)[::-1])  # another order, as another file may have
    twin = model.twin("one-way")
    assert twin.kept_ == model.kept_
    assert twin.form == "LSTM, one-way"
    assert twin.model_.recurrent.directions == 1
    assert model.twin("lstm") is model
    with pytest.raises(ConfigError, match="--compare knows 'shuffled', 'one-way', 'rnn', 'lstm'; given 'gru'"):
        model.twin("gru")
