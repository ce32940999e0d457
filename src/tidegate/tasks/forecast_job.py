"""What the training loop asks of a forecaster: batches, the loss on one, and the score to stop by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tidegate.data.windows import Batch, Origins, Windows
from tidegate.tasks.baselines import chunks, sample
from tidegate.tasks.forecast_config import ForecastConfig
from tidegate.tasks.network import ForecastNet, pinball

VALIDATION_WINDOWS = 2_000


class ForecastJob:
    """Windows drawn at random, and pinball loss of the values that are known."""

    def __init__(self, model: ForecastNet, windows: Windows, train: Origins, valid: Origins, config: ForecastConfig):
        self.model, self.windows, self.train = model, windows, train
        self.valid = sample(valid, VALIDATION_WINDOWS, config.seed)
        self.config = config
        self.levels = torch.tensor(config.quantiles)

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """A random part of all windows, each at most once."""
        drawn = torch.randperm(len(self.train), generator=generator)[: self.config.windows]
        return list(drawn.split(self.config.batch_size))

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Pinball loss of the values that are known, and their number."""
        return self._loss(model, self.train.take(indices.numpy()), device)

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """Mean pinball loss in scaled units."""
        parts = [self._loss(model, part, device) for part in chunks(self.valid, 512)]
        return sum(float(loss) * weight for loss, weight in parts) / max(sum(weight for _, weight in parts), 1.0)

    def _loss(self, model: nn.Module, origins: Origins, device: torch.device) -> tuple[Tensor, float]:
        batch = Batch(*(x.to(device) for x in self.windows.batch(origins)))
        loss = pinball(model(batch).float(), batch.target, self.levels.to(device)).mean(-1)  # (B, h, C)
        weight = batch.observed.sum()
        return (loss * batch.observed).sum() / weight.clamp(min=1), float(weight)
