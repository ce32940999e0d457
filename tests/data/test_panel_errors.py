"""Each thing in a table that cannot be used is refused with one sentence that names it."""

import datetime as dt

import polars as pl
import pytest

from tidegate.data import Grid, make_panel
from tidegate.data.grid import HOUR
from tidegate.errors import ConfigError, DataError

INF = float("inf")
HOURS = ["2020-01-01T04:00:00", "2020-01-01T05:00:00", "2020-01-01T06:00:00", "2020-01-01T07:00:00"]
Y = [1.0, 2.0, 3.0, 4.0]
T = {"t": HOURS, "y": Y}
MONTH_ENDS = ["2020-01-31", "2020-02-29", "2020-03-31"]

CASES = [
    # text, infinities and other values
    (
        {"t": HOURS, "y": ["1", "NA", "oops", "4"]},
        {"time": "t"},
        "--target y: row 3 (line 4 of a CSV file) holds 'oops' where a number belongs",
    ),
    (
        {"t": HOURS, "y": ["1", "2", "1,5", "-0,125"]},
        {"time": "t"},
        "--target y: row 3 (line 4 of a CSV file) holds '1,5' where a number belongs (and 1 more row does); "
        "write decimals with a point, or separate the columns of a CSV file by semicolons",
    ),
    (
        {**T, "k": ["1", "2", "1,000", "x"]},
        {"time": "t", "known": ["k"]},
        "--known k: row 3 (line 4 of a CSV file) holds '1,000' where a number belongs (and 1 more row does); "
        "text can only be given as --static, when it is constant in a series",
    ),
    (
        {"y": [1.0, INF, 2.0]},
        {},
        "--target y: row 2 (line 3 of a CSV file) holds inf, which is infinite; correct it or leave it empty",
    ),
    (
        {"y": Y, "p": ["1", "2", "3", "-inf"]},
        {"past": ["p"]},
        "--past p: row 4 (line 5 of a CSV file) holds -inf, which is infinite; correct it or leave it empty",
    ),
    (
        {"y": [1.0, None, -1e39]},
        {},
        "--target y: row 3 (line 4 of a CSV file) holds -1e+39, which is beyond 32-bit floating point (3.4e38); "
        "correct it or leave it empty",
    ),
    ({"y": [None, None]}, {}, "--target y: the column holds no value at all"),
    ({"y": ["NA", ""]}, {}, "--target y: the column holds no value at all"),
    (
        {"y": Y, "d": [dt.date(2020, 1, 1)] * 4},
        {"past": ["d"]},
        "--past d: the column holds dates or times, numbers are needed",
    ),
    ({"y": [[1], [2]]}, {}, "--target y: the column holds lists, numbers are needed"),
    ({"y": []}, {}, "the table is empty: it has columns but no rows"),
    # times
    (
        {"t": [*HOURS[:3], "07:00"], "y": Y},
        {"time": "t"},
        "--time t: row 4 (line 5 of a CSV file) holds '07:00', which is not a time; write times year first, "
        "such as 2013-12-31, 2013-12-31 23:00 or 2013-12-31T23:00:00Z",
    ),
    (
        {"t": ["12/31/2019", "01/01/2020"], "y": Y[:2]},
        {"time": "t"},
        "--time t: row 1 (line 2 of a CSV file) holds '12/31/2019', which is not a time; write times year first, "
        "such as 2013-12-31, 2013-12-31 23:00 or 2013-12-31T23:00:00Z",
    ),
    (
        {"t": ["22-01-05", "22-01-06"], "y": Y[:2]},
        {"time": "t"},
        "--time t: row 1 (line 2 of a CSV file) holds '22-01-05', which is not a time; write times year first, "
        "such as 2013-12-31, 2013-12-31 23:00 or 2013-12-31T23:00:00Z",
    ),
    (
        {"t": ["2022-01-05", "05/01/22"], "y": Y[:2]},
        {"time": "t"},
        "--time t: row 2 (line 3 of a CSV file) holds '05/01/22', which is not a time; write times year first, "
        "such as 2013-12-31, 2013-12-31 23:00 or 2013-12-31T23:00:00Z",
    ),
    ({"t": [*HOURS[:3], None], "y": Y}, {"time": "t"}, "--time t: row 4 (line 5 of a CSV file) has no time"),
    (
        {"t": [HOURS[0], HOURS[1] + "Z", HOURS[2], HOURS[3]], "y": Y},
        {"time": "t"},
        "--time t: row 2 (line 3 of a CSV file) holds '2020-01-01T05:00:00Z' with a UTC offset, row 1 holds "
        "'2020-01-01T04:00:00' without one; give all times an offset, or none",
    ),
    (
        {"t": [1.0, 2.5], "y": Y[:2]},
        {"time": "t"},
        "--time t: row 2 (line 3 of a CSV file) holds 2.5, neither a date nor a whole number",
    ),
    (
        {"t": pl.Series([1, 10**20], dtype=pl.Int128), "y": Y[:2]},
        {"time": "t"},
        "--time t: row 2 (line 3 of a CSV file) holds 100000000000000000000, which is too large for a time",
    ),
    (
        {"t": [True, False], "y": Y[:2]},
        {"time": "t"},
        "--time t: the column holds true and false; dates, date-times or whole numbers are needed",
    ),
    # a time twice
    (
        {"t": [*HOURS[:3], HOURS[2]], "y": list("1234"), "city": list("abcd")},
        {"time": "t"},
        "--time t: the table has 2 rows at 2020-01-01 06:00 (rows 3, 4); did you forget --series, "
        "such as --series city?",
    ),
    (
        {"t": [HOURS[0]] * 3 + [HOURS[1]] * 2, "y": [*Y, 5], "s": ["a"] * 5},
        {"time": "t", "series": "s"},
        "--time t: series 'a' has 3 rows at 2020-01-01 04:00 (rows 1, 2, 3), and 1 more row repeats a time; "
        "keep one row for each series and time",
    ),
    (
        {"t": [0, 1, 1], "y": Y[:3]},
        {"time": "t"},
        "--time t: the table has 2 rows at 1 (rows 2, 3); did you forget --series?",
    ),
    (
        {"t": ["2020-10-25 02:00"] * 2, "y": Y[:2], "s": ["a", "a"]},
        {"time": "t", "series": "s"},
        "--time t: series 'a' has 2 rows at 2020-10-25 02:00 (rows 1, 2); keep one row for each series and time "
        "(if it is the hour that comes twice when summer time ends, give the times in UTC)",
    ),
    # the grid
    (
        {"t": [*HOURS[:3], "2020-01-01T07:10"], "y": Y},
        {"time": "t"},
        "--time t: row 4 (line 5 of a CSV file) at 2020-01-01 07:10 lies off the grid of 1 hour that most rows "
        "follow; round the times to the grid, leave those rows out, or give another --frequency",
    ),
    (
        {"t": [*MONTH_ENDS * 4, "2020-04-29"], "y": [1.0] * 13, "s": list("aaabbbcccdddd")},
        {"time": "t", "series": "s"},
        "--time t: series 'd', row 13 (line 14 of a CSV file) at 2020-04-29 lies off the grid of 1 month that most "
        "rows follow; round the times to the grid, leave those rows out, or give another --frequency",
    ),
    (
        T,
        {"time": "t", "frequency": "1d"},
        "--time t: row 2 (line 3 of a CSV file) at 2020-01-01 05:00 lies off the grid of 1 day that most rows follow, "
        "as do 2 more rows; round the times to the grid, leave those rows out, or give another --frequency",
    ),
    (
        T,
        {"time": "t", "grid": Grid("fixed", 2 * HOUR)},
        "--time t: row 2 (line 3 of a CSV file) at 2020-01-01 05:00 lies off the grid of 2 hours of the trained model, "
        "as does 1 more row; round the times to the grid or leave those rows out",
    ),
    (
        {"t": [1, 2], "y": Y[:2]},
        {"time": "t", "grid": Grid("fixed", HOUR)},
        "the model was trained on steps of 1 hour, but this table has whole numbers",
    ),
    (
        {"t": HOURS[:1], "y": Y[:1]},
        {"time": "t"},
        "--time t: the step of time cannot be told: no series has two rows at different times; give it as --frequency",
    ),
    (
        {"t": ["2020-01-01T00:00:00", "2020-01-01T00:00:01", "2099-01-01", "2020-01-01T00:00:02"], "y": Y},
        {"time": "t"},
        "the time jumps from 2020-01-01 00:00:02 (row 4) to 2099-01-01 (row 3): filling the 1 second grid would make "
        "2,493,072,001 steps of 4 rows; probably one of the two is wrong",
    ),
    # series and static columns
    ({"s": ["a", None], "y": Y[:2]}, {"series": "s"}, "--series s: row 2 (line 3 of a CSV file) names no series"),
    (
        {"s": list("aabb"), "y": Y, "q": [1, 1, 2, 3]},
        {"series": "s", "static": ["q"]},
        "--static q: series 'b' holds 2.0 in row 3 and 3.0 in row 4; a static column is constant in a series",
    ),
    (
        {"y": Y, "q": ["u", None, "u", "v"]},
        {"static": ["q"]},
        "--static q: the table holds 'u' in row 1 and 'v' in row 4; a static column is constant in a series",
    ),
    (
        {"y": Y, "q": ["u"] * 4},
        {"static": ["q"], "categories": {}},
        "--static q: row 1 (line 2 of a CSV file) holds 'u' where a number belongs (and 3 more rows do); "
        "in training the column held numbers",
    ),
    # columns
    (
        {"temp": Y, "time": HOURS},
        {"target": ["tmp"]},
        "--target tmp: the table has no column 'tmp'; did you mean 'temp'? Its columns are: temp, time",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "options", "sentence"), CASES, ids=[c[2][:60] for c in CASES])
def test_bad_tables(columns, options, sentence):
    with pytest.raises(DataError) as caught:
        make_panel(pl.DataFrame(columns), **{"target": ["y"], **options})
    assert str(caught.value) == sentence
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": []}, "--target is needed: the column to forecast"),
        ({"past": ["y"]}, "column 'y' is given as --target and as --past; a column has one role"),
        ({"time": "t", "known": ["t"]}, "column 't' is given as --known and as --time; a column has one role"),
        ({"target": ["y", "y"]}, "column 'y' is given twice as --target; a column has one role"),
        ({"time": "t", "frequency": "10"}, "--frequency: steps of 10 units do not fit a table that has dates"),
        ({"frequency": "1h"}, "--frequency: steps of 1 hour do not fit a table that has no times (there is no --time)"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ConfigError) as caught:
        make_panel(pl.DataFrame(T), **{"target": ["y"], **options})
    assert str(caught.value) == sentence


def test_one_name_for_a_list():
    with pytest.raises(TypeError, match="^target is a list of column names; given 'y'$"):
        make_panel(pl.DataFrame(T), target="y")


def test_row_numbers_count_blank_lines():
    columns = {"t": [HOURS[0], None, HOURS[1]], "y": ["1", None, "x"]}
    with pytest.raises(DataError, match=r"^--target y: row 3 \(line 4 of a CSV file\) holds 'x'"):
        make_panel(pl.DataFrame(columns), target=["y"], time="t")
