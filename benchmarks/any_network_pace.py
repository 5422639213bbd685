"""How fast the host is now against when a table was made: 50 of the table's own networks, timed again.

A shared host changes its pace by some per cent within minutes. The first lot of drawn networks of
`latency.profile --space kernels` is the same for the same seed (0 unless told): it can be made again and timed in the
same rounds as the networks of the benchmark, and its times in the table compared.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latency.measure import Workload

Measured = dict[str, tuple[float, float]]  # network -> (seconds, half width of the interval)


def table_networks(runtime: str, seed: int = 0) -> list[Workload]:
    """The first lot that a profile of kernels with `seed` draws for `runtime`."""
    from latency.kernel_profile import LOT, drawn_networks

    return [n.workload() for n in drawn_networks(LOT, random.Random(f"{seed}/0"), runtime, set())]


def pace(measured: Mapping[str, tuple[float, float]], table: Path) -> dict[str, float]:
    """Seconds now over seconds in the table: the median over the table's networks, 10th and 90th percentile, how many.

    Empty where none of them was measured.
    """
    import numpy as np

    from latency.table import LatencyTable

    ratios = [measured[r.op][0] / r.median_s for r in LatencyTable(table).rows() if r.op in measured]
    if not ratios:
        return {}
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    return {"median": float(middle), "p10": float(low), "p90": float(high), "networks": len(ratios)}


def mean_of(runs: Sequence[Mapping[str, Any]]) -> Measured:
    """Geometric means of what several runs measured, of the networks that all have."""
    import math

    names = set(runs[0]).intersection(*runs[1:])
    found: Measured = {}
    for name in (n for n in runs[0] if n in names):
        seconds = math.exp(sum(math.log(run[name][0]) for run in runs) / len(runs))
        half = math.sqrt(sum((run[name][1] / run[name][0]) ** 2 for run in runs)) / len(runs)
        found[name] = (seconds, half * seconds)
    return found
