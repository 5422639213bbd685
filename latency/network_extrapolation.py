"""What a predictor is worth on networks with something that no network, and no op, of its fit had.

Grouped cross-validation: all networks that hold an op of a rare kind or value ("MBConv kernel 5, groups 2") are left
out at once, and so are all such ops timed alone; F is fitted on the rest and predicts those left out. latency/op_fit.py
does the same for lone ops. Beside each figure stands that of networks without the trait, which the same fit never saw
either: the difference is what the trait costs, the rest is what so few networks cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from latency.accuracy import Z90
from latency.calibration import spread
from latency.console import Report, quiet
from latency.estimators import CANDIDATES
from latency.features import discrete_values, feature_matrix, measured_values
from latency.frozen import Frozen
from latency.joint import MIN_OPS, Observation, fit_joint
from latency.op_fit import OpFit
from latency.ops import MBConv, Op
from latency.predictor import LatencyPredictor, UnsupportedOp, from_fit
from latency.stats import Floats, mape

MAX_GROUPS = 3  # fits of a third of a second
MAX_FIT = 150  # networks of each: more would take longer than all else
MAX_TOLD = 50  # networks predicted by each, of those left out and of the others
MIN_LEFT_OUT = 5  # networks with the trait
MIN_REST = 40  # networks without it, where networks are all there is
MIN_REST_BESIDE_OPS = 8  # and where ops were timed alone
COMMON = 0.75  # share of networks above which what they hold is not rare
ALIKE = 0.5  # share of ops in common above which a second trait would say the same

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Trait:
    """What some ops have, and some networks therefore hold. `held` (n,) says which networks."""

    kind: str
    values: tuple[str, ...]  # "kernel 5", ...; none for the kind itself
    ops: frozenset[Op]
    held: Bools

    @property
    def name(self) -> str:
        """`MBConv kernel 5, groups 2`."""
        return f"{self.kind} {', '.join(self.values)}".strip()

    def says_more(self, others: Sequence[Trait]) -> bool:
        """Whether it shares no value, and few ops, with any of `others`."""
        return not any(
            (self.kind == o.kind and set(self.values) & set(o.values))
            or len(self.ops & o.ops) > ALIKE * len(self.ops | o.ops)
            for o in others
        )


def op_traits(op: Op) -> dict[str, str]:
    """Field -> value of what networks differ in: discrete fields, expansion, size."""
    found = discrete_values(op)
    if isinstance(op, MBConv):
        found["expand"] = f"{op.mid_channels / op.in_channels:.3g}"
    return found | {"size": str(op.height)}


def rare_traits(networks: Sequence[Observation]) -> list[Trait]:
    """Kinds, values and pairs of values that some networks hold and many do not; those of most ops first.

    Of traits with the same ops the plainest is named.
    """
    ops = sorted({op for o in networks for op in o.ops if not op.is_free}, key=str)
    place = {op: i for i, op in enumerate(ops)}
    holds = np.zeros((len(networks), len(ops)), dtype=bool)
    for n, o in enumerate(networks):
        holds[n, [place[op] for op in set(o.ops) if not op.is_free]] = True
    kinds: dict[str, list[int]] = {}
    for i, op in enumerate(ops):
        kinds.setdefault(type(op).__name__, []).append(i)
    names: dict[frozenset[int], tuple[str, tuple[str, ...]]] = {}
    for kind, mine in kinds.items():
        names.setdefault(frozenset(mine), (kind, ()))
        values = {i: op_traits(ops[i]) for i in mine}
        varying = [f for f in values[mine[0]] if len({v.get(f) for v in values.values()}) > 1]
        for size in (1, 2):
            for fields in combinations(varying, size):
                parts: dict[tuple[str, ...], list[int]] = {}
                for i in mine:
                    parts.setdefault(tuple(f"{f} {values[i].get(f)}" for f in fields), []).append(i)
                for texts, part in parts.items():
                    names.setdefault(frozenset(part), (kind, texts))
    found = [
        Trait(*name, frozenset(ops[i] for i in some), np.asarray(holds[:, sorted(some)].any(axis=1)))
        for some, name in names.items()
    ]
    rare = [t for t in found if MIN_LEFT_OUT <= t.held.sum() <= COMMON * len(networks)]
    return sorted(rare, key=lambda t: (-len(t.ops), t.name))


def network_extrapolation(
    observations: Sequence[Observation], op_fit: OpFit, report: Report = quiet
) -> dict[str, dict[str, Any]]:
    """Trait -> errors on networks that hold it, by a fit without any of them; MAX_GROUPS traits at most.

    `networks`: how many hold it; `told`: how many were predicted, `refused`: could not be; `mape` and `coverage_90` of
    those, as F says although it would call them outside (None where all are refused); `other_mape` of networks without
    the trait by the same fit, of `fit_networks` networks, whose errors decide how wide its intervals are. A kind that
    too little is left of is refused unfitted: nothing is known of it.
    """
    lone = [o for o in observations if len(o.ops) == 1]
    networks = [o for o in observations if len(o.ops) > 1]
    found: dict[str, dict[str, Any]] = {}
    done: list[Trait] = []
    for trait in rare_traits(networks):
        if not trait.says_more(done):
            continue
        rest = len(networks) - int(trait.held.sum())
        if rest < (MIN_REST_BESIDE_OPS if lone else MIN_REST):
            continue
        left = {op for o in (lone or networks) for op in o.ops if type(op).__name__ == trait.kind} - trait.ops
        if len(left) < MIN_OPS:
            if not trait.values:
                count = int(trait.held.sum())
                found[trait.name] = {"networks": count, "told": 0, "refused": count, "mape": None, "coverage_90": None}
            continue
        report(len(done), MAX_GROUPS, f"left out: {trait.name}")
        found[trait.name] = _without(trait, lone, networks, op_fit)
        done.append(trait)
        if len(done) == MAX_GROUPS:
            break
    return found


def _without(
    trait: Trait, lone: Sequence[Observation], networks: Sequence[Observation], op_fit: OpFit
) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    out, rest = rng.permutation(np.flatnonzero(trait.held)), rng.permutation(np.flatnonzero(~trait.held))
    others = min(MAX_TOLD, len(rest) // 4)
    fitted = rest[others : others + MAX_FIT]
    ops = [o for o in lone if o.ops[0] not in trait.ops]
    fit = fit_joint([*ops, *(networks[i] for i in fitted)], given=_given(op_fit, ops), calibrate=False)
    predictor = _unlimited(from_fit("fold", fit), [*lone, *networks])
    mine, std, measured = _told(predictor, [networks[i] for i in out[:MAX_TOLD]])
    theirs, theirs_std, theirs_measured = _told(predictor, [networks[i] for i in rest[:others]])
    wider = spread((theirs_measured - theirs) / theirs_std)
    return {
        "networks": len(out),
        "told": len(mine),
        "refused": len(out[:MAX_TOLD]) - len(mine),
        "mape": mape(mine, measured) if len(mine) else None,
        "coverage_90": float(np.mean(np.abs(mine - measured) <= Z90 * std * wider)) if len(mine) else None,
        "other_mape": mape(theirs, theirs_measured) if len(theirs) else None,
        "fit_networks": len(fitted),
    }


def _given(op_fit: OpFit, ops: Sequence[Observation]) -> dict[str, Frozen]:
    """The models of ops alone that the fit holds to, fitted to `ops` only."""
    found: dict[str, Frozen] = {}
    for name, model in op_fit.chosen.items():
        mine = [o for o in ops if type(o.ops[0]).__name__ == name]
        if model in ("gaussian_process", "lookup") or len(mine) < MIN_OPS:
            continue
        seconds = np.array([o.seconds for o in mine])
        log_var = np.array([(o.stderr_s / o.seconds) ** 2 for o in mine])
        found[name] = CANDIDATES[model](feature_matrix([o.ops[0] for o in mine]), np.log(seconds), log_var)
    return found


def _unlimited(predictor: LatencyPredictor, observations: Sequence[Observation]) -> LatencyPredictor:
    """`predictor`, answering for every value of a discrete field that was measured at all: what F says anyway."""
    every = {op for o in observations for op in o.ops}
    kinds = {
        name: replace(kind, discrete=measured_values(op for op in every if type(op).__name__ == name))
        for name, kind in predictor.kinds.items()
    }
    return replace(predictor, kinds=kinds)


def _told(predictor: LatencyPredictor, networks: Sequence[Observation]) -> tuple[Floats, Floats, Floats]:
    """Predicted seconds, standard errors and measured seconds of the networks that are not refused."""
    found = []
    for o in networks:
        try:
            found.append((*predictor.network_s(o.ops), o.seconds))
        except UnsupportedOp:  # a kind, or an op that is looked up, of which the fit has nothing
            continue
    seconds, std, measured = np.array(found).reshape(-1, 3).T
    return seconds, std, measured
