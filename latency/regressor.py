"""The evidence model behind scikit-learn's API: for pipelines and searches of others, on features of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from latency.evidence import Level, Noise, Posterior, Rows, linearise, solve
from latency.priors import MAX_ITER, Group, fit_hyper, group_of, kernel_between, prior_cov
from latency.stats import Floats


class LatencyRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Positive times y from features X, or from sums of them.

    log F(x) is a Gaussian process (RBF, linear trend, own share) about a constant; hyper-parameters by marginal
    likelihood. With `counts` (N, n) in `fit`, observation i is sum_j counts[i, j] F(X[j]): whole networks, where X
    are the ops. `y` must be positive.

    rel_noise: relative standard error of the observations beyond what `rel_std` in `fit` says.
    hyper_steps: steps of the optimiser of the hyper-parameters, at most.
    """

    def __init__(self, rel_noise: float = 0.01, hyper_steps: int = MAX_ITER) -> None:
        self.rel_noise = rel_noise
        self.hyper_steps = hyper_steps

    def fit(self, X: Any, y: Any, counts: Any = None, rel_std: Any = None) -> LatencyRegressor:
        """X (n, d), y (n,); or y (N,) with `counts` (N, n). `rel_std`: relative standard error of y, one or many."""
        if counts is None:
            X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        else:
            X = validate_data(self, X, dtype=np.float64)
            y = check_array(y, ensure_2d=False, dtype=np.float64)
        if (y <= 0).any():
            raise ValueError("y holds times: every value must be positive")
        a = np.eye(len(X)) if counts is None else check_array(counts, dtype=np.float64)
        if a.shape != (len(y), len(X)) or (a < 0).any() or not (a.sum(axis=1) > 0).all():
            raise ValueError(f"counts must be ({len(y)}, {len(X)}), at least 0, and no row empty; got shape {a.shape}")
        lone = (a.sum(axis=1) == 1) & (a.max(axis=1) == 1)
        std = np.broadcast_to(0.0 if rel_std is None else np.asarray(rel_std, dtype=np.float64), y.shape)
        rows = Rows(a, y, std**2 + self.rel_noise**2, ~lone)
        self.log_mean_ = float(np.median(np.log(y / a.sum(axis=1))))
        mean, fixed, level = np.full(len(X), self.log_mean_), np.zeros(len(X)), Level(1.0, 0.0, 0.0, 0.0)
        noise = Noise(network=self.rel_noise)
        groups, noise = fit_hyper([group_of(X)], rows, mean, fixed, level, noise, max_iter=self.hyper_steps)
        self.group_: Group = groups[0]
        self.posterior_: Posterior = solve(rows, mean, prior_cov(groups, fixed), level, noise)
        self.log_marginal_likelihood_ = self._evidence(rows, mean, level, noise)
        return self

    def _evidence(self, rows: Rows, mean: Floats, level: Level, noise: Noise) -> float:
        """Laplace's approximation at the mode (Rasmussen & Williams 2006, eq. 3.32)."""
        at = linearise(rows, mean, self.posterior_.u, level, noise)
        s = at.jacobian @ self.posterior_.prior_cov @ at.jacobian.T + np.diag(at.variance)
        sign, log_det = np.linalg.slogdet(s)
        assert sign > 0
        return float(-0.5 * (at.target @ np.linalg.solve(s, at.target) + log_det + len(s) * np.log(2 * np.pi)))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """(n,) times; with `return_std` also their (n,) standard errors."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        cross, own = kernel_between(self.group_, X)
        n = len(self.group_.x)
        mean = np.exp(self.log_mean_ + cross @ self.posterior_.alpha[:n])
        if not return_std:
            return mean
        variance = own - ((cross @ self.posterior_.v[:n]) ** 2).sum(axis=1)
        return mean, mean * np.sqrt(np.maximum(variance, 1e-12))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # check_estimator's data have negative targets made positive
        return tags
