"""How wide intervals must be: from networks predicted by fits that never saw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from latency.evidence import fit_tails
from latency.stats import Floats

if TYPE_CHECKING:
    from latency.joint import JointFit, Observation

FOLDS = 10
MIN_VALUES = 4  # of a feature, below which leaving each out says little
Z90 = 1.645
MIN_TAILS = 20  # errors below which their tails are not fitted
PRIOR_WEIGHT = 5.0  # of few errors: how many errors the stated standard errors count for


def left_out(
    observations: Sequence[Observation], fit: Callable[[Sequence[Observation]], JointFit]
) -> tuple[Floats, Floats]:
    """(n,) measured / predicted - 1 and (n,) relative standard errors; hyper-parameters, too, are of the others alone.

    10 folds, or one network at a time where there are fewer. NaN for a network with an op that the others do not
    know: it says nothing of intervals. Empty for fewer than 4.
    """
    from latency.predictor import UnsupportedOp, from_fit

    if len(observations) < 4:
        return np.empty(0), np.empty(0)
    error, relative = np.full(len(observations), np.nan), np.full(len(observations), np.nan)
    order = np.random.default_rng(2).permutation(len(observations))
    for part in np.array_split(order, min(FOLDS, len(order))):
        rest = fit([observations[i] for i in np.setdiff1d(order, part)])
        predictor = from_fit("fold", rest)
        for i in part:
            try:
                seconds, std_s = predictor.network_s(observations[i].ops)
            except UnsupportedOp:
                continue
            error[i], relative[i] = observations[i].seconds / seconds - 1, std_s / seconds
    return error, relative


def new_value_factor(values: Floats, covariance: Floats, residual: Floats) -> float:
    """Factor, at least 1, on standard errors of what has a value that nothing measured has.

    `values` (n,) of one feature, `covariance` (n, n) of the measured and `residual` (n,) about the prior mean. All of
    one value are left out at once, hyper-parameters kept (Rasmussen & Williams 2006, eq. 5.12, in blocks).
    """
    distinct = np.unique(values)
    if len(distinct) < MIN_VALUES:
        return 1.0
    inverse = np.linalg.inv(covariance)
    weighted = inverse @ residual
    z = []
    for value in distinct:
        at = np.flatnonzero(values == value)
        left = np.linalg.inv(inverse[np.ix_(at, at)])
        z.append(left @ weighted[at] / np.sqrt(np.diag(left)))
    return max(1.0, spread(np.concatenate(z)))


def spread(z: Floats) -> float:
    """Factor on standard errors so that -+ 1.645 of them holds 90 %, from `z` (n,), errors in standard errors.

    By Student's t of largest likelihood, whose quantile varies less from sample to sample than the sample's own; of
    few errors, by their mean square with the stated errors as a prior. NaN are left out.
    """
    from scipy.stats import norm, t

    z = z[np.isfinite(z)]
    if len(z) < MIN_TAILS:
        freedom = PRIOR_WEIGHT + len(z)
        scale = float(np.sqrt((PRIOR_WEIGHT + (z**2).sum()) / freedom))
        return scale * float(t.ppf(0.95, freedom)) / Z90 if len(z) else 1.0
    scale, nu = fit_tails(z)
    law = norm if np.isinf(nu) else t(nu)
    return scale * float(law.ppf(0.95)) / Z90
