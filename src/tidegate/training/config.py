"""The options of training that every task has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tidegate.config import Config


class TrainingConfig(Config):
    """How a model is trained."""

    epochs: int = Field(30, ge=1, description="Most passes; fewer when the validation score stops improving.")
    batch_size: int = Field(64, ge=1, description="Examples in one step of the optimiser.")
    learning_rate: float = Field(3e-3, gt=0, description="Highest learning rate; it warms up, then falls as a cosine.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's weight decay.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient; a larger one is scaled down.")
    average: float = Field(
        0.99, ge=0, lt=1, description="Decay of the running average of the weights, which is what is kept; 0 for none."
    )
    patience: int = Field(6, ge=1, description="Epochs without a better validation score before training stops.")
    seed: int = Field(0, ge=0, description="Start of every random number.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision.")
    cpu: bool = Field(False, description="Stay on the CPU where a GPU is present.")
    checkpoint_seconds: float = Field(30.0, ge=0, description="Seconds between checkpoints inside an epoch.")
