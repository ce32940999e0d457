"""A table on a regular grid: every value where it belongs, and a note of what was done."""

import datetime as dt
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from tidegate.data import Grid, make_panel
from tidegate.data.grid import DAY, HOUR

NAN = np.nan
HOURS = ["2020-01-01T00:00:00", "2020-01-01T01:00:00", "2020-01-01T02:00:00", "2020-01-01T03:00:00"]
FIRST = 438_288  # hours from 1970 to 2020
Y = [1.0, 2.0, 3.0, 4.0]


def panel(columns, **options):
    return make_panel(pl.DataFrame(columns), **{"target": ["y"], **options})


def many():
    """Two series, interleaved, unsorted, with a gap, all roles."""
    return make_panel(
        pl.DataFrame(
            {
                "s": ["b", "a", "b", "a", "b", "a"],
                "t": [HOURS[3], HOURS[1], HOURS[0], HOURS[2], HOURS[1], HOURS[3]],
                "y": [33.0, 11.0, 30.0, 12.0, None, NAN],
                "z": [1, 2, 3, 4, 5, 6],
                "k": [3.5, 1.5, 0.5, 2.5, 1.25, 3.75],
                "p": [True, False, None, True, False, True],
                "q": ["high", None, "high", "low", "high", "low"],
                "r": [7.0, 8.0, 7.0, None, 7.0, 8.0],
            }
        ),
        target=["y", "z"],
        time="t",
        series="s",
        known=["k"],
        past=["p"],
        static=["q", "r"],
    )


def test_values_stand_where_they_belong():
    p = many()
    assert p.names == ["b", "a"]
    assert p.offsets.tolist() == [0, 4, 7]
    assert p.first.tolist() == [FIRST, FIRST + 1]
    np.testing.assert_array_equal(p.targets, [[30, 3], [NAN, 5], [NAN, NAN], [33, 1], [11, 2], [12, 4], [NAN, 6]])
    np.testing.assert_array_equal(p.known[:, 0], np.float32([0.5, 1.25, NAN, 3.5, 1.5, 2.5, 3.75]))
    np.testing.assert_array_equal(p.past[:, 0], [NAN, 0, NAN, 1, 0, 1, 1])
    np.testing.assert_array_equal(p.static, [[1, 0, 7], [0, 1, 8]])
    assert p.static_names == ["q=high", "q=low", "r"]
    assert p.categories == {"q": ["high", "low"]}
    assert {a.dtype for a in (p.targets, p.known, p.past, p.static)} == {np.dtype(np.float32)}
    assert p.grid == Grid("fixed", HOUR)
    assert p.notes == [
        "2 series, 7 steps of 1 hour from 2020-01-01 to 2020-01-01 03:00",
        "filled 1 gap (1 missing step) on the 1 hour grid",
        "sorted the rows by time: they went back in 1 place",
        "y: 3 of 7 steps are missing (43%)",
        "z: 1 of 7 steps are missing (14%)",
    ]


def test_what_is_missing_is_counted_up_to_the_steps_to_be_forecast():
    columns = {"s": list("aaaaab"), "y": [1, None, 3, None, None, 5], "k": [1, 2, None, 4, None, 6]}
    p = panel(columns | {"p": [None, 1, 2, None, None, 7]}, series="s", known=["k"], past=["p"])
    assert p.now == 3
    assert p.notes[1:] == ["y: 1 of 4 steps are missing (25%)"]
    assert p.about_missing(p.known_names, p.known) == ["k: 1 of 4 steps are missing (25%)"]
    assert p.about_missing(p.past_names, p.past) == ["p: 1 of 4 steps are missing (25%)"]

    # A step with a past covariate, or with the target of another series, has been.
    p = panel(columns | {"p": [None, 1, 2, 3, None, 7]}, series="s", known=["k"], past=["p"])
    assert p.notes[1:] == ["y: 2 of 5 steps are missing (40%)"]
    p = panel({"s": list("aaaabbbb"), "y": [1, None, None, None, 5, 6, 7, 8]}, series="s")
    assert p.notes[1:] == ["y: 3 of 8 steps are missing (38%)"]
    p = panel({"s": list("ab"), "y": [1, 2], "q": [None, "high"], "r": [1.5, None]}, series="s", static=["q", "r"])
    assert p.notes[1:] == ["q: 1 of 2 series has no value", "r: 1 of 2 series has no value"]


def test_the_order_of_rows_does_not_matter():
    p = many()
    frame = p.to_frame().sample(fraction=1, shuffle=True, seed=1)
    q = make_panel(frame, target=["y", "z"], time="t", series="s", known=["k"], past=["p"], static=["q", "r"])
    q = q.select([q.names.index(n) for n in p.names])
    assert q.names == p.names
    for name in ("offsets", "targets", "known", "past", "static", "first"):
        np.testing.assert_array_equal(getattr(q, name), getattr(p, name))


def test_methods():
    p = many()
    assert len(p) == 2
    assert p.steps == 7
    assert p.length(1) == 3
    assert p.lengths.tolist() == [4, 3]
    assert p.history_ends.tolist() == [4, 3]
    assert p.timestamps(1).tolist() == [dt.datetime(2020, 1, 1, h) for h in (1, 2, 3)]
    name, targets, known, past, static, steps = p.view(1)
    assert name == "a"
    assert np.shares_memory(targets, p.targets)
    np.testing.assert_array_equal(targets[:, 0], [11, 12, NAN])
    assert (known.shape, past.shape, static.shape) == ((3, 1), (3, 1), (3,))
    assert steps.tolist() == [FIRST + 1, FIRST + 2, FIRST + 3]
    assert [v.name for v in p.views()] == ["b", "a"]
    only = p.select([1])
    assert only.names == ["a"]
    assert only.offsets.tolist() == [0, 3]
    np.testing.assert_array_equal(only.targets, p.targets[4:])
    np.testing.assert_array_equal(only.static, p.static[1:])


def test_history_ends_and_extend():
    p = panel(
        {"s": list("aaabbc"), "y": [1.0, None, None, 2.0, 3.0, None], "k": [1, 2, 3, 4, 5, 6]}, series="s", known=["k"]
    )
    assert p.history_ends.tolist() == [1, 2, 0]
    assert [p.history_end(s) for s in range(3)] == [1, 2, 0]
    e = p.extend(2)
    assert e.offsets.tolist() == [0, 3, 7, 9]
    np.testing.assert_array_equal(e.targets[:, 0], [1, NAN, NAN, 2, 3, NAN, NAN, NAN, NAN])
    np.testing.assert_array_equal(e.known[:, 0], [1, 2, 3, 4, 5, NAN, NAN, 6, NAN])
    assert e.history_ends.tolist() == [1, 2, 0]
    assert e.extend(2) is e
    assert p.extend(0) is p


@pytest.mark.parametrize(
    ("times", "first", "zone"),
    [
        (HOURS, FIRST, None),
        ([h.replace("T", " ")[:16] for h in HOURS], FIRST, None),
        ([h[:13] for h in HOURS], FIRST, None),
        ([h.replace("-", "/") for h in HOURS], FIRST, None),
        ([h + "Z" for h in HOURS], FIRST, "UTC"),
        ([h.replace("T", " ") + ".000000+00:00" for h in HOURS], FIRST, "UTC"),
        ([h + "+02:00" for h in HOURS], FIRST - 2, "UTC"),
        ([h + "-0500" for h in HOURS], FIRST + 5, "UTC"),
        ([HOURS[0] + "Z", HOURS[0] + "-01", HOURS[3] + "+01:00", HOURS[3] + "Z"], FIRST, "UTC"),
        ([dt.datetime.fromisoformat(h) for h in HOURS], FIRST, None),
        (pl.Series(HOURS).str.to_datetime(time_unit="ns", time_zone="UTC"), FIRST, "UTC"),
        (pl.Series(HOURS).str.to_datetime(time_unit="ms").dt.replace_time_zone("Asia/Tokyo"), FIRST - 9, "UTC"),
        (pl.Series(HOURS, dtype=pl.Categorical), FIRST, None),
    ],
)
def test_kinds_of_time(times, first, zone):
    p = panel({"t": times, "y": Y}, time="t")
    assert p.grid == Grid("fixed", HOUR, zone=zone)
    assert p.first.tolist() == [first]
    assert p.targets[:, 0].tolist() == Y


def test_time_zone_notes():
    p = panel({"t": [h + "+02:00" for h in HOURS], "y": Y}, time="t")
    assert p.notes == [
        "4 steps of 1 hour from 2019-12-31 22:00 UTC to 2020-01-01 01:00 UTC",
        "converted the times from their offsets to UTC",
    ]


def test_days_of_a_place_stay_days_over_summer_time():
    for times in (
        pl.datetime_range(
            dt.datetime(2020, 3, 28), dt.datetime(2020, 3, 31), "1d", time_zone="Europe/Berlin", eager=True
        ),
        ["2020-03-28T00:00+01:00", "2020-03-29T00:00+01:00", "2020-03-30T00:00+02:00", "2020-03-31T00:00+02:00"],
    ):
        p = panel({"t": times, "y": Y}, time="t")
        assert p.grid == Grid("fixed", DAY)
        assert p.timestamps(0).astype("datetime64[D]").astype(str).tolist()[::3] == ["2020-03-28", "2020-03-31"]
        assert p.notes[1].startswith("kept the local clock of ")


def test_hours_of_a_place_go_to_utc_over_summer_time():
    utc = pl.datetime_range(dt.datetime(2020, 10, 24, 23), dt.datetime(2020, 10, 25, 2), "1h", eager=True)
    local = utc.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
    assert local.dt.hour().to_list() == [1, 2, 2, 3]
    p = panel({"t": local, "y": Y}, time="t")
    assert p.grid == Grid("fixed", HOUR, zone="UTC")
    assert p.targets[:, 0].tolist() == Y
    assert p.notes[1] == "converted the times from Europe/Berlin to UTC"


@pytest.mark.parametrize(
    ("times", "grid", "first", "target"),
    [
        ([3, 4, 5, 8], Grid(), 3, [1, 2, 3, NAN, NAN, 4]),
        ([-7, 3, 13, 33], Grid("steps", 10, 3), -1, [1, 2, 3, NAN, 4]),
        ([1.0, 2.0, 3.0, 4.0], Grid(), 1, Y),
        (["1", "2", "3", "4"], Grid(), 1, Y),
        ([20200130, 20200131, 20200201, 20200203], Grid("fixed", DAY), 18_291, [1, 2, 3, NAN, 4]),
        ([201911, 201912, 202001, 202003], Grid("months"), 598, [1, 2, 3, NAN, 4]),
        (["2019-11", "2019-12", "2020-01", "2020-03"], Grid("months"), 598, [1, 2, 3, NAN, 4]),
        ([2000, 2001, 2002, 2004], Grid(), 2000, [1, 2, 3, NAN, 4]),
        ([dt.date(2020, 1, d) for d in (1, 2, 3, 5)], Grid("fixed", DAY), 18_262, [1, 2, 3, NAN, 4]),
    ],
)
def test_whole_numbers_and_dates(times, grid, first, target):
    p = panel({"t": times, "y": Y}, time="t")
    assert p.grid == grid
    assert p.first.tolist() == [first]
    np.testing.assert_array_equal(p.targets[:, 0], target)


def test_without_times_rows_are_steps():
    p = panel({"s": ["b", "a", "b", "a"], "y": Y}, series="s")
    assert p.targets[:, 0].tolist() == [1, 3, 2, 4]
    assert p.first.tolist() == [0, 0]
    assert p.timestamps(0).tolist() == [0, 1]
    assert p.notes == ["2 series, 4 steps"]
    assert panel({"y": Y}).names == [""]
    assert panel({"y": [1.0]}).grid == panel({"y": [1.0], "t": [5]}, time="t").grid == Grid()


def test_numbers_as_other_programs_write_them():
    y = ["1", " 2.5 ", "NA", "", "nan", "N/A", "-", "1e3", "NULL", "-4"]
    np.testing.assert_array_equal(panel({"y": y}).targets[:, 0], [1, 2.5, *[NAN] * 5, 1000, NAN, -4])
    decimal = pl.Series("y", [None, "1.5"]).cast(pl.Decimal(10, 2))
    np.testing.assert_array_equal(make_panel(decimal.to_frame(), target=["y"]).targets[:, 0], [NAN, 1.5])


def test_series_names_are_the_same_from_any_program():
    for ids in ([7, 7, 8, 8], [7.0, 7.0, 8.0, 8.0], ["7", "7", "8", "8"]):
        assert panel({"s": ids, "y": Y}, series="s").names == ["7", "8"]


def test_blank_lines_are_left_out():
    p = panel({"t": [*HOURS[:2], None, *HOURS[2:], None], "y": [1, 2, None, 3, 4, None]}, time="t")
    assert p.targets[:, 0].tolist() == Y
    assert panel({"y": [1, None, 3, None, None]}).length(0) == 3


def test_frequency():
    p = panel({"t": HOURS[::3], "y": Y[:2]}, time="t", frequency="1h")
    np.testing.assert_array_equal(p.targets[:, 0], [1, NAN, NAN, 2])
    assert panel({"t": HOURS[:1], "y": Y[:1]}, time="t", frequency="1h").grid == Grid("fixed", HOUR)


def test_other_data_of_a_trained_model():
    old = many()
    new = make_panel(
        pl.DataFrame({"s": ["c"], "t": [HOURS[0]], "y": [1.0], "z": [2], "q": ["new"], "r": [1]}),
        target=["y", "z"], time="t", series="s", static=["q", "r"], categories=old.categories, grid=old.grid,
    )  # fmt: skip
    assert new.grid == old.grid
    assert new.static_names == old.static_names
    assert new.static.tolist() == [[0, 0, 1]]
    assert new.notes[1:] == ["q: 'new' did not occur in training and tells nothing"]


def test_trained_grid_moves_and_notes():
    utc = Grid("fixed", HOUR, zone="UTC")
    half = [h.replace(":00:00", ":30:00") for h in HOURS]
    p = panel({"t": half, "y": Y}, time="t", grid=utc)
    assert p.timestamps(0)[0] == np.datetime64("2020-01-01T00:30")
    assert p.grid.zone == "UTC"
    assert p.notes[1] == "the times are without a zone, taken as UTC as in training"
    p = panel({"t": ["2020-01-01", "2020-01-02", "2020-01-03"], "y": Y[:3]}, time="t", grid=Grid("fixed", HOUR))
    assert p.length(0) == 49
    assert "the most common step is 1 day here, 1 hour in training" in p.notes


def test_to_frame_round_trip():
    p = many()
    frame = p.to_frame()
    assert frame.columns == ["s", "t", "y", "z", "k", "p", "q", "r"]
    assert frame["q"].to_list() == ["high"] * 4 + ["low"] * 3
    assert frame["y"].to_list() == [30, None, None, 33, 11, 12, None]
    q = make_panel(frame, target=["y", "z"], time="t", series="s", known=["k"], past=["p"], static=["q", "r"])
    np.testing.assert_array_equal(q.targets, p.targets)
    np.testing.assert_array_equal(q.static, p.static)
    utc = panel({"t": [h + "Z" for h in HOURS], "y": Y}, time="t").to_frame()
    assert utc["t"].dtype == pl.Datetime("us", "UTC")


MEMORY = """
import resource, sys
import numpy as np, polars as pl
from tidegate.data import make_panel
S, T = 200, 1000
hours = np.datetime64("2020-01-01", "us") + np.arange(T) * np.timedelta64(3600, "s")
values = np.arange(S * T, dtype=np.float64)
df = pl.DataFrame({"s": np.tile(np.arange(S), T), "t": np.repeat(hours, S), "y": values, "k": values, "p": values})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
p = make_panel(df, target=["y"], time="t", series="s", known=["k"], past=["p"])
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
held = sum(a.nbytes for a in (p.targets, p.known, p.past, p.offsets, p.first)) / 2**20
assert p.targets[:, 0].reshape(S, T).T.ravel().tolist() == values.tolist()
assert held < 2.5, held  # 3 columns of 200,000 float32
print(grown)
"""


def test_little_memory():
    """200,000 rows take 19 MiB on the way to the grid; as Python objects they would not fit."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 32
