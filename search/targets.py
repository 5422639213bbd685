"""Which latency a run aims at, and what there is to say about it. numpy only, so a bad target is told at once."""

from __future__ import annotations

import math

from latency.console import ms
from search.costs import Costs
from search.derive import EXACT, BudgetError

DEFAULT_SHARE = 0.8  # of the expected latency of a uniformly random network


def choose_target(costs: Costs, target_s: float | None) -> tuple[float, list[str], list[str]]:
    """(target in seconds, things to say, things to warn of). Raises BudgetError for a target that cannot be met."""
    mean_s = costs.expected_s(costs.uniform_LK)
    fastest_s, slowest_s = costs.network_s(costs.fastest), costs.network_s(costs.slowest)
    notes = [f"predicted latency: {ms(fastest_s)} to {ms(slowest_s)}, of random networks {ms(mean_s)} on average"]
    if target_s is None:
        target_s = max(DEFAULT_SHARE * mean_s, fastest_s * (1 + 2 * EXACT))
        notes.append(f"no target given: {ms(target_s)}, {DEFAULT_SHARE} times the average random network")
    if not math.isfinite(target_s) or target_s <= 0:
        raise BudgetError(f"--target-ms {target_s * 1e3:g}: a positive number of milliseconds is needed")
    if fastest_s > target_s * (1 - EXACT):
        raise BudgetError(f"--target-ms {target_s * 1e3:g}: the fastest network of the space takes {ms(fastest_s)}")
    if target_s < slowest_s:
        return target_s, notes, []
    return (
        target_s,
        notes,
        [
            f"the target of {ms(target_s)} does not bind: the slowest network takes {ms(slowest_s)}; "
            "searching for accuracy alone"
        ],
    )
