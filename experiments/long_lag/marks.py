"""Tasks 4 and 5: add or multiply two marked numbers among many."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.long_lag.task import Batch, Errors, RecentTask, integers


class Marked(RecentTask):
    """Pairs (value, marker): two markers are 1, those of the first and the last pair are -1.

    The first mark is one of the first 10 pairs, the second one of the first T/2 - 1 still unmarked.
    A marked first pair keeps its -1, and a neutral number takes its value's place in the target.
    """

    inputs, outputs = 2, 1
    tolerance = 0.04
    low: float
    neutral: float

    def __init__(self, length: int) -> None:
        self.length = length
        self.mean_length = 1.05 * length

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        T, row = self.length, torch.arange(rows)
        lengths = integers(T, T + T // 10, rows, generator)
        first = integers(0, 9, rows, generator)
        second = integers(0, T // 2 - 2, rows, generator)
        second = second + (second >= first)  # the first mark's place is left out
        x = torch.zeros(int(lengths.max()), rows, 2)  # (T, B, 2)
        x[..., 0].uniform_(self.low, 1.0, generator=generator)
        x[first, row, 1] = 1.0
        x[second, row, 1] = 1.0
        x[0, :, 1] = -1.0
        x[lengths - 1, row, 1] = -1.0
        chosen = torch.stack([x[place, row, 0].where(place > 0, self.neutral) for place in (first, second)])
        return Batch(x, lengths, self.target(chosen))

    def target(self, chosen: Tensor) -> Tensor:
        """From both values (2, B)."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs[:, 0] - batch.target).square().mean()

    def errors(self, outputs: Tensor, batch: Batch) -> Errors:
        distance = (outputs[:, 0] - batch.target).abs()
        return Errors(distance, distance)


class Adding(Marked):
    """4: the target is 0.5 + (X1 + X2) / 4."""

    criterion = "the last 2,000 training sequences all have |error| below 0.04, their mean is below 0.01"
    low, neutral = -1.0, 0.0
    largest_mean = 0.01

    def __init__(self, length: int, published: int) -> None:
        super().__init__(length)
        self.published = published
        self.key, self.title = f"4-{length}", f"adding, T = {length:,}"

    def target(self, chosen: Tensor) -> Tensor:
        return 0.5 + chosen.sum(0) / 4.0


class Multiplication(Marked):
    """5: the target is X1 X2."""

    low, neutral = 0.0, 1.0

    def __init__(self, fewer_than: int, length: int = 100) -> None:
        super().__init__(length)
        self.fewer_than, self.published = fewer_than, {140: 482_000, 13: 1_273_000}[fewer_than]
        self.key, self.title = f"5-{fewer_than}", f"multiplication, T = {length}, fewer than {fewer_than} wrong"
        self.criterion = f"fewer than {fewer_than} of the last 2,000 training sequences have |error| above 0.04"

    def target(self, chosen: Tensor) -> Tensor:
        return chosen[0] * chosen[1]
