from __future__ import annotations

import json
import random

import pytest

from latency.flops import macs
from latency.ops import mbconv
from latency.space import Choice, SearchSpace


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
