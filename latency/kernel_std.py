"""How far off a sum of kernels may be: from each kernel's own expected error. Evaluates in numpy alone.

A kernel's relative error depends on its kind, on how long it takes (short ones are worse known) and on how far it lies
from those measured. Errors of a network's kernels of one kind are in part the same error, the rest is independent. So
a network of few uncertain kernels gets a wide interval, one of many well-known kernels a narrow one.
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
LOOKED_UP = 0.1  # relative error of a kernel that is looked up: what it takes varies with its place


def distance(model: Frozen | None, features_ND: Floats) -> Floats:
    """(n,) how far kernels lie from those that `model` was fitted on: 0 the same, 1 with nothing in common.

    1 - r^2, r the largest prior correlation with one of them, linear part and nugget left out. NaN where the model is
    not a Gaussian process, nor a blend with one.
    """
    if model is not None and model["kind"] == "blend":
        model = model["models"][0]
    if model is None or model["kind"] != "evidence":
        return np.full(len(features_ND), np.nan)
    alone = {**model, "linear": 0.0, "nugget": 0.0}
    x = frozen.standardised(model, features_ND)
    nearest = frozen.kernel(alone, x, np.asarray(model["x"], dtype=np.float64)).max(axis=1) / model["amplitude"]
    return np.asarray(1.0 - nearest**2, dtype=np.float64)


def distances(kinds: Mapping[str, KindModel], ops: Sequence[Op]) -> Floats:
    """(n,) `distance` of ops to those that their kinds' models were fitted on; 0 of kinds looked up and free ops."""
    found = np.zeros(len(ops))
    for name in {type(op).__name__ for op in ops if not op.is_free}:
        mine = [i for i, op in enumerate(ops) if type(op).__name__ == name]
        if kinds[name].model is not None:
            found[mine] = distance(kinds[name].model, feature_matrix([ops[i] for i in mine]))
    return found


def kernel_rel_std(of_kind: Mapping[str, Any] | None, slope: float, seconds: Floats, far: Floats) -> Floats:
    """(n,) relative standard error of kernels of one kind, predicted to take `seconds`, `far` from those measured."""
    if of_kind is None:
        return np.full(len(seconds), LOOKED_UP)
    away = np.where(np.isnan(far), 0.0, far - of_kind["far"])
    log_std = np.interp(np.log(seconds), of_kind["log_s"], of_kind["log_std"])
    return np.asarray(np.exp(log_std + 0.5 * slope * away), dtype=np.float64)


def log_std(about: Mapping[str, Any], name: str, model: Frozen, features_ND: Floats, log_s: Floats) -> Floats:
    """(n,) standard errors of log F of kernels of the kind `name`, predicted to be `log_s` (n,) by `model`."""
    far = distance(model, features_ND)
    return kernel_rel_std(about["spread"].get(name), about["far_slope"], np.exp(log_s), far)


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

    `weights_s` (n,): what each op adds to it. Equal kernels have one error; those outside what was measured all err in
    one direction, whatever their kind.
    """
    each: dict[str, dict[Op, float]] = {}
    for op, w in zip(ops, weights_s, strict=True):
        if not op.is_free:
            mine = each.setdefault(type(op).__name__, {})
            mine[op] = mine.get(op, 0.0) + float(w)
    errors: list[tuple[str, float]] = []
    outside = 0.0
    for name, mine in each.items():
        count = Counter(op for op in ops if type(op).__name__ == name)
        x, w = feature_matrix(list(mine)), np.array(list(mine.values()))
        single = w / about["scale"] / np.array([count[op] for op in mine])  # F
        std = w * kernel_rel_std(
            about["spread"].get(name), about["far_slope"], np.maximum(single, 1e-12), distance(kinds[name].model, x)
        )
        errors += [(name, float(s)) for s in std]
        outside += float(std[_outside(kinds[name], x)].sum())
    together, apart = parts(errors)
    variance = (
        about["shared"] * together
        + (1 - about["shared"]) * apart
        + (about["noise"] * seconds) ** 2
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
