"""How a tagger does on sequences it has not seen, beside baselines.

N sequences, R steps, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.data.tagged import TaggedSequences
from tidegate.tasks.bootstrap import accuracy_interval
from tidegate.tasks.classify_metrics import by_class, confusion, scores
from tidegate.tasks.sequence_report import sureness
from tidegate.tasks.tag_baselines import fit_baselines
from tidegate.tasks.tag_data import with_tags
from tidegate.tasks.tag_spans import span_scores, what_is_a_span

if TYPE_CHECKING:
    from tidegate.tasks.tag import Tagger

BLOCKS = 1_000  # sequences are drawn in at most so many blocks for the interval


def evaluate(
    model: Tagger, sequences: TaggedSequences, *, compare: Sequence[str] = (), progress: bool = False
) -> dict[str, Any]:
    """Scores of the model, of other forms of it, and of baselines, over the steps that have a label.

    Returns
    -------
    dict
        ``models`` by name with ``overall`` and ``by_class``; ``accuracy_interval``, 95% by bootstrap over whole
        sequences (or groups); ``confusion`` of the model, true classes in rows; ``classes``; ``common``, the most
        common class in training; ``temperature``; ``test``.
    """
    sequences, _ = with_tags(sequences)
    classes = model.classes_.tolist()
    codes = sequences.codes(classes)
    known = codes >= 0
    found = {model.form: model.probabilities(sequences)}
    model.check_comparisons(compare)
    for form in compare:
        twin = model.twin(form, progress=progress)
        found.setdefault(twin.form, twin.probabilities(sequences))
    for name, predict in _baselines(model).items():
        found[name] = predict(sequences)
    blocks = np.arange(len(sequences)) % BLOCKS if sequences.groups is None else sequences.groups
    blocks = np.repeat(blocks, sequences.lengths)[known]
    return {
        "test": {
            "sequences": len(sequences),
            "steps": int(known.sum()),
            "groups": None if sequences.groups is None else len(np.unique(sequences.groups)),
        },
        "models": {
            name: {
                "overall": scores(p[known], codes[known])
                | span_scores(p.argmax(1), codes, sequences.offsets, classes, model.common_),
                "by_class": by_class(p[known], codes[known], classes),
            }
            for name, p in found.items()
        },
        "accuracy_interval": {
            name: accuracy_interval(p[known].argmax(1) == codes[known], blocks, model.config.seed)
            for name, p in found.items()
        },
        "confusion": confusion(found[model.form][known], codes[known]).tolist(),
        "classes": classes,
        "common": model.common_,
        "temperature": model.temperature_,
    }


def _baselines(model: Tagger) -> dict[str, Any]:
    if not model.has_training_data:
        return {}
    data = model.kept_part("train", "valid")
    return fit_baselines(data, data.codes(model.classes_.tolist()), len(model.classes_), model.scaling_)


def sentences(metrics: dict[str, Any], form: str) -> list[str]:
    """What a span is, how sure the model says it is, and what the future is worth where that was measured."""
    own = metrics["models"][form]["overall"]
    found = [
        what_is_a_span(metrics["classes"], metrics["common"]),
        sureness(metrics, form),
    ]
    one_way = metrics["models"].get(f"{form}, one-way")
    if one_way is not None:
        other = one_way["overall"]
        found.append(
            f"What the future is worth: read forwards only, {100 * other['accuracy']:.1f}% of the labels are right, "
            f"span F1 is {100 * other['span_f1']:.1f}% instead of {100 * own['span_f1']:.1f}%, and log loss "
            f"{other['log_loss']:.3f} instead of {own['log_loss']:.3f}."
        )
    return found
