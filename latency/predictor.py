"""LatencyPredictor: F(op) -> seconds, and a network as constant + scale * sum of F over its ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from devices.errors import UserError
from latency import frozen, pickles
from latency.features import FEATURES, SHAPE, discrete_values, feature_matrix
from latency.frozen import Frozen
from latency.ops import Op
from latency.stats import Floats

SCHEMA = 1


class UnsupportedOp(UserError):
    """An op that the predictor was not fitted on."""


class PredictorError(UserError):
    """A predictor file of another schema, or damaged."""


@dataclass(frozen=True)
class KindModel:
    """F for one kind of op.

    `model` is None where too few ops were measured to fit one: then only `known` ops are answered, by look-up.
    """

    model: Frozen | None
    known: dict[str, tuple[float, float]]  # op text -> (seconds, standard error), for look-up only
    discrete: dict[str, list[str]]  # field -> values measured
    low: Floats  # (len(FEATURES),) smallest and largest feature measured
    high: Floats


@dataclass(frozen=True)
class LatencyPredictor:
    """What `python -m latency.fit` makes. Evaluates in numpy alone."""

    device: str
    kinds: dict[str, KindModel]
    constant_s: float = 0.0
    scale: float = 1.0
    network_rel_std: float | None = None  # spread of measured / predicted over networks; None: no network was measured
    provenance: dict[str, Any] = field(default_factory=dict)
    path: str = "this predictor"

    @overload
    def predict_s(self, ops: Sequence[Op], return_std: Literal[False] = False) -> Floats: ...
    @overload
    def predict_s(self, ops: Sequence[Op], return_std: Literal[True]) -> tuple[Floats, Floats]: ...

    def predict_s(self, ops: Sequence[Op], return_std: bool = False) -> Floats | tuple[Floats, Floats]:
        """(n,) seconds of each op; with `return_std` also the (n,) standard errors. Free ops take 0 s.

        Raises UnsupportedOp for a kind, or a value of a discrete field (kernel, stride, ...), never measured.
        """
        mean, std = np.zeros(len(ops)), np.zeros(len(ops))
        by_kind: dict[str, list[int]] = {}
        for i, op in enumerate(ops):
            if not op.is_free:
                self._require(op)
                by_kind.setdefault(type(op).__name__, []).append(i)
        for name, indices in by_kind.items():
            kind = self.kinds[name]
            if kind.model is None:
                mean[indices], std[indices] = np.array([kind.known[str(ops[i])] for i in indices]).T
            else:
                log_s, log_std = frozen.predict(kind.model, feature_matrix([ops[i] for i in indices]))
                mean[indices] = np.exp(log_s)
                std[indices] = mean[indices] * log_std
        return (mean, std) if return_std else mean

    def network_s(self, ops: Sequence[Op]) -> tuple[float, float]:
        """(seconds, standard error) of the network that runs `ops` one after another. Raises UnsupportedOp."""
        mean, std = self.predict_s(ops, return_std=True)
        seconds = self.constant_s + self.scale * float(mean.sum())
        if self.network_rel_std is not None:
            return seconds, seconds * self.network_rel_std
        return seconds, self.scale * float(np.sqrt((std**2).sum()))

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
            return None if str(op) in kind.known else f"has of this kind only {'; '.join(kind.known)}"
        for name, value in discrete_values(op).items():
            if value not in kind.discrete.get(name, []):
                return f"was fitted on {name} {', '.join(kind.discrete.get(name, []))}"
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
                "provenance": self.provenance,
            },
        )


def load_predictor(path: Path | str) -> LatencyPredictor:
    """Read a predictor. Raises PickleError or PredictorError naming the file; runs nothing that the file asks for."""
    path = Path(path)
    content = pickles.load(path)
    if content.get("schema") != SCHEMA or "kinds" not in content:
        raise PredictorError(
            f"{path}: not a latency predictor of schema {SCHEMA}; fit it anew with python -m latency.fit"
        )
    if content.get("features") != list(FEATURES):
        raise PredictorError(f"{path}: fitted on another feature table; fit it anew with python -m latency.fit")
    try:
        kinds = {
            name: KindModel(
                k["model"], {op: (v[0], v[1]) for op, v in k["known"].items()}, k["discrete"], k["low"], k["high"]
            )
            for name, k in content["kinds"].items()
        }
        return LatencyPredictor(
            content["device"],
            kinds,
            content["constant_s"],
            content["scale"],
            content["network_rel_std"],
            content["provenance"],
            str(path),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise PredictorError(f"{path}: damaged: {type(error).__name__} {error}") from None
