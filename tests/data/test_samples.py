"""The data that comes with the package is what its README says."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from tidegate.data import make_panel, read_table, samples
from tidegate.errors import DataError


def test_nyc_weather():
    frame = read_table(samples.path("nyc_weather"))
    assert frame.shape == (26_115, 11)
    first = dict(zip(frame.columns, frame.row(0), strict=True))
    assert first == {
        "origin": "EWR",
        "time_hour": dt.datetime(2013, 1, 1, 6, tzinfo=dt.UTC),
        "temp": 39.02,
        "dewp": 26.06,
        "humid": 59.37,
        "wind_dir": 270,
        "wind_speed": 10.357019999999999,
        "wind_gust": None,
        "precip": 0.0,
        "pressure": 1012.0,
        "visib": 10.0,
    }
    missing = {c: frame[c].null_count() for c in frame.columns if frame[c].null_count()}
    assert missing == {
        "temp": 1, "dewp": 1, "humid": 1, "wind_dir": 460, "wind_speed": 4, "wind_gust": 20_778, "pressure": 2_729,
    }  # fmt: skip
    assert frame["wind_speed"].max() == 1048.36058
    assert frame.filter(pl.col("temp") < 14, pl.col("time_hour").dt.month() == 5)["temp"].to_list() == [13.1]


def test_nyc_weather_as_a_panel():
    frame = read_table(samples.path("nyc_weather"), ["origin", "time_hour", "temp"])
    panel = make_panel(frame, target=["temp"], time="time_hour", series="origin")
    assert panel.names == ["EWR", "JFK", "LGA"]
    assert panel.lengths.tolist() == [8730, 8730, 8730]
    assert panel.notes == [
        "3 series, 26,190 steps of 1 hour from 2013-01-01 06:00 UTC to 2013-12-30 23:00 UTC",
        "filled 45 gaps (75 missing steps) on the 1 hour grid",
        "temp: 76 of 26,190 steps are missing (0.29%)",
    ]


def test_shoulder_exercises():
    frame = read_table(samples.path("shoulder_exercises"))
    assert frame.shape == (58_155, 11)
    assert frame.null_count().sum_horizontal().item() == 0
    one = frame.group_by("sequence", maintain_order=True).agg(
        pl.len(), pl.col("subject", "side", "exercise").n_unique(), pl.col("step").max() + 1
    )
    assert one.height == 1_546
    assert (one["len"].min(), one["len"].max()) == (25, 50)
    assert one["step"].equals(one["len"].cast(pl.Int8).alias("step"))
    assert set(one.select("subject", "side", "exercise").rows()) == {(1, 1, 1)}  # a sequence is of one recording
    assert frame.select("subject", "side", "exercise").n_unique() == 140
    standing = (pl.col("ax") ** 2 + pl.col("ay") ** 2 + pl.col("az") ** 2).sqrt().mean()
    assert 0.95 < frame.select(standing).item() < 1.15  # gravity, in g


def test_word_stress():
    frame = read_table(samples.path("word_stress"))
    assert frame.columns == ["word", "stem", "stress"]
    assert frame.height == frame["word"].n_unique() == 20_000
    assert frame["word"].str.contains("^[a-z]{5,}$").all()
    assert (frame["word"].str.slice(0, 5) == frame["stem"]).all()
    counts = dict(frame["stress"].value_counts().rows())
    assert counts == {"first": 8_569, "second": 7_779, "third or later": 3_652}
    known = dict(frame.select("word", "stress").rows())
    assert [known[w] for w in ("abacus", "defendant", "irrefutable")] == ["first", "second", "third or later"]


def test_each_sample_has_source_and_licence():
    readme = (Path(samples.path("nyc_weather")).parent / "README.md").read_text()
    for name in samples.names():
        assert f"## {samples.path(name).name}" in readme
    assert "| Licence | CC0" in readme
    assert "| Licence | BSD-3-Clause" in readme
    holders = {
        "shoulder_exercises": "Copyright (c) 2018, David M. Burns",
        "word_stress": "(C) 1993-2015 Carnegie Mellon",
    }
    for name, holder in holders.items():
        assert holder in samples.path(name).with_suffix(".LICENSE").read_text()


def test_no_such_sample():
    names = "nyc_weather, shoulder_exercises, tragedies, unpunctuated_plays, word_stress"
    with pytest.raises(DataError, match=f"^there is no sample 'x'; there are: {names}$"):
        samples.path("x")
