"""The results: one file a task, one JSON line a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tidegate.data.atomic import atomic_write

FOLDER = Path(__file__).parent / "results"
UNFINISHED = Path("runs/long_lag")


def read(key: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The lines of a task, none where it has not been run."""
    path = folder / f"{key}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(record: dict[str, Any], folder: Path = FOLDER) -> None:
    """Add a line, or replace that of the same setting and seed. One process at a time writes a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    place = (record["setting"], record["seed"])
    lines = [r for r in read(record["task"], folder) if (r["setting"], r["seed"]) != place] + [record]
    lines.sort(key=lambda r: (r["setting"], r["seed"]))
    with atomic_write(folder / f"{record['task']}.jsonl") as file:
        file.write("".join(json.dumps(r) + "\n" for r in lines).encode())


def is_there(key: str, setting: str, seed: int, cap: int, folder: Path = FOLDER) -> bool:
    """Is this seed finished? One that was not solved counts only up to its cap."""
    return any(
        r["setting"] == setting and r["seed"] == seed and (r["solved"] or r["cap"] >= cap) for r in read(key, folder)
    )
