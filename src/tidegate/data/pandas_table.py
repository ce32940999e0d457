"""Data frames of pandas in and out, column by column through numpy: polars itself needs pyarrow for it."""

from __future__ import annotations

from typing import Any

import polars as pl

_ERRORS = (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


def from_column(name: str, values: Any) -> pl.Series:
    """A column of pandas as one of polars; numbers and text mixed as text, to be checked later."""
    import pandas as pd

    kind = values.dtype
    try:
        if isinstance(kind, pd.CategoricalDtype):
            plain = from_column(name, values.astype(kind.categories.dtype))
            return plain.cast(pl.Categorical) if plain.dtype == pl.String else plain
        if isinstance(kind, pd.PeriodDtype):
            values, kind = values.dt.to_timestamp(), values.dt.to_timestamp().dtype
        if isinstance(kind, pd.DatetimeTZDtype):
            clock = from_column(name, values.dt.tz_convert("UTC").dt.tz_localize(None))
            return clock.dt.replace_time_zone("UTC").dt.convert_time_zone(str(kind.tz))
        if getattr(kind, "kind", "O") == "M":
            return pl.Series(name, values.to_numpy().astype("datetime64[us]"))
        if kind == "object" and (inferred := values.infer_objects()).dtype != kind:
            return from_column(name, inferred)
        if kind != "object" and not pd.api.types.is_extension_array_dtype(kind):
            return pl.Series(name, values.to_numpy(), nan_to_null=True)
        found = pl.Series(name, [None if lost else v for v, lost in zip(values, values.isna(), strict=True)])
        return found.cast(pl.String) if found.dtype == pl.Null else found
    except _ERRORS:
        text = [None if lost else str(v) for v, lost in zip(values, values.isna(), strict=True)]
        return pl.Series(name, text, dtype=pl.String)


def to_pandas(frame: pl.DataFrame) -> Any:
    """A frame of pandas: times as datetime64, text as pandas has it."""
    import pandas as pd

    return pd.DataFrame({column.name: _to_column(column) for column in frame})


def _to_column(column: pl.Series) -> Any:
    import pandas as pd

    kind = column.dtype
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        clock = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return pd.Series(clock.to_numpy()).dt.tz_localize("UTC").dt.tz_convert(kind.time_zone)
    if kind == pl.Date:
        return pd.Series(column.to_numpy().astype("datetime64[ms]"))
    if kind.is_numeric() or kind == pl.Boolean or isinstance(kind, pl.Datetime | pl.Duration):
        return pd.Series(column.to_numpy())
    if kind in (pl.Categorical, pl.Enum):
        return pd.Series(pd.Categorical(column.cast(pl.String).to_list()))
    return pd.Series(column.to_list(), dtype=None if kind == pl.String else object)
