"""From the networks that alpha finds most probable to the one that is kept: ranked, measured if asked for, chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Report, ms
from latency.space import SearchSpace
from search.budgets import Budget
from search.costs import Floats
from search.derive import Derived, derive_top
from search.targets import Plan

if TYPE_CHECKING:
    from devices.base import Device

TIMING_S = 30.0  # of measuring all candidates together, at most
TARGET_CI = 0.005  # half-width of the 95 % interval of each candidate's time


@dataclass(frozen=True)
class Candidate:
    """One network within the budgets. `accuracy` is the supernet's; `measured_s` and `ci_s` the device's."""

    indices: tuple[int, ...]
    in_window: bool
    log_p: float
    predicted_s: float
    accuracy: float | None = None
    measured_s: float | None = None
    ci_s: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For metrics.jsonl and checkpoints."""
        row = asdict(self)
        return row | {"indices": list(self.indices), "ci_s": list(self.ci_s) if self.ci_s else None}

    @staticmethod
    def from_dict(row: dict[str, Any]) -> Candidate:
        """What `to_dict` gave."""
        ci_s = row["ci_s"]
        return Candidate(**(row | {"indices": tuple(row["indices"]), "ci_s": tuple(ci_s) if ci_s else None}))


def most_probable(probs_LK: Floats, log_p_LK: Floats, plan: Plan, floor: float, k: int) -> list[Candidate]:
    """The `k` most probable networks within the budgets, best first; k = 0: the argmax of each block, as in the paper.

    Raises BudgetError where no network is within the budgets; the argmax may lie outside of them.
    """
    if k:
        derived = derive_top(log_p_LK, plan, floor, k)
    else:
        taken = tuple(int(i) for i in probs_LK.argmax(1))
        derived = [Derived(taken, floor * plan.target_s <= plan.costs.network_s(taken) <= plan.target_s)]

    def log_p(indices: Sequence[int]) -> float:
        return max(-1e9, float(sum(log_p_LK[block, index] for block, index in enumerate(indices))))

    return [Candidate(d.indices, d.in_window, log_p(d.indices), plan.costs.network_s(d.indices)) for d in derived]


def told_of(chosen: Candidate, of: int, plan: Plan, floor: float, expected_s: float, reference: bool) -> list[str]:
    """What there is to say about the network found, the latency first."""
    told = [
        f"found a network of {ms(chosen.predicted_s)} (target {ms(plan.target_s)}, E[latency] {ms(expected_s)})",
        *(f"{b.name}: {b.text(b.costs.network_s(chosen.indices))} of {b.text(b.limit)}" for b in plan.budgets[1:]),
    ]
    if chosen.accuracy is not None:
        told.append(
            f"it is of the {of} most probable networks within the budgets; {chosen.accuracy:.1%} of the validation "
            "images with the supernet's weights"
        )
    if reference:
        error = chosen.predicted_s / plan.target_s - 1
        told.append(f"the paper's argmax lands {error:+.1%} from the target; nothing in its rules holds it there")
    elif not chosen.in_window:
        told.append(f"no network lies in {floor:g} to 1 times the target: the best below was taken")
    return told


def ranked(candidates: Sequence[Candidate], accuracies: Sequence[float]) -> list[Candidate]:
    """Best accuracy first; among equals the more probable."""
    told = [replace(c, accuracy=a) for c, a in zip(candidates, accuracies, strict=True)]
    return sorted(told, key=lambda c: (-(c.accuracy or 0.0), -c.log_p))


def measured(
    candidates: Sequence[Candidate],
    space: SearchSpace,
    device: Device,
    progress: Callable[[str], AbstractContextManager[Report]],
    seed: int,
) -> list[Candidate]:
    """The candidates with the time that each takes on the device: all together, in interleaved rounds."""
    from latency.measure import Policy
    from latency.timing import measure_networks

    networks = {str(i): space.architecture(c.indices).ops for i, c in enumerate(candidates)}
    found = measure_networks(networks, device, Policy(target=TARGET_CI, budget_s=TIMING_S), progress, seed)
    return [
        replace(c, measured_s=found[str(i)].median_s, ci_s=found[str(i)].ci_s) if str(i) in found else c
        for i, c in enumerate(candidates)
    ]


def choose(candidates: Sequence[Candidate], limit_s: float, what: str = "target") -> tuple[Candidate, list[str]]:
    """(the network to keep, what to say about it): the first, or the first whose measured time keeps the limit.

    `limit_s` is that of the device measured on, `what` it is called. Where measured and none keeps it, the fastest.
    """
    timed = [c for c in candidates if c.measured_s is not None]
    if not timed:
        return candidates[0], []
    for candidate in timed:
        assert candidate.measured_s is not None
        if candidate.measured_s <= limit_s:
            place = f", number {candidates.index(candidate) + 1} of {len(candidates)}" if len(candidates) > 1 else ""
            return candidate, [f"measured {ms(candidate.measured_s)}{place}: within the {what} of {ms(limit_s)}"]
    best = min(timed, key=lambda c: c.measured_s or 0.0)
    assert best.measured_s is not None
    over = best.measured_s / limit_s - 1
    return best, [
        f"none of the {len(timed)} networks measured keeps the {what} of {ms(limit_s)}: the fastest of them takes "
        f"{ms(best.measured_s)}, {over:.1%} more, and was kept; a lower {what} or a larger --top-k finds others"
    ]


def budget_on(name: str, plan: Plan) -> Budget:
    """The budget that times on the device `name`, or of the file FILE.toml, are held to.

    Raises UserError for an unknown device, and for one whose latency nothing limits.
    """
    import devices

    device = devices.find(name).name
    found = plan.on(device)
    if found is None:
        known = list(dict.fromkeys(b.device or "a device without a name" for b in plan.budgets if b.unit == "s"))
        raise UserError(
            f"--verify-on {name}: a time on {device} cannot be held against a latency limit on {' or '.join(known)}; "
            f"limit the latency there too (--predictor tables/{device}.pkl:LIMIT), or leave --verify-on out"
        )
    return found


@contextmanager
def open_device(name: str) -> Iterator[Device]:
    """The device of `--verify-on`, closed at the end. Raises UserError for an unknown name, DeviceUnavailable."""
    import devices

    device = devices.load(name)
    try:
        yield device
    finally:
        if hasattr(device, "close"):
            device.close()
