"""The multiple-choice knapsack, exactly: the best candidate of each block under any number of budgets.

Every budget adds up over blocks (seconds on a device, multiply-adds, parameters), so the best network within them all
is a small integer programme, which `scipy.optimize.milp` (HiGHS) solves in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.costs import Costs, Floats

LOG_P_MIN = -60.0  # a probability that underflowed to 0 is still a candidate, only the last to be taken
TOLERANCE = 1e-6  # of HiGHS, on rows scaled to a bound of 1
MAX_CUTS = 30

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """low <= costs of the network <= high, in the unit of `costs`."""

    costs: Costs
    low: float
    high: float

    def holds(self, indices: Sequence[int]) -> bool:
        """In exact arithmetic, as far as float sums are."""
        return self.low <= self.costs.network_s(indices) <= self.high


def knapsack(
    score_LK: Floats,
    costs: Costs,
    low_s: float,
    high_s: float,
    *,
    others: Sequence[Bound] = (),
    excluded: Sequence[Sequence[int]] = (),
) -> Indices | None:
    """The candidates that maximise sum of `score_LK` with low_s <= latency <= high_s and within `others`.

    None where there are none. The networks in `excluded` are not considered. The solver works to a tolerance of
    1e-6: a solution that misses a bound in exact arithmetic is cut off by a constraint of its own and the rest is
    solved again, so the answer is the exact optimum within the bounds. Should that happen MAX_CUTS times, the bounds
    are drawn in by twice the tolerance instead.
    """
    bounds = (Bound(costs, low_s, high_s), *others)
    problem = _Problem(costs)
    score = np.maximum(problem.flat(score_LK), LOG_P_MIN)
    cuts = [problem.cut(indices) for indices in excluded]
    for attempt in range(MAX_CUTS + 1):
        slack = 2 * TOLERANCE if attempt == MAX_CUTS else 0.0
        x = problem.solve(-score, [*(problem.row(b, slack) for b in bounds), *cuts])
        if x is None:
            return None
        indices = problem.indices(x)
        if all(bound.holds(indices) for bound in bounds):
            return indices
        cuts.append(problem.cut(indices))
    return None


def top_k(
    score_LK: Floats, costs: Costs, low_s: float, high_s: float, k: int, *, others: Sequence[Bound] = ()
) -> list[Indices]:
    """The `k` best networks within the bounds, best first, each found by forbidding those before; fewer if need be."""
    found: list[Indices] = []
    while len(found) < k:
        indices = knapsack(score_LK, costs, low_s, high_s, others=others, excluded=found)
        if indices is None:
            break
        found.append(indices)
    return found


def least(costs: Costs, within: Sequence[Bound]) -> Indices | None:
    """The network of least cost within the bounds; None where there is none."""
    # Not `knapsack`: its scores are cut off at LOG_P_MIN.
    scale = float(costs.cost_LK.max()) or 1.0
    return knapsack(-costs.cost_LK / scale, costs, 0.0, np.inf, others=within)


def greatest_mean(costs: Costs, within: Sequence[Bound]) -> float:
    """The greatest expected cost of a distribution over networks whose expected costs keep the bounds.

    What the search can reach: it works on expectations. -inf where no distribution keeps the bounds.
    """
    problem = _Problem(costs)
    scale = float(costs.cost_LK.max()) or 1.0
    x = problem.solve(-problem.flat(costs.cost_LK) / scale, [problem.row(b, 0.0) for b in within], whole=False)
    return -np.inf if x is None else costs.fixed_s + float(problem.flat(costs.cost_LK) @ x)


def nearest(bounds: Sequence[Bound]) -> tuple[Indices, float]:
    """(network, factor): all upper bounds, multiplied by the least factor at which a network fits; low is ignored."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, hstack

    problem = _Problem(bounds[0].costs)
    n = problem.n
    one_each = LinearConstraint(hstack([problem.one_each, csr_array((len(problem.valid_LK), 1))]), 1, 1)
    rows = [one_each]
    for bound in bounds:
        row = np.append(problem.flat(bound.costs.cost_LK), -bound.high)[None, :] / bound.high
        rows.append(LinearConstraint(row, -np.inf, -bound.costs.fixed_s / bound.high))
    result = milp(
        np.append(np.zeros(n), 1.0),
        integrality=np.append(np.ones(n), 0),
        bounds=Bounds(0, np.append(np.ones(n), np.inf)),
        constraints=rows,
    )
    assert result.x is not None, "a factor always exists"
    indices = problem.indices(result.x[:n])
    return indices, max(b.costs.network_s(indices) / b.high for b in bounds)


class _Problem:
    """One variable for each candidate that exists; exactly one of a block is taken."""

    def __init__(self, costs: Costs) -> None:
        from scipy.sparse import csr_array

        self.valid_LK = costs.valid_LK
        self.blocks, self.columns = np.nonzero(costs.valid_LK)
        self.n = len(self.blocks)
        self.one_each: Any = csr_array(
            (np.ones(self.n), (self.blocks, np.arange(self.n))), shape=(len(costs.valid_LK), self.n)
        )

    def flat(self, values_LK: Floats) -> Floats:
        """(n,) values of the candidates that exist."""
        values: Floats = values_LK[self.blocks, self.columns]
        return values

    def row(self, bound: Bound, slack: float) -> Any:
        """`bound`, drawn in by `slack`, on rows scaled to an upper bound of 1."""
        from scipy.optimize import LinearConstraint

        costs = bound.costs
        unit = max(bound.high, 1e-12) if bound.high < np.inf else float(costs.cost_LK.max()) or 1.0
        low, high = (bound.low - costs.fixed_s) / unit, (bound.high - costs.fixed_s) / unit
        return LinearConstraint((self.flat(costs.cost_LK) / unit)[None, :], low + slack, high - slack)

    def cut(self, indices: Sequence[int]) -> Any:
        """Not this network."""
        from scipy.optimize import LinearConstraint

        taken = np.asarray(indices)[self.blocks] == self.columns
        return LinearConstraint(taken[None, :].astype(float), -np.inf, len(indices) - 1)

    def solve(self, objective: Floats, rows: Sequence[Any], *, whole: bool = True) -> Floats | None:
        """The (n,) variables that minimise `objective`; None where no choice keeps the rows."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        result = milp(
            objective,
            integrality=np.ones(self.n) if whole else np.zeros(self.n),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(self.one_each, 1, 1), *rows],
            options={"mip_rel_gap": 0.0},
        )
        x: Floats | None = result.x
        return x

    def indices(self, x: Floats) -> Indices:
        """The network that `x` takes."""
        indices = tuple(int(i) for i in self.columns[x > 0.5])
        assert len(indices) == len(self.valid_LK), "the solver took more or less than one candidate of a block"
        return indices
