from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from latency.modules import Wired, build_network
from latency.ops import Add, Conv2d, Identity, Linear, Op, Pad, SepConv, Zero, mbconv
from latency.space import Choice, SearchSpace, for_classes
from latency.wiring import parallel
from search import gates
from search.compute import Engine
from search.costs import Costs, Predictor, make_costs
from search.memory import saved_bytes
from search.objective import make_loss
from search.recipe import Recipe
from search.rng import generator
from search.state import start
from search.strategies import load, names
from search.supernet import Supernet, only_alpha


def images(n: int = 8, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, size, size, generator=generator(0, "images")), torch.arange(n) % 10


def counted(supernet: Supernet) -> dict[tuple[int, int], int]:
    """Forward calls of each candidate from now on."""
    calls: dict[tuple[int, int], int] = {}

    def hook(key: tuple[int, int]) -> Callable[..., None]:
        return lambda *_: calls.update({key: calls.get(key, 0) + 1})

    for block, candidates in enumerate(supernet.blocks):
        for index, candidate in enumerate(candidates):
            candidate.register_forward_hook(hook((block, index)))
    return calls


def test_only_the_path_is_computed(space: SearchSpace, costs: Costs) -> None:
    supernet = Supernet(space, costs)
    calls = counted(supernet)
    supernet(images()[0], [2, 0, 4])
    assert calls == {(0, 2): 1, (1, 0): 1, (2, 4): 1}
    calls.clear()
    pair = torch.tensor([[0, 1], [3, 4], [4, 2]])
    supernet.forward_pair(images()[0], pair, torch.ones(3, 2, requires_grad=True))
    assert calls == {(0, 0): 1, (0, 1): 1, (1, 3): 1, (1, 4): 1, (2, 4): 1, (2, 2): 1}


def test_the_path_is_the_plain_network(space: SearchSpace, costs: Costs) -> None:
    """Same values as latency.modules.build_network with the same weights, classes resized."""
    supernet = Supernet(space, costs, num_classes=7)
    path = [1, 3, 4]
    plain = build_network(for_classes(space.architecture(path).ops, 7))
    parts = [*supernet.stem, *(b[i] for b, i in zip(supernet.blocks, path, strict=True)), *supernet.head]
    for mine, theirs in zip(parts, plain, strict=True):
        theirs.load_state_dict(mine.state_dict())
    assert torch.equal(supernet(images()[0], path), plain(images()[0]))


def tree_space() -> SearchSpace:
    """Two blocks side by side and one behind, a padded shortcut around them: every kind of wiring that ships."""
    size = {"height": 8, "width": 8}
    kinds = [SepConv(in_channels=8, out_channels=8, kernel=k, **size) for k in (3, 5)]
    edge = (*kinds, Identity(in_channels=8, out_channels=8, **size))
    conv = Conv2d(in_channels=8, out_channels=12, kernel=1, act="none", **size)
    inner = parallel([0], [1], close=Add(in_channels=8, out_channels=8, **size))
    body = [*inner, 2, conv]
    layout = parallel(
        body, [Pad(in_channels=8, out_channels=12, **size)], close=Add(in_channels=12, out_channels=12, **size)
    )
    stem = (Conv2d(in_channels=3, out_channels=8, height=16, width=16, kernel=3, stride=2),)
    head = (Linear(in_channels=12, out_channels=10, **size),)
    return SearchSpace("tree", stem, tuple(Choice(f"cell/{i}", edge) for i in range(3)), head, layout)


def test_in_a_tree_too_the_path_is_the_plain_network(predictor: Predictor) -> None:
    space = tree_space()
    supernet = Supernet(space, make_costs(space, predictor), num_classes=7)
    path = [1, 2, 0]
    ops = for_classes(space.architecture(path).ops, 7)
    plain = build_network(ops)
    assert isinstance(plain, Wired)
    mine = [*supernet.stem]
    for place, step in enumerate(space.steps):
        if isinstance(step, int):
            mine.append(supernet.blocks[step][path[step]])
        elif str(place) in supernet.glue:
            mine.append(supernet.glue[str(place)])
    for ours, theirs in zip([*mine, *supernet.head], plain.body.values(), strict=True):
        theirs.load_state_dict(ours.state_dict())
    calls = counted(supernet)
    assert torch.equal(supernet(images()[0], path), plain(images()[0]))
    assert calls == {(0, 1): 1, (1, 2): 1, (2, 0): 1}
    assert {name.split(".")[0] for name, _ in supernet.weights()} == {"stem", "blocks", "glue", "head"}


def test_gate_gradients_inside_a_tree(predictor: Predictor) -> None:
    """dL/dg = <o, dL/dm> where blocks share their input and their outputs are added, against the sum written out."""
    space = tree_space()
    supernet = Supernet(space, make_costs(space, predictor)).double()
    x, y = images()
    x = x.double()
    pair = torch.tensor([[0, 2], [1, 0], [2, 1]])
    ours = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64, requires_grad=True)
    plain = ours.detach().clone().requires_grad_()

    def weighted(block: int, candidates: nn.ModuleList, m: torch.Tensor) -> torch.Tensor:
        a, b = pair[block].tolist()
        return plain[block, 0] * candidates[a](m) + plain[block, 1] * candidates[b](m)

    with only_alpha(supernet):
        functional.cross_entropy(supernet.forward_pair(x, pair, ours), y).backward()
        functional.cross_entropy(supernet.run(x, weighted), y).backward()
    assert torch.allclose(ours.grad, plain.grad, rtol=1e-8, atol=1e-10)
    assert float(ours.grad.abs().min()) > 0


@pytest.mark.parametrize("name", names())
def test_every_strategy_searches_inside_a_tree(name: str, predictor: Predictor, quick: Recipe) -> None:
    """One weight step's forward and one alpha step each; blocks that share their input and add their outputs."""
    space = tree_space()
    costs = make_costs(space, predictor)
    state = start(space, costs, num_classes=10, target_s=costs.network_s([1, 0, 2]), recipe=quick, seed=0)
    state.step = quick.warmup_steps + quick.search_steps // 2  # REINFORCE leaves alpha alone at first
    strategy, batch = load(name), images()
    state.supernet.train()
    logits = strategy.forward(state, batch[0])
    assert logits.shape == (8, 10)
    before = state.supernet.alpha_LK.detach().clone()
    functional.cross_entropy(logits, batch[1]).backward()
    strategy.step(state, batch)
    assert torch.isfinite(state.supernet.alpha_LK).all()
    assert not torch.equal(before, state.supernet.alpha_LK.detach())


def test_glue_is_part_of_the_latency(predictor: Predictor) -> None:
    space = tree_space()
    costs = make_costs(space, predictor)
    glue = [op for op in space.fixed_ops if type(op).__name__ in ("Add", "Pad")]
    assert len(glue) == 3
    assert predictor.predict_s(glue).min() > 0
    for path in ([0, 0, 0], [2, 1, 2]):
        assert costs.network_s(path) == pytest.approx(predictor.network_s(space.architecture(path).ops)[0])


def test_gate_gradients_are_those_of_the_weighted_sum(space: SearchSpace, costs: Costs) -> None:
    """forward_pair's dL/dg = <o, dL/dm> against m = sum_j g_j o_j written out with both candidates in the graph."""
    supernet = Supernet(space, costs).double()
    x, y = images()
    x = x.double()
    pair = torch.tensor([[0, 3], [4, 1], [2, 4]])
    ours = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64, requires_grad=True)
    plain = ours.detach().clone().requires_grad_()
    with only_alpha(supernet):
        functional.cross_entropy(supernet.forward_pair(x, pair, ours), y).backward()
        m = supernet.stem(x)
        for block, (a, b), g in zip(supernet.blocks, pair.tolist(), plain, strict=True):
            m = g[0] * block[a](m) + g[1] * block[b](m)
        functional.cross_entropy(supernet.head(m), y).backward()
    assert ours.grad is not None
    assert plain.grad is not None
    assert torch.allclose(ours.grad, plain.grad, rtol=1e-8, atol=1e-10)
    assert float(ours.grad.abs().min()) > 0


def test_an_alpha_step_changes_only_the_sampled_pairs(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    state = start(space, costs, num_classes=10, target_s=costs.network_s([2, 2, 2]), recipe=quick, seed=0)
    zero_moved = False
    for step in range(12):
        state.step = step
        before_alpha = state.supernet.alpha_LK.detach().clone()
        before = state.supernet.probs().detach()
        pair = gates.sample_pair(state.supernet.logits(), generator(0, "pair", step))
        load("proxyless_g").step(state, images())
        after = state.supernet.probs().detach()
        sampled = torch.zeros_like(before, dtype=torch.bool).scatter_(1, pair, True)
        assert float((after - before)[~sampled].abs().max()) < 1e-14
        assert torch.equal(state.supernet.alpha_LK.detach()[~sampled], before_alpha[~sampled])
        assert float((after - before)[sampled].abs().max()) > 1e-4
        zero_moved |= bool(((pair == 4).any(1) & ((after - before)[:, 4].abs() > 1e-5)).any())
    assert zero_moved  # Zero learns like any other op


def test_the_alpha_gradient_is_the_softmax_over_the_pair_of_both_terms(
    space: SearchSpace, costs: Costs, quick: Recipe
) -> None:
    """Adam replaced by plain descent with rate 1: the step then is the gradient, worked out here by hand."""
    target = costs.network_s([1, 1, 1])
    state = start(space, costs, num_classes=10, target_s=target, recipe=quick, seed=3)
    state.loss = make_loss("dual", [target], 0, rate=0.0, damping=0.0).with_values([2.5])
    state.alpha_optimizer = torch.optim.SGD([state.supernet.alpha_LK], lr=1.0)  # type: ignore[assignment]
    supernet, (x, y) = state.supernet, images()
    alpha = supernet.alpha_LK.detach().clone()
    pair = gates.sample_pair(supernet.logits(), generator(3, "pair", 0))
    g = torch.tensor([[1.0, 0.0]] * 3, requires_grad=True)
    with only_alpha(supernet):
        functional.cross_entropy(supernet.forward_pair(x, pair, g), y).backward()
    load("proxyless_g").step(state, (x, y))
    moved = supernet.alpha_LK.detach() - alpha
    for block in range(3):
        i, j = pair[block].tolist()
        p = torch.softmax(alpha[block, [i, j]], 0).tolist()
        assert g.grad is not None
        d = [float(g.grad[block, k]) + 2.5 * costs.cost_LK[block, c] / target for k, c in enumerate((i, j))]
        grad_i = p[0] * p[1] * (d[0] - d[1])  # the Jacobian of a softmax over two
        # the shift that keeps the pair's mass is common to both: their difference shows the gradient alone
        assert float(moved[block, i] - moved[block, j]) == pytest.approx(-2 * grad_i, rel=1e-5)


def test_alpha_steps_leave_weights_and_batch_norm_statistics(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    state = start(space, costs, num_classes=10, target_s=costs.network_s([2, 2, 2]), recipe=quick, seed=0)
    before = {k: v.clone() for k, v in state.supernet.state_dict().items() if k != "alpha_LK"}
    for step in range(4):
        state.step = step
        load("proxyless_g").step(state, images())
    after = state.supernet.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert any("running_mean" in k for k in before)
    assert all(p.requires_grad and p.grad is None for _, p in state.supernet.weights())
    state.supernet(images()[0], [0, 0, 0])  # tracking is on again
    assert not torch.equal(before["stem.0.1.running_mean"], state.supernet.state_dict()["stem.0.1.running_mean"])


def test_alpha_steps_normalise_by_the_batch(space: SearchSpace, costs: Costs) -> None:
    supernet = Supernet(space, costs).train()
    x = images()[0]
    training = supernet(x, [0, 0, 0])
    with only_alpha(supernet):
        assert torch.equal(supernet(x, [0, 0, 0]), training)


def test_weights_off_the_path_stay(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    from search.trainer import weight_step

    state = start(space, costs, num_classes=10, target_s=1.0, recipe=quick, seed=0)
    x, y = images()
    for path in ([0, 0, 0], [1, 2, 4]):  # the second step must not move the first path's weights by momentum
        before = {k: v.clone() for k, v in state.supernet.state_dict().items()}
        weight_step(
            lambda path=path: state.supernet(x, path),
            y,
            state.weight_optimizer,
            0.1,
            quick,
            "here",
            "",
            Engine(state.supernet),
        )
        after = state.supernet.state_dict()
        on_path = (*(f"blocks.{b}.{i}." for b, i in enumerate(path)), "stem.", "head.")
        assert all(torch.equal(v, after[k]) for k, v in before.items() if not k.startswith(on_path))
        changed = [k for k, v in before.items() if not torch.equal(v, after[k])]
        assert any(k.startswith(on_path[0]) for k in changed)


def test_a_space_without_a_choice_still_steps(quick: Recipe, predictor) -> None:
    op = mbconv(3, 8, 16, kernel=3, stride=2, expand=2)
    alone = SearchSpace(
        "one", (), (Choice("only", (op,)),), (Linear(in_channels=8, out_channels=10, height=8, width=8),)
    )
    costs = make_costs(alone, predictor)
    state = start(alone, costs, num_classes=10, target_s=1.0, recipe=quick, seed=0)
    alpha = state.supernet.alpha_LK.detach().clone()
    assert load("proxyless_g").step(state, images())["valid_loss"] > 0
    assert torch.equal(state.supernet.alpha_LK.detach(), alpha)


def test_weight_decay_spares_batch_norm_and_biases(space: SearchSpace, costs: Costs, quick: Recipe) -> None:
    state = start(space, costs, num_classes=10, target_s=1.0, recipe=quick, seed=0)
    decayed, spared = (group["params"] for group in state.weight_optimizer.param_groups)
    assert state.weight_optimizer.param_groups[0]["weight_decay"] == quick.weight_decay
    assert state.weight_optimizer.param_groups[1]["weight_decay"] == 0
    norms = {id(p) for m in state.supernet.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert norms <= {id(p) for p in spared}
    assert all(p.ndim > 1 for p in decayed)
    assert id(state.supernet.alpha_LK) not in {id(p) for p in itertools.chain(decayed, spared)}
    assert state.alpha_optimizer.defaults["betas"] == (0.0, 0.999)
    assert state.alpha_optimizer.defaults["weight_decay"] == 0


def wide_space() -> SearchSpace:
    """Seven candidates a block, as in the paper: kernels 3, 5, 7 by expansions 3, 6, and Zero."""
    kinds = list(itertools.product((3, 6), (3, 5, 7)))

    def block(i: int) -> Choice:
        zero = Zero(in_channels=16, out_channels=16, height=16, width=16, shortcut=1)
        return Choice(f"b{i}", (*(mbconv(16, 16, 16, kernel=k, stride=1, expand=e) for e, k in kinds), zero))

    stem: tuple[Op, ...] = (Conv2d(in_channels=3, out_channels=16, height=32, width=32, kernel=3, stride=2),)
    head = (Linear(in_channels=16, out_channels=10, height=16, width=16),)
    return SearchSpace("wide", stem, tuple(block(i) for i in range(4)), head)


@pytest.mark.parametrize("path", [[0, 0, 0, 0], [5, 1, 3, 2], [0, 6, 2, 6]])
def test_activations_kept_for_backward_are_those_of_one_network(predictor, path: list[int]) -> None:
    """Unique storages that autograd keeps, parameters left out, with 7 candidates a block: a weight step <= 1.05 and an
    alpha step <= 1.35 times the plain network of the same path."""
    wide = wide_space()
    supernet = Supernet(wide, make_costs(wide, predictor)).train()
    plain = build_network(wide.architecture(path).ops).train()
    x, y = images(16, 32)
    alone = saved_bytes(lambda: functional.cross_entropy(plain(x), y), plain)
    weights = saved_bytes(lambda: functional.cross_entropy(supernet(x, path), y), supernet)
    assert weights <= 1.05 * alone
    others = [(i + 1) % 7 for i in path]
    g = torch.tensor([[1.0, 0.0]] * 4, requires_grad=True)
    pair = torch.tensor([path, others]).T
    with only_alpha(supernet):
        alphas = saved_bytes(lambda: functional.cross_entropy(supernet.forward_pair(x, pair, g), y), supernet)
    assert 0 < alphas <= 1.35 * alone
