from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from devices.errors import UserError
from latency.space import SearchSpace
from search.costs import Costs, make_costs
from search.objective import DualAscent, entropy, expected_costs, expected_latency_s, latency_loss, make_loss
from search.supernet import Supernet
from search.targets import choose_target


def test_expected_latency_is_the_mean_over_all_networks(space: SearchSpace, costs: Costs, predictor) -> None:
    probs = torch.softmax(torch.randn(costs.cost_LK.shape, dtype=torch.float64), 1) * torch.from_numpy(costs.valid_LK)
    probs = probs / probs.sum(1, keepdim=True)
    brute = 0.0
    for indices in itertools.product(*(range(len(c.candidates)) for c in space.choices)):
        weight = math.prod(float(probs[block, index]) for block, index in enumerate(indices))
        brute += weight * predictor.network_s(space.architecture(indices).ops)[0]
    assert float(expected_latency_s(probs, torch.from_numpy(costs.cost_LK), costs.fixed_s)) == pytest.approx(brute)
    assert costs.expected_s(probs.numpy()) == pytest.approx(brute)


def test_costs_add_up_to_the_predictors_network(space: SearchSpace, costs: Costs, predictor) -> None:
    for indices in ((0, 0, 0), (3, 4, 1), (1, 4, 4)):
        assert costs.network_s(indices) == pytest.approx(
            predictor.network_s(space.architecture(indices).ops)[0], rel=1e-12
        )
    assert costs.fastest[1:] == [4, 4]  # Zero costs nothing
    assert costs.cost_LK[1, 4] == 0
    assert not costs.valid_LK[0, 4]


def test_costs_that_are_not_seconds_are_refused(space: SearchSpace, predictor) -> None:
    class Broken(type(predictor)):
        def predict_s(self, ops):
            return np.full(len(ops), np.nan)

    with pytest.raises(UserError, match="not a time"):
        make_costs(space, Broken())


def test_expected_latency_of_the_supernet_has_the_softmax_gradient(space: SearchSpace, costs: Costs) -> None:
    """dE/dalpha_i = p_i (F_i - E_block), and nothing where there is no candidate."""
    supernet = Supernet(space, costs)
    supernet.expected_s().backward()
    p = supernet.probs().detach()
    mean = (p * supernet.cost_s).sum(1, keepdim=True)
    assert supernet.alpha_LK.grad is not None
    assert torch.allclose(supernet.alpha_LK.grad, p * (supernet.cost_s - mean), atol=1e-15)
    assert float(supernet.alpha_LK.grad[0, 4]) == 0


def test_latency_loss_does_not_depend_on_the_unit() -> None:
    in_s = latency_loss(torch.tensor(0.09), 0.08, 3.0)
    assert float(latency_loss(torch.tensor(90.0), 80.0, 3.0)) == pytest.approx(float(in_s))
    assert float(in_s) == pytest.approx(3 * 0.125, rel=1e-6)


def test_entropy() -> None:
    assert float(entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))) == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("target", [0.3, 0.8])
def test_dual_ascent_drives_expected_latency_to_the_target_from_both_sides(target: float) -> None:
    """A toy whose task gradient pulls to the slowest candidates, then to the fastest: lambda ends > 0, and < 0."""
    cost = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    for pull in (+1.0, -1.0):
        alpha = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        dual = DualAscent(rate=0.2, damping=2.0)
        for _ in range(3000):
            expected = expected_latency_s(torch.softmax(alpha, 1), cost, 0.0)
            task = -pull * expected
            (grad,) = torch.autograd.grad(
                task + latency_loss(expected, target, dual.multiplier(float(expected.detach()), target)), alpha
            )
            with torch.no_grad():
                alpha -= 0.1 * grad
            dual = dual.step(float(expected_latency_s(torch.softmax(alpha.detach(), 1), cost, 0.0)), target)
        assert float(expected.detach()) == pytest.approx(target, rel=1e-3)
        assert dual.value == pytest.approx(pull * target, rel=0.02)  # where both gradients balance: lambda/T = pull


def test_a_target_that_does_not_bind_leaves_lambda_at_zero() -> None:
    dual = DualAscent(1.0, 10.0, equality=False).step(0.5, 1.0)
    assert dual.value == 0
    assert dual.multiplier(0.5, 1.0) == 0


def test_choose_target(costs: Costs) -> None:
    fastest, slowest = costs.network_s(costs.fastest), costs.network_s(costs.slowest)
    target, notes, warnings = choose_target(costs, None)
    assert target == pytest.approx(0.8 * costs.expected_s(costs.uniform_LK))
    assert any("0.8" in note for note in notes)
    assert not warnings
    assert choose_target(costs, slowest * 2)[2]
    assert choose_target(costs, fastest * 1.001)[0] == fastest * 1.001
    with pytest.raises(UserError, match=r"fastest network of the space takes 0\.\d+ ms"):
        choose_target(costs, fastest * 0.999)
    for bad in (math.nan, -1.0, 0.0, math.inf):
        with pytest.raises(UserError, match="positive"):
            choose_target(costs, bad)


def test_a_budget_that_is_kept_anyway_has_no_force() -> None:
    slack = DualAscent(1.0, 10.0, equality=False)
    assert slack.step(0.5, 1.0).value == 0
    assert slack.step(2.0, 1.0).value == 1.0
    assert slack.step(2.0, 1.0).step(0.9, 1.0).value == pytest.approx(0.9)  # it comes down again
    assert slack.multiplier(2.0, 1.0) == 10.0


@pytest.mark.parametrize(("second", "held_force"), [(1.0, True), (2.2, False)])
def test_dual_ascent_keeps_two_budgets_at_once(second: float, held_force: bool) -> None:
    """Two blocks whose task gradient asks for all there is. E1 must equal 1.2 of 2; E2 may not exceed `second`."""
    cost = torch.tensor([[[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]], [[0.0, 1.2, 0.8], [0.0, 0.2, 0.9]]], dtype=torch.float64)
    fixed, task = torch.zeros(2, dtype=torch.float64), torch.tensor([[0.0, 0.7, 1.0], [0.0, 0.4, 1.3]])
    alpha = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    loss = make_loss("dual", [1.2, second], 0, rate=0.05, damping=2.0)
    for _ in range(4000):
        probs = torch.softmax(alpha, 1)
        expected = expected_costs(probs, cost, fixed)
        slopes = torch.tensor(loss.slopes(1.0, expected.tolist()), dtype=torch.float64)
        (grad,) = torch.autograd.grad(-(probs * task).sum() + (slopes * expected).sum(), alpha)
        with torch.no_grad():
            alpha -= 0.1 * grad
        loss = loss.step(expected.tolist())
    assert float(expected[0].detach()) == pytest.approx(1.2, rel=2e-2)
    assert float(expected[1].detach()) <= second * 1.01
    assert (loss.values[1] > 0) == held_force  # complementary slackness
    assert loss.with_values([3.0, 4.0]).values == [3.0, 4.0]


@pytest.mark.parametrize("kind", ["dual", "add", "mul-log"])
def test_no_form_of_the_loss_depends_on_the_unit(kind: str) -> None:
    """The gradient of the loss is slope x cost; seconds, milliseconds or hours give the same."""
    rows = []
    for unit in (1.0, 1e3, 1 / 3600):
        loss = make_loss(kind, [0.08 * unit, 3e8], 0, rate=1.0, damping=5.0).step([0.1 * unit, 4e8])
        first, second = loss.slopes(1.7, [0.09 * unit, 2e8])
        rows.append((first * 0.02 * unit, second * 1e6))
    assert rows[1] == pytest.approx(rows[0])
    assert rows[2] == pytest.approx(rows[0])


def test_mul_log_is_the_released_loss_at_its_target() -> None:
    """0.2 CE (ln E / ln 80)^0.3 with E in ms: (dL/dE) / (dL/dCE), by autograd."""
    for expected_ms in (60.0, 80.0, 110.0):
        e, ce = torch.tensor(expected_ms, requires_grad=True), torch.tensor(1.9, requires_grad=True)
        by_e, by_ce = torch.autograd.grad(0.2 * ce * (torch.log(e) / math.log(80.0)) ** 0.3, (e, ce))
        (slope,) = make_loss("mul-log", [0.08], 0, rate=0, damping=0).slopes(1.9, [expected_ms * 1e-3])
        assert slope * 1e-3 == pytest.approx(float(by_e / by_ce), rel=1e-5)
    (tiny,) = make_loss("mul-log", [0.08], 0, rate=0, damping=0).slopes(1.9, [1e-6])
    assert math.isfinite(tiny)


def test_add_pulls_by_lambda2_in_units_of_the_limit() -> None:
    loss = make_loss("add", [0.08, 2e8], 0, rate=0, damping=0, lambda2=0.4)
    assert loss.slopes(1.0, [0.1, 1e8]) == pytest.approx([0.4 / 0.08, 0.4 / 2e8])
    assert loss.step([1.0, 1.0]) == loss
    assert loss.values == []
