"""One evidence model: ops timed alone and whole networks, each a statement about the latent F, inferred together.

    log F(op) = log m(op) + GP           m: the op's work times fitted rates (latency/priors.py)
    op alone    log y = log F(op) + e            e: its confidence interval, and what this op differs by in context
    network     y = c + s sum F + sum b x + e    e: its confidence interval, and what no sum explains; s = 1, b = 0
                                                 without lone ops

x are bytes that an op moves and bytes of its weights: an op timed alone over and over has its weights in the cache and
its layout converted, one in a network has not. b is a sum over ops too, so that each op's share goes to the op.

Networks are not linear in log F, so the mode is found by Gauss-Newton and the posterior is Gaussian around it
(Laplace; Rasmussen & Williams 2006, section 3.4). All is done in the space of the distinct ops, so that thousands
of networks cost no more than a few: with u the latents, K their prior covariance, J the rows' derivatives, R the
noise, Q = J^T R^-1 J and q = J^T R^-1 (rows' residuals about the prior mean),

    u = m + K a,    a = (I + Q K)^-1 q,    cov u = K - K V V^T K,    V V^T = (Q^-1 + K)^-1

which needs no inverse of K.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from latency.stats import Floats

MAX_STEPS = 60
REWEIGHTED = 4  # rounds of noise and tails: with more of them the noise is fitted to what it should explain
MIN_NOISE = 1e-5  # relative: published files are rounded, and below it the solver's own rounding counts
NU = (8.0, np.inf, 4.0, 2.0)  # tails of the networks' noise to choose from: Student's t, or Gaussian
DOUBT = 2.0  # log likelihood by which another must beat the first of them


@dataclass(frozen=True)
class Rows:
    """N observations of n latent ops. `counts` (N, n) says how often each op is in the observation."""

    counts: Floats
    seconds: Floats  # (N,)
    rel_var: Floats  # (N,) squared relative standard error, from the confidence interval
    network: np.ndarray[tuple[int], np.dtype[np.bool_]]  # (N,) False: one op, timed alone
    context: Floats | None = None  # (N, B) x of whole networks, in units of the mean network's; 0 for lone ops

    def take(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Rows:
        """The observations `rows`."""
        context = None if self.context is None else self.context[rows]
        return Rows(self.counts[rows], self.seconds[rows], self.rel_var[rows], self.network[rows], context)


@dataclass(frozen=True)
class Level:
    """What is believed of the constant and the scale before any network is seen."""

    typical_s: float  # the unit of the constant
    constant: float = 0.0  # in typical_s
    constant_std: float = 0.1
    scale_std: float = 0.3  # of log scale; 0: the scale is 1
    context_std: tuple[float, ...] = ()  # (B,) of b, in typical_s for the mean network's x; for rows with `context`

    @property
    def mean(self) -> Floats:
        """(2 + B,) of constant, log scale and b."""
        return np.array([self.constant, 0.0, *(0.0 for _ in self.context_std)])

    @property
    def variance(self) -> Floats:
        """(2 + B,) of the same."""
        return np.array([self.constant_std, self.scale_std, *self.context_std]) ** 2


@dataclass(frozen=True)
class Noise:
    """Relative standard deviations beyond the confidence intervals."""

    network: float = 0.02
    alone: float = 0.0


@dataclass(frozen=True)
class Linearised:
    """The rows around one point: residual about the prior mean, derivative (N, n + 2 + B), noise variance (N,)."""

    target: Floats
    jacobian: Floats
    variance: Floats


@dataclass(frozen=True)
class Posterior:
    """The latents u = (log F, constant / typical_s, log scale, b / typical_s) given the rows."""

    u: Floats  # (n + 2 + B,), as alpha; prior_cov is square, v has r columns
    alpha: Floats
    v: Floats
    prior_cov: Floats
    level: Level
    noise: Noise
    nu: float = float(np.inf)

    @property
    def n(self) -> int:
        """How many ops."""
        return len(self.u) - 2 - len(self.level.context_std)

    @property
    def log_f(self) -> Floats:
        """(n,) posterior mode of log F."""
        return self.u[: self.n]

    @property
    def constant_s(self) -> float:
        """Seconds of a network beyond its ops."""
        return float(self.u[self.n]) * self.level.typical_s

    @property
    def scale(self) -> float:
        """In-network seconds per second of F."""
        return float(np.exp(self.u[self.n + 1]))

    @property
    def context_s(self) -> Floats:
        """(B,) b: seconds that x of the mean network adds to it."""
        return self.u[self.n + 2 :] * self.level.typical_s

    def covariance(self) -> Floats:
        """Of u."""
        kv = self.prior_cov @ self.v
        return np.asarray(self.prior_cov - kv @ kv.T, dtype=np.float64)


def extend(prior_cov: Floats, level: Level) -> Floats:
    """The prior covariance of log F with the variances of constant, log scale and b appended."""
    n, variance = len(prior_cov), level.variance
    full = np.zeros((n + len(variance), n + len(variance)))
    full[:n, :n] = prior_cov
    full[range(n, len(full)), range(n, len(full))] = variance
    return full


def linearise(rows: Rows, prior_mean: Floats, u: Floats, level: Level, noise: Noise) -> Linearised:
    """The rows as linear statements about u - m, to first order around `u`; networks in units of their seconds."""
    n, y = len(prior_mean), rows.seconds
    m = np.concatenate([prior_mean, level.mean])
    f = np.exp(u[:n] + u[n + 1])
    weighted = rows.counts * f
    sums = weighted.sum(axis=1)
    x = np.empty((len(y), 0)) if rows.context is None else level.typical_s * rows.context
    jacobian = np.column_stack([weighted, np.full(len(y), level.typical_s), sums, x]) / y[:, None]
    residual = (y - u[n] * level.typical_s - sums - x @ u[n + 2 :]) / y
    alone = ~rows.network
    jacobian[alone] = np.pad(rows.counts[alone], ((0, 0), (0, len(u) - n)))
    residual[alone] = np.log(y[alone]) - rows.counts[alone] @ u[:n]
    variance = rows.rel_var + np.where(rows.network, noise.network, noise.alone) ** 2 + 1e-16
    return Linearised(residual + jacobian @ (u - m), jacobian, variance)


def solve(
    rows: Rows,
    prior_mean: Floats,
    prior_cov: Floats,
    level: Level,
    noise: Noise,
    weights: Floats | None = None,
    start: Floats | None = None,
) -> Posterior:
    """The mode by Gauss-Newton with step halving. `weights` (N,) divide the rows' noise variances.

    `start` (n + 2 + B,) is the `alpha` of an earlier solution under the same prior.
    """
    m = np.concatenate([prior_mean, level.mean])
    full = extend(prior_cov, level)
    w = np.ones(len(rows.seconds)) if weights is None else weights
    alpha = np.zeros(len(m)) if start is None else start

    def loss(a: Floats) -> float:
        u = m + full @ a
        at = linearise(rows, prior_mean, u, level, noise)
        residual = at.target - at.jacobian @ (u - m)
        value = 0.5 * float((residual**2 * w / at.variance).sum() + a @ (u - m))
        return value if np.isfinite(value) else np.inf

    value = loss(alpha)
    q_matrix = np.empty(0)
    for _ in range(MAX_STEPS):
        at = linearise(rows, prior_mean, m + full @ alpha, level, noise)
        weighted = at.jacobian * (w / at.variance)[:, None]
        q_matrix = at.jacobian.T @ weighted
        step = np.linalg.solve(np.eye(len(m)) + q_matrix @ full, weighted.T @ at.target) - alpha
        size = 1.0
        while size > 1e-4 and not (new := loss(alpha + size * step)) <= value:
            size /= 2
        if size <= 1e-4:
            break
        moved = float(np.abs(full @ step).max()) * size
        alpha, value = alpha + size * step, new
        if moved < 1e-9:
            break
    values, vectors = np.linalg.eigh(q_matrix)
    kept = values > 1e-12 * max(values[-1], 1e-300)
    b = vectors[:, kept] * np.sqrt(values[kept])
    inner = np.linalg.cholesky(np.eye(b.shape[1]) + b.T @ full @ b)
    v = np.linalg.solve(inner, b.T).T
    return Posterior(m + full @ alpha, alpha, v, full, level, noise)


def leave_one_out(rows: Rows, prior_mean: Floats, posterior: Posterior, weights: Floats) -> tuple[Floats, Floats]:
    """(N,) residuals of each row predicted from all others, and (N,) their standard deviations.

    Exact for the linearised rows: Rasmussen & Williams 2006, eq. 5.10 to 5.12, in the space of the latents. Relative
    for networks, of the logarithm for lone ops.
    """
    at = linearise(rows, prior_mean, posterior.u, posterior.level, posterior.noise)
    residual = at.target - at.jacobian @ (posterior.prior_cov @ posterior.alpha)
    variance = at.variance / weights
    explained = np.einsum("ij,jk,ik->i", at.jacobian, posterior.covariance(), at.jacobian)
    free = np.clip(1.0 - explained / variance, 1e-3, 1.0)  # 1 - leverage
    return residual / free, np.sqrt(at.variance + explained / free)


def student_weights(residual: Floats, variance: Floats, nu: float) -> Floats:
    """(N,) weights under which Gaussian least squares is the mode of Student's t noise (EM; Lange et al. 1989)."""
    if np.isinf(nu):
        return np.ones_like(residual)
    weights: Floats = (nu + 1) / (nu + residual**2 / variance)
    return weights


def reweighted(rows: Rows, residual: Floats, posterior: Posterior) -> Rows:
    """The networks with the noise that Student's t leaves each, in place of their intervals: outliers have more of it.

    `residual` are the leave-one-out residuals of `solve_robustly`; for the hyper-parameters, whose likelihood is
    Gaussian.
    """
    rel_var = rows.rel_var.copy()
    variance = rel_var[rows.network] + posterior.noise.network**2
    rel_var[rows.network] = variance / np.maximum(student_weights(residual, variance, posterior.nu), 1e-3)
    return replace(rows, rel_var=rel_var)


def fit_tails(residual: Floats) -> tuple[float, float]:
    """(scale, nu) of Student's t by maximum likelihood over NU, of standardised leave-one-out residuals."""
    from scipy.optimize import minimize_scalar
    from scipy.stats import norm, t

    best = (np.inf, 1.0, float(np.inf))
    spread = float(np.sqrt(np.mean(residual**2))) + 1e-12
    for nu in NU:
        law = norm if np.isinf(nu) else t(nu)

        def cost(log_scale: float, law: object = law) -> float:
            scale = np.exp(log_scale)
            return float(-(law.logpdf(residual / scale) - log_scale).sum())  # type: ignore[attr-defined]

        found = minimize_scalar(cost, bounds=(np.log(spread) - 6, np.log(spread) + 1), method="bounded")
        penalty = 0.0 if nu == NU[0] else DOUBT  # latency is heavy-tailed unless the data say otherwise
        if found.fun + penalty < best[0]:
            best = (float(found.fun) + penalty, float(np.exp(found.x)), nu)
    return best[1], best[2]


def solve_robustly(
    rows: Rows, prior_mean: Floats, prior_cov: Floats, level: Level, noise: Noise
) -> tuple[Posterior, Floats, Floats]:
    """`solve`, with the networks' noise (its size and its tails) re-estimated from leave-one-out residuals.

    Returns the posterior, the (N,) leave-one-out residuals of the networks' rows and their standard deviations.
    Few networks (under 20) keep the noise given: their residuals say little of tails.
    """
    weights = np.ones(len(rows.seconds))
    posterior = solve(rows, prior_mean, prior_cov, level, noise)
    networks = rows.network
    if networks.sum() >= 20:
        for _ in range(REWEIGHTED):
            residual, std = leave_one_out(rows, prior_mean, posterior, weights)
            scale, nu = fit_tails((residual / std)[networks])
            noise = replace(noise, network=max(noise.network * scale, MIN_NOISE))
            variance = rows.rel_var + noise.network**2
            weights = np.where(networks, student_weights(residual, variance, nu), 1.0)
            posterior = replace(solve(rows, prior_mean, prior_cov, level, noise, weights, start=posterior.alpha), nu=nu)
    residual, std = leave_one_out(rows, prior_mean, posterior, weights)
    return posterior, residual[networks], std[networks]
