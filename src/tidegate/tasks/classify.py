"""Classification: sequences in, the probability of each label out.

N sequences, T steps, C columns, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from tidegate.data.sequences import Sequences, from_arrays, from_folder, from_table, per_sequence
from tidegate.data.table import as_given
from tidegate.errors import ConfigError
from tidegate.tasks.classify_config import FORMS, ClassifyConfig
from tidegate.tasks.classify_data import (
    about_sequences,
    check_classes,
    check_kind,
    label_columns,
    label_frame,
    make_batch,
    unused,
    with_labels,
    without_labels,
)
from tidegate.tasks.classify_job import CHUNK, ClassifyJob, pretraining
from tidegate.tasks.classify_network import ClassifyNet
from tidegate.tasks.sequence_data import SequenceScaling, about_values, check_distinct
from tidegate.tasks.sequence_learner import TEST, SequenceLearner
from tidegate.tasks.temperature import fit_temperature
from tidegate.training.ensemble import mean_of_probabilities
from tidegate.training.pretrain import NextStepJob


class Classifier(SequenceLearner):
    """Gives sequences of any length a label, with one LSTM that reads them in both directions.

    Parameters
    ----------
    **options
        Fields of :class:`ClassifyConfig`: the same as the command line's options and the lines of
        a ``config.toml``.

    Attributes
    ----------
    model_ : ClassifyNet
    classes_ : (K,) array
        The labels, sorted.
    temperature_ : float
        What scores are divided by, so that probabilities are calibrated.
    notes_, predict_notes_, training_
        As in :class:`~tidegate.tasks.learner.Learner`.

    Examples
    --------
    >>> model = tg.Classifier(sequence="recording", label="exercise", group="subject")
    >>> model.fit("watch.parquet").predict("new.parquet")
    >>> tg.Classifier().fit(list_of_arrays, labels).predict_proba(others)  # as in scikit-learn
    """

    task: ClassVar[str] = "classify"
    Config = ClassifyConfig
    what: ClassVar[str] = "labels"
    help: ClassVar[str] = """Train a classifier of sequences and score it on sequences kept untouched.

    Such as: tidegate train classify watch.csv --sequence recording --label exercise --group subject
    """
    data_help: ClassVar[str] = (
        "A CSV or Parquet file with one row a step (or, with --text, one text a row), or a folder with a folder of "
        "files for each label."
    )
    table_fields: ClassVar[tuple[str, ...]] = (
        "sequence", "label", "time", "feature", "text", "group", "validation", "test",
    )  # fmt: skip
    forms: ClassVar[dict[str, dict[str, Any]]] = FORMS
    labelled: ClassVar[str] = "sequences"
    scores: ClassVar[dict[str, str]] = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "log loss"}
    config: ClassifyConfig
    resolved_: ClassifyConfig
    model_: ClassifyNet
    classes_: np.ndarray
    temperature_: float
    scaling_: SequenceScaling | None
    sequences_: Sequences | None = None
    _codes: np.ndarray  # (N,) class of each of sequences_
    _unlabelled_: Sequences | None = None  # of fit, to pretrain on

    def fit(
        self,
        data: Any,
        y: Any = None,
        *,
        groups: Any = None,
        folder: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Self:
        """Train on one part of the sequences, stop and calibrate by another.

        Parameters
        ----------
        data : path of a CSV or Parquet file or of a folder, data frame, or list of arrays or texts
            Arrays are (T, C), of any T each; NaN where a value is missing.
        y : sequence of N labels, optional
            With a list only. No test part is kept then, unless ``test`` says so.
        groups : sequence of N, optional
            With a list only: what may not be parted, such as the person.
        folder, resume, progress
            As in :class:`~tidegate.tasks.forecast.Forecaster`.

        Raises
        ------
        DataError, ConfigError, TrainingStopped
            With one sentence that says what is wrong, where, and what to do.
        """
        self._given, self._test = None, TEST if y is None else 0.0
        return self._fit(self._labelled(data, y, groups), folder, resume=resume, progress=progress)

    def predict(self, data: Any) -> Any:
        """The most probable label of each sequence.

        Parameters
        ----------
        data
            As for ``fit``; no labels are needed.

        Returns
        -------
        array (N,) for a list, else a data frame of the kind given (polars for a file)
            A row a sequence: the label, its probability, and ``p_<label>`` of each.
        """
        sequences = self._unlabelled(data, "predict")
        p = self.probabilities(sequences)  # (N, K)
        if not self._is_table(data):
            return self.classes_[p.argmax(1)]
        frame = label_frame(sequences, p, self.classes_, self.resolved_)
        return as_given(frame, data)

    def predict_proba(self, data: Any) -> np.ndarray:
        """Calibrated probabilities (N, K), in the order of ``classes_``."""
        return self.probabilities(self._unlabelled(data, "predict_proba"))

    def score(self, data: Any, y: Any) -> float:
        """Accuracy, given the label of each sequence of ``data`` in ``y``."""
        named = self.classes_[self.predict_proba(data).argmax(1)]
        return float(np.mean(named == per_sequence("labels", y, len(named))))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), None, ClassifierTags(), None, input_tags=InputTags())

    def score_on(self, sequences: Sequences, *, compare: Sequence[str] = (), progress: bool = False) -> dict[str, Any]:
        """As :func:`tidegate.tasks.classify_report.evaluate`."""
        from tidegate.tasks.classify_report import evaluate

        return evaluate(self, sequences, compare=compare, progress=progress)

    def sentences(self, metrics: dict[str, Any]) -> list[str]:
        """What the scores say, for a person."""
        from tidegate.tasks.classify_report import sentences

        return sentences(metrics, self.form)

    @property
    def form(self) -> str:
        """The model in a few words."""
        return super().form + ", steps shuffled" * self.resolved_.shuffle_steps

    # -- from data to sequences -------------------------------------------------------------------

    def _labelled(self, data: Any, y: Any, groups: Any) -> Any:
        """Arrays with their labels as sequences; anything else as it is."""
        if isinstance(data, Sequences):
            return data
        if self._is_table(data):
            if y is not None or groups is not None:
                raise ConfigError(
                    "y and groups go with a list of arrays; a table has columns for them: label and group"
                )
            return data
        if y is None:
            raise ConfigError("a list of arrays needs its labels: fit(arrays, y)")
        return from_arrays(data, y, groups)

    def _read(self, data: Any, *, labelled: bool = True, trained: bool = False) -> Sequences:
        """``trained``: with the columns that training had."""
        if isinstance(data, Sequences):
            return data
        c = self.resolved_ if trained else self.config
        if isinstance(data, str | Path) and Path(data).expanduser().is_dir():
            if given := [f"--{n}" for n in ("sequence", "label", "text", "group") if getattr(c, n) is not None]:
                raise ConfigError(f"{data} is a folder, whose files are the sequences; it does not go with {given[0]}")
            return from_folder(Path(data).expanduser(), labelled=labelled, time=c.time, feature=c.feature)
        if not self._is_table(data):
            return from_arrays(data)
        if labelled and c.label is None:
            raise ConfigError("--label is needed: the column of labels")
        roles: dict[str, Any] = {"sequence": c.sequence, "time": c.time, "feature": c.feature, "text": c.text}
        if labelled:
            roles |= {"label": c.label, "group": c.group}
        return from_table(data, **roles)

    def _with_labels(self, data: Sequences) -> tuple[Sequences, list[str]]:
        return with_labels(data)

    def _prepare(self, data: Sequences) -> None:
        """Find the classes, part the sequences, fit the scaling."""
        c = self.config
        given = data
        data, notes = with_labels(given)
        self._unlabelled_ = without_labels(given) if c.pretrain else None
        assert data.labels is not None
        found, codes = np.unique(data.labels, return_inverse=True)
        check_classes(found, codes, c)
        self.classes_ = np.array(found.tolist())
        check_distinct(label_columns(data, self.classes_, c))
        test = self._test if c.test is None else c.test
        columns = [] if data.text or not (c.sequence or c.feature or data.named) else data.columns
        self.resolved_ = c.model_copy(update={"test": test, "feature": columns})
        counts = self._part(data, codes, test)
        self.scaling_ = None if data.text else SequenceScaling.fit(data.take(self._parts[0]))
        self._codes = codes
        lost = unused(c) if self.scaling_ is None else self.scaling_.notes(data.columns)
        self.notes_ = [about_sequences(data, found), *data.notes, *notes, *about_values(data), *lost, counts]

    # -- the model --------------------------------------------------------------------------------

    def _build(self) -> ClassifyNet:
        c = self.resolved_
        inputs, flags = None, 0
        if self.scaling_ is not None:
            inputs, flags = self.scaling_.inputs, int(self.scaling_.gaps.sum())
        return ClassifyNet(
            inputs, len(self.classes_), c.hidden_size, c.num_layers, c.bidirectional, c.dropout, c.input_dropout,
            c.noise, c.cell, c.weight_dropout, c.variational, flags,
        )  # fmt: skip

    def _job(self, *, both: bool = False) -> ClassifyJob:
        assert self.sequences_ is not None
        data = self._in_order(self.sequences_)
        trained, valid, _ = self._parts
        if both:
            trained, valid = np.concatenate([trained, valid]), valid[:0]
        return ClassifyJob(self.model_, data, self._codes, trained, valid, self.scaling_, self.resolved_)

    combine = staticmethod(mean_of_probabilities)

    def _pretraining(self) -> NextStepJob:
        """All sequences that are not kept untouched, those without a label among them."""
        assert self.sequences_ is not None
        trained, valid, _ = self._parts
        return pretraining(
            self.model_, self.sequences_, trained, valid, self._unlabelled_, self.scaling_, self.resolved_
        )

    def _finish(self) -> None:
        """The temperature, from the part not trained on; then, with ``refit``, that part is learnt from too."""
        assert self.sequences_ is not None
        valid = self._parts[1]
        logits = self.logits(self.sequences_)[valid] if len(valid) else np.zeros((0, len(self.classes_)))
        self.temperature_ = fit_temperature(logits, self._codes[valid])
        if self.config.refit and len(valid):
            self._train(lambda: self._job(both=True), epochs=max(1, self.training_.best_epoch))

    def _in_order(self, sequences: Sequences) -> Sequences:
        return sequences.shuffled(self.resolved_.seed) if self.resolved_.shuffle_steps else sequences

    @torch.no_grad()
    def logits(self, sequences: Sequences) -> np.ndarray:
        """Scores (N, K) before softmax, not calibrated."""
        check_kind(sequences, self.scaling_)
        self.model_.eval()
        sequences = self._in_order(sequences)
        order = np.argsort(sequences.lengths, kind="stable")  # so that little is padded
        found = np.zeros((len(order), len(self.classes_)))
        for k in range(0, len(order), CHUNK):
            index = order[k : k + CHUNK]
            found[index] = self.model_(make_batch(sequences, index, self.scaling_)).double().numpy()
        return found

    # -- the run folder ---------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"text": self.scaling_ is None}

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._restore_labels(tensors, facts, numbers=not facts["text"])
        if len(self.classes_) < 2:
            raise ValueError("classes")
