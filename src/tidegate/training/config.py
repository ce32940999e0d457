"""The options of training that every task has."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tidegate.config import Config
from tidegate.training.recipes import Recipe, recipe_options


class TrainingConfig(Config):
    """How a model is trained."""

    task: ClassVar[str] = ""  # whose recipes these are

    recipe: Recipe = Field(
        "none", description="small-data: sets the options that are worth it with few data, where you give none."
    )
    epochs: int = Field(30, ge=1, description="Most passes; fewer when the validation score stops improving.")
    least_steps: int = Field(
        0, ge=0, description="Least steps of the optimiser over all epochs: few data are read several times an epoch."
    )
    batch_size: int = Field(64, ge=1, description="Examples in one step of the optimiser.")
    learning_rate: float = Field(3e-3, gt=0, description="Highest learning rate; it warms up, then falls as a cosine.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's weight decay.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient; a larger one is scaled down.")
    averaging: Literal["ema", "nt-asgd"] = Field(
        "ema",
        description="Running average; or the mean since the validation score last got better, at a constant rate.",
    )
    average: float = Field(
        0.99, ge=0, lt=1, description="Decay of the running average of the weights, which is what is kept; 0 for none."
    )
    patience: int = Field(6, ge=1, description="Epochs without a better validation score before training stops.")
    seed: int = Field(0, ge=0, lt=2**32, description="Start of every random number.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision.")
    cpu: bool = Field(False, description="Stay on the CPU where a GPU is present.")
    checkpoint_seconds: float = Field(30.0, ge=0, description="Seconds between checkpoints inside an epoch.")

    @property
    def kind(self) -> str:
        """Of data, where a task's recipe depends on it."""
        return ""

    @model_validator(mode="after")
    def _recipe(self) -> Self:
        for name, value in recipe_options(self.recipe, self.task, self.kind).items():
            if name not in self.model_fields_set:
                self.__dict__[name] = value  # and it stays one that the user has not given
        return self
