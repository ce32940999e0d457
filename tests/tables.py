"""Small tables and what the tests of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

SMALL = ["--horizon", "4", "--history", "12", "--epochs", "1", "--windows", "64", "--hidden-size", "4"]


class Result(NamedTuple):
    """What a person sees of a command."""

    code: int
    out: str
    err: str


OF_TABLE = ["--target", "y", "--time", "t"]


def hourly(steps: int = 240, seed: int = 0) -> pl.DataFrame:
    """A day's wave and noise, by the hour: columns t and y."""
    rng = np.random.default_rng(seed)
    hour = np.arange(steps)
    start = pl.datetime(2020, 1, 1)
    times = pl.datetime_range(start, start + pl.duration(hours=steps - 1), "1h", eager=True)
    wave = 10 + 5 * np.sin(2 * np.pi * hour / 24) + 0.3 * rng.normal(size=steps)
    return pl.DataFrame({"t": times.dt.strftime("%Y-%m-%d %H:%M"), "y": wave})


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(result: Result, sentence: str, notes: str = "") -> None:
    """One sentence on stderr after what was noted on the data, nothing on stdout, a non-zero exit code."""
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert result.err.startswith(notes)
    said = result.err.removeprefix(notes).strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    assert sentence in said, said
    assert result.out == ""
