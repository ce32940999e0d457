"""Spans of labels: what counts as one, and how many are found.

R steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

TYPED, BARE = re.compile(r"O|[BIESLU]-.+"), re.compile(r"[BIESLUO]")
Span = tuple[int, int, str]  # first step, one after the last, type


def scheme(classes: Iterable[Any]) -> str:
    """How the labels write spans: "IOBES" (or BILOU), "IOB", or "" where they do not."""
    names = [str(label) for label in classes]
    typed = all(TYPED.fullmatch(name) for name in names) and any(name != "O" for name in names)
    bare = all(BARE.fullmatch(name) for name in names) and {"B", "I"} <= set(names)
    if not typed and not bare:
        return ""
    return "IOBES" if any(name[0] in "ESLU" for name in names) else "IOB"


def spans(labels: Iterable[str]) -> list[Span]:
    """The spans of one sequence.

    Read as the CoNLL shared tasks do (Tjong Kim Sang & Buchholz 2000): what is inside without a beginning, or of
    another type than before, begins a span too.
    """
    found: list[Span] = []
    start, kind = -1, ""  # of the span that is open
    n = -1
    for n, label in enumerate(labels):
        part, _, name = label.partition("-")
        begins = part in ("B", "S", "U") or (part != "O" and (start < 0 or name != kind))
        if start >= 0 and (begins or part == "O"):
            found.append((start, n, kind))
            start = -1
        if begins:
            start, kind = n, name
        if part in ("E", "S", "L", "U"):
            found.append((start, n + 1, kind))
            start = -1
    return [*found, (start, n + 1, kind)] if start >= 0 else found


def span_scores(
    named: np.ndarray, codes: np.ndarray, offsets: np.ndarray, classes: list[Any], common: int
) -> dict[str, float]:
    """Precision, recall and F1 of spans: right where first step, last step and type are.

    Without a scheme in the labels each step whose label is not the most common one is a span of its own.

    Parameters
    ----------
    named, codes : (R,)
        Classes given and true; -1 for a step without a label, which ends spans and is in none.
    offsets : (N + 1,)
        Where each sequence starts, and the end.
    classes : list
    common : int
        The most common class in training.

    Returns
    -------
    dict
        span_precision, span_recall, span_f1 (shares, 0 where nothing is found), spans (how many there truly are).
    """
    known = codes >= 0
    if scheme(classes):
        names = np.array([*map(str, classes), "O"], object)
        truth, given = names[codes], names[np.where(known, named, -1)]
        there, said, right = 0, 0, 0
        for a, b in pairwise(offsets.tolist()):
            mine, other = set(spans(truth[a:b])), set(spans(given[a:b]))
            there, said, right = there + len(mine), said + len(other), right + len(mine & other)
    else:
        there, said = int((known & (codes != common)).sum()), int((known & (named != common)).sum())
        right = int((known & (codes != common) & (named == codes)).sum())
    precision, recall = right / max(said, 1), right / max(there, 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"span_precision": precision, "span_recall": recall, "span_f1": f1, "spans": there}


def what_is_a_span(classes: list[Any], common: int) -> str:
    """In a sentence."""
    if found := scheme(classes):
        return f"Span F1: the labels are read as {found} spans, right where first step, last step and type are."
    return (
        "Span F1: the labels write no spans (B-, I-, O), so each step whose label is not the most common one, "
        f"'{classes[common]}', is a span of its own."
    )
