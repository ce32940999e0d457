"""The run folder: what every task writes, and reads again later.

``config.toml`` (complete), ``model.safetensors`` (weights, scaling and facts), ``metrics.json``,
``history.csv``, pictures, and a card ``README.md``. Every file appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

import tidegate
from tidegate.config import Config, read_toml
from tidegate.data.atomic import atomic_write, why
from tidegate.data.plain import RUN, files_in
from tidegate.errors import ConfigError, RunError
from tidegate.training.checkpoint import CHECKPOINT, load_tensors, save_tensors

FORMAT = 1
MODEL, METRICS, CARD = "model.safetensors", "metrics.json", "README.md"
CONFIG, SOURCE = RUN
LOCK = ".lock"


class Source(NamedTuple):
    """What a run was made from."""

    data: str | None = None  # path of the file or folder that was read
    sha256: str | None = None  # its :func:`digest`
    command: str | None = None
    compare: str | None = None  # forms of the model to be trained beside it, with commas between


def make_folder(folder: str | Path) -> Path:
    """Make a run's folder, with a sentence for a person where that fails."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {why(error)}") from None
    return folder


@contextmanager
def evaluation(run: Path, data: Path) -> Iterator[Path]:
    """The folder of a run's scores on other data: of their name, numbered where that is another's already.

    Where scoring fails, a folder without scores goes again.
    """
    path = str(data.expanduser().resolve())
    names = (data.stem if k == 1 else f"{data.stem}-{k}" for k in count(1))
    places = (run / "evaluations" / name for name in names)
    folder = make_folder(next(p for p in places if not p.exists() or source_of(p).data in (path, None)))
    try:
        write_text(folder / SOURCE, json.dumps({"data": path}) + "\n")
        yield folder
    except BaseException:
        with suppress(OSError):  # other evaluations stay
            if all(file.name == SOURCE for file in folder.iterdir()):
                (folder / SOURCE).unlink(missing_ok=True)
                folder.rmdir()
                folder.parent.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_config(folder: Path, task: str, config: Config, source: Source) -> None:
    """``config.toml``: every option, under a comment that says who wrote it; ``data.json``: where the run is from."""
    write_text(folder / SOURCE, json.dumps({"task": task} | source._asdict()) + "\n")
    write_text(folder / CONFIG, f"# tidegate {tidegate.__version__}, task {task}\n{config.to_toml()}")


def write_model(folder: Path, task: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """``model.safetensors``: tensors, and facts as JSON in its header."""
    head = {"format": FORMAT, "version": tidegate.__version__, "task": task}
    save_tensors(folder / MODEL, tensors, head | dict(facts))


def task_of(folder: str | Path, known: Iterable[str]) -> str:
    """Which task a run folder is of.

    Raises
    ------
    RunError
    """
    if not Path(folder).is_dir():
        raise RunError(f"there is no run folder {folder}")
    _check_finished(Path(folder))
    _, facts = load_tensors(Path(folder) / MODEL)
    _check_format(folder, facts)
    task = facts.get("task")
    if not isinstance(task, str) or task not in set(known):
        raise RunError(f"{folder} is a run of another kind: it holds {task!r}, and there are {', '.join(known)}")
    return task


def read_model(folder: str | Path, task: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a run.

    Raises
    ------
    RunError
        If the folder is missing, damaged, of another task or of a later version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    _check_finished(folder)
    tensors, facts = load_tensors(folder / MODEL)
    if facts.get("task") != task:
        kind = facts.get("task", "something else")
        raise RunError(f"{folder} is a run of another kind: it holds {kind!r}, and {task!r} was asked for")
    _check_format(folder, facts)
    return tensors, facts


def _check_finished(folder: Path) -> None:
    task = _source_facts(folder).get("task")
    if task and (folder / CHECKPOINT).exists() and not (folder / MODEL).exists():
        raise RunError(f"{folder} has no {MODEL}: it is not a finished run of tidegate; {_resumed(folder, task)}")


def _resumed(folder: str | Path, task: str) -> str:
    return f"go on with it by: tidegate train {task} --resume --out {shlex.quote(str(folder))}"


def _check_format(folder: str | Path, facts: Mapping[str, Any]) -> None:
    if not isinstance(facts.get("format"), int) or facts["format"] > FORMAT:
        raise RunError(
            f"{folder} was written by tidegate {facts.get('version')}, whose run folders this version "
            f"({tidegate.__version__}) cannot read; install that version or a later one"
        )


def read_config(folder: str | Path, kind: type[Config]) -> Any:
    """The configuration of a run."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} has no {CONFIG}: it is not a run folder of tidegate")
    try:
        fields = read_toml(path)
    except ConfigError as error:
        raise RunError(str(error)) from None
    try:
        return kind.make(**fields)
    except ConfigError as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def check_unchanged(folder: str | Path, config: Config, facts: Mapping[str, Any], free: Iterable[str] = ()) -> None:
    """Refuse a ``config.toml`` that was edited after the model was trained, but for the ``free`` fields."""
    given, kept = config.model_dump(mode="json"), facts.get("config")
    if not isinstance(kept, dict):
        return
    for name in [name for name in given if name in kept and name not in set(free)]:
        if given[name] != kept[name]:
            raise RunError(
                f"{Path(folder) / CONFIG} was changed: it says {name} = {given[name]}, and the model was trained with "
                f"{kept[name]}; undo the change, or train again"
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder while it is trained in; the lock goes with the process, however that ends."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                with suppress(OSError):  # Windows keeps a file that is open
                    (folder / LOCK).unlink()
    except Timeout:
        raise RunError(f"another process is training in {folder}; wait for it, or give another --out") from None


def check_free(folder: str | Path, resume: str = "--resume") -> None:
    """Refuse a folder that holds a run, or anything else that a new run would mix with.

    ``resume`` is what goes on with a run.

    Raises
    ------
    ConfigError
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    held = {path.name for path in folder.iterdir()} - {LOCK}
    if (folder / CONFIG).is_file() and SOURCE in held:
        if held <= {CONFIG, SOURCE}:
            return  # a run that stopped before its first checkpoint
        raise ConfigError(f"{folder} holds a run already; give another --out, or {resume} to go on with it")
    if held:
        raise ConfigError(f"{folder} is not empty, and a run needs a folder of its own; give another --out")


def source_of(folder: str | Path) -> Source:
    """What a run was made from; nothing where that is not known."""
    found = _source_facts(folder)
    return Source(*(value if isinstance(value := found.get(name), str) else None for name in Source._fields))


def tells_source(folder: str | Path) -> bool:
    """Does a run still say what it was made from, if only that this was in memory?"""
    return bool(_source_facts(folder))


def check_task(folder: str | Path, task: str) -> None:
    """Refuse to go on with a run of another task."""
    there = _source_facts(folder).get("task", task)
    if there != task:
        raise RunError(f"{folder} is a run of {there}; {_resumed(folder, there)}")


def _source_facts(folder: str | Path) -> dict[str, Any]:
    try:
        found = json.loads((Path(folder) / SOURCE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(data: str | Path) -> str:
    """SHA-256 of a file, or of the files of a folder that are read, with their names."""
    path, found = Path(data), hashlib.sha256()
    if not path.exists():
        raise FileNotFoundError(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    for inner in files_in(path):
        found.update(f"{inner.relative_to(path).as_posix()} {digest(inner)}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def digest_of(data: Any) -> str:
    """SHA-256 of data in a task's form: a dataclass of arrays, names and notes, which are left out."""
    found = hashlib.sha256()
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if isinstance(value, np.ndarray) and value.dtype != object:
            found.update(f"{field.name} {value.dtype} {value.shape}\n".encode() + value.tobytes())
        elif field.name != "notes":
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            found.update(f"{field.name} {plain!r}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """``metrics.json``."""
    write_text(folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
