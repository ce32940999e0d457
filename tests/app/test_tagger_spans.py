"""Spans and their scores, and the most frequent tag of each token, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.data.tagged import from_lists
from tidegate.tasks.tag_baselines import fit_baselines
from tidegate.tasks.tag_spans import scheme, span_scores, spans


def test_spans_by_hand():
    iob = ["O", "B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "I-PER", "O", "I-ORG"]
    assert spans(iob) == [(1, 3, "PER"), (4, 5, "LOC"), (5, 7, "LOC"), (7, 8, "PER"), (9, 10, "ORG")]
    iobes = ["S-PER", "B-LOC", "I-LOC", "E-LOC", "E-LOC", "O", "I-LOC", "E-LOC", "S-LOC"]
    assert spans(iobes) == [(0, 1, "PER"), (1, 4, "LOC"), (4, 5, "LOC"), (6, 8, "LOC"), (8, 9, "LOC")]
    assert spans(["B", "I", "I", "O", "B", "B"]) == [(0, 3, ""), (4, 5, ""), (5, 6, "")]
    assert spans(["U-X", "L-X", "B-X", "L-X"]) == [(0, 1, "X"), (1, 2, "X"), (2, 4, "X")]
    assert spans([]) == spans(["O"]) == []
    assert scheme(["O", "B-PER", "I-PER"]) == "IOB"
    assert scheme(["O", "S-PER", "B-PER"]) == "IOBES"
    assert scheme(["B", "I"]) == "IOB"
    for labels in (["O"], ["O", "A-PER"], ["noun", "verb"], [1, 2], ["B", "O"]):
        assert scheme(labels) == ""


def test_span_scores_by_hand():
    """Two sequences: of three true spans one is found whole, one with a wrong end, one not; one more is said."""
    classes = ["B-PER", "I-PER", "O"]
    truth = [["B-PER", "I-PER", "O", "B-PER", "I-PER"], ["O", "B-PER", "O", "O"]]
    said = [["B-PER", "I-PER", "O", "B-PER", "O"], ["O", "O", "O", "B-PER"]]
    codes, named = (np.array([classes.index(t) for line in lines for t in line]) for lines in (truth, said))
    offsets = np.array([0, 5, 9])
    found = span_scores(named, codes, offsets, classes, 2)
    assert found == pytest.approx({"span_precision": 1 / 3, "span_recall": 1 / 3, "span_f1": 1 / 3, "spans": 3})
    codes[8] = -1  # the wrong one stands where nobody knows
    found = span_scores(named, codes, offsets, classes, 2)
    assert found == pytest.approx({"span_precision": 1 / 2, "span_recall": 1 / 3, "span_f1": 0.4, "spans": 3})
    one = span_scores(named, codes, np.array([0, 9]), classes, 2)
    assert one == found  # here no span crosses from one sequence to the next
    crossing = span_scores(np.array([0, 1]), np.array([0, 1]), np.array([0, 1, 2]), classes, 2)
    assert crossing["spans"] == 2
    plain = span_scores(np.array([0, 1, 2, 1]), np.array([0, 2, 1, 1]), np.array([0, 4]), ["a", "b", "c"], 2)
    assert plain == pytest.approx({"span_precision": 2 / 3, "span_recall": 2 / 3, "span_f1": 2 / 3, "spans": 3})
    assert span_scores(np.array([2]), np.array([2]), np.array([0, 1]), ["a", "b", "c"], 2)["span_f1"] == 0


def test_the_most_frequent_tag_of_each_token_by_hand():
    train = from_lists([["a", "a", "a", "b", "b", "c"]], [["x", "x", "y", "y", "x", None]])
    predict = fit_baselines(train, train.codes(["x", "y"]), 2, None)["most frequent of each token"]
    found = predict(from_lists([["b", "new", "a", "c"]]))
    overall = np.array([3 / 5, 2 / 5])
    expected = [[(1 + 0.6) / 3, (1 + 0.4) / 3], overall, [(2 + 0.6) / 4, (1 + 0.4) / 4], overall]
    np.testing.assert_allclose(found, expected)
