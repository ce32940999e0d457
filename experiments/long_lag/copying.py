"""Copy memory and adding as Tallec & Ollivier (2018) pose them, against what a memoryless network reaches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.long_lag.task import Batch, Errors, Predict, Recent, Task, integers, one_hot


class Tallec(Task):
    """Trained for a fixed number of sequences; judged by the mean loss of the last 2,000."""

    memoryless: float

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of each sequence: (B,)."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self.losses(outputs, batch).mean()

    def errors(self, outputs: Tensor, batch: Batch) -> Errors:
        found = self.losses(outputs, batch)
        return Errors(found, found)

    def solved(self, recent: Recent, predict: Predict, generator: torch.Generator) -> bool:
        """Is the loss of the last 2,000 sequences below a tenth of the memoryless one?"""
        return recent.full and recent.average() < self.tolerance

    @property
    def criterion(self) -> str:  # type: ignore[override]
        return f"the mean loss of the last 2,000 sequences is below {self.tolerance:.2g}, a tenth of the memoryless one"


class Copy(Tallec):
    """10 symbols of 8, T blanks, a signal, 10 blanks: repeat the symbols in the end."""

    inputs, outputs = 10, 9  # 8 symbols, blank, signal
    every_step = True
    blank, signal, shown = 8, 9, 10

    def __init__(self, length: int, cap: int) -> None:
        self.length, self.published = length, cap
        self.mean_length = length + 2 * self.shown
        self.key, self.title = f"copy-{length}", f"copy memory, T = {length:,}"
        self.memoryless = self.shown * math.log(8.0) / (length + 2 * self.shown)
        self.tolerance = self.memoryless / 10.0

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        steps = self.length + 2 * self.shown
        symbols = torch.randint(8, (self.shown, rows), generator=generator)
        x = torch.full((steps, rows), self.blank)  # (T, B)
        x[: self.shown] = symbols
        x[self.shown + self.length - 1] = self.signal
        target = torch.full((steps, rows), self.blank)
        target[-self.shown :] = symbols
        return Batch(one_hot(x, self.inputs), torch.full((rows,), steps), target)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (
            F.cross_entropy(outputs.flatten(0, 1), batch.target.flatten(), reduction="none")
            .view(batch.target.shape)
            .mean(0)
        )


class AddingTwo(Tallec):
    """Two of T numbers in [0, 1] are marked, one in each half; the target is their sum."""

    inputs, outputs = 2, 1
    memoryless = 1.0 / 6.0  # the variance of the sum

    def __init__(self, length: int, cap: int) -> None:
        self.length, self.published = length, cap
        self.mean_length = length
        self.key, self.title = f"add-{length}", f"adding of Tallec & Ollivier, T = {length:,}"
        self.tolerance = self.memoryless / 10.0

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        T, row = self.length, torch.arange(rows)
        x = torch.zeros(T, rows, 2)
        x[..., 0].uniform_(generator=generator)
        places = [integers(0, T // 2 - 1, rows, generator), integers(T // 2, T - 1, rows, generator)]
        for place in places:
            x[place, row, 1] = 1.0
        return Batch(x, torch.full((rows,), T), sum(x[place, row, 0] for place in places))

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs[:, 0] - batch.target).square()
