"""Fitted models as plain arrays, and their evaluation in numpy: no scikit-learn is needed to predict.

A frozen model is a dict of builtins and numpy arrays, so that a file of them outlives every library version. All
predict the logarithm of seconds from columns of the feature table; `predict` returns mean and standard error.

`evidence` is the model of latency/evidence.py, log F(op) = log m(op) + GP: `predict` as usual; the
predictor takes the variance of sums from its parts, for errors that ops share do not average out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latency.features import FEATURES, NAMED
from latency.stats import Floats
from latency.tiles import NAMES as TILES

Frozen = dict[str, Any]

SAME_OP = 1e-12  # squared distance, in length scales, below which two feature rows are one op
SAME_SIZE = 1e-6  # distance in standard deviations, below which two sizes are one


def predict(model: Frozen, features_ND: Floats) -> tuple[Floats, Floats]:
    """(n,) mean and (n,) standard error of log seconds. Raises ValueError for a model of unknown kind."""
    if model["kind"] == "evidence":
        return _evidence(model, features_ND)
    if model["kind"] == "known":  # a look-up inside a mixture: the op with these features
        asked = features_ND[:, model["columns"]] if "columns" in model else features_ND
        nearest = np.abs(asked[:, None, :] - model["x"][None]).sum(axis=-1).argmin(axis=1)
        return model["log_s"][nearest], np.zeros(len(features_ND))
    if model["kind"] == "blend":  # the mean of several models' logarithms
        each = [predict(m, features_ND)[0] for m in model["models"]]
        mean = np.average(each, axis=0, weights=model.get("weights"))  # of files of before schema 6: all alike
        return np.asarray(mean, dtype=np.float64), np.full(len(features_ND), model["std"])
    if model["kind"] == "work":  # a prior mean by itself
        return mean_log(model, features_ND), np.zeros(len(features_ND))
    if model["kind"] == "context":  # inside a mixture: F of ops in a network, of a model of ops alone
        log_s, log_std = predict(model["model"], features_ND)
        alone = np.exp(log_s)
        inside = in_context(alone, features_ND, model["rates"])
        return np.log(inside), log_std * alone / inside
    x = features_ND[:, model["columns"]]
    match model["kind"]:
        case "gp":
            return _gp(model, x)
        case "linear":
            seconds = x @ model["coef"] + model["intercept"]
            mean = np.log(np.maximum(seconds, model["floor_s"]))
        case "trees":
            mean = _trees(model, x)
            if "prior" in model:  # of what the work does not explain
                mean = mean + mean_log(model["prior"], features_ND)
        case other:
            raise ValueError(f"unknown model kind '{other}'")
    return mean, np.full(len(x), model["std"])


#: What an op computes and moves, from which the prior mean is a sum with positive weights: (columns added, subtracted).
WORK_TERMS = (
    ("kernels", None),
    ("macs", "macs_depthwise"),
    ("macs_depthwise", None),
    ("bytes", None),
    ("params", None),
)
TERMS = (*(a for a, _ in WORK_TERMS), *TILES, *(f"bytes_{name}" for name in NAMED))  # of `work_terms`, in its order
TILE_COLUMNS = [FEATURES.index(name) for name in TILES]
OF_ALL = ("starts_", "bytes_", "spilled")  # how terms begin that kernels have which are cut into nothing
CUT = [i for i, name in enumerate(TILES) if not name.startswith(OF_ALL)]
NAMED_COLUMNS = [FEATURES.index(f"is_{name}") for name in NAMED]


def work_terms(features_ND: Floats) -> Floats:
    """(n, B) kernels, dense MACs, depthwise MACs, bytes moved, parameters, latency.tiles.Tiles of each op, and the
    bytes again in a column for each function that kernels have by name: an exponential costs more than a sum.

    What is cut into tiles is no MACs besides: of a wide window on a small map these are a multiple of what is computed.
    """
    plain, tiles = _plain_terms(features_ND), features_ND[:, TILE_COLUMNS]
    plain[tiles[:, CUT].any(axis=1), 1:3] = 0.0
    named = features_ND[:, NAMED_COLUMNS] * plain[:, 3:4]
    return np.column_stack([plain, tiles, named])


def _plain_terms(features_ND: Floats) -> Floats:
    column = FEATURES.index
    parts = [features_ND[:, column(a)] - (features_ND[:, column(b)] if b else 0.0) for a, b in WORK_TERMS]
    return np.column_stack(parts)


#: What an op timed alone over and over keeps in caches and in its own layout, and one inside a network does not.
CONTEXT_TERMS = ("bytes", "params")
LEAST = 0.1  # share of its time alone that an op takes at least inside a network


def context_terms(features_ND: Floats) -> Floats:
    """(n, 2) bytes moved and parameters of each op."""
    return features_ND[:, [FEATURES.index(name) for name in CONTEXT_TERMS]]


def in_context(alone_s: Floats, features_ND: Floats, rates: Floats) -> Floats:
    """(n,) seconds inside a network of ops that take `alone_s` (n,) alone; `rates` (2,) s per unit of CONTEXT_TERMS."""
    return np.maximum(alone_s + context_terms(features_ND) @ rates, LEAST * alone_s)


def mean_log(prior: Frozen, features_ND: Floats) -> Floats:
    """(n,) log of the prior mean: a sum over the op's work, or over the predictions for other devices."""
    match prior["kind"]:
        case "work":
            terms = work_terms(features_ND) if "terms" in prior else _plain_terms(features_ND)
        case "mixture":
            terms = np.column_stack([np.exp(predict(m, features_ND)[0]) for m in prior["models"]])
        case other:
            raise ValueError(f"unknown prior mean '{other}'")
    return np.asarray(np.log(np.maximum(terms @ prior["weights"], prior["floor_s"])), dtype=np.float64)


def standardised(model: Frozen, features_ND: Floats) -> Floats:
    """(n, d) the columns that the kernel of an `evidence` model sees."""
    x: Floats = (features_ND[:, model["columns"]] - model["mean"]) / model["scale"]
    if len(model["code"]):
        x = np.column_stack([x, np.broadcast_to(model["code"], (len(x), len(model["code"])))])
    return x


def kernel(model: Frozen, a: Floats, b: Floats) -> Floats:
    """(len(a), len(b)) prior covariance of log F: RBF x exponential + linear + what each op has of its own."""
    squared = ((a[:, None, :] - b[None]) / model["length"]) ** 2
    r = np.sqrt(squared @ model["rough"])
    d2 = squared @ (1.0 - model["rough"])
    k: Floats = model["amplitude"] * np.exp(-0.5 * d2 - r) + model["linear"] * (a @ b.T + 1.0)
    k += model["nugget"] * (squared.sum(axis=-1) < SAME_OP)
    return k


def widening(model: Frozen, x: Floats) -> Floats:
    """(n,) factors on standard errors at standardised columns `x`: above 1 at a size that nothing measured has."""
    if "sizes" not in model:
        return np.ones(len(x))
    at = x[:, int(np.argmax(model["rough"]))]
    known = np.abs(at[:, None] - model["sizes"][None]).min(axis=1) < SAME_SIZE
    return np.where(known, 1.0, model["new_size"])


def drifts(model: Frozen, x: Floats) -> Floats:
    """(n,) standard deviations of log F that ops at standardised columns `x` share, for their sizes were not measured.

    See latency/new_sizes.py; 0 at a size measured, and in files of before.
    """
    if not model.get("drift"):
        return np.zeros(len(x))
    column = int(np.argmax(model["rough"]))
    away = (x[:, column, None] - model["sizes"][None]) * model["scale"][column]  # of log size
    below = np.where(away > 0, away, np.inf).min(axis=1)
    above = np.where(away < 0, -away, np.inf).min(axis=1)
    near, far = np.minimum(below, above), np.maximum(below, above)
    bridge = near / (1.0 + near / far)  # near * far / (near + far), which is `near` beyond the last size
    known = np.abs(away).min(axis=1) < SAME_SIZE * model["scale"][column]
    return np.where(known, 0.0, model["drift"] * np.sqrt(bridge))


def _evidence(model: Frozen, features_ND: Floats) -> tuple[Floats, Floats]:
    x = standardised(model, features_ND)
    k = kernel(model, x, model["x"])
    mean = mean_log(model["prior"], features_ND) + k @ model["alpha"]
    own = model["amplitude"] + model["linear"] * ((x**2).sum(axis=1) + 1.0) + model["nugget"]
    variance = own - ((k @ model["v"]) ** 2).sum(axis=1)
    return mean, np.hypot(np.sqrt(np.maximum(variance, 1e-12)) * widening(model, x), drifts(model, x))


def _gp(model: Frozen, x: Floats) -> tuple[Floats, Floats]:
    # The model of schema 1. Rasmussen & Williams 2006, eq. 2.25 and 2.26, anisotropic squared-exponential kernel.
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
