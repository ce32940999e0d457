"""Labelled sequences of any length: from a long table, a folder of files, or arrays.

N sequences, R steps in all, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from tidegate.data.columns import Rows, as_labels, as_text, numbers
from tidegate.data.long_table import check_roles, columns_of_numbers, moments, offsets_of, read_long
from tidegate.data.plain import files_in
from tidegate.data.table import check_columns, read_table
from tidegate.errors import ConfigError, DataError

TABLES, TEXTS = (".csv", ".tsv", ".parquet", ".pq"), (".txt",)


@dataclass(frozen=True)
class Sequences:
    """Sequences on end in one array.

    Attributes
    ----------
    values : (R, C) float32, NaN where missing; for text (R,) uint8, its bytes in UTF-8
    offsets : (N + 1,) int64
        Where each sequence starts, and the end.
    names : list of str
        One a sequence; ``named`` says whether the data name them, or only their order does.
    columns : list of str
        C names; none for text.
    labels, groups : (N,) array, optional
        The class of each sequence, and what may not be parted between training and testing.
    notes : list of str
        What was found and done, for a person.
    """

    values: np.ndarray
    offsets: np.ndarray
    names: list[str]
    columns: list[str]
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    named: bool = False
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def text(self) -> bool:
        """Bytes of text instead of numbers."""
        return self.values.ndim == 1

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence, (N,)."""
        return np.diff(self.offsets)

    def one(self, n: int) -> np.ndarray:
        """The steps of one sequence: (T, C), or (T,) bytes."""
        return self.values[self.offsets[n] : self.offsets[n + 1]]

    def then(self, other: Sequences) -> Sequences:
        """These and others after them, without labels and groups."""
        return Sequences(
            np.concatenate([self.values, other.values]),
            offsets_of(np.concatenate([self.lengths, other.lengths])),
            [*self.names, *other.names],
            self.columns,
            named=self.named,
        )

    def take(self, index: np.ndarray) -> Self:
        """Some of the sequences, in the order given."""
        lengths = self.lengths[index]
        values = np.concatenate([self.one(n) for n in index]) if len(index) else self.values[:0]
        return replace(
            self,
            values=values,
            offsets=offsets_of(lengths),
            names=[self.names[n] for n in index],
            labels=None if self.labels is None else self.labels[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def shuffled(self, seed: int) -> Sequences:
        """The same steps of every sequence in a random order, to see what the order is worth."""
        rng = np.random.default_rng(seed)
        order = np.concatenate(
            [a + rng.permutation(b - a) for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]
        )
        return replace(self, values=self.values[order])


# --- a long table ----------------------------------------------------------------------------------------------


def from_table(
    source: Any,
    *,
    sequence: str | None = None,
    label: str | None = None,
    time: str | None = None,
    feature: Sequence[str] = (),
    text: str | None = None,
    group: str | None = None,
) -> Sequences:
    """Sequences of a table with one row a step, or of one with a text a row.

    Parameters
    ----------
    source : path of a CSV or Parquet file, or data frame
    sequence : str, optional
        The column that tells the sequences apart; needed unless ``text`` is given.
    label, group : str, optional
        Columns that are constant in a sequence.
    time : str, optional
        Steps are sorted by it; else they stand in the order of the rows.
    feature : sequence of str
        Columns of numbers; by default all that have no other role and hold numbers.
    text : str, optional
        A column of text: each row is a sequence.

    Raises
    ------
    DataError, ConfigError
    """
    if text is not None and (sequence or time or feature):
        raise ConfigError("--text makes each row a sequence; it does not go with --sequence, --time or --feature")
    if text is None and sequence is None:
        raise ConfigError("--sequence is needed: the column that tells the sequences apart (or --text, or a folder)")
    roles = {"--label": label, "--group": group}
    if text is not None:
        taken = check_roles({"--text": text, **roles}, feature)
        table = read_table(source, list(taken), text=list(taken))
        for name, option in taken.items():
            check_columns([name], table.columns, "the table", option)
        return _texts_of_rows(table, text, label, group)
    assert sequence is not None
    long = read_long(source, sequence, time, roles, feature)
    labels, groups = (long.constant(name, option) for option, name in roles.items())
    return Sequences(long.values, long.offsets, long.names, long.columns, labels, groups, True, long.notes)


def _texts_of_rows(table: pl.DataFrame, text: str, label: str | None, group: str | None) -> Sequences:
    texts = as_text(table[text]).fill_null("").to_list()
    labels, groups = (None if name is None else as_labels(table[name]) for name in (label, group))
    return _texts([t.encode() for t in texts], [str(n + 1) for n in range(len(texts))], labels, groups)


def _texts(
    texts: Sequence[bytes], names: list[str], labels: np.ndarray | None, groups: np.ndarray | None, named: bool = False
) -> Sequences:
    lengths = np.array([len(t) for t in texts], np.int64)
    return Sequences(np.frombuffer(b"".join(texts), np.uint8), offsets_of(lengths), names, [], labels, groups, named)


# --- a folder --------------------------------------------------------------------------------------------------


def from_folder(
    folder: Path, *, labelled: bool = True, time: str | None = None, feature: Sequence[str] = ()
) -> Sequences:
    """Sequences of a folder with a file each: CSV or Parquet with a row a step, or text.

    With ``labelled`` the label is the name of the folder that a file lies in; else files may lie anywhere. Hidden files
    and folders are passed over, and runs of tidegate. Without ``feature`` all columns that hold numbers are read, and
    every file has them.

    Raises
    ------
    DataError
    """
    files = [p for p in files_in(folder) if p.suffix.lower() in TABLES + TEXTS]
    if labelled and any(p.parent == folder for p in files):
        raise DataError(
            f"{folder} holds files beside its folders; each label is a folder of its own, with its files in it"
        )
    if not files:
        raise DataError(f"{folder} holds no {', '.join(TABLES + TEXTS)} files; each label is a folder with files in it")
    names = [str(p.relative_to(folder)) for p in files]
    labels = np.array([p.relative_to(folder).parts[0] for p in files], object) if labelled else None
    kinds = {p.suffix.lower() in TEXTS for p in files}
    if len(kinds) > 1:
        raise DataError(f"{folder} holds both text and tables; sequences are all of one kind")
    if kinds == {True}:
        return _texts([_read_text(p) for p in files], names, labels, None, named=True)
    wanted = [*feature, *([time] if time else [])] if feature else None
    tables = {f"{path}: ": read_table(path, wanted) for path in files}
    columns, notes = list(feature), list[str]()
    if not feature:
        columns, notes = columns_of_numbers(tables, [time] if time else [])
        if not columns:
            raise DataError(f"the files in {folder} have no column of numbers")
    parts = []
    for path, table in zip(files, tables.values(), strict=True):
        check_columns([time] if time else [], table.columns, str(path), "--time")
        check_columns(columns, table.columns, str(path))
        try:
            order = np.argsort(moments(table[time], Rows()), kind="stable") if time else slice(None)
            parts.append(np.stack([numbers(table[c], "--feature", Rows()) for c in columns], 1)[order])
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    lengths = np.array([len(part) for part in parts])
    return Sequences(np.concatenate(parts), offsets_of(lengths), names, columns, labels, None, True, notes)


def _read_text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


# --- arrays ----------------------------------------------------------------------------------------------------


def from_arrays(given: Any, labels: Any = None, groups: Any = None) -> Sequences:
    """Sequences of a list of (T, C) arrays (or (T,) for C = 1), or of texts.

    Raises
    ------
    DataError
        For arrays of different C, without steps or with infinities, and labels of another number or of
        several kinds.
    """
    items = list(given)
    if not items:
        raise DataError("there are no sequences: the list is empty")
    names = [str(n) for n in range(len(items))]
    y, g = (per_sequence(what, values, len(items)) for what, values in (("labels", labels), ("groups", groups)))
    if g is not None and (missing := [n for n, group in enumerate(g) if is_none(group)]):
        raise DataError(f"groups: sequence {missing[0]} has none; give each sequence one")
    if isinstance(items[0], str | bytes):
        if not all(isinstance(item, str | bytes) for item in items):
            raise DataError("sequences are all text or all arrays; the list holds both")
        # Half a surrogate pair is no text that UTF-8 can write, and has bytes all the same.
        return _texts([t.encode(errors="surrogatepass") if isinstance(t, str) else t for t in items], names, y, g)
    parts: list[np.ndarray] = []
    for n, item in enumerate(items):
        try:
            part = np.asarray(item, dtype=np.float32)
        except (TypeError, ValueError):
            raise DataError(f"sequence {n} is not an array of numbers (T, C), nor text") from None
        part = part[:, None] if part.ndim == 1 else part
        if part.ndim != 2 or part.shape[1] != (parts[0].shape[1] if parts else part.shape[1]) or not part.shape[1]:
            raise DataError(
                f"sequences are arrays (T, C) with the same C; sequence {n} has shape {part.shape}"
                + (f", sequence 0 has {parts[0].shape}" if parts else "")
            )
        if np.isinf(part).any():
            raise DataError(f"sequence {n} holds infinite values; correct them, or give NaN where a value is missing")
        parts.append(part)
    columns = [str(c) for c in range(parts[0].shape[1])]
    lengths = np.array([len(part) for part in parts])
    return Sequences(np.concatenate(parts), offsets_of(lengths), names, columns, y, g)


def is_none(label: Any) -> bool:
    """Does it stand for no label: nothing, blanks or NaN?"""
    return not label.strip() if isinstance(label, str) else label is None or label != label


def per_sequence(what: str, values: Any, count: int) -> np.ndarray | None:
    """One value a sequence as an array (N,), all of one kind."""
    if values is None:
        return None
    # Of a list numpy would make text where some of it is, and "nan" of NaN.
    found = np.asarray(values, None if hasattr(values, "dtype") else object)
    if found.ndim != 1 or len(found) != count:
        raise DataError(f"{what} are one a sequence; given {found.shape} for {count} sequences")
    check_kinds(what, found)
    return found


def check_kinds(what: str, values: np.ndarray) -> None:
    """Refuse what is not all text or all numbers, but for those that are missing."""
    kinds = {_kind(value) for value in values} - {""}
    if len(kinds) > 1 or not kinds <= {"text", "numbers"}:
        given = "the lists hold both" if kinds == {"text", "numbers"} else f"given {' and '.join(sorted(kinds))}"
        raise DataError(f"{what} are all text or all numbers; {given}")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, Real | np.bool_):
        return "" if value != value else "numbers"
    return "" if value is None else type(value).__name__
