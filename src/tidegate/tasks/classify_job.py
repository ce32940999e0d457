"""What the training loop asks of a classifier: batches, the loss on one, and the score to stop by."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.data.sequences import Sequences
from tidegate.tasks.classify_config import ClassifyConfig
from tidegate.tasks.classify_data import make_batch
from tidegate.tasks.classify_network import ClassifyNet, SequenceBatch
from tidegate.tasks.sequence_data import SequenceScaling, batches
from tidegate.training.augment import resample, scale
from tidegate.training.pretrain import NextStep, NextStepJob

CHUNK = 256


class ClassifyJob:
    """Cross entropy over the training part; over the validation part without class weights or dropout."""

    def __init__(
        self,
        model: ClassifyNet,
        sequences: Sequences,
        codes: np.ndarray,
        train: np.ndarray,
        valid: np.ndarray,
        scaling: SequenceScaling | None,
        config: ClassifyConfig,
    ) -> None:
        self.model, self.sequences, self.scaling, self.config = model, sequences, scaling, config
        self.codes = torch.from_numpy(codes)  # (N,)
        self.train = train
        self.valid = valid if len(valid) else train[:CHUNK]  # without a validation part: only to be shown
        self.lengths = sequences.lengths[train]
        self.weights: Tensor | None = None  # (K,)
        if config.class_weights == "balanced":
            count = np.bincount(codes[train], minlength=int(codes.max()) + 1)
            self.weights = torch.from_numpy(len(train) / (len(count) * np.maximum(count, 1))).float()

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """All sequences once, in batches of similar lengths."""
        return batches(self.lengths, self.config.batch_size, generator)

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Mean cross entropy, and the number of sequences."""
        index = self.train[indices.numpy()]
        scores = self._scores(model, index, device, training=True)
        weights = None if self.weights is None else self.weights.to(device)
        smooth = self.config.label_smoothing
        loss = F.cross_entropy(scores, self.codes[index].to(device), weights, reduction="none", label_smoothing=smooth)
        return loss.mean(), float(len(index))

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """Mean cross entropy."""
        total = 0.0
        for k in range(0, len(self.valid), CHUNK):
            index = self.valid[k : k + CHUNK]
            scores = self._scores(model, index, device)
            total += float(F.cross_entropy(scores, self.codes[index].to(device), reduction="sum"))
        return total / len(self.valid)

    def _scores(self, model: nn.Module, index: np.ndarray, device: torch.device, *, training: bool = False) -> Tensor:
        batch = make_batch(self.sequences, index, self.scaling)
        if training and self.scaling is not None:
            batch = self._augmented(batch)
        return model(SequenceBatch(*(x.to(device) for x in batch))).float()

    def _augmented(self, batch: SequenceBatch) -> SequenceBatch:
        """Sequences of numbers, changed as the options say."""
        c = self.config
        inputs, lengths = batch
        if c.warp or c.crop:
            inputs, lengths = resample(inputs, lengths, c.warp, c.crop)
        if c.scale and self.scaling is not None:
            columns = len(self.scaling.mean)  # flags "known" come after them, and say yes or no
            inputs = torch.cat([scale(inputs[..., :columns], c.scale), inputs[..., columns:]], -1)
        return SequenceBatch(inputs, lengths)


def pretraining(
    model: ClassifyNet,
    sequences: Sequences,
    train: np.ndarray,
    valid: np.ndarray,
    unlabelled: Sequences | None,
    scaling: SequenceScaling | None,
    config: ClassifyConfig,
) -> NextStepJob:
    """Next-step prediction over the training part and the sequences without a label."""
    first = len(sequences)
    more = np.arange(0 if unlabelled is None else len(unlabelled)) + first
    pool = sequences if unlabelled is None else sequences.then(unlabelled)
    train = np.concatenate([train, more])

    def gather(index: np.ndarray) -> tuple[Tensor, Tensor]:
        batch = make_batch(pool, index, scaling)
        return batch.inputs, batch.lengths

    def epoch(generator: torch.Generator) -> list[Tensor]:
        return batches(pool.lengths[train], config.batch_size, generator)

    net = NextStep(model.recurrent, model.embedding)
    return NextStepJob(net, gather, train, valid if len(valid) else train[:CHUNK], epoch, CHUNK)
