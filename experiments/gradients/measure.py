"""Norms of gradients by lag, for layers at initialisation and after training.

T steps, B batch rows, I inputs, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tidegate as tg
from experiments.long_lag.lags import VeryLong
from experiments.long_lag.network import Network, Setting
from tidegate.insight.gradients import gradient_flow

LAG = 1000
INPUTS, UNITS, ROWS = 8, 32, 4
TRAINED_ON = 4_000  # sequences
EVERY = 10  # lags in the results


@dataclass(frozen=True)
class Case:
    """One layer whose gradient is followed back.

    Attributes
    ----------
    name, group : str
        ``group``: "start", "trained", "RNN" (orthogonal weights) or "gates" (an LSTM that fails).
    layer : callable
        From nothing to a layer, or to a trained layer and its input (T, B, I).
    scale : float
        Standard deviation of the random input.
    """

    name: str
    group: str
    layer: Callable[[], Any]
    scale: float = 1.0


def _lstm(*init: Any) -> Callable[[], tg.LSTM]:
    return lambda: tg.LSTM(INPUTS, UNITS, init=init, dtype=torch.float64)


def _rnn(*init: Any) -> Callable[[], tg.RNN]:
    return lambda: tg.RNN(INPUTS, UNITS, init=init, dtype=torch.float64)


def no_bias(layer: Any) -> None:
    """Biases start at zero."""
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            torch.nn.init.zeros_(parameter)


def trained(setting: Setting) -> Callable[[], tuple[Any, Tensor]]:
    """Task 2c with a lag of 1,000 steps and 50 distractors, and the end of some of its sequences."""

    def make() -> tuple[Any, Tensor]:
        task = VeryLong(LAG - 2, 0, distractors=50)  # b, mark, 998 distractors or more, e: 1,001 steps or more
        network, data = Network(task, setting), torch.Generator().manual_seed(torch.initial_seed())
        parameters = list(network.parameters())
        optimiser = torch.optim.Adam(parameters, lr=setting.lr, fused=True)
        for _ in range(TRAINED_ON // setting.batch):
            batch = task.draw(setting.batch, data)
            optimiser.zero_grad()
            task.loss(network(batch), batch).backward()
            torch.nn.utils.clip_grad_norm_(parameters, setting.clip)
            optimiser.step()
        batch = task.draw(ROWS, data)
        x = torch.stack([batch.x[n - LAG - 1 : n, row] for row, n in enumerate(batch.lengths.tolist())], 1)
        return network.layer.double(), x.double()

    return make


CASES = [
    Case("LSTM, chrono, T_max = 1,000", "start", _lstm(tg.init.chrono(LAG))),
    Case("LSTM, forget bias 1", "start", _lstm(tg.init.forget_bias(1.0))),
    Case("LSTM, forget bias 0 (torch's weights)", "start", _lstm()),
    Case("RNN, torch's weights", "start", _rnn()),
    Case("RNN, recurrent weights doubled", "start", _rnn(tg.init.orthogonal(2.0)), 0.1),
    Case("LSTM, chrono, trained", "trained", trained(Setting("LSTM", "chrono", 0.01, 8, UNITS))),
    Case("LSTM, forget bias 1, trained", "trained", trained(Setting("LSTM", "forget bias 1", 0.01, 8, UNITS))),
    Case("RNN, torch's weights, trained", "trained", trained(Setting("RNN", "torch", 0.001, 8, UNITS))),
    Case("RNN, orthogonal, inputs of size 1", "RNN", _rnn(tg.init.orthogonal(), no_bias), 1.0),
    Case("RNN, orthogonal, inputs of size 0.1", "RNN", _rnn(tg.init.orthogonal(), no_bias), 0.1),
    Case("RNN, orthogonal, inputs of size 0.01", "RNN", _rnn(tg.init.orthogonal(), no_bias), 0.01),
    Case("RNN, orthogonal, inputs of size 0.001", "RNN", _rnn(tg.init.orthogonal(), no_bias), 0.001),
    Case("LSTM, forget bias -2", "gates", _lstm(tg.init.forget_bias(-2.0))),
    Case("LSTM, chrono, recurrent weights x 8", "gates", _lstm(tg.init.chrono(LAG), tg.init.orthogonal(8.0)), 0.1),
    Case(
        "LSTM, forget bias 1, recurrent weights x 6", "gates", _lstm(tg.init.forget_bias(1.0), tg.init.orthogonal(6.0))
    ),
]


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Norms of the gradients of the sum of the last h, relative to those at lag 0, by lag."""
    torch.manual_seed(seed)
    made = case.layer()
    layer, x = made if isinstance(made, tuple) else (made, None)
    if x is None:
        x = case.scale * torch.randn(LAG + 1, ROWS, INPUTS, dtype=torch.float64)
    found: dict[str, Any] = {"name": case.name, "group": case.group, "seed": seed, "every": EVERY}
    if isinstance(layer, tg.LSTM):
        flow = gradient_flow(layer, x)
        kept = {"hidden": flow.hidden, "cell": flow.cell, "memory_path": flow.memory_path}
    else:
        beside = tg.LSTM(layer.input_size, 1, dtype=torch.float64)  # the function compares; only the RNN is looked at
        kept = {"hidden": gradient_flow(beside, x, layer).rnn}
    return found | {what: _relative(values) for what, values in kept.items()}


def _relative(norms: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in norms[::EVERY] / norms[0]]
