"""Ops and networks fitted together: from observations to KindModels, the network level and its uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from latency import frozen, new_sizes
from latency.calibration import left_out, new_value_factor, spread
from latency.evidence import Level, Noise, Rows, reweighted, solve_robustly
from latency.features import FEATURES, features
from latency.freezing import context_mean, context_rates, freeze_all
from latency.frozen import Frozen
from latency.ops import Op
from latency.priors import (
    MAX_HYPER_ROWS,
    Group,
    fit_hyper,
    fit_rates,
    kernel,
    make_group,
    prior_cov,
    work_prior,
)
from latency.stats import Floats
from latency.uncertainty import KindModel

MIN_OPS = 5  # distinct ops of a kind; below this it is answered by look-up only
LOOKUP_STD = 0.5  # prior standard deviation of log F for look-up kinds, about the prior mean
ALONE = 0.01  # relative: how far an op timed alone may be from the same op in context, after the common scale
CONTEXT_STD = 0.1  # prior standard deviation of what b adds to the mean network, relative

JITTER = 1e-10  # squared relative: where one op was timed twice to the last digit
FEW = 0.1  # pull of the rates of work to equal shares, where whole networks tell them: these agree to a few per cent

Row = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Observation:
    """One measured op or network: seconds and the standard error of those seconds."""

    ops: tuple[Op, ...]
    seconds: float
    stderr_s: float
    drift: float = 0.0


@dataclass(frozen=True)
class Latents:
    """The distinct ops of the evidence. Ops of one kind with the same features are one latent.

    `members` is every op of the evidence, those that differ only in what no feature tells included, and its latent.
    """

    ops: tuple[Op, ...]
    index: dict[tuple[str, bytes], int]
    features_ND: Floats
    members: dict[Op, int]

    @property
    def kinds(self) -> list[str]:
        """The kind of each latent."""
        return [type(op).__name__ for op in self.ops]


@dataclass(frozen=True)
class JointFit:
    """What `fit_joint` finds. `uncertainty` goes into the predictor; see LatencyPredictor.network_s."""

    kinds: dict[str, KindModel]
    constant_s: float
    scale: float
    uncertainty: dict[str, Any]
    loo_error: Floats = field(default_factory=lambda: np.empty(0))  # measured / predicted - 1 of networks left out
    loo_std: Floats = field(default_factory=lambda: np.empty(0))
    context: Floats | None = None  # (2,) seconds of F that a unit of frozen.CONTEXT_TERMS adds to an op in a network


#: Prior mean of F by kind (the work's, or other devices') and of the constant in seconds, from what was measured.
MakePrior = Callable[[Latents, Rows], tuple[dict[str, Frozen], float]]


def key_of(op: Op, row: Floats) -> tuple[str, bytes]:
    """What tells latents apart."""
    return type(op).__name__, np.round(row, 9).tobytes()


def latents_of(observations: Sequence[Observation], also: Sequence[Op] = ()) -> tuple[Latents, Rows]:
    """The distinct ops that take time, `also` those in no observation, and the observations as rows over them."""
    known: dict[Op, int] = {}
    index: dict[tuple[str, bytes], int] = {}
    ops: list[Op] = []
    rows_of: list[Floats] = []
    for op in [*(op for observation in observations for op in observation.ops), *also]:
        if op.is_free or op in known:
            continue
        row = features(op)
        place = index.setdefault(key_of(op, row), len(ops))
        if place == len(ops):
            ops.append(op)
            rows_of.append(row)
        known[op] = place
    counts = np.zeros((len(observations), len(ops)))
    for i, observation in enumerate(observations):
        for op in observation.ops:
            if not op.is_free:
                counts[i, known[op]] += 1
    seconds = np.array([o.seconds for o in observations])
    rel_var = np.array([(o.stderr_s / o.seconds) ** 2 for o in observations])
    network = np.array([len(o.ops) > 1 for o in observations])
    matrix = np.stack(rows_of) if rows_of else np.empty((0, len(FEATURES)))
    return Latents(tuple(ops), index, matrix, known), Rows(counts, seconds, rel_var, network)


def work_priors(latents: Latents, rows: Rows) -> tuple[dict[str, Frozen], float]:
    """Rates of work by kind from lone ops, where a kind has them; else one set of rates from the networks' totals.

    Returns the prior means by kind, and the prior constant of a network in seconds.
    """
    terms = frozen.work_terms(latents.features_ND)
    kinds = np.array(latents.kinds)
    lone = ~rows.network
    found: dict[str, Frozen] = {}
    constant_s = 0.0
    shared: Frozen | None = None
    if not lone.any():
        design = np.column_stack([rows.counts @ terms, np.ones(len(rows.seconds))])
        rates = fit_rates(design, rows.seconds, rows.rel_var, strength=FEW)
        shared, constant_s = work_prior(latents.features_ND, rates[:-1]), float(rates[-1])
    for kind in dict.fromkeys(latents.kinds):
        mine = lone & (rows.counts @ (kinds == kind) > 0)
        if shared is None and mine.sum() >= MIN_OPS:
            x = rows.counts[mine] @ terms
            rates = fit_rates(x, rows.seconds[mine], rows.rel_var[mine])
        elif shared is None:
            rates = fit_rates(rows.counts[lone] @ terms, rows.seconds[lone], rows.rel_var[lone])
        found[kind] = shared or work_prior(latents.features_ND[kinds == kind], rates)
    return found, constant_s


def make_groups(
    latents: Latents,
    rows: Rows,
    own: float | None = None,
    given: Sequence[str] = (),
    modelled: Collection[str] | None = None,
) -> tuple[list[Group], Floats]:
    """Kinds with enough lone ops each have a prior of their own; without lone ops, kinds share one.

    `modelled` says which kinds have a prior rather than their number of ops: those of which other devices know F.
    Returns the groups and the (n,) prior variance of the latents in none of them: kinds of few ops.
    """
    kinds = latents.kinds
    enough = {k for k in kinds if (kinds.count(k) >= MIN_OPS if modelled is None else k in modelled)}
    many = [k for k in dict.fromkeys(kinds) if k in enough and k not in given]
    if rows.network.all():
        groups = [make_group(many, kinds, latents.features_ND, own)] if many else []
    else:
        groups = [make_group((k,), kinds, latents.features_ND, own) for k in many]
    fixed = np.full(len(kinds), (LOOKUP_STD if own is None else 2 * own) ** 2)
    fixed[[i for i, k in enumerate(kinds) if k in given]] = 1e-10
    for group in groups:
        fixed[group.indices] = 0.0
    return groups, fixed


def fit_joint(
    observations: Sequence[Observation],
    make_prior: MakePrior = work_priors,
    own: float | None = None,
    given: dict[str, Frozen] | None = None,
    *,
    also: Sequence[Op] = (),
    modelled: Collection[str] | None = None,
    calibrate: bool = True,
) -> JointFit:
    """F, constant and scale from any mix of lone ops and whole networks.

    `given` are models of kinds that are not to be fitted (a forest that beat the GP on its ops): F as they say.
    `own` is the prior's median standard deviation of log F about the prior mean (None: latency.priors.AMPLITUDE).
    `also` are ops to be known that nothing was measured of, `modelled` see `make_groups`. `calibrate`: intervals from
    networks left out; where kernels come from few networks, with everything fitted anew on the others.
    """
    latents, rows = latents_of(observations, also)
    priors, constant_s = make_prior(latents, rows)
    given = given or {}
    mean, kinds = np.empty(len(latents.ops)), np.array(latents.kinds)
    for kind in dict.fromkeys(latents.kinds):
        x = latents.features_ND[kinds == kind]
        mean[kinds == kind] = frozen.predict(given[kind], x)[0] if kind in given else frozen.mean_log(priors[kind], x)
    groups, fixed = make_groups(latents, rows, own, tuple(given), modelled)
    both = bool(rows.network.any() and not rows.network.all())
    if both:
        totals = (rows.counts @ frozen.context_terms(latents.features_ND)) * rows.network[:, None]
        rows = replace(rows, context=totals / context_mean(latents, rows))
    typical = float(rows.seconds[rows.network].mean()) if rows.network.any() else 1.0
    level = Level(
        typical,
        constant_s / typical,
        constant_std=0.1 if both else 0.3 if rows.network.any() else 0.0,
        scale_std=0.3 if both else 0.0,
        context_std=(CONTEXT_STD,) * len(frozen.CONTEXT_TERMS) if both else (),
    )
    noise = Noise(network=0.02, alone=ALONE if both else 0.0)
    if not rows.network.all():  # kernels from lone ops, where they say more than sums do
        for i, group in enumerate(groups):
            mine = ~rows.network & (rows.counts[:, group.indices].sum(axis=1) > 0)
            if mine.sum() < MIN_OPS:
                continue
            part = rows.take(np.flatnonzero(mine))
            (groups[i],), _ = fit_hyper([group], part, mean, fixed + _elsewhere(group, len(fixed)), level, Noise())
            if calibrate:
                groups[i] = replace(groups[i], new_size=_new_size(groups[i], part, mean, noise.alone))
    elif groups:
        groups, noise = fit_hyper(groups, rows, mean, fixed, level, noise)
    posterior, error, std = solve_robustly(rows, mean, prior_cov(groups, fixed), level, noise)
    if groups and rows.network.all() and np.isfinite(posterior.nu):
        quiet = Noise(posterior.noise.network / 10)  # on top of what `reweighted` leaves each network
        groups, _ = fit_hyper(groups, reweighted(rows, error, posterior), mean, fixed, level, quiet)
        posterior, error, std = solve_robustly(rows, mean, prior_cov(groups, fixed), level, posterior.noise)
    error, std = error / (1 - np.minimum(error, 0.9)), std / (1 - np.minimum(error, 0.9))  # of the predicted seconds
    models, uncertainty = freeze_all(latents, rows, groups, priors, given, fixed, posterior)
    fit = JointFit(
        models, posterior.constant_s, posterior.scale, uncertainty, error, std, context_rates(latents, rows, posterior)
    )
    if not calibrate:
        return fit

    def again(part: Sequence[Observation], modelled: Collection[str] | None = modelled) -> JointFit:
        return fit_joint(part, make_prior, own, given, also=also, modelled=modelled, calibrate=False)

    if groups:  # a kind that all sizes together have enough ops of is modelled without one of them, too
        fit_rest = partial(again, modelled={k for g in groups for k in g.kinds})
        fit = _drifting(fit, new_sizes.leave_out(observations, fit.kinds, fit_rest))
    if groups and rows.network.all() and len(rows.seconds) <= MAX_HYPER_ROWS:
        error, std = left_out(observations, again)
    factor = spread(error / std)
    return replace(fit, uncertainty={**fit.uncertainty, "factor": factor}, loo_error=error, loo_std=std)


def _drifting(fit: JointFit, left_out: Sequence[new_sizes.LeftOut]) -> JointFit:
    """`fit` with what resolutions left out say of sizes never measured; as it is where they say nothing."""
    if len(left_out) < new_sizes.MIN_RESOLUTIONS:
        return fit
    drift = new_sizes.drift_of(left_out)
    kinds = new_sizes.with_drift(fit.kinds, drift, fit.kinds) if drift else fit.kinds
    return replace(fit, kinds=kinds, uncertainty={**fit.uncertainty, "new_sizes": new_sizes.about(left_out, drift)})


def _new_size(group: Group, lone: Rows, mean: Floats, noise: float) -> float:
    """Factor on standard errors at a size that no op of the group has; see latency.calibration.new_value_factor."""
    if not group.rough.any():
        return 1.0
    of = lone.counts[:, group.indices]
    covariance = of @ kernel(group, group.theta)[0] @ of.T + np.diag(lone.rel_var + noise**2 + JITTER)
    values = of @ group.x[:, int(np.argmax(group.rough))]
    return new_value_factor(np.round(values, 9), covariance, np.log(lone.seconds) - lone.counts @ mean)


def _elsewhere(group: Group, n: int) -> Floats:
    """Any variance for the latents that a fit of one group's kernel does not touch."""
    variance = np.ones(n)
    variance[group.indices] = 0.0
    return variance
