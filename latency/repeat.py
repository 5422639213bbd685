"""Between-session variance: ~5 % of the workloads measured again in sessions opened anew.

An interval of the median tells of one session: one placement in memory, one state of the caches and clocks. What
changes from session to session is not in it, and is reported beside it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from devices.base import FEWEST
from latency.console import Report
from latency.measure import Measurement, Policy, Progress, Workload, prepare, run_rounds

if TYPE_CHECKING:
    from devices.base import Device

SHARE = 0.05


@dataclass(frozen=True)
class BetweenSessions:
    """Second session against the first, as fractions."""

    n: int
    shift: float  # common to all: the host was slower (+) or faster (-) the second time
    spread: float  # median over the workloads of |ratio / common ratio - 1|
    worst: float  # the largest of these
    noise: float  # what the half-widths of both intervals alone would make of `spread`, in the middle

    def as_dict(self) -> dict[str, Any]:
        """For the table's provenance."""
        return {k: v if isinstance(v, int) else round(v, 5) for k, v in asdict(self).items()}


def choose(workloads: Sequence[Workload], rng: random.Random, width: int = 1) -> list[Workload]:
    """SHARE of `workloads`, at least FEWEST for each of the `width` phones that share them, ops and networks alike."""
    return rng.sample(list(workloads), min(len(workloads), max(FEWEST * width, math.ceil(SHARE * len(workloads)))))


def compare(first_s: Mapping[str, float], second: Sequence[Measurement]) -> BetweenSessions | None:
    """`second` against the medians `first_s`; None where fewer than three workloads have an interval."""
    known = [m for m in second if m.key in first_s and math.isfinite(m.ci_s[0])]
    if len(known) < 3:
        return None
    ratio = np.array([m.median_s / first_s[m.key] for m in known])
    off = np.abs(ratio / np.median(ratio) - 1)
    # Half-width of a 95 % interval -> standard error (1.96) -> median of |difference of two| (0.6745 sqrt 2).
    noise = [m.half_width / 1.96 * 0.6745 * math.sqrt(2) for m in known]
    return BetweenSessions(
        len(known), float(np.median(ratio) - 1), float(np.median(off)), float(off.max()), float(np.median(noise))
    )


def repeat(
    device: Device,
    workloads: Sequence[Workload],
    first_s: Mapping[str, float],
    policy: Policy,
    rng: random.Random,
    report: Report,
) -> BetweenSessions | None:
    """Open sessions for a few of `workloads` anew, time them within `policy`, and compare with `first_s`.

    A workload that fails the second time is left out: it is in the table already.
    """
    chosen = choose([w for w in workloads if w.key in first_s], rng, int(getattr(device, "width", 1)))
    sessions, _ = prepare(device, chosen, lambda *_: None)
    try:
        second = run_rounds(
            sessions,
            chosen,
            policy,
            rng,
            Progress(),
            on_round=lambda *_: None,
            on_done=lambda _: None,
            on_failed=lambda *_: None,
            report=report,
        )
    finally:
        for session in sessions.values():
            session.close()
    return compare(first_s, second)
