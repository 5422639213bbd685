"""What each candidate costs: the predictor asked once, then plain arithmetic. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from devices.errors import UserError
from latency.ops import Op
from latency.space import SearchSpace

Floats = npt.NDArray[np.float64]


class CostError(UserError):
    """A predicted time that is not a time."""


class Predictor(Protocol):
    """The part of latency.predictor.LatencyPredictor that the search uses."""

    @property
    def device(self) -> str:
        """Name of the device whose times it tells, as its device file is called."""
        ...

    @property
    def constant_s(self) -> float:
        """Seconds of every network that belong to no op."""
        ...

    @property
    def scale(self) -> float:
        """Factor from the sum of op times to a network's time."""
        ...

    def predict_s(self, ops: Sequence[Op]) -> Floats:
        """F(op) in seconds, (n,). Raises UnsupportedOp."""
        ...

    def network_s(self, ops: Sequence[Op]) -> tuple[float, float]:
        """Seconds of a whole network, and their standard error."""
        ...

    def covers(self, op: Op) -> bool:
        """Whether `op` lies inside what was measured."""
        ...


@dataclass(frozen=True)
class Costs:
    """`network_s(indices) = fixed_s + sum_l cost_LK[l, indices[l]]`; cost 0 where `valid_LK` is False.

    Seconds, as the names say; where a `search.budgets.Budget` holds them, in the unit of that budget.
    """

    cost_LK: Floats
    valid_LK: npt.NDArray[np.bool_]
    fixed_s: float

    def network_s(self, indices: Sequence[int]) -> float:
        """Predicted seconds of one network."""
        return self.fixed_s + float(sum(self.cost_LK[block, index] for block, index in enumerate(indices)))

    def expected_s(self, probs_LK: Floats) -> float:
        """E[latency] in seconds of networks drawn from `probs_LK`."""
        return self.fixed_s + float((probs_LK * self.cost_LK).sum())

    @property
    def fastest(self) -> list[int]:
        """The network with the least predicted latency."""
        return [int(i) for i in np.where(self.valid_LK, self.cost_LK, np.inf).argmin(1)]

    @property
    def slowest(self) -> list[int]:
        """The network with the greatest predicted latency."""
        return [int(i) for i in np.where(self.valid_LK, self.cost_LK, -np.inf).argmax(1)]

    @property
    def uniform_LK(self) -> Floats:
        """The probabilities of a uniformly random network."""
        uniform: Floats = self.valid_LK / self.valid_LK.sum(1, keepdims=True)
        return uniform


def make_costs(space: SearchSpace, predictor: Predictor) -> Costs:
    """cost_LK = scale * F(op), 0 for free ops; fixed_s = constant_s + scale * sum F(stem and head).

    F is evaluated once, for all distinct ops together. Raises UnsupportedOp for an op the predictor has no model of,
    CostError for a prediction that is negative or not a number.
    """
    ops = space.unique_ops()
    seconds = dict(zip(ops, np.asarray(predictor.predict_s(ops), dtype=np.float64) * predictor.scale, strict=True))
    for op, predicted_s in seconds.items():
        if not 0 <= predicted_s < np.inf:
            raise CostError(f"{op}: the predictor gives {predicted_s} s, which is not a time")

    return op_costs(space, lambda op: float(seconds[op]), predictor.constant_s)


def op_costs(space: SearchSpace, cost: Callable[[Op], float], constant: float = 0.0) -> Costs:
    """Costs of anything that adds up over ops, in the unit of `cost`, which is asked once for each op not free."""
    known = {op: cost(op) for op in space.unique_ops()}
    shape = len(space.choices), max(len(c.candidates) for c in space.choices)
    cost_LK, valid_LK = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for block, choice in enumerate(space.choices):
        cost_LK[block, : len(choice.candidates)] = [known.get(op, 0.0) for op in choice.candidates]
        valid_LK[block, : len(choice.candidates)] = True
    return Costs(cost_LK, valid_LK, constant + sum(known.get(op, 0.0) for op in space.fixed_ops))
