"""Columns of a table as arrays; what cannot be a number or a time is named by column and row."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidegate.data.grid import DAY, MINUTE, SECOND, Ints
from tidegate.errors import DataError

# What other programs write for "no value" among numbers. Kept as text in columns of text: NA is also Namibia.
MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "nat", "-", "?", ".")

_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_ZONE = r"\s?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)$"
_DECIMAL_COMMA = r"[+-]?(0?,\d+|\d+,(\d{1,2}|\d{4,}))"  # 1,000 may be a thousand
_HUGE = float(np.finfo(np.float32).max)


def percent(count: int, total: int) -> str:
    """A share in two digits, with its sign."""
    return f"{100 * count / total:.2g}%".replace("1e+02", "100")


@dataclass(frozen=True)
class Rows:
    """Where the rows in use stand in the table, for messages."""

    numbers: Ints | None = None  # (R,) counted from 0; None for all rows

    def number(self, i: int) -> int:
        """The row as a person counts: 1 is the first row of data."""
        return 1 + int(i if self.numbers is None else self.numbers[i])

    def name(self, i: int) -> str:
        """The row in words. The header of a CSV file is its line 1."""
        return f"row {self.number(i)} (line {self.number(i) + 1} of a CSV file)"


@dataclass(frozen=True)
class Times:
    """A column of times."""

    moments: Ints  # (R,) microseconds since 1970, in UTC if there is a zone; whole numbers without a calendar
    calendar: bool
    zone: str | None = None  # "UTC", or None for times without a zone
    local: Ints | None = None  # (R,) the same by the local clock, where that is not UTC
    local_name: str = ""
    notes: list[str] = field(default_factory=list)


def numbers(column: pl.Series, option: str, rows: Rows) -> NDArray[np.float32]:
    """A column as float32, NaN where a value is missing.

    Raises
    ------
    DataError
        For text, dates, infinities and numbers beyond float32, naming column and row.
    """
    where = f"{option} {column.name}"
    kind = column.dtype
    if kind == pl.Null:
        return np.full(len(column), np.nan, dtype=np.float32)
    if kind in (pl.String, pl.Categorical, pl.Enum):
        column = _parse_numbers(column.cast(pl.String), where, option, rows)
    elif not (kind.is_numeric() or kind == pl.Boolean):
        raise DataError(f"{where}: the column holds {_kind(kind)}, numbers are needed")
    values = column.cast(pl.Float64).to_numpy()  # null becomes NaN
    too_big = np.abs(values) > _HUGE
    if too_big.any():
        i = int(np.argmax(too_big))
        what = "is infinite" if np.isinf(values[i]) else "is beyond 32-bit floating point (3.4e38)"
        raise DataError(f"{where}: {rows.name(i)} holds {values[i]}, which {what}; correct it or leave it empty")
    if option == "--target":
        _check_digits(values, where)
    return values.astype(np.float32)


def _check_digits(values: NDArray[np.float64], where: str) -> None:
    """Refuse what differs by less than 32-bit floating point tells apart, as large counters do."""
    known = values[np.isfinite(values)]
    if not len(known):
        return
    low, high = known.min(), known.max()
    step = float(np.spacing(np.float32(max(abs(low), abs(high)))))
    if low < high and known.std() < 8 * step:
        raise DataError(
            f"{where}: values between {low:.10g} and {high:.10g} differ by little more than what 32-bit floating point "
            f"tells apart there ({step:g}); subtract what they have in common, or take differences"
        )


def _parse_numbers(column: pl.Series, where: str, option: str, rows: Rows) -> pl.Series:
    text = column.str.strip_chars()
    parsed = text.cast(pl.Float64, strict=False)
    strange = parsed.is_null() & text.is_not_null()
    if strange.any():
        strange &= ~text.str.to_lowercase().is_in(list(MISSING))
    if strange.any():
        i = int(strange.arg_max() or 0)
        more = int(strange.sum()) - 1
        also = f" (and {more:,} more row{'s do' if more > 1 else ' does'})" if more else ""
        text_role = "; text can only be given as --static, when it is constant in a series"
        hints = {"--target": "", "--feature": "", "--static": "; in training the column held numbers"}
        hint = hints.get(option, text_role)
        if re.fullmatch(_DECIMAL_COMMA, str(text[i])):
            hint = "; write decimals with a point, or separate the columns of a CSV file by semicolons"
        raise DataError(f"{where}: {rows.name(i)} holds {column[i]!r} where a number belongs{also}{hint}")
    return parsed


def times(column: pl.Series, rows: Rows) -> Times:
    """A column of times: dates, date-times, ISO 8601 text, or whole numbers.

    Raises
    ------
    DataError
        For other values, or rows with and without an offset in one column, naming the row.
    """
    where = f"--time {column.name}"
    kind = column.dtype
    if kind in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String).str.strip_chars()
        whole = text.cast(pl.Int64, strict=False)
        return _parse_times(text, where, rows) if whole.null_count() else _whole_times(whole)
    if kind.is_float():
        odd = column.is_infinite() | (column != column.round(0))
        if odd.any():
            i = int(odd.arg_max() or 0)
            raise DataError(f"{where}: {rows.name(i)} holds {column[i]}, neither a date nor a whole number")
    if kind.is_float() or kind.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        if whole.null_count():
            i = int(whole.is_null().arg_max() or 0)
            raise DataError(f"{where}: {rows.name(i)} holds {column[i]}, which is too large for a time")
        return _whole_times(whole)
    if kind == pl.Date:
        return Times(_micros(column.cast(pl.Datetime("us"))), True)
    if isinstance(kind, pl.Datetime):
        column = column.dt.cast_time_unit("us")
        if kind.time_zone is None:
            return Times(_micros(column), True)
        if kind.time_zone in ("UTC", "Etc/UTC"):
            return Times(_micros(column), True, "UTC")
        local = _micros(column.dt.replace_time_zone(None))
        return Times(_micros(column), True, "UTC", local, kind.time_zone)
    raise DataError(f"{where}: the column holds {_kind(kind)}; dates, date-times or whole numbers are needed")


def _parse_times(text: pl.Series, where: str, rows: Rows) -> Times:
    offset = text.str.extract(r"\d:\d{2}(?:\.\d+)?" + _ZONE)  # null without one; a bare date has none
    zoned = offset.is_not_null()
    if zoned.any() and not zoned.all():
        i, j = int(zoned.arg_max() or 0), int((~zoned).arg_max() or 0)
        raise DataError(
            f"{where}: {rows.name(i)} holds {text[i]!r} with a UTC offset, row {rows.number(j)} holds {text[j]!r} "
            "without one; give all times an offset, or none"
        )
    clock = text.str.replace(_ZONE, "") if zoned.any() else text
    clock = clock.str.replace_all("/", "-", literal=True).str.replace("T", " ", literal=True)
    parsed = _by_formats(clock.str.extract(r"^(\d{4}-.*)$"))  # of 22-01-05 the formats would make the year 22
    if parsed.null_count():
        i = int(parsed.is_null().arg_max() or 0)
        raise DataError(
            f"{where}: {rows.name(i)} holds {text[i]!r}, which is not a time; write times year first, "
            "such as 2013-12-31, 2013-12-31 23:00 or 2013-12-31T23:00:00Z"
        )
    local = _micros(parsed)
    if not zoned.any():
        return Times(local, True)
    minutes = {o: _offset_minutes(o) for o in offset.unique()}
    if set(minutes.values()) == {0}:
        return Times(local, True, "UTC")
    shift = offset.replace_strict(minutes, return_dtype=pl.Int64).to_numpy()
    return Times(local - shift * MINUTE, True, "UTC", local, "their offsets")


def _by_formats(clock: pl.Series) -> pl.Series:
    parsed = clock.str.to_datetime(_FORMATS[0], strict=False, time_unit="us")
    for form in _FORMATS[1:]:
        if not parsed.null_count():
            return parsed
        parsed = _fill(parsed, clock.str.to_datetime(form, strict=False, time_unit="us"))
    if not parsed.null_count():
        return parsed
    months = clock.str.extract(r"^(\d{4}-\d{1,2})$") + "-01"
    parsed = _fill(parsed, months.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us"))
    hours = clock.str.extract(r"^(\d{4}-\d{1,2}-\d{1,2} \d{1,2})$") + ":00"
    return _fill(parsed, hours.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="us"))


def _fill(values: pl.Series, others: pl.Series) -> pl.Series:
    return values.zip_with(values.is_not_null(), others)


def _offset_minutes(text: str) -> int:
    if text in ("Z", "z", "UTC"):
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    return (-1 if text[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))


def _whole_times(column: pl.Series) -> Times:
    """Whole numbers; 20131231 and 201312 are dates if all rows are."""
    values = column.to_numpy().astype(np.int64)
    for width, form in ((8, "%Y%m%d"), (6, "%Y%m%d")):
        low, high = 19 * 10 ** (width - 2), 22 * 10 ** (width - 2)
        if len(values) and low <= values.min() and values.max() < high:
            text = column.cast(pl.String) + ("" if width == 8 else "01")
            dates = text.str.to_datetime(form, strict=False, time_unit="us")
            if not dates.null_count():
                return Times(_micros(dates), True, notes=[f"read times such as {values[0]} as dates"])
    seconds = {1: "seconds", 1_000: "milliseconds", 1_000_000: "microseconds", 1_000_000_000: "nanoseconds"}
    unit = next((u for s, u in seconds.items() if len(values) and 5e8 < values.min() / s < 5e9), None)
    hint = f"the times look like {unit} since 1970, used as plain numbers: convert them to dates for calendar features"
    return Times(values, False, notes=[hint] if unit else [])


def when(moment: int, calendar: bool, zone: str | None = None) -> str:
    """A moment as a person writes it."""
    if not calendar:
        return str(moment)
    text = str(np.datetime64(int(moment), "us")).replace("T", " ")
    clock = moment % DAY
    end = 10 if clock == 0 else 16 if clock % MINUTE == 0 else 19 if clock % SECOND == 0 else None
    return text[:end] + (" UTC" if zone and clock else "")


def as_text(column: pl.Series) -> pl.Series:
    """A column as text; whole numbers without a point, NaN as nothing.

    Raises
    ------
    DataError
        For lists, binary data and objects.
    """
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise DataError(f"column '{column.name}' holds {_kind(column.dtype)}; text or numbers are needed")
    if not column.dtype.is_float():
        return column.cast(pl.String)
    column = column.fill_nan(None)
    text = column.cast(pl.String)
    if not bool((column == column.round(0)).all()):
        return text
    whole = column.cast(pl.Int64, strict=False)  # 1.0 is what pandas makes of 1
    return _fill(whole.cast(pl.String), text)  # infinity and what is beyond 64 bits as they are


def as_labels(column: pl.Series) -> np.ndarray:
    """A column as text without blanks around it, (R,) objects; "" where it holds nothing."""
    return as_text(column).str.strip_chars().fill_null("").to_numpy().astype(object)


def no_value(column: pl.Series) -> pl.Series:
    """True where a column of any type holds nothing (null, NaN, blank text)."""
    empty = column.is_null()
    if column.dtype == pl.String:
        return empty | (column.str.strip_chars() == "").fill_null(True)
    return empty | column.is_nan().fill_null(True) if column.dtype.is_float() else empty


def _micros(column: pl.Series) -> Ints:
    return column.to_physical().to_numpy().astype(np.int64)


def _kind(kind: Any) -> str:
    if kind.is_temporal():
        return "dates or times"
    words = {pl.Boolean: "true and false", pl.Null: "nothing", pl.Binary: "binary data", pl.Object: "objects"}
    return "lists" if kind.is_nested() else words.get(kind, f"{kind}")
