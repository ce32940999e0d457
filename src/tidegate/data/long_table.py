"""Long tables: one row a step, sorted into sequences.

N sequences, R steps in all, C columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tidegate.data.columns import MISSING, Rows, as_labels, as_text, no_value, numbers, times
from tidegate.data.table import check_columns, read_table
from tidegate.errors import ConfigError, DataError


class LongTable(NamedTuple):
    """A table and the order of its rows that puts each sequence's steps on end."""

    table: pl.DataFrame
    codes: np.ndarray  # (R,) the sequence of each row of the table
    order: np.ndarray  # (R,) rows, sequence by sequence
    offsets: np.ndarray  # (N + 1,) where each sequence starts in that order, and the end
    names: list[str]  # N
    columns: list[str]  # C names
    values: np.ndarray  # (R, C) float32, in order
    notes: list[str]

    def text(self, column: str | None) -> np.ndarray | None:
        """A column as text, (R,) in order; "" where it holds nothing."""
        if column is None:
            return None
        return as_text(self.table[column]).fill_null("").to_numpy().astype(object)[self.order]

    def labels(self, column: str | None) -> np.ndarray | None:
        """A column as text without blanks around it, (R,) in order; "" where it holds nothing."""
        return None if column is None else as_labels(self.table[column])[self.order]

    def constant(self, column: str | None, option: str) -> np.ndarray | None:
        """One value a sequence, (N,) text; "" where a sequence has none."""
        if column is None:
            return None
        values = as_labels(self.table[column])
        found = values[self.order[self.offsets[:-1]]]
        if len(other := np.flatnonzero(values != found[self.codes])):
            row = int(other[0])
            name = self.names[self.codes[row]]
            raise DataError(
                f"{option} {column}: sequence '{name}' has '{found[self.codes[row]]}' and, in row {row + 1}, "
                f"'{values[row]}'; it is the same in all rows of a sequence"
            )
        return found


def read_long(
    source: Any,
    sequence: str,
    time: str | None,
    roles: Mapping[str, str | None],
    feature: Sequence[str],
    *,
    numbers_needed: bool = True,
) -> LongTable:
    """Read a table and sort its rows.

    Parameters
    ----------
    source : path of a CSV or Parquet file, or data frame
    sequence, time
        Columns that tell the sequences apart, and that sort the steps (else the rows stand in order).
    roles
        Further columns, read as text, by their options.
    feature
        Columns of numbers; by default, if they are needed, all without a role that hold numbers.

    Raises
    ------
    DataError, ConfigError
    """
    taken = check_roles({"--sequence": sequence, "--time": time, **roles}, feature)
    fixed = bool(feature) or not numbers_needed
    text = [sequence, *(name for name in roles.values() if name)]
    table = read_table(source, list(taken) if fixed else None, text=text)
    for name, option in taken.items():
        check_columns([name], table.columns, "the table", option)
    rows, notes = Rows(), []
    if (absent := no_value(table[sequence])).any():
        raise DataError(f"--sequence {sequence}: {rows.name(int(absent.arg_max() or 0))} names no sequence")
    column = as_text(table[sequence])
    names = column.unique(maintain_order=True).to_list()
    codes = column.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)  # (R,)
    keys: list[np.ndarray] = [codes]
    if time is not None:
        keys.insert(0, moments(table[time], rows))
    order = np.lexsort(keys)
    if time is not None and (np.diff(order)[np.diff(codes[order]) == 0] < 0).any():
        notes.append("sorted the steps of each sequence by time")
    columns = list(feature)
    if not fixed:
        columns, said = columns_of_numbers({"": table}, taken)
        notes += said
        if not columns:
            raise DataError("the table has no column of numbers besides the roles given; name one as --feature")
    found = [numbers(table[name], "--feature", rows) for name in columns]
    values = np.stack(found, 1)[order] if found else np.zeros((len(order), 0), np.float32)
    return LongTable(table, codes, order, offsets_of(np.bincount(codes)), names, columns, values, notes)


def columns_of_numbers(tables: Mapping[str, pl.DataFrame], taken: Collection[str]) -> tuple[list[str], list[str]]:
    """Columns without a role that hold numbers, true and false, or nothing but numbers and marks of missing values.

    Parameters
    ----------
    tables
        Parts of one table, by what to call them in a message.
    taken
        Columns that have a role.

    Returns
    -------
    columns, notes : lists of str
        The notes say what was left out.

    Raises
    ------
    DataError
        For a column of numbers in which few cells are none: a mistake, and not a column of text.
    """
    found, left = list[str](), list[str]()
    for name in dict.fromkeys(name for table in tables.values() for name in table.columns if name not in taken):
        known, wrong, first = 0, 0, ""
        for where, table in tables.items():
            if name in table.columns:
                there, none = _cells(table[name])
                if none.any() and not wrong:
                    place = int(none.arg_max() or 0)
                    first = f"{where}column '{name}': {Rows().name(place)} holds '{table[name][place]}'"
                known, wrong = known + there, wrong + int(none.sum())
        if 0 < wrong <= 0.05 * known:
            raise DataError(
                f"{first}, no number as most others are; correct it, or name the columns to read as --feature"
            )
        (left if wrong or not known else found).append(name)
    return found, [f"left out columns that hold no numbers: {', '.join(left)}"] if left else []


def _cells(column: pl.Series) -> tuple[int, pl.Series]:
    """How many cells hold something, and which of them no number."""
    kind = column.dtype
    if kind.is_numeric() or kind == pl.Boolean:
        return len(column), pl.repeat(False, len(column), eager=True)
    if kind not in (pl.String, pl.Categorical, pl.Enum):
        known = column.is_not_null()
        return int(known.sum()), known
    text = column.cast(pl.String).str.strip_chars()
    known = ~text.str.to_lowercase().is_in(list(MISSING)).fill_null(True)
    return int(known.sum()), known & text.cast(pl.Float64, strict=False).is_null()


def check_roles(roles: Mapping[str, str | None], feature: Sequence[str]) -> dict[str, str]:
    """The option of each column; a column given twice is refused."""
    taken: dict[str, str] = {}
    for option, name in [*roles.items(), *(("--feature", name) for name in feature)]:
        if name is not None and name in taken:
            raise ConfigError(f"column '{name}' is given as {taken[name]} and as {option}; a column has one role")
        if name is not None:
            taken[name] = option
    return taken


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where sequences of these lengths start when they lie on end, and the end, (N + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def moments(column: pl.Series, rows: Rows) -> np.ndarray:
    """What steps are sorted by (R,), all of them there."""
    if (absent := no_value(column)).any():
        raise DataError(f"--time {column.name}: {rows.name(int(absent.arg_max() or 0))} has no time")
    return times(column, rows).moments
