"""Sequences with a label for each step: from a long table, two-column text, or lists.

N sequences, R steps in all, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from tidegate.data.atomic import why
from tidegate.data.long_table import offsets_of, read_long
from tidegate.data.sequences import Sequences, check_kinds, from_arrays, is_none
from tidegate.errors import ConfigError, DataError

DOCUMENT = b"-DOCSTART-"  # what a line begins with that begins a document
COLUMNS = (".conll", ".bio", ".iob", ".txt", ".tsv")  # endings of two-column text


@dataclass(frozen=True)
class TaggedSequences(Sequences):
    """Sequences whose steps are tokens, numbers or both.

    Attributes
    ----------
    values : (R, C) float32, NaN where missing; C may be 0
    tokens : (R,) int64, optional
        Which of ``words`` each step is.
    words : list of str
        The distinct tokens.
    tags : (R,) array of any kind, optional
        The label of each step; None where it has none.
    rows : (R,) int64
        Where each step stands in ``given``.
    given : polars.DataFrame, optional
        What names the steps, in the order of the input's rows.
    """

    tokens: np.ndarray | None = None
    words: list[str] = field(default_factory=list)
    tags: np.ndarray | None = None
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    given: pl.DataFrame | None = None

    def take(self, index: np.ndarray) -> Self:
        """Some of the sequences, in the order given."""
        steps = self.steps(index)
        return replace(
            super().take(index),
            tokens=None if self.tokens is None else self.tokens[steps],
            tags=None if self.tags is None else self.tags[steps],
            rows=self.rows[steps],
            given=None,
        )

    def steps(self, index: np.ndarray) -> np.ndarray:
        """Where the steps of some sequences stand among all R."""
        parts = [np.arange(self.offsets[n], self.offsets[n + 1]) for n in index]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def codes(self, classes: list[Any]) -> np.ndarray:
        """Which of the classes each step's label is, (R,); -1 where it has none.

        Raises
        ------
        DataError
            For a label that is not among them.
        """
        assert self.tags is not None
        known = {label: k for k, label in enumerate(classes)} | {None: -1}
        if new := [label for label in self.tags.tolist() if label not in known]:
            listed = ", ".join(map(repr, classes[:20]))
            raise DataError(f"label {new[0]!r} did not occur in training, where there were {listed}")
        return np.array([known[label] for label in self.tags.tolist()], np.int64)


def from_tagged_table(
    source: Any,
    *,
    sequence: str | None,
    label: str | None = None,
    token: str | None = None,
    feature: Sequence[str] = (),
    time: str | None = None,
    group: str | None = None,
) -> TaggedSequences:
    """Sequences of a table with one row a step.

    Parameters
    ----------
    source : path of a CSV or Parquet file, or data frame
    sequence : str
        The column that tells the sequences apart.
    label, token, time, group : str, optional
        Columns of labels, one a row; of words or characters; to sort by; constant in a sequence.
    feature : sequence of str
        Columns of numbers; without a token, by default all that have no other role and hold numbers.

    Raises
    ------
    DataError, ConfigError
    """
    if sequence is None:
        raise ConfigError("--sequence is needed: the column that tells the sequences apart (or two-column text)")
    roles = {"--label": label, "--token": token, "--group": group}
    long = read_long(source, sequence, time, roles, feature, numbers_needed=token is None)
    tokens, words, notes = None, list[str](), list(long.notes)
    if (text := long.text(token)) is not None:
        tokens, words = _distinct(text)
        if blank := int((text == "").sum()):
            notes.append(f"{token}: {blank:,} rows have no token, and are read as an empty word")
    return TaggedSequences(
        long.values, long.offsets, long.names, long.columns, None, long.constant(group, "--group"), True, notes,
        tokens, words, _tags(long.labels(label)), long.order,
        long.table.select(c for c in (sequence, time, token) if c),
    )  # fmt: skip


def from_columns(path: Path, *, labelled: bool = True) -> TaggedSequences:
    """Two-column text: a token and its label on each line, and a blank line between sequences.

    A line of CoNLL 2003 that begins a document (-DOCSTART-) is taken for a blank one.
    Columns are separated by tabs where the file has any, else by blanks; of more than two the first and the last are
    taken. Without ``labelled`` labels may be there or not, and are not read.

    Raises
    ------
    DataError
    """
    try:
        lines = path.expanduser().read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(f"no such file: {path}" if missing else f"cannot read {path}: {why(error)}") from None
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} is empty: it holds no tokens")
    tabs = any(b"\t" in line.strip(b"\r\n") for line in lines if line.strip())
    tokens: list[str] = []
    tags: list[str] = []
    lengths, start, documents = [], 0, 0
    for number, line in enumerate([*lines, b""], 1):
        document = line.startswith(DOCUMENT)
        documents += document
        if document or not line.strip():
            if len(tokens) > start:
                lengths.append(len(tokens) - start)
            start = len(tokens)
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}: line {number} is not UTF-8 text; save it as UTF-8") from None
        if "\0" in text:
            raise DataError(f"{path} is not text: line {number} holds binary data")
        cells = text.split("\t") if tabs else [cell for cell in text.split(" ") if cell]
        if labelled and len(cells) < 2:
            raise DataError(
                f"{path}: line {number} holds {text.strip()!r}, one column; a line is a token and its label, separated "
                f"by {'a tab, as elsewhere in the file' if tabs else 'a tab or a blank'}"
            )
        tokens.append(cells[0].strip())
        tags.append(cells[-1].strip())
    found, words = _distinct(np.array(tokens, object))
    names = [str(n + 1) for n in range(len(lengths))]
    notes = [f"passed over {documents:,} lines that begin a document ({DOCUMENT.decode()})"] if documents else []
    given = pl.DataFrame({"sequence": np.repeat(np.arange(1, len(lengths) + 1), lengths), "token": tokens})
    return TaggedSequences(
        np.zeros((len(tokens), 0), np.float32), offsets_of(np.array(lengths)), names, [], notes=notes, tokens=found,
        words=words, tags=_tags(np.array(tags, object)) if labelled else None, rows=np.arange(len(tokens)), given=given,
    )  # fmt: skip


def from_lists(given: Any, tags: Any = None, groups: Any = None) -> TaggedSequences:
    """Lists of tokens (or texts, whose characters are the tokens), or arrays (T, C), with a list of labels each.

    Raises
    ------
    DataError
        For a mixture, lists of labels of another length, and what ``from_arrays`` refuses.
    """
    items = list(given)
    kinds = {_is_text(item) for item in items if len(item)}
    if len(kinds) > 1:
        raise DataError("sequences are all of tokens or all of numbers; the list holds both")
    if kinds == {False}:
        base = from_arrays(items, groups=groups)
        tokens, words = None, list[str]()
    else:
        base = from_arrays(["" for _ in items], groups=groups)  # refuses an empty list, and checks the groups
        tokens, words = _distinct(np.array([token for item in items for token in item], object))
        lengths = np.array([len(item) for item in items], np.int64)
        values = np.zeros((len(tokens), 0), np.float32)
        base = replace(base, values=values, offsets=offsets_of(lengths), columns=[])
    return TaggedSequences(
        base.values, base.offsets, base.names, base.columns, None, base.groups, tokens=tokens, words=words,
        tags=None if tags is None else _tags_of_lists(tags, base.lengths), rows=np.arange(len(base.values)),
    )  # fmt: skip


def _is_text(item: Any) -> bool:
    texts = {isinstance(token, str) for token in item}
    if len(texts) > 1:
        raise DataError("tokens are text; a sequence holds both text and numbers")
    return texts == {True}


def _tags_of_lists(tags: Any, lengths: np.ndarray) -> np.ndarray:
    parts = [part.tolist() if isinstance(part, np.ndarray) else list(part) for part in tags]
    if len(parts) != len(lengths):
        raise DataError(f"labels are a list for each sequence; given {len(parts)} for {len(lengths)} sequences")
    for n, (part, length) in enumerate(zip(parts, lengths.tolist(), strict=True)):
        if len(part) != length:
            raise DataError(f"labels are one a step; sequence {n} has {length} steps and {len(part)} labels")
    flat = np.empty(int(lengths.sum()), object)
    flat[:] = [tag for part in parts for tag in part]
    check_kinds("labels", flat)
    return _tags(flat)


def _tags(values: np.ndarray | None) -> Any:
    """Labels, None where there is none."""
    if values is not None:
        values = values.copy()
        values[[is_none(tag) for tag in values.tolist()]] = None
    return values


def _distinct(text: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which of the distinct tokens each is, (R,), and these."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(token, len(known)) for token in text.tolist()]
    return np.array(numbers, np.int64), list(known)
