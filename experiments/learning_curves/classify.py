"""The stress of English words, from some of the labelled words; always scored on the same ones.

A fifth of the words is the test, whatever the seed. What is chosen is chosen on the others: a fifth of those, other
ones each seed, is then scored on. No five first letters stand on both sides.
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

SEEDS = 5
SIZES = [0.1, 0.2, 0.5, 1.0]
ABLATED = 0.2
SCORES = {"log_loss": "log loss", "accuracy": "accuracy"}
UNIT = "share of the labelled words"
CHOSEN_ON = "a fifth of the words that the test leaves, other ones each seed"
ABOUT = """\
Which syllable of a word is stressed, by its letters (`tidegate demo classify`), 64 units in each direction. A fifth of
the 20,000 words is the test, whatever the size; of the others a share keeps its labels, drawn at random each seed, and
a fifth of that share, parted by their first five letters, stops the training and calibrates. *Plain*: Adam with a
learning rate of 0.003 and early stopping. *Defaults*: `tg.Classifier()`. *Recipe*: that with `recipe="small-data"`.
*Logistic regression*: on the summary statistics of the letters."""
TASK, RECIPE = "classify", "classify text"
ROLES: dict[str, Any] = {"text": "word", "label": "stress", "group": "stem"}

# Nothing but Adam and early stopping; what all arms share is the size.
PLAIN: dict[str, Any] = {
    "hidden_size": 64, "dropout": 0.0, "average": 0.0, "weight_decay": 0.0, "learning_rate": 3e-3,
    "epochs": 40, "patience": 6, "validation": 0.2,
}  # fmt: skip
# What a user gives; everything else is the task's default, or the recipe's.
BASE: dict[str, Any] = {"validation": 0.2}
RATES = [1e-3, 3e-3, 1e-2, 3e-2]
# Each alone beside plain training.
PARTS: dict[str, dict[str, Any]] = {
    "dropout 0.3": {"dropout": 0.3},
    "dropout 0.5": {"dropout": 0.5},
    "input dropout 0.1": {"input_dropout": 0.1},
    "input dropout 0.3": {"input_dropout": 0.3},
    "input dropout 0.5": {"input_dropout": 0.5},
    "noise 0.5": {"noise": 0.5},
    "average 0.99": {"average": 0.99},
    "NT-ASGD": {"averaging": "nt-asgd", "patience": 10},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight dropout 0.3": {"weight_dropout": 0.3},
    "weight dropout 0.5": {"weight_dropout": 0.5},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "pretraining": {"pretrain": 20},
    "pretraining, rest unlabelled": {"pretrain": 20, "unlabelled": True},
    "refit": {"refit": True},
}
ARMS = {name: ({"plain": PLAIN, "base": BASE}[start], more) for name, (start, more) in classifier.ARMS.items()}


def shown(size: float) -> str:
    """A size, for people."""
    return f"{100 * size:.0f}%"


def _split(table: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All but a fifth of the words, and that fifth."""
    codes = np.unique(table["stress"].to_numpy(), return_inverse=True)[1]
    rest, _, held = split(codes, table["stem"].to_numpy(), 0.0, 0.2, seed)
    return table[rest], table[held]


@cache
def _sides(scored: str, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The words to learn from, and those to score on."""
    if scored == "test":
        return _split(pl.read_parquet(samples.path("word_stress")), 0) if seed == 0 else _sides("test", 0)
    return _split(_sides("test", 0)[0], seed)


def _parts(scored: str, size: float, seed: int) -> tuple[pl.DataFrame, Sequences]:
    """The training words, of which a share alone has labels, and the words to score on.

    A seed's smaller share is part of its larger one.
    """
    mine, theirs = _sides(scored, seed)
    chosen = np.zeros(len(mine), bool)
    chosen[np.random.default_rng(seed).permutation(len(mine))[: round(size * len(mine))]] = True
    mine = mine.with_columns(stress=pl.when(pl.Series(chosen)).then("stress"))
    return mine, from_table(theirs, **ROLES)


def run(options: dict[str, Any], size: float, seed: int, scored: str) -> dict[str, float]:
    """Train on a share of the words, score on words that were not in it."""
    table, held = _parts(scored, size, seed)
    return classifier.train_and_score(options, table, held, seed, ROLES)
