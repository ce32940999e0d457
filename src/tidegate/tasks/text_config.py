"""The options of a text model: fields of the Python class, of the command line and of ``config.toml``."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tidegate.training.config import TrainingConfig


class TextConfig(TrainingConfig):
    """What is read, and how."""

    task: ClassVar[str] = "text"

    validation: float = Field(
        0.05, ge=0, lt=1, description="Share, just before the untouched part, that stops training; 0 trains to the end."
    )
    test: float = Field(0.05, ge=0, lt=1, description="Share at the end kept untouched for evaluation.")
    hidden_size: int = Field(512, ge=1, description="Units of each layer.")
    num_layers: int = Field(1, ge=1, description="Layers.")
    embedding_size: int = Field(128, ge=1, description="Numbers a byte is read as; the same ones score the next byte.")
    window: int = Field(100, ge=2, description="Bytes through which the gradient goes back; the memory goes further.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Rate of one mask a window between layers.")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="Rate of one mask a window on the embedded bytes.")
    output_dropout: float = Field(0.0, ge=0, lt=1, description="Rate of one mask a window on the top layer's output.")
    weight_dropout: float = Field(0.0, ge=0, lt=1, description="Rate on the recurrent weights, drawn once a window.")
    cell: Literal["lstm", "rnn"] = Field("lstm", description="The vanilla RNN is there to be compared with.")

    epochs: int = Field(10, ge=1, description="Most passes; fewer when the validation score stops improving.")
    batch_size: int = Field(32, ge=1, description="Streams of text read side by side.")
    learning_rate: float = Field(4e-3, gt=0, description="Highest learning rate; it warms up, then falls as a cosine.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    patience: int = Field(3, ge=1, description="Epochs without a better validation score before training stops.")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.validation + self.test >= 0.9:
            raise ValueError(
                f"validation and test leave at least a tenth of the text to train on; given {self.validation} "
                f"and {self.test}"
            )
        if self.cell == "rnn" and self.weight_dropout:
            raise ValueError("weight_dropout is an option of the LSTM; the vanilla RNN has none")
        return self
