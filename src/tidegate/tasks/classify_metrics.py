"""Scores of stated probabilities against true classes.

N sequences, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

Array = np.ndarray
LEAST = 1e-12  # a stated probability of 0 costs no more than this


def scores(probabilities: Array, codes: Array) -> dict[str, float]:
    """Accuracy, macro F1, log loss, and the mean probability of the class that is named.

    Parameters
    ----------
    probabilities : (N, K)
    codes : (N,) true classes

    Returns
    -------
    dict
        accuracy and macro_f1 (shares; F1 is the mean over the classes that occur or are named),
        log_loss (nats), confidence (a share, equal to the accuracy where probabilities are calibrated).
    """
    named = probabilities.argmax(1)
    clipped = np.clip(probabilities, LEAST, 1)
    clipped /= clipped.sum(1, keepdims=True)
    labels = np.arange(probabilities.shape[1])
    return {
        "accuracy": float(accuracy_score(codes, named)),
        "macro_f1": float(f1_score(codes, named, average="macro", zero_division=0)),
        "log_loss": float(log_loss(codes, clipped, labels=labels)),
        "confidence": float(probabilities.max(1).mean()),
    }


def by_class(probabilities: Array, codes: Array, classes: list[Any]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each class, and how often it occurs."""
    labels = np.arange(len(classes))
    found = precision_recall_fscore_support(codes, probabilities.argmax(1), labels=labels, zero_division=0)
    names = ("precision", "recall", "f1", "count")
    return {str(c): {name: float(found[i][k]) for i, name in enumerate(names)} for k, c in enumerate(classes)}


def confusion(probabilities: Array, codes: Array) -> Array:
    """How often each true class (rows) is given each name (columns), (K, K)."""
    return confusion_matrix(codes, probabilities.argmax(1), labels=np.arange(probabilities.shape[1]))
