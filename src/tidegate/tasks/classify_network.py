"""The classifier's network: an LSTM over the sequence, its outputs pooled over the valid steps.

T steps, B sequences, C columns, I inputs, H hidden units, D directions, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tidegate.data.plain import BYTES
from tidegate.recurrent import variational_dropout
from tidegate.tasks.network import recurrent

EMBEDDING = 32


class SequenceBatch(NamedTuple):
    """Several sequences, padded to the longest."""

    inputs: Tensor  # (T, B, I) numbers, or (T, B) bytes of text
    lengths: Tensor  # (B,) valid steps


class ClassifyNet(nn.Module):
    """Reads a sequence in both directions, and gives a score for each class.

    The head sees the mean and the maximum of the outputs over the valid steps, and the final
    short-term memory of each direction, side by side.

    Parameters
    ----------
    inputs : int, optional
        I; None for text, whose bytes are embedded.
    classes, hidden_size, num_layers : int
        K, H, L.
    bidirectional : bool
    dropout, input_dropout, noise : float
        Rate between layers and before the head; rate at which an input is hidden in a whole sequence
        (Gal & Ghahramani 2016); standard deviation of noise on the inputs.
    cell : "lstm" or "rnn"
    weight_dropout : float
        Of the LSTM's recurrent weights (Merity et al. 2017).
    variational : bool
        Dropout between layers draws one mask a sequence.
    flags : int
        So many of the inputs, the last ones, say yes or no, and are given no noise.
    """

    def __init__(
        self,
        inputs: int | None,
        classes: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        input_dropout: float,
        noise: float,
        cell: str,
        weight_dropout: float = 0.0,
        variational: bool = False,
        flags: int = 0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, EMBEDDING) if inputs is None else None
        size = EMBEDDING if inputs is None else inputs
        self.recurrent = recurrent(
            cell, size, hidden_size, num_layers, dropout, weight_dropout, variational, bidirectional=bidirectional
        )
        self.input_dropout, self.noise, self.dropout = input_dropout, noise, nn.Dropout(dropout)
        self.quiet = size - flags  # where the flags begin
        self.head = nn.Linear(3 * self.recurrent.directions * hidden_size, classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Scores (B, K), before softmax."""
        x = self.embed(batch.inputs)  # (T, B, I)
        if self.training and self.noise:
            noise = self.noise * torch.randn_like(x)
            noise[..., self.quiet :] = 0
            x = x + noise
        if self.training and self.input_dropout:
            x = variational_dropout(x, self.input_dropout)
        return self.read(x, batch.lengths)

    def embed(self, inputs: Tensor) -> Tensor:
        """The layer's input (T, B, I) for numbers, or for bytes of text (T, B)."""
        return inputs if self.embedding is None else self.embedding(inputs)

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, K) from the layer's input (T, B, I)."""
        output, state = self.recurrent(x, lengths=lengths)  # (T, B, D*H)
        last = state if isinstance(state, Tensor) else state.h  # (L*D, B, H)
        last = last[-self.recurrent.directions :].transpose(0, 1).flatten(1)  # (B, D*H)
        return self.head(self.dropout(torch.cat([*pool(output, lengths), last], -1)))


def pool(output: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over the valid steps of (T, B, H), (B, H) each; zero for an empty row."""
    valid = (torch.arange(len(output), device=output.device)[:, None] < lengths)[..., None]  # (T, B, 1)
    mean = torch.where(valid, output, 0.0).sum(0) / lengths.clamp(min=1)[:, None]
    highest = torch.where(valid, output, -torch.inf).amax(0)
    return mean, torch.where(lengths[:, None] > 0, highest, 0.0)
