"""What a tagger is measured against: labels given step by step, without a look to either side.

R steps, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from tidegate.data.tagged import TaggedSequences
from tidegate.tasks.sequence_data import SequenceScaling

Array = np.ndarray


def fit_baselines(
    train: TaggedSequences, codes: Array, classes: int, scaling: SequenceScaling | None
) -> dict[str, Callable[[TaggedSequences], Array]]:
    """Each baseline by name: a function from sequences to probabilities (R, K).

    Parameters
    ----------
    train
        The sequences that the model trained with and stopped by.
    codes : (R,) classes, -1 where there is no label
    classes : int
        K.
    scaling
        Of the columns of numbers, if there are any.
    """
    found: dict[str, Callable[[TaggedSequences], Array]] = {}
    if train.tokens is not None:
        found["most frequent of each token"] = _per_token(train, codes, classes)
    if scaling is not None:
        found["logistic regression, step by step"] = _regression(train, codes, classes, scaling)
    return found


def _per_token(train: TaggedSequences, codes: Array, classes: int) -> Callable[[TaggedSequences], Array]:
    """The shares of the labels of each token, with one more step of the overall shares; these alone for a new token."""
    assert train.tokens is not None
    known = codes >= 0
    count = np.zeros((len(train.words) + 1, classes))
    np.add.at(count, (train.tokens[known], codes[known]), 1)
    count += count.sum(0) / known.sum()  # so that a tie goes to the label that is commoner
    share = count / count.sum(1, keepdims=True)  # (W + 1, K)
    number = {word: n for n, word in enumerate(train.words)}

    def probabilities(data: TaggedSequences) -> Array:
        return share[np.array([number.get(word, -1) for word in data.words], np.int64)][data.tokens]

    return probabilities


def _regression(
    train: TaggedSequences, codes: Array, classes: int, scaling: SequenceScaling
) -> Callable[[TaggedSequences], Array]:
    """On the numbers of each step alone."""
    known = codes >= 0
    several = len(np.unique(codes[known])) > 1  # a regression needs two labels; all others may be kept untouched
    model = LogisticRegression(max_iter=1_000) if several else DummyClassifier()
    model.fit(scaling.apply(train.values[known]), codes[known])

    def probabilities(data: TaggedSequences) -> Array:
        found = np.zeros((len(data.values), classes))
        found[:, model.classes_] = model.predict_proba(scaling.apply(data.values))
        return found

    return probabilities
