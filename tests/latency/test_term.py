"""F in a torch loss, and behind scikit-learn's API."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from latency.joint import fit_joint
from latency.ops import Zero, mbconv
from latency.predictor import UnsupportedOp
from latency.regressor import LatencyRegressor
from latency.space import Choice, SearchSpace
from latency.term import LatencyModel, LatencyTerm
from tests.latency.conftest import small_space
from tests.latency.test_evidence import networks, predictor_of


@pytest.fixture(scope="module")
def ragged():
    """A space whose third block may be skipped, so that its choices have 6 and 7 candidates."""
    first, second = small_space().choices[:2]
    blocks = tuple(mbconv(16, 16, 8, kernel=k, stride=1, expand=e) for e in (3, 6) for k in (3, 5, 7))
    zero = Zero(in_channels=16, out_channels=16, height=8, width=8, shortcut=1)
    return SearchSpace("ragged", (), (first, second, Choice("skippable", (*blocks, zero))), ())


@pytest.fixture(scope="module")
def predictor(ragged):
    return predictor_of(fit_joint(networks(ragged, 60), calibrate=False))


def test_one_hot_probabilities_give_that_networks_latency(predictor, ragged):
    term = LatencyTerm(predictor, ragged)
    for seed in range(5):
        arch = ragged.random(random.Random(seed))
        probs = [torch.eye(len(c.candidates))[i] for c, i in zip(ragged.choices, arch.indices, strict=True)]
        assert float(term(probs)) == pytest.approx(predictor.network_s(arch.ops)[0], rel=1e-5)


def test_the_gradient_is_the_cost_of_each_candidate(predictor, ragged):
    term = LatencyTerm(predictor, ragged).double()
    probs = torch.full(term.cost_LK.shape, 1 / 7, dtype=torch.float64, requires_grad=True)
    term(probs).backward()
    assert torch.allclose(probs.grad, term.cost_LK)
    assert float(term.cost_LK[2, 6]) == 0.0
    assert float(term.cost_LK[0, 6]) == 0.0, "choices with fewer candidates are filled up with zeros"


def test_wrong_shapes_and_unknown_ops_are_said(predictor, ragged):
    term = LatencyTerm(predictor, ragged)
    with pytest.raises(ValueError, match="is expected"):
        term(torch.ones(2, 2))
    with pytest.raises(ValueError, match="candidates"):
        term([torch.ones(6), torch.ones(6), torch.ones(6)])
    odd = SearchSpace("odd", (), (Choice("a", (mbconv(8, 8, 8, kernel=9, stride=1, expand=3),)),), ())
    with pytest.raises(UnsupportedOp):
        LatencyTerm(predictor, odd)


def test_a_model_without_a_space(predictor, ragged):
    model = LatencyModel(predictor)
    ops = ragged.random(random.Random(0)).ops
    assert float(model(ops).sum()) + predictor.constant_s == pytest.approx(predictor.network_s(ops)[0], rel=1e-5)
    probs = [torch.softmax(torch.zeros(len(c.candidates)), 0).requires_grad_() for c in ragged.choices]
    expected = model.expected_s([c.candidates for c in ragged.choices], probs)
    assert expected.item() == pytest.approx(LatencyTerm(predictor, ragged)(probs).item(), rel=1e-5)
    with pytest.raises(ValueError, match="one probability per candidate"):
        model.expected_s([ops], probs)


def test_the_estimator_keeps_scikit_learns_contract():
    from sklearn.utils.estimator_checks import check_estimator

    outcome = check_estimator(LatencyRegressor(hyper_steps=5), on_fail=None, on_skip=None)
    assert [(o["check_name"], o["exception"]) for o in outcome if o["status"] == "failed"] == []
    assert len(outcome) > 40


def test_the_estimator_learns_from_sums():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (15, 2))
    f = np.exp(x[:, 0]) * (1 + x[:, 1] ** 2)
    counts = rng.integers(0, 3, (60, 15)) + np.eye(60, 15)
    made = LatencyRegressor(rel_noise=1e-3).fit(x, counts @ f, counts=counts)
    mean, std = made.predict(x, return_std=True)
    assert mean == pytest.approx(f, rel=0.02)
    assert (std > 0).all()
    with pytest.raises(ValueError, match="must be positive"):
        made.fit(x, -f)
    with pytest.raises(ValueError, match="no row empty"):
        made.fit(x, f, counts=np.zeros((15, 15)))
