"""What a task is: sequences drawn at random, a loss, and the published criterion of success.

T steps, B batch rows, I inputs, K outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Sequences of different lengths, side by side."""

    x: Tensor  # (T, B, I)
    lengths: Tensor  # (B,)
    target: Tensor  # (B, ...) at the sequence's end, or (T, B) class of every step, -1 where none


@dataclass(frozen=True)
class Errors:
    """How far the outputs of each sequence are from their targets."""

    worst: Tensor  # (B,) largest |error| of all outputs that count
    mean: Tensor  # (B,) mean |error| of these


class Recent:
    """Errors of the latest training sequences, each taken when the sequence was first seen."""

    def __init__(self, size: int = 2000) -> None:
        self.worst: deque[float] = deque(maxlen=size)
        self.mean: deque[float] = deque(maxlen=size)

    def add(self, errors: Errors) -> None:
        self.worst.extend(errors.worst.tolist())
        self.mean.extend(errors.mean.tolist())

    @property
    def full(self) -> bool:
        return len(self.worst) == self.worst.maxlen

    def wrong(self, tolerance: float, last: int | None = None) -> int:
        """How many of the latest sequences have an error of ``tolerance`` or more."""
        values = self.worst if last is None else islice(reversed(self.worst), last)
        return sum(not value < tolerance for value in values)  # NaN is wrong

    def average(self) -> float:
        return sum(self.mean) / len(self.mean)


Predict = Callable[[Batch], Tensor]  # outputs before the softmax, at the end (B, K) or at every step (T, B, K)


class Task(ABC):
    """One row of the paper.

    Attributes
    ----------
    key : str
        Name of the results file, such as ``4-100``.
    title : str
    inputs, outputs : int
        I and K.
    mean_length : float
        Of a sequence, in steps; ``T_max`` of the chrono initialisation.
    published : int
        Training sequences that the 1997 LSTM needed, and so the cap here.
    every_step : bool
        Are there targets at every step, or at the end alone?
    shortcut : bool
        Does the output layer see the input of the step too?
    grow_after : int
        Sequences for which the output layer sees the shortcut alone, and learns at ``grow_lr``.
    tolerance : float
        Largest |error| of a sequence that counts as right.
    """

    key: str
    title: str
    criterion: str
    inputs: int
    outputs: int
    mean_length: float
    published: int
    tolerance: float
    every_step = False
    departs = False  # a variant that the paper does not have
    shortcut = False
    grow_after = 0
    grow_lr = 0.1

    def start(self, generator: torch.Generator) -> None:  # noqa: B027 - most tasks have nothing to prepare
        """Draw what a run keeps, such as a fixed training set."""

    @abstractmethod
    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        """``rows`` training sequences."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the next symbol or the class."""
        return F.cross_entropy(outputs.flatten(0, -2), batch.target.flatten(), ignore_index=-1)

    def errors(self, outputs: Tensor, batch: Batch) -> Errors:
        """By the distance of the softmax from the one-hot target, over all outputs and steps with a target."""
        counted = batch.target >= 0
        wanted = F.one_hot(batch.target.clamp_min(0), self.outputs)
        distance = (outputs.softmax(-1) - wanted).abs() * counted.unsqueeze(-1)  # (T, B, K) or (B, K)
        if not self.every_step:
            return Errors(distance.amax(-1), distance.mean(-1))
        return Errors(distance.amax((0, 2)), distance.sum((0, 2)) / (counted.sum(0) * self.outputs))

    @abstractmethod
    def solved(self, recent: Recent, predict: Predict, generator: torch.Generator) -> bool:
        """Is the published criterion met?"""

    def score(self, predict: Predict, generator: torch.Generator, rows: int = 2560) -> dict[str, float]:
        """Wrong ones among fresh sequences, and their mean |error|."""
        recent = Recent(rows)
        while not recent.full:
            batch = self.draw(min(self.test_rows, rows - len(recent.worst)), generator)
            recent.add(self.errors(predict(batch), batch))
        return {"wrong": recent.wrong(self.tolerance), "of": rows, "mean_error": recent.average()}

    @property
    def test_rows(self) -> int:
        """Sequences tested side by side: some 80 MB of input."""
        return max(1, min(256, int(2e7 / (1.2 * self.mean_length * self.inputs))))


class RecentTask(Task):
    """Solved when few enough of the last 2,000 training sequences are wrong and their mean error is small."""

    largest_mean = float("inf")
    fewer_than = 1

    def solved(self, recent: Recent, predict: Predict, generator: torch.Generator) -> bool:
        return recent.full and recent.wrong(self.tolerance) < self.fewer_than and recent.average() < self.largest_mean


class FreshTask(Task):
    """Solved when 10,000 successive sequences that are not trained on are all right.

    The test is tried when the latest training sequences were all right, which costs no success but a
    few sequences more; after a failure the same number of training sequences passes before the next.
    """

    fresh = 10_000
    screen = 250

    def start(self, generator: torch.Generator) -> None:
        self.waiting = 0

    def solved(self, recent: Recent, predict: Predict, generator: torch.Generator) -> bool:
        if len(recent.worst) < self.screen or recent.wrong(self.tolerance, self.screen):
            return False
        if self.all_right(predict, generator):
            return True
        recent.worst.clear()  # the screen fills anew
        recent.mean.clear()
        return False

    def all_right(self, predict: Predict, generator: torch.Generator) -> bool:
        done = 0
        while done < self.fresh:
            rows = min(self.test_rows, self.fresh - done)
            batch = self.draw(rows, generator)
            if not bool((self.errors(predict(batch), batch).worst < self.tolerance).all()):
                return False
            done += rows
        return True


def integers(low: int, high: int, rows: int, generator: torch.Generator) -> Tensor:
    """Uniform whole numbers from ``low`` to ``high``, both included: (B,)."""
    return torch.randint(low, high + 1, (rows,), generator=generator)


def one_hot(symbols: Tensor, count: int) -> Tensor:
    """(T, B) to float (T, B, I)."""
    return torch.zeros(*symbols.shape, count).scatter_(-1, symbols.unsqueeze(-1), 1.0)
