"""What this machine was doing while it timed: load, frequency, steal time; and advice on it, in pyperf's manner."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latency.console import ms
from latency.stats import MIN_FOR_CI

if TYPE_CHECKING:
    from latency.table import Row

BUSY = 0.10  # share of the cores in other processes' hands, or stolen, from which it is worth a word
STOLEN = 0.02


def host_state() -> dict[str, Any]:
    """This moment: load average, cores, frequency where the host tells it, free memory."""
    import psutil

    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):  # not told in some containers
        frequency = None
    return {
        "load_1min": round(psutil.getloadavg()[0], 2),
        "cores": psutil.cpu_count(),
        "mhz": round(frequency.current) if frequency else None,
        "free_gib": round(psutil.virtual_memory().available / 2**30, 1),
    }


class HostWatch:
    """How the machine's processor time was shared between `HostWatch()` and `facts()`."""

    def __init__(self) -> None:
        self._start = self._now()

    def facts(self) -> dict[str, Any]:
        """`host_state`, and as shares of all cores since the start: `steal` (taken by the hypervisor, None where it
        is not told), `own` (this process and its children), `others`."""
        wall, own, busy, steal = (b - a for a, b in zip(self._start, self._now(), strict=True))
        state = host_state()
        capacity = max(wall * (state["cores"] or 1), 1e-9)

        def share(seconds: float) -> float:
            return round(min(max(seconds / capacity, 0.0), 1.0), 3)

        told = not math.isnan(steal)
        return {**state, "steal": share(steal) if told else None, "own": share(own), "others": share(busy - own)}

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        """(wall, own, busy of all processes, stolen) seconds so far."""
        import psutil

        host, own = psutil.cpu_times(), psutil.Process().cpu_times()
        busy = sum(getattr(host, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        own_s = own.user + own.system + own.children_user + own.children_system
        return time.monotonic(), own_s, busy, getattr(host, "steal", math.nan)


def advice(
    rows: Sequence[Row],
    target: float,
    budget_s: float,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    between: Mapping[str, Any] | None = None,
    governor: str = "",
    on_this_host: bool = True,
) -> list[str]:
    """Lines for the user: what makes these measurements less sure than asked for, and what would help.

    `before` and `after` are `host_state()` and `HostWatch.facts()`; `between` is what `repeat` found. Empty: all well.
    """
    said: list[str] = []
    noisy = [r for r in rows if "noisy" in r.flags and r.n >= MIN_FOR_CI]  # of the others no width is known
    if on_this_host:
        cores = before.get("cores") or 1
        if before.get("load_1min", 0.0) > 0.5 * cores:
            said.append(
                f"load average {before['load_1min']} on {cores} cores before the start: expect wide intervals; "
                "stop other work first"
            )
        if after.get("others", 0.0) > BUSY:
            said.append(f"other processes had {after['others']:.0%} of this machine's cores while it timed: stop them")
        if (after.get("steal") or 0.0) > STOLEN:
            said.append(
                f"the hypervisor took {after['steal']:.0%} of the processor time (steal): a shared host; "
                "compare only with tables measured together, or use a host of your own"
            )
        if governor and governor not in ("performance", "not exposed"):
            said.append(f"the frequency governor is '{governor}': clocks follow the load; 'performance' is steadier")
    if noisy:
        widths = sorted((r.ci_high_s - r.ci_low_s) / 2 / r.median_s for r in noisy)
        middle = widths[len(widths) // 2]
        # an interval narrows with the root of the samples, and the confirmation takes another x 1.4
        enough_min = math.ceil(budget_s / 60 * max((middle / target) ** 2, 1.0) * 1.4)
        slowest = max(rows, key=lambda r: r.median_s)
        said.append(
            f"{len(noisy)} of {len(rows)} rows did not reach +-{target:.1%} (half of them are wider than "
            f"+-{middle:.1%}; the slowest workload takes {ms(slowest.median_s)}): "
            f"--overwrite --budget-min {enough_min} should do, or be content with --target-ci {_round_up(middle)}"
        )
    few = sum(r.n < 10 for r in rows)
    if few:
        said.append(
            f"{few} of {len(rows)} rows rest on fewer than 10 samples, too few for an interval to be trusted: "
            "measure anew with --overwrite and a larger --budget-min"
        )
    if between and between["spread"] > max(target, 1.5 * between["noise"]):  # beyond what the intervals explain
        said.append(
            f"measured again in a second session, {between['n']} workloads differed by {between['spread']:.1%} in the "
            f"middle: the intervals tell of one session only"
        )
    return said


def _round_up(fraction: float) -> str:
    return f"{math.ceil(round(fraction * 100, 6)) / 100:.2f}"
