"""The regular grid of time that a table is put on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import ConfigError, DataError

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
WEEK = 7 * DAY
LAST_DAY = 31  # `day` of a grid that stands on the last day of each month

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Equally spaced steps, numbered by whole numbers (the index).

    Attributes
    ----------
    kind : {"fixed", "months", "steps"}
        A fixed time, a number of months, or whole numbers without a calendar.
    step : int
        Its size: microseconds, months, or units of the whole numbers.
    phase : int
        Where the grid stands within a step: microseconds or units in [0, step), for months a number of
        months in [0, step).
    day : int
        Months only: the day of the month, 31 for its last one (an earlier day is clipped to the month).
    clock : int
        Months only: the time of day in microseconds.
    zone : str or None
        "UTC" when the table's times carried a zone or an offset, else None.
    """

    kind: Literal["fixed", "months", "steps"] = "steps"
    step: int = 1
    phase: int = 0
    day: int = 1
    clock: int = 0
    zone: str | None = None

    def locate(self, moments: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The index of each moment, and whether it lies on the grid.

        Parameters
        ----------
        moments : int64 (n,)
            Microseconds since 1970, or whole numbers for "steps".

        Returns
        -------
        index : int64 (n,)
            Of the step at or before the moment.
        on_grid : bool (n,)
        """
        if self.kind != "months":
            index, rest = np.divmod(moments - self.phase, self.step)
            return index, rest == 0
        month, day, clock = split_months(moments)
        index, rest = np.divmod(month - self.phase, self.step)
        on_day = day == np.minimum(self.day, days_in_month(month))
        return index, (rest == 0) & on_day & (clock == self.clock)

    def index(self, timestamps: Any) -> Ints:
        """The index of each timestamp (datetime64, or whole numbers for "steps").

        Raises
        ------
        DataError
            When one lies off the grid.
        """
        given = np.atleast_1d(np.asarray(timestamps))
        moments = given.astype(np.int64) if self.kind == "steps" else given.astype("datetime64[us]").astype(np.int64)
        index, on_grid = self.locate(moments)
        if not on_grid.all():
            raise DataError(f"{given[~on_grid][0]} does not lie on the grid of {self}")
        return index

    def moments(self, index: Any) -> Ints:
        """Microseconds since 1970 (whole numbers for "steps") of each index; the inverse of ``locate``."""
        index = np.asarray(index, dtype=np.int64)
        if self.kind != "months":
            return np.asarray(index * self.step + self.phase, dtype=np.int64)
        month = index * self.step + self.phase
        day = np.minimum(self.day, days_in_month(month))
        start = month.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
        return np.asarray(start + (day - 1) * DAY + self.clock, dtype=np.int64)

    def timestamps(self, index: Any) -> NDArray[Any]:
        """The time of each index: datetime64[us], in UTC if ``zone`` says so, or int64 for "steps"."""
        moments = self.moments(index)
        return moments if self.kind == "steps" else moments.astype("datetime64[us]")

    def default_season(self) -> int:
        """Steps of the season that is most likely: a day, a week, a year, or 1 for none.

        24 for hours, 48 for half hours, 7 for days, 52 for weeks, 12 for months, 60 for seconds and minutes.
        """
        if self.kind == "months":
            return 12 // self.step if 12 % self.step == 0 else 1
        if self.kind == "steps":
            return 1
        if self.step in (SECOND, MINUTE):
            return 60
        if 5 * MINUTE <= self.step < DAY and DAY % self.step == 0:
            return DAY // self.step
        return {DAY: 7, WEEK: 52}.get(self.step, 1)

    def steps_per(self, period: Literal["day", "week", "year"]) -> float:
        """How many steps a day, a week or a year has on average; nan for "steps"."""
        length = {"day": DAY, "week": WEEK, "year": 365.2425 * DAY}[period]
        if self.kind == "steps":
            return math.nan
        step = self.step * 365.2425 * DAY / 12 if self.kind == "months" else self.step
        return length / step

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or TOML (which has no null: no zone is an empty text)."""
        return {**asdict(self), "zone": self.zone or ""}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """The inverse of ``to_dict``."""
        try:
            grid = cls(**{**values, "zone": values.get("zone") or None})
        except TypeError as error:
            raise DataError(f"not a grid: {error}") from None
        whole = all(isinstance(v, int) and abs(v) < 2**53 for v in (grid.step, grid.phase, grid.day, grid.clock))
        if grid.kind not in ("fixed", "months", "steps") or not whole or grid.step < 1:
            raise DataError(f"not a grid: {dict(values)}")
        return grid

    def __str__(self) -> str:
        """A short text such as "1 hour", "15 minutes", "3 months"."""
        if self.kind == "steps":
            return "1 step" if self.step == 1 else f"{self.step} units"
        if self.kind == "months":
            return _count(self.step // 12, "year") if self.step % 12 == 0 else _count(self.step, "month")
        units = ((WEEK, "week"), (DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (SECOND, "second"), (1000, "ms"))
        size, unit = next(((s, u) for s, u in units if self.step % s == 0), (1, "us"))
        return _count(self.step // size, unit)


def parse_frequency(text: str) -> Grid:
    """A grid without a place from text such as "1h", "15m", "1d", "1w", "1mo", "1q", "1y", or "10" (steps).

    Raises
    ------
    ConfigError
        For any other text.
    """
    found = re.fullmatch(r"\s*(\d*)\s*([a-zA-Z]*)\s*", text)
    number = int(found[1] or 1) if found else 0
    unit = "M" if found and found[2] == "M" else found[2].lower() if found else ""
    if found and number >= 1 and text.strip():
        for months, names in ((1, "M mo month months me ms"), (3, "q quarter quarters"), (12, "y year years")):
            if unit in names.split():
                return Grid("months", number * months)
        for size, words in (
            (SECOND, "s sec second seconds"),
            (MINUTE, "m min minute minutes"),
            (HOUR, "h hour hours"),
            (DAY, "d day days"),
            (WEEK, "w week weeks"),
        ):
            if unit in words.split():
                return Grid("fixed", number * size)
        if not unit:
            return Grid("steps", number)
    raise ConfigError(
        f"--frequency {text}: not a step of time; use a number with s, m, h, d, w, mo, q or y, such as 15m, 1h, 1d, "
        "1mo, or a bare number if the time column holds whole numbers"
    )


def infer_grid(moments: Ints, gaps: Ints, calendar: bool, frequency: Grid | None = None) -> Grid:
    """The grid that most rows stand on.

    Parameters
    ----------
    moments : int64 (n,)
        Times of the rows: microseconds since 1970, or whole numbers if not ``calendar``.
    gaps : int64 (m,)
        Positive differences between rows that follow each other in a series; the most common is the step,
        the smaller of equally common ones.
    calendar : bool
    frequency : Grid, optional
        Gives kind and step.

    Raises
    ------
    DataError
        When there is no gap to tell a step of the calendar from.
    """
    if frequency is None:
        if not len(gaps) and not calendar:
            return Grid()
        if not len(gaps):
            raise DataError("the step of time cannot be told: no series has two rows at different times")
        step = _mode(gaps)
        if not calendar:
            return Grid("steps", step, _mode(moments % step))
        months = _month_grid(moments, gaps) if 27 * DAY < step < 3700 * DAY else None
        return months or Grid("fixed", step, _mode(moments % step))
    if frequency.kind == "months":
        month, _, clock = split_months(moments)
        phase = _mode(month % frequency.step)
        return replace(frequency, phase=phase, day=_month_day(moments)[0], clock=_mode(clock))
    return replace(frequency, phase=_mode(moments % frequency.step))


def _month_grid(moments: Ints, gaps: Ints) -> Grid | None:
    """A grid of months, if nearly all rows share a day of the month and the time of day."""
    day, share = _month_day(moments)
    month, _, clock = split_months(moments)
    if share < 0.9 or np.mean(clock == _mode(clock)) < 0.9:
        return None  # such as every fourth week
    step = max(1, round(_mode(gaps) / (365.2425 * DAY / 12)))
    return Grid("months", step, _mode(month % step), day, _mode(clock))


def _month_day(moments: Ints) -> tuple[int, float]:
    """The day of the month of the rows (clipped to the month's length), and the share that obeys it."""
    month, day, _ = split_months(moments)
    last = days_in_month(month)
    shares = {d: float(np.mean(day == np.minimum(d, last))) for d in (LAST_DAY, _mode(day), int(day.max()))}
    best = max(shares, key=lambda d: shares[d])  # the end of the month first: 30 June and 30 September
    return best, shares[best]


def split_months(moments: Ints) -> tuple[Ints, Ints, Ints]:
    """Months since 1970, day of the month (from 1) and microseconds of the day."""
    times = moments.astype("datetime64[us]")
    days = times.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    return months.astype(np.int64), day, (times - days).astype(np.int64)


def days_in_month(months: Ints) -> Ints:
    """Days of each month, given as months since 1970."""
    start = months.astype("datetime64[M]")
    return ((start + np.timedelta64(1, "M")).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(np.int64)


def _mode(values: Ints) -> int:
    """The most common value, the smallest of equally common ones."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[np.argmax(counts)])


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 or unit in ("ms", "us") else f"{number} {unit}s"
