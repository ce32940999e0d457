"""The classifier in Python: ragged sequences of numbers or text, scikit-learn's tools, parts, scores."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from polars.testing import assert_frame_equal
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from task_cases import waves

import tidegate as tg
from tidegate.data.sequences import from_arrays, from_folder, from_table
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.classify_baselines import byte_summary, fit_baselines, summary
from tidegate.tasks.classify_data import make_batch
from tidegate.tasks.classify_metrics import accuracy_interval, confusion, fit_temperature, scores, to_probabilities
from tidegate.tasks.classify_network import pool
from tidegate.tasks.sequence_data import batches, split

SMALL = {"hidden_size": 8, "epochs": 12, "batch_size": 8, "learning_rate": 0.03, "average": 0.5, "cpu": True}
TABLE = {"sequence": "s", "label": "kind", "time": "t", "feature": ["v", "w"]}


def first_of_two(count: int = 80, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two bumps in the middle of silence, one up and one down; the class is which comes first."""
    rng = np.random.default_rng(seed)
    x, y = [], []
    for n in range(count):
        line = 0.05 * rng.normal(size=(int(rng.integers(8, 15)), 1))
        a, b = np.sort(rng.choice(np.arange(1, len(line) - 1), 2, replace=False))
        line[a], line[b] = (1, -1) if n % 2 else (-1, 1)
        x.append(line.astype(np.float32))
        y.append(n % 2)
    return x, np.array(y)


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


def test_columns_without_a_role():
    data = from_table(waves(), sequence="s", label="kind")
    assert data.columns == ["t", "v", "w"]
    assert data.notes == ["left out columns that hold no numbers: p"]
    with pytest.raises(DataError, match="--feature p: row 1 .* holds 'person 0' where a number belongs"):
        from_table(waves(), sequence="s", label="kind", feature=["p"])
    with pytest.raises(ConfigError, match="column 'v' is given as --label and as --feature; a column has one role"):
        from_table(waves(), sequence="s", label="v", feature=["v"])
    with pytest.raises(ConfigError, match="--sequence is needed"):
        from_table(waves(), label="kind")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_folder_of_tables_is_the_same_as_one_table(tmp_path, suffix):
    table = waves(24)
    for (name, kind), part in table.group_by("s", "kind", maintain_order=True):
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        part = part.select("t", "v", "w").sample(fraction=1, shuffle=True, seed=1)
        part.write_csv(folder / f"{name}.csv") if suffix == ".csv" else part.write_parquet(folder / f"{name}.parquet")
    made = tg.Classifier(**SMALL, time="t").fit(tmp_path)
    data = made.training_data()
    whole = from_table(table, sequence="s", label="kind", time="t", feature=["v", "w"])
    where = {name: n for n, name in enumerate(whole.names)}
    for n, name in enumerate(data.names):
        kind, _, file = name.partition("/")
        np.testing.assert_array_equal(data.one(n), whole.one(where[file.removesuffix(suffix)]))
        assert data.labels[n] == kind
    found = made.predict(tmp_path)
    assert found.columns == ["file", "label", "probability", "p_down", "p_up"]
    assert made.predict(tmp_path / "up")["file"].to_list() == sorted(p.name for p in (tmp_path / "up").iterdir())


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="holds no .csv, .tsv, .parquet, .pq, .txt files"):
        from_folder(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="holds files beside its folders; each label is a folder of its own"):
        from_folder(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "a" / "a.txt")
    (tmp_path / "a" / "b.csv").write_text("v\n1\n")
    with pytest.raises(DataError, match="holds both text and tables"):
        from_folder(tmp_path)
    with pytest.raises(ConfigError, match="is a folder, whose files are the sequences; it does not go with --sequence"):
        tg.Classifier(sequence="s").fit(tmp_path)


def test_text(tmp_path):
    """The word that decides may stand anywhere; bytes beyond ASCII, and an empty text."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc é"), 5)) + ("no" if n % 2 else "on") + "abc" * (n % 3) for n in range(60)]
    labels = ["refused" if n % 2 else "taken" for n in range(60)]
    frame = pl.DataFrame({"say": texts, "what": labels})
    frame.write_csv(tmp_path / "a.csv")
    options = SMALL | {"epochs": 25, "dropout": 0.0}
    made = tg.Classifier(**options, text="say", label="what").fit(tmp_path / "a.csv", folder=tmp_path / "run")
    found = made.predict(pl.DataFrame({"say": [*texts, ""]}))
    assert found.columns == ["row", "what", "probability", "p_refused", "p_taken"]
    assert (found["what"][:60] == pl.Series(labels)).mean() > 0.9
    assert "1 sequences are empty" in made.predict_notes_[0]
    models = made.evaluate()["models"]
    assert list(models) == ["LSTM", "majority", "logistic regression", "logistic regression, n-grams"]
    assert models["logistic regression, n-grams"]["overall"]["accuracy"] > 0.7
    other = tg.Classifier(**options, test=0.2).fit(texts, labels)
    np.testing.assert_array_equal(other.predict_proba(texts), made.predict_proba(texts))
    with pytest.raises(DataError, match="the model was trained on text; given numbers"):
        other.predict([np.zeros((3, 2))])
    with pytest.raises(ConfigError, match="--text makes each row a sequence; it does not go with"):
        from_table(frame, text="say", sequence="what")


def test_arrays_that_cannot_be_used():
    x, y = first_of_two(20)
    made = tg.Classifier(**SMALL | {"epochs": 1})
    for wrong, labels, sentence in [
        ([], [], "there are no sequences: the list is empty"),
        (x, y[:5], r"labels are one a sequence; given \(5,\) for 20 sequences"),
        ([*x[:19], np.zeros((4, 2))], y, r"sequence 19 has shape \(4, 2\), sequence 0 has"),
        ([*x[:19], "text"], y, r"sequence 19 is not an array of numbers \(T, C\), nor text"),
        ([*x[:19], np.array([[np.inf]])], y, "sequence 19 holds infinite values"),
        (x, np.zeros(20), "there is one label only, '0.0'; two at least are needed"),
    ]:
        with pytest.raises(DataError, match=sentence):
            made.fit(wrong, labels)
    with pytest.raises(ConfigError, match="a list of arrays needs its labels"):
        made.fit(x)
    with pytest.raises(ConfigError, match="y and groups go with a list of arrays"):
        made.fit(waves(), y)
    made.fit(x, y)
    with pytest.raises(DataError, match=r"trained on arrays \(T, 1\); given \(T, 2\)"):
        made.predict([np.zeros((4, 2))])
    with pytest.raises(DataError, match="label 6 did not occur in training, where there were 0, 1"):
        made.evaluate(x, y + 6)


def test_sequences_without_steps_alone_or_beside_others():
    x, y = first_of_two(20)
    made = tg.Classifier(**SMALL | {"epochs": 1}).fit(x, y)
    empty = np.zeros((0, 1))
    np.testing.assert_allclose(made.predict_proba([empty]), made.predict_proba([empty, x[0]])[:1], rtol=1e-6)
    np.testing.assert_array_equal(made.predict([empty, empty]), made.predict([empty, x[0], empty])[[0, 2]])
    made.fit(["tide in", "tide out"] * 10, y)
    np.testing.assert_allclose(made.predict_proba([""]), made.predict_proba(["", "tide"])[:1], rtol=1e-6)


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


# --- scores, baselines, calibration ----------------------------------------------------------------------------


def test_scores_by_hand():
    p = np.array([[0.8, 0.2, 0.0], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    codes = np.array([0, 1, 1, 2])
    found = scores(p, codes)
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.4, 0.8]).mean())
    assert found["confidence"] == pytest.approx((0.8 + 0.6 + 0.5 + 0.8) / 4)
    assert confusion(p, codes).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_intervals_draw_whole_groups():
    right = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1])
    low, high = accuracy_interval(right, np.repeat([0, 1, 2], 4), seed=0)
    assert (low, high) == (0.0, 1.0)  # three people, of whom one is always wrong
    low, high = accuracy_interval(right, None, seed=0)
    assert 0.3 < low < 0.5
    assert 0.8 < high <= 1.0


def test_the_temperature_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    p = to_probabilities(logits, 1.0)
    codes = np.array([rng.choice(5, p=row) for row in p])
    assert fit_temperature(3 * logits, codes) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 2, codes) == pytest.approx(0.5, rel=0.05)
    assert fit_temperature(logits[:0], codes[:0]) == 1.0
    sure = np.eye(5)[[0, 1, 2]] * 4
    assert 0.2 < fit_temperature(sure, np.array([0, 1, 2])) < 1  # three right ones do not make it certain
    np.testing.assert_allclose(to_probabilities(3 * logits, 3.0), p)


def test_baselines():
    x, y = first_of_two(40)
    x[3][2] = np.nan
    data = from_arrays(x, y)
    own = x[5][:, 0].astype(np.float64)
    expected = [own.mean(), own.std(), own.min(), own.max(), own[0], own[-1], len(own)]
    np.testing.assert_allclose(summary(data)[5], expected)
    assert np.isfinite(summary(data)).all()
    level = [np.full((6, 1), 2.0 * k) + np.random.default_rng(n).normal(size=(6, 1)) for n in range(60) for k in (0, 1)]
    codes = np.tile([0, 1], 60)
    sequences = from_arrays(level, codes)
    train, valid = np.arange(80), np.arange(80, 120)
    found = fit_baselines(sequences.take(train), codes[:80], sequences.take(valid), codes[80:], 3)
    assert found["majority"](sequences)[0].tolist() == [0.5, 0.5, 0.0]
    p = found["logistic regression"](sequences)
    assert p.shape == (120, 3)
    assert np.mean(p.argmax(1) == codes) > 0.95


def test_the_summary_of_bytes_is_that_of_one_column_a_byte():
    texts = from_arrays(["abba", "", "caé", "b", "zzz"])
    seen = np.frombuffer("abcé".encode(), np.uint8)
    columns = np.unique(seen)
    hot = [(texts.one(n)[:, None] == columns).astype(np.float32) for n in range(len(texts))]
    np.testing.assert_allclose(byte_summary(texts, columns), summary(from_arrays(hot)), atol=1e-6)


def test_the_report(run, tmp_path):
    waves().write_csv(tmp_path / "a.csv")
    words = ["--sequence", "s", "--label", "kind", "--time", "t", "--feature", "v", "--group", "p", "--epochs", "2"]
    result = run("train", "classify", tmp_path / "a.csv", *words, "--out", tmp_path / "run", "--compare", "shuffled")
    assert result.code == 0, result.err
    assert "40 sequences of 4 to 11 steps, 1 column, 2 labels" in result.err
    for name in ("LSTM", "LSTM, steps shuffled", "majority", "logistic regression"):
        assert f"\n{name} " in result.out
    assert "What order is worth: with the steps of each sequence in random order, in training too, " in result.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["sequences"] == np.sum(metrics["confusion"])
    assert (tmp_path / "run" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| logistic regression |" in card
    assert "(10 groups, none parted)" in card
    done = run("predict", tmp_path / "run", tmp_path / "a.csv", "-o", tmp_path / "l.csv")
    assert "wrote 40 rows of labels" in done.out
    assert pl.read_csv(tmp_path / "l.csv").columns == ["s", "kind", "probability", "p_down", "p_up"]
    result = run("predict", tmp_path / "run", tmp_path / "a.csv", "-o", tmp_path / "l.csv", "--samples", "3")
    assert "--samples and --refit are for forecasts" in result.err


def test_nothing_kept_untouched(run, tmp_path):
    waves().write_csv(tmp_path / "a.csv")
    words = ["--sequence", "s", "--label", "kind", "--epochs", "1", "--test", "0", "--out", tmp_path / "run"]
    result = run("train", "classify", tmp_path / "a.csv", *words)
    assert result.code == 0, result.err
    assert "Nothing was kept untouched (--test 0), so there is no score." in result.out
