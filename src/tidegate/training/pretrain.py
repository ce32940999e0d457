"""Next-step prediction before training proper: what sequences teach without labels.

Dai & Le 2015, *Semi-supervised sequence learning*: a recurrent network whose weights come from
predicting the next step starts better than one from random weights.

T steps, B sequences, I inputs, H hidden units, D directions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.data.plain import BYTES
from tidegate.layer import LSTM
from tidegate.rnn import RNN

Gather = Callable[[np.ndarray], tuple[Tensor, Tensor]]  # examples' indices to (T, B, I) or bytes (T, B), lengths (B,)


class NextStep(nn.Module):
    """Each direction's memory at a step foretells the step that the direction reads next.

    Trains the weights of a layer in place. Of several bidirectional layers only the first can
    learn so, because those above it have seen both sides.

    Parameters
    ----------
    recurrent : LSTM or RNN
    embedding : nn.Embedding, optional
        For bytes; without it the inputs are numbers.
    """

    def __init__(self, recurrent: LSTM | RNN, embedding: nn.Embedding | None = None) -> None:
        super().__init__()
        self.recurrent = _first_layer(recurrent) if recurrent.bidirectional and recurrent.num_layers > 1 else recurrent
        self.embedding = embedding
        outputs = recurrent.input_size if embedding is None else BYTES
        self.heads = nn.ModuleList(nn.Linear(recurrent.state_size, outputs) for _ in range(recurrent.directions))

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Mean loss over steps and directions: smooth absolute error of numbers, cross entropy of bytes."""
        x = inputs if self.embedding is None else self.embedding(inputs)  # (T, B, I)
        hidden, _ = self.recurrent(x, lengths=lengths)  # (T, B, D*H)
        inside = torch.arange(1, len(inputs), device=lengths.device)[:, None] < lengths  # (T-1, B) is there a next
        total = hidden.new_zeros(())
        for k, (head, memory) in enumerate(zip(self.heads, hidden.chunk(len(self.heads), -1), strict=True)):
            guess = head(memory[:-1] if k == 0 else memory[1:])  # (T-1, B, outputs)
            truth = inputs[1:] if k == 0 else inputs[:-1]
            if self.embedding is None:
                loss = F.smooth_l1_loss(guess, truth, reduction="none").mean(-1)  # (T-1, B)
            else:
                loss = F.cross_entropy(guess.movedim(-1, 1), truth, reduction="none")
            total = total + (loss * inside).sum()
        return total / (len(self.heads) * inside.sum().clamp(min=1))


def _first_layer(recurrent: LSTM | RNN) -> LSTM | RNN:
    """The first layer alone, on the very same parameters."""
    layer = type(recurrent)(recurrent.input_size, recurrent.hidden_size, bidirectional=True)
    for name in list(layer._parameters):
        setattr(layer, name, getattr(recurrent, name))
    if isinstance(layer, LSTM) and isinstance(recurrent, LSTM):
        layer.weight_dropout = recurrent.weight_dropout
    return layer


class NextStepJob:
    """What the training loop asks of pretraining.

    Parameters
    ----------
    model : NextStep
    gather : callable
        Padded inputs and lengths of some examples, by index.
    train, valid : arrays of indices
        Examples to learn from and to stop by.
    epoch : callable
        Places in ``train``, a tensor a batch, in an order drawn from a generator.
    chunk : int
        Examples read at once in validation.
    """

    def __init__(
        self,
        model: NextStep,
        gather: Gather,
        train: np.ndarray,
        valid: np.ndarray,
        epoch: Callable[[torch.Generator], list[Tensor]],
        chunk: int = 256,
    ) -> None:
        self.model, self.gather, self.train, self.valid, self.epoch = model, gather, train, valid, epoch
        self.chunk = chunk

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Mean loss, and the number of sequences."""
        return self._loss(model, self.train[indices.numpy()], device), float(len(indices))

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """Mean loss."""
        parts = [self.valid[k : k + self.chunk] for k in range(0, len(self.valid), self.chunk)]
        return sum(float(self._loss(model, part, device)) * len(part) for part in parts) / max(1, len(self.valid))

    def _loss(self, model: nn.Module, index: np.ndarray, device: torch.device) -> Tensor:
        inputs, lengths = self.gather(index)
        return model(inputs.to(device), lengths.to(device))
