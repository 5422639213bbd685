"""Networks within the budgets: the best by alpha, and random ones of equal latency.

Costs are additive over blocks, so "most probable network within the budgets" is a multiple-choice knapsack, which
`search.knapsack` solves exactly. Taking each block's argmax, as the paper does, guarantees nothing about the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.budgets import EXACT, BudgetError, require_feasible
from search.costs import Costs, Floats
from search.knapsack import Bound, knapsack, top_k
from search.targets import Plan, one_target

__all__ = ["EXACT", "FLOOR", "BudgetError", "Derived", "derive", "derive_top", "knapsack", "random_of_equal_latency"]

FLOOR = 0.97
EQUAL = 0.01  # "equal latency" of the random network: within 1 %
DRAWS, BATCH = 200_000, 2_000


@dataclass(frozen=True)
class Derived:
    """A network, and whether it lies in the window or only below the budget."""

    indices: tuple[int, ...]
    in_window: bool


def derive(log_p_LK: Floats, costs: Costs, target_s: float, floor: float = FLOOR) -> Derived:
    """max sum_l log p_l,i(l) s.t. floor*T <= latency <= T; without the floor where no network lies in that window.

    Why a floor: the constraint alone lets a network through that is far faster than asked, when a few blocks lean
    to cheap candidates; latency left unused is accuracy left unused, and a run that was asked for 80 ms should say
    something about 80 ms. The floor never makes a run fail.
    Raises BudgetError where no network is as fast as T.
    """
    return derive_top(log_p_LK, one_target(costs, target_s), floor, 1)[0]


def derive_top(log_p_LK: Floats, plan: Plan, floor: float, k: int) -> list[Derived]:
    """The `k` most probable networks within all budgets that use at least `floor` of the one held to, best first.

    Fewer where the window holds fewer; where it holds none, the best below it. Exact: see `search.knapsack`.
    Raises BudgetError where no network is within the budgets.
    """
    held = plan.budgets[plan.held or 0]
    others = [budget.bound for budget in plan.budgets if budget is not held]
    for low in (floor * held.limit, 0.0):
        found = top_k(log_p_LK, held.costs, low, held.bound.high, k, others=others)
        if found:
            return [Derived(indices, held.costs.network_s(indices) >= floor * held.limit) for indices in found]
    require_feasible(plan.budgets)
    raise BudgetError("no network is within the budgets, by a hair's breadth")


def tilted(costs: Costs, mean_s: float) -> Floats:
    """p_lk ~ exp(-mu c_lk) with E[latency] = mean_s: (L, K), the distribution of greatest entropy with that mean.

    A mean that the space cannot have gives the nearest it can.
    """
    from scipy.optimize import brentq

    spread_s = float(np.where(costs.valid_LK, costs.cost_LK, 0).max()) or 1.0

    def probs(mu: float) -> Floats:
        logits_LK = np.where(costs.valid_LK, -mu * costs.cost_LK / spread_s, -np.inf)
        weights_LK = np.exp(logits_LK - logits_LK.max(1, keepdims=True))
        p_LK: Floats = weights_LK / weights_LK.sum(1, keepdims=True)
        return p_LK

    def error(mu: float) -> float:
        return costs.expected_s(probs(mu)) - mean_s

    if error(-1e3) <= 0:
        return probs(-1e3)
    return probs(1e3) if error(1e3) >= 0 else probs(float(brentq(error, -1e3, 1e3)))


def random_of_equal_latency(
    costs: Costs, like: Sequence[int], budget_s: float, rng: np.random.Generator, others: Sequence[Bound] = ()
) -> tuple[int, ...]:
    """A random network within 1 % of the latency of `like` and within all budgets, but not `like` itself.

    Drawn from `tilted` and accepted where it fits: without favour among networks of that latency. Where a small space
    has none within 1 %, the nearest one drawn; `like` itself only where the space has nothing else in the budget.
    """
    wanted_s, limit_s = costs.network_s(like), budget_s * (1 - EXACT)
    cumulative_LK = tilted(costs, wanted_s).cumsum(1)
    last_L = costs.valid_LK.sum(1) - 1
    best, best_gap = tuple(like), np.inf
    for _ in range(DRAWS // BATCH):
        uniform_NL1 = rng.random((BATCH, len(last_L), 1))
        draws_NL = np.minimum((uniform_NL1 >= cumulative_LK).sum(2), last_L)
        seconds_N = _totals(costs, draws_NL)
        allowed_N = (seconds_N <= limit_s) & (draws_NL != np.array(like)).any(1)
        for bound in others:
            allowed_N &= _totals(bound.costs, draws_NL) <= bound.high
        gap_N = np.where(allowed_N, abs(seconds_N / wanted_s - 1), np.inf)
        fits = np.flatnonzero(gap_N <= EQUAL)
        nearest = int(fits[0]) if len(fits) else int(gap_N.argmin())
        if gap_N[nearest] < best_gap:
            best, best_gap = tuple(int(i) for i in draws_NL[nearest]), float(gap_N[nearest])
        if best_gap <= EQUAL:
            break
    return best


def _totals(costs: Costs, draws_NL: npt.NDArray[np.int64]) -> Floats:
    """(N,) costs of N networks."""
    totals: Floats = costs.fixed_s + np.take_along_axis(costs.cost_LK[None], draws_NL[:, :, None], 2)[:, :, 0].sum(1)
    return totals
