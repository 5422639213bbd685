"""The standard error of a network's latency: errors that its ops share do not average out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency import frozen
from latency.features import feature_matrix
from latency.frozen import Frozen
from latency.kernel_std import FORM, network_std_s
from latency.ops import Op
from latency.stats import Floats


@dataclass(frozen=True)
class KindModel:
    """F for one kind of op.

    `model` is None where too few ops were measured to fit one: then only `known` ops are answered, by look-up.
    """

    model: Frozen | None
    known: dict[str, tuple[float, float]]  # op text -> (seconds, standard error), for look-up only
    discrete: dict[str, list[str]]  # field -> values measured
    low: Floats  # (len(FEATURES),) smallest and largest feature measured
    high: Floats


def network_std(
    about: dict[str, Any],
    kinds: dict[str, KindModel],
    ops: Sequence[Op],
    weights_s: Floats,
    std_s: Floats,
    seconds: float,
) -> float:
    """Standard error of a measurement of the network that runs `ops`, predicted to take `seconds`.

    `about` is latency.joint.JointFit.uncertainty; `weights_s` (n,) and `std_s` (n,) are what F of each op alone adds to
    the network and the standard error of that. With w the weights as contributions to log F, constant and log
    scale, K the prior covariance and V what the data took off it: w^T K w - |V^T K w|^2, plus the networks' noise, plus
    what all ops of sizes never measured drift off together (latency/new_sizes.py).
    Predictors of kernels have another form of it: latency/kernel_std.py.
    """
    if about.get("form") == FORM:
        return network_std_s(about, kinds, ops, weights_s, seconds)
    prior, explained = 0.0, np.zeros(about["level_v"].shape[1])
    independent = drift = 0.0
    shared: dict[int, tuple[Frozen, list[Floats], list[Floats]]] = {}
    by_kind: dict[str, list[int]] = {}
    for i, op in enumerate(ops):
        if not op.is_free:
            by_kind.setdefault(type(op).__name__, []).append(i)
    for name, indices in by_kind.items():
        model = kinds[name].model
        if model is None:
            at, on, alone = _known(about, kinds[name], [str(ops[i]) for i in indices], weights_s[indices])
            prior, explained, independent = prior + at, explained + on, independent + alone
        elif model["kind"] == "evidence":  # kinds that share a prior share its arrays, and have correlated errors
            _, xs, ws = shared.setdefault(id(model["x"]), (model, [], []))
            xs.append(frozen.standardised(model, feature_matrix([ops[i] for i in indices])))
            ws.append(weights_s[indices] * frozen.widening(model, xs[-1]))
            drift += float(weights_s[indices] @ frozen.drifts(model, xs[-1]))
        else:
            independent += float((std_s[indices] ** 2).sum())
    for model, xs, ws in shared.values():
        x, w = np.concatenate(xs), np.concatenate(ws)
        prior += float(w @ frozen.kernel(model, x, x) @ w)
        explained = explained + (w @ frozen.kernel(model, x, model["x"])) @ model["v"]
    level = np.array([about["typical_s"], float(weights_s.sum())])
    level_var = np.array([about["constant_var"], about["scale_var"]])
    if len(about.get("context_var", ())):
        level = np.append(level, _context_x(about, feature_matrix([op for op in ops if not op.is_free])).sum(axis=0))
        level_var = np.append(level_var, about["context_var"])
    prior += float(level**2 @ level_var)
    explained = explained + (level * level_var) @ about["level_v"]
    of_f = max(prior - float(explained @ explained), 0.0) + independent
    std = float(np.sqrt(of_f + (about["noise"] * seconds) ** 2) * about["factor"])
    return float(np.hypot(std, drift))  # which was learnt as it is


def _context_x(about: dict[str, Any], features_ND: Floats) -> Floats:
    """(n, B) what each op adds to the sums that b, in units of typical_s, is of (latency/evidence.py)."""
    return np.asarray(about["typical_s"] * frozen.context_terms(features_ND) / about["context_mean"])


def context_std_s(about: dict[str, Any], features_ND: Floats) -> Floats:
    """(n,) standard error, in seconds of a network, of what ops take there beside their time alone."""
    if not len(about.get("context_var", ())):
        return np.zeros(len(features_ND))
    prior = np.asarray(about["context_var"])
    explained = prior[:, None] * about["level_v"][2:]
    covariance = np.diag(prior) - explained @ explained.T
    x = _context_x(about, features_ND)
    variance: Floats = np.einsum("ij,jk,ik->i", x, covariance, x)
    std_s: Floats = np.sqrt(np.maximum(variance, 0.0))
    return std_s


def _known(about: dict[str, Any], kind: KindModel, texts: list[str], weights_s: Floats) -> tuple[float, Floats, float]:
    """(w^T K w, V^T K w, variance of ops that took no part in the joint fit) of a look-up kind."""
    place = {text: i for i, text in enumerate(about["known_ops"])}
    total: dict[str, float] = {}
    for text, w in zip(texts, weights_s, strict=True):
        total[text] = total.get(text, 0.0) + float(w)
    prior, explained, alone = 0.0, np.zeros(about["level_v"].shape[1]), 0.0
    for text, w in total.items():
        if text in place:
            var = float(about["known_var"][place[text]])
            prior += w * w * var
            explained = explained + w * var * about["known_v"][place[text]]
        else:
            seconds, std = kind.known[text]
            alone += (w * std / seconds) ** 2
    return prior, explained, alone
