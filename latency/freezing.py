"""What a predictor carries of a joint fit: a model of each kind, and what is unknown of ops and networks together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from latency import frozen
from latency.evidence import Posterior, Rows
from latency.features import measured_values
from latency.frozen import Frozen
from latency.priors import Group, freeze
from latency.stats import Floats
from latency.uncertainty import KindModel

if TYPE_CHECKING:
    from latency.joint import Latents

UNCHECKED = 0.1  # standard deviation of log scale where no network was measured: sums of this CPU's ops are 4-12 % off
MAX_FLOATS = 120_000  # of a predictor's uncertainty, in single precision where many: keeps its file below 1 MB


def freeze_all(
    latents: Latents,
    rows: Rows,
    groups: list[Group],
    priors: dict[str, Frozen],
    given: dict[str, Frozen],
    fixed: Floats,
    posterior: Posterior,
) -> tuple[dict[str, KindModel], dict[str, Any]]:
    """(models by kind, latency.joint.JointFit.uncertainty)."""
    v = _thin(posterior.v)
    n = len(latents.ops)
    log_std = np.sqrt(np.maximum(np.diag(posterior.covariance()), 1e-12))
    group_of = {k: (g, posterior.alpha[g.indices], v[g.indices]) for g in groups for k in g.kinds}
    kinds: dict[str, KindModel] = {}
    names = latents.kinds
    for kind in dict.fromkeys(names):
        mine = [i for i, k in enumerate(names) if k == kind]
        x = latents.features_ND[mine]
        members = {op: i for op, i in latents.members.items() if names[i] == kind}
        model, known = given.get(kind), {}
        if kind in group_of:
            group, alpha, of_group = group_of[kind]
            model = freeze(group, kind, priors[kind], alpha, of_group)
        elif model is None:
            f = np.exp(posterior.log_f)
            known = {str(op): (float(f[i]), float(f[i] * log_std[i])) for op, i in members.items()}
        kinds[kind] = KindModel(model, known, measured_values(members), x.min(axis=0), x.max(axis=0))
    lookup = [i for i in range(n) if names[i] not in group_of and names[i] not in given]
    uncertainty = {
        "constant_var": float(posterior.prior_cov[n, n]),
        "scale_var": float(posterior.prior_cov[n + 1, n + 1]) if rows.network.any() else UNCHECKED**2,
        "level_v": v[n:],
        "typical_s": posterior.level.typical_s,
        "context_var": posterior.level.variance[2:],
        "context_mean": np.empty(0) if rows.context is None else context_mean(latents, rows),
        "known_ops": [str(latents.ops[i]) for i in lookup],
        "known_var": fixed[lookup],
        "known_v": v[lookup],
        "noise": _network_noise(rows, posterior),
        "factor": 1.0,
    }
    return kinds, uncertainty


def context_mean(latents: Latents, rows: Rows) -> Floats:
    """(2,) CONTEXT_TERMS of the mean network; of rows that hold networks."""
    mean: Floats = (rows.counts @ frozen.context_terms(latents.features_ND))[rows.network].mean(axis=0)
    return np.maximum(mean, 1e-300)


def context_rates(latents: Latents, rows: Rows, posterior: Posterior) -> Floats | None:
    """(2,) seconds of F that one unit of each of CONTEXT_TERMS adds to an op inside a network."""
    if rows.context is None:
        return None
    return posterior.context_s / context_mean(latents, rows) / posterior.scale


def _network_noise(rows: Rows, posterior: Posterior) -> float:
    """Relative: what no sum explains, and the error of one measurement like those of the fit."""
    if not rows.network.any():
        return 0.0
    measured = float(np.median(rows.rel_var[rows.network]))
    return float(np.sqrt(posterior.noise.network**2 + measured))


def _thin(v: Floats) -> Floats:
    """`v` rotated and cut to what a small file holds: the smallest directions go, which widens intervals."""
    rank = max(1, MAX_FLOATS // len(v))
    if v.shape[1] > rank:
        left, size, _ = np.linalg.svd(v, full_matrices=False)
        v = left[:, :rank] * size[:rank]
    return v if v.size <= MAX_FLOATS // 2 else v.astype(np.float32)
