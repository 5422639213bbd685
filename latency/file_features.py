"""A model of a file, whose feature table may be another version's, in the columns of this version's."""

from __future__ import annotations

from typing import Any

import numpy as np

from latency.features import FEATURES
from latency.frozen import TERMS, Frozen
from latency.uncertainty import KindModel


class UnknownFeature(Exception):  # for the reader of files, which says the file
    """A feature that a file needs and the table lacks."""


def kind_of(k: dict[str, Any], names: list[str]) -> KindModel:
    """One kind of a file whose feature table was `names`. Of a feature newer than the file no range is known.

    Raises UnknownFeature.
    """
    place, inf = {name: i for i, name in enumerate(names)}, float("inf")
    low, high = (
        np.array([k[end][place[n]] if n in place else none for n in FEATURES])
        for end, none in (("low", -inf), ("high", inf))
    )
    for at in (FEATURES.index("log_network"), FEATURES.index("log_waste_out")):
        if names != list(FEATURES) and low[at] == high[at] == 0.0:  # no kernels, or kernels that did not say it
            low[at], high[at] = -inf, inf
    return KindModel(
        _moved(k["model"], names), {op: (v[0], v[1]) for op, v in k["known"].items()}, k["discrete"], low, high
    )


def _moved(model: Frozen | None, names: list[str]) -> Frozen | None:
    """`model` with its columns counted in this version's FEATURES."""
    if model is None or names == list(FEATURES):
        return model
    moved = dict(model)
    if model["kind"] == "work":
        return _moved_work(model)
    if model["kind"] == "context":
        return {**moved, "model": _moved(model["model"], names)}
    if model["kind"] == "blend":
        return {**moved, "models": [_moved(m, names) for m in model["models"]]}
    wanted = [names[c] for c in model["columns"]]
    missing = [n for n in wanted if n not in FEATURES]
    if missing:
        raise UnknownFeature(", ".join(missing))
    moved["columns"] = np.array([FEATURES.index(n) for n in wanted], dtype=np.int64)
    if "prior" in model and "models" in model["prior"]:
        moved["prior"] = {**model["prior"], "models": [_moved(m, names) for m in model["prior"]["models"]]}
    elif "prior" in model:
        moved["prior"] = _moved_work(model["prior"])
    return moved


def _moved_work(prior: Frozen) -> Frozen:
    """`prior` with its rates in the order of this version's terms. Files of before tiles had five, and named none."""
    if "terms" not in prior or tuple(prior["terms"]) == TERMS:
        return prior
    rates = dict(zip(prior["terms"], prior["weights"], strict=True))
    if missing := [n for n, rate in rates.items() if rate and n not in TERMS]:
        raise UnknownFeature(", ".join(missing))
    return {**prior, "terms": list(TERMS), "weights": np.array([rates.get(n, 0.0) for n in TERMS])}
