"""What others predict latency with, on the same measurements: lines, tables, forests, boosting, a perceptron."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from latency.estimators import CANDIDATES
from latency.frozen import predict, work_terms
from latency.stats import Floats

Fit = Callable[[Floats, Floats, Floats], Floats]  # (train x, train y, test x) -> predicted


def flops_line(x: Floats, y: Floats, test: Floats) -> Floats:
    """Seconds as a line in MACs."""
    return np.polyval(np.polyfit(x[:, 0], y, 1), test[:, 0])


def least_squares(x: Floats, y: Floats, test: Floats) -> Floats:
    """A look-up table filled from networks: one entry an op, least squares of smallest norm."""
    one = np.ones((len(x), 1))
    entries = np.linalg.lstsq(np.hstack([x, one]), y, rcond=None)[0]
    return np.hstack([test, np.ones((len(test), 1))]) @ entries


def ridge(x: Floats, y: Floats, test: Floats) -> Floats:
    """Ridge regression, its penalty by leave-one-out."""
    return RidgeCV(np.logspace(-3, 3, 13)).fit(x, y).predict(test)


def forest(x: Floats, y: Floats, test: Floats) -> Floats:
    """Random forest, as nn-Meter uses it."""
    share = 1.0 if len(x) < 1000 else 0.33  # of features a split looks at
    return RandomForestRegressor(100, max_features=share, random_state=0).fit(x, y).predict(test)


def boosting(x: Floats, y: Floats, test: Floats) -> Floats:
    """Gradient boosting."""
    made = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, max_depth=4, subsample=0.8, random_state=0)
    return made.fit(x, y).predict(test)


def mlp(x: Floats, y: Floats, test: Floats) -> Floats:
    """A multilayer perceptron, two layers of 64, on standardised features."""
    scaler, mean, std = StandardScaler().fit(x), y.mean(), y.std() or 1.0
    epochs = 500 if len(x) < 1000 else 60
    made = MLPRegressor(hidden_layer_sizes=(64, 64), alpha=1e-2, max_iter=epochs, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(scaler.transform(x), (y - mean) / std).predict(scaler.transform(test)) * std + mean


def op_baselines(x: Floats, seconds: Floats, train: Any, test: Any) -> dict[str, Floats]:
    """Seconds of the ops `test` by models fitted on the ops `train`, in log seconds but for the lines."""
    macs = work_terms(x)[:, 1:3].sum(axis=1, keepdims=True)
    log_s, zero = np.log(seconds), np.zeros(len(seconds))
    found = {"flops_line": flops_line(macs[train], seconds[train], macs[test])}
    for name in ("ridge", "random_forest", "gradient_boosting"):
        found[name] = np.exp(predict(CANDIDATES[name](x[train], log_s[train], zero[train]), x[test])[0])
    found["mlp"] = np.exp(mlp(np.log1p(x[train]), log_s[train], np.log1p(x[test])))
    nearest = np.abs(_scaled(x)[test][:, None] - _scaled(x)[train][None]).sum(axis=-1).argmin(axis=1)
    found["lookup_nearest"] = seconds[train][nearest]
    return found


def _scaled(x: Floats) -> Floats:
    """Columns on one scale; logs of what the op does, so that a nearest op is near in ratio."""
    logs = np.log1p(x)
    return logs / np.where(logs.std(axis=0) > 0, logs.std(axis=0), 1.0)
