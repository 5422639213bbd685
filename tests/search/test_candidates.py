"""The most probable networks: ranked with batch-norm statistics of their own, measured, and one kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from devices.errors import UserError
from latency.space import SearchSpace
from search.api import Options, search_data
from search.candidates import Candidate, choose, ranked
from search.costs import Costs, make_costs
from search.data import Data
from search.ranking import own_statistics, supernet_accuracies
from search.recipe import Recipe
from search.supernet import Supernet
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
    predictor = FakePredictor(constant_s=0.0)
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
