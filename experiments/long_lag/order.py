"""Tasks 6a and 6b: in which order did X and Y come?"""

from __future__ import annotations

import torch

from experiments.long_lag.task import Batch, RecentTask, integers, one_hot

SYMBOLS = "abcdXYEB"


class Order(RecentTask):
    """E, symbols a to d with X or Y at two (6a) or three (6b) places, B; the class is told at the end."""

    inputs = len(SYMBOLS)
    tolerance = 0.3
    largest_mean = 0.1
    criterion = "the last 2,000 training sequences have |error| below 0.3 on all outputs, their mean is below 0.1"
    mean_length = 105.0

    def __init__(self, key: str, places: list[tuple[int, int]], published: int) -> None:
        self.key, self.places, self.published = key, places, published
        self.title = f"temporal order, {len(places)} marks"
        self.outputs = 2 ** len(places)

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        row = torch.arange(rows)
        lengths = integers(100, 110, rows, generator)
        symbols = torch.randint(4, (int(lengths.max()), rows), generator=generator)  # (T, B)
        target = torch.zeros(rows, dtype=torch.int64)
        for low, high in self.places:
            mark = integers(0, 1, rows, generator)
            symbols[integers(low, high, rows, generator), row] = 4 + mark
            target = 2 * target + mark
        symbols[0] = SYMBOLS.index("E")
        symbols[lengths - 1, row] = SYMBOLS.index("B")
        return Batch(one_hot(symbols, self.inputs), lengths, target)


def order_6a() -> Order:
    """4 classes: Q, R, S, U."""
    return Order("6a", [(10, 20), (50, 60)], 31_390)


def order_6b() -> Order:
    """8 classes."""
    return Order("6b", [(10, 20), (33, 43), (66, 76)], 571_100)
