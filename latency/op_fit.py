"""F of one kind of op from ops timed alone: which model, and how it fares on ops left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from devices.errors import UserError
from latency import frozen
from latency.console import Report, quiet
from latency.estimators import CANDIDATES, Fit
from latency.features import FEATURES, feature_matrix, measured_values
from latency.joint import MIN_OPS, Observation
from latency.ops import Op
from latency.stats import Floats, mape
from latency.uncertainty import KindModel

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
        known = {} if model is not None else {str(o.ops[0]): (o.seconds, o.stderr_s) for o in mine}
        kinds[name] = KindModel(model, known, measured_values(ops), x.min(axis=0), x.max(axis=0))
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
