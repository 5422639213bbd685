"""Where alpha begins: E on the budgets, and as little said beside that as can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latency.space import SearchSpace
from search.budgets import Budget, params_budget
from search.costs import Costs
from search.derive import tilted
from search.knapsack import Bound, least
from search.outset import SPREAD, outset
from search.recipe import Recipe
from search.reference import PaperLoss
from search.state import start
from search.targets import Plan, make_plan, one_target


def random_costs(seed: int) -> Costs:
    rng = np.random.default_rng(seed)
    valid = rng.random((6, 5)) < 0.8
    valid[:, 0] = True
    return Costs(np.where(valid, rng.uniform(0, 5e-3, (6, 5)), 0.0), valid, 4e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.floats(0.3, 1.2))
def test_expectations_are_on_the_budget_held_to_and_within_the_others(seed: int, share: float, other: float) -> None:
    first, second = random_costs(seed), random_costs(seed)
    second = Costs(
        np.where(second.valid_LK, np.random.default_rng(seed + 1).uniform(0, 5e-3, (6, 5)), 0.0), first.valid_LK, 1e-3
    )
    fastest, slowest = first.network_s(first.fastest), first.network_s(first.slowest)
    target = fastest + share * (slowest - fastest)
    alone = np.exp(outset(one_target(first, target)))
    assert alone.sum(1) == pytest.approx(1, abs=1e-4)
    assert first.expected_s(alone) == pytest.approx(target, rel=2e-3)
    assert np.allclose(alone, tilted(first, target), atol=2e-3)
    limit = other * second.expected_s(alone)
    budgets = (Budget("a", "s", first, target, "a"), Budget("b", "s", second, limit, "b"))
    near = least(first, [Bound(second, 0.0, 0.98 * limit)])
    assume(near is not None)
    assert near is not None
    assume(first.network_s(near) < 0.98 * target)
    both = np.exp(outset(Plan(budgets, None)))
    assert second.expected_s(both) <= limit * 1.01
    assert first.expected_s(both) <= target * 1.01


def test_without_a_budget_that_binds_it_is_uniform(costs: Costs) -> None:
    plan = one_target(costs, costs.network_s(costs.slowest) * 2)
    assert plan.held is None
    assert np.exp(outset(plan)) == pytest.approx(costs.uniform_LK, abs=1e-6)


def test_the_least_probable_candidate_can_still_be_sampled(costs: Costs) -> None:
    log_p = outset(one_target(costs, costs.network_s(costs.fastest) * 1.0001))
    for block, valid in zip(log_p, costs.valid_LK, strict=True):
        assert block[valid].max() - block[valid].min() <= SPREAD + 1e-9
        assert np.all(np.isneginf(block[~valid]))


def test_a_search_begins_on_its_budgets_and_the_papers_at_none(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    target = 0.8 * costs.expected_s(costs.uniform_LK)
    parameters = params_budget(space, 1.0).costs
    plan, _, _ = make_plan(costs, target, [params_budget(space, 0.9 * parameters.expected_s(parameters.uniform_LK))])
    state = start(space, costs, num_classes=3, target_s=target, recipe=quick, seed=0, plan=plan)
    expected = state.expected_C()
    assert expected[0] == pytest.approx(target, rel=5e-3)
    assert expected[1] <= plan.budgets[1].limit * 1.005
    assert torch.isfinite(state.supernet.alpha_LK).all()
    loss = PaperLoss(target)
    paper = start(space, costs, num_classes=3, target_s=target, recipe=quick, seed=0, loss=loss)
    assert float(paper.supernet.alpha_LK.detach().abs().max()) < 0.01
