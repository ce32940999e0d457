"""Exercises by a watch, from some of the labelled sequences; always scored on the same people.

Three of the ten people are the test, whatever the seed. What is chosen is chosen on the
others: two of the seven, other ones each seed, are then scored on, and five train.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl

from experiments.learning_curves import classifier
from tidegate.data import samples
from tidegate.data.sequences import Sequences, from_table
from tidegate.tasks.sequence_data import split

SEEDS = 3
SIZES = [0.1, 0.2, 0.5, 1.0]
ABLATED = 0.2
SCORES = {"log_loss": "log loss", "accuracy": "accuracy"}
UNIT = "share of the labelled sequences"
CHOSEN_ON = "two of the seven people that the test leaves, other ones each seed"
ABOUT = """\
Seven exercises by a watch (`data/README.md`), 32 units in each direction. Three of the ten people are the
test, whatever the size; of the sequences of the other seven a share keeps its labels, drawn at random each seed,
and a fifth of that share, whole people, stops the training and calibrates. *Plain*: Adam with a learning rate of
0.003 and early stopping, with at least 600 steps. *Defaults*: `tg.Classifier()` with
the same number of units. *Recipe*: that with `recipe="small-data"`."""
TASK, RECIPE = "classify", "classify"
ROLES: dict[str, Any] = {
    "sequence": "sequence", "label": "exercise", "time": "step", "group": "subject",
    "feature": ["ax", "ay", "az", "wx", "wy", "wz"],
}  # fmt: skip

STEPS = 600
# Nothing but Adam and early stopping; what both arms share is the size and the number of steps.
PLAIN: dict[str, Any] = {
    "hidden_size": 32, "dropout": 0.0, "average": 0.0, "weight_decay": 0.0, "learning_rate": 3e-3,
    "epochs": 30, "patience": 8, "least_steps": STEPS, "validation": 0.2,
}  # fmt: skip
# What a user gives; everything else is the task's default, or the recipe's.
BASE: dict[str, Any] = {"hidden_size": 32, "validation": 0.2}
RATES = [1e-3, 3e-3, 1e-2, 3e-2]
# Each alone beside plain training.
PARTS: dict[str, dict[str, Any]] = {
    "dropout 0.3": {"dropout": 0.3},
    "dropout 0.5": {"dropout": 0.5},
    "input dropout 0.1": {"input_dropout": 0.1},
    "input dropout 0.3": {"input_dropout": 0.3},
    "noise 0.3": {"noise": 0.3},
    "noise 0.6": {"noise": 0.6},
    "average 0.99": {"average": 0.99},
    "NT-ASGD": {"averaging": "nt-asgd", "patience": 12},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight dropout 0.3": {"weight_dropout": 0.3},
    "weight dropout 0.5": {"weight_dropout": 0.5},
    "scale 0.2": {"scale": 0.2},
    "warp 0.2": {"warp": 0.2},
    "crop 0.4": {"crop": 0.4},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "pretraining": {"pretrain": 20},
    "steps as they come": {"least_steps": 0},
    "refit": {"refit": True},
    "patience 30": {"patience": 30},
}


ARMS = {name: ({"plain": PLAIN, "base": BASE}[start], more) for name, (start, more) in classifier.ARMS.items()}


def shown(size: float) -> str:
    """A size, for people."""
    return f"{100 * size:.0f}%"


@cache
def _table() -> tuple[pl.DataFrame, list[str]]:
    """The sample, and the people that are tested on."""
    table = pl.read_parquet(samples.path("shoulder_exercises"))
    data = from_table(table, **ROLES)
    assert data.labels is not None
    assert data.groups is not None
    _, _, test = split(np.unique(data.labels, return_inverse=True)[1], data.groups, 0.2, 0.3, 0)
    return table, sorted(set(data.groups[test]), key=int)


def _people(scored: str, seed: int) -> tuple[list[str], list[str]]:
    """Those who train, and those who are scored on."""
    _, tested = _table()
    rest = [str(n) for n in range(1, 11) if str(n) not in tested]
    if scored == "test":
        return rest, tested
    held = [rest[(2 * seed) % len(rest)], rest[(2 * seed + 1) % len(rest)]]
    return [name for name in rest if name not in held], held


def _parts(scored: str, size: float, seed: int) -> tuple[pl.DataFrame, Sequences]:
    """The training people's table, labels for a share of its sequences only, and the sequences to score on.

    A seed's smaller share is part of its larger one.
    """
    table, _ = _table()
    training, held = _people(scored, seed)
    mine = table.filter(pl.col("subject").cast(pl.String).is_in(training))
    names = mine["sequence"].unique(maintain_order=True).to_numpy()
    chosen = np.random.default_rng(seed).permutation(names)[: round(size * len(names))]
    labelled = pl.col("sequence").is_in(chosen.tolist())
    mine = mine.with_columns(exercise=pl.when(labelled).then(pl.col("exercise").cast(pl.String)))
    theirs = table.filter(pl.col("subject").cast(pl.String).is_in(held))
    return mine, from_table(theirs, **ROLES)


def run(options: dict[str, Any], size: float, seed: int, scored: str) -> dict[str, float]:
    """Train on a share of the sequences, score on people that were not in it."""
    table, held = _parts(scored, size, seed)
    return classifier.train_and_score(options, table, held, seed, ROLES)
