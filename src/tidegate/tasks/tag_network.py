"""The tagger's network: an LSTM over the sequence, and a score for each class at each step.

T steps, B sequences, U distinct words of a batch, M characters, E numbers of an embedding, I inputs, H hidden units,
D directions, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tidegate.data.plain import BYTES
from tidegate.tasks.network import recurrent

SPELLING = 24


class TagBatch(NamedTuple):
    """Several sequences, padded to the longest; what a model does not read is empty."""

    words: Tensor  # (T, B) which word of the vocabulary, 0 for an unknown one
    letters: Tensor  # (M, U) bytes of the distinct words
    letter_counts: Tensor  # (U,)
    places: Tensor  # (T, B) which of the distinct words
    values: Tensor  # (T, B, I) numbers
    lengths: Tensor  # (B,) valid steps


class TagNet(nn.Module):
    """Reads words, their letters and numbers in both directions, and scores each step.

    A word is its embedding beside the last memories of a small LSTM that has read its letters in both directions
    (Ling et al. 2015; Lample et al. 2016), so that words never seen are known by how they are spelt.

    Parameters
    ----------
    vocabulary : int
        Words with an embedding, and 1 for unknown ones; 0 where there are no tokens.
    inputs, classes, hidden_size, num_layers, embedding_size : int
        I, K, H, L, E.
    character_size : int
        Units of the LSTM over letters, in each direction; 0 for none.
    bidirectional : bool
    dropout : float
        Rate before, between and after the layers.
    cell : "lstm" or "rnn"
    """

    def __init__(
        self,
        vocabulary: int,
        inputs: int,
        classes: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        embedding_size: int,
        character_size: int,
        cell: str,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size) if vocabulary else None
        self.letters = nn.Embedding(BYTES, SPELLING) if character_size else None
        self.speller = recurrent(cell, SPELLING, character_size, 1, 0.0, bidirectional=True) if character_size else None
        size = embedding_size * bool(vocabulary) + 2 * character_size + inputs
        self.recurrent = recurrent(cell, size, hidden_size, num_layers, dropout, bidirectional=bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.recurrent.directions * hidden_size, classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: TagBatch) -> Tensor:
        """Scores (T, B, K), before softmax; those of padding mean nothing."""
        return self.read(self.dropout(self.embed(batch)), batch.lengths)

    def embed(self, batch: TagBatch) -> Tensor:
        """The layer's input (T, B, .): numbers, words and their spelling side by side."""
        parts = [batch.values]  # (T, B, I)
        if self.embedding is not None:
            parts.append(self.embedding(batch.words))  # (T, B, E)
        if self.speller is not None and self.letters is not None:
            _, state = self.speller(self.letters(batch.letters), lengths=batch.letter_counts)
            last = state if isinstance(state, Tensor) else state.h  # (2, U, E)
            parts.append(last.transpose(0, 1).flatten(1)[batch.places])  # (T, B, 2*E)
        return torch.cat(parts, -1)

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scores (T, B, K) from the layer's input."""
        output, _ = self.recurrent(x, lengths=lengths)  # (T, B, D*H)
        return self.head(self.dropout(output))
