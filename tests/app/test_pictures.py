"""What is drawn of forecasts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from tidegate.tasks import pictures


@pytest.fixture
def labels(monkeypatch):
    """The labels along the axis of a picture of some steps from a date on."""

    def drawn(start: str, step: int, unit: str, count: int) -> list[str]:
        times = (np.datetime64(start) + np.arange(count) * np.timedelta64(step, unit)).astype("datetime64[us]")
        q = np.arange(count)[:, None] + np.arange(3.0)
        pictures._png([pictures._Panel("y", times, q[:, 1], [(times, q)])], [0.1, 0.5, 0.9], [(0.1, 0.9)], "LSTM")
        return seen.pop()

    seen: list[list[str]] = []
    save = Figure.savefig

    def note(figure: Figure, *args, **options) -> None:
        save(figure, *args, **options)
        seen.append([label.get_text() for label in figure.axes[0].get_xticklabels()])

    monkeypatch.setattr(Figure, "savefig", note)
    return drawn


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("2013-12-31T23:40", 10, "m", 4), "23:40 31 Dec 2013|23:45|23:50|23:55|00:00 1 Jan 2014|00:05|00:10"),
        (
            ("2013-12-30T05:00", 1, "h", 49),
            "06:00 30 Dec 2013|12:00|18:00|00:00 31 Dec|06:00|12:00|18:00|00:00 1 Jan 2014",
        ),
        (("2013-12-19", 1, "h", 600), "20 Dec 2013|23|26|29|1 Jan 2014|4|7|10|13"),
        (("2013-12-19", 1, "D", 60), "22 Dec 2013|1 Jan 2014|8|15|22|1 Feb|8|15"),
        (("2012-06-10", 1, "D", 700), "Jul 2012|Oct|Jan 2013|Apr|Jul|Oct|Jan 2014|Apr"),
        (("2001-05-01", 90, "D", 60), "2002|2004|2006|2008|2010|2012|2014|2016"),
    ],
)
def test_each_date_is_labelled_by_what_tells_it_from_the_one_before(labels, steps, expected):
    assert "|".join(labels(*steps)).replace("\n", " ") == expected


def test_dates_of_any_span_have_labels(labels):
    for unit, most in (("s", 130), ("m", 130), ("h", 130), ("D", 100), ("W", 130), ("h", 9_000)):
        for count in (2, 3, 7, 23, 47, most):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = labels("2013-11-26T00:00", 1, unit, count)
            assert 2 <= len(found) <= 13, (unit, count)
            assert len(set(found)) > 1
