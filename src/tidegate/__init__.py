"""tidegate: the LSTM, finished."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate import init, insight, interchange, ops
    from tidegate.interchange.swap import restore, swap
    from tidegate.layer import LSTM
    from tidegate.rnn import RNN
    from tidegate.state import State
    from tidegate.streaming import Streamer
    from tidegate.tasks.classify import Classifier
    from tidegate.tasks.forecast import Forecaster
    from tidegate.tasks.tag import Tagger
    from tidegate.tasks.text import TextModel
    from tidegate.truncated import tbptt

__version__ = "0.1.0"

_PUBLIC = {
    "LSTM": "tidegate.layer",
    "RNN": "tidegate.rnn",
    "State": "tidegate.state",
    "Streamer": "tidegate.streaming",
    "Forecaster": "tidegate.tasks.forecast",
    "Classifier": "tidegate.tasks.classify",
    "Tagger": "tidegate.tasks.tag",
    "TextModel": "tidegate.tasks.text",
    "swap": "tidegate.interchange.swap",
    "restore": "tidegate.interchange.swap",
    "tbptt": "tidegate.truncated",
    "init": "tidegate.init",
    "insight": "tidegate.insight",
    "ops": "tidegate.ops",
    "interchange": "tidegate.interchange",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"tidegate.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)


# What torch saved names State and our operators. Where torch is there already, making them known takes milliseconds.
if hasattr(sys.modules.get("torch"), "optim"):  # and whole, as it may be what imports this
    importlib.import_module("tidegate.layer")
