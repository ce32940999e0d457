"""What the training loop asks of a tagger: batches, the loss on one, and the score to stop by."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.tasks.sequence_data import batches
from tidegate.tasks.tag_config import TagConfig
from tidegate.tasks.tag_data import Steps
from tidegate.tasks.tag_network import TagBatch, TagNet

CHUNK = 64
NONE = -1  # the class of a step without a label


class TagJob:
    """Cross entropy over the labelled steps of the training part; over the validation part without weights or dropout.

    Words are taken as unknown at random, the rarer the oftener (Kiperwasser & Goldberg 2016), so that the network
    learns what to do with words that it has never seen.
    """

    def __init__(
        self,
        model: TagNet,
        steps: Steps,
        codes: np.ndarray,
        train: np.ndarray,
        valid: np.ndarray,
        counts: np.ndarray,
        config: TagConfig,
    ) -> None:
        self.model, self.steps, self.codes, self.train, self.config = model, steps, codes, train, config
        self.valid = valid if len(valid) else train[:CHUNK]  # without a validation part: only to be shown
        self.lengths = np.diff(steps.offsets)[train]
        self.rates = torch.from_numpy(config.unknown / np.maximum(config.unknown + counts, 1e-9)).float()  # (V,)
        self.weights: Tensor | None = None  # (K,)
        if config.class_weights == "balanced":
            own = np.concatenate([codes[steps.offsets[n] : steps.offsets[n + 1]] for n in train])
            count = np.bincount(own[own >= 0], minlength=int(codes.max()) + 1)
            self.weights = torch.from_numpy(count.sum() / (len(count) * np.maximum(count, 1))).float()

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """All sequences once, in batches of similar lengths."""
        return batches(self.lengths, self.config.batch_size, generator)

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Mean cross entropy of the labelled steps, and their number."""
        batch, codes = self._batch(self.train[indices.numpy()])
        if len(self.rates):
            batch = batch._replace(words=batch.words * (torch.rand(batch.words.shape) >= self.rates[batch.words]))
        weights = None if self.weights is None else self.weights.to(device)
        total = _cross_entropy(model, batch, codes, weights, device)
        count = int((codes != NONE).sum())
        return total / count, float(count)

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """Mean cross entropy."""
        total, count = 0.0, 0
        for k in range(0, len(self.valid), CHUNK):
            batch, codes = self._batch(self.valid[k : k + CHUNK])
            total += float(_cross_entropy(model, batch, codes, None, device))
            count += int((codes != NONE).sum())
        return total / count

    def _batch(self, index: np.ndarray) -> tuple[TagBatch, Tensor]:
        batch, rows, inside = self.steps.batch(index)
        return batch, torch.from_numpy(np.where(inside, self.codes[rows], NONE))  # (T, B)


def _cross_entropy(
    model: nn.Module, batch: TagBatch, codes: Tensor, weights: Tensor | None, device: torch.device
) -> Tensor:
    scores = model(TagBatch(*(x.to(device) for x in batch))).float()  # (T, B, K)
    return F.cross_entropy(
        scores.flatten(0, 1), codes.flatten().to(device), weights, ignore_index=NONE, reduction="sum"
    )
