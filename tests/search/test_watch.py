"""What is seen while a search runs: the network of the moment, the entropy of each block, TensorBoard's files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from latency.space import SearchSpace
from search import tensorboard, watch
from search.api import Options, search_data
from search.budgets import params_budget
from search.costs import Costs
from search.data import Data
from search.recipe import Recipe
from search.rng import generator
from search.rundir import RunDir
from search.state import start
from search.targets import one_target


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_glance_changes_nothing(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    target_s = costs.network_s([2, 2, 2])
    state = start(space, costs, num_classes=3, target_s=target_s, recipe=quick, seed=0)
    batch = torch.randn(9, 3, 16, 16, generator=generator(0, "x")), torch.arange(9) % 3
    before = {k: v.clone() for k, v in state.supernet.state_dict().items()}
    random_state = torch.random.get_rng_state()
    seen = watch.glance(state, batch)
    assert watch.glance(state, batch) == seen
    assert all(torch.equal(v, before[k]) for k, v in state.supernet.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(p.requires_grad and p.grad is None for _, p in state.supernet.weights())
    assert seen["predicted_s"] == pytest.approx(costs.network_s(seen["indices"]))
    assert seen["predicted_s"] <= target_s
    with torch.no_grad():  # what alpha prefers is what is seen, where the budget allows it
        state.supernet.alpha_LK.zero_()[:, 0] = 5
    cheap = costs.network_s([0, 0, 0])
    state.plan = one_target(costs, 1.02 * cheap)
    assert watch.glance(state, batch)["indices"] == [0, 0, 0]


def test_a_glance_keeps_every_budget(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    """A second budget that only the smallest first block keeps, which alpha does not prefer."""
    state = start(space, costs, num_classes=3, target_s=1.001 * costs.network_s([3, 3, 3]), recipe=quick, seed=0)
    batch = torch.randn(9, 3, 16, 16, generator=generator(0, "x")), torch.arange(9) % 3
    with torch.no_grad():
        state.supernet.alpha_LK.zero_()[:, 3] = 5
    assert watch.glance(state, batch)["indices"] == [3, 3, 3]
    counted = params_budget(space, 1).costs
    fewer = params_budget(space, counted.network_s([3, 3, 3]) - 1)
    state.plan = dataclasses.replace(state.plan, budgets=(*state.plan.budgets, fewer))
    seen = watch.glance(state, batch)["indices"]
    assert seen != [3, 3, 3]
    assert counted.network_s(seen) <= fewer.limit


def test_a_run_is_watched_a_bounded_number_of_times(
    space: SearchSpace, predictor, quick: Recipe, bands: Data, tmp_path: Path
) -> None:
    search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path / "r")
    rows = rows_of(tmp_path / "r")
    searched = [row for row in rows if "expected_s" in row and row["phase"] == "search"]
    assert [row["step"] for row in searched] == [5, 7, 9, 11]
    for row in searched:
        assert 0 <= row["now"]["accuracy"] <= 1
        assert len(row["entropies"]) == 3
        assert sum(row["entropies"]) / 3 == pytest.approx(row["entropy"], abs=1e-4)
    assert sum(watch.due(done, 20_000) for done in range(1, 20_001)) == watch.GLANCES


def test_a_missing_tensorboard_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from search.run import main

    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    root = Path(__file__).parents[2]
    assert main(["--predictor", str(root / "tables/pixel1.pkl"), "--target-ms", "80", "--tensorboard"]) == 2
    assert "pip install 'metronome-nas[tensorboard]'" in capsys.readouterr().err


def test_event_files_hold_each_step_once(
    space: SearchSpace, predictor, quick: Recipe, bands: Data, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "r"
    search_data(space, predictor, bands, recipe=quick, run_dir=folder, options=Options(tensorboard=True))
    run = RunDir(folder)
    with tensorboard.events(run) as events:  # as a resumed run does: what is there is written anew
        run.append({"phase": "note"})
    read = EventAccumulator(str(events))
    read.Reload()
    tags = read.Tags()["scalars"]
    searched = [row for row in rows_of(folder) if "expected_s" in row and row["phase"] == "search"]
    expected = read.Scalars("latency_ms/expected")
    assert [e.step for e in expected] == [row["step"] for row in searched]
    assert expected[-1].value == pytest.approx(searched[-1]["expected_s"] * 1e3, rel=1e-5)
    assert {"latency_ms/target", "search/lambda", "search/entropy", "accuracy/network_of_the_moment"} <= set(tags)
    assert {f"entropy/{c.name}" for c in space.choices} <= set(tags)
