"""A predictor of kernels: thousands of them, each timed inside a network. `latency.fit` of a table of that space.

Per kind of kernel, log F is a mean of three: log of its work times fitted rates; that and what the shape says besides,
by a Gaussian process; the same by boosted trees, which count twice. Then constant and scale over the networks. The
other fit (latency/fitting.py) infers ops and networks together, which thousands of kernels are too many for, and which
is not needed where kernels are timed in place: their sum is the network's time by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency import frozen
from latency.accuracy import scores
from latency.console import Report, quiet
from latency.estimators import freeze_trees, spread, varying
from latency.features import FEATURES, feature_matrix, measured_values
from latency.fitting import Details, software
from latency.flops import macs
from latency.frozen import Frozen
from latency.joint import MIN_OPS, Observation
from latency.kernel_context import text_alone
from latency.kernel_intervals import Kernels, NetworkLevel, fit_level, unjudged
from latency.kernel_std import far
from latency.op_fit import FitError, LeftOut
from latency.ops import Op
from latency.predictor import LatencyPredictor
from latency.stats import Floats, mape, spearman
from latency.uncertainty import KindModel

MIN_TREES = 40  # kernels of a kind below which trees are not tried
TREES, RATE = 100, 0.1
MAX_GP = 400  # kernels of a kind that the Gaussian process is conditioned on
MAX_HYPER = 200  # of these, for its hyper-parameters
CONTEXT = 0.03  # relative: how far one kernel differs from place to place, beyond its interval
FOLDS = 5
#: Whose mean is F, and by what weights: trees are off by least, the others by other kernels than they are.
MODELS = {"gaussian_process": 1.0, "boosted_trees": 2.0, "work": 1.0}
ROBUST = 12  # times that rates of work are fitted, kernels weighted by how far they are off
AGREED = 0.05  # relative error from which on they count less; also the least ratio of sum to time
PULL = 0.3


@dataclass(frozen=True)
class Process:
    """A Gaussian process whose hyper-parameters are known."""

    group: Any  # latency.priors.Group of all kernels of the kind
    prior: Frozen


def process(x: Floats, log_s: Floats, log_var: Floats, rng: np.random.Generator) -> Process:
    """Rates of work and hyper-parameters from kernels with features `x` (n, D)."""
    from latency.evidence import Level, Noise, Rows
    from latency.priors import fit_hyper, make_group

    prior = _prior(x, log_s)
    group = make_group(("op",), ["op"] * len(x), x)
    some = np.sort(rng.permutation(len(x))[:MAX_HYPER])
    rows = Rows(np.eye(len(some)), np.exp(log_s[some]), log_var[some], np.zeros(len(some), dtype=bool))
    part = replace(group, indices=np.arange(len(some)), x=group.x[some])
    mean = frozen.mean_log(prior, x[some])
    (fitted,), _ = fit_hyper([part], rows, mean, np.zeros(len(some)), Level(1.0, scale_std=0.0), Noise())
    return Process(replace(group, theta=fitted.theta), prior)


def _prior(x: Floats, log_s: Floats) -> Frozen:
    """The mean: a sum of work times rates, those that most kernels agree on, for some are far from any sum.

    Least absolute errors of logarithms, by least squares weighted anew (Holland and Welsch 1977), none below zero; what
    the kernels leave open is pulled towards equal shares.
    """
    from scipy.optimize import nnls

    from latency.priors import work_prior

    terms, weight = frozen.work_terms(x), np.ones(len(x))
    share = terms / np.exp(log_s)[:, None]
    live = share.any(axis=0)
    size = np.sqrt((share[:, live] ** 2).mean(axis=0))
    design, pull = share[:, live] / size, PULL * np.eye(int(live.sum()))
    for _ in range(ROBUST):
        root = np.sqrt(weight)
        found, _ = nnls(
            np.vstack([design * root[:, None], pull]), np.concatenate([root, np.full(len(pull), PULL / len(pull))])
        )
        ratio = np.maximum(design @ found, AGREED)
        weight = np.abs(np.log(ratio)) / np.maximum((ratio - 1.0) ** 2, AGREED**2) * AGREED
        weight[np.abs(ratio - 1.0) < AGREED] = 1.0
    rates = np.zeros(terms.shape[1])
    rates[live] = found / size
    return work_prior(x, rates)


def condition(
    known: Process, x: Floats, log_s: Floats, log_var: Floats, which: Any, rng: np.random.Generator
) -> Frozen:
    """The process given the kernels `which`, at most MAX_GP of them."""
    from latency.priors import freeze, kernel

    which = np.sort(rng.permutation(which)[:MAX_GP])
    group = replace(known.group, indices=np.arange(len(which)), x=known.group.x[which])
    k = kernel(group, group.theta)[0]
    k[np.diag_indices_from(k)] += log_var[which]
    alpha = np.linalg.solve(k, log_s[which] - frozen.mean_log(known.prior, x[which]))
    nothing = np.zeros((len(which), 0))  # its standard error is latency.kernel_std's
    model = freeze(group, "op", known.prior, alpha, nothing)
    return {**model, "x": group.x.astype(np.float32)}


def boosted(x: Floats, log_s: Floats, log_var: Floats, prior: Frozen, seed: int = 0) -> Frozen:
    """Boosted trees on what the work, by `prior`, does not explain."""
    from sklearn.ensemble import GradientBoostingRegressor

    target = log_s - frozen.mean_log(prior, x)
    columns = varying(x, list(range(len(FEATURES))))
    model = GradientBoostingRegressor(
        n_estimators=TREES, learning_rate=RATE, max_leaf_nodes=10, max_depth=None, subsample=0.7, max_features=0.6,
        min_samples_leaf=2, random_state=seed,
    ).fit(x[:, columns], target, sample_weight=1 / log_var)  # fmt: skip
    base = float(np.asarray(model.init_.constant_).ravel()[0])
    off = spread(model.predict(x[:, columns]) - target)
    made = freeze_trees([t[0].tree_ for t in model.estimators_], RATE, base, columns, off)
    return {**_small(made), "prior": prior}


def _small(trees: Frozen) -> Frozen:
    """`trees` in as few bytes as their numbers need: a file of a dozen kinds stays below 1 MB."""
    nodes = {name: trees[name].astype(np.int16) for name in ("left", "right", "feature")}
    return {**trees, **nodes, **{name: trees[name].astype(np.float32) for name in ("threshold", "value")}}


def blend(models: Sequence[Frozen], std: float, weights: Sequence[float] | None = None) -> Frozen:
    """The mean of several models' logarithms, weighted or all alike."""
    return {"kind": "blend", "models": list(models), "weights": np.array(weights or [1.0] * len(models)), "std": std}


@dataclass(frozen=True)
class KindFit:
    """The model of one kind of kernel, and how it fared on kernels left out."""

    model: Frozen
    errors: dict[str, float]  # MAPE of each of MODELS and of their mean
    left_out_s: Floats  # (n,) predictions by the mean
    far: Floats  # (n,) how far the models that never saw it are apart; latency.kernel_std.far


def network_folds(ops: Sequence[Op], networks: Sequence[Observation], rng: np.random.Generator) -> tuple[Any, Any]:
    """(n,) fold of each op and (m,) fold of each network. A kernel is left out with the first network it is in, so
    that a network left out is predicted by models that saw at most the kernels it shares with others."""
    of_network = rng.permutation(len(networks)) % FOLDS
    first: dict[Op, int] = {}
    for fold, o in zip(of_network, networks, strict=True):
        for op in o.ops:
            first.setdefault(op, int(fold))
    return np.array([first.get(op, int(rng.integers(FOLDS))) for op in ops]), of_network


def fit_kind(x: Floats, seconds: Floats, log_var: Floats, fold: Any) -> KindFit:
    """The mean of the models that as many kernels as there are allow, and what each is off by in folds.

    Not the best of them by the folds, which do not say what is best on networks unlike these: there the mean of all is
    off by less than any. Hyper-parameters of the Gaussian process are those of all kernels.
    """
    rng, log_s = np.random.default_rng(0), np.log(seconds)
    known = process(x, log_s, log_var, rng)
    parts = [np.flatnonzero(fold == f) for f in np.unique(fold)]
    if len(x) - max(map(len, parts)) < len(x) / 3:  # a kind of few networks: by kernels then
        parts = np.array_split(rng.permutation(len(x)), min(FOLDS, len(x)))
    names = tuple(n for n in MODELS if n != "boosted_trees" or len(x) >= MIN_TREES)
    weights = [MODELS[n] for n in names]

    def models(which: Any) -> list[Frozen]:
        mean = replace(known, prior=_prior(x[which], log_s[which]))
        made = {"gaussian_process": condition(mean, x, log_s, log_var, which, rng), "work": mean.prior}
        if "boosted_trees" in names:
            made["boosted_trees"] = boosted(x[which], log_s[which], log_var[which], mean.prior)
        return [made[n] for n in names]

    left_out = np.empty((len(names), len(x)))
    for part in parts:
        without = models(np.setdiff1d(np.arange(len(x)), part))
        left_out[:, part] = [frozen.predict(m, x[part])[0] for m in without]
    mean = np.average(left_out, axis=0, weights=weights)
    tried = {**dict(zip(names, left_out, strict=True)), "blend": mean}
    errors = {name: float(np.abs(np.exp(log) / seconds - 1).mean()) for name, log in tried.items()}
    std = spread(np.clip(mean - log_s, -1.0, 1.0))
    return KindFit(blend(models(np.arange(len(x))), std, weights), errors, np.exp(mean), far(left_out.std(axis=0)))


def fit_kernels(
    device: str, observations: Sequence[Observation], *, provenance: dict[str, Any], report: Report = quiet
) -> tuple[LatencyPredictor, Details]:
    """A predictor from kernels timed in place and the networks they are of. Raises FitError where there are none.

    The errors in its provenance are those of kernels left out in folds, a network's kernels together, and of networks,
    each predicted by the models, the constant and the scale of the folds that it is not in.
    """
    ops = [o for o in observations if len(o.ops) == 1]
    networks = [o for o in observations if len(o.ops) > 1]
    counts = [type(o.ops[0]).__name__ for o in ops]
    if max(map(counts.count, counts), default=0) < MIN_OPS:
        raise FitError("too few kernels measured to fit any kind: run python -m latency.profile --space kernels")
    kinds: dict[str, KindModel] = {}
    chosen: dict[str, str] = {}
    cv: dict[str, dict[str, float]] = {}
    left_out: dict[str, LeftOut] = {}
    told: dict[str, Kernels] = {}
    names = sorted({type(o.ops[0]).__name__ for o in ops})
    folds, fold_of_network = network_folds([o.ops[0] for o in ops], networks, np.random.default_rng(0))
    for i, name in enumerate(names):
        mine = [o for o in ops if type(o.ops[0]).__name__ == name]
        fold = folds[[type(o.ops[0]).__name__ == name for o in ops]]
        x, seconds = feature_matrix([o.ops[0] for o in mine]), np.array([o.seconds for o in mine])
        rel = np.array([o.stderr_s / o.seconds for o in mine])
        model: Frozen | None = None
        known = _looked_up(mine)
        chosen[name] = "lookup"
        if len(mine) >= MIN_OPS and (len(known) >= MIN_OPS or name == "View"):  # there is but one View
            fitted = fit_kind(x, seconds, rel**2 + CONTEXT**2, fold)
            model, chosen[name], cv[name], predicted = fitted.model, "blend", fitted.errors, fitted.left_out_s
            std = np.full(len(mine), spread(np.log(predicted / seconds))) * predicted
            left_out[name] = LeftOut(tuple(o.ops[0] for o in mine), seconds, predicted, std)
            told[name] = Kernels(left_out[name].ops, predicted, seconds, fitted.far, fold)
            known = {}
        discrete = measured_values(o.ops[0] for o in mine)
        kinds[name] = KindModel(model, known, discrete, x.min(axis=0), x.max(axis=0))
        report(i + 1, len(names), name)
    plain = LatencyPredictor(device, kinds)
    apart = {op: p for left in left_out.values() for op, p in zip(left.ops, left.predicted_s, strict=True)}
    sums = np.array([sum(apart.get(op, 0.0) for op in o.ops) for o in networks])
    missing = [[op for op in o.ops if op not in apart] for o in networks]
    sums += np.array([float(plain.predict_s([op for op in m if plain.covers_kind(op)]).sum()) for m in missing])
    measured = np.array([o.seconds for o in networks])
    level = NetworkLevel(0.0, 1.0, unjudged(told), sums.copy(), np.zeros_like(sums))
    line = sums.copy()
    if len(networks) >= MIN_OPS:
        level = fit_level(sums, networks, told, fold_of_network)
        work = np.array([float(sum(map(macs, o.ops))) for o in networks])
        for f in np.unique(fold_of_network):
            mine, rest = fold_of_network == f, fold_of_network != f
            line[mine] = np.polyval(np.polyfit(work[rest], measured[rest], 1, w=1 / measured[rest]), work[mine])
    errors = _errors(left_out, cv, chosen, ops, networks, (level.total_s, level.std_s, line), measured)
    predictor = LatencyPredictor(
        device, kinds, level.constant_s, level.scale, None, level.uncertainty,
        {**provenance, "errors": errors, "software": software()},
    )  # fmt: skip
    shown = networks if len(networks) >= MIN_OPS else []
    n = len(shown)
    return predictor, Details(left_out, [o.ops for o in shown], measured[:n], level.total_s[:n], level.std_s[:n])


def _looked_up(mine: Sequence[Observation]) -> dict[str, tuple[float, float]]:
    """Text of each kernel by itself -> mean seconds in networks of all sizes, with the mean standard error."""
    of_text: dict[str, list[Observation]] = {}
    for o in mine:
        of_text.setdefault(text_alone(o.ops[0]), []).append(o)
    return {
        text: (float(np.mean([o.seconds for o in found])), float(np.mean([o.stderr_s for o in found])))
        for text, found in of_text.items()
    }


def _errors(
    left_out: dict[str, LeftOut],
    cv: dict[str, dict[str, float]],
    chosen: dict[str, str],
    ops: Sequence[Observation],
    networks: Sequence[Observation],
    told: tuple[Floats, Floats, Floats],
    measured: Floats,
) -> dict[str, Any]:
    joined = [
        np.concatenate([getattr(o, n) for o in left_out.values()]) for n in ("predicted_s", "measured_s", "std_s")
    ]
    of_ops = scores(*joined)
    enough = len(networks) >= MIN_OPS
    total, total_std, line = told
    return {
        "ops": len(ops),
        "op_mape": of_ops["mape"],
        "op": of_ops,
        "op_how": "timed in place",
        "op_nested_mape": of_ops["mape"],  # nothing is chosen by the folds
        "extrapolation": {},
        "cv": cv,
        "model": chosen,
        "folds": FOLDS,
        "networks_fit": 0 if enough else len(networks),
        "networks_test": len(networks) if enough else 0,
        "network_how": f"in {FOLDS} folds" if enough else "",
        "network_mape": mape(total, measured) if enough else None,
        "network_spearman": spearman(total, measured) if enough else None,
        "network": scores(total, measured, total_std) if enough else {},
        "network_loo_mape": None,
        "noise_floor": float(np.mean([abs(o.drift) for o in networks])) if enough else None,
        "baselines": {"flops_line": {"mape": mape(line, measured), "spearman": spearman(line, measured)}}
        if enough
        else {},
        "test": np.round(np.column_stack([total, measured]), 9)[:1000].tolist(),
    }
