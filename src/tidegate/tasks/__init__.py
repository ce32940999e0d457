"""The jobs that LSTMs do, one module each; a new one is a subclass of ``Learner`` and a line here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.tasks.learner import Learner

TASKS = {
    "forecast": "tidegate.tasks.forecast:Forecaster",
    "classify": "tidegate.tasks.classify:Classifier",
    "tag": "tidegate.tasks.tag:Tagger",
    "text": "tidegate.tasks.text:TextModel",
}


def task_class(task: str) -> type[Learner]:
    """The class that does a task."""
    module, name = TASKS[task].split(":")
    return getattr(importlib.import_module(module), name)


def load_run(folder: str | Path) -> Learner:
    """A trained model of any task, from its run folder.

    Raises
    ------
    RunError
        If the folder is missing, damaged, or of a task that this version does not know.
    """
    from tidegate.tasks.run import task_of

    return task_class(task_of(folder, TASKS)).load(folder)
