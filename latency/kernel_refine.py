"""Which networks to measure next: those with the most time in kernels that are predicted badly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latency.features import FEATURES, SHAPE, feature_matrix
from latency.ops import Op
from latency.stats import Floats

if TYPE_CHECKING:
    from latency.kernel_profile import Network
    from latency.table import Row

NEIGHBOURS = 5
FOLDS = 5
TREES = 30
UNKNOWN = 0.5  # relative error of a kernel of a kind of which few are measured
FAR = 0.3  # relative error added per standard deviation of distance to the measured kernels


def most_uncertain(pool: Sequence[Network], size: int, rows: Sequence[Row]) -> list[Network]:
    """The `size` networks of `pool` with the largest expected error, in order of the pool.

    The expected error of a network is the sum over its kernels of time x error, relative to its time.
    """
    measured = [(r.ops[0], r.median_s) for r in rows if r.kind == "op"]
    ops = list(dict.fromkeys(op for n in pool for op in n.ops))
    seconds, error = expected_errors(measured, ops)
    place = {op: i for i, op in enumerate(ops)}
    scores = []
    for network in pool:
        which = [place[op] for op in network.ops]
        scores.append(float((seconds[which] * error[which]).sum() / seconds[which].sum()))
    best = np.argsort(scores)[::-1][:size]
    return [pool[i] for i in sorted(best)]


def expected_errors(measured: Sequence[tuple[Op, float]], ops: Sequence[Op]) -> tuple[Floats, Floats]:
    """(n,) rough seconds and (n,) expected relative errors of `ops`, from kernels `measured` (op, seconds).

    A forest per kind, each measured kernel predicted by one that never saw it; an op's error is that of its nearest
    measured kernels, and grows with the distance to them.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import NearestNeighbors

    shape = [FEATURES.index(n) for n in SHAPE]
    typical = float(np.median([s for _, s in measured])) if measured else 1e-5
    seconds, error = np.full(len(ops), typical), np.full(len(ops), UNKNOWN)
    kinds = np.array([type(op).__name__ for op in ops])
    for kind in dict.fromkeys(kinds):
        known = [(op, s) for op, s in measured if type(op).__name__ == kind]
        if len(known) < 2 * NEIGHBOURS:
            continue
        x, log_s = feature_matrix([op for op, _ in known]), np.log([s for _, s in known])
        asked = np.flatnonzero(kinds == kind)
        x_asked = feature_matrix([ops[int(i)] for i in asked])
        forest = RandomForestRegressor(TREES, random_state=0)
        left_out = cross_val_predict(forest, x, log_s, cv=KFold(FOLDS, shuffle=True, random_state=0))
        off = np.abs(left_out - log_s)
        spread = x[:, shape].std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(x[:, shape] / scale)
        distance, index = near.kneighbors(x_asked[:, shape] / scale)
        seconds[asked] = np.exp(forest.fit(x, log_s).predict(x_asked))
        error[asked] = off[index].mean(axis=1) + FAR * distance.min(axis=1)
    return seconds, error
