"""What learners of labelled sequences do alike: parts of whole sequences, other forms of the model, what to score on.

N sequences.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from torch import Tensor

from tidegate.data.table import is_pandas
from tidegate.errors import DataError
from tidegate.tasks.learner import Learner, Report
from tidegate.tasks.run import digest
from tidegate.tasks.sequence_data import SequenceScaling, about_values, split
from tidegate.tasks.temperature import to_probabilities

TEST = 0.2  # of tables and files; a list's user parts the data, as scikit-learn does
PARTS = ("train", "valid")


class SequenceLearner(Learner):
    """A learner whose examples are whole sequences, with names by which they are known again.

    Attributes
    ----------
    kept_ : dict of list of str
        Names of the sequences that train and stop.
    sequences_
        The labelled sequences of ``fit``, read again after ``load``.
    """

    labelled: ClassVar[str]  # what has a label, in the plural
    scores: ClassVar[dict[str, str]]  # what is shown of the scores, and what it is called
    classes_: np.ndarray
    temperature_: float
    scaling_: SequenceScaling | None
    kept_: dict[str, list[str]]
    sequences_: Any = None
    _parts: tuple[np.ndarray, ...]
    _given: dict[str, list[str]] | None = None  # the parts of another form of the model
    _test: float = TEST

    @abstractmethod
    def _read(self, data: Any, *, labelled: bool = True, trained: bool = False) -> Any:
        """Sequences; ``trained``: with the columns that training had."""

    @abstractmethod
    def _with_labels(self, data: Any) -> tuple[Any, list[str]]:
        """Without the sequences that have no label, and notes on them."""

    @abstractmethod
    def _labelled(self, data: Any, y: Any, groups: Any) -> Any:
        """Lists with their labels as sequences; anything else as it is."""

    @abstractmethod
    def logits(self, sequences: Any) -> np.ndarray:
        """Scores (., K) before softmax, not calibrated."""

    @abstractmethod
    def score_on(self, sequences: Any, *, compare: Sequence[str] = (), progress: bool = False) -> dict[str, Any]:
        """Scores on labelled sequences, beside other forms of the model and baselines."""

    @abstractmethod
    def sentences(self, metrics: dict[str, Any]) -> list[str]:
        """What the scores say, for a person."""

    def probabilities(self, sequences: Any) -> np.ndarray:
        """Calibrated probabilities (., K)."""
        return to_probabilities(self.logits(sequences), self.temperature_)

    def evaluate(
        self,
        data: Any = None,
        y: Any = None,
        *,
        groups: Any = None,
        compare: Sequence[str] = (),
        progress: bool = False,
    ) -> dict[str, Any]:
        """Scores on sequences that training has not seen, beside baselines.

        Parameters
        ----------
        data, y, groups
            As for ``fit``; the untouched part of the data of ``fit`` by default. Sequences of other
            data that have the name of one that trained are left out; those without names are all scored.
        compare : sequence of str
            Other forms to train and put beside, of those in ``forms``.
        progress : bool

        Returns
        -------
        dict
            As ``score_on``.
        """
        data = self._labelled(data, y, groups) if data is not None else None
        return self.score_on(self.untouched(data), compare=compare, progress=progress)

    def report(
        self, folder: Path, data: Any = None, *, compare: Sequence[str] = (), command: str = "", progress: bool = False
    ) -> Report:
        """As :meth:`evaluate`, with ``metrics.json``, the confusion matrix and the card in a run folder."""
        from tidegate.tasks.sequence_report import write_report

        return write_report(self, folder, data, compare=compare, command=command, progress=progress)

    def _unlabelled(self, data: Any, what: str) -> Any:
        self._check_fitted(what)
        sequences = self._read(data, labelled=False, trained=True)
        self.predict_notes_ = [*sequences.notes, *about_values(sequences, learnt=False)]
        return sequences

    def _is_table(self, data: Any) -> bool:
        return isinstance(data, str | Path | pl.DataFrame | pl.LazyFrame) or (
            is_pandas(data) and hasattr(data, "columns")
        )

    def _part(self, data: Any, codes: np.ndarray, test: float) -> str:
        """Draw the parts, stratified by the codes (N,), or take those given; says how many there are of each."""
        if self._given is None:
            parts = split(codes, data.groups, self.config.validation, test, self.config.seed)
            if test > 0 and not len(parts[2]):
                raise DataError(
                    f"there are too few sequences ({len(data):,}) to keep some untouched; give more (in two-column "
                    "text a blank line ends a sequence), or --test 0 to keep none"
                )
        else:
            where = {name: n for n, name in enumerate(data.names)}
            trained, valid = ([where[n] for n in self._given[part] if n in where] for part in PARTS)
            parts = np.array(trained, np.int64), np.array(valid, np.int64), np.zeros(0, np.int64)
        self._parts = parts
        self.kept_ = {name: [data.names[n] for n in part] for name, part in zip(PARTS, parts, strict=False)}
        self.sequences_ = data
        counts = ", ".join(f"{count:,} {what}" for count, what in zip(
            map(len, parts), ("train", "stop and calibrate", "are kept untouched"), strict=True
        ) if count)  # fmt: skip
        return counts + (f" ({len(np.unique(data.groups)):,} groups, none parted)" if data.groups is not None else "")

    def _epochs(self) -> int | None:
        return None if len(self._parts[1]) else self.config.epochs

    @property
    def has_training_data(self) -> bool:
        """Are the sequences of ``fit`` at hand, or can they be read again and told apart?"""
        return self.sequences_ is not None or (self.source_is_there and not self._cannot_be_told)

    @property
    def _cannot_be_told(self) -> bool:
        """Has a file changed whose sequences are known by their rows alone?"""
        assert self.data_ is not None
        named = self.resolved_.sequence is not None or Path(self.data_).is_dir()
        return not named and self._digest not in (None, digest(self.data_))

    def training_data(self) -> Any:
        """The labelled sequences of ``fit``; read again after ``load``.

        Raises
        ------
        DataError
            If it cannot be told any more which of them trained.
        """
        if self.sequences_ is None:
            source = self._source(None)
            if self._cannot_be_told:
                raise DataError(
                    f"{self.data_} has changed since the model was trained on it, and its sequences have no names, so "
                    "that what is untouched cannot be told; give the data to score"
                )
            self.sequences_, _ = self._with_labels(self._read(source, trained=True))
        return self.sequences_

    def kept_part(self, *parts: str) -> Any:
        """The sequences that train ("train") or stop ("valid"), by their names."""
        data = self.training_data()
        where = {name: n for n, name in enumerate(data.names)}
        names = [name for part in parts for name in self.kept_[part]]
        return data.take(np.array([where[name] for name in names if name in where], np.int64))

    def untouched(self, data: Any = None) -> Any:
        """The sequences to score on.

        Raises
        ------
        DataError
            If there are none.
        """
        self._check_fitted("evaluate")
        own = self.is_own(data)
        sequences = self.training_data() if own else self._read(data, trained=True)
        if own or sequences.named:
            seen = {name for part in PARTS for name in self.kept_[part]}
            left = np.array([n for n, name in enumerate(sequences.names) if name not in seen], np.int64)
            if not len(left):
                kept = "none were kept untouched (--test 0)" if own else "training has seen all that are given"
                raise DataError(f"there are no sequences to score: {kept}; give others")
            notes = list(sequences.notes)
            if not own and (count := len(sequences) - len(left)):
                notes.append(f"left out {count:,} sequences that training has seen, by their names")
            sequences = replace(sequences.take(left), notes=notes)
        return sequences

    def twin(self, form: str, *, progress: bool = False) -> Self:
        """Another form of the model, trained on the same sequences; kept in the run folder, and gone on with there."""
        return self._beside(form, self._form(form), self.training_data, progress=progress)

    def _like(self, options: dict[str, Any]) -> Self:
        other = super()._like(options)
        other._given = self.kept_
        return other

    # -- the run folder ---------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        return {} if self.scaling_ is None else self.scaling_.tensors()

    def _facts(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist(), "temperature": self.temperature_, "kept": self.kept_}

    def _restore_labels(self, tensors: dict[str, Tensor], facts: dict[str, Any], *, numbers: bool) -> None:
        self.classes_, self.temperature_ = np.array(facts["classes"]), float(facts["temperature"])
        self.kept_ = {part: list(facts["kept"][part]) for part in PARTS}
        self.scaling_ = SequenceScaling.from_tensors(tensors) if numbers else None
        if self.classes_.ndim != 1 or not len(self.classes_) or not self.temperature_ > 0:
            raise ValueError("classes or temperature")
        if self.scaling_ is not None and self.resolved_.feature:
            shapes = {value.shape for value in self.scaling_}
            if shapes != {(len(self.resolved_.feature),)}:
                raise ValueError(f"scaling of shape {shapes} for {len(self.resolved_.feature)} columns")

    @property
    def form(self) -> str:
        """The model in a few words."""
        c = self.resolved_
        return c.cell.upper() + ", one-way" * (not c.bidirectional)
