"""Columns as text, whatever they hold."""

from __future__ import annotations

import polars as pl
import pytest

from tidegate.data.columns import as_text, no_value
from tidegate.errors import DataError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("kind", [pl.Float32, pl.Float64])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, None], ["1", "2", None]),
        ([1.0, NAN], ["1", None]),
        ([1.5, NAN, 2.0], ["1.5", None, "2.0"]),
        ([1.0, INF, -INF], ["1", "inf", "-inf"]),
        ([NAN, NAN], [None, None]),
    ],
)
def test_numbers_as_text(kind, values, expected):
    assert as_text(pl.Series("k", values, kind)).to_list() == expected


def test_numbers_beyond_64_bits_stay_distinct():
    found = as_text(pl.Series([1.0, 1e19, 2e19])).to_list()
    assert found[0] == "1"
    assert [float(text) for text in found] == [1.0, 1e19, 2e19]


@pytest.mark.parametrize(
    ("column", "held"),
    [
        (pl.Series("k", [b"\xff", None]), "binary data"),
        (pl.Series("k", [object()], dtype=pl.Object), "objects"),
        (pl.Series("k", [[1]]), "lists"),
    ],
)
def test_what_is_no_text(column, held):
    assert not no_value(column)[0]
    with pytest.raises(DataError, match=f"^column 'k' holds {held}; text or numbers are needed$"):
        as_text(column)
