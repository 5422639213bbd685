"""How far ops at sizes never measured drift off together: learnt by leaving each resolution out of the fit in turn.

To the kernels of latency/priors.py errors at two sizes are nearly independent, but a network at a new resolution has
nothing but new sizes, and its ops err alike: of the Note 10 table at 208 pixels, fitted on 160, 176 and 192, by 2.9 %,
all in one direction, where a sum of independent errors would be off by 0.9 %. So

    log F(op) = what the fit says of it + drift * sqrt(b(op)) * g        g ~ N(0, 1), one for all ops

with b the variance of a Brownian motion along log size that is pinned at the sizes measured: the distance to the
nearest beyond the last, d1 d2 / (d1 + d2) between two, 0 at a size measured. `drift` has the largest likelihood of the
errors of resolutions left out. These are few, so it is multiplied by the ratio of Student's t quantile, of as many
degrees of freedom as there are resolutions, to the normal one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.calibration import Z90
from latency.kernels import KernelOp
from latency.ops import Op
from latency.uncertainty import KindModel

if TYPE_CHECKING:
    from latency.joint import JointFit, Observation
    from latency.predictor import LatencyPredictor

MIN_RESOLUTIONS = 2  # left out and predicted, below which they say nothing of another
MAX_RESOLUTIONS = 8  # each is a fit
MIN_REST = 8  # observations that are left to fit
MAX_TOLD = 30  # networks of each that are predicted
DRIFTS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 2000)])  # tried: half a per cent apart


@dataclass(frozen=True)
class LeftOut:
    """What one resolution took, by a fit that had none of its sizes. Of sums of ops, relative."""

    size: int  # pixels, of the networks' input
    error: float  # log of measured / predicted
    variance: float  # of that, were there no drift
    reach: float  # what a drift of 1 adds to `variance`


def resolutions(ops: Collection[Op]) -> dict[int, frozenset[int]]:
    """Input size of networks -> the sizes that no network of another input size has.

    A size that no larger one is turned into is an input; what it is turned into, step by step, its networks have. Empty
    where that cannot be told: of kernels, whose heights are tokens or rows too; where an input is turned into nothing.
    """
    if any(isinstance(op, KernelOp) for op in ops):
        return {}
    become: dict[int, set[int]] = {}
    for op in ops:
        if not op.is_free:
            become.setdefault(op.height, set()).add(op.output_shape[2])
    smaller = {a for size, found in become.items() for a in found if a < size}
    has: dict[int, set[int]] = {}
    for size in sorted(become.keys() - smaller):
        has[size], ahead = set(), [size]
        while ahead:
            at = ahead.pop()
            if at not in has[size] and at in become:
                has[size].add(at)
                ahead += become[at]
    if any(sizes == {size} for size, sizes in has.items()):
        return {}
    others = {size: set().union(*(s for at, s in has.items() if at != size)) for size in has}
    return {size: frozenset(sizes - others[size]) for size, sizes in has.items()}


def leave_out(
    observations: Sequence[Observation],
    kinds: Mapping[str, KindModel],
    fit: Callable[[Sequence[Observation]], JointFit],
) -> list[LeftOut]:
    """Each resolution predicted by `fit` of all observations without one of its sizes, everything fitted anew.

    `kinds` are those of the fit of all: how much wider its intervals are at new sizes is kept. Empty where there is one
    resolution, or too few observations without one.
    """
    from latency.predictor import from_fit

    sizes = resolutions({op for o in observations for op in o.ops})
    inputs = sorted(sizes)
    if len(inputs) > MAX_RESOLUTIONS:  # the smallest, the largest, and some between
        inputs = [inputs[i] for i in np.linspace(0, len(inputs) - 1, MAX_RESOLUTIONS).round().astype(int)]
    found: list[LeftOut] = []
    for size in inputs if len(inputs) >= MIN_RESOLUTIONS else []:
        out = [o for o in observations if any(op.height in sizes[size] and not op.is_free for op in o.ops)]
        rest = [o for o in observations if not any(op.height in sizes[size] and not op.is_free for op in o.ops)]
        if len(rest) < MIN_REST or not out:
            continue
        predictor = from_fit("fold", fit(rest))
        networks = [o for o in out if len(o.ops) > 1 and all(map(predictor.covers_kind, o.ops))]
        told = _networks(predictor, kinds, networks[:MAX_TOLD]) if networks else _lone(predictor, kinds, out)
        if told is not None and told[2] > 0:
            found.append(LeftOut(size, *told))
    return found


def drift_of(left_out: Sequence[LeftOut]) -> float:
    """The drift, in log seconds per root of log size, that intervals are to hold; 0 for too few resolutions.

    Where these are no further off than the fit says without it, it is 0: intervals stay as they were.
    """
    from scipy.stats import t

    if len(left_out) < MIN_RESOLUTIONS:
        return 0.0
    error, variance, reach = np.array([[o.error, o.variance, o.reach] for o in left_out]).T
    total = variance + DRIFTS[:, None] ** 2 * reach
    likely = float(DRIFTS[np.argmin((np.log(total) + error**2 / total).sum(axis=1))])
    return likely * float(t.ppf(0.95, len(left_out))) / Z90


def with_drift(kinds: Mapping[str, KindModel], drift: float, like: Mapping[str, KindModel]) -> dict[str, KindModel]:
    """`kinds` with `drift` at sizes that they have no op of, and with the `new_size` of `like`, where F is a GP."""
    found = dict(kinds)
    for name, kind in kinds.items():
        if _sees_size(kind):
            model, other = kind.model or {}, like[name].model or {}
            sizes = np.unique(model["x"][:, int(np.argmax(model["rough"]))])
            added = {"sizes": sizes, "new_size": other.get("new_size", 1.0), "drift": drift}
            found[name] = replace(kind, model={**model, **added})
    return found


def _sees_size(kind: KindModel | None) -> bool:
    """Whether F of the kind is a GP over more than one size."""
    return kind is not None and kind.model is not None and bool(np.any(kind.model.get("rough", 0.0)))


def about(left_out: Sequence[LeftOut], drift: float) -> dict[str, Any]:
    """What a predictor keeps: `resolutions` (n,), predicted / measured - 1 of each left out, its `std`, `drift`."""
    return {
        "resolutions": np.array([o.size for o in left_out]),
        "error": np.array([np.expm1(-o.error) for o in left_out]),
        "std": np.array([np.sqrt(o.variance) for o in left_out]),
        "drift": drift,
    }


def told(uncertainty: Mapping[str, Any]) -> dict[str, Any]:
    """`about` as a predictor's provenance has it: `drift`, and `resolutions`: pixels -> `error` and `std`. {}: none."""
    of = uncertainty.get("new_sizes")
    if not of:
        return {}
    each = zip(of["resolutions"], of["error"], of["std"], strict=True)
    return {
        "drift": float(of["drift"]),
        "resolutions": {str(size): {"error": float(error), "std": float(std)} for size, error, std in each},
    }


def _networks(
    predictor: LatencyPredictor, kinds: Mapping[str, KindModel], networks: Sequence[Observation]
) -> tuple[float, float, float]:
    """(error, variance, reach) of the mean network."""
    noise = float(predictor.uncertainty["noise"])
    quiet = replace(predictor, uncertainty={**predictor.uncertainty, "noise": 0.0})
    each = [_relative(quiet, kinds, o.ops) for o in networks]
    error = float(np.mean([np.log(o.seconds / s) for o, (s, _, _) in zip(networks, each, strict=True)]))
    variance, reach = np.mean([e[1:] for e in each], axis=0)
    return error, float(variance) + noise**2 / len(networks), float(reach)


def _lone(
    predictor: LatencyPredictor, kinds: Mapping[str, KindModel], out: Sequence[Observation]
) -> tuple[float, float, float] | None:
    """(error, variance, reach) of the sum of ops timed alone; None where the fit says of none what size does to it."""
    mine = [
        o
        for o in out
        if len(o.ops) == 1
        and _sees_size(predictor.kinds.get(type(o.ops[0]).__name__))
        and predictor.covers_kind(o.ops[0])
    ]
    if not mine:
        return None
    level = predictor.uncertainty["level_v"][:2]
    alone = {"constant_var": 0.0, "scale_var": 0.0, "context_var": (), "level_v": level, "noise": 0.0}
    predictor = replace(
        predictor, constant_s=0.0, scale=1.0, context=None, uncertainty={**predictor.uncertainty, **alone}
    )
    seconds, variance, reach = _relative(predictor, kinds, [o.ops[0] for o in mine])
    measured = sum(o.stderr_s**2 for o in mine) / seconds**2
    return float(np.log(sum(o.seconds for o in mine) / seconds)), variance + measured, reach


def _relative(
    predictor: LatencyPredictor, kinds: Mapping[str, KindModel], ops: Sequence[Op]
) -> tuple[float, float, float]:
    """(seconds, relative variance, what a drift of 1 adds to that) of a network."""
    std = [replace(predictor, kinds=with_drift(predictor.kinds, d, kinds)).network_s(ops)[1] for d in (0.0, 1.0)]
    seconds = predictor.network_s(ops)[0]
    return seconds, (std[0] / seconds) ** 2, (std[1] ** 2 - std[0] ** 2) / seconds**2
