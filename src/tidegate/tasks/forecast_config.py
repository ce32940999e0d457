"""The options of forecasting: fields of the Python class, of the command line and of ``config.toml``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.training.config import TrainingConfig


class ForecastConfig(TrainingConfig):
    """What is forecast, from what, and how."""

    task: ClassVar[str] = "forecast"

    target: list[str] = Field([], description="Column to forecast; repeat it for several.")
    time: str | None = Field(None, description="Column of times; without it the rows are taken in order.")
    series: str | None = Field(None, description="Column that names the series, when the table holds several.")
    horizon: int | None = Field(None, ge=1, description="Steps to forecast; one season by default.")
    known: list[str] = Field([], description="Column known in the future too, such as a price plan.")
    past: list[str] = Field([], description="Column known only up to now, such as another measurement.")
    static: list[str] = Field([], description="Column that is the same in all rows of a series.")
    frequency: str | None = Field(None, description="Step of the time grid, such as 15m, 1h, 1d, 1mo; found by itself.")
    history: int | None = Field(None, ge=1, description="Steps read before each forecast; found from the season.")
    season: int | None = Field(None, ge=1, description="Steps of one season; found from the step of the grid.")
    calendar: bool = Field(True, description="Hour, weekday and day of the year as inputs.")
    quantiles: list[float] = Field(
        [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95], description="Levels to forecast; 0.5 is the point forecast."
    )
    validation: float = Field(
        0.15, gt=0, lt=1, description="Share of the time, before the test part, that stops training."
    )
    test: float = Field(0.15, gt=0, lt=1, description="Share of the time, at the end, kept untouched for evaluation.")
    windows: int = Field(8_192, ge=1, description="Windows drawn at random for each epoch.")
    hidden_size: int = Field(128, ge=1, description="Units of each layer.")
    num_layers: int = Field(1, ge=1, description="Layers.")
    dropout: float = Field(0.4, ge=0, lt=1, description="Dropout rate between layers and before the head.")
    input_dropout: float = Field(0.3, ge=0, lt=1, description="Rate at which an input is hidden in a whole window.")
    noise: float = Field(0.0, ge=0, description="Standard deviation of noise added to the scaled inputs in training.")
    scale: float = Field(
        0.0, ge=0, description="In training each window's moves are multiplied at random: SD of the logarithm."
    )
    members: int = Field(
        1,
        ge=1,
        description="Networks trained from different seeds, whose answers are averaged: costs as many times more.",
    )
    weight_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate on the LSTM's recurrent weights.")
    variational: bool = Field(False, description="Dropout draws one mask a window, not one a step.")
    pretrain: int = Field(0, ge=0, description="Most epochs of next-step prediction on the history before.")
    cell: Literal["lstm", "rnn"] = Field("lstm", description="The vanilla RNN is there to be compared with.")

    @field_validator("target", "known", "past", "static", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, value: list[float]) -> list[float]:
        rising = sorted(set(value)) == value
        if not rising or 0.5 not in value or not 0 < value[0] < 0.5 < value[-1] < 1:
            raise ValueError(
                "levels rise, lie between 0 and 1, and have 0.5 and one on each side of it among them, such as "
                f"0.1, 0.5 and 0.9; given {', '.join(map(str, value))}"
            )
        return value

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.validation + self.test >= 0.9:
            raise ValueError(
                f"validation and test leave at least a tenth of the time to train on; given {self.validation} "
                f"and {self.test}"
            )
        return self
