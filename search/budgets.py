"""Budgets: what a network may cost. The first is the latency target; others are latencies, multiply-adds, parameters.

Every one adds up over the ops of a network, so the search, the derivation and the questions below treat them alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from devices.errors import UserError
from latency.console import ms
from latency.ops import Op
from latency.space import SearchSpace
from search.costs import Costs, Predictor, make_costs, op_costs
from search.knapsack import Bound, greatest_mean, least, nearest

EXACT = 1e-9  # relative: sums of the same floats in another order must not cross the budget
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*"


class BudgetError(UserError):
    """No network of the space is within the budgets, or a text is not a budget."""


@dataclass(frozen=True)
class Budget:
    """Networks may cost at most `limit`, in the unit of `costs`. `asked` is what the user typed, for messages.

    `device`: the one that seconds are of; empty where not stated.
    """

    name: str  # "pixel1", "macs", "params"
    unit: str  # "s", "multiply-adds", "parameters"
    costs: Costs
    limit: float
    asked: str
    device: str = ""

    @property
    def bound(self) -> Bound:
        """The limit as the derivation keeps it: seconds short of it by a billionth; counts are exact."""
        return Bound(self.costs, 0.0, self.limit * (1 - EXACT) if self.unit == "s" else self.limit)

    def text(self, value: float) -> str:
        """`value` with its unit."""
        if self.unit == "s":
            return ms(value)
        return f"{short_count(value)} {self.unit}"


def latency_budget(space: SearchSpace, predictor: Predictor, limit_s: float, name: str, asked: str = "") -> Budget:
    """At most `limit_s` on the device of `predictor`. Raises UnsupportedOp, CostError."""
    costs = make_costs(space, predictor)
    return Budget(name, "s", costs, limit_s, asked or f"{name}: {ms(limit_s)}", predictor.device)


def macs_budget(space: SearchSpace, limit: float, asked: str = "") -> Budget:
    """At most `limit` multiply-adds of one inference (what papers on mobile networks call FLOPs)."""
    from latency.flops import macs

    return Budget("macs", "multiply-adds", op_costs(space, _asking(macs)), limit, asked or f"macs: {limit:g}")


def params_budget(space: SearchSpace, limit: float, asked: str = "") -> Budget:
    """At most `limit` parameters, as torch counts them in the network deployed: batch norm has two a channel."""
    import torch

    from latency.modules import build

    def count(op: Op) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(op).parameters())

    return Budget("params", "parameters", op_costs(space, _asking(count)), limit, asked or f"params: {limit:g}")


def _asking(count: Callable[[Op], int]) -> Callable[[Op], float]:
    def cost(op: Op) -> float:
        try:
            return float(count(op))
        except TypeError as error:
            raise BudgetError(f"{op}: {error}; a budget of multiply-adds or parameters cannot count it") from None

    return cost


def parse_seconds(text: str, option: str) -> float:
    """ "80ms", "0.08s" or "800us" in seconds. Raises BudgetError naming `option`."""
    match = re.fullmatch(_NUMBER + "(ms|us|s)", text.strip())
    value = float(match[1]) * SECONDS[match[2]] if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise BudgetError(f"{option} '{text}': a time above 0 with its unit is needed, like 80ms, 0.08s or 800us")
    return value


def parse_count(text: str, option: str) -> float:
    """ "300M", "1.5G" or "5000000". Raises BudgetError naming `option`."""
    match = re.fullmatch(_NUMBER + "([KMGB]?)", text.strip())
    value = float(match[1]) * COUNTS[match[2]] if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise BudgetError(f"{option} '{text}': a number above 0 is needed, like 300M, 1.5G or 5000000")
    return value


def short_count(value: float) -> str:
    """ "300M": what `parse_count` reads, to four digits."""
    factor, letter = (1e9, "G") if value >= 1e9 else (1e6, "M") if value >= 1e6 else (1e3, "K")
    return f"{value / factor:.4g}{letter}"


def split_predictor(text: str) -> tuple[str, float | None]:
    """ "a.pkl:80ms" as ("a.pkl", 0.08); without a limit, None. What follows the last colon is a limit if it has a digit
    first: a path may hold colons."""
    path, colon, limit = text.rpartition(":")
    if colon and re.match(r"[-+.]?[0-9]", limit) and "/" not in limit and "\\" not in limit:
        return path, parse_seconds(limit, "--predictor")
    return text, None


def held_budget(budgets: Sequence[Budget]) -> int | None:
    """The number of the budget that the search aims at: the first that it could overstep while keeping all others.

    That is the latency target, unless another budget keeps every network below it. None where no budget binds.
    """
    for number, budget in enumerate(budgets):
        others = [other.bound for other in budgets if other is not budget]
        if greatest_mean(budget.costs, others) > budget.limit:
            return number
    return None


def require_feasible(budgets: Sequence[Budget]) -> None:
    """Raise BudgetError where no network is within all budgets: which cannot be met, and how near one can come."""
    for budget in budgets:
        smallest = budget.costs.network_s(budget.costs.fastest)
        if smallest > budget.bound.high:
            what = "fastest" if budget.unit == "s" else "smallest"
            verb = "takes" if budget.unit == "s" else "has"
            raise BudgetError(f"{budget.asked}: the {what} network of the space {verb} {budget.text(smallest)}")
    bounds = [budget.bound for budget in budgets]
    if len(budgets) == 1 or least(budgets[0].costs, bounds) is not None:
        return
    parts = []
    for budget in budgets:
        found = least(budget.costs, [other.bound for other in budgets if other is not budget])
        if found is not None:
            parts.append(
                f"{budget.asked} would have to be {budget.text(budget.costs.network_s(found))} to keep the others"
            )
    indices, factor = nearest(bounds)
    near = ", ".join(budget.text(budget.costs.network_s(indices)) for budget in budgets)
    raise BudgetError(
        f"no network is within {' and '.join(b.asked for b in budgets)} at once"
        + "".join(f"; {part}" for part in parts)
        + f"; the nearest network oversteps them by {factor - 1:.2%} at most: {near}"
    )
