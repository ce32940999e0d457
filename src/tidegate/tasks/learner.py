"""What every task does alike: learning into a run folder, saving and loading.

A task is one subclass of :class:`Learner`, entered in ``tidegate.tasks.TASKS``. It says how data become
examples, what the network is, what the training loop is given, and how the result is scored.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from tidegate.errors import ConfigError, DataError, RunError
from tidegate.tasks.estimator import Estimator
from tidegate.tasks.run import (
    CONFIG,
    MODEL,
    SOURCE,
    Source,
    check_task,
    check_unchanged,
    digest,
    digest_of,
    locked,
    make_folder,
    read_config,
    read_model,
    source_of,
    tells_source,
    write_config,
    write_model,
)
from tidegate.training.config import TrainingConfig
from tidegate.training.ensemble import SEEDS, Ensemble
from tidegate.training.loop import Job, Place, check_precision, train
from tidegate.training.pretrain import NextStepJob
from tidegate.training.progress import say

PRETRAINING = "pretraining"  # folder of its checkpoint, in the run folder


class Report(NamedTuple):
    """What an evaluation leaves for a person."""

    title: str
    header: list[str]
    rows: list[list[str]]
    sentences: list[str]  # under the table
    notes: list[str]  # on the data, before it
    paths: list[Path]  # files of the run folder


class Learner(Estimator):
    """An estimator with a network that learns into a run folder.

    Attributes
    ----------
    model_ : nn.Module
    resolved_ : Config
        The configuration with everything filled in that the data decide.
    notes_ : list of str
        What was done to the data, for a person; ``predict_notes_`` of the latest prediction.
    training_ : Place
        History of the training, best epoch and score.
    """

    Config = TrainingConfig
    what: ClassVar[str]  # what it gives, in the plural: "forecasts"
    help: ClassVar[str]  # of its ``train`` command
    data_help: ClassVar[str]  # what that command reads
    table_fields: ClassVar[tuple[str, ...]]  # options that describe the data
    # Other forms of the model that ``compare`` can put beside it: the options that they change.
    forms: ClassVar[dict[str, dict[str, Any]]] = {"rnn": {"cell": "rnn"}, "lstm": {"cell": "lstm"}}
    config: Any
    resolved_: Any
    model_: Any
    notes_: list[str]
    predict_notes_: list[str]
    training_: Place
    _taught: dict[int, dict[str, Tensor]]  # weights after next-step prediction on these data, by seed
    data_: str | None = None
    command_: str | None = None  # that trained it, for the card
    compare_: str | None = None  # as ``Source.compare``
    _digest: str | None = None  # of the file or folder that ``data_`` names
    folder_: Path | None = None
    _learnt_here = False  # the data of ``fit`` are at hand, and need not be read again

    # -- what a task fills in ---------------------------------------------------------------------

    @abstractmethod
    def _read(self, data: Any) -> Any:
        """The data, checked and in the task's form."""

    @abstractmethod
    def _prepare(self, data: Any) -> None:
        """Part the data, fit what is fitted to them; sets ``resolved_`` and ``notes_``."""

    @abstractmethod
    def _build(self) -> nn.Module:
        """The network with fresh weights, from ``resolved_`` and what ``_prepare`` or ``_restore`` set."""

    @abstractmethod
    def _job(self) -> Job:
        """What the training loop is given."""

    def _epochs(self) -> int | None:
        """So many epochs, with nothing held back to stop them; None to stop by the validation score."""
        return None

    def _pretraining(self) -> NextStepJob | None:
        """What ``pretrain`` epochs of next-step prediction are given; None for a task that has no such option."""
        return None

    @staticmethod
    def combine(outputs: Tensor) -> Tensor:
        """What an ensemble says, from its members' outputs stacked in a first dimension."""
        return outputs.mean(0)

    def _finish(self) -> None:
        """After training: calibration and the like."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """What is kept beside the network's weights."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What is kept as JSON."""

    @abstractmethod
    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Undo ``_tensors`` and ``_facts``; refuse what does not fit together with ``ValueError``."""

    @abstractmethod
    def fit(self, data: Any, *, folder: str | Path | None = None, resume: bool = False, progress: bool = False) -> Self:
        """Train; with a run folder for checkpoints and the trained model."""

    @abstractmethod
    def predict(self, data: Any) -> Any:
        """A data frame of what the trained model gives for new data."""

    @abstractmethod
    def report(
        self, folder: Path, data: Any = None, *, compare: Sequence[str] = (), command: str = "", progress: bool = False
    ) -> Report:
        """Score the untouched part beside baselines; write ``metrics.json``, pictures and the card."""

    # -- what is alike ----------------------------------------------------------------------------

    def _fit(self, data: Any, folder: str | Path | None, *, resume: bool, progress: bool) -> Self:
        check_precision(self.config)
        if getattr(self.config, "cell", None) == "rnn" and getattr(self.config, "weight_dropout", 0):
            raise ConfigError("weight_dropout is an option of the LSTM; the vanilla RNN has none")
        path = None if folder is None else Path(folder)
        if resume and path is not None:
            check_task(path, self.task)
        read = self._read(data)
        self.data_ = _full(data) if isinstance(data, str | Path) else None
        self._digest = None if self.data_ is None else digest(self.data_)
        begun = source_of(path) if resume and path is not None else Source()
        self.command_ = begun.command or self.command_
        self.compare_ = self.compare_ or begun.compare
        if begun.sha256 not in (None, self._digest):
            raise DataError(
                f"{self.data_ or 'what was given'} is not what the run in {path} began to learn from, or has changed "
                "since; a run goes on with the same data only: train in another folder"
            )
        return self._learn(read, path, resume=resume, progress=progress)

    def _learn(
        self, data: Any, path: Path | None, *, resume: bool = False, progress: bool = False, notes: bool = True
    ) -> Self:
        """Train on data in the task's form."""
        self._prepare(data)
        self.folder_, self._learnt_here = path, True
        with nullcontext() if path is None else locked(make_folder(path)):
            if path is not None:
                write_config(path, self.task, self.resolved_, self._made_from())
            if progress and notes:
                say(self.notes_)
            self._taught = {}
            self.training_ = self._train(self._job, path, resume=resume, progress=progress, epochs=self._epochs())
            self._finish()
            if path is not None:
                self.save(path)
        return self

    def check_comparisons(self, names: Sequence[str]) -> None:
        """Refuse forms of the model that the task does not have, and the one that it has already."""
        for name in names:
            changed = self._form(name)
            if all(getattr(self.config, option) == value for option, value in changed.items()):
                others = ", ".join(repr(form) for form in self.forms if form != name)
                raise ConfigError(f"--compare {name}: the model is of this form already; put {others} beside it")

    def _form(self, name: str) -> dict[str, Any]:
        if name not in self.forms:
            raise ConfigError(f"--compare knows {', '.join(map(repr, self.forms))}; given {name!r}")
        return self.forms[name]

    def _beside(self, form: str, changed: dict[str, Any], read: Callable[[], Any], *, progress: bool) -> Self:
        """The same model with other options, trained on the data of ``fit``; kept in the run folder, and gone on with.

        ``read`` gives these data in the task's form. What the folder holds of other data is trained anew.
        """
        options: dict[str, Any] = self.resolved_.model_dump() | changed
        if options == self.resolved_.model_dump():
            return self
        source = self._digest or digest_of(read())
        path = None if self.folder_ is None else self.folder_ / f"compare-{form}"
        begun = False
        if path is not None and (path / CONFIG).is_file() and source_of(path).sha256 == source:
            begun = read_config(path, self.Config).model_dump() == options
            if begun and (path / MODEL).is_file():
                return type(self).load(path)
        there = not self._learnt_here and self.source_is_there
        if there and self._digest not in (None, digest(str(self.data_))):
            raise DataError(
                f"--compare {form}: {self.data_} has changed since the model was trained on it, and only what has "
                "learnt from the same data can be compared; leave --compare out, or train again"
            )
        data = read()
        if progress:
            say([f"beside it: {form}"])
        other = self._like(options)
        other._digest = source
        return other._learn(data, path, resume=begun, progress=progress, notes=False)

    @property
    def compared(self) -> list[str]:
        """Other forms that the run folder holds, trained on the data of ``fit``."""
        if self.folder_ is None or self._digest is None:
            return []
        kept = {form: self.folder_ / f"compare-{form}" for form in self.forms}
        return [f for f, path in kept.items() if (path / MODEL).is_file() and source_of(path).sha256 == self._digest]

    def _like(self, options: dict[str, Any]) -> Self:
        """A model not yet trained, to be given the same data."""
        other = type(self)(**options)
        other.data_ = self.data_
        return other

    def _train(
        self,
        job: Callable[[], Job],
        path: Path | None = None,
        *,
        resume: bool = False,
        progress: bool = False,
        epochs: int | None = None,
    ) -> Place:
        """Train from fresh weights, each member of an ensemble from a seed of its own; sets ``model_``."""
        count, members, place = self._members, [], Place()
        for k in range(count):
            config = self.config.model_copy(update={"seed": self.config.seed + SEEDS * k})
            folder = path
            if count > 1:
                folder = None if path is None else make_folder(path / f"member-{k + 1}")
                if progress:
                    say([f"member {k + 1} of {count}"])
            self._start(config, folder, resume=resume, progress=progress, held_out=epochs is None)
            found = train(job(), config, folder, resume=resume, progress=progress, fixed_epochs=epochs)
            place = found if k == 0 else dataclasses.replace(place, seconds=place.seconds + found.seconds)
            members.append(self.model_)
        if count > 1:
            self.model_ = Ensemble(members, self.combine)
        return place

    def _start(
        self, config: TrainingConfig, path: Path | None, *, resume: bool, progress: bool, held_out: bool = True
    ) -> None:
        """Fresh weights from the seed, and next-step prediction where it is asked for."""
        torch.manual_seed(config.seed)
        self.model_ = self._build()
        epochs = getattr(config, "pretrain", 0)
        if config.seed in self._taught:
            self.model_.load_state_dict(self._taught[config.seed])
        elif epochs and (job := self._pretraining()) is not None:
            if progress:
                say(["next-step prediction first"])
            folder = None if path is None else make_folder(path / PRETRAINING)
            config = config.model_copy(update={"epochs": epochs})
            train(job, config, folder, resume=resume, progress=progress, held_out=held_out)
            self._taught[config.seed] = {name: value.clone() for name, value in self.model_.state_dict().items()}

    @property
    def _members(self) -> int:
        return getattr(self.resolved_, "members", 1)

    def _made_from(self) -> Source:
        return Source(self.data_, self._digest, self.command_, self.compare_)

    def save(self, folder: str | Path) -> None:
        """Write ``config.toml`` and ``model.safetensors``."""
        self._check_fitted("save")
        path = make_folder(folder)
        write_config(path, self.task, self.resolved_, self._made_from())
        tensors = {f"model.{name}": value for name, value in self.model_.state_dict().items()}
        facts = self._facts() | {
            "config": self.resolved_.model_dump(mode="json"),
            "training": dataclasses.asdict(self.training_) | {"best": float(self.training_.best)},
            "notes": self.notes_,
        }
        write_model(path, self.task, tensors | self._tensors(), facts)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises
        ------
        RunError
            If it is missing, damaged, of another task or of a later version.
        """
        tensors, facts = read_model(folder, cls.task)
        config = read_config(folder, cls.Config)
        check_unchanged(folder, config, facts, free=TrainingConfig.model_fields)
        self = cls(**config.model_dump())
        try:
            self.resolved_, self.notes_, self.folder_ = config, facts["notes"], Path(folder)
            self.data_, self._digest, self.command_, self.compare_ = source_of(folder)
            self.training_ = Place(**facts["training"])
            self._restore(tensors, facts)
            weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
            if not all(bool(value.isfinite().all()) for value in weights.values()):
                raise ValueError("weights that are not finite")
            with torch.device("meta"):  # how large it would be is known before memory is taken
                shapes = [value.shape for value in self._build().state_dict().values()]
            if self._members * len(shapes) != len(weights) or {*shapes} != {value.shape for value in weights.values()}:
                raise ValueError("weights of other sizes")
            networks = [self._build() for _ in range(self._members)]
            self.model_ = networks[0] if len(networks) == 1 else Ensemble(networks, self.combine)
            self.model_.load_state_dict(weights)
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, AssertionError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{folder} is damaged: model and configuration do not fit together ({reason})") from None
        self.model_.eval()
        return self

    def is_own(self, data: Any) -> bool:
        """Is it the file or folder that ``fit`` read? None stands for that."""
        if data is None or not isinstance(data, str | Path) or "\0" in str(data):
            return data is None
        return _full(data) == self.data_

    @property
    def source_is_there(self) -> bool:
        """Can the file or folder that ``fit`` read be read again?"""
        return self.data_ is not None and Path(self.data_).exists()

    @property
    def in_memory(self) -> bool:
        """Was it fitted on data in memory? A run folder whose word on it is lost does not say so."""
        return self.data_ is None and (self.folder_ is None or tells_source(self.folder_))

    def _source(self, data: Any) -> Any:
        """Data to score on: those given, or the table of ``fit``."""
        if data is not None:
            return data
        if self.in_memory:
            raise DataError("evaluate needs data: this model was fitted on data in memory, which it does not keep")
        if self.data_ is None:
            raise DataError(f"evaluate needs data: {self.folder_}/{SOURCE} is lost or damaged")
        if not self.source_is_there:
            raise DataError(f"{self.data_}, which this model was trained on, is not there any more; give the data")
        return self.data_


def _full(path: str | Path) -> str:
    """A path as it is found again from another folder."""
    return str(Path(path).expanduser().resolve())
