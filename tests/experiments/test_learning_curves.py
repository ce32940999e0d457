"""The learning curves score on what no arm has seen, and their intervals are paired."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from experiments.learning_curves import classify, forecast, report, text, watch
from experiments.learning_curves.report import paired


def test_the_interval_of_paired_differences():
    a, b = {0: 3.0, 1: 5.0, 2: 4.0, 7: 0.0}, {0: 2.0, 1: 2.0, 2: 2.0, 8: 1.0}
    mean, low, high = paired(a, b)  # 1, 3, 2 over the seeds of both
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302652730 / 3**0.5)  # Student's t with two degrees of freedom
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.parametrize("scored", ["choosing", "test"])
def test_people_who_are_scored_on_do_not_train(scored):
    tested = watch._parts("test", 1.0, 0)[1].groups
    for seed in range(5):
        table, held = watch._parts(scored, 0.2, seed)
        assert not set(table["subject"].cast(pl.String)) & {*held.groups, *tested}
        assert bool(set(held.groups) & set(tested)) is (scored == "test")


def test_words_that_are_scored_on_share_no_beginning_with_those_that_train():
    tested = set(classify._parts("test", 1.0, 0)[1].groups)
    for scored in ("choosing", "test"):
        table, held = classify._parts(scored, 0.2, 1)
        assert not set(table["stem"]) & {*held.groups, *tested}
        assert bool(set(held.groups) & tested) is (scored == "test")


@pytest.mark.parametrize(("of", "name", "label"), [(watch, "sequence", "exercise"), (classify, "word", "stress")])
def test_a_larger_share_holds_the_smaller_one(of, name, label):
    def labelled(size: float) -> set:
        return set(of._parts("test", size, 3)[0].drop_nulls(label)[name])

    few, half, all_ = labelled(0.1), labelled(0.5), labelled(1.0)
    assert few < half < all_
    assert len(few) == round(0.1 * len(all_))
    table, _ = of._parts("test", 0.1, 3)
    assert set(table[name]) == all_  # the others stay, without a label


@pytest.mark.parametrize("size", text.SIZES)
def test_training_texts_stand_before_those_that_are_scored(size, monkeypatch):
    whole = np.arange(5_000_000, dtype=np.uint32)  # each place its own value
    monkeypatch.setattr(text, "_text", lambda: whole)
    firsts = []
    for seed in range(5):
        mine, chosen_on = (np.frombuffer(part, np.uint32) for part in text._parts(size, seed, "choosing"))
        again, tested = (np.frombuffer(part, np.uint32) for part in text._parts(size, seed, "test"))
        np.testing.assert_array_equal(mine, again)
        assert len(mine) == size * 1e6
        assert mine[-1] < chosen_on[0]
        assert chosen_on[-1] + 1 == tested[0]
        assert tested[-1] == whole[-1]
        firsts.append(mine[0])
    assert len(set(firsts)) == 5


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


def test_the_page_says_what_has_not_been_run(monkeypatch):
    line = {"study": "curve", "arm": "plain", "bits_per_byte": 2.0}
    lines = [line | {"size": size, "seed": seed} for size in text.SIZES for seed in range(5)]
    recipe = [one | {"arm": "recipe", "bits_per_byte": 1.9 + one["seed"] / 100} for one in lines if one["size"] < 2]
    monkeypatch.setattr(report, "read", lambda job: [*lines, *recipe[:-1]])
    page = report.section("text", text)
    assert "Not run yet, of 5 seeds each: *recipe* with 1 MB 1, *recipe* with 2 MB 5." in page
    assert "- *recipe* with 1 MB − plain with 2 MB: -0.085 (-0.106 to -0.064) (reached)." in page
    monkeypatch.setattr(report, "read", lambda job: lines)
    assert "(bits per byte; below 0 is better):\n\n- Not run yet." in report.section("text", text)
    whole = [one | {"arm": "recipe"} for one in lines]
    monkeypatch.setattr(report, "read", lambda job: lines + whole)
    assert "Not run yet" not in report.section("text", text)
