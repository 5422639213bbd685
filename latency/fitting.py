"""From measurements to a LatencyPredictor, and how it fares on what it never saw."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from devices.errors import UserError
from latency import frozen
from latency.accuracy import scores
from latency.console import Report, quiet
from latency.estimators import CANDIDATES, Fit
from latency.features import FEATURES, discrete_values, feature_matrix
from latency.flops import macs
from latency.frozen import Frozen
from latency.joint import MIN_OPS, JointFit, MakePrior, Observation, fit_joint, work_priors
from latency.ops import Op
from latency.predictor import LatencyPredictor
from latency.stats import Floats, mape, spearman
from latency.uncertainty import KindModel

TEST_SHARE = 0.4  # of the networks of a table, never used in any fit
TEST_SHARE_NETWORKS = 0.2  # the same where networks are all there is
MARGIN = 0.9  # another model than the evidence model is taken only where its error is below this share of its
EXTRAPOLATED = ("log_height", "log_kernel", "log_expand")  # features whose values are left out whole
MAX_EXTRAPOLATED = 300  # ops of a kind above which that is not done: minutes of fitting


class FitError(UserError):
    """Measurements that no predictor can be fitted on."""


@dataclass(frozen=True)
class LeftOut:
    """Ops of one kind, each predicted by a model that never saw it."""

    ops: tuple[Op, ...]
    measured_s: Floats
    predicted_s: Floats
    std_s: Floats


@dataclass(frozen=True)
class OpFit:
    """F of all kinds from lone ops, and how it fared in cross-validation."""

    kinds: dict[str, KindModel]
    chosen: dict[str, str]  # kind -> name of its model
    cv_mape: dict[str, dict[str, float]]  # kind -> model -> MAPE over left-out ops
    op_mape: float | None  # of the chosen models, over all left-out ops; None: every kind is look-up only
    left_out: dict[str, LeftOut] = field(default_factory=dict)  # by the chosen models
    nested_mape: float | None = None  # each fold by the model that the other folds choose: no bias of selection


@dataclass(frozen=True)
class Details:
    """What a fit's report page shows and the predictor does not carry."""

    left_out: dict[str, LeftOut]
    test_ops: list[tuple[Op, ...]]
    test_measured_s: Floats
    test_predicted_s: Floats
    test_std_s: Floats


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
    left_out: dict[str, LeftOut] = {}
    nested: list[Floats] = []
    for name in sorted({type(o.ops[0]).__name__ for o in observations}):
        mine = [o for o in observations if type(o.ops[0]).__name__ == name]
        ops = [o.ops[0] for o in mine]
        x, seconds = feature_matrix(ops), np.array([o.seconds for o in mine])
        log_var = np.array([(o.stderr_s / o.seconds) ** 2 for o in mine])
        model = None
        if len(mine) >= MIN_OPS:
            parts = _parts(len(mine), folds)
            tried = {
                c: _left_out(fit, x, seconds, log_var, parts, partial(_noted, report, f"{name}: {c}"))
                for c, fit in candidates.items()
            }
            cv[name] = {c: mape(predicted, seconds) for c, (predicted, _) in tried.items()}
            chosen[name] = _choose(cv[name])
            predicted, std = tried[chosen[name]]
            left_out[name] = LeftOut(tuple(ops), seconds, predicted, np.hypot(std, np.sqrt(log_var) * seconds))
            nested.append(_nested(tried, seconds, parts))
            model = candidates[chosen[name]](x, np.log(seconds), log_var)
        else:
            chosen[name] = "lookup"
        discrete: dict[str, list[str]] = {}
        for op in ops:
            for field_, value in discrete_values(op).items():
                discrete[field_] = sorted({*discrete.get(field_, []), value}, key=lambda v: (len(v), v))
        known = {} if model is not None else {str(o.ops[0]): (o.seconds, o.stderr_s) for o in mine}
        kinds[name] = KindModel(model, known, discrete, x.min(axis=0), x.max(axis=0))
    errors = [np.abs(o.predicted_s / o.measured_s - 1) for o in left_out.values()]
    return OpFit(
        kinds,
        chosen,
        cv,
        float(np.mean(np.concatenate(errors))) if errors else None,
        left_out,
        float(np.mean(np.concatenate(nested))) if nested else None,
    )


def _choose(errors: dict[str, float]) -> str:
    """The model of least error; the first (the evidence model) unless another is better by MARGIN."""
    best, first = min(errors, key=lambda c: errors[c]), next(iter(errors))
    return best if errors[best] < MARGIN * errors[first] else first


def _noted(report: Report, note: str, done: float, total: float) -> None:
    report(done, total, note)


def _parts(n: int, folds: int) -> list[Any]:
    order = np.random.default_rng(0).permutation(n)
    return list(np.array_split(order, min(folds, n) if folds else n))


def _left_out(
    fit: Fit, x: Floats, seconds: Floats, log_var: Floats, parts: list[Any], report: Callable[[float, float], None]
) -> tuple[Floats, Floats]:
    """(n,) seconds of each op, predicted by a model that never saw it, and (n,) their standard errors."""
    predicted, std = np.empty(len(seconds)), np.empty(len(seconds))
    for i, part in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(seconds)), part)
        model = fit(x[rest], np.log(seconds[rest]), log_var[rest])
        log_s, log_std = frozen.predict(model, x[part])
        predicted[part] = np.exp(log_s)
        std[part] = predicted[part] * log_std
        report(i + 1, len(parts))
    return predicted, std


def _nested(tried: dict[str, tuple[Floats, Floats]], seconds: Floats, parts: list[Any]) -> Floats:
    """(n,) relative errors where each fold is predicted by the model that did best on the other folds."""
    errors = {c: np.abs(predicted / seconds - 1) for c, (predicted, _) in tried.items()}
    found = np.empty(len(seconds))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(seconds)), part)
        found[part] = errors[_choose({c: float(e[rest].mean()) for c, e in errors.items()})][part]
    return found


def extrapolation(observations: Sequence[Observation], fit: Fit = CANDIDATES["gaussian_process"]) -> dict[str, float]:
    """`Kind.feature` -> MAPE over ops whose value of that feature no op of the fit had: all of one size, kernel, ... .

    That is what a predictor is worth outside what was measured; the other cross-validation speaks of the inside.
    """
    found: dict[str, float] = {}
    for name in sorted({type(o.ops[0]).__name__ for o in observations}):
        mine = [o for o in observations if type(o.ops[0]).__name__ == name]
        if not 4 * MIN_OPS <= len(mine) <= MAX_EXTRAPOLATED:
            continue
        x, seconds = feature_matrix([o.ops[0] for o in mine]), np.array([o.seconds for o in mine])
        log_var = np.array([(o.stderr_s / o.seconds) ** 2 for o in mine])
        for feature in EXTRAPOLATED:
            values = x[:, FEATURES.index(feature)]
            parts = [np.flatnonzero(values == v) for v in np.unique(values)]
            if not 2 <= len(parts) <= 10 or max(map(len, parts)) > len(mine) - MIN_OPS:
                continue
            predicted, _ = _left_out(fit, x, seconds, log_var, parts, lambda done, total: None)
            found[f"{name}.{feature}"] = mape(predicted, seconds)
    return found


def split_networks(
    networks: Sequence[Observation], share: float = TEST_SHARE
) -> tuple[list[Observation], list[Observation]]:
    """(fit, test): a fixed random split; fewer than 5 networks are all for fitting."""
    if len(networks) < 5:
        return list(networks), []
    order = np.random.default_rng(1).permutation(len(networks))
    n_test = math.ceil(share * len(networks))
    return [networks[i] for i in sorted(order[n_test:])], [networks[i] for i in sorted(order[:n_test])]


def fit_predictor(
    device: str,
    observations: Sequence[Observation],
    *,
    folds: int = 10,
    provenance: dict[str, Any],
    report: Report = quiet,
) -> LatencyPredictor:
    """`fit_detailed`, the predictor alone."""
    return fit_detailed(device, observations, folds=folds, provenance=provenance, report=report)[0]


def fit_detailed(
    device: str,
    observations: Sequence[Observation],
    *,
    folds: int = 10,
    provenance: dict[str, Any],
    report: Report = quiet,
    make_prior: MakePrior = work_priors,
    own: float | None = None,
    hold_out: bool = True,
) -> tuple[LatencyPredictor, Details]:
    """Fit F on the ops and on a part of the networks, together; the errors on the other networks go into provenance.

    Any mix: ops alone, networks alone (then 80 % of them), both (60 %). `hold_out=False` fits on all networks, and
    the errors are those of each network left out in turn. `make_prior` and `own`: see latency.joint.fit_joint.
    Provenance gains `errors`; raises FitError where there is nothing to fit.
    """
    ops = [o for o in observations if len(o.ops) == 1]
    networks = [o for o in observations if len(o.ops) > 1]
    if not observations:
        raise FitError("nothing measured: profile a device first (python -m latency.profile)")
    share = TEST_SHARE if ops else TEST_SHARE_NETWORKS
    fit_nets, test_nets = split_networks(networks, share) if hold_out else (networks, [])
    op_fit = fit_ops(ops, folds, report=report) if ops else OpFit({}, {}, {}, None)
    given: dict[str, Frozen] = {}
    for name, model in op_fit.chosen.items():
        fitted = op_fit.kinds[name].model
        if model not in ("gaussian_process", "lookup") and fitted is not None:
            given[name] = fitted
    report(0.0, 1.0, "ops and networks together")
    joint = fit_joint([*ops, *fit_nets], make_prior, own, given)
    predictor = LatencyPredictor(device, joint.kinds, joint.constant_s, joint.scale, uncertainty=joint.uncertainty)
    errors = _op_errors(op_fit, ops, folds) | _network_errors(predictor, joint, ops, fit_nets, test_nets)
    predicted, std = _networks(predictor, test_nets)
    details = Details(
        op_fit.left_out, [o.ops for o in test_nets], np.array([o.seconds for o in test_nets]), predicted, std
    )
    return replace(predictor, provenance={**provenance, "errors": errors, "software": software()}), details


def _op_errors(op_fit: OpFit, ops: Sequence[Observation], folds: int) -> dict[str, Any]:
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


def _network_errors(
    predictor: LatencyPredictor,
    joint: JointFit,
    ops: Sequence[Observation],
    fit_nets: Sequence[Observation],
    test_nets: Sequence[Observation],
) -> dict[str, Any]:
    errors: dict[str, Any] = {
        "networks_fit": len(fit_nets),
        "networks_test": len(test_nets),
        "network_mape": None,
        "network_spearman": None,
        "network": {},
        "network_loo_mape": float(np.mean(np.abs(joint.loo_error))) if len(joint.loo_error) >= 5 else None,
        "noise_floor": None,
        "baselines": {},
    }
    if test_nets:
        measured = np.array([o.seconds for o in test_nets])
        predicted, std = _networks(predictor, test_nets)
        errors |= {
            "network_mape": mape(predicted, measured),
            "network_spearman": spearman(predicted, measured),
            "network": scores(predicted, measured, std),
            "baselines": _baselines(ops, fit_nets, test_nets),
            "test": np.round(np.column_stack([predicted, measured]), 9)[:1000].tolist(),
        }
        if any(o.drift for o in test_nets):
            errors["noise_floor"] = float(np.mean([abs(o.drift) for o in test_nets]))
    return errors


def _networks(predictor: LatencyPredictor, networks: Sequence[Observation]) -> tuple[Floats, Floats]:
    both = np.array([predictor.network_s(o.ops) for o in networks]).reshape(-1, 2)
    return both[:, 0], both[:, 1]


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
