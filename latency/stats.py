"""Statistics of timings and of predictions: pure functions on numpy arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from devices.base import FEWEST

Floats = npt.NDArray[np.float64]

Z95_HALF = 0.98  # 1.96 / 2: ranks n/2 -+ 0.98 sqrt(n) hold the median with 95 % (binomial, normal approximation)
MIN_FOR_CI = 6  # below this, not even the whole range of the sample holds the median with 95 % (2 * 0.5^n)
T95 = 2.45  # Student's t, 6 degrees of freedom: about what a variance from batches of a quarter of the rounds has


def median_ci(samples: Floats) -> tuple[float, float]:
    """95 % confidence interval of the median by order statistics; no assumption on the distribution.

    Ranks n/2 -+ 0.98 sqrt(n), rounded outward. Fewer than 6 samples: (-inf, inf), for no interval has that confidence.
    """
    n = len(samples)
    if n < MIN_FOR_CI:
        return -math.inf, math.inf
    ordered = np.sort(samples)
    low = max(math.floor(n / 2 - Z95_HALF * math.sqrt(n)), 1)
    high = min(math.ceil(1 + n / 2 + Z95_HALF * math.sqrt(n)), n)
    return float(ordered[low - 1]), float(ordered[high - 1])


def half_width(samples: Floats) -> float:
    """Half the width of `median_ci` as a fraction of the median; inf where there is no interval."""
    low, high = median_ci(samples)
    return (high - low) / 2 / float(np.median(samples))


def widened(interval: tuple[float, float], middle: float, scale: float) -> tuple[float, float]:
    """A 95 % `interval` about `middle`, both above 0, where all are off by a common factor known within +-`scale`."""
    if not scale or not math.isfinite(interval[0]):
        return interval
    low, high = (math.hypot(math.log(end / middle), scale) for end in interval)
    return middle * math.exp(-low), middle * math.exp(high)


def round_factors(samples_WR: Floats, min_workloads: int = FEWEST) -> Floats:
    """What hit all workloads of a round at once: (W, R) factors, whose mean over time is 1 (`time_mean`).

    `samples_WR` holds seconds of W workloads in R rounds, NaN where a workload was not visited. The factor that applies
    to a sample is the median over the OTHER workloads of that round of sample / that workload's median, iterated until
    the medians are those of the corrected samples. Leaving the workload itself out matters: else the middle workload
    of a round would be corrected to exactly its own median, and intervals would come out too narrow. A round with
    fewer than `min_workloads` says nothing of a common factor: 1.

    The medians alone would not bring together rounds that share few workloads (two sessions, in the second of which
    most workloads are new): they begin from `_common_parts`, which does.
    """
    factors = np.ones_like(samples_WR)
    judged = (~np.isnan(samples_WR)).sum(axis=0) >= min_workloads
    if not judged.any():
        return factors
    factors[:, judged] = _common_parts(samples_WR[:, judged])
    for _ in range(4):
        medians_W = np.nanmedian(samples_WR / factors, axis=1, keepdims=True)
        others = _median_of_others(samples_WR[:, judged] / medians_W)
        factors[:, judged] = others / time_mean(np.nanmedian(others, axis=0))
    return np.where(np.isnan(factors), 1.0, factors)


def time_mean(factors_R: Floats) -> float:
    """The mean over time of rounds' factors, a tenth of the rounds at either end left out (a slow start, a burst).

    A round of factor f lasts f times as long, so that a slow hour holds fewer of them: each weighs by its f.
    Where the speed swings by +-20 %, the median of the rounds is 4 % too small, their plain mean 2 %, this 1 %.
    """
    kept = np.sort(factors_R)[_trim(len(factors_R)) : len(factors_R) - _trim(len(factors_R))]
    return float((kept * kept).sum() / kept.sum())


def time_mean_half_width(factors_R: Floats) -> float:
    """Half the 95 % interval of `time_mean` as a fraction: how well these rounds, in order, tell the host's speed.

    Speed drifts, so that rounds are not independent: by overlapping batch means (Meketon, Schmeiser 1984), each of a
    quarter of the rounds. 0 for fewer than four rounds, which tell nothing.
    """
    n, batch = len(factors_R), len(factors_R) // 4
    if not batch:
        return 0.0
    ordered = np.sort(factors_R)
    held = np.clip(factors_R, ordered[_trim(n)], ordered[n - 1 - _trim(n)])
    sums = np.concatenate(([0.0], np.cumsum(held)))
    means = (sums[batch:] - sums[:-batch]) / batch
    variance = batch / (n - batch) * float(((means - held.mean()) ** 2).mean())
    return T95 * math.sqrt(variance) / float(held.mean())


def _trim(n: int) -> int:
    return math.ceil(n / 10) if n > 2 else 0


def _common_parts(samples_WR: Floats, passes: int = 4) -> Floats:
    """(R,) a factor for each round: log(sample) = workload + round, by least squares over all samples at once.

    Huber's weights hold outliers down. Rounds that share no workload, not even through others, keep their own scale.
    """
    seen_WR = ~np.isnan(samples_WR)
    log_WR = np.where(seen_WR, np.log(np.where(seen_WR, samples_WR, 1.0)), 0.0)
    weight_WR = seen_WR.astype(np.float64)
    b_R = np.zeros(samples_WR.shape[1])
    for _ in range(passes):
        # normal equations with the rounds eliminated: (D_W - V D_R^-1 V') a = V_w y - V D_R^-1 (V' y)
        per_W, per_R = weight_WR.sum(axis=1), weight_WR.sum(axis=0)
        sum_R = (weight_WR * log_WR).sum(axis=0)
        left = np.diag(per_W + 1e-9 * (1 + per_W)) - (weight_WR / per_R) @ weight_WR.T
        a_W = np.linalg.solve(left, (weight_WR * log_WR).sum(axis=1) - weight_WR @ (sum_R / per_R))
        b_R = (sum_R - weight_WR.T @ a_W) / per_R
        off_WR = np.abs(log_WR - a_W[:, None] - b_R)
        middle = 1.5 * 1.4826 * float(np.median(off_WR[seen_WR])) + 1e-12
        weight_WR = seen_WR * np.minimum(1.0, middle / np.maximum(off_WR, middle))
    return np.exp(b_R - np.median(b_R))


def _median_of_others(values_WR: Floats) -> Floats:
    """(W, R): for each entry the median of the other entries of its column, NaN entries left out."""
    order = np.argsort(values_WR, axis=0)  # NaN last
    ordered = np.take_along_axis(values_WR, order, axis=0)
    rank = np.argsort(order, axis=0)
    n = (~np.isnan(values_WR)).sum(axis=0)
    # without the entry of rank k, place p of the rest is place p of all for p < k, else p + 1
    low, high = (n - 2) // 2, (n - 1) // 2

    def at(place: np.ndarray) -> Floats:
        return np.take_along_axis(ordered, place + (place >= rank), axis=0)

    return (at(low) + at(high)) / 2


def half_to_half(samples: Floats) -> float:
    """(median of the second half of the samples) / (median of the first half) - 1: drift, and the noise floor."""
    n = len(samples)
    return float(np.median(samples[n // 2 :]) / np.median(samples[: n // 2]) - 1) if n >= 2 else 0.0


def mape(predicted: Floats, measured: Floats) -> float:
    """Mean absolute error as a fraction of the measured value."""
    return float(np.mean(np.abs(predicted - measured) / measured))


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; ties take their mean rank. 0 where one side is constant."""
    from scipy.stats import rankdata

    ranks_a, ranks_b = rankdata(a), rankdata(b)
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return 0.0
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])
