"""Candidate models of one op kind, fitted with scikit-learn and frozen to arrays (latency/frozen.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from latency import frozen
from latency.features import FEATURES
from latency.frozen import Frozen
from latency.stats import Floats

Fit = Callable[[Floats, Floats, Floats], Frozen]


def fit_gp(features_ND: Floats, log_s: Floats, log_var: Floats) -> Frozen:
    """The evidence model on ops alone: log of the op's work times fitted rates, plus a GP over its shape.

    `features_ND` (n, D) of latency.features, `log_s` (n,) log seconds, `log_var` (n,) variance of each log_s, known
    from its confidence interval. Hyper-parameters by marginal likelihood.
    """
    from latency.evidence import Level, Noise, Rows, solve
    from latency.priors import fit_hyper, fit_rates, freeze, make_group, prior_cov, work_prior

    varying(features_ND, list(range(len(FEATURES))))
    n, seconds = len(log_s), np.exp(log_s)
    prior = work_prior(features_ND, fit_rates(frozen.work_terms(features_ND), seconds, log_var))
    mean = frozen.mean_log(prior, features_ND)
    rows = Rows(np.eye(n), seconds, log_var, np.zeros(n, dtype=bool))
    level, noise, fixed = Level(1.0, scale_std=0.0), Noise(), np.zeros(n)
    groups, _ = fit_hyper([make_group(("op",), ["op"] * n, features_ND)], rows, mean, fixed, level, noise)
    posterior = solve(rows, mean, prior_cov(groups, fixed), level, noise)
    return freeze(groups[0], "op", prior, posterior.alpha[:n], posterior.v[:n])


def fit_ridge(features_ND: Floats, log_s: Floats, log_var: Floats) -> Frozen:
    """Ridge on MACs and bytes moved, in seconds, weighted so that relative errors count."""
    from sklearn.linear_model import Ridge

    columns = varying(features_ND, [FEATURES.index(n) for n in ("macs", "macs_depthwise", "bytes")])
    x, seconds = features_ND[:, columns], np.exp(log_s)
    scale = x.std(axis=0)
    model = Ridge(alpha=1e-3).fit(x / scale, seconds, sample_weight=1 / seconds**2)
    coef = np.asarray(model.coef_) / scale
    predicted = np.maximum(x @ coef + model.intercept_, seconds.min() / 2)
    return {
        "kind": "linear",
        "columns": columns,
        "coef": coef,
        "intercept": float(model.intercept_),
        "floor_s": float(seconds.min() / 2),
        "std": spread(np.log(predicted) - log_s),
    }


def fit_forest(features_ND: Floats, log_s: Floats, log_var: Floats) -> Frozen:
    """Random forest on all features, the model nn-Meter uses."""
    from sklearn.ensemble import RandomForestRegressor

    columns = varying(features_ND, list(range(len(FEATURES))))
    x = features_ND[:, columns]
    model = RandomForestRegressor(100, random_state=0).fit(x, log_s)
    return freeze_trees(
        [t.tree_ for t in model.estimators_],
        1 / len(model.estimators_),
        0.0,
        columns,
        spread(model.predict(x) - log_s),
    )


def fit_boosting(features_ND: Floats, log_s: Floats, log_var: Floats) -> Frozen:
    """Gradient boosting on all features."""
    from sklearn.ensemble import GradientBoostingRegressor

    columns = varying(features_ND, list(range(len(FEATURES))))
    x = features_ND[:, columns]
    model = GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.05, max_depth=4, subsample=0.8, random_state=0
    ).fit(x, log_s)
    base = float(np.asarray(model.init_.constant_).ravel()[0])
    return freeze_trees([t[0].tree_ for t in model.estimators_], 0.05, base, columns, spread(model.predict(x) - log_s))


CANDIDATES: dict[str, Fit] = {
    "gaussian_process": fit_gp,
    "ridge": fit_ridge,
    "random_forest": fit_forest,
    "gradient_boosting": fit_boosting,
}


def varying(features_ND: Floats, columns: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Those of `columns` that are not constant; one constant column where none varies."""
    kept = [c for c in columns if np.ptp(features_ND[:, c]) > 0]
    if not kept:
        raise ValueError("all ops have the same features")
    return np.array(kept, dtype=np.int64)


def spread(residuals: Floats) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(residuals**2)))


def freeze_trees(trees: list[Any], factor: float, base: float, columns: Any, std: float) -> Frozen:
    """scikit-learn's trees as arrays: base + factor * the sum of their leaves."""
    offsets = np.cumsum([0, *(t.node_count for t in trees)])[:-1]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(t, name) for t in trees])

    def children(name: str) -> Any:
        return np.concatenate(
            [np.where(getattr(t, name) >= 0, getattr(t, name) + o, -1) for t, o in zip(trees, offsets, strict=True)]
        ).astype(np.int32)

    return {
        "kind": "trees",
        "columns": columns,
        "base": base,
        "roots": offsets.astype(np.int32),
        "std": std,
        "left": children("children_left"),
        "right": children("children_right"),
        "feature": joined("feature").astype(np.int32),
        "threshold": joined("threshold"),
        "value": np.concatenate([t.value[:, 0, 0] for t in trees]) * factor,
    }
