"""The errors of a fit that go into its predictor's provenance, beside baselines on the same networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency.accuracy import scores
from latency.calibration import FOLDS, spread
from latency.estimators import CANDIDATES
from latency.flops import macs
from latency.joint import JointFit, Observation
from latency.op_fit import OpFit, extrapolation, fit_ops
from latency.predictor import LatencyPredictor
from latency.stats import Floats, mape, spearman

TAILS = 2.0  # standard errors beyond which an error counts less than by its square
HELD_OUT = "held out"  # never used in any fit
IN_TURN = "left out in turn"  # each of the fit's own, predicted by a fit on the others


def op_errors(op_fit: OpFit, ops: Sequence[Observation], folds: int) -> dict[str, Any]:
    """Of ops left out: inside what was measured by folds, outside by whole values of a feature."""
    errors: dict[str, Any] = {
        "op_mape": op_fit.op_mape,
        "op_nested_mape": op_fit.nested_mape,
        "op": {},
        "extrapolation": extrapolation(ops),
        "cv": op_fit.cv_mape,
        "model": op_fit.chosen,
        "folds": folds,
        "ops": len(ops),
    }
    if op_fit.left_out:
        kinds = op_fit.left_out.values()
        joined = [np.concatenate([getattr(o, n) for o in kinds]) for n in ("predicted_s", "measured_s", "std_s")]
        errors["op"] = scores(*joined)
    return errors


@dataclass(frozen=True)
class Judged:
    """Networks and their (n,) predictions, seconds, by fits that never saw them; `how` says by which."""

    networks: list[Observation]
    predicted_s: Floats
    std_s: Floats
    how: str  # HELD_OUT, IN_TURN, or "" where there is none

    @property
    def measured_s(self) -> Floats:
        """(n,) seconds."""
        return np.array([o.seconds for o in self.networks])


def judged(
    predictor: LatencyPredictor, joint: JointFit, fit_nets: Sequence[Observation], test_nets: Sequence[Observation]
) -> Judged:
    """The networks held out where there are any; else those of the fit, each left out of it in turn."""
    if test_nets:
        return Judged(list(test_nets), *networks_s(predictor, test_nets), HELD_OUT)
    if len(joint.loo_error) != len(fit_nets):
        return Judged([], np.empty(0), np.empty(0), "")
    told = np.flatnonzero(np.isfinite(joint.loo_error))
    error, std = joint.loo_error[told], joint.loo_std[told]
    networks = [fit_nets[int(i)] for i in told]
    predicted = np.array([o.seconds for o in networks]) / (1 + error)
    return Judged(networks, predicted, predicted * std * _factors(error / std), IN_TURN if len(told) else "")


def _factors(z: Floats) -> Floats:
    """(n,) factor on each standard error, from the errors `z` of the others: its own must not widen it."""
    found = np.ones(len(z))
    order = np.random.default_rng(3).permutation(len(z))
    for part in np.array_split(order, min(FOLDS, len(z))) if len(z) else []:
        found[part] = spread(np.delete(z, part))
    return found


def network_errors(
    judged: Judged, joint: JointFit, ops: Sequence[Observation], fit_nets: Sequence[Observation]
) -> dict[str, Any]:
    """Of the networks of `judged`, which `network_how` tells; beside baselines where they were held out.

    `network_mape` and `network_spearman` are of networks held out alone; `network` of either.
    """
    left_out = joint.loo_error[np.isfinite(joint.loo_error)]
    test_nets = judged.networks if judged.how == HELD_OUT else []
    predicted, measured = judged.predicted_s, judged.measured_s
    errors: dict[str, Any] = {
        "networks_fit": len(fit_nets),
        "networks_test": len(test_nets),
        "network_mape": None,
        "network_spearman": None,
        "network": scores(predicted, measured, judged.std_s) if judged.networks else {},
        "network_how": judged.how,
        "network_loo_mape": float(np.mean(np.abs(1 / (1 + left_out) - 1))) if len(left_out) >= 5 else None,
        "noise_floor": None,
        "baselines": {},
    }
    if test_nets:
        errors |= {
            "network_mape": mape(predicted, measured),
            "network_spearman": spearman(predicted, measured),
            "baselines": _baselines(ops, fit_nets, test_nets),
            "test": np.round(np.column_stack([predicted, measured]), 9)[:1000].tolist(),
        }
        if any(o.drift for o in test_nets):
            errors["noise_floor"] = float(np.mean([abs(o.drift) for o in test_nets]))
    return errors


def networks_s(predictor: LatencyPredictor, networks: Sequence[Observation]) -> tuple[Floats, Floats]:
    """(n,) predicted seconds of whole networks and (n,) their standard errors."""
    both = np.array([predictor.network_s(o.ops) for o in networks]).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def context_errors(predictor: LatencyPredictor, networks: Sequence[Observation]) -> dict[str, dict[str, float]]:
    """Kind -> `ops`, how many different ones `networks` hold; mean seconds of one `alone_s`, and `network_s` inside.

    Over all places where ops of the kind occur. Empty where the predictor has nothing but a scale between the two.
    """
    if predictor.context is None:
        return {}
    counts = Counter(op for o in networks for op in o.ops if not op.is_free)
    ops = list(counts)
    alone_s, _ = predictor.alone_s(ops)
    inside_s = predictor.scale * predictor.predict_s(ops)
    weight, kinds = np.array([counts[op] for op in ops], dtype=np.float64), np.array([type(op).__name__ for op in ops])
    return {
        str(kind): {
            "ops": int((kinds == kind).sum()),
            "alone_s": float(np.average(alone_s[kinds == kind], weights=weight[kinds == kind])),
            "network_s": float(np.average(inside_s[kinds == kind], weights=weight[kinds == kind])),
        }
        for kind in np.unique(kinds)
    }


def _baselines(
    ops: Sequence[Observation], fit_nets: Sequence[Observation], test_nets: Sequence[Observation]
) -> dict[str, dict[str, float]]:
    """The same test networks by: the plain sum of measured ops, a line on FLOPs, a random forest per op."""
    table = {o.ops[0]: o.seconds for o in ops}
    measured = np.array([o.seconds for o in test_nets])
    found: dict[str, Floats] = {}
    if all(op in table for o in test_nets for op in o.ops if not op.is_free):
        found["lookup_sum"] = np.array([sum(table[op] for op in o.ops if not op.is_free) for o in test_nets])

    def work(networks: Sequence[Observation]) -> Floats:
        return np.array([float(sum(macs(op) for op in o.ops)) for o in networks])

    if len(fit_nets) >= 2:
        line = np.polyfit(work(fit_nets), [o.seconds for o in fit_nets], 1)
        found["flops_line"] = np.asarray(np.polyval(line, work(test_nets)), dtype=np.float64)
    if ops:
        forest = LatencyPredictor("baseline", fit_ops(ops, 2, {"random_forest": CANDIDATES["random_forest"]}).kinds)
        sums = [np.array([forest.predict_s(o.ops).sum() for o in nets]) for nets in (fit_nets, test_nets)]
        stderr = np.array([o.stderr_s for o in fit_nets])
        constant, scale = fit_network_level(sums[0], np.array([o.seconds for o in fit_nets]), stderr)
        found["random_forest"] = constant + scale * sums[1]
    return {name: {"mape": mape(p, measured), "spearman": spearman(p, measured)} for name, p in found.items()}


def fit_network_level(
    sums_s: Floats, measured_s: Floats, stderr_s: Floats, least_constant_s: float | None = None
) -> tuple[float, float]:
    """(constant_s, scale) of measured = constant + scale * sum, of largest likelihood; priors at (0, 1).

    Errors are of the logarithm, with tails: by least squares relative to what was measured, networks predicted too high
    would weigh more than those predicted as far too low, and the scale come out low by the errors' variance. The priors
    (scale 1 +- 0.3, constant 0 +- 10 % of a network) matter only where networks are few. Standard errors have a floor
    of 0.5 %: what a sum of ops leaves out does not vanish with the noise. The constant is at least `least_constant_s`.
    """
    from scipy.optimize import least_squares

    sigma = np.hypot(stderr_s / measured_s, 0.005)
    typical, shortest = float(measured_s.mean()), float(measured_s.min())
    least = -0.5 * shortest if least_constant_s is None else least_constant_s

    def errors(level: Floats) -> Floats:
        predicted = np.maximum(level[0] * typical + level[1] * sums_s, 0.01 * measured_s)
        tails = np.arcsinh(np.log(predicted / measured_s) / sigma / TAILS) * TAILS
        return np.concatenate([tails, [level[0] / 0.1, (level[1] - 1) / 0.3]])

    start = np.array([max(0.0, least / typical), 1.0])
    found = least_squares(errors, start, bounds=([least / typical - 1e-12, 1e-3], [np.inf, np.inf])).x
    return max(float(found[0]) * typical, least), float(found[1])
