"""What learners of labelled sequences do alike: parts of whole sequences, other forms of the model, what to score on.

N sequences.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from tidegate.errors import DataError
from tidegate.tasks.forecast_data import is_pandas
from tidegate.tasks.learner import Learner
from tidegate.tasks.run import CONFIG, MODEL, read_config
from tidegate.tasks.sequence_data import split

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

    forms: ClassVar[dict[str, dict[str, Any]]]  # other forms of the model: the fields that they change
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

    def _is_table(self, data: Any) -> bool:
        return isinstance(data, str | Path | pl.DataFrame | pl.LazyFrame) or (
            is_pandas(data) and hasattr(data, "columns")
        )

    def _part(self, data: Any, codes: np.ndarray, test: float) -> str:
        """Draw the parts, stratified by the codes (N,), or take those given; says how many there are of each."""
        if self._given is None:
            parts = split(codes, data.groups, self.config.validation, test, self.config.seed)
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

    def training_data(self) -> Any:
        """The labelled sequences of ``fit``; read again after ``load``."""
        if self.sequences_ is None:
            self.sequences_, _ = self._with_labels(self._read(self._source(None), trained=True))
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
        own = data is None or (isinstance(data, str | Path) and str(Path(data).resolve()) == self.data_)
        sequences = self.training_data() if own else self._read(data, trained=True)
        if own or sequences.named:
            seen = {name for part in PARTS for name in self.kept_[part]}
            left = np.array([n for n, name in enumerate(sequences.names) if name not in seen], np.int64)
            if not len(left):
                kept = "none were kept untouched (--test 0)" if own else "training has seen all that are given"
                raise DataError(f"there are no sequences to score: {kept}; give others")
            sequences = sequences.take(left)
        return sequences

    def twin(self, form: str, *, progress: bool = False) -> Self:
        """Another form of the model, trained on the same sequences; kept in the run folder, and gone on with there."""
        self.check_comparisons([form])
        path = None if self.folder_ is None else self.folder_ / f"compare-{form}"
        options: dict[str, Any] = self.resolved_.model_dump() | self.forms[form]
        if options == self.resolved_.model_dump():
            return self
        begun = False
        if path is not None and (path / CONFIG).is_file():
            begun = read_config(path, self.Config).model_dump() == options
            if begun and (path / MODEL).is_file():
                return type(self).load(path)
        other = type(self)(**options)
        other.data_, other._given = self.data_, self.kept_
        return other._learn(self.training_data(), path, resume=begun, progress=progress, notes=False)

    @property
    def form(self) -> str:
        """The model in a few words."""
        c = self.resolved_
        return c.cell.upper() + ", one-way" * (not c.bidirectional)
