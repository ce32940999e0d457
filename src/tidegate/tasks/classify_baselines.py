"""What a classifier is measured against: the most common class, and logistic regression with little order or none.

N sequences, C columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tidegate.data.sequences import Sequences

Array = np.ndarray
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
STATISTICS = ("mean", "std", "min", "max", "first", "last")


def fit_baselines(
    train: Sequences, train_codes: Array, valid: Sequences, valid_codes: Array, classes: int
) -> dict[str, Callable[[Sequences], Array]]:
    """Each baseline by name: a function from sequences to probabilities (N, K).

    A regression's penalty is chosen on the validation part; it is then fitted to both parts.
    """
    codes = np.concatenate([train_codes, valid_codes])
    share = np.bincount(codes, minlength=classes) / len(codes)
    found: dict[str, Callable[[Sequences], Array]] = {"majority": lambda sequences: np.tile(share, (len(sequences), 1))}
    given = train, train_codes, valid, valid_codes, classes
    if train.text:
        seen = np.unique(train.values)
        found["logistic regression"] = _regression(*given, lambda texts: byte_summary(texts, seen), StandardScaler)
        if len(seen):  # of empty texts there is none
            found["logistic regression, n-grams"] = _regression(*given, _texts, _ngrams)
    else:
        found["logistic regression"] = _regression(*given, summary, StandardScaler)
    return found


def _regression(
    train: Sequences,
    train_codes: Array,
    valid: Sequences,
    valid_codes: Array,
    classes: int,
    design: Callable[[Sequences], Any],
    first: Callable[[], Any],
) -> Callable[[Sequences], Array]:
    """On what ``design`` makes of the sequences, after a first step of scikit-learn's."""
    x, x_valid = design(train), design(valid)

    def made(penalty: float) -> Any:
        return make_pipeline(first(), LogisticRegression(C=penalty, max_iter=2_000))

    def probabilities(model: Any, rows: Any) -> Array:
        found = np.zeros((len(rows), classes))
        found[:, model.classes_] = model.predict_proba(rows)
        return found

    best = 1.0
    if len(valid_codes):
        labels = np.arange(classes)
        losses = [
            log_loss(valid_codes, np.clip(probabilities(made(c).fit(x, train_codes), x_valid), 1e-12, 1), labels=labels)
            for c in PENALTIES
        ]
        best = PENALTIES[int(np.argmin(losses))]
    both = [*x, *x_valid] if isinstance(x, list) else np.concatenate([x, x_valid])
    model = made(best).fit(both, np.concatenate([train_codes, valid_codes]))
    return lambda sequences: probabilities(model, design(sequences))


def _ngrams() -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)


def _texts(sequences: Sequences) -> list[str]:
    return [sequences.one(n).tobytes().decode("utf-8", errors="replace") for n in range(len(sequences))]


def summary(sequences: Sequences) -> Array:
    """Mean, standard deviation, minimum, maximum, first and last known value of each column, and the length.

    Returns
    -------
    array (N, 6 C + 1)
        0 where a column has no known value.
    """
    rows = np.zeros((len(sequences), len(STATISTICS) * len(sequences.columns) + 1))
    for n in range(len(sequences)):
        values = sequences.one(n).astype(np.float64)  # (T, C)
        for c in range(values.shape[1]):
            known = values[np.isfinite(values[:, c]), c]
            if len(known):
                found = (known.mean(), known.std(), known.min(), known.max(), known[0], known[-1])
                rows[n, c * len(found) : (c + 1) * len(found)] = found
        rows[n, -1] = len(values)
    return rows


def byte_summary(texts: Sequences, seen: Array) -> Array:
    """The same of texts, each byte a column that is 1 where it stands and 0 elsewhere.

    Parameters
    ----------
    texts : Sequences
    seen : (C,) uint8
        The bytes that are columns, sorted; others count in the length alone.

    Returns
    -------
    array (N, 6 C + 1)
    """
    lengths, count = texts.lengths, len(seen)
    column = np.searchsorted(seen, texts.values)  # (R,)
    known = np.isin(texts.values, seen)
    row = np.repeat(np.arange(len(texts)), lengths)
    places = (row * count + column)[known]
    mean = np.bincount(places, minlength=len(texts) * count).reshape(len(texts), count)
    mean = mean / np.maximum(lengths, 1)[:, None]
    found = np.zeros((len(texts), count, len(STATISTICS)))
    found[..., :4] = np.stack([mean, np.sqrt(mean * (1 - mean)), mean == 1, mean > 0], -1)
    full = np.flatnonzero(lengths)
    for k, place in ((4, texts.offsets[:-1]), (5, texts.offsets[1:] - 1)):
        rows = full[known[place[full]]]
        found[rows, column[place[rows]], k] = 1
    return np.concatenate([found.reshape(len(texts), count * len(STATISTICS)), lengths[:, None]], 1)
