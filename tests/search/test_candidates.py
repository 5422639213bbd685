"""The most probable networks: ranked with batch-norm statistics of their own, measured, and one kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from devices.base import DeviceError
from devices.errors import UserError
from latency.console import Ui, ms
from latency.space import SearchSpace
from search.api import Options, search_data, search_plan
from search.budgets import latency_budget
from search.candidates import Candidate, choose, ranked
from search.costs import Costs, make_costs
from search.data import Data
from search.ranking import own_statistics, supernet_accuracies
from search.recipe import Recipe
from search.result import Result
from search.supernet import Supernet
from search.targets import make_plan
from tests.search.conftest import FakePredictor


def candidate(number: int, log_p: float = 0.0, **more: object) -> Candidate:
    return Candidate((number,), True, log_p, 1.0, **more)  # type: ignore[arg-type]


def test_the_best_accuracy_comes_first_and_the_likelier_of_equals() -> None:
    three = [candidate(0, -1.0), candidate(1, -2.0), candidate(2, -1.5)]
    order = [c.indices[0] for c in ranked(three, [0.5, 0.9, 0.9])]
    assert order == [2, 1, 0]


def test_the_first_that_keeps_the_target_when_measured_is_kept() -> None:
    slow, fits, fast = (candidate(i, measured_s=s, ci_s=(s, s)) for i, s in enumerate((1.1, 0.99, 0.8)))
    assert choose([slow, fits, fast], 1.0)[0] is fits
    assert "number 2 of 3: within the target" in choose([slow, fits, fast], 1.0)[1][0]
    kept, (note,) = choose([slow, candidate(7, measured_s=1.05, ci_s=(1, 1))], 1.0)
    assert kept.measured_s == 1.05
    assert "none of the 2 networks measured keeps the target of 1000.0 ms" in note
    assert "1050.0 ms, 5.0% more" in note
    assert choose([candidate(3), candidate(4)], 1.0) == (candidate(3), [])


def test_candidates_survive_json() -> None:
    for one in (candidate(1), candidate(2, accuracy=0.5, measured_s=0.1, ci_s=(0.09, 0.11))):
        assert Candidate.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_statistics_are_the_networks_own_and_the_supernets_come_back(
    space: SearchSpace, costs: Costs, bands: Data
) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space, costs, 3)
    supernet.train()
    for _ in range(3):
        supernet(torch.randn(8, 3, 16, 16), [0, 0, 0])
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    x = [torch.randn(16, 3, 16, 16) for _ in range(3)]
    with torch.no_grad(), own_statistics(supernet):
        for batch in x:
            supernet(batch, [1, 2, 4])
        norm = next(m for m in supernet.stem.modules() if isinstance(m, torch.nn.BatchNorm2d))
        convolved = [supernet.stem[0][0](batch) for batch in x]  # type: ignore[index]
        mean = torch.stack([c.mean((0, 2, 3)) for c in convolved]).mean(0)
        assert norm.running_mean is not None
        assert torch.allclose(norm.running_mean, mean, atol=1e-6)
    accuracies = supernet_accuracies(supernet, [[1, 2, 4], [0, 0, 0], [1, 2, 4]], bands, batch_size=16, seed=0)
    assert accuracies[0] == accuracies[2]
    after = supernet.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert supernet.training
    assert norm.momentum == 0.1


def recording(path: Path, space: SearchSpace, predictor: FakePredictor, factor: float) -> str:
    """A device file of a replay device on which networks take `factor` times what is predicted of their ops."""
    ops = space.unique_ops()
    seconds = factor * predictor.scale * np.asarray(predictor.predict_s(ops))
    (path / "rec.json").write_text(json.dumps({str(op): float(s) for op, s in zip(ops, seconds, strict=True)}))
    device = path / "scripted.toml"
    device.write_text(f'runtime = "replay"\n[options]\nrecording = "{path / "rec.json"}"\n')
    return str(device)


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1.5, False)])
def test_verified_on_a_device_the_best_that_keeps_the_target_is_kept(
    space: SearchSpace, bands: Data, quick: Recipe, tmp_path: Path, factor: float, fits: bool
) -> None:
    predictor = FakePredictor(constant_s=0.0, device="scripted")
    costs = make_costs(space, predictor)
    target_s = 0.8 * costs.expected_s(costs.uniform_LK)
    device = recording(tmp_path, space, predictor, factor)
    folder = tmp_path / "run"
    options = Options(verify_on=device, top_k=4, floor=0.5)
    result = search_data(space, predictor, bands, target_s=target_s, recipe=quick, options=options, run_dir=folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (derived,) = (row for row in rows if row["phase"] == "derived")
    found = [Candidate.from_dict(row) for row in derived["candidates"]]
    assert len(found) == 4
    assert len({c.indices for c in found}) == 4
    assert [c.accuracy for c in found] == sorted((c.accuracy for c in found), reverse=True)  # type: ignore[type-var]
    for c in found:
        assert c.measured_s == pytest.approx(factor * c.predicted_s, rel=1e-3)
    chosen = next(c for c in found if c.indices == result.architecture.indices)
    assert result.measured_s == chosen.measured_s
    if fits:
        assert chosen == found[0]  # all keep it; the first by accuracy
    else:
        assert chosen.measured_s == min(c.measured_s for c in found if c.measured_s)
    assert (chosen.measured_s <= target_s) == fits or not fits


def test_times_are_held_against_the_limit_of_the_device_they_are_of(
    space: SearchSpace, bands: Data, quick: Recipe, tmp_path: Path
) -> None:
    """The target is another device's and ten times tighter; the limit on the device decides, its tightest."""
    here, there = (
        FakePredictor(constant_s=0.0, device="scripted"),
        FakePredictor(constant_s=0.0, scale=0.15, device="faster"),
    )
    costs = make_costs(space, there)
    mean_s = make_costs(space, here).expected_s(costs.uniform_LK)
    budgets = [latency_budget(space, here, share * mean_s, f"scripted{share}") for share in (1.2, 1.0)]
    plan, _, _ = make_plan(costs, 0.8 * costs.expected_s(costs.uniform_LK), budgets, device=there.device)
    assert plan.on("scripted") is budgets[1]
    assert plan.on("faster") is plan.budgets[0]
    options = Options(verify_on=recording(tmp_path, space, here, 1.0), floor=0.5)
    said: list[str] = []
    ui = Ui()
    ui.say = said.append  # type: ignore[method-assign]
    result = search_plan(space, plan, bands, recipe=quick, options=options, ui=ui)
    assert result.measured_s is not None
    assert plan.target_s < result.measured_s <= budgets[1].limit
    assert any(f"within the limit on scripted of {ms(budgets[1].limit)}" in line for line in said)


def test_a_device_that_nothing_limits_is_refused_before_the_search(cli, tmp_path: Path) -> None:
    """A time on one device is no proof of a target on another; a device file counts by its name."""
    code, _, err = cli("--verify-on", "cpu")
    assert code == 2
    assert re.search(
        r"error: --verify-on cpu: a time on cpu cannot be held against a latency limit on fake; .*"
        r"\(--predictor tables/cpu.pkl:LIMIT\), or leave --verify-on out\n$",
        err,
    )
    mine, other = tmp_path / "fake.toml", tmp_path / "other.toml"
    for path in (mine, other):
        path.write_text('runtime = "replay"\n')
    code, _, err = cli("--verify-on", str(other))
    assert code == 2
    assert "a time on other cannot be held against a latency limit on fake" in err
    assert not (tmp_path / "runs").exists()
    code, out, err = cli("--verify-on", str(mine), "--steps", "2", "--train-steps", "1", "--top-k", "2")
    assert code == 0, err
    assert re.search(r"measured .* on ", out)


def test_a_device_that_fails_does_not_lock_in_the_search_before_it(
    space: SearchSpace, bands: Data, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searched, not measured: --resume goes on without the device; once a network is chosen, that is fixed."""
    predictor = FakePredictor(constant_s=0.0, device="scripted")
    device, folder = recording(tmp_path, space, predictor, 1.0), tmp_path / "run"

    def go(verify_on: str | None, resume: bool = True) -> Result:
        options = Options(verify_on=verify_on)
        return search_data(space, predictor, bands, recipe=quick, run_dir=folder, options=options, resume=resume)

    def fails(*_: object) -> None:
        raise DeviceError("the cable came out")

    with monkeypatch.context() as patch:
        patch.setattr("search.pipeline.measured", fails)
        with pytest.raises(DeviceError, match="cable"):
            go(device, resume=False)
    searched = (folder / "metrics.jsonl").read_text()
    assert go(None).measured_s is None
    assert (folder / "metrics.jsonl").read_text().startswith(searched)  # not searched again
    config = json.loads((folder / "config.json").read_text())
    assert "verify_on" not in config
    assert [old["verify_on"] for old in config["before"]] == [device]
    with pytest.raises(UserError, match="started with another config: verify_on: absent there"):
        go(device)


def test_a_device_that_is_not_there_is_told_before_the_search(
    space: SearchSpace, predictor, bands: Data, quick: Recipe
) -> None:
    with pytest.raises(UserError, match="unknown device 'toaster'"):
        search_data(space, predictor, bands, recipe=quick, options=Options(verify_on="toaster"))


def test_one_candidate_is_not_ranked(space: SearchSpace, predictor, bands: Data, quick: Recipe, tmp_path: Path) -> None:
    search_data(space, predictor, bands, recipe=quick, options=Options(top_k=1), run_dir=tmp_path / "r")
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (derived,) = (row for row in rows if row["phase"] == "derived")
    assert [c["accuracy"] for c in derived["candidates"]] == [None]
