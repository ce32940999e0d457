"""Tables in and out: CSV, Parquet and data frames, read with only the columns that are needed."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import polars as pl

from tidegate.data.atomic import atomic_write, why
from tidegate.data.pandas_table import from_column, to_pandas
from tidegate.errors import DataError, TidegateError

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 1 << 20  # bytes
_LONGEST = 2**31 - 1  # characters of a cell
_DECIMAL_COMMA = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def read_table(
    source: str | Path | pl.DataFrame | pl.LazyFrame | pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    text: Sequence[str] = (),
) -> pl.DataFrame:
    """Read a table.

    Parameters
    ----------
    source : path, polars or pandas data frame
        A CSV file (``.csv``, ``.tsv``, ``.txt``, plain or ``.gz``; separated by comma, semicolon, tab or
        bar, whichever the header uses), a Parquet file, or a data frame. A named pandas index becomes
        columns; a nameless one of dates becomes the column ``time``.
    columns : sequence of str, optional
        The columns to read, all by default. No memory is spent on others.
    text : sequence of str, optional
        Columns of a CSV file that are text even if they look like numbers (``007`` stays ``007``).

    Returns
    -------
    polars.DataFrame
        At least one row. Numbers, times and text as they stand: nothing is parsed beyond numbers.

    Raises
    ------
    DataError
        No such file, not a table, an empty one, or a column that it does not have.
    TypeError
        For a source of another type.
    """
    wanted = list(dict.fromkeys(columns)) if columns else None
    if isinstance(source, pl.LazyFrame):
        check_columns(wanted, source.collect_schema().names(), "the data frame")
        frame = (source if wanted is None else source.select(wanted)).collect()
        where = "the data frame"
    elif isinstance(source, pl.DataFrame):
        where = "the data frame"
        check_columns(wanted, source.columns, where)
        frame = source if wanted is None else source.select(wanted)
    elif isinstance(source, str | Path):
        where = str(source)
        frame = _read_file(Path(source).expanduser(), wanted, text)
    elif is_pandas(source) and hasattr(source, "columns"):
        where = "the data frame"
        frame = _from_pandas(source, wanted)
    else:
        raise TypeError(f"a table is a path or a pandas or polars data frame; given {type(source).__name__}")
    if frame.height == 0:
        raise DataError(f"{where} is an empty table: it has columns but no rows")
    return frame


def is_pandas(data: Any) -> bool:
    """Is it of pandas, which is not imported to find out?"""
    return type(data).__module__.split(".")[0] == "pandas"


def as_given(frame: pl.DataFrame, data: Any) -> Any:
    """A result as a data frame of the kind that came in: polars for a file."""
    return to_pandas(frame) if is_pandas(data) else frame


def write_table(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table as CSV or Parquet, by the file name's ending, whole or not at all.

    In CSV, times are ISO 8601: a date alone when every time is midnight, with ``Z`` when in UTC.

    Raises
    ------
    TidegateError
        For another ending, a missing folder or a full disk; then no file is left behind.
    """
    kind = check_output(path)
    with atomic_write(path) as file:
        try:
            if kind == ".csv":
                frame.with_columns(_iso(c) for c in frame.get_columns() if c.dtype == pl.Datetime).write_csv(file)
            else:
                frame.write_parquet(file, compression="zstd")
        except _POLARS_ERRORS as error:
            reason = _first_line(error)
            if "(os error" in reason:  # of the system, which atomic_write says as elsewhere
                raise OSError(reason) from None
            raise TidegateError(f"cannot write {path}: {reason}; nothing was changed") from None


def check_output(path: str | Path) -> str:
    """Refuse a name that ``write_table`` cannot write to, before any work; returns its ending."""
    kind = Path(path).suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise TidegateError(f"cannot write {path}: a table's file name ends in .csv or .parquet")
    if not Path(path).absolute().parent.is_dir():
        raise TidegateError(f"cannot write {path}: the folder {Path(path).parent} does not exist")
    return kind


def check_columns(wanted: Iterable[str] | None, available: Sequence[str], where: str, option: str = "") -> None:
    """Refuse columns that are not there, with the closest name that is."""
    for name in wanted or ():
        if name not in available:
            prefix = f"{option} {name}: " if option else ""
            hint = _closest(name, available)
            listed = ", ".join(list(available)[:30]) + (", ..." if len(available) > 30 else "")
            did = f"; did you mean '{hint}'?" if hint else "."
            raise DataError(f"{prefix}{where} has no column '{name}'{did} Its columns are: {listed}")


# --- files ---------------------------------------------------------------------------------------------------


def _read_file(path: Path, wanted: list[str] | None, text: Sequence[str]) -> pl.DataFrame:
    _check_file(path)
    try:
        with open(path, "rb") as raw:
            head = raw.read(4)
        if head == b"PAR1" or path.suffix.lower() in (".parquet", ".pq"):
            return _read_parquet(path, head, wanted)
        return _read_csv(path, wanted, text)
    except (OSError, EOFError) as error:
        reason = why(error) if isinstance(error, OSError) else "the file ends too early"
        raise DataError(f"cannot read {path}: {reason}") from None


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a CSV or Parquet file")
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise DataError(f"no such file: {path} (there is no folder {folder})")
        hint = _closest(path.name, [p.name for p in folder.iterdir() if p.is_file()])
        raise DataError(f"no such file: {path}" + (f"; did you mean {folder / hint}?" if hint else ""))
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty: it has zero bytes")


def _read_parquet(path: Path, head: bytes, wanted: list[str] | None) -> pl.DataFrame:
    if head != b"PAR1":
        raise DataError(f"{path} is not a Parquet file; if it holds CSV, let its name end in .csv")
    try:
        check_columns(wanted, list(pl.read_parquet_schema(path)), str(path))
        return pl.read_parquet(path, columns=wanted, glob=False, hive_partitioning=False)
    except _POLARS_ERRORS as error:
        raise DataError(f"{path} is a damaged Parquet file: {_first_line(error)}") from None


def _read_csv(path: Path, wanted: list[str] | None, text: Sequence[str]) -> pl.DataFrame:
    with _open(path) as file:
        sample = file.read(1 << 16)
    _check_text(path, sample)
    separator, header = _header(path, sample)
    if "\ufffd" in "".join(header):
        _check_utf8(path)
    twice = next((c for c in wanted or header if header.count(c) > 1), None)
    check_columns(wanted, header, str(path))
    if twice is not None:
        raise DataError(f"{path} has more than one column named '{twice}'; rename one of them")
    _check_ragged(path, separator, len(header))

    comma = separator == ";" and _has_decimal_comma(sample)

    def read(inferred: int | None) -> pl.DataFrame:
        frame = pl.read_csv(
            path,
            columns=wanted,
            separator=separator,
            decimal_comma=comma,
            schema_overrides={c: pl.String() for c in text if c in header},
            infer_schema_length=inferred,
            glob=False,
            raise_if_empty=False,
        )
        # A column with marks of missing values comes as text: its numbers are to be written as elsewhere.
        rest = [c for c in frame.columns if frame[c].dtype == pl.String and c not in text] if comma else []
        return frame.with_columns(pl.col(rest).str.replace(_DECIMAL_COMMA, "$1.$2")) if rest else frame

    try:
        try:
            return read(10_000)
        except _POLARS_ERRORS:  # such as text far down among numbers
            return read(None)  # nine times slower: every row is looked at before any is read
    except _POLARS_ERRORS as error:
        _check_utf8(path)
        raise DataError(f"cannot read {path} as CSV: {_first_line(error)}") from None


def _open(path: Path) -> BinaryIO:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb") if zipped else open(path, "rb"))


def _check_text(path: Path, sample: bytes) -> None:
    if not sample.strip():
        raise DataError(f"{path} is empty: it holds no text")
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16 text; save it as UTF-8")
    if b"\r" in sample and b"\n" not in sample and sample.count(b"\r") > 1:
        raise DataError(f"{path} ends its lines with CR alone, as old Macs did; save it with LF or CRLF")
    if b"\0" in sample or _control_share(sample) > 0.02:
        sheet = " (save a spreadsheet as CSV)" if path.suffix.lower() in (".xlsx", ".xls", ".ods") else ""
        raise DataError(f"{path} is not a table: it holds binary data, neither CSV nor Parquet{sheet}")


def _control_share(sample: bytes) -> float:
    control = bytes(b for b in range(32) if b not in b"\t\n\r\f")
    return (len(sample) - len(sample.translate(None, control))) / len(sample)


def _header(path: Path, sample: bytes) -> tuple[str, list[str]]:
    """The separator and the column names."""
    text = sample.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    outside = "".join(first.split('"')[::2])
    separator = max(",;\t|", key=outside.count)  # the first of them when none occurs: a single column
    try:
        names = next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=separator), [])
    except csv.Error as error:
        raise DataError(f"cannot read {path} as CSV: {error}") from None
    return separator, names


def _has_decimal_comma(sample: bytes) -> bool:
    """Whether numbers of a table separated by semicolons are written 1,5."""
    cells = [c.strip(b' "') for line in sample.split(b"\n")[1:] for c in line.strip().split(b";")]
    digits = [c.lstrip(b"+-") for c in cells]
    comma = any(c.count(b",") == 1 and c.replace(b",", b"").isdigit() for c in digits)
    return comma and not any(c.count(b".") == 1 and c.replace(b".", b"").isdigit() for c in digits)


def _check_ragged(path: Path, separator: str, width: int) -> None:
    """Refuse rows with more or fewer fields than the header.

    The reader fills short rows in silence: a file cut off in transit would look whole.
    """
    if _surely_regular(path, separator, width):
        return
    before = csv.field_size_limit(_LONGEST)  # a document may be longer than the 131,072 that stand there
    with _open(path) as binary:
        rows = csv.reader(_lines(binary), delimiter=separator)
        try:
            for row in rows:
                if row and len(row) != width:
                    fields = f"{len(row)} field{'s' * (len(row) > 1)}"
                    where = f"line {rows.line_num} has {fields}, the header has {width}"
                    raise DataError(f"{path} is not a regular table: {where}{_hint(path, separator, width)}")
        except csv.Error as error:
            raise DataError(f"cannot read {path} as CSV: line {rows.line_num}: {error}") from None
        finally:
            csv.field_size_limit(before)


def _hint(path: Path, separator: str, width: int) -> str:
    """Of decimal commas, where every row seems to have too many fields."""
    with _open(path) as binary:
        lines = csv.reader(_lines(binary))
        rows = [row for row in itertools.islice(lines, 1, 20) if row]
    many = separator == "," and bool(rows) and all(width < len(row) <= 2 * width for row in rows)
    return "; where numbers have decimal commas, separate the columns by semicolons" if many else ""


def _surely_regular(path: Path, separator: str, width: int) -> bool:
    """The cheap proof; what fails it is read row by row."""
    rest = b""
    with _open(path) as file:
        while chunk := file.read(_CHUNK):
            if b'"' in chunk:
                return False
            block, end, rest = (rest + chunk).rpartition(b"\n")
            if end and not _regular(block + end, separator, width):
                return False
    return not rest or _regular(rest + b"\n", separator, width)


def _regular(block: bytes, separator: str, width: int) -> bool:
    """Whether each line of the block holds ``width`` fields."""
    text = np.frombuffer(block, dtype=np.uint8)
    line_ends = np.flatnonzero(text == ord("\n"))
    before = np.searchsorted(np.flatnonzero(text == ord(separator)), line_ends)  # separators up to each end
    return bool((np.diff(before, prepend=0) == width - 1).all())


def _lines(binary: BinaryIO) -> Iterator[str]:
    return iter(io.TextIOWrapper(binary, encoding="utf-8", errors="replace", newline=""))


def _check_utf8(path: Path) -> None:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(
                    f"cannot read {path} as CSV: line {number} is not UTF-8 text; save it as UTF-8"
                ) from None


# --- data frames ---------------------------------------------------------------------------------------------


def _from_pandas(source: Any, wanted: list[str] | None) -> pl.DataFrame:
    import pandas as pd

    frame: pd.DataFrame = source
    if isinstance(frame.index, pd.DatetimeIndex | pd.PeriodIndex) and frame.index.name is None:
        frame = frame.rename_axis("time")
    named = [n for n in frame.index.names if n is not None]
    if named and len(named) == frame.index.nlevels:
        clash = [n for n in named if n in frame.columns]
        frame = frame.reset_index() if not clash else frame.reset_index(drop=True)
    names = [str(c) for c in frame.columns]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f"the data frame has more than one column named '{twice}'; rename one of them")
    check_columns(wanted, names, "the data frame")
    places = [names.index(n) for n in (names if wanted is None else wanted)]
    return pl.DataFrame([from_column(names[i], frame.iloc[:, i]) for i in places])


# --- small things --------------------------------------------------------------------------------------------


def _iso(column: pl.Series) -> pl.Series:
    """A column of times as ISO 8601 text."""
    zone = cast(pl.Datetime, column.dtype).time_zone
    utc = column.dt.convert_time_zone("UTC") if zone else column
    if not zone and bool((column.dt.truncate("1d") == column).all()):
        return column.dt.strftime("%Y-%m-%d")
    whole = bool((column.dt.truncate("1s") == column).all())
    return utc.dt.strftime("%Y-%m-%dT%H:%M:%S" + ("" if whole else "%.6f") + ("Z" if zone else ""))


def _closest(name: str, names: Sequence[str]) -> str | None:
    lower = {n.lower(): n for n in names}
    found = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    return lower[found[0]] if found else None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].strip().rstrip(".")[:300] if text else type(error).__name__
