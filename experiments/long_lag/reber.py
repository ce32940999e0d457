"""Task 1: predict the next symbol of the embedded Reber grammar.

The symbol before the last one is the second one, T or P; a whole Reber string lies between them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from experiments.long_lag.task import Batch, Predict, Recent, Task, one_hot

SYMBOLS = "BTPSXVE"
# The Reber grammar: from each state the symbols that may come and the states they lead to; 6 is the end.
REBER: dict[int, dict[str, int]] = {
    0: {"B": 1},
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
    6: {"E": 7},
}


def embedded_string(generator: torch.Generator) -> tuple[str, list[str]]:
    """A string, and after each of its symbols but the last the symbols that may follow."""
    outer = "TP"[_coin(generator)]
    string, legal, state = "B" + outer, ["TP"], 0
    while state != 7:
        choices = REBER[state]
        symbol = list(choices)[_coin(generator) if len(choices) == 2 else 0]
        legal.append("".join(choices))
        string += symbol
        state = choices[symbol]
    return string + outer + "E", [*legal, outer, "E"]


def _coin(generator: torch.Generator) -> int:
    return int(torch.randint(2, (1,), generator=generator))


class Reber(Task):
    key = "1"
    title = "embedded Reber grammar"
    criterion = "the legal symbols are the most active ones at every step of 256 training and 256 test strings"
    inputs = outputs = len(SYMBOLS)
    mean_length = 11.0  # steps read: a string has 12 symbols on average, and the last is not read
    published = 8_440
    tolerance = 0.0
    every_step = True
    size = 256

    def start(self, generator: torch.Generator) -> None:
        train = [embedded_string(generator) for _ in range(self.size)]
        known, test = {string for string, _ in train}, []
        while len(test) < self.size:
            made = embedded_string(generator)
            if made[0] not in known:
                test.append(made)
        self.strings = train + test
        self.training = [torch.tensor([SYMBOLS.index(s) for s in string]) for string, _ in train]
        self._all, self._some = _stack(self.strings), _stack(self.strings[:32])

    def draw(self, rows: int, generator: torch.Generator) -> Batch:
        chosen = [self.training[i] for i in torch.randint(self.size, (rows,), generator=generator).tolist()]
        return _batch(chosen)

    def solved(self, recent: Recent, predict: Predict, generator: torch.Generator) -> bool:
        # After every sequence: nearly always a few strings are enough to tell that it is not.
        return not any(misread(predict(batch), legal) for batch, legal in (self._some, self._all))

    def score(self, predict: Predict, generator: torch.Generator, rows: int = 2560) -> dict[str, float]:
        batch, legal = self._all
        return {"wrong": misread(predict(batch), legal), "of": len(self.strings)}


def misread(outputs: Tensor, legal: Tensor) -> int:
    """Strings with a step at which an illegal symbol is as active as a legal one."""
    least = outputs.masked_fill(~legal, float("inf")).amin(-1)  # (T, B)
    most = outputs.masked_fill(legal, float("-inf")).amax(-1)
    wrong = ~(least > most) & legal.any(-1)
    return int(wrong.any(0).sum())


def _batch(chosen: list[Tensor]) -> Batch:
    read = pad_sequence([s[:-1] for s in chosen])  # (T, B)
    target = pad_sequence([s[1:] for s in chosen], padding_value=-1)
    return Batch(one_hot(read, len(SYMBOLS)), torch.tensor([len(s) - 1 for s in chosen]), target)


def _stack(strings: list[tuple[str, list[str]]]) -> tuple[Batch, Tensor]:
    batch = _batch([torch.tensor([SYMBOLS.index(s) for s in string]) for string, _ in strings])
    legal = torch.zeros_like(batch.x, dtype=torch.bool)
    for row, (_, steps) in enumerate(strings):
        for t, symbols in enumerate(steps):
            legal[t, row, [SYMBOLS.index(s) for s in symbols]] = True
    return batch, legal
