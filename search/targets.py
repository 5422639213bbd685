"""Which latency a run aims at, and what there is to say about it. numpy only, so a bad target is told at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latency.console import ms
from search.budgets import EXACT, Budget, BudgetError, held_budget, require_feasible
from search.costs import Costs
from search.knapsack import Bound, least

DEFAULT_SHARE = 0.8  # of the expected latency of a uniformly random network


@dataclass(frozen=True)
class Plan:
    """What a run is held to. `budgets[0]` is the latency target; `held` the budget that E is to equal, if any binds."""

    budgets: tuple[Budget, ...]
    held: int | None

    @property
    def costs(self) -> Costs:
        """Latency on the target's device."""
        return self.budgets[0].costs

    @property
    def target_s(self) -> float:
        """The latency target."""
        return self.budgets[0].limit

    @property
    def others(self) -> tuple[Bound, ...]:
        """All bounds but the target's."""
        return tuple(budget.bound for budget in self.budgets[1:])

    def on(self, device: str) -> Budget | None:
        """The latency budget on the device of this name, the tightest where there are several; None: there is none."""
        there = [budget for budget in self.budgets if budget.unit == "s" and budget.device == device]
        return min(there, key=lambda budget: budget.limit, default=None)

    def spent(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Name, unit, limit and the network's cost of each budget."""
        return [
            {"name": b.name, "unit": b.unit, "limit": b.limit, "cost": b.costs.network_s(indices)} for b in self.budgets
        ]


def one_target(costs: Costs, target_s: float) -> Plan:
    """The plan of a run with a latency target alone, which is not checked here."""
    budgets = (Budget("target", "s", costs, target_s, f"--target-ms {target_s * 1e3:g}"),)
    return Plan(budgets, held_budget(budgets))


def choose_target(costs: Costs, target_s: float | None) -> tuple[float, list[str], list[str]]:
    """(target in seconds, things to say, things to warn of). Raises BudgetError for a target that cannot be met."""
    plan, notes, warnings = make_plan(costs, target_s)
    return plan.target_s, notes, warnings


def make_plan(
    costs: Costs,
    target_s: float | None,
    others: Sequence[Budget] = (),
    *,
    name: str = "target",
    asked: str = "",
    device: str = "",
) -> tuple[Plan, list[str], list[str]]:
    """(plan, things to say, things to warn of). Raises BudgetError where the budgets cannot be met, alone or together.

    `device`: whose latency `costs` are.
    Without a target: 0.8 times the average random network, or the least latency that the other budgets leave.
    """
    mean_s = costs.expected_s(costs.uniform_LK)
    fastest_s, slowest_s = costs.network_s(costs.fastest), costs.network_s(costs.slowest)
    notes = [f"predicted latency: {ms(fastest_s)} to {ms(slowest_s)}, of random networks {ms(mean_s)} on average"]
    if target_s is None:
        if others:
            require_feasible(others)
            fastest = least(costs, [budget.bound for budget in others])
            assert fastest is not None, "checked above"
            fastest_s = costs.network_s(fastest)
        target_s = max(DEFAULT_SHARE * mean_s, fastest_s * (1 + 2 * EXACT))
        least_s = "" if target_s == DEFAULT_SHARE * mean_s else ", or the least that can be had"
        notes.append(f"no target given: {ms(target_s)}, {DEFAULT_SHARE} times the average random network{least_s}")
    if not math.isfinite(target_s) or target_s <= 0:
        raise BudgetError(f"--target-ms {target_s * 1e3:g}: a positive number of milliseconds is needed")
    budgets = (Budget(name, "s", costs, target_s, asked or f"--target-ms {target_s * 1e3:g}", device), *others)
    require_feasible(budgets)
    plan = Plan(budgets, held_budget(budgets))
    return plan, notes + _ranges(others), _slack(plan, slowest_s)


def _ranges(others: Sequence[Budget]) -> list[str]:
    def row(budget: Budget) -> str:
        costs = budget.costs
        ends = (costs.network_s(costs.fastest), costs.network_s(costs.slowest), costs.expected_s(costs.uniform_LK))
        low, high, mean = map(budget.text, ends)
        return f"{budget.name}: at most {budget.text(budget.limit)}; {low} to {high}, {mean} on average"

    return [row(budget) for budget in others]


def _slack(plan: Plan, slowest_s: float) -> list[str]:
    """A warning where the target is not what limits the networks."""
    if plan.held == 0:
        return []
    if plan.target_s >= slowest_s:
        why = f"the target of {ms(plan.target_s)} does not bind: the slowest network takes {ms(slowest_s)}"
    else:
        why = f"the target of {ms(plan.target_s)} does not bind: the other budgets keep networks below it"
    if plan.held is None:
        return [f"{why}; searching for accuracy alone"]
    return [f"{why}; aiming at {plan.budgets[plan.held].asked} instead"]
