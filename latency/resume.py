"""What a profile goes on from: the samples that earlier sessions kept, and workloads that tie a new session to them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from latency.measure import Progress, Workload
from latency.table import LatencyTable, workload_id

KNOWN = 10  # samples of a workload that ties well


def saved(table: LatencyTable, workloads: Sequence[Workload]) -> Progress:
    """The samples that earlier sessions kept of `workloads`, by workload key, and the rows that they wrote."""
    keys = {workload_id(w.key): w.key for w in workloads}
    progress = Progress(told={row.op: (row.n, row.median_s) for row in table.rows() if workload_id(row.op) in keys})
    for _, round_, workload, seconds in table.samples():
        if workload in keys:
            progress.add(keys[workload], round_, seconds)
    progress.told_rounds = progress.next_round
    return progress


def ties(finished: Sequence[Workload], progress: Progress, n: int, rng: random.Random) -> list[Workload]:
    """`n` of the `finished` workloads, to be timed again beside those that are left.

    Few workloads left over say nothing of what hits a round as a whole, and new ones have no rounds in common with what
    was measured before: timed with others that have, both are on one scale. Those with KNOWN samples come first.
    """
    shuffled = rng.sample(list(finished), len(finished))
    return sorted(shuffled, key=lambda w: len(progress.samples.get(w.key, ())) < KNOWN)[:n]
