"""How a classifier does on sequences it has not seen, beside baselines.

N sequences, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.data.sequences import Sequences
from tidegate.errors import DataError
from tidegate.tasks.bootstrap import accuracy_interval
from tidegate.tasks.classify_baselines import fit_baselines
from tidegate.tasks.classify_data import with_labels
from tidegate.tasks.classify_metrics import by_class, confusion, scores
from tidegate.tasks.sequence_report import sureness
from tidegate.training.progress import say

if TYPE_CHECKING:
    from tidegate.tasks.classify import Classifier

FEW_GROUPS = 8  # below which drawing them again tells too little of how they differ


def evaluate(
    model: Classifier, sequences: Sequences, *, compare: Sequence[str] = (), progress: bool = False
) -> dict[str, Any]:
    """Scores of the model, of other forms of it, and of baselines.

    Returns
    -------
    dict
        ``models`` by name with ``overall`` and ``by_class``; ``accuracy_interval``, 95% by bootstrap;
        ``confusion`` of the model, true classes in rows; ``classes``; ``temperature``; ``test``.
    """
    sequences, _ = with_labels(sequences)
    codes = _codes(model, sequences)
    found = {model.form: model.probabilities(sequences)}
    model.check_comparisons(compare)
    for form in compare:
        twin = model.twin(form, progress=progress)
        found.setdefault(twin.form, twin.probabilities(sequences))
    if progress:
        say(["baselines on the same sequences"])
    for name, predict in _baselines(model).items():
        found[name] = predict(sequences)
    classes, seed = model.classes_.tolist(), model.config.seed
    own = found[model.form]
    return {
        "test": {"sequences": len(sequences), "groups": _groups(sequences)},
        "models": {
            name: {"overall": scores(p, codes), "by_class": by_class(p, codes, classes)} for name, p in found.items()
        },
        "accuracy_interval": {
            name: accuracy_interval(p.argmax(1) == codes, sequences.groups, seed) for name, p in found.items()
        },
        "confusion": confusion(own, codes).tolist(),
        "classes": classes,
        "temperature": model.temperature_,
    }


def _codes(model: Classifier, sequences: Sequences) -> np.ndarray:
    assert sequences.labels is not None
    known = {label: k for k, label in enumerate(model.classes_.tolist())}
    labels = sequences.labels.tolist()
    if new := [label for label in labels if label not in known]:
        listed = ", ".join(repr(label) for label in list(known)[:20])
        raise DataError(f"label {new[0]!r} did not occur in training, where there were {listed}")
    return np.array([known[label] for label in labels], np.int64)


def _groups(sequences: Sequences) -> int | None:
    return None if sequences.groups is None else len(np.unique(sequences.groups))


def _baselines(model: Classifier) -> dict[str, Any]:
    if not model.has_training_data:
        return {}
    train, valid = model.kept_part("train"), model.kept_part("valid")
    return fit_baselines(train, _codes(model, train), valid, _codes(model, valid), len(model.classes_))


def sentences(metrics: dict[str, Any], form: str) -> list[str]:
    """How sure the model says it is, what intervals of few groups are worth, and order where that was measured."""
    found, shuffled = [sureness(metrics, form)], metrics["models"].get(f"{form}, steps shuffled")
    groups = metrics["test"]["groups"]
    if groups is not None and groups < FEW_GROUPS:
        found.append(
            f"Intervals rest on {groups} group{'s' * (groups > 1)} only, and are too narrow; others may differ more."
        )
    if shuffled is not None:
        own, other = metrics["models"][form]["overall"], shuffled["overall"]
        found.append(
            f"What order is worth: with the steps of each sequence in random order, in training too, "
            f"{100 * other['accuracy']:.1f}% are right, and log loss is {other['log_loss']:.3f} instead of "
            f"{own['log_loss']:.3f}."
        )
    return found
