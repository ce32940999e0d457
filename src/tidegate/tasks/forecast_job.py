"""What the training loop asks of a forecaster: batches, the loss on one, and the score to stop by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.data.windows import Batch, Origins, Windows
from tidegate.tasks.forecast_config import ForecastConfig
from tidegate.tasks.network import ForecastNet, pinball
from tidegate.training.pretrain import NextStep, NextStepJob

VALIDATION_WINDOWS = 2_000


class ForecastJob:
    """Windows drawn at random, and pinball loss of the values that are known."""

    def __init__(self, model: ForecastNet, windows: Windows, train: Origins, valid: Origins, config: ForecastConfig):
        self.model, self.windows, self.train = model, windows, train
        self.valid = valid.sample(VALIDATION_WINDOWS, config.seed)
        self.config = config
        self.levels = torch.tensor(config.quantiles)
        panel = windows.panel
        values = {*panel.target_names, *(f"{name} a season ago" for name in panel.target_names), *panel.past_names}
        self.moves = torch.tensor([name in values for name in windows.names])  # (I,) inputs that are differences

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """A random part of all windows, each at most once."""
        drawn = torch.randperm(len(self.train), generator=generator)[: self.config.windows]
        return list(drawn.split(self.config.batch_size))

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Pinball loss of the values that are known, and their number."""
        batch = self.windows.batch(self.train.take(indices.numpy()))
        if self.config.scale:
            batch = self._scaled(batch)
        return self._loss(model, batch, device)

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """Mean pinball loss in scaled units."""
        parts = [self._loss(model, self.windows.batch(part), device) for part in self.valid.parts(512)]
        return sum(float(loss) * weight for loss, weight in parts) / max(sum(weight for _, weight in parts), 1.0)

    def _scaled(self, batch: Batch) -> Batch:
        """Each window's differences from its last known values, before and after, times one random factor."""
        factor = torch.exp(self.config.scale * torch.randn(len(batch.last)))  # (B,)
        inputs = torch.where(self.moves, batch.inputs * factor[:, None], batch.inputs)
        last = batch.last[:, None]
        return batch._replace(inputs=inputs, target=last + (batch.target - last) * factor[:, None, None])

    def _loss(self, model: nn.Module, batch: Batch, device: torch.device) -> tuple[Tensor, float]:
        batch = Batch(*(x.to(device) for x in batch))
        loss = pinball(model(batch).float(), batch.target, self.levels.to(device)).mean(-1)  # (B, h, C)
        weight = batch.observed.sum()
        return (loss * batch.observed).sum() / weight.clamp(min=1), float(weight)


def pretraining(
    model: ForecastNet, windows: Windows, train: Origins, valid: Origins, config: ForecastConfig
) -> NextStepJob:
    """Next-step prediction over the histories of the windows."""
    origins = train.then(valid.sample(VALIDATION_WINDOWS, config.seed))
    index = np.arange(len(origins))

    def gather(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs = windows.batch(origins.take(chosen)).inputs[: windows.history]
        return inputs, torch.full((len(chosen),), windows.history)

    def epoch(generator: torch.Generator) -> list[Tensor]:
        return list(torch.randperm(len(train), generator=generator)[: config.windows].split(config.batch_size))

    return NextStepJob(NextStep(model.recurrent), gather, index[: len(train)], index[len(train) :], epoch)
