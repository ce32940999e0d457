"""The tagger: what it learns, labels of steps from tables and lists, what the future is worth."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from polars.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from task_cases import next_token, spoken

import tidegate as tg
from tidegate.data.tagged import from_lists, from_tagged_table
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.demos import written
from tidegate.tasks.sequence_data import SequenceScaling
from tidegate.tasks.tag_baselines import fit_baselines
from tidegate.tasks.tag_data import Steps, Vocabulary
from tidegate.tasks.temperature import fit_temperature
from tidegate.training import loop

SMALL = {
    "hidden_size": 8, "embedding_size": 8, "character_size": 4, "epochs": 8, "batch_size": 8, "learning_rate": 0.03,
    "average": 0.5, "dropout": 0.0, "cpu": True,
}  # fmt: skip
TABLE = {"sequence": "s", "label": "kind", "token": "w", "feature": ["v"], "time": "t"}


@pytest.fixture(scope="module")
def model() -> tg.Tagger:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = tg.Tagger(**SMALL | {"epochs": 30, "hidden_size": 16}, **TABLE, group="p").fit(spoken())
    torch.set_num_threads(threads)
    return made


# --- what it learns --------------------------------------------------------------------------------------------


def test_what_lies_in_the_future_is_seen_by_both_directions_alone():
    """Of three tokens, drawn evenly and apart, the next is not told by those before: at best a third and the ends."""
    tokens, tags = next_token()
    made = tg.Tagger(**SMALL | {"epochs": 20, "hidden_size": 16}, test=0.25).fit(tokens, tags)
    found = made.evaluate(compare=["one-way"])
    overall = {name: m["overall"] for name, m in found["models"].items()}
    assert list(overall) == ["LSTM", "LSTM, one-way", "most frequent of each token"]
    assert overall["LSTM"]["accuracy"] > 0.98
    assert overall["LSTM"]["log_loss"] < 0.1
    for name in list(overall)[1:]:
        assert overall[name]["accuracy"] < 0.45
        assert overall[name]["log_loss"] > 1.0
    assert np.sum(found["confusion"]) == found["test"]["steps"] == len(made.untouched().tags)


def test_a_sequence_is_judged_alone(model):
    """Whatever stands beside it in a batch, in whatever order; padding is read by none."""
    data = from_tagged_table(spoken(seed=1), **{k: v for k, v in TABLE.items() if k != "label"})
    p = model.probabilities(data)
    assert np.ptp(p[:, 0]) > 0.05
    back = np.arange(len(data))[::-1]
    np.testing.assert_allclose(model.probabilities(data.take(back)), p[data.steps(back)], atol=1e-6)
    for n in (0, 7):
        own = data.take(np.array([n]))
        np.testing.assert_allclose(model.probabilities(own), p[data.steps(np.array([n]))], atol=1e-6)


def test_padding_is_in_no_loss_and_no_score(model):
    job = model._job()
    assert job.codes[0] >= 0  # what pads a batch is the first step
    model.model_.eval()
    job.rates = torch.zeros(0)  # no word is taken as unknown
    with torch.no_grad():
        loss, weight = job.loss(model.model_, torch.arange(8), torch.device("cpu"))
        score = job.validate(model.model_, torch.device("cpu"))

    def mean(index: np.ndarray) -> tuple[float, int]:
        own = model.sequences_.take(index)
        codes = torch.tensor(own.codes(model.classes_.tolist()))
        assert (codes < 0).any()
        logits = torch.tensor(model.logits(own))
        return float(F.cross_entropy(logits[codes >= 0], codes[codes >= 0])), int((codes >= 0).sum())

    expected, count = mean(model._parts[0][:8])
    assert weight == count
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert score == pytest.approx(mean(model._parts[1])[0], rel=1e-5)
    own = model.sequences_.take(model._parts[1])
    codes = own.codes(model.classes_.tolist())
    assert model.temperature_ == fit_temperature(model.logits(own)[codes >= 0], codes[codes >= 0]) != 1
    found = model.evaluate()
    labelled = sum(tag is not None for tag in model.untouched().tags)
    assert found["test"]["steps"] == np.sum(found["confusion"]) == labelled < len(model.untouched().tags)


def test_class_weights_are_those_of_the_labels():
    tokens, tags = next_token(40)
    made = tg.Tagger(**SMALL | {"epochs": 1}, class_weights="balanced").fit(tokens, tags)
    codes = made._codes[made.sequences_.steps(made._parts[0])]
    count = np.bincount(codes)
    np.testing.assert_allclose(made._job().weights.numpy(), count.sum() / (4 * count), rtol=1e-6)


def test_words_never_seen_are_known_by_how_they_are_spelt():
    """Whether a word ends in -ing; each test word is new."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[list[list[str]], list[list[str]]]:
        stems = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(count * 5)]
        words = [stem + ("ing" if rng.random() < 0.5 else "er") for stem in stems]
        lines = [words[k : k + 5] for k in range(0, len(words), 5)]
        return lines, [["verb" if word.endswith("g") else "noun" for word in line] for line in lines]

    options = SMALL | {"epochs": 15, "validation": 0.2}
    made = tg.Tagger(**options).fit(*drawn(60))
    other = drawn(40)
    assert made.score(*other) > 0.95
    blind = tg.Tagger(**options, characters=False).fit(*drawn(60))
    assert blind.score(*other) < 0.7
    assert made.predict([["zzzzing", "ööer", ""]])[0].tolist()[:2] == ["verb", "noun"]
    alone, beside = made.predict_proba([["abing"]])[0], made.predict_proba([["abing"], ["x" * 30]])[0]
    np.testing.assert_allclose(beside, alone, atol=1e-6)  # a longer word beside it is not read into it


def test_rare_words_are_unknown_and_common_ones_sometimes_in_training():
    data = from_lists([["a"] * 6 + ["b"] * 2 + ["c"], ["a"]], [["x"] * 9, ["y"]])
    vocabulary, counts = Vocabulary.fit(data, least=2)
    assert vocabulary.words == ["a", "b"]
    assert counts.tolist() == [0, 7, 2]
    assert vocabulary.numbers(["b", "new", "c", "a"]).tolist() == [2, 0, 0, 1]
    made = tg.Tagger(**SMALL | {"epochs": 1}, unknown=0.25, validation=0).fit(
        [["a"] * 6 + ["b"] * 2 + ["c"], ["a"]] * 2, [["x"] * 9, ["y"]] * 2
    )
    job = made._job()
    np.testing.assert_allclose(job.rates[1:], [0.25 / 14.25, 0.25 / 4.25, 0.25 / 2.25], rtol=1e-6)
    seen = []

    def spy(batch):
        seen.append(batch.words)
        return made.model_(batch)

    for _ in range(200):
        job.loss(spy, torch.arange(4), torch.device("cpu"))
    words = torch.stack(seen)  # (200, T, B)
    full = job.steps.batch(job.train)[0].words
    for number in (1, 2, 3):
        share = float((words[:, full == number] == 0).float().mean())
        assert share == pytest.approx(float(job.rates[number]), abs=0.02)
    assert (words[:, full == 0] == 0).all()


def test_spelling_is_cut_by_bytes_and_an_empty_word_has_none():
    data = from_lists([["é", "", "x" * 50]])
    steps = Steps.of(data, Vocabulary([]), None, characters=True)
    batch, _, _ = steps.batch(np.array([0]))
    where = batch.places[:, 0]
    assert batch.letter_counts[where].tolist() == [2, 0, 40]
    assert batch.letters[:2, where[0]].tolist() == list("é".encode())


# --- baselines -------------------------------------------------------------------------------------------------


def test_numbers_alone(model):
    """A step's label is that of the number after it; the regression sees one step and cannot know."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(int(rng.integers(4, 10)), 2)) for _ in range(100)]
    y = [(np.append(line[1:, 0], line[0, 0]) > 0).astype(int) for line in x]
    x[0][2, 1] = np.nan
    made = tg.Tagger(**SMALL | {"epochs": 25, "hidden_size": 16}, test=0.25).fit(x, y)
    assert made.classes_.tolist() == [0, 1]
    assert made.scaling_.inputs == 2 + (0 in made._parts[0])
    found = made.evaluate()["models"]
    assert list(found) == ["LSTM", "logistic regression, step by step"]
    assert found["LSTM"]["overall"]["accuracy"] > 0.8 > 0.65 > found[list(found)[1]]["overall"]["accuracy"]
    p = made.predict_proba([np.array([[np.nan, np.nan], [0.5, np.nan], [np.nan, 1.0]])])
    assert p[0].shape == (3, 2)
    assert np.isfinite(p[0]).all()
    both = made.kept_part("train", "valid")
    rows = made.scaling_.apply(both.values)
    own = LogisticRegression(max_iter=1_000).fit(rows, both.codes([0, 1]))
    predict = fit_baselines(both, both.codes([0, 1]), 2, made.scaling_)["logistic regression, step by step"]
    np.testing.assert_allclose(predict(both), own.predict_proba(rows))
    with pytest.raises(DataError, match="the model was trained on 2 columns of numbers; given tokens"):
        made.predict([["a"]])
    with pytest.raises(DataError, match="trained on tokens and 1 column of numbers; given 1 column of numbers"):
        model.predict([np.zeros((3, 1))])


def test_numbers_with_one_label_in_what_trains():
    """The other label is in the untouched part alone: the regression has nothing to tell apart."""
    data = from_lists([np.zeros((4, 1)), np.ones((3, 1))])
    scaling = SequenceScaling.fit(data)
    codes = np.array([-1, *[1] * 6])
    predict = fit_baselines(data, codes, 2, scaling)["logistic regression, step by step"]
    np.testing.assert_array_equal(predict(data), [[0, 1]] * 7)


# --- tables ----------------------------------------------------------------------------------------------------


def test_predictions_stand_beside_the_rows_of_the_input(model):
    table = spoken(seed=1)
    found = model.predict(table.drop("kind", "p"))
    assert found.columns == ["s", "t", "w", "kind", "probability"]
    assert_frame_equal(found.select("s", "t", "w"), table.select("s", "t", "w"))
    assert found["probability"].is_between(1 / 3, 1).all()
    mixed = table.sample(fraction=1, shuffle=True, seed=3)
    other = model.predict(mixed)
    assert_frame_equal(other.select("s", "t"), mixed.select("s", "t"))
    assert_frame_equal(other.sort("s", "t"), found.sort("s", "t"), abs_tol=1e-6)
    assert "sorted the steps of each sequence by time" in model.predict_notes_
    as_pandas = model.predict(table.to_pandas())
    assert isinstance(as_pandas, pd.DataFrame)
    assert_frame_equal(pl.from_pandas(as_pandas), found)
    known = table["kind"].is_not_null()
    assert (found["kind"] == table["kind"]).filter(known).mean() > 0.8


def test_missing_labels_numbers_and_tokens_are_told():
    table = spoken()
    assert (gone := table["kind"].null_count()) > 0
    rows = pl.int_range(pl.len())
    table = table.with_columns(
        kind=pl.when(pl.col("s") != "n3").then("kind"),
        v=pl.when(rows % 3 != 1).then("v"),
        w=pl.when(rows % 50 != 7).then("w"),
    )
    made = tg.Tagger(**SMALL | {"epochs": 1}, **TABLE).fit(table)
    said = " | ".join(made.notes_)
    assert f"{table['kind'].null_count()} of {table.height} steps have no label: read, not learnt, not scored" in said
    assert "left out 1 sequences without a label" in said
    assert "v: " in said
    assert "values are missing (3" in said
    assert f"w: {table['w'].null_count()} rows have no token, and are read as an empty word" in said
    assert "n3" not in made.sequences_.names
    assert table["kind"].null_count() > gone
    found = made.predict(table)
    assert found.height == table.height
    assert found["kind"].null_count() == 0
    assert found["w"].null_count() == table["w"].null_count()


def test_groups_are_never_parted(model):
    person = dict(spoken().select("s", "p").unique().iter_rows())
    parts = [{person[s] for s in names} for names in (*model.kept_.values(), model.untouched().names)]
    assert set.union(*parts) == set(person.values())
    assert sum(map(len, parts)) == len(set(person.values()))


def test_columns_and_roles(model):
    table = spoken()
    data = from_tagged_table(table, sequence="s", label="kind", time="t")
    assert data.columns == ["v"]
    assert data.tokens is None
    assert data.notes == ["left out columns that hold no numbers: w, p"]
    assert from_tagged_table(table, sequence="s", token="w").columns == []
    with pytest.raises(ConfigError, match="column 'w' is given as --token and as --label|--label and as --token"):
        from_tagged_table(table, sequence="s", label="w", token="w")
    with pytest.raises(ConfigError, match="--sequence is needed: the column that tells the sequences apart"):
        tg.Tagger(label="kind", token="w").fit(table)
    with pytest.raises(ConfigError, match="--label is needed: the column of labels"):
        tg.Tagger(sequence="s", token="w").fit(table)
    with pytest.raises(ConfigError, match="y and groups go with a list of sequences"):
        tg.Tagger(**TABLE).fit(table, [])
    other = table.with_columns(s=pl.lit("new ") + pl.col("s"))
    odd = other.with_columns(kind=pl.lit("z"))
    with pytest.raises(DataError, match="label 'z' did not occur in training, where there were 'down', 'level', 'up'"):
        model.evaluate(odd)
    assert model.evaluate(pl.concat([table, other]))["test"]["sequences"] == 40 + len(model.untouched())


# --- lists -----------------------------------------------------------------------------------------------------


def test_lists_in_and_out():
    tokens, tags = next_token(30)
    texts = ["".join(line) for line in tokens]  # the characters of a text are its tokens
    made = tg.Tagger(**SMALL | {"epochs": 2}).fit(texts, tags)
    assert not made.resolved_.characters
    other = clone(made).fit(tokens, [np.array(line) for line in tags])
    assert other.get_params() == made.get_params()
    found, again = made.predict(texts), other.predict(tokens)
    assert [part.tolist() for part in found] == [part.tolist() for part in again]
    assert [len(part) for part in found] == [len(line) for line in tokens]
    p = made.predict_proba(["ab", ""])
    assert [part.shape for part in p] == [(2, 4), (0, 4)]
    np.testing.assert_allclose(p[0].sum(1), 1)
    right = np.concatenate([part == line for part, line in zip(found, tags, strict=True)])
    assert made.score(texts, tags) == pytest.approx(right.mean())
    numbers = made.fit(tokens, [[len(tag) for tag in line] for line in tags])
    assert numbers.classes_.tolist() == [1, 3]
    assert numbers.predict(tokens)[0].dtype.kind == "i"


def test_lists_that_cannot_be_used():
    tokens, tags = next_token(10)
    made = tg.Tagger(**SMALL | {"epochs": 1})
    for given, labels, sentence in [
        ([], [], "there are no sequences: the list is empty"),
        (tokens, tags[:5], "labels are a list for each sequence; given 5 for 10 sequences"),
        (tokens, [*tags[:9], ["a"]], "labels are one a step; sequence 9 has .* steps and 1 labels"),
        ([*tokens[:9], [1, 2]], tags, "sequences are all of tokens or all of numbers; the list holds both"),
        ([*tokens[:9], ["a", 1]], tags, "tokens are text; a sequence holds both text and numbers"),
        (tokens, [[1] * len(tags[0]), *tags[1:]], "labels are all text or all numbers; the lists hold both"),
        (tokens, [[None] * len(line) for line in tags], "no step has a label"),
    ]:
        with pytest.raises(DataError, match=sentence):
            made.fit(given, labels)
    with pytest.raises(ConfigError, match="a list of sequences needs its labels"):
        made.fit(tokens)


def test_saved_without_its_data(tmp_path):
    tokens, tags = next_token(20)
    made = tg.Tagger(**SMALL | {"epochs": 1}).fit(tokens, tags)
    made.temperature_ = 2.0
    made.save(tmp_path)
    other = tg.Tagger.load(tmp_path)
    for a, b in zip(made.predict_proba(tokens), other.predict_proba(tokens), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(DataError, match="evaluate needs data: this model was fitted on data in memory"):
        other.evaluate()
    assert list(other.evaluate(tokens, tags)["models"]) == ["LSTM"]  # what the baselines would learn from is not kept


def test_a_label_that_training_lacks_is_told(model):
    tokens, tags = next_token(20)
    made = tg.Tagger(**SMALL | {"epochs": 1}, validation=0.3)
    made.fit(tokens, tags)
    tags[int(made.kept_["valid"][0])][0] = "rare"
    made.fit(tokens, tags)
    assert "1 of 5 labels do not occur in what trains" in made.notes_
    assert made.evaluate(tokens, tags)["test"]["steps"] == sum(map(len, tokens))


def test_another_form_learns_from_the_same_sequences(model):
    other = tg.Tagger(**SMALL | {"epochs": 1}, **TABLE, group="p").fit(spoken())
    other.sequences_ = other.training_data().take(np.arange(len(other.sequences_))[::-1])
    twin = other.twin("one-way")
    assert twin.kept_ == model.kept_
    assert twin.form == "LSTM, one-way"
    assert twin.model_.recurrent.directions == 1
    assert twin.model_.speller.directions == 2  # all letters of a word are there at once
    assert other.twin("lstm") is other
    with pytest.raises(ConfigError, match="--compare knows 'one-way', 'rnn', 'lstm'; given 'gru'"):
        other.twin("gru")


def test_taking_sequences_takes_their_steps():
    data = from_lists([["a", "b"], [], ["c", "d", "e"]], [["x", "y"], [], ["x", "x", "z"]], groups=["p", "q", "r"])
    part = data.take(np.array([2, 1, 0]))
    assert [part.words[n] for n in part.tokens] == ["c", "d", "e", "a", "b"]
    assert part.tags.tolist() == ["x", "x", "z", "x", "y"]
    assert part.offsets.tolist() == [0, 3, 3, 5]
    assert part.groups.tolist() == ["r", "q", "p"]
    assert replace(part).take(np.array([], np.int64)).lengths.tolist() == []


def test_a_passage_as_it_is_written():
    assert (
        written(["the", "duke", "o'er", "i"], ["Capital", "Capital,", "lower--", "Capital?"]) == "The Duke, o'er-- I?"
    )


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    tokens, tags = next_token(40)
    options = SMALL | {"epochs": 3}
    whole = tg.Tagger(**options).fit(tokens, tags, folder=tmp_path / "a").twin("one-way")
    made = tg.Tagger(**options).fit(tokens, tags, folder=tmp_path / "b")
    step, taken = loop._step, []

    def counted(job, *args):
        taken.append(1)
        if len(taken) == 7:
            signal.raise_signal(signal.SIGINT)
        return step(job, *args)

    monkeypatch.setattr(loop, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        made.twin("one-way")
    twin = made.twin("one-way")
    assert len(taken) == 3 * len(made._job().epoch(torch.Generator())) > 7  # none was taken twice
    for name, value in whole.model_.state_dict().items():
        assert torch.equal(twin.model_.state_dict()[name], value), name
    assert made.twin("one-way").training_ == twin.training_
    assert len(taken) == 3 * len(made._job().epoch(torch.Generator()))
