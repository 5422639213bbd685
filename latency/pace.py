"""The pace of a device while networks are measured: it warms up, is throttled, others use it.

Networks measured one after the other share what the device did just then. Where the observations tell when they were
measured (`Observation.at`: any unit, a file's row for instance), the evidence model has a term for it,

    y = (c + sum F) (1 + d(at)) + e,    cov(d(a), d(b)) = s^2 exp(-|a - b| / l)

less its mean over the networks measured: F, and whatever is predicted from it, is that of the average moment; nothing
is known of the moment at which a new network will be measured, and what drift there was counts as noise of it. s and l
by marginal likelihood with the kernels'; where nothing drifts s is found small, and nothing changes.

In the rows d is a set of latents more, linear ones: a basis of the covariance, in the columns that otherwise hold what
ops in context differ by (`Rows.context`), never used where whole networks are all there is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latency.evidence import Level, Noise, Posterior, Rows
from latency.stats import Floats

# Medians and log standard deviations of the priors: s, relative; l, in spans from the first measured to the last.
STD, LENGTH = (0.005, 1.5), (0.1, 2.0)
MIN_NETWORKS = 100  # below it, drift is not told from what F explains
LEAST_STD = 1e-4  # of s, below which there is none: published sums of ops drift by their rounding
KNOTS = 100  # moments that the drift of more networks is interpolated from
LEAST_DIRECTION = 1e-6  # of the largest direction of the basis, below which one is left out


def told(rows: Rows) -> bool:
    """Whether `rows` can tell of drift: whole networks, enough of them, each known when."""
    return rows.at is not None and bool(rows.network.all()) and len(rows.seconds) >= MIN_NETWORKS and span(rows) > 0


def span(rows: Rows) -> float:
    """From the first network measured to the last; 0 where it is not told."""
    return 0.0 if rows.at is None else float(np.ptp(rows.at))


def prior(rows: Rows) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the normal priors on (log s, log l)."""
    return np.log([STD[0], LENGTH[0] * span(rows)]), np.array([STD[1], LENGTH[1]])


def bounds(rows: Rows) -> list[tuple[float, float]]:
    """Of (log s, log l)."""
    return [
        (float(np.log(low)), float(np.log(high))) for low, high in ((1e-5, 0.5), (1e-4 * span(rows), 20 * span(rows)))
    ]


def expected_s(rows: Rows, prior_mean: Floats, level: Level) -> Floats:
    """(N,) seconds of each network before its measurement: what drift is relative to.

    Relative to what was measured, a drift of all of it would explain every residual away.
    """
    expected: Floats = level.constant * level.typical_s + rows.counts @ np.exp(prior_mean)
    return expected


def covariance(at: Floats, theta: Floats) -> tuple[Floats, list[Floats]]:
    """(N, N) covariance of the drift about its mean, and its derivatives by `theta`, (log s, log l)."""
    distance = np.abs(at[:, None] - at[None]) / np.exp(theta[1])
    plain = np.exp(2 * theta[0] - distance)
    cov = _centred(plain)
    return cov, [2 * cov, _centred(plain * distance)]


def _centred(cov: Floats) -> Floats:
    return np.asarray(cov - cov.mean(axis=0) - cov.mean(axis=1)[:, None] + cov.mean(), dtype=np.float64)


def basis(at: Floats, std: float, length: float) -> Floats:
    """(N, B) with basis @ basis.T the covariance of the drift at `at`, or near it where they are many."""
    knots = np.unique(np.quantile(at, np.linspace(0, 1, min(len(at), KNOTS)), method="nearest"))
    between = np.exp(-np.abs(at[:, None] - knots[None]) / length)
    values, vectors = np.linalg.eigh(np.exp(-np.abs(knots[:, None] - knots[None]) / length))
    kept = values > LEAST_DIRECTION * values[-1]
    found = std * between @ vectors[:, kept] / np.sqrt(values[kept])
    return np.asarray(found - found.mean(axis=0), dtype=np.float64)


def with_pace(rows: Rows, prior_mean: Floats, level: Level, noise: Noise) -> tuple[Rows, Level]:
    """`rows` and `level` with the drift of `noise` as latents; as they are where it has none."""
    if rows.at is None or noise.pace < LEAST_STD:
        return rows, level
    columns = basis(rows.at, noise.pace, noise.pace_length)
    context = columns * expected_s(rows, prior_mean, level)[:, None] / level.typical_s
    return replace(rows, context=context), replace(level, context_std=(1.0,) * columns.shape[1])


def _typical(drift: Floats) -> float:
    """The mean of the middle half: a tenth of the time at another speed does not move it."""
    low, high = np.quantile(drift, [0.25, 0.75])
    return float(drift[(drift >= low) & (drift <= high)].mean())


def without_pace(posterior: Posterior, rows: Rows) -> Posterior:
    """What is known of ops and constant, for networks measured at a moment unknown: drift is noise of theirs."""
    noise = posterior.noise
    if rows.at is None or noise.pace < LEAST_STD:
        return posterior
    columns = basis(rows.at, noise.pace, noise.pace_length)
    n = posterior.n + 2
    found = columns @ posterior.u[n:]
    typical = _typical(found)
    u = posterior.u[:n].copy()
    u[n - 2], u[n - 1] = u[n - 2] * (1 + typical), u[n - 1] + np.log1p(typical)
    return replace(
        posterior,
        u=u,
        alpha=posterior.alpha[:n],
        v=posterior.v[:n],
        prior_cov=posterior.prior_cov[:n, :n],
        level=replace(posterior.level, context_std=()),
        noise=Noise(float(np.sqrt(noise.network**2 + ((found - typical) ** 2).mean())), noise.alone),
    )
