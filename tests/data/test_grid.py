"""The grid of time and its calendar, against numbers worked out by hand and by the standard library."""

import datetime as dt
import json
import math

import numpy as np
import pytest

from tidegate.data import Grid, calendar_features, calendar_names, parse_frequency
from tidegate.data.grid import DAY, HOUR, MINUTE, SECOND, WEEK, infer_grid
from tidegate.errors import ConfigError, DataError


def micros(*texts):
    return np.array(texts, dtype="datetime64[us]").astype(np.int64)


def inferred(*texts):
    moments = micros(*texts)
    return infer_grid(moments, np.diff(moments), True)


@pytest.mark.parametrize(
    ("text", "kind", "step", "words", "season"),
    [
        ("1h", "fixed", HOUR, "1 hour", 24),
        ("30m", "fixed", 30 * MINUTE, "30 minutes", 48),
        ("15 min", "fixed", 15 * MINUTE, "15 minutes", 96),
        ("s", "fixed", SECOND, "1 second", 60),
        ("1m", "fixed", MINUTE, "1 minute", 60),
        ("6H", "fixed", 6 * HOUR, "6 hours", 4),
        ("7h", "fixed", 7 * HOUR, "7 hours", 1),
        ("24h", "fixed", DAY, "1 day", 7),
        ("7d", "fixed", WEEK, "1 week", 52),
        ("10d", "fixed", 10 * DAY, "10 days", 1),
        ("1mo", "months", 1, "1 month", 12),
        ("M", "months", 1, "1 month", 12),
        ("1q", "months", 3, "3 months", 4),
        ("2y", "months", 24, "2 years", 1),
        ("1Y", "months", 12, "1 year", 1),
        ("10", "steps", 10, "10 units", 1),
    ],
)
def test_frequency(text, kind, step, words, season):
    grid = parse_frequency(text)
    assert (grid.kind, grid.step, str(grid), grid.default_season()) == (kind, step, words, season)
    assert Grid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid


@pytest.mark.parametrize("text", ["", " ", "0h", "1x", "-1h", "1.5h", "hour 1"])
def test_bad_frequency(text):
    with pytest.raises(ConfigError, match="not a step of time; use a number with s, m, h, d, w, mo, q or y"):
        parse_frequency(text)


def test_steps_per():
    assert parse_frequency("15m").steps_per("day") == 96
    assert parse_frequency("1mo").steps_per("year") == 12
    assert parse_frequency("1d").steps_per("year") == 365.2425
    assert math.isnan(Grid().steps_per("day"))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2020-01-01T00:30", "2020-01-01T01:30", "2020-01-01T04:30"], Grid("fixed", HOUR, 30 * MINUTE)),
        (["2019-11-30", "2019-12-31", "2020-01-31", "2020-02-29"], Grid("months", 1, 0, 31)),
        (["2020-01-15T06", "2020-02-15T06", "2020-04-15T06"], Grid("months", 1, 0, 15, 6 * HOUR)),
        (["2020-01-30", "2020-02-29", "2020-03-30", "2020-04-30"], Grid("months", 1, 0, 30)),
        (["2019-06-30", "2019-09-30", "2019-12-31", "2020-03-31"], Grid("months", 3, 2, 31)),
        (["2019-01-01", "2020-01-01", "2021-01-01", "2022-01-01"], Grid("months", 12, 0, 1)),
        (["2020-01-01", "2020-01-29", "2020-02-26"], Grid("fixed", 28 * DAY, micros("2020-01-01")[0] % (28 * DAY))),
        (["2020-01-01", "2020-01-08", "2020-01-22"], Grid("fixed", WEEK, micros("2020-01-01")[0] % WEEK)),
    ],
)
def test_infer_and_back(times, expected):
    grid = inferred(*times)
    assert grid == expected
    index, on_grid = grid.locate(micros(*times))
    assert on_grid.all()
    np.testing.assert_array_equal(grid.timestamps(index), np.array(times, dtype="datetime64[us]"))
    np.testing.assert_array_equal(grid.index(grid.timestamps(index)), index)


def test_index_counts_steps():
    grid = inferred("2019-11-30", "2019-12-31", "2020-01-31")
    days = np.array(["2020-02-29", "2021-02-28"], dtype="datetime64[D]")
    assert grid.index(days).tolist() == [50 * 12 + 1, 51 * 12 + 1]
    assert grid.timestamps([601, -1]).astype(str).tolist() == [
        "2020-02-29T00:00:00.000000",
        "1969-12-31T00:00:00.000000",
    ]
    assert Grid("steps", 10, 3).index([3, 13, -7]).tolist() == [0, 1, -1]
    with pytest.raises(DataError, match="2020-02-28 does not lie on the grid of 1 month"):
        grid.index(np.array(["2020-02-29", "2020-02-28"], dtype="datetime64[D]"))


def test_equally_common_gaps_take_the_smaller():
    assert infer_grid(np.array([0, 5, 15]), np.array([5, 10]), False) == Grid("steps", 5)


def test_not_a_grid():
    for bad in ({"kind": "weeks"}, {"kind": "steps", "step": 0}, {"size": 1}, {"step": "1h"}):
        with pytest.raises(DataError, match="^not a grid: "):
            Grid.from_dict(bad)


YEAR = ["yearday_sin", "yearday_cos"]
WEEKDAY = ["weekday_sin", "weekday_cos", "weekend"]


@pytest.mark.parametrize(
    ("frequency", "names"),
    [
        ("15m", ["hour_sin", "hour_cos", *WEEKDAY, *YEAR]),
        ("36h", ["hour_sin", "hour_cos", *WEEKDAY, *YEAR]),
        ("1d", [*WEEKDAY, *YEAR]),
        ("1w", YEAR),
        ("1mo", YEAR),
        ("1q", YEAR),
        ("1y", []),
        ("5", []),
    ],
)
def test_calendar_names(frequency, names):
    grid = parse_frequency(frequency)
    assert calendar_names(grid) == names
    assert calendar_features(grid, np.arange(5)).shape == (5, len(names))


def test_calendar_values_of_every_hour_of_years():
    grid = Grid("fixed", HOUR)
    index = np.arange(-30_000, 450_000, 37)  # from 1966 over leap years
    features = calendar_features(grid, index)
    assert features.dtype == np.float32
    rows = []
    for i in index.tolist():
        t = dt.datetime(1970, 1, 1) + dt.timedelta(hours=i)
        start, end = dt.datetime(t.year, 1, 1), dt.datetime(t.year + 1, 1, 1)
        hour, weekday, year = t.hour / 24, t.weekday() / 7, (t - start) / (end - start)
        angles = [2 * math.pi * x for x in (hour, weekday, year)]
        h, w, y = [[math.sin(a), math.cos(a)] for a in angles]
        rows.append([*h, *w, float(t.weekday() >= 5), *y])
    np.testing.assert_allclose(features, rows, atol=1e-6)


def test_some_calendar_features():
    grid = Grid("fixed", DAY)
    everything = calendar_features(grid, np.arange(20))
    np.testing.assert_array_equal(calendar_features(grid, np.arange(20), ["weekend"]), everything[:, 2:3])
    assert calendar_features(grid, np.arange(7), ["weekend"])[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 0]  # from a Thursday
