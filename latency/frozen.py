"""Fitted models as plain arrays, and their evaluation in numpy: no scikit-learn is needed to predict.

A frozen model is a dict of builtins and numpy arrays, so that a file of them outlives every library version. All
predict the logarithm of seconds from columns of the feature table. `predict` returns mean and standard error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latency.stats import Floats

Frozen = dict[str, Any]


def predict(model: Frozen, features_ND: Floats) -> tuple[Floats, Floats]:
    """(n,) mean and (n,) standard error of log seconds. Raises ValueError for a model of unknown kind."""
    x = features_ND[:, model["columns"]]
    match model["kind"]:
        case "gp":
            return _gp(model, x)
        case "linear":
            seconds = x @ model["coef"] + model["intercept"]
            mean = np.log(np.maximum(seconds, model["floor_s"]))
        case "trees":
            mean = _trees(model, x)
        case other:
            raise ValueError(f"unknown model kind '{other}'")
    return mean, np.full(len(x), model["std"])


def _gp(model: Frozen, x: Floats) -> tuple[Floats, Floats]:
    # Rasmussen & Williams 2006, eq. 2.25 and 2.26, with an anisotropic squared-exponential kernel.
    scaled = (x - model["mean"]) / model["scale"] / model["length"]
    train = model["x"] / model["length"]
    squared = ((scaled[:, None, :] - train[None]) ** 2).sum(axis=-1)
    k = model["amplitude"] * np.exp(-0.5 * squared)
    mean = k @ model["alpha"] * model["y_std"] + model["y_mean"]
    v = np.linalg.solve(model["cholesky"], k.T)
    variance = np.maximum(model["amplitude"] + model["noise"] - (v**2).sum(axis=0), 1e-12)
    return mean, np.sqrt(variance) * model["y_std"]


def _trees(model: Frozen, x: Floats) -> Floats:
    """Sum of the trees' leaves plus `base`; a node whose left child is -1 is a leaf."""
    total = np.full(len(x), model["base"])
    x32 = x.astype(np.float32)  # scikit-learn compares in single precision
    left, right, feature, threshold = model["left"], model["right"], model["feature"], model["threshold"]
    rows = np.arange(len(x))
    for root in model["roots"]:
        node = np.full(len(x), root)
        while (inner := left[node] >= 0).any():
            at = node[inner]
            goes_left = x32[rows[inner], feature[at]] <= threshold[at]
            node[inner] = np.where(goes_left, left[at], right[at])
        total += model["value"][node]
    return total
