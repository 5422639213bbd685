from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.stats import (
    half_to_half,
    half_width,
    mape,
    median_ci,
    round_factors,
    spearman,
    time_mean,
    time_mean_half_width,
    widened,
)


def test_interval_ranks_by_hand():
    """n = 100: ranks 50 - 9.8 = 40.2 -> 40 and 51 + 9.8 = 60.8 -> 61 (1-based)."""
    assert median_ci(np.arange(1.0, 101.0)) == (40.0, 61.0)


def test_too_few_samples_have_no_interval():
    assert median_ci(np.ones(5)) == (-math.inf, math.inf)
    assert half_width(np.ones(5)) == math.inf


@pytest.mark.parametrize("n", [10, 14, 39, 100])
def test_coverage_is_at_least_nominal(n):
    rng = np.random.default_rng(n)
    hits = [low <= 1.0 <= high for low, high in (median_ci(np.exp(rng.normal(0, 0.3, n))) for _ in range(2000))]
    assert np.mean(hits) >= 0.94


@given(st.lists(st.floats(1e-6, 1e3), min_size=6, max_size=80))
def test_interval_holds_the_median(values):
    low, high = median_ci(np.array(values))
    assert low <= np.median(values) <= high


def test_round_factors_are_recovered():
    rng = np.random.default_rng(0)
    truth, factors = rng.uniform(1, 20, 40), np.r_[2.0, rng.uniform(0.9, 1.1, 30)]
    samples = truth[:, None] * factors * np.exp(rng.normal(0, 0.05, (40, 31)))
    found = round_factors(samples)
    assert found.shape == samples.shape
    assert np.allclose(found / np.median(found), factors / np.median(factors), rtol=0.06)
    assert time_mean(np.median(found, axis=0)) == pytest.approx(1)


@given(st.integers(8, 13), st.integers(0, 99))
def test_a_workload_has_no_say_in_its_own_factor(n, seed):
    rng = np.random.default_rng(seed)
    samples = np.exp(rng.normal(0, 0.3, (n, 1)))
    samples[rng.permutation(n)[: n - 8]] = np.nan
    values = samples / 1.0
    from latency.stats import _median_of_others

    for w in np.flatnonzero(~np.isnan(values[:, 0])):
        assert _median_of_others(values)[w, 0] == pytest.approx(np.nanmedian(np.delete(values[:, 0], w)))


def test_few_workloads_say_nothing_of_a_common_factor():
    samples = np.array([[1.0, 5.0], [1.0, 5.0]])
    assert (round_factors(samples) == 1).all()


def test_missing_visits_are_allowed():
    samples = np.ones((20, 5))
    samples[3, 2:] = np.nan
    samples[:, 4] = 3.0
    assert np.allclose(round_factors(samples)[0], [1, 1, 1, 1, 3])


def rounds_in(speed_of, until_s, rng):
    """Factors of rounds that take 10 s at full speed."""
    found, now = [], 0.0
    while now < until_s:
        found.append(speed_of(now) * float(np.exp(rng.normal(0, 0.01))))
        now += 10 * found[-1]
    return np.array(found)


def swing(t):
    return 1 + 0.2 * math.sin(2 * math.pi * t / 200)


def test_slow_times_hold_fewer_rounds_and_the_mean_over_time_knows():
    factors = rounds_in(swing, 20_000, np.random.default_rng(0))
    assert np.median(factors) < 0.97
    assert factors.mean() < 0.985
    assert time_mean(factors) == pytest.approx(1, abs=0.012)
    assert time_mean(np.r_[2.0, factors[:40]]) == pytest.approx(time_mean(factors[:40]), abs=0.01), "a slow first round"


@pytest.mark.parametrize("n_s", [600, 1000, 3000])
def test_the_interval_of_the_mean_over_time_holds_it(n_s):
    rng, inside = np.random.default_rng(0), []
    for _ in range(200):
        start = rng.uniform(0, 200)
        factors = rounds_in(lambda t, start=start: swing(start + t), n_s, rng)
        inside.append(abs(time_mean(factors) - 1) <= time_mean_half_width(factors))
    assert np.mean(inside) >= 0.9


def test_independent_rounds_have_the_interval_of_a_mean():
    rng = np.random.default_rng(0)
    halves = [time_mean_half_width(1 + rng.normal(0, 0.05, 100)) for _ in range(200)]
    assert 0.7 * 1.96 * 0.005 < np.mean(halves) < 1.3 * 1.96 * 0.005
    assert time_mean_half_width(np.ones(3)) == 0
    assert time_mean_half_width(np.ones(0)) == 0


def test_an_interval_is_widened_by_a_common_factor_and_stays_above_zero():
    assert widened((0.9, 1.1), 1.0, 0.0) == (0.9, 1.1)
    low, high = widened((math.exp(-0.03), math.exp(0.03)), 1.0, 0.04)
    assert (low, high) == pytest.approx((math.exp(-0.05), math.exp(0.05)))
    assert widened((0.5, 2.0), 1.0, 3.0)[0] > 0
    assert widened((-math.inf, math.inf), 1.0, 0.1) == (-math.inf, math.inf)


def test_errors_and_ranks():
    assert mape(np.array([1.1, 0.9]), np.array([1.0, 1.0])) == pytest.approx(0.1)
    assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1]), np.array([3.0, 2])) == 0
    assert half_to_half(np.array([1.0, 1, 2, 2])) == pytest.approx(1.0)
