"""The network of every row: one recurrent layer of the package and a linear read-out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import tidegate as tg
from experiments.long_lag.task import Batch, Task


@dataclass(frozen=True)
class Setting:
    """How a network starts and learns."""

    cell: str = "LSTM"  # or "RNN"
    init: str = "chrono"  # or "forget bias 1", "torch"
    lr: float = 0.01
    batch: int = 8
    units: int = 16
    clip: float = 1.0

    @property
    def name(self) -> str:
        """What tells rows of one task apart."""
        return f"{self.cell} {self.init} lr={self.lr:g} batch={self.batch} units={self.units}"


class Network(nn.Module):
    """The layer, and a read-out of its last valid step or of every step.

    While ``grown`` is false the read-out does not see the layer.
    """

    def __init__(self, task: Task, setting: Setting) -> None:
        super().__init__()
        if setting.cell == "LSTM":
            init = {
                "chrono": tg.init.chrono(max(3, round(task.mean_length))),
                "forget bias 1": tg.init.forget_bias(1.0),
                "torch": None,
            }[setting.init]
            self.layer: nn.Module = tg.LSTM(task.inputs, setting.units, init=init)
        else:
            self.layer = tg.RNN(task.inputs, setting.units)
        self.every_step, self.grown = task.every_step, True
        self.head = nn.Linear(setting.units, task.outputs)
        self.shortcut: nn.Linear | None = None
        if task.shortcut:
            # The memory's voice is loud from the start; the input's is learned.
            nn.init.uniform_(self.head.weight, -1.0, 1.0)
            self.shortcut = nn.Linear(task.inputs, task.outputs, bias=False)
            nn.init.zeros_(self.shortcut.weight)

    def forward(self, batch: Batch) -> Tensor:
        output, state = self.layer(batch.x, lengths=batch.lengths)
        if not self.every_step:
            h_n = state.h if isinstance(self.layer, tg.LSTM) else state
            return self.head(h_n[0])  # (B, K)
        found = self.head(output if self.grown else torch.zeros_like(output))  # (T, B, K)
        return found if self.shortcut is None else found + self.shortcut(batch.x)
