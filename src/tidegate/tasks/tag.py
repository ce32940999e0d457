"""Tagging: sequences in, the probability of each label at each step out.

N sequences, T steps of one and R of all, C columns, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from tidegate.data.table import as_given
from tidegate.data.tagged import COLUMNS, TaggedSequences, from_columns, from_lists, from_tagged_table
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.sequence_data import SequenceScaling, about_values, check_distinct
from tidegate.tasks.sequence_learner import TEST, SequenceLearner
from tidegate.tasks.tag_config import FORMS, TagConfig
from tidegate.tasks.tag_data import (
    Steps,
    Vocabulary,
    about_steps,
    check_alike,
    check_tags,
    tag_columns,
    tag_frame,
    with_tags,
)
from tidegate.tasks.tag_job import CHUNK, TagJob
from tidegate.tasks.tag_network import TagNet
from tidegate.tasks.temperature import fit_temperature


class Tagger(SequenceLearner):
    """Gives each step of a sequence a label, with one LSTM that reads the sequence in both directions.

    Parameters
    ----------
    **options
        Fields of :class:`TagConfig`: the same as the command line's options and the lines of a
        ``config.toml``.

    Attributes
    ----------
    model_ : TagNet
    classes_ : (K,) array
        The labels, sorted.
    common_ : int
        The most common class in training.
    temperature_ : float
        What scores are divided by, so that probabilities are calibrated.
    notes_, predict_notes_, training_
        As in :class:`~tidegate.tasks.learner.Learner`.

    Examples
    --------
    >>> model = tg.Tagger(sequence="sentence", token="word", label="entity", group="document")
    >>> model.fit("news.parquet").predict("new.parquet")
    >>> tg.Tagger().fit("train.conll")
    >>> tg.Tagger().fit([["Ada", "wrote"], ["no", "one"]], [["NAME", "O"], ["O", "O"]])
    """

    task: ClassVar[str] = "tag"
    Config = TagConfig
    what: ClassVar[str] = "tags"
    help: ClassVar[str] = """Train a tagger, which labels each step, and score it on sequences kept untouched.

    Such as: tidegate train tag news.csv --sequence sentence --token word --label entity --group document
    """
    data_help: ClassVar[str] = (
        "A CSV or Parquet file with one row a step, or two-column text (.conll, .txt, .tsv): a token and its label on "
        "each line, a blank line between sequences."
    )
    table_fields: ClassVar[tuple[str, ...]] = (
        "sequence", "label", "token", "feature", "time", "group", "validation", "test",
    )  # fmt: skip
    forms: ClassVar[dict[str, dict[str, Any]]] = FORMS
    labelled: ClassVar[str] = "steps"
    scores: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy", "macro_f1": "macro F1", "span_f1": "span F1", "log_loss": "log loss",
    }  # fmt: skip
    config: TagConfig
    resolved_: TagConfig
    model_: TagNet
    classes_: np.ndarray
    common_: int
    temperature_: float
    vocabulary_: Vocabulary | None
    scaling_: SequenceScaling | None
    sequences_: TaggedSequences | None = None
    _codes: np.ndarray  # (R,) class of each step of sequences_, -1 where it has no label
    _counts: np.ndarray  # (V,) how often each word of the vocabulary occurs in training

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
        data : path of a CSV or Parquet file or of two-column text, data frame, or list of sequences
            A sequence of a list is a list of tokens, a text (whose characters are its tokens), or an
            array (T, C) with NaN where a value is missing.
        y : list of N lists of labels, optional
            With a list only; None where a step has no label. No test part is kept then, unless
            ``test`` says so.
        groups : sequence of N, optional
            With a list only: what may not be parted, such as the document.
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
        """The most probable label of each step.

        Parameters
        ----------
        data
            As for ``fit``; no labels are needed.

        Returns
        -------
        list of N arrays (T,) for a list, else a data frame of the kind given (polars for a file)
            The input's rows in their order, with the label and its probability.
        """
        sequences = self._unlabelled(data, "predict")
        p = self.probabilities(sequences)  # (R, K)
        if not self._is_table(data):
            return np.split(self.classes_[p.argmax(1)], sequences.offsets[1:-1])
        frame = tag_frame(sequences, p, self.classes_, self.resolved_)
        return as_given(frame, data)

    def predict_proba(self, data: Any) -> list[np.ndarray]:
        """Calibrated probabilities of each sequence (T, K), in the order of ``classes_``; steps sorted by time."""
        sequences = self._unlabelled(data, "predict_proba")
        return np.split(self.probabilities(sequences), sequences.offsets[1:-1])

    def score(self, data: Any, y: Any) -> float:
        """Share of the labelled steps of a list that are given the right label."""
        sequences, _ = with_tags(self._labelled(data, y, None))
        codes = sequences.codes(self.classes_.tolist())
        return float(np.mean((self.probabilities(sequences).argmax(1) == codes)[codes >= 0]))

    def score_on(
        self, sequences: TaggedSequences, *, compare: Sequence[str] = (), progress: bool = False
    ) -> dict[str, Any]:
        """As :func:`tidegate.tasks.tag_report.evaluate`."""
        from tidegate.tasks.tag_report import evaluate

        return evaluate(self, sequences, compare=compare, progress=progress)

    def sentences(self, metrics: dict[str, Any]) -> list[str]:
        """What the scores say, for a person."""
        from tidegate.tasks.tag_report import sentences

        return sentences(metrics, self.form)

    # -- from data to sequences -------------------------------------------------------------------

    def _labelled(self, data: Any, y: Any, groups: Any) -> Any:
        """Lists with their labels as sequences; anything else as it is."""
        if isinstance(data, TaggedSequences):
            return data
        if self._is_table(data):
            if y is not None or groups is not None:
                raise ConfigError("y and groups go with a list of sequences; a table has columns for them")
            return data
        if y is None:
            raise ConfigError("a list of sequences needs its labels: fit(tokens, tags)")
        return from_lists(data, y, groups)

    def _read(self, data: Any, *, labelled: bool = True, trained: bool = False) -> TaggedSequences:
        """``trained``: with the columns that training had."""
        if isinstance(data, TaggedSequences):
            return data
        if not self._is_table(data):
            return from_lists(data)
        c = self.resolved_ if trained else self.config
        roles: dict[str, Any] = {name: getattr(c, name) for name in ("sequence", "token", "feature", "time")}
        path = Path(data) if isinstance(data, str | Path) else None
        if path is not None and path.suffix.lower() in COLUMNS and not any([*roles.values(), c.label, c.group]):
            return from_columns(path, labelled=labelled)
        if path is not None and path.suffix.lower() == ".conllu":
            raise DataError(
                f"{path}: CoNLL-U is not read; make two-column text of its words and one of its columns, such as "
                "UPOS: grep -vE '^(#|[0-9]+[-.])' IN.conllu | cut -f 2,4 > OUT.conll"
            )
        if trained and c.sequence is None:
            raise DataError(
                "the model was trained without a table's columns; give two-column text "
                f"({', '.join(COLUMNS)}) or, in Python, a list of sequences"
            )
        if labelled and c.label is None:
            raise ConfigError("--label is needed: the column of labels")
        if labelled:
            roles |= {"label": c.label, "group": c.group}
        return from_tagged_table(data, **roles)

    def _with_labels(self, data: TaggedSequences) -> tuple[TaggedSequences, list[str]]:
        return with_tags(data)

    def _prepare(self, data: TaggedSequences) -> None:
        """Find the classes, part the sequences, fit vocabulary and scaling."""
        c = self.config
        data, notes = with_tags(data)
        assert data.tags is not None
        self.classes_ = np.unique([tag for tag in data.tags.tolist() if tag is not None])
        classes = self.classes_.tolist()
        check_distinct([name for name in (c.sequence, c.time, c.token) if name] + tag_columns(c))
        self._codes = data.codes(classes)
        check_tags(classes, self._codes, c)
        values = about_values(data)
        test = self._test if c.test is None else c.test
        words = data.tokens is not None and any(len(word) > 1 for word in data.words)
        self.resolved_ = c.model_copy(
            update={"test": test, "characters": c.characters and words, "feature": data.columns if data.named else []}
        )
        counts = self._part(data, np.zeros(len(data), np.int64), test)
        trained = data.take(self._parts[0])
        own = trained.codes(classes)
        found = np.bincount(own[own >= 0], minlength=len(classes))
        self.common_ = int(found.argmax())
        if (found == 0).any():
            notes.append(f"{int((found == 0).sum())} of {len(classes)} labels do not occur in what trains")
        self.vocabulary_, self._counts = None, np.zeros(0, np.int64)
        if data.tokens is not None:
            self.vocabulary_, self._counts = Vocabulary.fit(trained, c.least)
        self.scaling_ = SequenceScaling.fit(trained) if data.columns else None
        values += [] if self.scaling_ is None else self.scaling_.notes(data.columns)
        self.notes_ = [about_steps(data, classes, self.vocabulary_), *data.notes, *notes, *values, counts]

    # -- the model --------------------------------------------------------------------------------

    def _build(self) -> TagNet:
        c = self.resolved_
        return TagNet(
            0 if self.vocabulary_ is None else len(self.vocabulary_),
            0 if self.scaling_ is None else self.scaling_.inputs,
            len(self.classes_), c.hidden_size, c.num_layers, c.bidirectional, c.dropout, c.embedding_size,
            c.character_size * c.characters, c.cell,
        )  # fmt: skip

    def _steps(self, sequences: TaggedSequences) -> Steps:
        check_alike(sequences, self.vocabulary_, self.scaling_)
        return Steps.of(sequences, self.vocabulary_, self.scaling_, self.resolved_.characters)

    def _job(self) -> TagJob:
        assert self.sequences_ is not None
        trained, valid, _ = self._parts
        steps = self._steps(self.sequences_)
        return TagJob(self.model_, steps, self._codes, trained, valid, self._counts, self.resolved_)

    def _finish(self) -> None:
        """The temperature, from the part not trained on."""
        assert self.sequences_ is not None
        valid = self.sequences_.take(self._parts[1])
        codes = valid.codes(self.classes_.tolist())
        self.temperature_ = fit_temperature(self.logits(valid)[codes >= 0], codes[codes >= 0])

    @torch.no_grad()
    def logits(self, sequences: TaggedSequences) -> np.ndarray:
        """Scores (R, K) before softmax, not calibrated."""
        steps = self._steps(sequences)
        self.model_.eval()
        order = np.argsort(sequences.lengths, kind="stable")  # so that little is padded
        found = np.zeros((len(sequences.values), len(self.classes_)), np.float32)
        for k in range(0, len(order), CHUNK):
            batch, rows, inside = steps.batch(order[k : k + CHUNK])
            found[rows[inside]] = self.model_(batch)[torch.from_numpy(inside)].numpy()
        return found

    # -- the run folder ---------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {
            "common": self.common_,
            "words": None if self.vocabulary_ is None else self.vocabulary_.words,
            "numbers": self.scaling_ is not None,
        }

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._restore_labels(tensors, facts, numbers=facts["numbers"])
        self.common_ = int(facts["common"])
        self.vocabulary_ = None if facts["words"] is None else Vocabulary(list(facts["words"]))
        if not 0 <= self.common_ < len(self.classes_):
            raise ValueError("classes")
