"""Two-column text: what is read and refused, and a run on it."""

from __future__ import annotations

import json

import polars as pl
from task_cases import next_token

import tidegate as tg
from tidegate.data.tagged import from_columns


def test_two_column_text(run, tmp_path):
    """Blanks or tabs, more columns than two, Windows' line ends, and blank lines wherever they stand."""
    path = tmp_path / "a.conll"
    path.write_bytes(
        b"\xef\xbb\xbf\n\r\n EU NNP  I-NP B-ORG\r\nrejects VBZ I-VP O\r\n\r\n   \r\n\nBlackburn NNP I-NP B-PER"
    )
    data = from_columns(path)
    assert [data.words[n] for n in data.tokens] == ["EU", "rejects", "Blackburn"]
    assert data.tags.tolist() == ["B-ORG", "O", "B-PER"]
    assert data.lengths.tolist() == [2, 1]
    assert not data.named
    path.write_text("New York\tB-LOC\n\t\nnow\t\nhere\tO\n\n\n")
    data = from_columns(path)
    assert [data.words[n] for n in data.tokens] == ["New York", "now", "here"]
    assert data.tags.tolist() == ["B-LOC", None, "O"]
    assert data.lengths.tolist() == [1, 2]
    path.write_text("only\ntokens\n\nhere\n")
    assert from_columns(path, labelled=False).lengths.tolist() == [2, 1]
    for name, wrong, sentence in [
        ("a.conll", b"", "a.conll is empty: it holds no tokens"),
        ("a.txt", b" \n\t\n\r\n", "a.txt is empty: it holds no tokens"),
        (
            "a.tsv",
            b"only\ntokens\n",
            "line 1 holds 'only', one column; a line is a token and its label, separated by a",
        ),
        (
            "a.conll",
            b"a\tO\n\nb O\n",
            "line 3 holds 'b O', one column; a line is a token and its label, separated by a tab",
        ),
        ("a.conll", b"a O\nb \xff\n", "line 2 is not UTF-8 text; save it as UTF-8"),
        ("a.conll", b"a O\nb \0\n", "line 2 holds binary data"),
        ("a.conll", b"a\t\nb\t\n", "no step has a label"),
        ("a.conll", b"a O\nb O\n", "there is one label only, 'O'; two at least are needed"),
        ("a.conll", b"a O\nb P\n", "there is a label of its own for each of 2 steps"),
        ("b.conll", None, "no such file: "),
        ("a.conllu", b"1\tDogs\tdog\tNOUN\n", "a.conllu: CoNLL-U is not read; make two-column text of its words and"),
    ]:
        if wrong is not None:
            (tmp_path / name).write_bytes(wrong)
        result = run("train", "tag", tmp_path / name, "--out", tmp_path / "run")
        assert result.code == 2
        assert sentence in result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_run_on_two_column_text(run, tmp_path):
    tokens, tags = next_token(60)
    (tmp_path / "a.txt").write_text(
        "\n\n".join(
            "\n".join(f"{w} x {t}" for w, t in zip(*both, strict=True)) for both in zip(tokens, tags, strict=True)
        )
    )
    words = ["--epochs", "2", "--hidden-size", "8", "--batch-size", "8", "--out", tmp_path / "run"]
    result = run("train", "tag", tmp_path / "a.txt", *words, "--compare", "one-way")
    assert result.code == 0, result.err
    assert "60 sequences of 3 to 11 steps" in result.err
    assert "3 distinct tokens, 3 of them known, 4 labels" in result.err
    for name in ("LSTM", "LSTM, one-way", "most frequent of each token"):
        assert f"\n{name} " in result.out
    assert (
        "Span F1: the labels write no spans (B-, I-, O), so each step whose label is not the most common" in result.out
    )
    assert "What the future is worth: read forwards only, " in result.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["sequences"] == 12
    assert (tmp_path / "run" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    assert "| most frequent of each token |" in (tmp_path / "run" / "README.md").read_text()
    (tmp_path / "new.conll").write_text("a\nb\n\nc\n")
    done = run("predict", tmp_path / "run", tmp_path / "new.conll", "-o", tmp_path / "t.csv")
    assert "wrote 3 rows of tags" in done.out
    found = pl.read_csv(tmp_path / "t.csv")
    assert found.select("sequence", "token").rows() == [(1, "a"), (1, "b"), (2, "c")]
    assert found.columns == ["sequence", "token", "tag", "probability"]
    result = run("predict", tmp_path / "run", tmp_path / "t.csv", "-o", tmp_path / "u.csv")
    assert "the model was trained without a table's columns; give two-column text (.conll, " in result.err
    assert run("evaluate", tmp_path / "run").code == 0
    made = tg.Tagger.load(tmp_path / "run")
    (tmp_path / "a.txt").write_text("\n\n".join((tmp_path / "a.txt").read_text().split("\n\n")[::-1]))
    assert "has changed since the model was trained on it" in run("evaluate", tmp_path / "run").err
    listed = made.predict([["a", "b"], ["c"]])
    assert [tag for part in listed for tag in part] == found["tag"].to_list()


def test_blanks_with_a_tab_and_lines_that_begin_a_document(tmp_path):
    text = "-DOCSTART- -X- O\n\nin O\nParis B\n\t\nin O\n-DOCSTART- -X- O\nRome B\n"
    (tmp_path / "a.conll").write_text(text)
    for labelled in (True, False):
        data = from_columns(tmp_path / "a.conll", labelled=labelled)
        assert data.lengths.tolist() == [2, 1, 1]
        assert data.given["token"].to_list() == ["in", "Paris", "in", "Rome"]
        assert data.notes == ["passed over 2 lines that begin a document (-DOCSTART-)"]
