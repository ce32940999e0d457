"""Losses and scores, against scikit-learn and against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss

from tidegate.tasks import metrics
from tidegate.tasks.network import non_crossing, pinball

LEVELS = [0.1, 0.5, 0.9]
NAN = float("nan")


def test_pinball_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, forecast = rng.normal(size=(40, 3)), rng.normal(size=(40, 3, 3))
    expected = [
        mean_pinball_loss(truth.ravel(), forecast[..., k].ravel(), alpha=level) for k, level in enumerate(LEVELS)
    ]
    found = pinball(torch.tensor(forecast), torch.tensor(truth), torch.tensor(LEVELS, dtype=torch.float64))
    np.testing.assert_allclose(found.mean((0, 1)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.pinball(forecast, truth, LEVELS).mean((0, 1)), expected, rtol=1e-12)


def test_pinball_is_least_at_the_quantile():
    """What the network learns by it is the quantile."""
    sample = torch.tensor(np.random.default_rng(1).exponential(size=4_001))
    tries = torch.linspace(0, 5, 2_001, dtype=torch.float64)
    for level in LEVELS:
        loss = pinball(tries[None, :, None], sample[:, None], torch.tensor([level], dtype=torch.float64)).mean((0, 2))
        assert float(tries[loss.argmin()]) == pytest.approx(float(sample.quantile(level)), abs=0.005)


@pytest.mark.parametrize("median", [0, 1, 3, 6])
def test_non_crossing(median):
    raw = torch.tensor(np.random.default_rng(2).normal(scale=5, size=(50, 7)))
    found = non_crossing(raw, median)
    assert (found.diff(dim=-1) > 0).all()
    torch.testing.assert_close(found[:, median], raw[:, median])
    gap = torch.log1p(raw.exp())  # each further level lies softplus(raw) beyond the one before
    for k in range(7):
        if k > median:
            torch.testing.assert_close(found[:, k] - found[:, k - 1], gap[:, k])
        if k < median:
            torch.testing.assert_close(found[:, k + 1] - found[:, k], gap[:, k])


def test_scores_by_hand():
    """Two forecasts of two steps; one truth is missing."""
    forecast = np.array([[[[8.0, 10, 12]], [[9, 10, 11]]], [[[0, 1, 2]], [[0, 3, 6]]]])  # (2, 2, 1, 3)
    truth = np.array([[[11.0], [14.0]], [[NAN], [0.0]]])
    scale = np.array([[2.0], [1.0]])
    found = metrics.scores(forecast, truth, LEVELS, scale)
    assert found["mae"] == pytest.approx((1 + 4 + 3) / 3)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 16 + 9) / 3))
    assert found["mase"] == pytest.approx((1 / 2 + 4 / 2 + 3 / 1) / 3)
    assert found["smape"] == pytest.approx((200 * 1 / 21 + 200 * 4 / 24 + 200 * 3 / 3) / 3)
    by_level = [
        (0.1 * 3 + 0.1 * 5 + 0.1 * 0) / 3,  # 11 above 8, 14 above 9, 0 on 0
        (0.5 * 1 + 0.5 * 4 + 0.5 * 3) / 3,
        (0.1 * 1 + 0.9 * 3 + 0.1 * 6) / 3,  # 11 below 12, 14 above 11, 0 below 6
    ]
    assert found["pinball"] == pytest.approx(np.mean(by_level))
    assert found["coverage_80"] == pytest.approx(2 / 3)  # the end of an interval belongs to it
    steps = metrics.by_horizon(forecast, truth, LEVELS, scale)
    assert steps["mae"] == pytest.approx([1, 3.5])
    assert steps["coverage_80"] == pytest.approx([1, 0.5])


def test_missing_truths_are_left_out_not_zero():
    rng = np.random.default_rng(3)
    forecast, truth = np.sort(rng.normal(size=(30, 4, 2, 3))) + 100, rng.normal(size=(30, 4, 2)) + 100
    scale = np.ones((30, 2))
    gone = truth.copy()
    gone[10:] = NAN
    assert metrics.scores(forecast, gone, LEVELS, scale) == pytest.approx(
        metrics.scores(forecast[:10], truth[:10], LEVELS, scale[:10])
    )
    nothing = metrics.scores(forecast, np.full_like(truth, NAN), LEVELS, scale)
    assert all(np.isnan(value) for value in nothing.values())


def test_edges():
    flat = metrics.scores(np.zeros((1, 1, 1, 3)), np.zeros((1, 1, 1)), LEVELS, np.zeros((1, 1)))
    assert (flat["mae"], flat["smape"], flat["coverage_80"]) == (0, 0, 1)
    assert np.isnan(flat["mase"])  # a constant series has no unit
    assert metrics.intervals([0.05, 0.1, 0.3, 0.5, 0.9, 0.95]) == [(0.05, 0.95), (0.1, 0.9)]
    assert metrics.finite({"a": [NAN, np.float32(1.5)], "b": (float("inf"), "x")}) == {
        "a": [None, 1.5],
        "b": [None, "x"],
    }


def test_block_bootstrap():
    rng = np.random.default_rng(4)
    when = np.repeat(np.arange(400), 2)
    inside = (rng.uniform(size=(800, 3)) < 0.8).astype(float)
    low, high = metrics.bootstrap_coverage(inside, when)
    assert low < inside.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.16 / inside.size), rel=0.35)
    # Errors that last make it wider: what matters is the number of independent blocks.
    lasting = np.repeat((rng.uniform(size=(20, 1)) < 0.8).astype(float), 40, 0)
    wide = metrics.bootstrap_coverage(lasting, when)
    assert wide[1] - wide[0] > 4 * (high - low)
    some = inside.copy()
    some[::3] = NAN
    low, high = metrics.bootstrap_coverage(some, when)
    assert low < np.nanmean(some) < high
