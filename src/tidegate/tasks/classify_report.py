"""How a classifier does on sequences it has not seen, beside baselines; and what is left for a person.

N sequences, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tidegate
from tidegate.data.atomic import atomic_write
from tidegate.data.sequences import Sequences
from tidegate.errors import DataError
from tidegate.tasks.classify_baselines import fit_baselines
from tidegate.tasks.classify_data import with_labels
from tidegate.tasks.classify_metrics import accuracy_interval, by_class, confusion, scores
from tidegate.tasks.learner import Report
from tidegate.tasks.pictures import draw_confusion
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import CARD, CONFIG, METRICS, MODEL, write_metrics, write_text
from tidegate.training.loop import HISTORY

if TYPE_CHECKING:
    from tidegate.tasks.classify import Classifier

COLUMNS = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}


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
    for form in compare:
        twin = model.twin(form, progress=progress)
        found.setdefault(twin.form, twin.probabilities(sequences))
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
    return np.array([known[label] for label in labels])


def _groups(sequences: Sequences) -> int | None:
    return None if sequences.groups is None else len(np.unique(sequences.groups))


def _baselines(model: Classifier) -> dict[str, Any]:
    if model.sequences_ is None and model.data_ is None:
        return {}  # trained on arrays and loaded again: what it learnt from is not kept
    train, valid = model.kept_part("train"), model.kept_part("valid")
    return fit_baselines(train, _codes(model, train), valid, _codes(model, valid), len(model.classes_))


def table(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores, for people; the best of each column is marked."""
    shown = {name: m["overall"] for name, m in metrics["models"].items()}
    best = {key: (min if key == "log_loss" else max)(row[key] for row in shown.values()) for key in COLUMNS}
    rows = []
    for name, row in shown.items():
        cells = [
            (f"{row[key]:.3f}" if key == "log_loss" else f"{100 * row[key]:.1f}%")
            + ("*" if row[key] == best[key] else " ")
            for key in COLUMNS
        ]
        low, high = metrics["accuracy_interval"][name]
        rows.append([name, *cells, f"{100 * low:.1f}% to {100 * high:.1f}%"])
    return ["", *COLUMNS.values(), "95% interval"], rows


def write_report(
    model: Classifier, folder: Path, data: Any, *, compare: Sequence[str], command: str, progress: bool
) -> Report:
    """Score, write ``metrics.json``, the confusion matrix and the card."""
    files = [MODEL, CONFIG, METRICS, HISTORY, CARD]
    if data is None and model.resolved_.test == 0:
        write_text(folder / CARD, _card(model, None, command))
        kept = [folder / name for name in files if (folder / name).exists()]
        return Report("", [], [], ["Nothing was kept untouched (--test 0), so there is no score."], [], kept)
    sequences = model.untouched(data)
    metrics = evaluate(model, sequences, compare=compare, progress=progress)
    write_metrics(folder, metrics)
    with atomic_write(folder / "confusion.png") as file:
        file.write(draw_confusion(metrics["confusion"], metrics["classes"], model.form, "sequences"))
    write_text(folder / CARD, _card(model, metrics, command))
    return Report(
        f"{len(sequences):,} sequences kept untouched; * is best",
        *table(metrics),
        sentences(metrics, model.form),
        sequences.notes if data is not None else [],
        [*(folder / name for name in files if (folder / name).exists()), folder / "confusion.png"],
    )


def sentences(metrics: dict[str, Any], form: str) -> list[str]:
    """How sure the model says it is, and what order is worth where that was measured."""
    own = metrics["models"][form]["overall"]
    found = [
        f"{form} is {100 * own['confidence']:.1f}% sure of its labels on average (temperature "
        f"{metrics['temperature']:.2f}), and {100 * own['accuracy']:.1f}% of them are right."
    ]
    shuffled = metrics["models"].get(f"{form}, steps shuffled")
    if shuffled is not None:
        other = shuffled["overall"]
        found.append(
            f"What order is worth: with the steps of each sequence in random order, in training too, "
            f"{100 * other['accuracy']:.1f}% are right, and log loss is {other['log_loss']:.3f} instead of "
            f"{own['log_loss']:.3f}."
        )
    return found


def _card(model: Classifier, metrics: dict[str, Any] | None, command: str) -> str:
    c, training = model.resolved_, model.training_
    notes = "\n".join(f"- {note}" for note in model.notes_)
    directions = "in both directions" if c.bidirectional else "in one direction"
    if metrics is None:
        scored = "Nothing was kept untouched, so there is no score."
    else:
        said = "\n".join(sentences(metrics, model.form))
        scored = (
            f"{metrics['test']['sequences']:,} sequences. Log loss is in nats; the best of each column is marked.\n\n"
            f"{markdown_table(*table(metrics))}\n\n{said}\n\nWhich labels are taken for which: `confusion.png`."
        )
    size = f"{c.num_layers} layer{'s' * (c.num_layers > 1)} of {c.hidden_size} units"
    return f"""# {c.label or "Labels"} of sequences

{c.cell.upper()}, {size}, which reads {directions}; {len(model.classes_)} labels.
Written by tidegate {tidegate.__version__}.

    {command}

## Data

{notes}

## Scores on sequences kept untouched

{scored}

Trained for {len(training.history)} epochs in {training.seconds:.0f} s; the best was epoch {training.best_epoch}.

Use it: `tidegate predict RUN DATA -o labels.csv`, where RUN is this folder.
"""
