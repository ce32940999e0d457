"""The options of classification: fields of the Python class, of the command line and of ``config.toml``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.training.config import TrainingConfig

# Other forms of a model, to be trained on the same sequences and put beside it.
FORMS: dict[str, dict[str, Any]] = {
    "shuffled": {"shuffle_steps": True},
    "one-way": {"bidirectional": False},
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
}


class ClassifyConfig(TrainingConfig):
    """What is classified, from what, and how."""

    task: ClassVar[str] = "classify"

    sequence: str | None = Field(None, description="Column that tells the sequences apart: one row a step.")
    label: str | None = Field(None, description="Column of labels, the same in all rows of a sequence.")
    time: str | None = Field(None, description="Column to sort the steps by; without it rows are taken in order.")
    feature: list[str] = Field([], description="Column of numbers to read; all that have no other role by default.")
    text: str | None = Field(None, description="Column of text, instead of --sequence: each row is a sequence.")
    group: str | None = Field(
        None, description="Column, such as a person, whose sequences are never parted between training and testing."
    )
    validation: float = Field(
        0.15, ge=0, lt=1, description="Share of the sequences that stops training and calibrates; 0 trains to the end."
    )
    test: float | None = Field(
        None, ge=0, lt=1, description="Share kept untouched for evaluation; 0.2, or 0 for arrays in Python."
    )
    refit: bool = Field(
        False, description="At the end, train anew on the validation part too, for as many epochs as were best."
    )
    hidden_size: int = Field(64, ge=1, description="Units of each layer and direction.")
    num_layers: int = Field(1, ge=1, description="Layers.")
    bidirectional: bool = Field(True, description="Read the sequence backwards too.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout rate between layers and before the head.")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="Rate at which an input is hidden in a whole sequence.")
    noise: float = Field(0.0, ge=0, description="Standard deviation of noise added to the scaled inputs in training.")
    scale: float = Field(
        0.0, ge=0, description="In training each input of each sequence is multiplied at random: SD of the logarithm."
    )
    warp: float = Field(
        0.0, ge=0, description="In training each sequence is read at a random speed: SD of its logarithm."
    )
    crop: float = Field(0.0, ge=0, lt=1, description="In training up to this share of each sequence is cut off.")
    members: int = Field(
        1,
        ge=1,
        description="Networks trained from different seeds, whose answers are averaged: costs as many times more.",
    )
    weight_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate on the LSTM's recurrent weights.")
    variational: bool = Field(False, description="Dropout between layers draws one mask a sequence, not one a step.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label given to all classes alike.")
    pretrain: int = Field(
        0, ge=0, description="Most epochs of next-step prediction before, on sequences without labels too."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare classes weigh as much as common ones."
    )
    cell: Literal["lstm", "rnn"] = Field("lstm", description="The vanilla RNN is there to be compared with.")
    shuffle_steps: bool = Field(False, description="Take the steps of each sequence in random order, to compare with.")

    epochs: int = Field(40, ge=1, description="Most passes; fewer when the validation score stops improving.")
    batch_size: int = Field(32, ge=1, description="Sequences in one step of the optimiser.")
    patience: int = Field(10, ge=1, description="Epochs without a better validation score before training stops.")

    @property
    def kind(self) -> str:
        return "text" if self.text else ""

    @field_validator("feature", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.validation + (self.test or 0) >= 0.9:
            raise ValueError(
                f"validation and test leave at least a tenth of the sequences to train on; given {self.validation} "
                f"and {self.test}"
            )
        for name in ("scale", "warp", "crop"):
            if self.text and getattr(self, name):
                raise ValueError(f"{name} changes sequences of numbers; it does not go with text: leave it out")
        return self
