"""The learning curves score on what no arm has seen, and their intervals are paired."""

from __future__ import annotations

import polars as pl
import pytest

from experiments.learning_curves import classify, forecast
from experiments.learning_curves.report import paired


def test_the_interval_of_paired_differences():
    a, b = {0: 3.0, 1: 5.0, 2: 4.0, 7: 0.0}, {0: 2.0, 1: 2.0, 2: 2.0, 8: 1.0}
    mean, low, high = paired(a, b)  # 1, 3, 2 over the seeds of both
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302652730 / 3**0.5)  # Student's t with two degrees of freedom
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.parametrize("scored", ["choosing", "test"])
def test_people_who_are_scored_on_do_not_train(scored):
    tested = classify._parts("test", 1.0, 0)[1].groups
    for seed in range(5):
        table, held = classify._parts(scored, 0.2, seed)
        assert not set(table["subject"].cast(pl.String)) & {*held.groups, *tested}
        assert bool(set(held.groups) & set(tested)) is (scored == "test")


def test_a_larger_share_holds_the_smaller_one():
    def labelled(size: float) -> set[int]:
        return set(classify._parts("test", size, 3)[0].drop_nulls("exercise")["sequence"])

    few, half, all_ = labelled(0.1), labelled(0.5), labelled(1.0)
    assert few < half < all_
    assert len(few) == round(0.1 * len(all_))
    table, _ = classify._parts("test", 0.1, 3)
    assert set(table["sequence"]) == all_  # the others stay, without a label


@pytest.mark.parametrize("size", forecast.SIZES)
def test_training_weeks_lie_before_those_that_are_scored(size):
    firsts = []
    for seed in range(5):
        mine, unused, theirs = forecast._parts(size, seed, "choosing")
        _, _, last = forecast._parts(size, seed, "test")
        hours = mine["time_hour"].unique().sort()
        assert len(hours) == size * forecast.WEEK + forecast.LATER
        used = hours[: round((1 - unused) * len(hours))]
        assert len(used) == size * forecast.WEEK
        lead = forecast.HISTORY + 24  # read before the first forecast
        scored = theirs["time_hour"].unique().sort()[lead:]
        assert used.max() < scored.min()
        assert scored.max() < last["time_hour"].unique().sort()[lead:].min()
        firsts.append(used.min())
    assert len(set(firsts)) >= 4  # elsewhere in the year each seed, as far as there is room
