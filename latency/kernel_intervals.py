"""Intervals of networks predicted by their kernels: found from kernels and networks left out of the fit.

The numbers of latency/kernel_std.py: per kind, the standard error of log F over log F, smoothed; how it grows as the
models part, for all kinds alike; which part of the errors the kernels of a kind share, and what no
sum explains, by largest likelihood over the networks; last a factor so that -+ 1.645 holds 90 % of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency.calibration import Z90, spread
from latency.fit_errors import fit_network_level
from latency.joint import Observation
from latency.kernel_std import FORM, kernel_rel_std, parts
from latency.op_base import Op
from latency.stats import Floats

ALIKE = 0.06  # relative: what networks are taken to be off before their kernels say
CLIP = 1.5  # of log errors: a kernel that is off five times says no more than one that is off four and a half
KNOTS = 6
PRIOR, PRIOR_WEIGHT = 0.3, 2.0  # relative error of a kernel of which nothing is known; what that counts, in kernels
KIND_WEIGHT = 8.0  # kernels for which the mean of the kind counts, at each knot
MIN_CONFORMAL = 40  # networks from which their own quantile is taken
FREEDOM = 5.0  # of Student's t: networks have tails
#: Medians and spreads (of logit, log, log, log) of the priors: part shared, noise of networks, noise of what a call
#: takes (s), a factor on all of it, and the share of what models part by that kernels of a network share.
SHARED, NOISE, CALL, FACTOR, APART = (0.2, 1.5), (0.02, 0.7), (1e-6, 1.0), (1.0, 0.5), (0.3, 1.0)


@dataclass(frozen=True)
class Kernels:
    """Kernels of one kind, each left out of the fit that predicts it."""

    ops: tuple[Op, ...]
    predicted_s: Floats  # (n,)
    measured_s: Floats  # (n,)
    far: Floats  # (n,) how far the models are apart that never saw it; latency.kernel_std.far
    fold: Any  # (n,) fold that a kernel is left out with

    @property
    def squared(self) -> Floats:
        """(n,) squared log errors, the largest cut."""
        off: Floats = np.clip(np.log(self.predicted_s / self.measured_s), -CLIP, CLIP)
        return off**2


def smoothed(kernels: Kernels, which: Any) -> dict[str, Any]:
    """The standard error of log F at KNOTS values of log F, from the kernels `which`."""
    at, squared = np.log(kernels.predicted_s[which]), kernels.squared[which]
    knots = np.unique(np.quantile(at, np.linspace(0.05, 0.95, KNOTS)))
    width = max(0.4, 0.35 * float(at.std()))
    weight = np.exp(-0.5 * ((knots[:, None] - at) / width) ** 2)
    of_kind = (float(squared.sum()) + PRIOR_WEIGHT * PRIOR**2) / (len(squared) + PRIOR_WEIGHT)
    variance = (weight @ squared + KIND_WEIGHT * of_kind) / (weight.sum(axis=1) + KIND_WEIGHT)
    far = kernels.far[which]
    middle = float(np.nanmean(far)) if np.isfinite(far).any() else 0.0
    return {"log_s": knots, "log_std": 0.5 * np.log(variance), "far": middle}


def far_slope(kinds: Mapping[str, Kernels], spreads: Mapping[str, Any], which: Mapping[str, Any]) -> float:
    """How the log variance of a kernel grows as the models part: by largest likelihood over all kinds, not below 0."""
    from scipy.optimize import minimize_scalar

    ratio, away = [], []
    for name, of in spreads.items():
        k, i = kinds[name], which[name]
        known = np.isfinite(k.far[i])
        std = kernel_rel_std(of, 0.0, k.predicted_s[i], k.far[i])
        ratio.append((k.squared[i] / std**2)[known])
        away.append((k.far[i] - of["far"])[known])
    r, a = np.concatenate(ratio), np.concatenate(away)
    if not len(r):
        return 0.0
    found = minimize_scalar(
        lambda b: float((b * a + r * np.exp(-b * a)).sum()) + 0.5 * b**2, bounds=(0, 4), method="bounded"
    )
    return float(found.x)


def variances(
    about: Mapping[str, Any], kinds: Mapping[str, Kernels], networks: Sequence[Observation], rate: Floats
) -> Floats:
    """(m, 3) squared relative errors of networks: errors of one kind the same; all of them independent; and how far the
    models of their kernels are apart, by time.

    `rate` (m,): what the network's time gains with a second of its kernels, over its time.
    """
    std: dict[Op, tuple[str, float]] = {}
    apart: dict[Op, tuple[float, float]] = {}
    for name, k in kinds.items():
        apart.update({op: (float(s), float(np.exp(f))) for op, s, f in zip(k.ops, k.predicted_s, k.far, strict=True)})
        rel = kernel_rel_std(about["spread"].get(name), about["far_slope"], k.predicted_s, k.far)
        std.update({op: (name, s * r) for op, s, r in zip(k.ops, k.predicted_s, rel, strict=True)})
    found = []
    for o, per_s in zip(networks, rate, strict=True):
        errors = [(std[op][0], n * std[op][1] * float(per_s)) for op, n in Counter(o.ops).items() if op in std]
        weighed = [apart[op] for op in o.ops if op in apart and not np.isnan(apart[op][1])]
        mean = sum(s * d for s, d in weighed) / max(sum(s for s, _ in weighed), 1e-12)
        found.append((*parts(errors), mean**2))
    return np.array(found).reshape(-1, 3)


def calibrate(
    kinds: Mapping[str, Kernels],
    networks: Sequence[Observation],
    total_s: Floats,
    scale: float,
    fold: Any,
    without: int | None = None,
) -> tuple[dict[str, Any], Floats]:
    """(the numbers of the intervals, (m,) relative standard errors of all `networks`) from those whose `fold` is not
    `without`. `total_s` (m,): the networks' predictions by models that never saw them.
    """
    which = {name: np.flatnonzero(k.fold != without) for name, k in kinds.items()}
    spreads = {name: smoothed(k, which[name]) for name, k in kinds.items() if len(which[name])}
    about: dict[str, Any] = {"form": FORM, "spread": spreads, "far_slope": far_slope(kinds, spreads, which)}
    about["scale"] = scale
    measured = np.array([o.seconds for o in networks])
    var = variances(about, kinds, networks, scale / total_s)
    mine = np.asarray(fold) != without
    off = measured / total_s - 1
    about |= _network_level(var[mine], off[mine], total_s[mine])
    rel = np.sqrt(
        about["shared"] * var[:, 0]
        + (1 - about["shared"]) * var[:, 1]
        + about["noise"] ** 2
        + about["apart"] ** 2 * var[:, 2]
        + (about["call_s"] / total_s) ** 2
    )
    about["factor"] = _factor(off[mine] / rel[mine])
    return about, about["factor"] * rel


def _network_level(var: Floats, off: Floats, total_s: Floats) -> dict[str, float]:
    """The part of errors that is shared and the noises of largest likelihood; a factor on all is found and left out."""
    from scipy.optimize import minimize
    from scipy.stats import t

    priors = np.array([SHARED, NOISE, CALL, FACTOR, APART])
    medians, spreads = np.log(priors[:, 0]), priors[:, 1]
    medians[0] -= np.log(1 - SHARED[0])

    def cost(theta: Floats) -> float:
        shared = 1 / (1 + np.exp(-theta[0]))
        variance = shared * var[:, 0] + (1 - shared) * var[:, 1]
        std = np.exp(theta[3]) * np.sqrt(
            variance + np.exp(2 * theta[1]) + (np.exp(theta[2]) / total_s) ** 2 + np.exp(2 * theta[4]) * var[:, 2]
        )
        likely = float((t.logpdf(off / std, FREEDOM) - np.log(std)).sum())
        return -likely + 0.5 * float((((theta - medians) / spreads) ** 2).sum())

    theta = minimize(cost, medians, method="Nelder-Mead", options={"maxiter": 4000}).x
    shared, noise, call = 1 / (1 + np.exp(-theta[0])), np.exp(theta[1]), np.exp(theta[2])
    return {"shared": float(shared), "noise": float(noise), "call_s": float(call), "apart": float(np.exp(theta[4]))}


def _factor(z: Floats) -> float:
    """Factor on standard errors so that -+ 1.645 of them holds 90 %, from errors `z` (n,) in standard errors.

    The smallest that holds 90 of 100 of one network more than there are (conformal prediction, 1604.04173); of few by
    latency.calibration.spread.
    """
    if len(z) < MIN_CONFORMAL:
        return spread(z)
    return float(np.sort(np.abs(z))[int(np.ceil(0.9 * (len(z) + 1))) - 1]) / Z90


def unjudged(kinds: Mapping[str, Kernels]) -> dict[str, Any]:
    """The numbers of the intervals where too few networks were measured to calibrate them: kernels' own, and priors."""
    which = {name: np.arange(len(k.ops)) for name, k in kinds.items()}
    spreads = {name: smoothed(k, which[name]) for name, k in kinds.items()}
    about = {"form": FORM, "spread": spreads, "far_slope": far_slope(kinds, spreads, which), "scale": 1.0}
    return {**about, "shared": SHARED[0], "noise": ALIKE, "call_s": 0.0, "apart": 0.0, "factor": 1.0}


@dataclass(frozen=True)
class NetworkLevel:
    """Constant and scale of networks, their intervals, and how they fared on networks left out in folds."""

    constant_s: float
    scale: float
    uncertainty: dict[str, Any]  # latency/kernel_std.py; empty where too few networks were measured
    total_s: Floats  # (m,) predictions of networks left out
    std_s: Floats  # (m,) their standard errors, the width from the others too


def fit_level(sums_s: Floats, networks: Sequence[Observation], kinds: Mapping[str, Kernels], fold: Any) -> NetworkLevel:
    """Constant and scale by least squares relative to what each network is expected to be off: all alike at first, then
    as its kernels say. A network takes no less than its kernels for being small, so the constant is not below 0.

    `sums_s` (m,): seconds of the networks' kernels, each kernel left out with the `fold` (m,) of its network.
    """
    measured = np.array([o.seconds for o in networks])
    rel = np.full(len(networks), ALIKE)
    for _ in range(2):
        constant, scale = fit_network_level(sums_s, measured, rel * measured, least_constant_s=0.0)
        total = np.empty_like(sums_s)
        for f in np.unique(fold):
            rest = fold != f
            alone = fit_network_level(sums_s[rest], measured[rest], (rel * measured)[rest], least_constant_s=0.0)
            total[~rest] = alone[0] + alone[1] * sums_s[~rest]
        about, rel = calibrate(kinds, networks, total, scale, fold)
    std = np.empty_like(total)
    for f in np.unique(fold):
        mine = fold == f
        std[mine] = (calibrate(kinds, networks, total, scale, fold, int(f))[1] * total)[mine]
    return NetworkLevel(constant, scale, about, total, std)
