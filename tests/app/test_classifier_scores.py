"""Scores, intervals, baselines and calibration of a classifier, by hand and in its report."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import polars as pl
import pytest
from tables import refused
from task_cases import first_of_two, verses, waves

from tidegate.data.sequences import from_arrays
from tidegate.tasks import fonts
from tidegate.tasks.bootstrap import accuracy_interval, ratio_interval
from tidegate.tasks.classify_baselines import byte_summary, fit_baselines, summary
from tidegate.tasks.classify_metrics import confusion, scores
from tidegate.tasks.pictures import draw_confusion
from tidegate.tasks.temperature import fit_temperature, to_probabilities


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


def test_intervals_of_many(monkeypatch):
    """Exact for what is drawn one by one, in little memory; groups are drawn in blocks, to the same numbers."""
    right = np.arange(20_000) % 4 > 0
    tracemalloc.start()
    low, high = accuracy_interval(right, None, seed=0)
    ratio_interval(right.astype(float), np.ones(len(right)), seed=0)
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()
    half = 1.96 * np.sqrt(0.75 * 0.25 / len(right))
    assert (0.75 - low, high - 0.75) == pytest.approx((half, half), rel=0.1)
    groups = np.arange(300) // 2
    whole = accuracy_interval(right[:300], groups, seed=0)
    for most in (1, 1_000, 10**9):
        monkeypatch.setattr("tidegate.tasks.bootstrap.MOST", most)
        assert accuracy_interval(right[:300], groups, seed=0) == whole


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


def test_the_summary_of_no_bytes_and_of_no_texts():
    texts = from_arrays(["ab", "", "c"])
    columns = np.frombuffer(b"ab", np.uint8)
    assert byte_summary(texts.take(np.arange(0)), columns).shape == (0, 13)
    np.testing.assert_array_equal(byte_summary(texts, columns[:0]), [[2], [0], [1]])


@pytest.mark.parametrize("texts", [["tide in", "tide out"] * 10, [""] * 20])
def test_baselines_of_text_without_a_validation_part(texts):
    data, codes = from_arrays(texts), np.tile([0, 1], 10)
    found = fit_baselines(data, codes, data.take(np.arange(0)), codes[:0], 2)
    assert "logistic regression, n-grams" in found or not any(texts)
    for predict in found.values():
        np.testing.assert_allclose(predict(from_arrays(["tide", ""])).sum(1), 1)


def test_text_without_a_validation_part(run, tmp_path):
    pl.DataFrame({"w": ["yes", "no"] * 10, "l": ["y", "n"] * 10}).write_csv(tmp_path / "a.csv")
    words = ["--text", "w", "--label", "l", "--validation", "0", "--epochs", "1", "--hidden-size", "4"]
    result = run("train", "classify", tmp_path / "a.csv", *words, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    assert "logistic regression, n-grams" in result.out


def test_names_with_dollar_signs_are_drawn_as_they_are():
    """Two of them would begin and end a formula, which these are not."""
    picture = draw_confusion([[2, 1], [0, 3]], ["$10_$20", "_$x^$"], "LSTM", "sequences")
    assert picture[:4] == b"\x89PNG"


def test_letters_that_the_usual_font_lacks(monkeypatch, capsys):
    """From a font that has them, as one that comes with matplotlib has the arc; without any a note, once."""

    def draw(label: str) -> bytes:
        return draw_confusion([[2, 1], [0, 3]], ["a", label], "LSTM", "sequences")

    fonts._say_boxes.cache_clear()
    arc = draw("\N{ARC}")
    assert fonts.fonts_with(frozenset({0x2312, ord("a")}))[1]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(fonts, "_installed", lambda: {"DejaVu Sans": frozenset({ord("a")})})
    assert draw("\N{ARC}") != arc
    draw("\u4e2d\u6587")
    assert capsys.readouterr().err.count("letters that no installed font has are boxes in the pictures") == 1


def test_the_report(run, tmp_path):
    waves().write_csv(tmp_path / "a.csv")
    words = ["--sequence", "s", "--label", "kind", "--time", "t", "--feature", "v", "--group", "p", "--epochs", "2"]
    result = run("train", "classify", tmp_path / "a.csv", *words, "--out", tmp_path / "run", "--compare", "shuffled")
    assert result.code == 0, result.err
    assert "40 sequences of 4 to 11 steps, 1 column, 2 labels" in result.err
    for name in ("LSTM", "LSTM, steps shuffled", "majority", "logistic regression"):
        assert f"\n{name} " in result.out
    assert "What order is worth: with the steps of each sequence in random order, in training too, " in result.out
    assert "Intervals rest on 2 groups only, and are too narrow" in result.out
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
    result = run("predict", tmp_path / "run", tmp_path / "a.csv", "-o", tmp_path / "l.csv", "--seed", "0")
    assert "--seed is for forecasts" in result.err


def test_nothing_kept_untouched(run, tmp_path):
    waves().write_csv(tmp_path / "a.csv")
    words = ["--sequence", "s", "--label", "kind", "--epochs", "1", "--test", "0", "--out", tmp_path / "run"]
    result = run("train", "classify", tmp_path / "a.csv", *words)
    assert result.code == 0, result.err
    assert "Nothing was kept untouched (--test 0), so there is no score." in result.out
    sentence = "--compare rnn: nothing is kept untouched to score it on; give a --test above 0"
    refused(run("evaluate", tmp_path / "run", "--compare", "rnn"), sentence)
    words[-1] = tmp_path / "other"
    refused(run("train", "classify", tmp_path / "a.csv", *words, "--compare", "rnn"), sentence)
    (tmp_path / "a.txt").write_bytes(verses())
    refused(run("train", "text", tmp_path / "a.txt", "--test", "0", "--out", words[-1], "--compare", "rnn"), sentence)
    assert not words[-1].exists()
    waves().with_columns(s=pl.lit("new ") + pl.col("s")).write_csv(tmp_path / "b.csv")
    result = run("evaluate", tmp_path / "run", tmp_path / "b.csv", "--compare", "rnn")
    assert "\nRNN " in result.out, result.err
