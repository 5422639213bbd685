"""What is believed of F before its evidence: log F(op) = log m(op) + GP over the op's shape.

m is a sum over what the op does (kernels started, dense and depthwise MACs, bytes, parameters) with positive rates:
time that work takes adds up. The GP says by which factor an op differs from it: smooth in the shape (anisotropic
RBF), with a linear trend, and a share of each op's own. Hyper-parameters by marginal likelihood (Rasmussen &
Williams 2006, eq. 5.9) with weak log-normal priors, which matter where observations are fewer than they.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency.evidence import Level, Noise, Rows, extend, linearise, solve
from latency.features import FEATURES, SHAPE
from latency.frozen import TERMS, Frozen, work_terms
from latency.frozen import kernel as frozen_kernel
from latency.stats import Floats

MAX_HYPER_ROWS = 400  # networks used for hyper-parameters; all are used for F
ROUNDS = 2  # of linearising and maximising
MAX_ITER = 60  # of a maximisation

# Medians and log standard deviations of the hyper-parameters' priors. Variances: of factors, in log F.
AMPLITUDE, LINEAR, NUGGET = (0.5**2, 2.0), (0.1**2, 3.0), (0.02**2, 2.5)
LENGTH = (3.0, 0.7)  # in standard deviations of the feature
#: Features in which F has steps, from tiles and caches: what lies beyond the last size is not a trend continued. One
#: side of the input is enough: on square inputs both are one column, and twice as rough has less evidence (log marginal
#: likelihood of the Note 10 table up to 192 pixels: 1126 with one side, 1121 with two, 1115 with none; of the Pixel 1
#: table 207.2, 207.3 and 206.1).
ROUGH = ("log_height",)
NOISE = (0.01, 1.5)  # relative, of whole networks beyond their intervals


@dataclass(frozen=True)
class Group:
    """Ops of one or more kinds that share one prior. `indices` are their places among the latents."""

    kinds: tuple[str, ...]
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]
    columns: np.ndarray[tuple[int], np.dtype[np.int64]]
    mean: Floats
    scale: Floats
    x: Floats  # (n, d) standardised columns, then one column per kind where there are several
    rough: Floats  # (d,) 1 for the columns in which F is not smooth
    theta: Floats  # (d + 3,) logs of amplitude, lengths, linear, nugget
    new_size: float = 1.0  # factor on standard errors at a size that no op of the group has

    def code(self, kind: str) -> Floats:
        """The columns that tell `kind` from the group's others; none where it is alone."""
        if len(self.kinds) == 1:
            return np.empty(0)
        return np.array([float(k == kind) for k in self.kinds])


def make_group(kinds: Sequence[str], names: Sequence[str], features_ND: Floats, own: float | None = None) -> Group:
    """The group of the latents whose kind `names[i]` is in `kinds`; the kernel holds the priors' medians.

    `own` replaces the median of the amplitude's standard deviation: a trusted prior mean leaves little to the GP.
    """
    indices = np.array([i for i, name in enumerate(names) if name in kinds], dtype=np.int64)
    shape = np.array([FEATURES.index(name) for name in SHAPE])
    columns = np.array([c for c in shape if np.ptp(features_ND[indices, c]) > 0], dtype=np.int64)
    if not len(columns) and len(kinds) == 1:
        columns = shape[:1]
    chosen = features_ND[np.ix_(indices, columns)]
    mean, scale = chosen.mean(axis=0), chosen.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    group = Group(tuple(kinds), indices, columns, mean, scale, (chosen - mean) / scale, np.empty(0), np.empty(0))
    x = group.x
    if len(kinds) > 1:
        x = np.column_stack([x, np.array([group.code(names[i]) for i in indices])])
    d = x.shape[1]
    amplitude = AMPLITUDE[0] if own is None else own**2
    linear = LINEAR[0] if own is None else (own / 5) ** 2
    theta = np.log([amplitude, *[LENGTH[0]] * d, linear, NUGGET[0]])
    rough = np.zeros(d)
    rough[: len(columns)] = [FEATURES[c] in ROUGH for c in columns]
    return replace(group, x=x, rough=rough, theta=theta)


def group_of(x: Floats) -> Group:
    """The group of `x` (n, d), features of the caller's own: all smooth, standardised here."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    d = x.shape[1]
    theta = np.log([AMPLITUDE[0], *[LENGTH[0]] * d, LINEAR[0], NUGGET[0]])
    return Group(("x",), np.arange(len(x)), np.arange(d), mean, scale, (x - mean) / scale, np.zeros(d), theta)


def kernel_between(group: Group, x: Floats) -> tuple[Floats, Floats]:
    """(m, n) prior covariance of log F at `x` (m, d) with the group's own, and (m,) variance at `x`."""
    model = freeze(group, group.kinds[0], {}, np.empty(0), np.empty(0))
    z = (x - group.mean) / group.scale
    own = model["amplitude"] + model["linear"] * ((z**2).sum(axis=1) + 1.0) + model["nugget"]
    return frozen_kernel(model, z, group.x), np.asarray(own, dtype=np.float64)


def kernel(group: Group, theta: Floats) -> tuple[Floats, Floats]:
    """(n, n) prior covariance of the group's log F, and its (n, n, len(theta)) derivatives by theta.

    amplitude * RBF(smooth columns) * exponential(rough columns) + linear * (1 + x x^T) + nugget; latency.frozen.kernel
    is the same between any two sets of ops.
    """
    d = group.x.shape[1]
    length = np.exp(theta[1 : d + 1])
    squared = ((group.x[:, None, :] - group.x[None]) / length) ** 2
    r = np.sqrt((squared * group.rough).sum(axis=-1))
    smooth = np.exp(theta[0] - 0.5 * (squared * (1 - group.rough)).sum(axis=-1))
    main = smooth * np.exp(-r)
    slope = main / np.maximum(r, 1e-12)
    line = np.exp(theta[d + 1]) * (group.x @ group.x.T + 1.0)
    own = np.exp(theta[d + 2]) * np.eye(len(group.x))
    by_length = squared * np.where(group.rough > 0, slope[..., None], main[..., None])
    return main + line + own, np.concatenate([main[..., None], by_length, line[..., None], own[..., None]], axis=-1)


def prior_medians(group: Group) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the normal priors on `group.kernel.theta` as `make_group` left it."""
    d = group.x.shape[1]
    std = np.array([AMPLITUDE[1], *[LENGTH[1]] * d, LINEAR[1], NUGGET[1]])
    return group.theta.copy(), std


def fit_rates(terms: Floats, seconds: Floats, rel_var: Floats, strength: float = 1.0) -> Floats:
    """(B,) positive rates w of seconds = terms w, by relative non-negative least squares.

    A weak pull (`strength`, relative standard deviation 1 / strength) towards equal shares of the mean decides
    what the data leave open.
    """
    from scipy.optimize import nnls

    scale = terms.mean(axis=0)
    live = scale > 0
    x = terms[:, live] / scale[live] / seconds[:, None]
    typical = float(np.exp(np.log(seconds).mean()))
    w = 1 / np.sqrt(rel_var / max(float(np.median(rel_var)), 1e-12) + 1.0)
    k = int(live.sum())
    design = np.vstack([x * w[:, None], strength * np.eye(k) / typical])
    rates, _ = nnls(design, np.concatenate([w, np.full(k, strength / k)]))
    full = np.zeros(terms.shape[1])
    full[live] = rates / scale[live]
    return full


def work_prior(features_ND: Floats, rates: Floats) -> Frozen:
    """The prior mean as a frozen dict; never below a thousandth of the middle op of `features_ND`."""
    middle = float(np.median(work_terms(features_ND) @ rates)) if len(features_ND) else 0.0
    return {"kind": "work", "weights": rates, "terms": list(TERMS), "floor_s": max(1e-3 * middle, 1e-12)}


def fit_hyper(
    groups: list[Group],
    rows: Rows,
    prior_mean: Floats,
    fixed_var: Floats,
    level: Level,
    noise: Noise,
    seed: int = 0,
    max_iter: int = MAX_ITER,
) -> tuple[list[Group], Noise]:
    """Kernels of `groups`, and the networks' noise, of largest marginal likelihood. `fixed_var` (n,): see `prior_cov`.

    The rows are linearised about their mode, maximised, and linearised again.
    """
    if len(rows.seconds) > MAX_HYPER_ROWS:
        lone = np.flatnonzero(~rows.network)
        nets = np.random.default_rng(seed).permutation(np.flatnonzero(rows.network))
        rows = rows.take(np.sort(np.concatenate([lone, nets[: max(MAX_HYPER_ROWS - len(lone), 100)]])))
    from scipy.optimize import minimize

    priors = [prior_medians(g) for g in groups]
    has_networks = bool(rows.network.any())
    middle = np.concatenate([*(p[0] for p in priors), [np.log(NOISE[0])]])
    spread = np.concatenate([*(p[1] for p in priors), [NOISE[1]]])
    bounds = [*(b for g in groups for b in _bounds(g)), (np.log(1e-4), np.log(0.3))]
    theta = middle.copy()
    theta[-1] = np.log(noise.network)
    for _ in range(ROUNDS if has_networks else 1):
        groups, noise = _with(groups, theta, noise, has_networks)
        at = solve(rows, prior_mean, prior_cov(groups, fixed_var), level, noise)
        lin = linearise(rows, prior_mean, at.u, level, noise)

        def cost(t: Floats, of: list[Group] = groups, lin: Any = lin, noise: Noise = noise) -> tuple[float, Floats]:
            value, gradient = _evidence_gradient(t, of, fixed_var, level, rows, lin, noise)
            off = (t - middle) / spread
            return value + 0.5 * float(off @ off), gradient + off / spread

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theta = minimize(cost, theta, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_iter}).x
    return _with(groups, theta, noise, has_networks)


def _bounds(group: Group) -> list[tuple[float, float]]:
    d = group.x.shape[1]
    limits = [(1e-6, 1e4), *[(5e-2, 1e3)] * d, (1e-8, 1e2), (1e-8, 1.0)]
    return [(float(np.log(low)), float(np.log(high))) for low, high in limits]


def _with(groups: list[Group], theta: Floats, noise: Noise, networks: bool) -> tuple[list[Group], Noise]:
    made, at = [], 0
    for g in groups:
        n = len(g.theta)
        made.append(replace(g, theta=theta[at : at + n].copy()))
        at += n
    return made, Noise(float(np.exp(theta[-1])), noise.alone) if networks else noise


def _evidence_gradient(
    theta: Floats,
    groups: list[Group],
    fixed_var: Floats,
    level: Level,
    rows: Rows,
    lin: Any,
    noise: Noise,
) -> tuple[float, Floats]:
    """Minus the log marginal likelihood of the linearised rows, and its gradient (R&W eq. 5.9)."""
    cov, derivatives, at = np.diag(fixed_var), [], 0
    for g in groups:
        n = len(g.theta)
        k, dk = kernel(g, theta[at : at + n])
        cov[np.ix_(g.indices, g.indices)] += k
        derivatives.append(dk)
        at += n
    tau2 = np.where(rows.network, np.exp(2 * theta[-1]), 0.0)
    variance = lin.variance - np.where(rows.network, noise.network**2, 0.0) + tau2
    j = lin.jacobian
    s = j @ extend(cov, level) @ j.T
    s[np.diag_indices_from(s)] += variance
    try:
        low = np.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    inverse_low = np.linalg.solve(low, np.eye(len(s)))
    inverse = inverse_low.T @ inverse_low
    a = inverse @ lin.target
    value = 0.5 * float(lin.target @ a) + float(np.log(np.diag(low)).sum())
    weight = inverse - np.outer(a, a)
    inner = j.T @ weight @ j
    gradient = [
        0.5 * np.einsum("ij,ijk->k", inner[np.ix_(g.indices, g.indices)], dk)
        for g, dk in zip(groups, derivatives, strict=True)
    ]
    return value, np.concatenate([*gradient, [float(np.diag(weight) @ tau2)]])


def prior_cov(groups: list[Group], fixed_var: Floats) -> Floats:
    """(n, n) prior covariance of log F. `fixed_var` (n,) is that of latents in no group, zero for the others."""
    cov = np.diag(fixed_var)
    for g in groups:
        cov[np.ix_(g.indices, g.indices)] += kernel(g, g.theta)[0]
    return np.asarray(cov, dtype=np.float64)


def freeze(group: Group, kind: str, prior: Frozen, alpha: Floats, v: Floats) -> Frozen:
    """The `evidence` model of one kind (latency/frozen.py); arrays are shared between the kinds of a group."""
    d = group.x.shape[1]
    sizes = {"sizes": np.unique(group.x[:, int(np.argmax(group.rough))]), "new_size": group.new_size}
    return {
        **(sizes if group.new_size > 1 else {}),
        "kind": "evidence",
        "columns": group.columns,
        "mean": group.mean,
        "scale": group.scale,
        "code": group.code(kind),
        "x": group.x,
        "rough": group.rough,
        "length": np.exp(group.theta[1 : d + 1]),
        "amplitude": float(np.exp(group.theta[0])),
        "linear": float(np.exp(group.theta[d + 1])),
        "nugget": float(np.exp(group.theta[d + 2])),
        "prior": prior,
        "alpha": alpha,
        "v": v,
    }
