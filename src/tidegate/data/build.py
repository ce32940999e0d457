"""From a long table to a panel: roles, times, order, gaps; each thing that cannot be used is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidegate.data.columns import Rows, Times, as_text, no_value, numbers, times, when
from tidegate.data.grid import DAY, HOUR, Grid, Ints, infer_grid, parse_frequency
from tidegate.data.panel import Floats, Panel
from tidegate.data.table import check_columns
from tidegate.errors import ConfigError, DataError

# A grid this much larger than the table comes from a wrong timestamp, and would fill the memory.
_GUARD_RATIO, _GUARD_STEPS = 20, 10_000_000


class _Order(NamedTuple):
    """The rows by series and time, R of them."""

    codes: Ints  # (R,) series of each row of the table
    moments: Ints  # (R,) time of each row of the table
    rows: Ints  # (R,) row of the table at each place of the order
    same: NDArray[np.bool_]  # (R - 1,) whether a place and the next are of one series


def make_panel(
    df: pl.DataFrame,
    *,
    target: Sequence[str],
    time: str | None = None,
    series: str | None = None,
    known: Sequence[str] = (),
    past: Sequence[str] = (),
    static: Sequence[str] = (),
    frequency: str | None = None,
    categories: dict[str, list[str]] | None = None,
    grid: Grid | None = None,
) -> Panel:
    """Put a long table on a regular grid.

    Parameters
    ----------
    df : polars.DataFrame
        One row for each series and time, in any order.
    target, known, past, static : sequence of str
        The columns of each role. Static columns are constant in a series and may be text.
    time : str, optional
        Dates, date-times, ISO 8601 text or whole numbers; without it the rows are steps in their order.
        Times with a zone or offset are taken in UTC, or by their local clock for steps of a day or more.
    series : str, optional
        What tells the series apart; without it the table is one series.
    frequency : str, optional
        The step, such as "1h" (see ``parse_frequency``); else the most common one in the table.
    categories : dict, optional
        Of the static columns of text, as a panel of the same kind has them; for other data of a trained model.
    grid : Grid, optional
        The grid of that panel: its step and kind are kept.

    Returns
    -------
    Panel

    Raises
    ------
    DataError
        For what the table holds: a missing column, text where numbers belong, infinities, a time that cannot be
        read, that occurs twice or that lies off the grid, a missing time or series, a static column that varies,
        a jump in time that would fill the memory.
    ConfigError
        For the options: no target, a column in two roles, a frequency that cannot be read or does not fit.
    """
    roles = {"--target": target, "--known": known, "--past": past, "--static": static}
    _check_roles(df, {**roles, "--time": [time] if time else [], "--series": [series] if series else []})
    df, rows = _drop_empty(df, time, [c for role in roles.values() for c in role] + ([series] if series else []))
    notes: list[str] = []
    names, codes = _series(df, series, rows)
    stamps = _times(df, time, codes, rows)
    used = [c for role in roles.values() for c in role] + ([time] if time else [])
    order = _order(codes, stamps, rows, names, time, series, notes, df.drop(used))
    fixed = grid or (parse_frequency(frequency) if frequency else None)
    stamps, order, place = _place(stamps, order, fixed, grid is not None, time, notes)
    index = _locate(order, place, rows, names, grid is not None, frequency is not None, time)

    ranked = index[order.rows]  # rising within a series
    starts = np.flatnonzero(np.concatenate([[True], ~order.same]))  # (S,)
    ends = np.concatenate([starts[1:], [len(ranked)]]) - 1
    first = ranked[starts]  # (S,), series stand in the order of their codes
    lengths = ranked[ends] - first + 1
    _guard(ranked, lengths, order, rows, names, place)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    position = offsets[codes] + index - first[codes]  # (R,) of each row of the table in the flat arrays

    def gather(option: str) -> Floats:
        out = np.full((int(offsets[-1]), len(roles[option])), np.nan, dtype=np.float32)
        for i, name in enumerate(roles[option]):
            out[position, i] = numbers(df[name], option, rows)
        return out

    targets = gather("--target")
    for i, name in enumerate(target):
        if np.isnan(targets[:, i]).all():
            raise DataError(f"--target {name}: the column holds no value at all")
    known_values, past_values = gather("--known"), gather("--past")
    table, static_names, found = _static(df, static, codes, rows, names, categories, notes)
    jumps = np.diff(ranked)[order.same] - 1
    if (gaps := int((jumps > 0).sum())) > 0:
        filled = int(jumps.sum())
        text = f"filled {gaps:,} gap{'s' * (gaps > 1)} ({filled:,} missing step{'s' * (filled > 1)})"
        notes.insert(0, f"{text} on the {place} grid")
    notes.insert(0, _summary(names, lengths, first, place, time))
    panel = Panel(
        names, offsets, targets, known_values, past_values, table, first, place,
        list(target), list(known), list(past), static_names, time, series, found, notes,
    )  # fmt: skip
    return replace(panel, notes=[*notes, *panel.about_missing(target, targets)])


def _check_roles(df: pl.DataFrame, roles: dict[str, Sequence[str]]) -> None:
    for option, wanted in roles.items():
        if isinstance(wanted, str):
            raise TypeError(f"{option[2:]} is a list of column names; given {wanted!r}")
    if not roles["--target"]:
        raise ConfigError("--target is needed: the column to forecast")
    taken: dict[str, str] = {}
    for option, wanted in roles.items():
        check_columns(wanted, df.columns, "the table", option)
        for name in wanted:
            if name in taken:
                twice = f"twice as {option}" if taken[name] == option else f"as {taken[name]} and as {option}"
                raise ConfigError(f"column '{name}' is given {twice}; a column has one role")
            taken[name] = option
    if df.height == 0:
        raise DataError("the table is empty: it has columns but no rows")


def _drop_empty(df: pl.DataFrame, time: str | None, others: list[str]) -> tuple[pl.DataFrame, Rows]:
    """Leave out blank lines: anywhere when times say where a row belongs, else at the end only."""
    used = others + ([time] if time else [])
    empty = pl.Series(np.ones(df.height, dtype=bool))
    for name in [time] if time else used[:1]:
        empty = no_value(df[name])
    if not empty.any():
        return df, Rows()
    for name in used:
        empty &= no_value(df[name])
    keep = ~empty.to_numpy()
    if time is None:
        keep[: len(keep) - int(np.argmax(keep[::-1]))] = True
    if keep.all() or not keep.any():
        return df, Rows()
    return df.filter(pl.Series(keep)), Rows(np.flatnonzero(keep))


def _series(df: pl.DataFrame, series: str | None, rows: Rows) -> tuple[list[str], Ints]:
    """Names of the series, by first appearance, and the number of each row's series, (R,)."""
    if series is None:
        return [""], np.zeros(df.height, dtype=np.int64)
    column = df[series]
    if (absent := no_value(column)).any():
        i = int(absent.arg_max() or 0)
        raise DataError(f"--series {series}: {rows.name(i)} names no series")
    column = as_text(column)
    names = column.unique(maintain_order=True).to_list()
    codes = column.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
    return names, codes


def _times(df: pl.DataFrame, time: str | None, codes: Ints, rows: Rows) -> Times:
    if time is None:
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes)
        step = np.empty(len(codes), dtype=np.int64)
        step[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
        return Times(step, False)
    column = df[time]
    if (absent := no_value(column)).any():
        i = int(absent.arg_max() or 0)
        raise DataError(f"--time {time}: {rows.name(i)} has no time")
    return times(column, rows)


def _order(
    codes: Ints, stamps: Times, rows: Rows, names: list[str], time: str | None, series: str | None,
    notes: list[str], others: pl.DataFrame,
) -> _Order:  # fmt: skip
    """Sort by series and time; refuse a time that a series has twice. ``others``: columns without a role."""
    order = np.argsort(codes, kind="stable")
    same = np.diff(codes[order]) == 0
    step = np.diff(stamps.moments[order])
    if (back := int((same & (step < 0)).sum())) > 0:
        order = np.lexsort((stamps.moments, codes))
        step = np.diff(stamps.moments[order])
        places = f"{back:,} place{'s' * (back > 1)}"
        notes.append(f"sorted the rows by time: they went back in {places}")
    twice = same & (step == 0)
    if twice.any():
        i = int(np.argmax(twice))
        moment, code = stamps.moments[order[i]], codes[order[i]]
        at = np.flatnonzero((codes == code) & (stamps.moments == moment))
        listed = ", ".join(str(rows.number(j)) for j in at[:5]) + (", ..." if len(at) > 5 else "")
        text = [c for c in others.columns if others[c].dtype in (pl.String, pl.Categorical, pl.Enum)]
        such = f", such as --series {text[0]}" if text else ""
        hint = "did you forget --series" + such + "?" if series is None else "keep one row for each series and time"
        if stamps.calendar and stamps.zone is None and 0 < moment % DAY < 4 * HOUR:
            hint += " (if it is the hour that comes twice when summer time ends, give the times in UTC)"
        who = f"series '{names[code]}'" if series else "the table"
        rest = int(twice.sum()) + 1 - len(at)
        more = f", and {rest:,} more row{'s repeat' if rest > 1 else ' repeats'} a time" if rest else ""
        raise DataError(
            f"--time {time}: {who} has {len(at):,} rows at {when(moment, stamps.calendar, stamps.zone)} "
            f"(rows {listed}){more}; {hint}"
        )
    notes += stamps.notes
    return _Order(codes, stamps.moments, order, same)


def _place(
    stamps: Times, order: _Order, fixed: Grid | None, trained: bool, time: str | None, notes: list[str]
) -> tuple[Times, _Order, Grid]:
    """The grid, and the times by the clock that it uses."""
    if fixed is not None and (fixed.kind != "steps") != stamps.calendar:
        holds = "dates" if stamps.calendar else "whole numbers" if time else "no times (there is no --time)"
        if trained:
            raise DataError(f"the model was trained on steps of {fixed}, but this table has {holds}")
        raise ConfigError(f"--frequency: steps of {fixed} do not fit a table that has {holds}")
    gaps = np.diff(order.moments[order.rows])[order.same]
    asked = fixed or (infer_grid(order.moments, gaps, stamps.calendar) if len(gaps) else Grid())
    if stamps.local is not None:
        if (asked.kind == "months" or asked.step >= DAY) and not (trained and asked.zone):
            # Midnight of a place is not midnight in UTC, and not the same hour all year.
            stamps = replace(stamps, moments=stamps.local, zone=None, local=None)
            order = order._replace(moments=stamps.moments)
            gaps = np.diff(order.moments[order.rows])[order.same]
            notes.append(f"kept the local clock of {stamps.local_name}, as a step is a day or more")
        else:
            notes.append(f"converted the times from {stamps.local_name} to UTC")
    if trained and fixed and stamps.calendar and fixed.zone != stamps.zone:
        given = "without a zone, taken as UTC as in training" if fixed.zone else "in UTC, in training without a zone"
        notes.append(f"the times are {given}")
        stamps = replace(stamps, zone="UTC")
    try:
        place = infer_grid(order.moments, gaps, stamps.calendar, fixed)
    except DataError as error:
        raise DataError(f"--time {time}: {error}; give it as --frequency") from None
    if trained and fixed and len(gaps):
        here = infer_grid(order.moments, gaps, stamps.calendar)
        if (here.kind, here.step) != (fixed.kind, fixed.step):
            notes.append(f"the most common step is {here} here, {fixed} in training")
    return stamps, order, replace(place, zone=stamps.zone)


def _locate(
    order: _Order, place: Grid, rows: Rows, names: list[str], trained: bool, given: bool, time: str | None
) -> Ints:
    """Grid index of each row of the table, (R,)."""
    index, on_grid = place.locate(order.moments)
    if on_grid.all():
        return index
    i, count = int(np.argmin(on_grid)), int((~on_grid).sum())
    at = when(int(order.moments[i]), place.kind != "steps", place.zone)
    who = f"series '{names[order.codes[i]]}', " if names != [""] else ""
    others = "" if count == 1 else f", as {'do' if count > 2 else 'does'} {count - 1:,} more row{'s' * (count > 2)}"
    if not trained and not given and 2 * count > len(on_grid):
        raise DataError(
            f"--time {time}: there is no regular step: the most common one, {place}, fits {len(on_grid) - count:,} of "
            f"{len(on_grid):,} rows; round the times, or give --frequency"
        )
    source = "of the trained model" if trained else "that most rows follow"
    advice = "or leave those rows out" if trained else "leave those rows out, or give another --frequency"
    raise DataError(
        f"--time {time}: {who}{rows.name(i)} at {at} lies off the grid of {place} {source}{others}; "
        f"round the times to the grid{'' if trained else ','} {advice}"
    )


def _guard(ranked: Ints, lengths: Ints, order: _Order, rows: Rows, names: list[str], place: Grid) -> None:
    total = float(lengths.sum(dtype=np.float64))
    if total <= _GUARD_RATIO * len(ranked) or total <= _GUARD_STEPS:
        return
    i = int(np.argmax(np.where(order.same, np.diff(ranked), 0)))
    before, after = order.rows[i], order.rows[i + 1]
    calendar = place.kind != "steps"
    who = f"in series '{names[order.codes[before]]}' " if names != [""] else ""
    raise DataError(
        f"{who}the time jumps from {when(int(order.moments[before]), calendar)} (row {rows.number(before)}) to "
        f"{when(int(order.moments[after]), calendar)} (row {rows.number(after)}): filling the {place} grid would make "
        f"{total:,.0f} steps of {len(ranked):,} rows; probably one of the two is wrong"
    )


def _static(
    df: pl.DataFrame, static: Sequence[str], codes: Ints, rows: Rows, names: list[str],
    categories: dict[str, list[str]] | None, notes: list[str],
) -> tuple[Floats, list[str], dict[str, list[str]]]:  # fmt: skip
    """Static features, (S, Q), their names, and the categories of text."""
    features: list[Floats] = []
    labels: list[str] = []
    found: dict[str, list[str]] = {}
    for name in static:
        column = df[name]
        text = column.dtype in (pl.String, pl.Categorical, pl.Enum)
        if text if categories is None else name in categories:
            values = _one_a_series(name, as_text(column), codes, rows, names)
            seen = sorted({v for v in values if v is not None})
            kinds = seen if categories is None else list(categories[name])
            if not kinds:
                raise DataError(f"--static {name}: the column holds no value at all")
            if new := [v for v in seen if v not in kinds]:
                notes.append(f"{name}: {', '.join(map(repr, new[:5]))} did not occur in training and tells nothing")
            absent = values.count(None)
            features.append(np.array([[v == k for k in kinds] for v in values], dtype=np.float32))  # (S, kinds)
            labels += [f"{name}={k}" for k in kinds]
            found[name] = kinds
        else:
            given = pl.Series(name, numbers(column, "--static", rows)).fill_nan(None)
            one = _one_a_series(name, given, codes, rows, names)
            absent = one.count(None)
            features.append(np.array([[np.nan if v is None else v] for v in one], dtype=np.float32))  # (S, 1)
            labels.append(name)
        if absent:
            notes.append(f"{name}: {absent:,} of {len(names):,} series {'has' if absent == 1 else 'have'} no value")
    empty = np.zeros((len(names), 0), dtype=np.float32)
    return np.concatenate([empty, *features], axis=1), labels, found


def _one_a_series(name: str, column: pl.Series, codes: Ints, rows: Rows, names: list[str]) -> list:
    """The one value that each series has, None where it has none."""
    frame = pl.DataFrame({"code": codes, "value": column, "row": np.arange(len(codes))}).drop_nulls("value")
    each = frame.group_by("code").agg(pl.col("value").first(), pl.col("value").n_unique().alias("kinds"))
    if (varied := each.filter(pl.col("kinds") > 1)).height:
        code = cast(int, varied["code"].min())
        own = frame.filter(pl.col("code") == code)
        other = own.filter(pl.col("value") != own["value"][0])
        who = f"series '{names[code]}'" if names != [""] else "the table"
        raise DataError(
            f"--static {name}: {who} holds {own['value'][0]!r} in row {rows.number(own['row'][0])} and "
            f"{other['value'][0]!r} in row {rows.number(other['row'][0])}; a static column is constant in a series"
        )
    values: list = [None] * len(names)
    for code, value, _ in each.iter_rows():
        values[code] = value
    return values


def _summary(names: list[str], lengths: Ints, first: Ints, place: Grid, time: str | None) -> str:
    count = f"{len(names):,} series, " if names != [""] else ""
    total = int(lengths.sum())
    text = f"{count}{total:,} step{'s' * (total != 1)}" + ("" if str(place) == "1 step" else f" of {place}")
    if time is None:
        return text
    calendar = place.kind != "steps"
    low, high = place.moments([first.min(), (first + lengths).max() - 1])
    return f"{text} from {when(int(low), calendar, place.zone)} to {when(int(high), calendar, place.zone)}"
