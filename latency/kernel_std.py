"""How far off a sum of kernels may be: from each kernel's own expected error. Evaluates in numpy alone.

A kernel's relative error depends on its kind, on how long it takes (short ones are worse known) and on how far the
models whose mean predicts it are apart. Errors of a network's kernels of one kind are in part the same error, the rest
is independent; and kernels that the models part about err together in part, whatever their kind. So a network of few
uncertain kernels gets a wide interval, one of many well-known kernels a narrow one.
latency/kernel_intervals.py finds the numbers in `about`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latency import frozen
from latency.features import FEATURES, SHAPE, feature_matrix
from latency.frozen import Frozen
from latency.op_base import Op
from latency.stats import Floats

if TYPE_CHECKING:
    from latency.uncertainty import KindModel

FORM = "kernels"  # `about["form"]`
LEAST_APART = 0.01  # disagreement of models that says no less than one of 0
LOOKED_UP = 0.1  # relative error of a kernel that is looked up: what it takes varies with its place


def disagreement(model: Frozen | None, features_ND: Floats) -> Floats:
    """(n,) how far the models whose mean `model` is are from one another: the standard deviation of their logarithms.

    Fitted on the same kernels they agree there and part elsewhere, so what they part by says how far a prediction is
    from what was measured (Lakshminarayanan et al., 1612.01474). NaN where `model` is no mean of several.
    """
    if model is None or model["kind"] != "blend":
        return np.full(len(features_ND), np.nan)
    each = [frozen.predict(m, features_ND)[0] for m in model["models"]]
    return np.asarray(np.std(each, axis=0), dtype=np.float64)


def disagreements(kinds: Mapping[str, KindModel], ops: Sequence[Op]) -> Floats:
    """(n,) `disagreement` about ops of the models of their kinds; NaN of kinds looked up and free ops."""
    found = np.full(len(ops), np.nan)
    for name in {type(op).__name__ for op in ops if not op.is_free}:
        mine = [i for i, op in enumerate(ops) if type(op).__name__ == name]
        if kinds[name].model is not None:
            found[mine] = disagreement(kinds[name].model, feature_matrix([ops[i] for i in mine]))
    return found


def far(apart: Floats) -> Floats:
    """(n,) log of `disagreement`: what the variance of a kernel is a power of."""
    return np.log(np.maximum(apart, LEAST_APART))


def kernel_rel_std(of_kind: Mapping[str, Any] | None, slope: float, seconds: Floats, away: Floats) -> Floats:
    """(n,) relative standard error of kernels of one kind, predicted to take `seconds` and `far` apart."""
    if of_kind is None:
        return np.full(len(seconds), LOOKED_UP)
    beyond = np.where(np.isnan(away), 0.0, away - of_kind["far"])
    log_std = np.interp(np.log(seconds), of_kind["log_s"], of_kind["log_std"])
    return np.asarray(np.exp(log_std + 0.5 * slope * beyond), dtype=np.float64)


def log_std(about: Mapping[str, Any], name: str, model: Frozen, features_ND: Floats, log_s: Floats) -> Floats:
    """(n,) standard errors of log F of kernels of the kind `name`, predicted to be `log_s` (n,) by `model`."""
    away = far(disagreement(model, features_ND))
    return kernel_rel_std(about["spread"].get(name), about["far_slope"], np.exp(log_s), away)


def parts(errors: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """(variance where errors of one kind are one error, variance where all are independent) of (kind, error) pairs."""
    by_kind: Counter[str] = Counter()
    for name, error in errors:
        by_kind[name] += error  # type: ignore[assignment]  # a Counter of floats
    return float(sum(v * v for v in by_kind.values())), float(sum(e * e for _, e in errors))


def network_std_s(
    about: Mapping[str, Any], kinds: Mapping[str, KindModel], ops: Sequence[Op], weights_s: Floats, seconds: float
) -> float:
    """Standard error of a measurement of the network that runs `ops`, predicted to take `seconds`.

    `weights_s` (n,): what each op adds to it. Equal kernels have one error; a part of what models part by, in the mean
    over the kernels' time, is one error of all; those outside what was measured all err in one direction, whatever
    their kind.
    """
    each: dict[str, dict[Op, float]] = {}
    for op, w in zip(ops, weights_s, strict=True):
        if not op.is_free:
            mine = each.setdefault(type(op).__name__, {})
            mine[op] = mine.get(op, 0.0) + float(w)
    errors: list[tuple[str, float]] = []
    outside = parted = weighed = 0.0
    for name, mine in each.items():
        count = Counter(op for op in ops if type(op).__name__ == name)
        x, w = feature_matrix(list(mine)), np.array(list(mine.values()))
        single = np.maximum(w / about["scale"] / np.array([count[op] for op in mine]), 1e-12)  # F
        apart = disagreement(kinds[name].model, x)
        std = w * kernel_rel_std(about["spread"].get(name), about["far_slope"], single, far(apart))
        told = ~np.isnan(apart)
        parted += float((w * np.maximum(apart, LEAST_APART))[told].sum())
        weighed += float(w[told].sum())
        errors += [(name, float(s)) for s in std]
        outside += float(std[_outside(kinds[name], x)].sum())
    same, own = parts(errors)
    variance = (
        about["shared"] * same
        + (1 - about["shared"]) * own
        + (about["noise"] ** 2 + (about.get("apart", 0.0) * parted / max(weighed, 1e-12)) ** 2) * seconds**2
        + about["call_s"] ** 2
    )
    return float(np.hypot(about["factor"] * np.sqrt(variance), outside))


def _outside(kind: KindModel, features_ND: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n,) whether a shape feature lies beyond what was measured of the kind."""
    if kind.model is None:
        return np.zeros(len(features_ND), dtype=bool)
    columns = [FEATURES.index(n) for n in SHAPE]
    x, low, high = features_ND[:, columns], kind.low[columns], kind.high[columns]
    return np.asarray(((x < low - 1e-9) | (x > high + 1e-9)).any(axis=1))
