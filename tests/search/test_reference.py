"""The released code's rules, each against its equation worked out here by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from devices.errors import UserError
from latency.space import SearchSpace
from search import gates
from search.alpha import evaluate
from search.api import Options, search_data
from search.budgets import macs_budget
from search.candidates import most_probable
from search.costs import Costs, make_costs
from search.data import Data
from search.recipe import Recipe, RecipeError
from search.reference import PaperLoss, PaperSum, Reference, papers
from search.reference_r import ReferenceR, moved_baseline
from search.rng import generator
from search.state import SearchState, start
from search.supernet import only_alpha
from search.targets import make_plan, one_target
from tests.search.conftest import FakePredictor


@pytest.fixture
def slow() -> FakePredictor:
    """Some milliseconds a network, as the loss needs them."""
    return FakePredictor(constant_s=3e-3, scale=20.0)


@pytest.fixture
def costs(space: SearchSpace, slow: FakePredictor) -> Costs:
    return make_costs(space, slow)


def state_of(space: SearchSpace, costs: Costs, recipe: Recipe, seed: int, lambda2: float | None = None) -> SearchState:
    target_s = costs.expected_s(costs.uniform_LK)
    loss = PaperLoss(target_s) if lambda2 is None else PaperSum(lambda2)
    state = start(space, costs, num_classes=10, target_s=target_s, recipe=recipe, seed=seed, loss=loss)
    state.alpha_optimizer = torch.optim.SGD([state.supernet.alpha_LK], lr=1.0)  # type: ignore[assignment]
    return state


def images() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 16, 16, generator=draws), torch.arange(8) % 10


def test_the_loss_is_mul_log_in_milliseconds() -> None:
    target_ms = 80.0
    for expected_ms in (50.0, 80.0, 130.0):
        e, ce = torch.tensor(expected_ms, requires_grad=True), torch.tensor(2.1, requires_grad=True)
        by_e, by_ce = torch.autograd.grad(0.2 * ce * (torch.log(e) / math.log(target_ms)) ** 0.3, (e, ce))
        loss = PaperLoss(target_ms * 1e-3)
        factor = loss.factor(expected_ms * 1e-3)
        assert factor == pytest.approx(float(by_ce), rel=1e-5)
        assert factor * loss.slopes(2.1, [expected_ms * 1e-3])[0] * 1e-3 == pytest.approx(float(by_e), rel=1e-5)


@pytest.mark.parametrize("lambda2", [None, 0.3], ids=["mul-log", "add"])
def test_the_step_is_the_two_path_gradient_of_that_loss_and_zero_learns_nothing(
    space: SearchSpace, costs: Costs, quick: Recipe, lambda2: float | None
) -> None:
    seen = {True: 0, False: 0}
    for seed in range(12):
        state = state_of(space, costs, quick, seed, lambda2)
        supernet, (x, y) = state.supernet, images()
        alpha = supernet.alpha_LK.detach().clone()
        pair = gates.sample_pair(supernet.logits(), generator(seed, "pair", 0))
        g = torch.tensor([[1.0, 0.0]] * 3, requires_grad=True)
        supernet.train()
        with only_alpha(supernet):
            ce = functional.cross_entropy(supernet.forward_pair(x, pair, g), y)
            ce.backward()
        Reference(space).step(state, (x, y))
        moved = supernet.alpha_LK.detach() - alpha
        q = torch.softmax(alpha.gather(1, pair), 1)
        cost = torch.from_numpy(costs.cost_LK).gather(1, pair)
        expected_ms = 1e3 * (costs.fixed_s + float((q * cost).sum()))  # E over the two sampled, as in the code
        t_ms = state.target_s * 1e3
        by_ce = 0.2 * (math.log(expected_ms) / math.log(t_ms)) ** 0.3
        by_ms = (
            0.2
            * float(ce.detach())
            * 0.3
            * (math.log(expected_ms) / math.log(t_ms)) ** -0.7
            / (expected_ms * math.log(t_ms))
        )
        if lambda2 is not None:
            by_ce, by_ms = 1.0, lambda2  # CE + lambda2 E
        for block in range(3):
            zero_active = block > 0 and int(pair[block, 0]) == 4
            seen[zero_active] += 1
            if zero_active:
                assert torch.equal(moved[block], torch.zeros(5, dtype=torch.float64))
                continue
            assert g.grad is not None
            d = [by_ce * float(g.grad[block, k]) + by_ms * 1e3 * float(cost[block, k]) for k in range(2)]
            grad = float(q[block, 0] * q[block, 1]) * (d[0] - d[1])
            i, j = pair[block].tolist()
            assert float(moved[block, i] - moved[block, j]) == pytest.approx(-2 * grad, rel=1e-4, abs=1e-9)
            after = torch.softmax(supernet.logits()[block], 0)
            others = [k for k in range(5) if k not in (i, j)]
            assert torch.allclose(
                after[others], torch.softmax(gates.masked_logits(alpha, supernet.valid_LK)[block], 0)[others]
            )
    assert min(seen.values()) > 0


def test_the_released_reinforce_step_and_its_baseline(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    """R = acc (T/LAT)^0.1; b the first mean reward, then b + 0.99 (mean - b), moved before it is subtracted."""
    state = state_of(space, costs, quick, 3, 0.0)
    state.alpha_optimizer.param_groups[0]["lr"] = 0.5
    baseline = None
    for step in range(3):
        state.step = step
        logits = state.supernet.logits()
        networks = [gates.sample_path(logits, generator(3, "networks", step, i)) for i in range(10)]
        _, accuracies = evaluate(state, networks, images())
        rewards = [
            float(a) * (state.target_s / costs.network_s(n)) ** 0.1 for a, n in zip(accuracies, networks, strict=True)
        ]
        mean = sum(rewards) / 10
        baseline = mean if baseline is None else baseline + 0.99 * (mean - baseline)
        alpha = state.supernet.alpha_LK.detach().clone().requires_grad_()
        log_p = torch.log_softmax(gates.masked_logits(alpha, state.supernet.valid_LK), 1)
        objective = sum(
            (r - baseline) * sum(log_p[block, i] for block, i in enumerate(n))
            for r, n in zip(rewards, networks, strict=True)
        )
        (ascent,) = torch.autograd.grad(objective / 10, alpha)
        row = ReferenceR().step(state, images())
        moved = state.supernet.alpha_LK.detach() - alpha.detach()
        assert torch.allclose(moved, 0.5 * ascent, atol=1e-12)
        assert (moved.abs() > 0).any() or len(set(rewards)) == 1
        assert row["reward"] == pytest.approx(mean)
        assert row["baseline"] == state.memory["baseline"] == pytest.approx(baseline)
    assert moved_baseline(None, 0.4) == 0.4
    assert moved_baseline(0.4, 0.6) == pytest.approx(0.598)


@pytest.mark.parametrize("options", [{"loss": "add", "lambda2": 0.05}, {"strategy": "proxyless-r"}])
def test_whole_runs_by_the_papers_other_rules(
    space: SearchSpace, predictor: FakePredictor, bands: Data, quick: Recipe, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Below 1 ms too, where mul#log is not a number; the memory of the baseline is in the checkpoints."""
    given = Options(reference=True, **options)
    whole = search_data(space, predictor, bands, recipe=quick, options=given, run_dir=tmp_path / "r")
    assert whole.architecture.indices == tuple(whole.probs_LK.argmax(1))
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["reference"] is True
    assert config.get("loss") == ({"kind": "add", "lambda2": 0.05} if "loss" in options else None)
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert ("baseline" in next(row for row in rows if "valid_loss" in row)) == ("strategy" in options)


def test_the_network_is_the_argmax_whatever_it_takes(space: SearchSpace, costs: Costs) -> None:
    probs = torch.softmax(torch.from_numpy(costs.cost_LK * 1e3), 1).numpy()  # likes what is slow
    plan = one_target(costs, costs.network_s(costs.fastest) * 1.05)
    (found,) = most_probable(probs, probs, plan, 0.97, 0)
    assert found.indices == tuple(probs.argmax(1))
    assert found.predicted_s > plan.target_s
    assert not found.in_window


def test_a_whole_run_by_the_papers_rules(space: SearchSpace, slow: FakePredictor, bands: Data, quick: Recipe) -> None:
    said: list[str] = []

    class Heard:
        def say(self, text: str) -> None:
            said.append(text)

        def warn(self, text: str) -> None:
            said.append(text)

        def progress(self, title: str):
            from contextlib import nullcontext

            return nullcontext(lambda *_: None)

    result = search_data(space, slow, bands, recipe=quick, options=Options(reference=True), ui=Heard())  # type: ignore[arg-type]
    assert result.architecture.indices == tuple(result.probs_LK.argmax(1))
    assert any("the paper's argmax lands" in line for line in said)
    again = search_data(space, slow, bands, recipe=quick, options=Options(reference=True))
    assert (again.probs_LK == result.probs_LK).all()


def test_what_the_papers_loss_cannot_do_is_refused(space: SearchSpace, predictor, bands: Data, quick: Recipe) -> None:
    with pytest.raises(UserError, match=r"logarithm of milliseconds.*--loss mul-log"):
        search_data(space, predictor, bands, recipe=quick, options=Options(reference=True))
    slow = make_costs(space, FakePredictor(constant_s=3e-3))
    plan, _, _ = make_plan(slow, None, [macs_budget(space, 1e9)])
    for by_reward, lambda2 in ((False, None), (False, 0.1), (True, None)):
        with pytest.raises(UserError, match="one latency target"):
            papers(space, plan, by_reward, lambda2)
    both = {"loss": "add", "lambda2": 0.1, "strategy": "proxyless-r"}
    for wrong in ({"loss": "mul-log"}, {"strategy": "random"}, both):
        with pytest.raises(RecipeError, match="--reference has strategies and losses of its own"):
            Options(reference=True, **wrong)
