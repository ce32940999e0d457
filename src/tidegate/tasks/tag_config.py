"""The options of tagging: fields of the Python class, of the command line and of ``config.toml``."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.training.config import TrainingConfig

# Other forms of a model, to be trained on the same sequences and put beside it.
FORMS: dict[str, dict[str, Any]] = {
    "one-way": {"bidirectional": False},
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
}


class TagConfig(TrainingConfig):
    """What is tagged, from what, and how."""

    sequence: str | None = Field(None, description="Column that tells the sequences apart: one row a step.")
    label: str | None = Field(None, description="Column of labels, one a row; rows without one are not learnt from.")
    token: str | None = Field(None, description="Column of words or characters to read.")
    feature: list[str] = Field(
        [], description="Column of numbers to read; without --token, all that have no other role by default."
    )
    time: str | None = Field(None, description="Column to sort the steps by; without it rows are taken in order.")
    group: str | None = Field(
        None, description="Column, such as a document, whose sequences are never parted between training and testing."
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of the sequences that stops training and calibrates; 0 trains to the end."
    )
    test: float | None = Field(
        None, ge=0, lt=1, description="Share kept untouched for evaluation; 0.2, or 0 for lists in Python."
    )
    hidden_size: int = Field(128, ge=1, description="Units of each layer and direction.")
    num_layers: int = Field(1, ge=1, description="Layers.")
    bidirectional: bool = Field(True, description="Read the sequence backwards too: each label sees the future.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout rate before, between and after the layers.")
    embedding_size: int = Field(64, ge=1, description="Numbers that stand for a word.")
    characters: bool = Field(True, description="Read the letters of each word too, with a small LSTM.")
    character_size: int = Field(32, ge=1, description="Units of that LSTM, in each direction.")
    least: int = Field(2, ge=1, description="Words that occur less often in training are unknown words.")
    unknown: float = Field(
        0.25, ge=0, description="How readily words are taken as unknown in training: a word seen n times at a/(a+n)."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare labels weigh as much as common ones."
    )
    cell: Literal["lstm", "rnn"] = Field("lstm", description="The vanilla RNN is there to be compared with.")

    epochs: int = Field(20, ge=1, description="Most passes; fewer when the validation score stops improving.")
    batch_size: int = Field(32, ge=1, description="Sequences in one step of the optimiser.")
    patience: int = Field(4, ge=1, description="Epochs without a better validation score before training stops.")

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
        return self
