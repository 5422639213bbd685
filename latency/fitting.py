"""From measurements to a LatencyPredictor: F per op by cross-validation, then constant and scale over networks."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from devices.errors import UserError
from latency import frozen
from latency.console import Report, quiet
from latency.estimators import CANDIDATES, Fit
from latency.features import discrete_values, feature_matrix
from latency.flops import macs
from latency.ops import Op
from latency.predictor import KindModel, LatencyPredictor
from latency.stats import Floats, mape, spearman

MIN_OPS = 5  # below this a kind is answered by look-up only
TEST_SHARE = 0.4  # of the networks, never used in any fit


class FitError(UserError):
    """Measurements that no predictor can be fitted on."""


@dataclass(frozen=True)
class Observation:
    """One measured op or network: seconds and the standard error of those seconds."""

    ops: tuple[Op, ...]
    seconds: float
    stderr_s: float
    drift: float = 0.0


@dataclass(frozen=True)
class OpFit:
    """F of all kinds, and how it fared in cross-validation."""

    kinds: dict[str, KindModel]
    chosen: dict[str, str]  # kind -> name of its model
    cv_mape: dict[str, dict[str, float]]  # kind -> model -> MAPE over left-out ops
    op_mape: float | None  # of the chosen models, over all left-out ops; None: every kind is look-up only


def fit_ops(
    observations: Sequence[Observation],
    folds: int,
    candidates: dict[str, Fit] = CANDIDATES,
    report: Report = quiet,
) -> OpFit:
    """Choose and fit a model for each kind of op; `folds` 0 leaves one op out at a time.

    A fold's hyper-parameters come from the other folds alone. Raises FitError where there is nothing to fit.
    """
    if not observations:
        raise FitError("no measured ops: profile a device first (python -m latency.profile)")
    kinds: dict[str, KindModel] = {}
    chosen: dict[str, str] = {}
    cv: dict[str, dict[str, float]] = {}
    errors: list[Floats] = []
    for name in sorted({type(o.ops[0]).__name__ for o in observations}):
        mine = [o for o in observations if type(o.ops[0]).__name__ == name]
        ops = [o.ops[0] for o in mine]
        x, seconds = feature_matrix(ops), np.array([o.seconds for o in mine])
        log_var = np.array([(o.stderr_s / o.seconds) ** 2 for o in mine])
        model = None
        if len(mine) >= MIN_OPS:
            left_out = {
                c: _left_out(fit, x, seconds, log_var, folds, partial(_noted, report, f"{name}: {c}"))
                for c, fit in candidates.items()
            }
            cv[name] = {c: mape(predicted, seconds) for c, predicted in left_out.items()}
            chosen[name] = min(cv[name], key=lambda c: cv[name][c])
            errors.append(np.abs(left_out[chosen[name]] - seconds) / seconds)
            model = candidates[chosen[name]](x, np.log(seconds), log_var)
        else:
            chosen[name] = "lookup"
        discrete: dict[str, list[str]] = {}
        for op in ops:
            for field, value in discrete_values(op).items():
                discrete[field] = sorted({*discrete.get(field, []), value}, key=lambda v: (len(v), v))
        known = {} if model is not None else {str(o.ops[0]): (o.seconds, o.stderr_s) for o in mine}
        kinds[name] = KindModel(model, known, discrete, x.min(axis=0), x.max(axis=0))
    return OpFit(kinds, chosen, cv, float(np.mean(np.concatenate(errors))) if errors else None)


def _noted(report: Report, note: str, done: float, total: float) -> None:
    report(done, total, note)


def _left_out(
    fit: Fit, x: Floats, seconds: Floats, log_var: Floats, folds: int, report: Callable[[float, float], None]
) -> Floats:
    """(n,) seconds of each op, predicted by a model that never saw it."""
    n = len(seconds)
    order = np.random.default_rng(0).permutation(n)
    parts = np.array_split(order, min(folds, n) if folds else n)
    predicted = np.empty(n)
    for i, part in enumerate(parts):
        rest = np.setdiff1d(order, part)
        model = fit(x[rest], np.log(seconds[rest]), log_var[rest])
        predicted[part] = np.exp(frozen.predict(model, x[part])[0])
        report(i + 1, len(parts))
    return predicted


def fit_network_level(sums_s: Floats, measured_s: Floats, stderr_s: Floats) -> tuple[float, float]:
    """(constant_s, scale) of measured = constant + scale * sum: weighted least squares with a prior at (0, 1).

    The prior (scale 1 +- 0.3, constant 0 +- 10 % of a network) matters only where networks are few. Relative weights
    1 / CI^2 have a floor of 0.5 %: what a sum of ops leaves out does not vanish with the noise.
    """
    sigma = np.hypot(stderr_s / measured_s, 0.005) * measured_s
    typical = float(measured_s.mean())
    design = np.vstack(
        [np.column_stack([np.ones_like(sums_s), sums_s]) / sigma[:, None], [[1 / (0.1 * typical), 0.0], [0.0, 1 / 0.3]]]
    )
    target = np.concatenate([measured_s / sigma, [0.0, 1 / 0.3]])
    (constant, scale), *_ = np.linalg.lstsq(design, target, rcond=None)
    return float(constant), float(scale)


def split_networks(networks: Sequence[Observation]) -> tuple[list[Observation], list[Observation]]:
    """(fit, test): a fixed random 60 / 40 split; fewer than 5 networks are all for fitting."""
    if len(networks) < 5:
        return list(networks), []
    order = np.random.default_rng(1).permutation(len(networks))
    n_test = math.ceil(TEST_SHARE * len(networks))
    return [networks[i] for i in sorted(order[n_test:])], [networks[i] for i in sorted(order[:n_test])]


def fit_predictor(
    device: str,
    observations: Sequence[Observation],
    *,
    folds: int = 10,
    provenance: dict[str, Any],
    report: Report = quiet,
) -> LatencyPredictor:
    """Fit F on the ops and the network level on 60 % of the networks; the errors on the others go into provenance.

    Provenance gains `errors`: op_mape (cross-validated), network_mape, network_spearman, noise_floor, baselines.
    """
    ops = [o for o in observations if len(o.ops) == 1]
    fit_nets, test_nets = split_networks([o for o in observations if len(o.ops) > 1])
    op_fit = fit_ops(ops, folds, report=report)
    predictor = _with_networks(LatencyPredictor(device, op_fit.kinds), fit_nets)
    errors: dict[str, Any] = {
        "op_mape": op_fit.op_mape,
        "cv": op_fit.cv_mape,
        "model": op_fit.chosen,
        "folds": folds,
        "ops": len(ops),
        "networks_fit": len(fit_nets),
        "networks_test": len(test_nets),
        "network_mape": None,
        "network_spearman": None,
        "noise_floor": None,
        "baselines": {},
    }
    if test_nets:
        measured = np.array([o.seconds for o in test_nets])
        predicted = np.array([predictor.network_s(o.ops)[0] for o in test_nets])
        errors |= {
            "network_mape": mape(predicted, measured),
            "network_spearman": spearman(predicted, measured),
            "noise_floor": float(np.mean([abs(o.drift) for o in test_nets])),
            "baselines": _baselines(ops, fit_nets, test_nets),
            "test": [[float(p), float(m)] for p, m in zip(predicted, measured, strict=True)],
        }
        predictor = replace(predictor, network_rel_std=float(np.std(measured / predicted - 1) or 1e-6))
    return replace(predictor, provenance={**provenance, "errors": errors, "software": software()})


def _with_networks(predictor: LatencyPredictor, networks: Sequence[Observation]) -> LatencyPredictor:
    if not networks:
        return predictor
    sums, measured, stderr = _sums(predictor, networks)
    constant, scale = fit_network_level(sums, measured, stderr)
    spread = float(np.std(measured / (constant + scale * sums) - 1))
    return replace(predictor, constant_s=constant, scale=scale, network_rel_std=max(spread, 1e-6))


def _sums(predictor: LatencyPredictor, networks: Sequence[Observation]) -> tuple[Floats, Floats, Floats]:
    return (
        np.array([float(predictor.predict_s(o.ops).sum()) for o in networks]),
        np.array([o.seconds for o in networks]),
        np.array([o.stderr_s for o in networks]),
    )


def _baselines(
    ops: Sequence[Observation], fit_nets: Sequence[Observation], test_nets: Sequence[Observation]
) -> dict[str, dict[str, float]]:
    """The same test networks by: the plain sum of measured ops, a line on FLOPs, a random forest per op."""
    table = {o.ops[0]: o.seconds for o in ops}
    measured = np.array([o.seconds for o in test_nets])
    found: dict[str, Floats] = {}
    if all(op in table for o in test_nets for op in o.ops):
        found["lookup_sum"] = np.array([sum(table[op] for op in o.ops) for o in test_nets])

    def work(networks: Sequence[Observation]) -> Floats:
        return np.array([float(sum(macs(op) for op in o.ops)) for o in networks])

    if len(fit_nets) >= 2:
        line = np.polyfit(work(fit_nets), [o.seconds for o in fit_nets], 1)
        found["flops_line"] = np.asarray(np.polyval(line, work(test_nets)), dtype=np.float64)
    forest = fit_ops(ops, 2, {"random_forest": CANDIDATES["random_forest"]})
    by_forest = _with_networks(LatencyPredictor("baseline", forest.kinds), fit_nets)
    found["random_forest"] = np.array([by_forest.network_s(o.ops)[0] for o in test_nets])
    return {name: {"mape": mape(p, measured), "spearman": spearman(p, measured)} for name, p in found.items()}


def software() -> dict[str, str]:
    """Versions that took part in a fit."""
    import scipy
    import sklearn

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "scipy": scipy.__version__,
    }
