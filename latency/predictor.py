"""LatencyPredictor: F(op) -> seconds, and a network as constant + scale * sum of F over its ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from devices.errors import UserError
from latency import frozen, kernel_std, pickles
from latency.features import FEATURES, SHAPE, discrete_values, feature_matrix
from latency.file_features import UnknownFeature, kind_of
from latency.kernel_context import placed, text_alone
from latency.kernels import KERNELS
from latency.ops import Op
from latency.stats import Floats
from latency.uncertainty import KindModel, context_std_s, network_std

if TYPE_CHECKING:
    from latency.joint import JointFit

SCHEMA = 6
# 1: no uncertainty. 2: F of ops alone only. 3: one width for all sums of kernels. 4: F of kernels by MACs. 5: kernels
# without weights did not say what their network reads.


KERNEL_KINDS = frozenset(kind.__name__ for kind in KERNELS)
LEAST = 0.1  # share of the sum of its ops that a network takes at least


class UnsupportedOp(UserError):
    """An op that the predictor was not fitted on."""


class PredictorError(UserError):
    """A predictor file of another schema, or damaged."""


@dataclass(frozen=True)
class LatencyPredictor:
    """What `python -m latency.fit` makes. Evaluates in numpy alone."""

    device: str
    kinds: dict[str, KindModel]
    constant_s: float = 0.0
    scale: float = 1.0
    network_rel_std: float | None = None  # spread of measured / predicted over networks; None: no network was measured
    uncertainty: dict[str, Any] = field(default_factory=dict)  # JointFit's, or latency/kernel_std.py's; {}: schema 1
    provenance: dict[str, Any] = field(default_factory=dict)
    path: str = "this predictor"
    context: Floats | None = None  # (2,) seconds of F that a unit of frozen.CONTEXT_TERMS adds to an op in a network

    @overload
    def predict_s(self, ops: Sequence[Op], return_std: Literal[False] = False) -> Floats: ...
    @overload
    def predict_s(self, ops: Sequence[Op], return_std: Literal[True]) -> tuple[Floats, Floats]: ...

    def predict_s(self, ops: Sequence[Op], return_std: bool = False) -> Floats | tuple[Floats, Floats]:
        """(n,) seconds of F of each op; with `return_std` also the (n,) standard errors. Free ops take 0 s.

        F is what the op takes inside a network, but for the network's `scale`; `alone_s` is what it takes when timed
        alone, over and over. Raises UnsupportedOp for a kind, or a value of a discrete field (kernel, stride, ...),
        never measured.
        """
        mean, std = self._in_network(ops, *self.alone_s(ops))
        return (mean, std) if return_std else mean

    def _in_network(self, ops: Sequence[Op], alone_s: Floats, alone_std_s: Floats) -> tuple[Floats, Floats]:
        """`predict_s` of ops that take `alone_s` when timed alone."""
        mean, std = alone_s.copy(), alone_std_s.copy()
        some = [i for i, op in enumerate(ops) if not op.is_free]
        if self.context is not None and some:
            x = feature_matrix([ops[i] for i in some])
            mean[some] = frozen.in_context(mean[some], x, self.context)
            std[some] = np.hypot(std[some], context_std_s(self.uncertainty, x) / self.scale)
        return mean, std

    def alone_s(self, ops: Sequence[Op]) -> tuple[Floats, Floats]:
        """(n,) seconds of each op timed alone, over and over, and (n,) standard errors. Raises as `predict_s`."""
        mean, std = np.zeros(len(ops)), np.zeros(len(ops))
        by_kind: dict[str, list[int]] = {}
        for i, op in enumerate(ops):
            if not op.is_free:
                self._require(op)
                by_kind.setdefault(type(op).__name__, []).append(i)
        for name, indices in by_kind.items():
            kind = self.kinds[name]
            if kind.model is None:
                mean[indices], std[indices] = np.array([kind.known[text_alone(ops[i])] for i in indices]).T
            else:
                x = feature_matrix([ops[i] for i in indices])
                log_s, log_std = frozen.predict(kind.model, x)
                if self.uncertainty.get("form") == kernel_std.FORM:
                    log_std = kernel_std.log_std(self.uncertainty, name, kind.model, x, log_s)
                mean[indices] = np.exp(log_s)
                std[indices] = mean[indices] * log_std
        return mean, std

    def network_s(self, ops: Sequence[Op]) -> tuple[float, float]:
        """(seconds, standard error) of the network that runs `ops` one after another. Raises UnsupportedOp.

        seconds = constant_s + scale * sum of predict_s, and at least LEAST of that sum: a negative constant is of
        networks like those measured. The standard error is that of a measurement of the network: what is unknown of F
        (errors that its ops share do not average out), of constant and scale, and what no sum explains; seconds -+
        1.645 of it is meant to hold 90 % of unseen networks. Where no network was measured, the scale is taken to be
        known to a tenth.
        """
        if self.uncertainty.get("form") == kernel_std.FORM:
            ops = placed(ops)
        alone = self.alone_s(ops)
        total = self.scale * float(self._in_network(ops, *alone)[0].sum())
        seconds = max(self.constant_s + total, LEAST * total)
        mean, std = (self.scale * a for a in alone)
        if self.uncertainty:
            return seconds, network_std(self.uncertainty, self.kinds, ops, mean, std, seconds)
        if self.network_rel_std is not None:
            outside = float(sum(s for op, s in zip(ops, std, strict=True) if self.outside(op)))  # all in one direction
            return seconds, float(np.hypot(seconds * self.network_rel_std, outside))
        return seconds, float(np.sqrt((std**2).sum()))

    def law(self) -> str:
        """How a network's latency is made, in words and with the fitted numbers."""
        text = f"{self.constant_s * 1e3:.4g} ms + {self.scale:.4g} x sum of its ops"
        if self.context is None:
            return text
        per_byte, per_weight = self.context
        beside = f"{per_byte * 1e12:+.3g} ms per GB moved and {per_weight * 1e9:+.3g} ns per weight"
        return f"{text}; an op takes {beside} beside its time alone"

    def covers_kind(self, op: Op) -> bool:
        """Whether `predict_s` answers for `op`, inside or outside the measured range."""
        return op.is_free or self._problem(op) is None

    def why_not(self, op: Op | None) -> str:
        """Why `predict_s` does not answer for `op`; empty where it does."""
        problem = None if op is None or op.is_free else self._problem(op)
        return f"{type(op).__name__}: {self.path} {problem}" if problem else ""

    def covers(self, op: Op) -> bool:
        """Whether `op` lies inside what was measured: no extrapolation in any feature."""
        return op.is_free or (self._problem(op) is None and not self.outside(op))

    def outside(self, op: Op) -> list[str]:
        """The shape features in which `op` lies outside the range measured for its kind."""
        kind = self.kinds.get(type(op).__name__)
        if kind is None or kind.model is None:
            return []
        x = feature_matrix([op])[0]
        slack = 1e-9
        return [
            n for i, n in enumerate(FEATURES) if n in SHAPE and not kind.low[i] - slack <= x[i] <= kind.high[i] + slack
        ]

    def _require(self, op: Op) -> None:
        problem = self._problem(op)
        if problem is not None:
            raise UnsupportedOp(
                f"{op}: {self.path} {problem}; "
                f"profile it with python -m latency.profile --device {self.device} --space ..."
            )

    def _problem(self, op: Op) -> str | None:
        kind = self.kinds.get(type(op).__name__)
        if kind is None:
            return f"was fitted on {', '.join(self.kinds)}"
        if kind.model is None:
            return None if text_alone(op) in kind.known else f"has of this kind only {'; '.join(kind.known)}"
        for name, value in discrete_values(op).items():
            newer = [str(getattr(type(op), name, "nothing"))]  # than the file: its ops had the field's default
            known = kind.discrete.get(name) or newer
            if value not in known:
                return f"was fitted on {name} {', '.join(known)}"
        return None

    def save(self, path: Path) -> None:
        """Write `tables/NAME.pkl`: builtins and numpy arrays only, with a schema version."""
        kinds = {
            name: {
                "model": k.model,
                "known": {op: list(v) for op, v in k.known.items()},
                "discrete": k.discrete,
                "low": k.low,
                "high": k.high,
            }
            for name, k in self.kinds.items()
        }
        pickles.dump(
            path,
            {
                "format": "metronome-nas latency predictor",
                "schema": SCHEMA,
                "features": list(FEATURES),
                "device": self.device,
                "kinds": kinds,
                "constant_s": self.constant_s,
                "scale": self.scale,
                "network_rel_std": self.network_rel_std,
                "uncertainty": self.uncertainty,
                "context": self.context,
                "provenance": self.provenance,
            },
        )


def from_fit(device: str, fit: JointFit, provenance: dict[str, Any] | None = None) -> LatencyPredictor:
    """The predictor of what latency.joint.fit_joint found."""
    return LatencyPredictor(
        device,
        fit.kinds,
        fit.constant_s,
        fit.scale,
        uncertainty=fit.uncertainty,
        provenance=provenance or {},
        context=fit.context,
    )


def load_predictor(path: Path | str) -> LatencyPredictor:
    """Read a predictor. Raises PickleError or PredictorError naming the file; runs nothing that the file asks for.

    Files of older schemas, and files written when the feature table was shorter, are brought up to date.
    """
    path = Path(path)
    content = pickles.load(path)
    schema = content.get("schema")
    if "kinds" not in content or not isinstance(schema, int) or schema < 1:
        raise PredictorError(f"{path}: not a latency predictor; python -m latency.fit writes one")
    if schema > SCHEMA:
        raise PredictorError(
            f"{path}: written by a newer version (schema {schema}; this version reads schemas up to {SCHEMA}); "
            "update, or fit it anew with python -m latency.fit"
        )
    try:
        kinds = {name: kind_of(k, content["features"]) for name, k in content["kinds"].items()}
        provenance = content["provenance"] | _caution(kinds, path, schema)
        return LatencyPredictor(
            content["device"],
            kinds,
            content["constant_s"],
            content["scale"],
            content["network_rel_std"],
            _uncertainty(content.get("uncertainty", {}), schema),  # schema 1 had none
            provenance,
            str(path),
            content.get("context"),  # schemas 1 and 2 had none
        )
    except UnknownFeature as error:
        raise PredictorError(
            f"{path}: fitted on a feature that this version does not have ({error}); "
            "fit it anew with python -m latency.fit"
        ) from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise PredictorError(f"{path}: damaged: {type(error).__name__} {error}") from None


def _uncertainty(about: dict[str, Any], schema: int) -> dict[str, Any]:
    """Intervals of kernels of before schema 5 grew with another measure of how far they lie: they no longer do."""
    return {**about, "far_slope": 0.0} if schema < 5 and about.get("form") == kernel_std.FORM else about


def _caution(kinds: dict[str, KindModel], path: Path, schema: int) -> dict[str, str]:
    """`caution` for the provenance of a file of an older `schema`. Raises PredictorError where it would be off."""
    groups = kinds["MBConv"].discrete.get("groups", []) if "MBConv" in kinds else []
    if schema < 4 and any(g != "1" for g in groups):
        raise PredictorError(
            f"{path}: fitted on grouped MBConv when the shuffle of their channels was not counted as work; "
            "fit it anew with python -m latency.fit"
        )
    if schema < 6 and any(name in KERNEL_KINDS for name in kinds):
        described = "kernels as an earlier version described and timed them"
        return {"caution": f"{path} is of {described}: profile with --space kernels and fit anew"}
    return {}
