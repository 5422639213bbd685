"""The knapsack under several budgets against brute force over all networks of small spaces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.costs import Costs
from search.knapsack import Bound, greatest_mean, knapsack, least, nearest, top_k

amounts = st.integers(0, 40).map(lambda n: n * 0.25)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, Costs, Costs]:
    """Scores and two unlike costs (milliseconds, millions) of 1-4 blocks of 1-4 candidates; costs collide on purpose."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shape = len(sizes), max(sizes)
    first, second, valid, score = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool), np.full(shape, -np.inf)
    for block, size in enumerate(sizes):
        first[block, :size] = draw(st.lists(amounts, min_size=size, max_size=size))
        second[block, :size] = draw(st.lists(amounts, min_size=size, max_size=size))
        score[block, :size] = draw(st.lists(st.floats(-3, 3), min_size=size, max_size=size))
        valid[block, :size] = True
    return (
        score,
        Costs(first * 1e-3, valid, draw(amounts) * 1e-3),
        Costs(second * 1e6, valid, draw(amounts) * 1e6),
    )


def every(costs: Costs) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(int(n)) for n in costs.valid_LK.sum(1))))


def total(score: np.ndarray, indices: tuple[int, ...]) -> float:
    return float(sum(score[block, index] for block, index in enumerate(indices)))


def bounds(costs: tuple[Costs, Costs], shares: tuple[float, float], low_share: float) -> tuple[Bound, Bound]:
    high = [max(1e-9, share * c.network_s(c.slowest) * 1.05) for c, share in zip(costs, shares, strict=True)]
    return Bound(costs[0], low_share * high[0], high[0]), Bound(costs[1], 0.0, high[1])


share = st.floats(0.1, 1)


@settings(max_examples=100, deadline=None)
@given(problems(), share, share, st.floats(0, 0.9), st.integers(1, 6))
def test_the_k_best_within_two_budgets_are_those_of_brute_force(
    problem, a: float, b: float, low: float, k: int
) -> None:
    score, first, second = problem
    latency, other = bounds((first, second), (a, b), low)
    inside = [i for i in every(first) if latency.holds(i) and other.holds(i)]
    found = top_k(score, first, latency.low, latency.high, k, others=[other])
    assert len(found) == len(set(found)) == min(k, len(inside))
    assert all(latency.holds(i) and other.holds(i) for i in found)
    best = sorted((total(score, i) for i in inside), reverse=True)[:k]
    assert [total(score, i) for i in found] == pytest.approx(best, abs=1e-5)
    one = knapsack(score, first, latency.low, latency.high, others=[other])
    assert one == (found[0] if found else None)


@settings(max_examples=60, deadline=None)
@given(problems(), share, share)
def test_what_is_nearest_and_least_and_greatest(problem, a: float, b: float) -> None:
    _, first, second = problem
    latency, other = bounds((first, second), (a, b), 0.0)
    ratio = {i: max(first.network_s(i) / latency.high, second.network_s(i) / other.high) for i in every(first)}
    indices, factor = nearest([latency, other])
    assert ratio[indices] == factor == pytest.approx(min(ratio.values()), rel=1e-5, abs=1e-9)
    inside = [i for i in every(first) if other.holds(i)]
    found = least(first, [other])
    if not inside:
        assert found is None
        assert greatest_mean(first, [other]) <= first.network_s(first.slowest)
        return
    assert found is not None
    assert other.holds(found)
    assert first.network_s(found) == pytest.approx(min(map(first.network_s, inside)), rel=1e-5, abs=1e-8)
    reach = greatest_mean(first, [other])  # of mixtures: no less than the slowest network inside, and a true bound
    assert max(map(first.network_s, inside)) - 1e-8 <= reach <= first.network_s(first.slowest) + 1e-8


def test_a_mixture_reaches_what_no_network_does() -> None:
    """One block, 1 s and 2 s; on the other device 1 and 3, of which 2 are allowed: the half-and-half mixture."""
    first = Costs(np.array([[1.0, 2.0]]), np.ones((1, 2), bool), 0.0)
    second = Costs(np.array([[1.0, 3.0]]), np.ones((1, 2), bool), 0.0)
    assert greatest_mean(first, [Bound(second, 0.0, 2.0)]) == pytest.approx(1.5)
    assert knapsack(np.zeros((1, 2)), first, 0.0, 9.0, others=[Bound(second, 0.0, 2.0)]) == (0,)


def test_excluded_networks_are_not_found() -> None:
    costs = Costs(np.ones((2, 2)), np.ones((2, 2), bool), 0.0)
    score = np.array([[0.0, -1.0], [0.0, -2.0]])
    assert top_k(score, costs, 0.0, 9.0, 9) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert knapsack(score, costs, 0.0, 9.0, excluded=[(0, 0), (1, 0)]) == (0, 1)
