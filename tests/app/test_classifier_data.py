"""What a classifier learns from: tables, folders of them, text, arrays, and what of these cannot be used."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from task_cases import first_of_two, waves

import tidegate as tg
from tidegate.data.sequences import from_arrays, from_folder, from_table
from tidegate.data.tagged import from_lists, from_tagged_table
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.classify_data import with_labels

SMALL = {"hidden_size": 8, "epochs": 12, "batch_size": 8, "learning_rate": 0.03, "average": 0.5, "cpu": True}


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


def test_blanks_around_labels_do_not_count(tmp_path):
    kind = (
        pl.when(pl.col("s") == "n0").then(pl.lit("  ")).when(pl.col("s") == "n2").then(pl.lit(" up")).otherwise("kind")
    )
    waves().with_columns(kind=kind).write_csv(tmp_path / "a.csv")
    texts = pl.DataFrame({"say": ["a", "b", "c"], "what": ["up", " up ", " "]})
    long, short = (
        from_table(tmp_path / "a.csv", sequence="s", label="kind"),
        from_table(texts, text="say", label="what"),
    )
    assert sorted(set(long.labels)) == ["", "down", "up"]
    assert short.labels.tolist() == ["up", "up", ""]
    for data in (long, short, from_arrays(["a", "b"], ["up", " "])):
        assert with_labels(data)[1] == ["left out 1 sequences without a label"]
    assert from_lists([["a", "b"]], [["up", " "]]).tags.tolist() == ["up", None]
    table = pl.DataFrame({"s": [1, 1, 1], "w": ["a", " ", "b"], "what": [" up", "up", "  "]})
    tagged = from_tagged_table(table, sequence="s", token="w", label="what")
    assert tagged.tags.tolist() == ["up", "up", None]
    assert tagged.words == ["a", " ", "b"]  # but a blank may be a token


def test_what_changes_numbers_only_is_said_of_texts():
    """A list or a folder shows only when it is read that it holds texts."""
    words, labels = ["abc", "xyz"] * 10, ["first", "last"] * 10
    note = "text is read as it is: scale, crop change numbers only"
    options = {"hidden_size": 4, "epochs": 1}
    assert note in tg.Classifier(**options, scale=0.1, crop=0.2).fit(words, labels).notes_
    assert not any("as it is" in one for one in tg.Classifier(**options, noise=0.1).fit(words, labels).notes_)


@pytest.mark.parametrize("option", ["scale", "warp", "crop"])
def test_options_that_change_numbers_do_not_go_with_text(option):
    with pytest.raises(ConfigError, match=f"{option} changes sequences of numbers; it does not go with text"):
        tg.Classifier(text="say", label="what", **{option: 0.5})


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


DATES = np.array(["2020-01-01", "2020-01-02"] * 10, "datetime64[ns]")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([1, "a"] * 10, "labels are all text or all numbers; the lists hold both"),
        ([None, 1, "a", "a"] * 5, "labels are all text or all numbers; the lists hold both"),
        (DATES, "labels are all text or all numbers; given datetime64"),
        (DATES.astype("datetime64[us]").tolist(), "labels are all text or all numbers; given datetime"),
        ([1, (1, 2)] * 10, "labels are all text or all numbers; given numbers and tuple"),
    ],
)
def test_labels_of_other_kinds(labels, sentence):
    x, y = first_of_two(20)
    with pytest.raises(DataError, match=f"^{sentence}$"):
        tg.Classifier(**SMALL).fit(x, labels)
    with pytest.raises(DataError, match=f"^{sentence.replace('labels', 'groups')}$"):
        tg.Classifier(**SMALL).fit(x, y, groups=labels)
    with pytest.raises(DataError, match=f"^{sentence}$"):
        tg.Tagger(**{name: SMALL[name] for name in ("hidden_size", "epochs", "cpu")}).fit([["a"] * 20], [list(labels)])


def test_a_list_of_labels_in_which_some_are_missing():
    x, _ = first_of_two(20)
    y = ["up", "down", None, "up", float("nan"), "down", " ", "up", "down", "up"] * 2
    made = tg.Classifier(**SMALL | {"epochs": 1}).fit(x, y)
    assert made.classes_.tolist() == ["down", "up"]
    assert "left out 6 sequences without a label" in made.notes_
    with pytest.raises(DataError, match="^groups: sequence 3 has none; give each sequence one$"):
        made.fit(x, y, groups=["a", "b", "c", None, *"abcd" * 4])


def test_half_a_surrogate_pair(tmp_path):
    """A str may hold what UTF-8 cannot write; a list of such is read all the same."""
    texts, labels = ["\ud800 in", "out \udc80"] * 10, [1, 0] * 10
    made = tg.Classifier(**SMALL | {"epochs": 1}, test=0.2).fit(texts, labels)
    made.evaluate()
    assert made.predict(texts).shape == (20,)
    tagger = tg.Tagger(hidden_size=4, epochs=1, cpu=True).fit([text.split() for text in texts], [["a", "b"]] * 20)
    tagger.save(tmp_path / "run")
    again = tg.Tagger.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict_proba([["\ud800"]])[0], tagger.predict_proba([["\ud800"]])[0])


def test_the_accuracy_of_a_table():
    table = waves()
    made = tg.Classifier(**SMALL | {"epochs": 1}, sequence="s", label="kind").fit(table)
    truth = table.group_by("s", maintain_order=True).first()["kind"]
    assert made.score(table, truth) == pytest.approx((made.predict(table)["kind"] == truth).mean())
    assert made.score(table.to_pandas(), truth.to_list()) == made.score(table, truth)
    with pytest.raises(DataError, match=r"labels are one a sequence; given \(2,\) for 40 sequences"):
        made.score(table, ["up", "down"])


def test_sequences_without_steps_alone_or_beside_others():
    x, y = first_of_two(20)
    made = tg.Classifier(**SMALL | {"epochs": 1}).fit(x, y)
    empty = np.zeros((0, 1))
    np.testing.assert_allclose(made.predict_proba([empty]), made.predict_proba([empty, x[0]])[:1], rtol=1e-6)
    np.testing.assert_array_equal(made.predict([empty, empty]), made.predict([empty, x[0], empty])[[0, 2]])
    made.fit(["tide in", "tide out"] * 10, y)
    np.testing.assert_allclose(made.predict_proba([""]), made.predict_proba(["", "tide"])[:1], rtol=1e-6)


def test_files_that_are_hidden_are_passed_over(tmp_path):
    for name in ("up/a.csv", "down/b.csv", ".ipynb_checkpoints/c.csv", "up/.d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("t,v\n1,1\n2,3\n")
    assert from_folder(tmp_path).names == ["down/b.csv", "up/a.csv"]


def test_a_time_that_is_not_in_every_file_of_a_folder(tmp_path):
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a.csv").write_text("t,v\n1,1\n2,3\n")
    with pytest.raises(DataError, match=r"--time s: .*a.csv has no column 's'"):
        from_folder(tmp_path, time="s")
    (tmp_path / "up" / "b.csv").write_text("t,v\n2020-01-02,1\n,3\n2020-01-01,3\n")
    (tmp_path / "up" / "a.csv").write_text("t,v\n2020-01-02,1\n2020-01-03,3\n")
    with pytest.raises(DataError, match=r"b.csv: --time t: row 2 \(line 3 of a CSV file\) has no time"):
        from_folder(tmp_path, time="t")


def folder_of(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / name[0]).mkdir(exist_ok=True)
        (tmp_path / name[0] / f"{name}.csv").write_text(text)
    return from_folder(tmp_path)


def test_columns_of_a_folder_are_judged_by_all_its_files(tmp_path):
    """A mark of a missing value loses no column, true and false are numbers, and what is left out is told."""
    data = folder_of(
        tmp_path,
        a1="v,b,w,e,d\nNA,true,x,,2020-01-01\n2,false,y,,2020-01-02\n",
        a2="v,b,w,e,d\n3,true,1,,2020-01-01\n",
        b1="d,w,b,v,e,note\n2020-01-01,u,false,4.5,,long\n",
    )
    assert data.columns == ["v", "b"]
    np.testing.assert_array_equal(data.values, [[np.nan, 1], [2, 0], [3, 1], [4.5, 0]])
    assert data.notes == ["left out columns that hold no numbers: w, e, d, note"]


def test_columns_of_a_folder_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"a1.csv has no column 'V'; did you mean 'v'\?"):
        folder_of(tmp_path, a1="v\n1\n", b1="V\n1\n")
    with pytest.raises(DataError, match="the files in .* have no column of numbers"):
        folder_of(tmp_path, a1="v\nx\n", b1="v\nNA\n")
    with pytest.raises(
        DataError, match=r"b1.csv: column 'v': row 21 \(line 22 of a CSV file\) holds 'oops', no number"
    ):
        folder_of(tmp_path, a1="v\n1\n", b1="v\n" + "1\n" * 20 + "oops\n")


@pytest.mark.parametrize("marks", [["NA"], ["nan", " ", "-", "#N/A", None] * 4])
def test_marks_of_missing_values_spoil_no_column(tmp_path, marks):
    table = waves()
    text = table["v"].cast(pl.String).scatter(list(range(len(marks))), marks)
    table.with_columns(v=text).write_csv(tmp_path / "a.csv")
    for source in (tmp_path / "a.csv", table.with_columns(v=text), table.with_columns(v=text.cast(pl.Categorical))):
        data = from_table(source, sequence="s", label="kind")
        assert data.columns == ["t", "v", "w"]
        assert np.isnan(data.values[:, 1]).sum() == len(marks)
        assert data.notes == ["left out columns that hold no numbers: p"]


@pytest.mark.parametrize(("old", "new"), [("kind", "probability"), ("s", "probability"), ("s", "p_up")])
def test_names_that_predictions_would_have_twice(old, new):
    options = {"sequence": "s", "label": "kind", "feature": ["v"]}
    options |= {role: new for role, name in options.items() if name == old}
    with pytest.raises(ConfigError, match=f"predictions would have two columns named '{new}'; rename that of the data"):
        tg.Classifier(**SMALL, **options).fit(waves().rename({old: new}))


@pytest.mark.parametrize("seed", range(4))
def test_too_few_groups(seed):
    x, y, groups = [np.ones((3, 1), np.float32)] * 3, ["a", "b", "a"], ["1", "2", "3"]
    with pytest.raises(DataError, match="no label occurs twice|labels occur only in groups|leaves too few groups"):
        tg.Classifier(**SMALL, test=0.3, seed=seed).fit(x, y, groups=groups)
