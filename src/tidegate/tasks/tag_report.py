"""How a tagger does on sequences it has not seen, beside baselines; and what is left for a person.

N sequences, R steps, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tidegate
from tidegate.data.atomic import atomic_write
from tidegate.data.tagged import TaggedSequences
from tidegate.tasks.classify_metrics import accuracy_interval, by_class, confusion, scores
from tidegate.tasks.learner import Report
from tidegate.tasks.pictures import draw_confusion
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import CARD, CONFIG, METRICS, MODEL, write_metrics, write_text
from tidegate.tasks.tag_baselines import fit_baselines
from tidegate.tasks.tag_data import with_tags
from tidegate.tasks.tag_spans import span_scores, what_is_a_span
from tidegate.training.loop import HISTORY

if TYPE_CHECKING:
    from tidegate.tasks.tag import Tagger

COLUMNS = {"accuracy": "accuracy", "macro_f1": "macro F1", "span_f1": "span F1", "log_loss": "log loss"}
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
    if model.sequences_ is None and model.data_ is None:
        return {}  # trained on lists and loaded again: what it learnt from is not kept
    data = model.kept_part("train", "valid")
    return fit_baselines(data, data.codes(model.classes_.tolist()), len(model.classes_), model.scaling_)


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
    return ["", *COLUMNS.values(), "accuracy, 95% interval"], rows


def write_report(
    model: Tagger, folder: Path, data: Any, *, compare: Sequence[str], command: str, progress: bool
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
        file.write(draw_confusion(metrics["confusion"], metrics["classes"], model.form, "steps"))
    write_text(folder / CARD, _card(model, metrics, command))
    return Report(
        f"{metrics['test']['sequences']:,} sequences ({metrics['test']['steps']:,} labelled steps) kept untouched; "
        "* is best",
        *table(metrics),
        sentences(metrics, model.form),
        sequences.notes if data is not None else [],
        [*(folder / name for name in files if (folder / name).exists()), folder / "confusion.png"],
    )


def sentences(metrics: dict[str, Any], form: str) -> list[str]:
    """What a span is, how sure the model says it is, and what the future is worth where that was measured."""
    own = metrics["models"][form]["overall"]
    found = [
        what_is_a_span(metrics["classes"], metrics["common"]),
        f"{form} is {100 * own['confidence']:.1f}% sure of its labels on average (temperature "
        f"{metrics['temperature']:.2f}), and {100 * own['accuracy']:.1f}% of them are right.",
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


def _card(model: Tagger, metrics: dict[str, Any] | None, command: str) -> str:
    c, training = model.resolved_, model.training_
    notes = "\n".join(f"- {note}" for note in model.notes_)
    directions = "in both directions" if c.bidirectional else "in one direction"
    if metrics is None:
        scored = "Nothing was kept untouched, so there is no score."
    else:
        said = "\n".join(sentences(metrics, model.form))
        scored = (
            f"{metrics['test']['sequences']:,} sequences, {metrics['test']['steps']:,} labelled steps. Log loss is in "
            f"nats; the best of each column is marked.\n\n{markdown_table(*table(metrics))}\n\n{said}\n\n"
            "Which labels are taken for which: `confusion.png`."
        )
    size = f"{c.num_layers} layer{'s' * (c.num_layers > 1)} of {c.hidden_size} units"
    return f"""# {c.label or "Labels"} of steps

{c.cell.upper()}, {size}, which reads {directions}; {len(model.classes_)} labels.
Written by tidegate {tidegate.__version__}.

    {command}

## Data

{notes}

## Scores on sequences kept untouched

{scored}

Trained for {len(training.history)} epochs in {training.seconds:.0f} s; the best was epoch {training.best_epoch}.

Use it: `tidegate predict RUN DATA -o tags.csv`, where RUN is this folder.
"""
