"""The forecaster's network: one LSTM over history and future as one sequence.

T = history + horizon steps, B windows, I inputs, H hidden units, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.data.windows import Batch
from tidegate.layer import LSTM
from tidegate.recurrent import variational_dropout
from tidegate.rnn import RNN


def recurrent(
    cell: str,
    inputs: int,
    hidden_size: int,
    num_layers: int,
    dropout: float,
    weight_dropout: float = 0.0,
    variational: bool = False,
    bidirectional: bool = False,
) -> LSTM | RNN:
    """The tasks' layer: orthogonal recurrent weights, and gates that keep their memory at first."""
    options: dict[str, Any] = {"dropout": dropout if num_layers > 1 else 0.0, "variational": variational}
    if cell == "rnn":
        return RNN(inputs, hidden_size, num_layers, bidirectional=bidirectional, init=["orthogonal"], **options)
    options |= {"weight_dropout": weight_dropout, "init": ["orthogonal", "forget_bias"]}
    return LSTM(inputs, hidden_size, num_layers, bidirectional=bidirectional, **options)


class ForecastNet(nn.Module):
    """Reads the history, runs on through the future, and gives quantiles at each future step.

    The long-term memory runs from the first step of the history to the last step of the future;
    the head sees the short-term memory of each future step. What it says is an addition to the
    last value observed, in scaled units.

    Parameters
    ----------
    inputs, targets : int
        I and C.
    quantiles : sequence of float
        Increasing, 0.5 among them.
    horizon, hidden_size, num_layers, dropout
        Steps of the future, H, layers, and the rate between layers and before the head.
    input_dropout : float
        Rate at which an input is hidden in a whole window (Gal & Ghahramani 2016).
    cell : "lstm" or "rnn"
        The vanilla RNN is there to be compared with.
    weight_dropout, noise : float
        Rate on the LSTM's recurrent weights (Merity et al. 2017); standard deviation of noise on the inputs.
    variational : bool
        ``dropout`` draws one mask a window (Gal & Ghahramani 2016).
    """

    def __init__(
        self,
        inputs: int,
        targets: int,
        quantiles: Sequence[float],
        horizon: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        input_dropout: float,
        cell: str,
        weight_dropout: float = 0.0,
        variational: bool = False,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.horizon, self.targets = horizon, targets
        self.median = list(quantiles).index(0.5)
        self.recurrent = recurrent(cell, inputs, hidden_size, num_layers, dropout, weight_dropout, variational)
        self.input_dropout, self.noise, self.dropout = input_dropout, noise, nn.Dropout(dropout)
        self.variational = variational
        self.head = nn.Linear(hidden_size, targets * len(quantiles))
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Quantiles (B, horizon, C, Q) in scaled units, increasing along Q."""
        x = batch.inputs
        if self.training and self.input_dropout:
            x = variational_dropout(x, self.input_dropout)
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        hidden, _ = self.recurrent(x)  # (T, B, H)
        ahead = hidden[-self.horizon :]  # (horizon, B, H)
        if not self.variational:
            ahead = self.dropout(ahead)
        elif self.training:
            ahead = variational_dropout(ahead, self.dropout.p)
        raw = self.head(ahead).transpose(0, 1).unflatten(-1, (self.targets, -1))  # (B, horizon, C, Q)
        return non_crossing(raw, self.median) + batch.last[:, None, :, None]


def non_crossing(raw: Tensor, median: int) -> Tensor:
    """The middle value is free, each further one is a positive distance beyond the one before."""
    middle = raw[..., median : median + 1]
    above = middle + F.softplus(raw[..., median + 1 :]).cumsum(-1)
    below = middle - F.softplus(raw[..., :median]).flip(-1).cumsum(-1).flip(-1)
    return torch.cat([below, middle, above], -1)


def pinball(forecast: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss of (..., Q) forecasts for (...) truths (Koenker & Bassett 1978)."""
    error = truth.unsqueeze(-1) - forecast
    return torch.maximum(levels * error, (levels - 1) * error)
