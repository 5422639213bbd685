"""Networks under a latency budget: the best one by alpha, and random ones of equal latency.

Latency is additive over blocks, so "most probable network within the budget" is a multiple-choice knapsack, which
`scipy.optimize.milp` solves exactly in milliseconds. Taking each block's argmax, as the paper does, guarantees
nothing about the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from devices.errors import UserError
from latency.console import ms
from search.costs import Costs, Floats

FLOOR = 0.97
LOG_P_MIN = -60.0  # a probability that underflowed to 0 is still a candidate, only the last to be taken
EXACT = 1e-9  # relative: sums of the same floats in another order must not cross the budget
TOLERANCE = 1e-6  # of HiGHS, on rows scaled to a budget of 1
MAX_CUTS = 30
EQUAL = 0.01  # "equal latency" of the random network: within 1 %
DRAWS, BATCH = 200_000, 2_000


class BudgetError(UserError):
    """No network of the space meets the latency asked for."""


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
    budget_s = target_s * (1 - EXACT)
    for low_s in (floor * target_s, 0.0):
        indices = knapsack(log_p_LK, costs, low_s, budget_s)
        if indices is not None:
            return Derived(indices, costs.network_s(indices) >= floor * target_s)
    fastest_s = costs.network_s(costs.fastest)
    raise BudgetError(f"no network runs in {ms(target_s)}: the fastest of the space takes {ms(fastest_s)}")


def knapsack(score_LK: Floats, costs: Costs, low_s: float, high_s: float) -> tuple[int, ...] | None:
    """The candidates that maximise sum of `score_LK` with low_s <= latency <= high_s; None where there are none.

    The solver works to a tolerance of 1e-6. A solution that misses the bounds in exact arithmetic is cut off by a
    constraint of its own and the rest is solved again, so the answer is the exact optimum within the bounds. Should
    that happen MAX_CUTS times, the bounds are drawn in by twice the tolerance instead.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    blocks, columns = np.nonzero(costs.valid_LK)
    n = len(blocks)
    score = np.maximum(score_LK[blocks, columns], LOG_P_MIN)
    unit_s = max(high_s, 1e-12)
    one_each = csr_array((np.ones(n), (blocks, np.arange(n))), shape=(len(costs.valid_LK), n))
    relative = (costs.cost_LK[blocks, columns] / unit_s)[None, :]
    low, high = (low_s - costs.fixed_s) / unit_s, (high_s - costs.fixed_s) / unit_s
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(relative, low, high)]
    for attempt in range(MAX_CUTS + 1):
        if attempt == MAX_CUTS:
            constraints[1] = LinearConstraint(relative, low + 2 * TOLERANCE, high - 2 * TOLERANCE)
        result = milp(
            -score, integrality=np.ones(n), bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": 0.0}
        )
        if result.x is None:
            return None
        taken = np.flatnonzero(result.x > 0.5)
        indices = tuple(int(i) for i in columns[taken])
        assert len(indices) == len(costs.valid_LK), "the solver took more or less than one candidate of a block"
        if low_s <= costs.network_s(indices) <= high_s:
            return indices
        cut = np.zeros((1, n))
        cut[0, taken] = 1
        constraints.append(LinearConstraint(cut, -np.inf, len(indices) - 1))
    return None


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
    costs: Costs, like: Sequence[int], budget_s: float, rng: np.random.Generator
) -> tuple[int, ...]:
    """A random network within 1 % of the latency of `like` and within the budget, but not `like` itself.

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
        seconds_N = costs.fixed_s + np.take_along_axis(costs.cost_LK[None], draws_NL[:, :, None], 2)[:, :, 0].sum(1)
        gap_N = np.where(
            (seconds_N <= limit_s) & (draws_NL != np.array(like)).any(1), abs(seconds_N / wanted_s - 1), np.inf
        )
        fits = np.flatnonzero(gap_N <= EQUAL)
        nearest = int(fits[0]) if len(fits) else int(gap_N.argmin())
        if gap_N[nearest] < best_gap:
            best, best_gap = tuple(int(i) for i in draws_NL[nearest]), float(gap_N[nearest])
        if best_gap <= EQUAL:
            break
    return best
