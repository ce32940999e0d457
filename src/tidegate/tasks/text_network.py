"""The text model's network: bytes in, scores of the next byte out, with one matrix at both ends.

T steps, B streams, E numbers of an embedding, H hidden units, V = 256 bytes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.data.plain import BYTES
from tidegate.recurrent import variational_dropout
from tidegate.tasks.network import recurrent


class TiedHead(nn.Module):
    """Scores each byte by the product of its embedding and the output (Press & Wolf 2017).

    Where H and E differ, a projection stands between.
    """

    def __init__(self, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        same = hidden_size == embedding_size
        self.project = nn.Identity() if same else nn.Linear(hidden_size, embedding_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(BYTES))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(..., H) and (V, E) to (..., V)."""
        return F.linear(self.project(hidden), embedding, self.bias)

    @torch.no_grad()
    def matrix(self, embedding: Tensor) -> Tensor:
        """Projection and embedding as one matrix (V, H)."""
        return embedding.clone() if isinstance(self.project, nn.Identity) else embedding @ self.project.weight


class TextNet(nn.Module):
    """Reads bytes in order and scores the next one.

    Parameters
    ----------
    hidden_size, num_layers, embedding_size : int
        H, L, E.
    dropout, input_dropout, output_dropout, weight_dropout : float
        Rates of one mask for all steps of a window, between layers, on the embedded bytes and on the
        output (Gal & Ghahramani 2016); rate on ``weight_hh`` (Merity et al. 2017).
    cell : "lstm" or "rnn"
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        embedding_size: int,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        cell: str = "lstm",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, embedding_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.recurrent = recurrent(
            cell, embedding_size, hidden_size, num_layers, dropout, weight_dropout, variational=True
        )
        self.input_dropout, self.output_dropout = input_dropout, output_dropout
        self.head = TiedHead(hidden_size, embedding_size)

    def embed(self, bytes_: Tensor) -> Tensor:
        """(...) to (..., E), about 1 in size: the matrix itself is small, as the scores need it."""
        return self.embedding(bytes_) * self.embedding.embedding_dim**0.5

    def forward(self, bytes_: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scores before softmax (T, B, V) of the byte after each of (T, B), and the memory after the last."""
        x = self._one_mask(self.embed(bytes_), self.input_dropout)  # (T, B, E)
        output, state = self.recurrent(x, state)  # (T, B, H)
        return self.head(self._one_mask(output, self.output_dropout), self.embedding.weight), state

    def step(self, byte: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """As ``forward`` for one byte of each stream (B,): (B, V)."""
        output, state = self.recurrent.step(self.embed(byte), state)
        return self.head(output, self.embedding.weight), state

    def _one_mask(self, x: Tensor, rate: float) -> Tensor:
        return variational_dropout(x, rate) if self.training and rate else x
