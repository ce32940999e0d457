"""Intervals corrected by past errors only; coverage near what is stated; paths with the right marginals."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.tasks.calibration import normal_scores, rolling, sample_paths, widen

LEVELS = [0.05, 0.1, 0.5, 0.9, 0.95]
Z = np.array([-1.645, -1.2816, 0.0, 1.2816, 1.645])


def forecasts(n: int = 400, h: int = 4, spread: float = 0.4, seed: int = 0):
    """One series, origins one step apart; truths have a standard deviation of 1, the forecasts think ``spread``."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, h, 1))
    quantiles = np.broadcast_to(spread * Z, (n, h, 1, len(Z))).copy()
    return quantiles, truth, np.arange(n)


def share(quantiles: np.ndarray, truth: np.ndarray, low: int = 1, high: int = 3) -> float:
    return float(((truth >= quantiles[..., low]) & (truth <= quantiles[..., high])).mean())


@pytest.mark.parametrize("spread", [0.4, 1.0, 3.0])
def test_coverage_comes_to_what_is_stated(spread):
    quantiles, truth, start = forecasts(1_000, spread=spread)
    corrected, _ = rolling(quantiles, truth, start, LEVELS)
    late = slice(200, None)
    assert share(corrected[late], truth[late]) == pytest.approx(0.8, abs=0.02)
    assert share(corrected[late], truth[late], 0, 4) == pytest.approx(0.9, abs=0.02)
    if spread != 1.0:
        assert share(quantiles[late], truth[late]) != pytest.approx(0.8, abs=0.1)
    assert (np.diff(corrected, axis=-1) >= 0).all()
    np.testing.assert_array_equal(corrected[..., 2], quantiles[..., 2])  # the median stays


def test_coverage_holds_when_errors_grow():
    quantiles, truth, start = forecasts(1_500, spread=1.0)
    truth *= np.linspace(1, 4, 1_500)[:, None, None]
    corrected, _ = rolling(quantiles, truth, start, LEVELS)
    late = slice(300, None)
    assert share(corrected[late], truth[late]) == pytest.approx(0.8, abs=0.03)
    assert share(quantiles[late], truth[late]) < 0.6


@pytest.mark.parametrize("now", [60, 200, 399])
def test_no_error_is_used_before_it_is_known(now):
    """A forecast from ``now`` has steps now, now + 1, ...: what happened from then on is not yet known."""
    quantiles, truth, start = forecasts()
    expected, _ = rolling(quantiles, truth, start, LEVELS)
    step = start[:, None] + np.arange(truth.shape[1])  # (n, h)
    later = np.where(step[..., None] >= now, 50.0, truth)
    found, _ = rolling(quantiles, later, start, LEVELS)
    np.testing.assert_array_equal(found[: now + 1], expected[: now + 1])
    assert now + 8 > len(start) or not np.array_equal(found[now + 5 :], expected[now + 5 :])
    if now > 50:  # and what was known is used
        known = np.where(step[..., None] == now - 1, 50.0, truth)
        assert not np.array_equal(rolling(quantiles, known, start, LEVELS)[0][now], expected[now])


def test_the_order_of_rows_does_not_matter():
    quantiles, truth, start = forecasts(200)
    expected, margins = rolling(quantiles, truth, start, LEVELS)
    mixed = np.random.default_rng(1).permutation(200)
    found, same = rolling(quantiles[mixed], truth[mixed], start[mixed], LEVELS)
    np.testing.assert_allclose(found, expected[mixed])
    np.testing.assert_allclose(same, margins)


def test_missing_truths_and_short_pasts():
    quantiles, truth, start = forecasts(300)
    truth[::3] = np.nan
    corrected, margins = rolling(quantiles, truth, start, LEVELS)
    assert np.isfinite(corrected).all()
    assert (margins > 0).all()
    seen = np.isfinite(truth[100:, :, 0]).all(1)
    assert share(corrected[100:][seen], truth[100:][seen]) == pytest.approx(0.8, abs=0.04)
    few, none = rolling(quantiles[:4], truth[:4], start[:4], LEVELS)
    np.testing.assert_array_equal(few, quantiles[:4])  # too few errors to say anything
    np.testing.assert_array_equal(none, 0)
    np.testing.assert_array_equal(rolling(quantiles, np.full_like(truth, np.nan), start, LEVELS)[0], quantiles)


def test_the_margins_are_those_of_the_next_forecast():
    """Forecasts from the future on: what the whole past says."""
    quantiles, truth, start = forecasts(300)
    _, margins = rolling(quantiles, truth, start, LEVELS)
    more, start = np.concatenate([quantiles, quantiles[:1]]), np.append(start, 10_000)
    corrected, _ = rolling(more, np.concatenate([truth, truth[:1]]), start, LEVELS)
    np.testing.assert_allclose(corrected[-1], widen(quantiles[0], margins, LEVELS))
    # 1.2816 standard deviations are wanted, 0.4 times that are there.
    np.testing.assert_allclose(margins[:, 0, 1], 0.6 * 1.2816, atol=0.15)


def test_widen_keeps_the_order():
    quantiles = np.array([-2.0, -1, 0, 1, 2])
    np.testing.assert_allclose(widen(quantiles, np.array([0.5, 1.0]), LEVELS), [-2.5, -2, 0, 2, 2.5])
    np.testing.assert_allclose(widen(quantiles, np.array([-1.5, 0.0]), LEVELS), [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(widen(quantiles, np.array([-9.0, -9.0]), LEVELS), np.zeros(5))


def test_normal_scores_say_where_the_truth_fell():
    quantiles = np.broadcast_to(10 + 2 * Z, (3, 1, 1, 5))
    truth = np.array([10.0, 12, 16]).reshape(3, 1, 1)
    np.testing.assert_allclose(normal_scores(quantiles, truth, LEVELS)[:, 0, 0], [0, 1, 3], atol=1e-3)
    assert np.isnan(normal_scores(quantiles[:1], np.full((1, 1, 1), np.nan), LEVELS)).all()


@pytest.mark.parametrize("past", [5, 300])
def test_paths_have_the_marginals_and_the_memory_of_past_errors(past):
    rng = np.random.default_rng(5)
    scores = np.repeat(rng.normal(size=(past, 1, 1)), 3, 1) + 0.2 * rng.normal(size=(past, 3, 1))
    quantiles = np.stack([5 + s * Z for s in (1.0, 2.0, 3.0)])[None, :, None]  # (1, 3, 1, Q)
    paths = sample_paths(quantiles, scores, LEVELS, 4_000, seed=0)
    assert paths.shape == (1, 4_000, 3, 1)
    found = np.quantile(paths[0, :, :, 0], LEVELS, axis=0).T
    np.testing.assert_allclose((found - quantiles[0, :, 0]) / [[1], [2], [3]], 0, atol=0.08)
    together = np.corrcoef(paths[0, :, :, 0].T)
    assert (together > 0.9).all()  # an error that was there a step ago is there still
    np.testing.assert_array_equal(paths, sample_paths(quantiles, scores, LEVELS, 4_000, seed=0))
