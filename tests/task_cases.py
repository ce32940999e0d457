"""What the shared suite of the tasks needs of each: a table, options, and where it can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from tables import hourly


class Case(NamedTuple):
    """One task."""

    table: Callable[[], Any]  # a data frame, or bytes of plain text
    options: list[str]  # of the data
    small: list[str]  # of the model and its training
    batches: int  # in one of its epochs
    value: str | None  # a column of numbers
    typo: tuple[str, str]  # an option misspelt, and what was meant
    lost: str  # a tensor that a run cannot do without
    refused: dict[str, tuple[Callable[[Any], Any], str]]  # what is wrong, what is said
    bad_files: Mapping[str, str | None] = MappingProxyType({})  # where it reads no table; None: it takes such a file


def write(data: Any, path: Path) -> None:
    """A data frame as CSV; bytes as they are."""
    path.write_bytes(data) if isinstance(data, bytes) else data.write_csv(path)


def verses(lines: int = 60, seed: int = 0) -> bytes:
    """Lines of a few words each, some with a character of two bytes."""
    rng = np.random.default_rng(seed)
    words = ["tide", "gate", "moon", "é", "and", "ebb", "flow"]
    return "".join(" ".join(rng.choice(words, size=rng.integers(3, 8))) + ".\n" for _ in range(lines)).encode()


def codes(data: bytes) -> np.ndarray:
    """Bytes as a text model reads them."""
    return np.frombuffer(data, np.uint8)


def first_of_two(count: int = 80, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two bumps in the middle of silence, one up and one down; the class is which comes first."""
    rng = np.random.default_rng(seed)
    x, y = [], []
    for n in range(count):
        line = 0.05 * rng.normal(size=(int(rng.integers(8, 15)), 1))
        a, b = np.sort(rng.choice(np.arange(1, len(line) - 1), 2, replace=False))
        line[a], line[b] = (1, -1) if n % 2 else (-1, 1)
        x.append(line.astype(np.float32))
        y.append(n % 2)
    return x, np.array(y)


def next_token(count: int = 120, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """The label of each token is the token after it, and of the last "end": all of it lies in the future."""
    rng = np.random.default_rng(seed)
    tokens = [rng.choice(["a", "b", "c"], int(rng.integers(3, 12))).tolist() for _ in range(count)]
    return tokens, [[*line[1:], "end"] for line in tokens]


def waves(sequences: int = 40, seed: int = 0) -> pl.DataFrame:
    """Ragged sequences of two kinds: v rises in one and falls in the other; w is noise; p is a person."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in range(sequences):
        steps = int(rng.integers(4, 12))
        up = n % 2 == 0
        line = np.linspace(-1, 1, steps) * (1 if up else -1)
        parts.append(
            pl.DataFrame(
                {
                    "s": [f"n{n}"] * steps,
                    "t": np.arange(steps),
                    "v": line + 0.1 * rng.normal(size=steps),
                    "w": rng.normal(size=steps),
                    "kind": ["up" if up else "down"] * steps,
                    "p": [f"person {n // 4}"] * steps,
                }
            )
        )
    return pl.concat(parts)


def spoken(sequences: int = 40, seed: int = 0) -> pl.DataFrame:
    """Ragged sequences of words and numbers; a step is up or down by the number of the next one, and level at the end.

    s, t, w (a word), v (a number), kind (missing in the third step of every fourth sequence) and p (a document).
    """
    rng = np.random.default_rng(seed)
    parts = []
    for n in range(sequences):
        steps = int(rng.integers(4, 12))
        v = rng.normal(size=steps)
        kind = [*np.where(v[1:] > 0, "up", "down").tolist(), "level"]
        parts.append(
            pl.DataFrame(
                {
                    "s": [f"n{n}"] * steps,
                    "t": np.arange(steps),
                    "w": [f"word{int(10 * abs(x))}" for x in v],
                    "v": v,
                    "kind": [None if n % 4 == 1 and k == 2 else label for k, label in enumerate(kind)],
                    "p": [f"document {n // 4}"] * steps,
                }
            )
        )
    return pl.concat(parts)


def _set(**columns: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda table: table.with_columns(**columns)


CASES = {
    "forecast": Case(
        hourly,
        ["--target", "y", "--time", "t"],
        [
            "--horizon",
            "4",
            "--history",
            "12",
            "--windows",
            "64",
            "--hidden-size",
            "4",
            "--batch-size",
            "16",
            "--epochs",
            "3",
        ],
        4,
        "y",
        ("--horizn", "--horizon"),
        "scaling.target",
        {"nothing but missing": (_set(y=pl.lit(None)), "--target y: the column holds no value at all")},
    ),
    "classify": Case(
        waves,
        ["--sequence", "s", "--label", "kind", "--time", "t", "--feature", "v", "--feature", "w"],
        ["--hidden-size", "4", "--batch-size", "8", "--epochs", "3", "--refit"],
        4,
        "v",
        ("--sequenc", "--sequence"),
        "scaling.mean",
        {
            "nothing but missing": (_set(v=pl.lit(None)), "--feature v: the column holds no value at all"),
            "one class": (
                _set(kind=pl.lit("up")),
                "--label kind: the column holds one label only, 'up'; two at least are needed",
            ),
            "a class each": (
                _set(kind=pl.col("s")),
                "--label kind: the column holds a label of its own for each of 40 sequences",
            ),
            "two labels": (
                _set(kind=pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("odd")).otherwise("kind")),
                "--label kind: sequence 'n0' has 'up' and, in row 3, 'odd'; it is the same in all rows of a sequence",
            ),
            "no label": (_set(kind=pl.lit(None, pl.String)), "no sequence has a label"),
            "no sequence": (
                _set(s=pl.when(pl.int_range(pl.len()) != 4).then("s")),
                "--sequence s: row 5 (line 6 of a CSV file) names no sequence",
            ),
            "no time": (
                _set(t=pl.when(pl.int_range(pl.len()) != 4).then("t")),
                "--time t: row 5 (line 6 of a CSV file) has no time",
            ),
        },
    ),
    "tag": Case(
        spoken,
        ["--sequence", "s", "--label", "kind", "--token", "w", "--feature", "v", "--time", "t"],
        ["--hidden-size", "4", "--embedding-size", "4", "--character-size", "4", "--batch-size", "8", "--epochs", "3"],
        4,
        "v",
        ("--toke", "--token"),
        "scaling.mean",
        {
            "nothing but missing": (_set(v=pl.lit(None)), "--feature v: the column holds no value at all"),
            "one label": (
                _set(kind=pl.lit("up")),
                "--label kind: the column holds one label only, 'up'; two at least are needed",
            ),
            "a label each": (
                _set(kind=pl.format("label {}", pl.int_range(pl.len()))),
                "--label kind: the column holds a label of its own for each of ",
            ),
            "no label": (_set(kind=pl.lit(None, pl.String)), "no step has a label"),
            "no sequence": (
                _set(s=pl.when(pl.int_range(pl.len()) != 4).then("s")),
                "--sequence s: row 5 (line 6 of a CSV file) names no sequence",
            ),
            "no time": (
                _set(t=pl.when(pl.int_range(pl.len()) != 4).then("t")),
                "--time t: row 5 (line 6 of a CSV file) has no time",
            ),
        },
    ),
    "text": Case(
        verses,
        [],
        ["--hidden-size", "4", "--embedding-size", "4", "--window", "20", "--batch-size", "8", "--epochs", "3"],
        8,
        None,
        ("--windo", "--window"),
        "model.embedding.weight",
        {"cut off": (lambda text: text[:60], "the text is too short: 54 of its 60 bytes would train")},
        {
            "no rows": "the text is too short: 13 of its 15 bytes would train, and more than three windows of 20",
            "binary": None,
        },
    ),
}
