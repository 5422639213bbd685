"""A new device from few measured networks: other devices' predictors mixed, then corrected by the evidence model.

    F_new(op) = exp(GP(op)) * sum_d w_d F_d(op),    w_d >= 0

The mixture is fitted on the new device's networks with a pull towards equal shares; it is the prior mean of
latency.joint, whose GP is then narrow: what other devices do not know of the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from devices.errors import UserError
from latency import frozen, pickles
from latency.evidence import Rows
from latency.features import feature_matrix
from latency.frozen import Frozen
from latency.joint import JointFit, Latents, MakePrior, Observation, fit_joint
from latency.ops import Op, parse_op
from latency.predictor import LatencyPredictor
from latency.stats import Floats
from latency.uncertainty import KindModel

CORRECTION = 0.1  # prior median of the standard deviation of log F about the mixture
PULL = 0.03  # relative error of a network that weighs as much as one device's share being off by all of it
MIN_NETWORKS = 3
AROUND = 7  # levels of a predictor's file about a source's model: file, kinds, kind, model, prior, models, context


class TransferError(UserError):
    """Predictors or measurements that a new device cannot be fitted from."""


def fit_from(
    sources: Sequence[LatencyPredictor], observations: Sequence[Observation], given: dict[str, Frozen] | None = None
) -> JointFit:
    """The new device's F from its networks and the other devices': it answers for every op that all of them know."""
    lookups, modelled = shared_kinds(sources)
    fit = fit_joint(observations, mixture_prior(sources), CORRECTION, given, also=lookups, modelled=modelled)
    return replace(fit, kinds={name: _reach(name, kind, sources) for name, kind in fit.kinds.items()})


def shared_kinds(sources: Sequence[LatencyPredictor]) -> tuple[list[Op], set[str]]:
    """The looked-up ops that all sources answer for, and the kinds of which all have a model."""
    models = [{name for name, kind in s.kinds.items() if kind.model is not None} for s in sources]
    texts = dict.fromkeys(text for s in sources for kind in s.kinds.values() for text in kind.known)
    lookups = [op for op in map(parse_op, texts) if all(s.covers_kind(op) for s in sources)]
    return lookups, set.intersection(*models)


def _reach(name: str, kind: KindModel, sources: Sequence[LatencyPredictor]) -> KindModel:
    """`kind` with the range and the values that all sources were measured on, beside its own."""
    if kind.model is None or not all(name in s.kinds for s in sources):
        return kind
    theirs = [s.kinds[name] for s in sources]
    fields = {f for k in (kind, *theirs) for f in k.discrete}
    discrete = {
        f: sorted(
            {*kind.discrete.get(f, []), *set.intersection(*(set(k.discrete.get(f, [])) for k in theirs))},
            key=lambda v: (len(v), v),
        )
        for f in fields
    }
    low = np.minimum(kind.low, np.max([k.low for k in theirs], axis=0))
    high = np.maximum(kind.high, np.min([k.high for k in theirs], axis=0))
    return replace(kind, discrete=discrete, low=low, high=high)


def check_sources(sources: Sequence[LatencyPredictor], observations: Sequence[Any]) -> None:
    """Raises TransferError for too few networks or too deep a source, UnsupportedOp where a source lacks an op."""
    networks = [o for o in observations if len(o.ops) > 1]
    if len(networks) < MIN_NETWORKS:
        raise TransferError(
            f"{len(networks)} measured networks of the new device; at least {MIN_NETWORKS} are needed, 10 are good: "
            "measure them with python -m latency.profile --few 10"
        )
    for source in sources:
        deepest = max((pickles.depth(k.model) for k in source.kinds.values() if k.model is not None), default=0)
        if AROUND + deepest > pickles.MAX_DEPTH:
            raise TransferError(
                f"{source.path}: transferred from transferred predictors too many times over to be a source once more: "
                "transfer from the predictors of measured devices that it rests on"
            )
        source.predict_s(list(dict.fromkeys(op for o in networks for op in o.ops)))


def _flat(source: LatencyPredictor, kind: str, features_ND: Floats, ops: Sequence[Op]) -> Frozen:
    """The source's model of `kind`, without what only serves its standard errors; a look-up becomes 1-nearest."""
    model = source.kinds[kind].model
    if model is None:
        known = source.predict_s(list(ops))  # in a network
        return {"kind": "known", "columns": np.arange(features_ND.shape[1]), "x": features_ND, "log_s": np.log(known)}
    lean = _lean(model)
    return lean if source.context is None else {"kind": "context", "model": lean, "rates": source.context}


def _lean(model: Frozen) -> Frozen:
    """`model` and all models inside it (of a context, a blend, a source itself transferred) without their v."""
    lean = dict(model)
    if "v" in model:
        lean["v"] = np.zeros((len(model["v"]), 0), dtype=np.float32)
    for inner in ("model", "prior"):
        if inner in model:
            lean[inner] = _lean(model[inner])
    if "models" in model:
        lean["models"] = [_lean(m) for m in model["models"]]
    return lean


def mixture_prior(sources: Sequence[LatencyPredictor]) -> MakePrior:
    """A prior for latency.joint.fit_joint: F as the best mixture of the sources' F, on the networks at hand."""

    def make(latents: Latents, rows: Rows) -> tuple[dict[str, Frozen], float]:
        by_source = np.column_stack([s.predict_s(latents.ops) for s in sources])
        constants = np.array([s.constant_s for s in sources])
        scales = np.array([s.scale for s in sources])
        nets = rows.network
        totals = rows.counts[nets] @ by_source * scales + constants
        weights = mix(totals, rows.seconds[nets])
        kept = [d for d, w in enumerate(weights) if w > 1e-4 * weights.max()]
        rates = (weights * scales)[kept]
        floor = 1e-4 * float(np.median(by_source[:, kept] @ rates))
        priors: dict[str, Frozen] = {}
        names = np.array(latents.kinds)
        for kind in dict.fromkeys(latents.kinds):
            mine = np.flatnonzero(names == kind)
            ops = [latents.ops[i] for i in mine]
            models = [_flat(sources[d], kind, latents.features_ND[mine], ops) for d in kept]
            priors[kind] = {"kind": "mixture", "models": models, "weights": rates, "floor_s": max(floor, 1e-12)}
        return priors, float(constants[kept] @ weights[kept])

    return make


def mix(totals_ND: Floats, measured_s: Floats) -> Floats:
    """(D,) weights >= 0 of the sources: relative least squares with a pull towards equal shares.

    Every source is first scaled to the new device, so that a share is what it contributes; the pull, PULL, decides
    between sources that few networks cannot tell apart.
    """
    from scipy.optimize import nnls

    scaled = totals_ND / measured_s[:, None]
    own = 1.0 / np.median(scaled, axis=0)
    d = totals_ND.shape[1]
    design = np.vstack([scaled * own / PULL, np.eye(d) * np.sqrt(d)])
    target = np.concatenate([np.full(len(measured_s), 1 / PULL), np.full(d, 1 / np.sqrt(d))])
    shares, _ = nnls(design, target)
    return np.asarray(shares * own, dtype=np.float64)


def load_sources(paths: Sequence[Path]) -> list[LatencyPredictor]:
    """The predictors of the known devices. Raises PredictorError, TransferError for the same file twice."""
    from latency.predictor import load_predictor

    if len({p.resolve() for p in paths}) < len(paths):
        raise TransferError("--transfer-from names a predictor twice")
    return [load_predictor(p) for p in paths]


def most_informative(
    networks: Sequence[Sequence[Op]], k: int, sources: Sequence[LatencyPredictor] = (), noise: float = 0.01
) -> list[int]:
    """Indices of the `k` networks that, once measured, leave the least variance in all of `networks`.

    Greedy, under the prior: what the sources disagree on (or, without sources, the rates of work), and the GP about
    it; relative measurement noise `noise`. The first pick is the most telling. Raises TransferError for k < 1 or too
    few networks.
    """
    if not 1 <= k <= len(networks):
        raise TransferError(f"{k} networks to choose out of {len(networks)}")
    ops = tuple(dict.fromkeys(op for chain in networks for op in chain if not op.is_free))
    place = {op: i for i, op in enumerate(ops)}
    counts = np.zeros((len(networks), len(ops)))
    for row, chain in zip(counts, networks, strict=True):
        for op in chain:
            if not op.is_free:
                row[place[op]] += 1
    covariance = _prior_of_networks(counts, ops, sources)
    chosen: list[int] = []
    for _ in range(k):
        gain = (covariance**2).sum(axis=0) / (np.diag(covariance) + noise**2)
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / (column[best] + noise**2)
    return chosen


def _prior_of_networks(counts: Floats, ops: Sequence[Op], sources: Sequence[LatencyPredictor]) -> Floats:
    """(N, N) prior covariance of the networks' log seconds."""
    from latency.priors import kernel, make_group

    x = feature_matrix(ops)
    if sources:
        basis = np.column_stack([s.predict_s(ops) for s in sources])
    else:
        basis = frozen.work_terms(x)
        basis = basis[:, basis.sum(axis=0) > 0]
    totals = counts @ basis
    basis = basis / totals.mean(axis=0)
    f = basis.mean(axis=1)
    sums = counts @ f
    share = (counts @ basis) / sums[:, None]
    share = share - share.mean(axis=1, keepdims=True)
    kinds = [type(op).__name__ for op in ops]
    group = make_group(tuple(dict.fromkeys(kinds)), kinds, x, CORRECTION if sources else None)
    jacobian = counts * f / sums[:, None]
    spread = 1.0 if sources else 0.5
    of_ops = kernel(group, group.theta)[0]
    return np.asarray(
        jacobian @ of_ops @ jacobian.T + spread**2 * share @ share.T / basis.shape[1] + 0.3**2, dtype=np.float64
    )
