"""A space, a predictor and images small enough for tests of milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from devices.errors import UserError
from latency.ops import Conv2d, Linear, Op, Zero, mbconv
from latency.space import Choice, SearchSpace
from search import run
from search.costs import Costs, make_costs
from search.data import Data, InMemory, split_data
from search.recipe import Recipe
from tests.conftest import ROOT


@dataclass(frozen=True)
class FakePredictor:
    """F(op) = multiply-adds of the op in nanoseconds; has the methods of latency.predictor.LatencyPredictor."""

    constant_s: float = 1e-4
    scale: float = 1.5
    unknown: str = "nothing"
    device: str = "fake"

    def predict_s(self, ops: Sequence[Op]) -> np.ndarray:
        for op in ops:
            if type(op).__name__ == self.unknown:
                raise UserError(f"{op}: the fake knows no {self.unknown}")
        return np.array([self._one(op) for op in ops])

    def _one(self, op: Op) -> float:
        if op.is_free:
            return 0.0
        mid = getattr(op, "mid_channels", op.out_channels)
        kernel = getattr(op, "kernel", 1)
        return 1e-9 * op.height * op.width * mid * (op.in_channels + op.out_channels + kernel**2)

    def network_s(self, ops: Sequence[Op]) -> tuple[float, float]:
        return self.constant_s + self.scale * float(self.predict_s(ops).sum()), 0.0

    def covers(self, op: Op) -> bool:
        return type(op).__name__ != self.unknown


def make_space(blocks: int = 3, size: int = 16) -> SearchSpace:
    """Stem, one stride-2 block of 4 candidates, `blocks` - 1 blocks of 4 candidates and Zero, head; maps from 8x8."""
    stem = (Conv2d(in_channels=3, out_channels=8, height=size, width=size, kernel=3, stride=2),)
    half, quarter = size // 2, size // 4
    kinds = [(3, 2), (5, 2), (3, 3), (5, 3)]
    first = Choice("down", tuple(mbconv(8, 12, half, kernel=k, stride=2, expand=e) for k, e in kinds))
    rest = [
        Choice(
            f"block{i}",
            (
                *(mbconv(12, 12, quarter, kernel=k, stride=1, expand=e) for k, e in kinds),
                Zero(in_channels=12, out_channels=12, height=quarter, width=quarter, shortcut=1),
            ),
        )
        for i in range(1, blocks)
    ]
    head = (
        Conv2d(in_channels=12, out_channels=16, height=quarter, width=quarter, kernel=1),
        Linear(in_channels=16, out_channels=10, height=quarter, width=quarter),
    )
    return SearchSpace("tiny", stem, (first, *rest), head)


def make_data(n: int = 120, size: int = 16, classes: int = 3) -> Data:
    """Noise with a bright band whose place is the label."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    images = rng.integers(0, 100, (n, 3, size, size))
    for i, label in enumerate(labels):
        images[i, :, label * 4 : label * 4 + 4] += 120
    tensor = torch.from_numpy(images.astype(np.uint8))
    return split_data("bands", (InMemory(tensor, labels), labels), None, tuple("abc"[:classes]), seed=0)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose much to it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def space() -> SearchSpace:
    return make_space()


@pytest.fixture
def costs(space: SearchSpace, predictor: FakePredictor) -> Costs:
    return make_costs(space, predictor)


@pytest.fixture
def bands() -> Data:
    return make_data()


@pytest.fixture
def quick() -> Recipe:
    """A recipe of a second."""
    return Recipe(
        batch_size=16, warmup_steps=4, search_steps=8, train_steps=4, alpha_every=2, alpha_lr=0.1, dual_rate=1.0
    )


SPACE_FILE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.search.conftest import make_space
mine = make_space()
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run the command with the fake predictor; returns (exit code, stdout, stderr)."""
    import latency.predictor

    fake = {"fake.pkl": FakePredictor(), "partial.pkl": FakePredictor(unknown="MBConv")}
    real = latency.predictor.load_predictor
    monkeypatch.setattr(latency.predictor, "load_predictor", lambda path: fake.get(Path(path).name) or real(path))
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    monkeypatch.chdir(tmp_path)

    def call(*more: str, predictor: str = "fake.pkl") -> tuple[int, str, str]:
        arguments = ["--predictor", predictor, "--space", "mine.py:mine", "--image-size", "8", "--no-tflite", *more]
        try:
            code = run.main(arguments)
        except SystemExit as stop:
            code = int(str(stop.code))
        out, err = capfd.readouterr()
        return code, out, err

    return call
