"""What is left for a person of a learner of labels: the table of scores, the confusion matrix and the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tidegate
from tidegate.data.atomic import atomic_write
from tidegate.tasks.learner import Report
from tidegate.tasks.pictures import draw_confusion
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import CARD, CONFIG, METRICS, MODEL, write_metrics, write_text
from tidegate.training.loop import HISTORY

if TYPE_CHECKING:
    from tidegate.tasks.sequence_learner import SequenceLearner

PICTURE = "confusion.png"


def table(model: SequenceLearner, metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores, for people; the best of each column is marked."""
    shown = {name: m["overall"] for name, m in metrics["models"].items()}
    best = {key: (min if key == "log_loss" else max)(row[key] for row in shown.values()) for key in model.scores}
    rows = []
    for name, row in shown.items():
        cells = [
            (f"{row[key]:.3f}" if key == "log_loss" else f"{100 * row[key]:.1f}%")
            + ("*" if row[key] == best[key] else " ")
            for key in model.scores
        ]
        low, high = metrics["accuracy_interval"][name]
        rows.append([name, *cells, f"{100 * low:.1f}% to {100 * high:.1f}%"])
    return ["", *model.scores.values(), "accuracy, 95% interval"], rows


def write_report(
    model: SequenceLearner, folder: Path, data: Any, *, compare: Sequence[str], command: str, progress: bool
) -> Report:
    """Score, write ``metrics.json``, the confusion matrix and the card."""
    files = [MODEL, CONFIG, METRICS, HISTORY, CARD]
    if data is None and model.resolved_.test == 0:
        write_text(folder / CARD, _card(model, None, command))
        kept = [folder / name for name in files if (folder / name).exists()]
        return Report("", [], [], ["Nothing was kept untouched (--test 0), so there is no score."], [], kept)
    sequences = model.untouched(data)
    metrics = model.score_on(sequences, compare=compare, progress=progress)
    write_metrics(folder, metrics)
    with atomic_write(folder / PICTURE) as file:
        file.write(draw_confusion(metrics["confusion"], metrics["classes"], model.form, model.labelled))
    if data is None:
        write_text(folder / CARD, _card(model, metrics, command))
    return Report(
        f"{_tested(metrics)} {'kept untouched' if data is None else 'given'}; * is best",
        *table(model, metrics),
        model.sentences(metrics),
        sequences.notes if data is not None else [],
        [folder / name for name in (*files, PICTURE) if (folder / name).exists()],
    )


def sureness(metrics: dict[str, Any], form: str) -> str:
    """How sure the model says it is, and how often it is right."""
    own = metrics["models"][form]["overall"]
    return (
        f"{form} is {100 * own['confidence']:.1f}% sure of its labels on average (temperature "
        f"{metrics['temperature']:.2f}), and {100 * own['accuracy']:.1f}% of them are right."
    )


def _tested(metrics: dict[str, Any]) -> str:
    test = metrics["test"]
    steps = f" ({test['steps']:,} labelled steps)" if "steps" in test else ""
    return f"{test['sequences']:,} sequences{steps}"


def _card(model: SequenceLearner, metrics: dict[str, Any] | None, command: str) -> str:
    c, training = model.resolved_, model.training_
    notes = "\n".join(f"- {note}" for note in model.notes_)
    directions = "in both directions" if c.bidirectional else "in one direction"
    if metrics is None:
        scored = "Nothing was kept untouched, so there is no score."
    else:
        said = "\n".join(model.sentences(metrics))
        scored = (
            f"{_tested(metrics)}. Log loss is in nats; the best of each column is marked.\n\n"
            f"{markdown_table(*table(model, metrics))}\n\n{said}\n\nWhich labels are taken for which: `{PICTURE}`."
        )
    size = f"{c.num_layers} layer{'s' * (c.num_layers > 1)} of {c.hidden_size} units"
    return f"""# {c.label or "Labels"} of {model.labelled}

{c.cell.upper()}, {size}, which reads {directions}; {len(model.classes_)} labels.
Written by tidegate {tidegate.__version__}.

    {command}

## Data

{notes}

## Scores on sequences kept untouched

{scored}

Trained for {len(training.history)} epochs in {training.seconds:.0f} s; the best was epoch {training.best_epoch}.

Use it: `tidegate predict RUN DATA -o {model.what}.csv`, where RUN is this folder.
"""
