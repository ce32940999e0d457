"""The results: one file a job, one JSON line a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
KEY = ("study", "arm", "size", "seed")


def read(job: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The lines of a job, none where it has not been run."""
    path = folder / f"{job}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(job: str, record: dict[str, Any], folder: Path = FOLDER) -> None:
    """Add a line."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{job}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What tells trainings apart."""
    return tuple(record[name] for name in KEY)
