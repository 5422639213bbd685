from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.costs import Costs
from search.derive import BudgetError, derive, knapsack, random_of_equal_latency, tilted

milliseconds = st.integers(0, 40).map(lambda n: n * 0.25e-3)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, Costs]:
    """Scores and costs of 1-4 blocks of 1-4 candidates; costs collide on purpose."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    k = max(sizes)
    cost, valid, logits = np.zeros((len(sizes), k)), np.zeros((len(sizes), k), bool), np.full((len(sizes), k), -np.inf)
    for block, size in enumerate(sizes):
        cost[block, :size] = draw(st.lists(milliseconds, min_size=size, max_size=size))
        logits[block, :size] = draw(st.lists(st.floats(-3, 3), min_size=size, max_size=size))
        valid[block, :size] = True
    log_p = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    return log_p, Costs(cost, valid, draw(milliseconds))


def every(costs: Costs) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(int(n)) for n in costs.valid_LK.sum(1))))


def score(log_p: np.ndarray, indices: tuple[int, ...]) -> float:
    return float(sum(log_p[block, index] for block, index in enumerate(indices)))


@settings(max_examples=120, deadline=None)
@given(problems(), st.floats(0, 1), st.floats(0, 1))
def test_knapsack_is_the_best_of_all_networks_in_the_bounds(problem, high_share: float, low_share: float) -> None:
    log_p, costs = problem
    slowest = costs.network_s(costs.slowest)
    high = high_share * slowest * 1.05
    low = low_share * high
    inside = [i for i in every(costs) if low <= costs.network_s(i) <= high]
    found = knapsack(log_p, costs, low, high)
    if not inside:
        assert found is None
        return
    assert found is not None
    assert low <= costs.network_s(found) <= high
    assert score(log_p, found) == pytest.approx(max(score(log_p, i) for i in inside), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(0.2, 1.2))
def test_derived_networks_never_exceed_the_budget(problem, share: float) -> None:
    log_p, costs = problem
    target = max(share * costs.network_s(costs.slowest), 1e-6)
    if costs.network_s(costs.fastest) > target * (1 - 1e-9):
        with pytest.raises(BudgetError, match="fastest"):
            derive(log_p, costs, target)
        return
    derived = derive(log_p, costs, target)
    seconds = costs.network_s(derived.indices)
    assert seconds <= target
    assert derived.in_window == (seconds >= 0.97 * target)
    window = [i for i in every(costs) if 0.97 * target <= costs.network_s(i) <= target * (1 - 1e-9)]
    assert derived.in_window or not window


def test_a_budget_hit_only_within_the_solvers_tolerance_is_not_hit() -> None:
    """Two candidates 1e-8 above the budget, relatively: HiGHS alone would take them."""
    cost = np.array([[1.0, 1.0 + 2e-8], [1.0, 1.0 + 2e-8]])
    costs = Costs(cost, np.ones((2, 2), bool), 0.0)
    log_p = np.log(np.array([[0.1, 0.9], [0.1, 0.9]]))
    assert knapsack(log_p, costs, 0.0, 2.0) == (0, 0)
    assert knapsack(log_p, costs, 0.0, 2.0 + 5e-8) == (1, 1)


def test_the_window_is_preferred_over_a_likelier_but_needlessly_fast_network() -> None:
    costs = Costs(np.array([[0.5, 0.98, 1.2]]), np.ones((1, 3), bool), 0.0)
    log_p = np.log(np.array([[0.6, 0.1, 0.3]]))
    assert derive(log_p, costs, 1.0).indices == (1,)
    assert derive(log_p, costs, 1.0, floor=0.0).indices == (0,)
    assert not derive(log_p, costs, 0.9).in_window


def test_a_probability_that_underflowed_is_still_a_candidate() -> None:
    costs = Costs(np.array([[0.5, 2.0]]), np.ones((1, 2), bool), 0.0)
    assert derive(np.array([[-math.inf, 0.0]]), costs, 1.0).indices == (0,)


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(0.05, 0.95))
def test_tilted_has_the_mean_asked_for(problem, share: float) -> None:
    _, costs = problem
    fastest, slowest = costs.network_s(costs.fastest), costs.network_s(costs.slowest)
    mean = fastest + share * (slowest - fastest)
    probs = tilted(costs, mean)
    assert np.allclose(probs.sum(1), 1)
    assert np.all(probs[~costs.valid_LK] == 0)
    assert costs.expected_s(probs) == pytest.approx(mean, rel=1e-6, abs=1e-12)


def test_tilted_is_exponential_in_the_cost() -> None:
    costs = Costs(np.array([[1.0, 2.0, 4.0], [0.0, 3.0, 0.0]]), np.array([[1, 1, 1], [1, 1, 0]], bool), 0.0)
    log_p = np.log(tilted(costs, 3.0) + (~costs.valid_LK))
    mu = (log_p[0, 0] - log_p[0, 1]) / 1.0
    assert (log_p[0, 1] - log_p[0, 2]) / 2.0 == pytest.approx(mu)
    assert (log_p[1, 0] - log_p[1, 1]) / 3.0 == pytest.approx(mu)


def test_random_network_of_equal_latency() -> None:
    rng = np.random.default_rng(0)
    costs = Costs(rng.uniform(1e-3, 5e-3, (12, 5)), np.ones((12, 5), bool), 4e-3)
    like = tuple(int(i) for i in rng.integers(0, 5, 12))
    budget = costs.network_s(like) * 1.002
    drawn = {random_of_equal_latency(costs, like, budget, np.random.default_rng(seed)) for seed in range(5)}
    assert len(drawn) == 5
    for other in drawn:
        assert other != like
        assert costs.network_s(other) <= budget
        assert costs.network_s(other) == pytest.approx(costs.network_s(like), rel=0.01)
    assert random_of_equal_latency(costs, like, budget, np.random.default_rng(3)) == random_of_equal_latency(
        costs, like, budget, np.random.default_rng(3)
    )


def test_a_random_network_where_none_is_equal_is_the_nearest_in_the_budget() -> None:
    costs = Costs(np.array([[1.0, 2.0, 4.0, 9.0]]), np.ones((1, 4), bool), 0.0)
    assert random_of_equal_latency(costs, (2,), 5.0, np.random.default_rng(0)) == (1,)
    assert random_of_equal_latency(costs, (0,), 1.5, np.random.default_rng(0)) == (0,)
