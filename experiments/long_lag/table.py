"""Every row of the table: which task, which settings, how many seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.long_lag.copying import AddingTwo, Copy
from experiments.long_lag.lags import NoiseFree, NoRegularities, NoRegularitiesEnd, VeryLong
from experiments.long_lag.marks import Adding, Multiplication
from experiments.long_lag.network import Setting
from experiments.long_lag.order import order_6a, order_6b
from experiments.long_lag.reber import Reber
from experiments.long_lag.task import Task

RNN_RATES = (0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Row:
    """One setting of one task, over its seeds."""

    task: Callable[[], Task]
    setting: Setting
    seeds: int


@dataclass(frozen=True)
class Entry:
    """A task with its settings."""

    task: Callable[[], Task]
    command: str  # what the command line calls it
    batch: int = 8  # of the LSTM
    lr: float = 0.01
    seeds: int = 10
    rnn_batch: int | None = None  # larger on long sequences, where a small one takes hours
    rnn_seeds: int | None = None

    def rows(self) -> list[Row]:
        rnn_batch, rnn_seeds = self.rnn_batch or self.batch, self.rnn_seeds or self.seeds
        inits = ("chrono", "forget bias 1")
        lstm = [Row(self.task, Setting("LSTM", init, self.lr, self.batch), self.seeds) for init in inits]
        rnn = [Row(self.task, Setting("RNN", "torch", lr, rnn_batch), rnn_seeds) for lr in RNN_RATES]
        return lstm + rnn


PAPER = {
    "1": Entry(Reber, "reber", batch=1),
    "2a": Entry(NoiseFree, "2a", batch=4, lr=0.03),
    "2b": Entry(NoRegularities, "2b", batch=4),
    "2b-end": Entry(NoRegularitiesEnd, "2b-end", batch=4),
    "2c-50": Entry(lambda: VeryLong(50, 30_000), "2c --length 50"),
    "2c-100": Entry(lambda: VeryLong(100, 31_000), "2c --length 100"),
    "2c-1000": Entry(lambda: VeryLong(1000, 49_000), "2c --length 1000", rnn_batch=32, rnn_seeds=3),
    "4-100": Entry(lambda: Adding(100, 74_000), "adding --length 100"),
    "4-500": Entry(lambda: Adding(500, 209_000), "adding --length 500", rnn_batch=64, rnn_seeds=3),
    "4-1000": Entry(lambda: Adding(1000, 853_000), "adding --length 1000", seeds=3, rnn_batch=256, rnn_seeds=3),
    "5-140": Entry(lambda: Multiplication(140), "multiplication --wrong 140", rnn_batch=64, rnn_seeds=3),
    "5-13": Entry(lambda: Multiplication(13), "multiplication --wrong 13", seeds=3, rnn_batch=64, rnn_seeds=3),
    "6a": Entry(order_6a, "6a"),
    "6b": Entry(order_6b, "6b", rnn_batch=32, rnn_seeds=3),
}


@dataclass(frozen=True)
class Warped:
    """Copying and adding as Tallec & Ollivier (2018) pose them: three ways to start, no RNN."""

    task: Callable[[], Task]
    command: str
    seeds: int = 3

    def rows(self) -> list[Row]:
        settings = [Setting("LSTM", init, 0.003, 32, 32) for init in ("torch", "forget bias 1", "chrono")]
        return [Row(self.task, setting, self.seeds) for setting in settings]


def _warped() -> dict[str, Warped]:
    # Sequences at most, so that every length costs about the same.
    made = {}
    for length, cap in ((200, 96_000), (750, 32_000), (2000, 12_800)):
        made[f"add-{length}"] = Warped(lambda n=length, c=cap: AddingTwo(n, c), f"add --length {length}")
        made[f"copy-{length}"] = Warped(lambda n=length, c=cap: Copy(n, c), f"copy --length {length}")
    return made


CHRONO = _warped()
TABLE: dict[str, Entry | Warped] = {**PAPER, **CHRONO}
# One seed each, in under ten minutes.
QUICK = ("1", "2a", "4-100", "6a")
