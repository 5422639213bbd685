"""Why measured and predicted latencies disagree: a constant factor, certain blocks, or another target.

Pure: takes what was measured and predicted, returns verdicts and the words for them. latency.verify does the timing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from latency.ops import Op
    from latency.predictor import LatencyPredictor

MIN_NETWORKS = 3  # below this, nothing is said of a common factor
SMALL = 0.01  # a common gap below this is not worth a new predictor
FAR = 3.0  # standard errors from which a block is called off
FAR_LEAST = 0.05  # and the least relative gap
Z95 = 1.96

#: Fingerprint field -> what a difference in it does.
MEANING = {
    "runtime": "another runtime or version has other kernels: profile anew",
    "threads": "the number of threads changes ops by different factors: profile anew",
    "mask": "other cores of the phone: profile anew",
    "affinity": "other cores: profile anew",
    "cores": "another number of cores in reach",
    "governor": "the governor sets the clock: mostly a constant scale",
    "dtype": "another arithmetic: profile anew",
    "spinning": "how threads wait between ops: mostly a constant per op",
}


@dataclass(frozen=True)
class Verdict:
    """Predicted and measured seconds of one network; `error` is predicted / measured - 1."""

    name: str
    predicted_s: float
    predicted_std_s: float
    measured_s: float
    ci_s: tuple[float, float]
    flags: tuple[str, ...] = ()
    own: float | None = None  # half the interval that its samples alone give, as a fraction: without the host's speed
    common: float = 0.0  # half the interval of the host's speed in the session, which all networks share

    @property
    def error(self) -> float:
        """Signed, as a fraction of the measured time."""
        return self.predicted_s / self.measured_s - 1

    @property
    def log_gap(self) -> tuple[float, float]:
        """(log of measured / predicted, its standard error from both intervals, what all networks share left out)."""
        half = (self.ci_s[1] - self.ci_s[0]) / 2 / self.measured_s if self.own is None else self.own
        measured_std = half / Z95
        return float(np.log(self.measured_s / self.predicted_s)), float(
            np.hypot(measured_std, self.predicted_std_s / self.predicted_s)
        )


@dataclass(frozen=True)
class Gap:
    """The common part of the networks' gaps. `scale` is measured / predicted, with its 95 % interval."""

    kind: Literal["none", "scale", "mixed", "unknown"]
    scale: float
    interval: tuple[float, float]
    spread: float  # relative standard deviation of the networks about the common scale
    expected: float  # what the intervals of prediction and measurement explain of it
    networks: int


def judge(verdicts: Sequence[Verdict]) -> Gap:
    """Whether the gap is one factor for all networks.

    none: the interval of the common factor, which the host's speed in the session widens, holds 1 or is within 1 % of
    it, and the networks scatter no more than their intervals say. scale: a factor, and no more scatter than that.
    mixed: more scatter (chi-square at 1 %), so that no single factor mends it. unknown: fewer than 3 networks.
    """
    from scipy.stats import chi2, t

    if not verdicts:
        raise ValueError("no network was measured")
    gaps, stds = (np.array(v) for v in zip(*(v.log_gap for v in verdicts), strict=True))
    stds = np.maximum(stds, 1e-6)
    n, weights, common = len(gaps), 1 / stds**2, max(v.common for v in verdicts)
    middle = float((weights * gaps).sum() / weights.sum())
    expected = float(np.sqrt(np.mean(stds**2)))
    if n < MIN_NETWORKS:
        half = float(np.hypot(Z95 / np.sqrt(weights.sum()), common))
        ends = (float(np.exp(middle - half)), float(np.exp(middle + half)))
        return Gap("unknown", float(np.exp(middle)), ends, 0.0, expected, n)
    spread = float(np.std(gaps, ddof=1))
    half = float(np.hypot(t.ppf(0.975, n - 1) * spread / np.sqrt(n), common))
    scattered = float((weights * (gaps - middle) ** 2).sum()) > chi2.ppf(0.99, n - 1)
    small = abs(middle) <= max(half, SMALL)
    kind: Literal["none", "scale", "mixed"] = "mixed" if scattered else "none" if small else "scale"
    ends = (float(np.exp(middle - half)), float(np.exp(middle + half)))
    return Gap(kind, float(np.exp(middle)), ends, spread, expected, n)


def recalibrated(
    predictor: LatencyPredictor,
    gap: Gap,
    fingerprint: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    states: Sequence[Mapping[str, Any]] = (),
) -> LatencyPredictor:
    """`predictor` times the common scale, for the target at hand; relative standard errors stay as they are.

    `states` are those of the device (latency.device_state.states) while the networks were timed.
    """
    about = dict(predictor.uncertainty)
    for name in ("typical_s", "scale", "call_s"):  # of the evidence model; of sums of kernels
        if name in about:
            about[name] = about[name] * gap.scale
    done = {
        "scale": gap.scale,
        "interval": list(gap.interval),
        "networks": gap.networks,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "fitted_on": predictor.provenance.get("fingerprint", {}),
        "mape_before": float(np.mean([abs(v.error) for v in verdicts])),
        "mape_after": float(np.mean([abs(v.predicted_s * gap.scale / v.measured_s - 1) for v in verdicts])),
    }
    earlier = predictor.provenance.get("recalibrated", [])
    provenance = {k: v for k, v in predictor.provenance.items() if k != "device_state"}
    if states:
        provenance["device_state"] = [dict(s) for s in states]
    return replace(
        predictor,
        constant_s=predictor.constant_s * gap.scale,
        scale=predictor.scale * gap.scale,
        uncertainty=about,
        provenance={**provenance, "fingerprint": dict(fingerprint), "recalibrated": [*earlier, done]},
    )


@dataclass(frozen=True)
class Block:
    """One op of the network: what it takes on the device at hand beside what the predictor says. Seconds."""

    op: Op
    predicted_s: float
    predicted_std_s: float
    measured_s: float
    measured_std_s: float
    off: float = 0.0  # measured / predicted, relative to the middle block, less 1
    far: bool = False


def judge_blocks(blocks: Sequence[Block], middle: float | None = None) -> list[Block]:
    """`blocks` with `off` and `far` filled in, farthest first.

    All blocks may share a factor (the network's gap); a block is off where it differs from the median block by more
    than 3 standard errors and 5 %. `middle`: log of measured / predicted that is no block's fault, instead of the
    median block's.
    """
    if not blocks:
        return []
    gaps = np.array([np.log(b.measured_s / b.predicted_s) for b in blocks])
    stds = np.array([np.hypot(b.measured_std_s / b.measured_s, b.predicted_std_s / b.predicted_s) for b in blocks])
    if middle is None:
        middle = float(np.median(gaps))
    judged = [
        replace(b, off=float(np.exp(g - middle) - 1), far=bool(abs(g - middle) > max(FAR * s, FAR_LEAST)))
        for b, g, s in zip(blocks, gaps, stds, strict=True)
    ]
    return sorted(judged, key=lambda b: -abs(b.off))


def shared_by(blocks: Sequence[Block]) -> list[str]:
    """What all blocks that are off have in common and no other block has: `kernel 5`, `MBConv`, ..."""
    far, near = ([_traits(b.op) for b in blocks if b.far is off] for off in (True, False))
    if not far or not near:
        return []
    common = set.intersection(*far) - set().union(*near)
    return sorted(common)


def _traits(op: Op) -> set[str]:
    return {type(op).__name__} | {f"{f.name} {getattr(op, f.name)}" for f in fields(op)}


def differences(table: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line per field of the fingerprints that differs, with what such a difference does."""
    from latency.table import fingerprint_difference

    lines = []
    for line in fingerprint_difference(dict(table), dict(here)):
        field = line.partition(":")[0]
        lines.append(line + (f" ({MEANING[field]})" if field in MEANING else ""))
    return lines


def words(gap: Gap, parts: str = "blocks") -> str:
    """The verdict on the gap, as a sentence with what to do; `parts`: what the network is compared by."""
    low, high = gap.interval
    scale = f"measured = {gap.scale:.3f} x predicted (95 %: {low:.3f} .. {high:.3f}, {gap.networks} networks)"
    about = f"networks scatter by {gap.spread:.1%} about it, intervals explain {gap.expected:.1%}"
    match gap.kind:
        case "none":
            return f"the predictor holds here: {scale}; {about}"
        case "scale":
            return f"the gap is a constant scale: {scale}; {about}. --recalibrate writes a predictor that has it"
        case "mixed":
            return (
                f"the gap is no constant scale: {scale}, but {about}. A factor will not mend it: look at the {parts}, "
                "or profile this target (python -m latency.profile)"
            )
        case _:
            return f"{scale}; whether the gap is a constant scale takes at least {MIN_NETWORKS} networks (--random 8)"
