"""All that training needs to go on where it stopped, in one safetensors file.

One file, replaced whole, so that a kill at any moment leaves either the old checkpoint or the new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tidegate.data.atomic import atomic_write
from tidegate.errors import RunError

CHECKPOINT = "checkpoint.safetensors"  # in a run folder, until the run is finished


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts atomically, with a digest of the tensors' bits."""
    kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = save(kept, {"facts": json.dumps(facts), "sha256": _digest(kept)})
    with atomic_write(path) as file:
        file.write(data)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all tensors' bits, by name."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        found.update(values)
    return found.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote; nothing in it is executed.

    Raises
    ------
    RunError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            facts = dict(json.loads(head["facts"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if head.get("sha256", known := _digest(tensors)) != known:
            raise ValueError("its numbers are not those that were written")
        return tensors, facts
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}: it is not a finished run of tidegate") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        reason = f"it holds no {error}" if isinstance(error, KeyError) else error
        raise RunError(f"{path} is damaged and cannot be read ({reason}); train again, or restore the file") from None


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name and plain facts."""
    state = optimizer.state_dict()
    tensors, facts = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                facts[f"{index}.{key}"] = value
    return tensors, {"values": facts, "groups": state["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Undo ``flatten_optimizer``."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    for name, value in facts["values"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
