"""The benchmarks of memory, steps and kills measure what they say, on sizes of a test."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks import kill_resume, search_gpu, search_memory
from benchmarks.steps import Steps, of_name
from tests.search.conftest import SPACE_FILE, make_space


def test_bytes_kept_are_flat_in_candidates_for_paths_and_grow_for_mixtures() -> None:
    few, more = (search_memory.measure(n, batch=2) for n in (2, 3))
    one = few["plain network"]["saved"]
    assert few["plain, torch's ReLU6"]["saved"] > 1.3 * one
    for name in ("proxyless-g two", "proxyless-g full", "proxyless-r"):
        assert more[f"{name}, weights"]["saved"] <= 1.05 * one
        assert more[f"{name}, alpha"]["saved"] <= 1.05 * one
    for name in ("darts", "one-shot"):
        assert few[f"{name}, weights"]["saved"] > 1.6 * one
        assert more[f"{name}, weights"]["saved"] > 1.35 * few[f"{name}, weights"]["saved"]


def test_plain_steps_are_of_the_path_that_the_strategy_draws() -> None:
    steps = Steps(make_space(), 4, 16)
    ran: list[list[int]] = []
    forward = type(steps.state.supernet).forward

    def spy(self, x, path):
        ran.append(list(path))
        return forward(self, x, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(steps.state.supernet), "forward", spy)
        for step in range(3):
            steps.state.step = step
            steps.weight(of_name("proxyless-g two"))()
            assert ran[-1] == steps.drawn("path")
    _, network = steps.plain(ran[-1])
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in steps.state.supernet.parameters())


@pytest.mark.parametrize("name", [search_gpu.PLAIN, "proxyless-g full", "darts"])
def test_the_gpu_benchmark_runs_on_a_cpu(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    args = argparse.Namespace(
        space=f"{tmp_path}/mine.py:mine", batch=4, image_size=16, classes=3, device="cpu", repeats=2
    )
    found = search_gpu.measure(name, "bf16", args)
    assert found.keys() == ({"training step"} if name == search_gpu.PLAIN else {"weight step", "alpha step"})
    for values in found.values():
        assert values["median_s"] > 0
        assert values["peak_bytes"] > 10_000
    told = search_gpu.foretold("bf16", args)
    assert told["one path"] < told["all paths"]


def test_the_gpu_benchmark_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a CUDA device")
    assert search_gpu.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_differences_between_checkpoints_are_named() -> None:
    a = {"state": {"w": torch.ones(3), "steps": [1, 2]}, "phase": "x"}
    assert kill_resume.differences(a, {"state": {"w": torch.ones(3), "steps": [1, 2]}, "phase": "x"}, "c") == []
    b = {"state": {"w": torch.tensor([1.0, 1.0, 1.0 + 1e-7]), "steps": [1, 3]}, "phase": "x"}
    assert kill_resume.differences(a, b, "c") == ["c.state.w", "c.state.steps[1]"]
