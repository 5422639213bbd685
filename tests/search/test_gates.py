from __future__ import annotations

import itertools

import pytest
import torch

from search import gates
from search.rng import generator


def ragged_logits() -> tuple[torch.Tensor, torch.Tensor]:
    alpha = torch.randn(4, 5, generator=generator(0, "test"), dtype=torch.float64)
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[1, 3:] = False
    valid[2, 2:] = False
    return alpha, valid


def test_probabilities_sum_to_one_over_the_candidates_there_are() -> None:
    alpha, valid = ragged_logits()
    probs = gates.probabilities(alpha, valid)
    assert torch.allclose(probs.sum(1), torch.ones(4, dtype=torch.float64))
    assert bool((probs[~valid] == 0).all())


def test_vjp_is_the_softmax_jacobian_enumerated() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    d = torch.tensor([0.7, -0.2, 0.0, 1.5], dtype=torch.float64)  # the third stands for Zero: dL/dg = <0, .> = 0
    p = torch.softmax(logits, 0)
    by_hand = [sum(float(d[j]) * float(p[j]) * ((i == j) - float(p[i])) for j in range(4)) for i in range(4)]
    assert gates.softmax_vjp(p, d).tolist() == pytest.approx(by_hand, abs=1e-15)
    leaf = logits.clone().requires_grad_()
    (torch.softmax(leaf, 0) @ d).backward()
    assert leaf.grad is not None
    assert torch.allclose(gates.softmax_vjp(p, d), leaf.grad, atol=1e-15)


def test_vjp_kills_what_all_candidates_share() -> None:
    p = torch.softmax(torch.tensor([[0.3, -1.0]], dtype=torch.float64), 1)
    d = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    assert torch.allclose(gates.softmax_vjp(p, d), gates.softmax_vjp(p, d + 123.0), atol=1e-12)


def test_vjp_moves_towards_zero_when_zero_is_the_better_one() -> None:
    """Zero has d = 0. Where the other candidate raises the loss (d > 0), descent must raise Zero's alpha."""
    grad = gates.softmax_vjp(torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.0]))
    assert grad[1] < 0 < grad[0]


def test_keep_mass_leaves_every_other_probability() -> None:
    alpha = torch.randn(3, 6, generator=generator(1, "test"), dtype=torch.float64)
    before = torch.softmax(alpha, 1)
    pair = torch.tensor([[0, 3], [5, 1], [2, 2]])
    old = alpha.gather(1, pair)
    new = old + torch.tensor([[0.4, -0.9], [3.0, 3.0], [0.2, 0.2]], dtype=torch.float64)
    alpha.scatter_(1, pair, gates.keep_mass(old, new))
    after = torch.softmax(alpha, 1)
    untouched = torch.ones(3, 6, dtype=torch.bool).scatter_(1, pair, False)
    assert float((after - before)[untouched].abs().max()) < 1e-15
    assert float((after - before)[0, [0, 3]].abs().max()) > 0.1
    assert torch.allclose(after[1], before[1])  # moved alike: nothing changes


def test_sampled_paths_follow_the_probabilities() -> None:
    alpha, valid = ragged_logits()
    logits = gates.masked_logits(alpha, valid)
    n = 4000
    counts = torch.zeros(4, 5)
    for step in range(n):
        for block, index in enumerate(gates.sample_path(logits, generator(0, "path", step))):
            counts[block, index] += 1
    assert torch.allclose((counts / n).double(), torch.softmax(logits, 1), atol=0.03)
    assert bool((counts[~valid] == 0).all())


def test_pairs_are_draws_without_replacement_and_the_active_one_is_drawn_from_the_two() -> None:
    logits = torch.tensor([[0.0, 1.0, -0.5]], dtype=torch.float64)
    p = torch.softmax(logits, 1)[0].tolist()
    expected = {}
    for i, j in itertools.permutations(range(3), 2):
        as_set = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        expected[i, j] = as_set * p[i] / (p[i] + p[j])
    n = 6000
    counts = dict.fromkeys(expected, 0)
    for step in range(n):
        i, j = gates.sample_pair(logits, generator(0, "pair", step))[0].tolist()
        counts[i, j] += 1
    assert {k: v / n for k, v in counts.items()} == pytest.approx(expected, abs=0.03)


def test_a_block_with_one_candidate_is_paired_with_itself() -> None:
    logits = torch.tensor([[0.0, float("-inf")], [1.0, 2.0]], dtype=torch.float64)
    for step in range(20):
        pair = gates.sample_pair(logits, generator(0, "pair", step))
        assert pair[0].tolist() == [0, 0]
        assert sorted(pair[1].tolist()) == [0, 1]
    assert gates.sample_pair(logits[:1, :1], generator(0)).tolist() == [[0, 0]]


def test_pair_gate_equals_the_weighted_sum() -> None:
    """Value and gradients of m = g0 a + g1 b at g = (1, 0), with b detached."""
    a0, b, weight = (torch.randn(2, 3, 4, 4, generator=generator(i, "x")) for i in range(3))
    results = []
    for gated in (True, False):
        a = a0.clone().requires_grad_()
        g = torch.tensor([1.0, 0.0], requires_grad=True)
        m = gates.pair_gate(a * 2, b, g) if gated else g[0] * (a * 2) + g[1] * b
        (m.sin() * weight).sum().backward()
        assert a.grad is not None
        assert g.grad is not None
        results.append((m.detach(), a.grad, g.grad))
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(results[0][0], results[1][0])
