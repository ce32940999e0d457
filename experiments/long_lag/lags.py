"""Tasks 2a, 2b and 2c: one symbol at the start decides the last one, p or q steps later."""

from __future__ import annotations

import torch

from experiments.long_lag.task import Batch, Errors, FreshTask, Predict, Task, integers, one_hot


class NoiseFree(FreshTask):
    """2a: (x, a_1 ... a_{p-1}, x) or (y, a_1 ... a_{p-1}, y); every next symbol is predicted."""

    key = "2a"
    title = "noise-free sequences, p = 100"
    criterion = "|error| of all outputs below 0.25 at every predicted step of 10,000 test sequences"
    published = 5_040
    tolerance = 0.25
    every_step = True
    shortcut = True
    grow_after = 800  # the paper adds the memory cell once the error has stopped falling

    def __init__(self, p: int = 100) -> None:
        self.p = p
        self.inputs = self.outputs = p + 1  # a_1 .. a_{p-1}, x, y
        self.mean_length = p

    def between(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """The symbols between first and last: (p-1, B)."""
        return torch.arange(self.p - 1).unsqueeze(1).expand(-1, rows)

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        return self._batch(integers(self.p - 1, self.p, rows, generator), generator)

    def _batch(self, marks: torch.Tensor, generator: torch.Generator) -> Batch:
        marks = marks.unsqueeze(0)  # (1, B)
        symbols = torch.cat([marks, self.between(marks.shape[1], generator), marks])  # (p+1, B)
        lengths = torch.full((marks.shape[1],), self.p)
        return Batch(one_hot(symbols[:-1], self.inputs), lengths, symbols[1:])

    def all_right(self, predict: Predict, generator: torch.Generator) -> bool:
        # There are two sequences, and the network is deterministic: both stand for all 10,000.
        batch = self._batch(torch.tensor([self.p - 1, self.p]), generator)
        return bool((self.errors(predict(batch), batch).worst < self.tolerance).all())


class NoRegularities(NoiseFree):
    """2b: as 2a, with random symbols between; only the last symbol can be predicted, and is judged."""

    key = "2b"
    title = "no local regularities, p = 100"
    criterion = "|error| of all outputs below 0.25 at the end of 10,000 test sequences"
    published = 5_680

    def between(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(self.p - 1, (self.p - 1, rows), generator=generator)

    def errors(self, outputs: torch.Tensor, batch: Batch) -> Errors:
        target = torch.full_like(batch.target, -1)
        target[-1] = batch.target[-1]
        return super().errors(outputs, Batch(batch.x, batch.lengths, target))

    def all_right(self, predict: Predict, generator: torch.Generator) -> bool:
        return FreshTask.all_right(self, predict, generator)


class NoRegularitiesEnd(NoRegularities):
    """2b with the loss at the sequence's end alone: a departure, tried because the full loss fails."""

    key = "2b-end"
    title = "2b, loss at the end alone"
    departs = True
    grow_after = 0

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return Task.loss(self, outputs[-1], Batch(batch.x, batch.lengths, batch.target[-1]))


class VeryLong(FreshTask):
    """2c: b, x or y, at least q distractors, e, and then x or y again, which is to be predicted."""

    tolerance = 0.2
    criterion = "|error| of both outputs below 0.2 at the end of 10,000 test sequences"

    def __init__(self, q: int, published: int, distractors: int | None = None) -> None:
        self.q, self.published, self.p = q, published, distractors or q
        self.key, self.title = f"2c-{q}", f"very long lags, p = q = {q:,}"
        self.inputs, self.outputs = self.p + 4, 2  # a_1 .. a_p, e, b, x, y
        self.mean_length = q + 12

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        e, b, x = self.p, self.p + 1, self.p + 2
        more = torch.empty(rows).geometric_(0.1, generator=generator).long() - 1  # k = 0, 1, ... with 0.1 * 0.9**k
        lengths = self.q + more + 3  # b, the mark, q + k distractors, e
        target = integers(0, 1, rows, generator)
        symbols = torch.randint(self.p, (int(lengths.max()), rows), generator=generator)  # (T, B)
        symbols[0], symbols[1] = b, x + target
        symbols[lengths - 1, torch.arange(rows)] = e
        return Batch(one_hot(symbols, self.inputs), lengths, target)
