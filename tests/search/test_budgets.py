"""What counts towards a budget, how budgets are written, and what is said where they cannot be met."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import UserError
from latency.flops import macs
from latency.modules import build_network
from latency.space import SearchSpace
from search.budgets import (
    Budget,
    BudgetError,
    held_budget,
    latency_budget,
    macs_budget,
    params_budget,
    parse_count,
    parse_seconds,
    require_feasible,
    split_predictor,
)
from search.costs import Costs
from search.derive import derive_top, random_of_equal_latency
from search.targets import make_plan


def seconds(table: list[list[float]], limit: float, name: str = "a") -> Budget:
    costs = Costs(np.array(table), np.ones(np.shape(table), bool), 0.0)
    return Budget(name, "s", costs, limit, f"--predictor {name}.pkl:{limit:g}s")


def test_multiply_adds_and_parameters_are_those_of_the_network(space: SearchSpace) -> None:
    for indices in ((0, 0, 0), (3, 4, 1), (2, 3, 4)):
        ops = space.architecture(indices).ops
        assert macs_budget(space, 1e9).costs.network_s(indices) == sum(map(macs, ops))
        parameters = sum(p.numel() for p in build_network(ops).parameters())
        assert params_budget(space, 1e9).costs.network_s(indices) == parameters


@given(st.integers(1, 10**6))
def test_times_and_counts_are_read_in_their_units(n: int) -> None:
    assert parse_seconds(f"{n}ms", "--x") == pytest.approx(n * 1e-3)
    assert parse_seconds(f"{n / 10}us", "--x") == pytest.approx(n * 1e-7)
    assert parse_seconds(f" {n}.5 s", "--x") == pytest.approx(n + 0.5)
    assert parse_count(f"{n}", "--x") == n
    assert parse_count(f"{n}K", "--x") == pytest.approx(n * 1e3)
    assert parse_count(f"{n}.25M", "--x") == pytest.approx((n + 0.25) * 1e6)
    assert split_predictor(f"tables/a.pkl:{n}ms") == ("tables/a.pkl", pytest.approx(n * 1e-3))


@pytest.mark.parametrize("text", ["", "80", "80 m", "ms", "-3ms", "0ms", "nanms", "1e999s", "80ms!"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="--predictor"):
        parse_seconds(text, "--predictor")


@pytest.mark.parametrize("text", ["", "many", "3T", "-1M", "0", "nan", "1e999", "3 MB"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="--max-macs"):
        parse_count(text, "--max-macs")


def test_a_path_may_hold_a_colon() -> None:
    assert split_predictor("a.pkl") == ("a.pkl", None)
    assert split_predictor("C:a.pkl") == ("C:a.pkl", None)
    assert split_predictor("old:2/a.pkl") == ("old:2/a.pkl", None)
    assert split_predictor("old:2/a.pkl:6ms") == ("old:2/a.pkl", 6e-3)
    with pytest.raises(BudgetError, match="--predictor '80'"):
        split_predictor("a.pkl:80")


def test_a_budget_that_no_network_keeps_is_named() -> None:
    a, b = seconds([[1.0, 2.0]], 5.0), seconds([[3.0, 4.0]], 2.5, "b")
    require_feasible([a])
    with pytest.raises(BudgetError, match=r"--predictor b.pkl:2.5s: the fastest network of the space takes 3000"):
        require_feasible([a, b])


def test_budgets_that_exclude_each_other_are_named_with_the_nearest_network() -> None:
    """Fast here is slow there: 1 + 4, 2 + 2 or 4 + 1 s; both within 1.5 s is impossible, 2 and 2 is nearest."""
    a, b = seconds([[1.0, 2.0, 4.0]], 1.5), seconds([[4.0, 2.0, 1.0]], 1.5, "b")
    with pytest.raises(BudgetError) as caught:
        require_feasible([a, b])
    text = str(caught.value)
    assert "--predictor a.pkl:1.5s and --predictor b.pkl:1.5s at once" in text
    assert "--predictor a.pkl:1.5s would have to be 4000.0 ms to keep the others" in text
    assert "--predictor b.pkl:1.5s would have to be 4000.0 ms to keep the others" in text
    assert "oversteps them by 33.33% at most: 2000.0 ms, 2000.0 ms" in text
    require_feasible([seconds([[1.0, 2.0, 4.0]], 2.001), seconds([[4.0, 2.0, 1.0]], 2.001, "b")])


def test_a_count_may_be_used_up_to_the_last(space: SearchSpace) -> None:
    smallest = params_budget(space, 1.0).costs
    count = smallest.network_s(smallest.fastest)
    require_feasible([params_budget(space, count)])
    with pytest.raises(BudgetError, match="the smallest network of the space has"):
        require_feasible([params_budget(space, count - 1)])


def test_the_budget_held_to_is_the_first_that_can_be_reached() -> None:
    low, wide = seconds([[1.0, 2.0, 4.0]], 1.5, "low"), seconds([[1.0, 2.0, 4.0]], 3.0, "wide")
    assert held_budget([wide]) == 0
    assert held_budget([low, wide]) == 0
    assert held_budget([wide, low]) == 1  # what keeps `low` never takes 3 s
    assert held_budget([seconds([[1.0, 2.0, 4.0]], 4.0)]) is None


def test_a_target_that_another_budget_keeps_out_of_reach_is_told(space: SearchSpace, costs: Costs) -> None:
    target = costs.expected_s(costs.uniform_LK)
    all_macs = macs_budget(space, 1.0).costs
    small = all_macs.network_s(all_macs.fastest) * 1.2
    plan, notes, warnings = make_plan(costs, target, [macs_budget(space, small, "--max-macs small")])
    assert plan.held == 1
    assert any("does not bind: the other budgets" in w and "aiming at --max-macs small" in w for w in warnings)
    assert any(note.startswith("macs: at most") for note in notes)
    for derived in derive_top(np.zeros(costs.cost_LK.shape), plan, 0.9, 3):
        assert derived.in_window == (all_macs.network_s(derived.indices) >= 0.9 * small)
        assert all_macs.network_s(derived.indices) <= small
    free, _, _ = make_plan(costs, None, [macs_budget(space, small)])
    assert free.target_s == make_plan(costs, None)[0].target_s
    with pytest.raises(UserError, match="the smallest network of the space has"):
        make_plan(costs, None, [macs_budget(space, 10)])


def test_random_networks_keep_every_budget(space: SearchSpace, costs: Costs) -> None:
    target = costs.network_s([2, 2, 2])
    everything = params_budget(space, math.inf).costs
    budget = params_budget(space, everything.network_s([2, 2, 2]) * 0.99)
    plan, _, _ = make_plan(costs, target, [budget])
    like = derive_top(np.zeros(costs.cost_LK.shape), plan, 0.5, 1)[0].indices
    for seed in range(5):
        drawn = random_of_equal_latency(costs, like, target, np.random.default_rng(seed), plan.others)
        assert everything.network_s(drawn) <= budget.limit


def test_a_second_latency_is_a_budget_like_any_other(space: SearchSpace, costs: Costs, predictor) -> None:
    budget = latency_budget(space, type(predictor)(scale=3.0), 1.0, "slow")
    assert budget.costs.cost_LK == pytest.approx(2 * costs.cost_LK)
    assert budget.text(0.0123) == "12.30 ms"
    assert macs_budget(space, 1).text(3.2e8) == "320M multiply-adds"
