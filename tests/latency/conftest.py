from __future__ import annotations

import json
import random
from collections.abc import Iterable

import numpy as np
import pytest

from latency.features import FEATURES, feature_matrix, measured_values
from latency.flops import macs
from latency.ops import Op, mbconv
from latency.space import Choice, SearchSpace
from latency.uncertainty import KindModel


def small_space(name: str = "small", blocks: int = 5) -> SearchSpace:
    choices = [
        Choice(
            f"block{i}",
            tuple(
                mbconv(8 * (1 + i // 2), 8 * (1 + (i + 1) // 2), 8, kernel=k, stride=1, expand=e)
                for e in (3, 6)
                for k in (3, 5, 7)
            ),
        )
        for i in range(blocks)
    ]
    return SearchSpace(name, (), tuple(choices), ())


def true_s(op) -> float:
    """The made-up truth that the replay device plays: 10 us and 0.1 ns a MAC."""
    return 1e-5 + 1e-10 * macs(op)


@pytest.fixture
def space() -> SearchSpace:
    return small_space()


@pytest.fixture
def replay_toml(tmp_path, space):
    """A device file of a replay device that plays `true_s` with 5 % noise."""
    recording = tmp_path / "recording.json"
    recording.write_text(json.dumps({str(op): true_s(op) for op in space.unique_ops()}))
    path = tmp_path / "fake.toml"
    path.write_text(f"runtime = 'replay'\n[options]\nrecording = '{recording}'\nnoise_cv = 0.05\n")
    return path


@pytest.fixture
def space_py(tmp_path):
    """The same space as a user's own file."""
    path = tmp_path / "my_space.py"
    path.write_text("from tests.latency.conftest import small_space\nspace = small_space()\n")
    return f"{path}:space"


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


def kinds_by_macs(ops: Iterable[Op], intercept: float, per_mac: float, std: float) -> dict[str, KindModel]:
    """Models of the kinds of `ops`, for their values and ranges: `intercept` seconds, and `per_mac` a MAC."""
    model = {
        "kind": "linear", "columns": np.array([FEATURES.index("macs")]), "coef": np.array([per_mac]),
        "intercept": intercept, "floor_s": 1e-9, "std": std,
    }  # fmt: skip
    by_kind: dict[str, list[Op]] = {}
    for op in ops:
        by_kind.setdefault(type(op).__name__, []).append(op)
    found = {}
    for name, mine in by_kind.items():
        x = feature_matrix(mine)
        found[name] = KindModel(model, {}, measured_values(mine), x.min(axis=0), x.max(axis=0))
    return found
