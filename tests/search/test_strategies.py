"""The contract of a strategy, checked on every file of search/strategies, and what is special about each."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from latency.modules import build_network
from latency.ops import Conv2d, Linear, mbconv
from latency.space import Choice, SearchSpace
from search import alpha, checkpoint, gates
from search.controllers import reinforce_gradient
from search.costs import Costs, make_costs
from search.data import Data
from search.derive import derive
from search.memory import saved_bytes
from search.objective import make_loss
from search.recipe import Recipe
from search.rng import generator
from search.state import SearchState, start
from search.strategies import Strategy, StrategyError, chosen, load, names, parse_options
from search.supernet import Supernet, only_alpha
from search.trainer import SearchPhase
from tests.search.conftest import FakePredictor
from tests.search.test_supernet import counted, images, wide_space

CLASSES, SIZE = 4, 4
BEST = (2, 0, 3)
STEPS = 60
VARIANTS: list[tuple[str, dict[str, str]]] = [
    *((name, {}) for name in names()),
    ("proxyless_g", {"gates": "full"}),
    ("proxyless_g", {"estimator": "reinmax"}),
    ("proxyless_g", {"gates": "full", "estimator": "reinmax"}),
]
every = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=["-".join((name, *options.values())) for name, options in VARIANTS]
)


def toy_space() -> SearchSpace:
    """Three blocks of 1x1 to 7x7 convs on four channels; ragged, since the second has only three candidates."""

    def block(name: str, kernels: tuple[int, ...]) -> Choice:
        shape = {"in_channels": CLASSES, "out_channels": CLASSES, "height": SIZE, "width": SIZE}
        return Choice(name, tuple(Conv2d(**shape, kernel=k) for k in kernels))

    head = (Linear(in_channels=CLASSES, out_channels=CLASSES, height=SIZE, width=SIZE),)
    return SearchSpace("toy", (), (block("a", (1, 3, 5, 7)), block("b", (1, 3, 5)), block("c", (1, 3, 5, 7))), head)


def toy(target_s: float = 1.0, cost: float = 0.1, seed: int = 0) -> SearchState:
    """A supernet that is already trained: channel c says "class c", and one candidate a block keeps it so.

    The others spill a part into the next channels. Every block's best costs `cost`, the others half of it.
    """
    space = toy_space()
    cost_LK = np.full((3, 4), cost / 2)
    cost_LK[np.arange(3), BEST] = cost
    valid_LK = np.array([[True] * 4, [True] * 3 + [False], [True] * 4])
    costs = Costs(np.where(valid_LK, cost_LK, 0.0), valid_LK, 0.1)
    recipe = Recipe(16, warmup_steps=0, search_steps=STEPS, train_steps=0, alpha_lr=0.1, alpha_every=1, dual_rate=0.1)
    state = start(space, costs, num_classes=CLASSES, target_s=target_s, recipe=recipe, seed=seed)
    eye = torch.eye(CLASSES)
    with torch.no_grad():
        for block, best in zip(state.supernet.blocks, BEST, strict=True):
            for k, candidate in enumerate(block):
                weight = candidate[0].weight.zero_()
                spill = 0.0 if k == best else 0.5 + 0.2 * k
                weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = eye + spill * eye.roll(1 + k % 3, 0)
        state.supernet.head[0][-1].weight.copy_(3 * eye)
        state.supernet.head[0][-1].bias.zero_()
    return state


def toy_batch(step: int, n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(n) % CLASSES
    noise = torch.randn(n, CLASSES, SIZE, SIZE, generator=generator(7, "toy", step))
    return 1.5 * noise + 1.2 * functional.one_hot(labels, CLASSES)[:, :, None, None], labels


def advance(state: SearchState, strategy: Strategy, steps: range) -> list[dict[str, float]]:
    """Alpha steps as the trainer makes them; weights rest."""
    rows = []
    for step in steps:
        state.step = step
        row = strategy.step(state, toy_batch(step))
        if not row.get(alpha.WITHOUT_MULTIPLIER):
            state.loss = state.loss.step(state.expected_C())
        rows.append(row)
    return rows


def derived(state: SearchState) -> tuple[int, ...]:
    log_p_LK = torch.log_softmax(state.supernet.logits(), 1).numpy()
    return derive(log_p_LK, state.supernet.costs(), state.target_s, state.floor).indices


@pytest.fixture(scope="module")
def toy_losses() -> dict[tuple[int, ...], float]:
    """CE of every network of the toy on many images."""
    state = toy()
    networks = list(itertools.product(range(4), range(3), range(4)))
    losses, _ = alpha.evaluate(state, networks, toy_batch(-1, 2000))
    return dict(zip(networks, losses.tolist(), strict=True))


def test_the_toys_optimum_is_known_by_enumeration(toy_losses: dict[tuple[int, ...], float]) -> None:
    ranked = sorted(toy_losses, key=lambda network: toy_losses[network])
    assert ranked[0] == BEST
    assert toy_losses[ranked[0]] < toy_losses[ranked[1]] - 0.02


@every
def test_finds_the_toys_optimum(name: str, options: dict[str, str], toy_losses: dict[tuple[int, ...], float]) -> None:
    """No binding target: the loss alone decides, and the network found is the best of all 48."""
    state = toy()
    advance(state, load(name, options), range(STEPS))
    assert derived(state) == BEST
    probs = state.supernet.probs().detach()
    expected = sum(math.prod(float(probs[b, k]) for b, k in enumerate(n)) * loss for n, loss in toy_losses.items())
    uniform = sum(toy_losses.values()) / len(toy_losses)
    assert expected < uniform - 0.5 * (uniform - toy_losses[BEST])


@every
def test_the_budget_is_kept_and_used(name: str, options: dict[str, str]) -> None:
    """Two of the three best candidates fit, and the network found has two."""
    state = toy(target_s=0.36)
    advance(state, load(name, options), range(STEPS))
    network, costs = derived(state), state.supernet.costs()
    assert 0.97 * state.target_s <= costs.network_s(network) <= state.target_s
    assert sum(k == best for k, best in zip(network, BEST, strict=True)) == 2


@every
def test_a_seed_decides_everything_and_a_stop_changes_nothing(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    """The same rows and alphas again, straight or stopped, written to disk and read back; others by another seed."""
    straight = toy()
    rows = advance(straight, load(name, options), range(20))
    for stop in (3, 17):
        first = toy()
        assert advance(first, load(name, options), range(stop)) == rows[:stop]
        first.step = stop
        checkpoint.save(tmp_path / "c.pt", {"state": first.state_dict()})
        second = toy(seed=0)
        second.load_state_dict(checkpoint.load(tmp_path / "c.pt")["state"])
        assert advance(second, load(name, options), range(stop, 20)) == rows[stop:]
        assert torch.equal(second.supernet.alpha_LK, straight.supernet.alpha_LK)
        assert second.loss == straight.loss
    assert advance(toy(seed=1), load(name, options), range(20)) != rows or name == "darts"  # which draws nothing


@every
def test_an_alpha_step_touches_alpha_alone(name: str, options: dict[str, str]) -> None:
    state, strategy = toy(), load(name, options)
    before = {k: v.clone() for k, v in state.supernet.state_dict().items()}
    torch.manual_seed(0)
    random_before, loss = torch.random.get_rng_state(), state.loss
    state.step = STEPS // 2
    metrics = strategy.step(state, toy_batch(0))
    after = state.supernet.state_dict()
    assert any("running_mean" in k for k in before)
    assert {k for k, v in before.items() if not torch.equal(v, after[k])} == {"alpha_LK"}
    assert all(p.requires_grad and p.grad is None for p in state.supernet.parameters())
    assert state.loss == loss
    assert torch.equal(torch.random.get_rng_state(), random_before)
    assert math.isfinite(metrics["valid_loss"])
    assert all(isinstance(v, float) for v in metrics.values())


@every
def test_a_weight_step_reaches_weights_and_not_alpha(name: str, options: dict[str, str]) -> None:
    state, strategy = toy(), load(name, options)
    state.supernet.train()
    x, y = toy_batch(0)
    logits = strategy.forward(state, x)
    assert logits.shape == (len(x), CLASSES)
    functional.cross_entropy(logits, y).backward()
    assert state.supernet.alpha_LK.grad is None
    reached = [any(p.grad is not None for p in block.parameters()) for block in state.supernet.blocks]
    assert reached == [True, True, True]
    assert torch.equal(strategy.forward(state, x), strategy.forward(state, x))  # a function of the step


@every
def test_a_space_without_a_choice_still_steps(name: str, options: dict[str, str], quick: Recipe) -> None:
    op = mbconv(3, 8, 16, kernel=3, stride=2, expand=2)
    head = (Linear(in_channels=8, out_channels=10, height=8, width=8),)
    alone = SearchSpace("one", (), (Choice("only", (op,)),), head)
    state = start(alone, make_costs(alone, FakePredictor()), num_classes=10, target_s=1.0, recipe=quick, seed=0)
    assert load(name, options).step(state, images())["valid_loss"] > 0
    assert derived(state) == (0,)
    assert load(name, options).forward(state, images()[0]).shape == (8, 10)


@every
def test_a_search_resumes_bit_for_bit(
    name: str, options: dict[str, str], space: SearchSpace, costs: Costs, bands: Data, quick: Recipe, tmp_path: Path
) -> None:
    """Weight steps and alpha steps together, through the phase that a run is made of."""

    def phase() -> SearchPhase:
        target_s = 0.6 * costs.expected_s(costs.uniform_LK) + 0.4 * costs.network_s(costs.fastest)
        state = start(space, costs, num_classes=3, target_s=target_s, recipe=quick, seed=0)
        return SearchPhase(state, load(name, options), bands, quick, state.supernet.counts())

    straight, first, second = phase(), phase(), phase()
    rows = [straight.advance() for _ in range(straight.total)]
    for _ in range(9):
        first.advance()
    checkpoint.save(tmp_path / "c.pt", {"state": first.state_dict()})
    second.load_state_dict(checkpoint.load(tmp_path / "c.pt")["state"])
    assert [second.advance() for _ in range(straight.total - 9)] == rows[9:]
    ours, theirs = second.state.supernet.state_dict(), straight.state.supernet.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert costs.network_s(derived(straight.state)) <= straight.state.target_s


# proxyless-g


def test_full_gate_gradients_are_those_of_the_sum_written_out(space: SearchSpace, costs: Costs) -> None:
    """forward_full's dL/dg_k = <o_k(x), dL/dm> against m = sum_k g_k o_k with every candidate in the graph."""
    supernet = Supernet(space, costs).double()
    x, y = images()
    path = [3, 4, 1]
    ours = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    plain = torch.zeros(3, 5, dtype=torch.float64).scatter_(1, torch.tensor(path)[:, None], 1.0).requires_grad_()
    calls = counted(supernet)
    with only_alpha(supernet):
        loss = functional.cross_entropy(supernet.forward_full(x.double(), path, ours), y)
        assert calls == {(0, 3): 1, (1, 4): 1, (2, 1): 1}  # before backward: the path alone
        loss.backward()
        assert set(calls.values()) == {1}
        assert len(calls) == 14
        other = functional.cross_entropy(supernet.forward_mixture(x.double(), plain + 1e-300), y)
        other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-12)
    assert torch.allclose(ours.grad[supernet.valid_LK], plain.grad[supernet.valid_LK], rtol=1e-8, atol=1e-10)
    assert float(ours.grad[~supernet.valid_LK].abs().max()) == 0
    assert float(ours.grad[supernet.valid_LK].abs().min()) > 0


@pytest.mark.parametrize("estimator", ["plain", "reinmax"])
def test_a_full_step_is_the_softmax_jacobian_worked_out_by_hand(
    space: SearchSpace, costs: Costs, quick: Recipe, estimator: str
) -> None:
    """Adam replaced by plain descent of rate 1: alpha moves by the gradient of task and latency."""
    target_s = costs.network_s([1, 1, 1])
    state = start(space, costs, num_classes=10, target_s=target_s, recipe=quick, seed=3)
    state.loss = make_loss("dual", [target_s], 0, rate=0.0, damping=0.0).with_values([2.5])
    state.alpha_optimizer = torch.optim.SGD([state.supernet.alpha_LK], lr=1.0)  # type: ignore[assignment]
    with torch.no_grad():
        state.supernet.alpha_LK.add_(torch.randn(3, 5, generator=generator(0, "a"), dtype=torch.float64))
    before, supernet = state.supernet.alpha_LK.detach().clone(), state.supernet
    path = gates.sample_path(supernet.logits(), generator(3, "gates", 0))
    gates_LK = torch.zeros(3, 5).requires_grad_()
    with only_alpha(supernet.train()):
        functional.cross_entropy(supernet.forward_full(images()[0], path, gates_LK), images()[1]).backward()
    load("proxyless_g", {"gates": "full", "estimator": estimator}).step(state, images())
    moved = (supernet.alpha_LK.detach() - before).numpy()
    assert gates_LK.grad is not None
    for block, count in enumerate((4, 5, 5)):
        p = torch.softmax(before[block, :count], 0).numpy()
        d = gates_LK.grad[block, :count].double().numpy()
        one_hot = np.eye(count)[path[block]]

        def jacobian(pi: np.ndarray) -> np.ndarray:
            return np.diag(pi) - np.outer(pi, pi)

        task = jacobian(p) @ d if estimator == "plain" else 2 * jacobian((p + one_hot) / 2) @ d - jacobian(p) @ d / 2
        latency = jacobian(p) @ (2.5 * costs.cost_LK[block, :count] / target_s)
        assert moved[block, :count] == pytest.approx(-(task + latency), rel=1e-5, abs=1e-9)
    assert moved[0, 4] == 0


def test_reinmax_is_exact_for_a_quadratic_of_one_gate() -> None:
    """What second order means (arXiv 2304.08612, theorem 3.2): E over D of the estimate is d E[f(D)]/d alpha."""
    logits = torch.tensor([0.4, -0.9, 0.1], dtype=torch.float64)
    curvature = torch.randn(3, 3, generator=generator(1, "q"), dtype=torch.float64)
    p = torch.softmax(logits, 0)

    def value(d: torch.Tensor) -> torch.Tensor:
        return (d @ curvature @ d) + d @ torch.arange(3.0, dtype=torch.float64)

    leaf = logits.clone().requires_grad_()
    sum(torch.softmax(leaf, 0)[k] * value(torch.eye(3, dtype=torch.float64)[k]) for k in range(3)).backward()
    means = {"plain": torch.zeros(3, dtype=torch.float64), "reinmax": torch.zeros(3, dtype=torch.float64)}
    for k in range(3):
        d = torch.eye(3, dtype=torch.float64)[k].requires_grad_()
        value(d).backward()
        means["plain"] += p[k] * gates.softmax_vjp(p, d.grad)
        means["reinmax"] += p[k] * gates.reinmax_vjp(p, d.detach(), d.grad)
    assert torch.allclose(means["reinmax"], leaf.grad, atol=1e-12)
    assert not torch.allclose(means["plain"], leaf.grad, atol=1e-2)


@pytest.mark.parametrize("estimator", ["plain", "reinmax"])
def test_a_two_step_leaves_every_probability_outside_the_pair(estimator: str) -> None:
    state = toy(target_s=0.36)
    for step in range(6):
        before, pair = (
            state.supernet.probs().detach(),
            gates.sample_pair(state.supernet.logits(), generator(0, "pair", step)),
        )
        advance(state, load("proxyless_g", {"estimator": estimator}), range(step, step + 1))
        after = state.supernet.probs().detach()
        sampled = torch.zeros_like(before, dtype=torch.bool).scatter_(1, pair, True)
        assert float((after - before)[~sampled].abs().max()) < 1e-14
        assert float((after - before)[sampled].abs().max()) > 1e-4


def test_a_full_step_keeps_one_path_for_backward() -> None:
    """Seven candidates a block: saved bytes <= 1.35 of the plain network's, where the mixture's are several times."""
    wide = wide_space()
    supernet = Supernet(wide, make_costs(wide, FakePredictor())).train()
    path = [5, 1, 3, 2]
    plain = build_network(wide.architecture(path).ops).train()
    x, y = images(16, 32)
    alone = saved_bytes(lambda: functional.cross_entropy(plain(x), y), plain)
    gates_LK = torch.zeros(4, 7).requires_grad_()
    weights_LK = torch.full((4, 7), 1 / 7)
    with only_alpha(supernet):
        full = saved_bytes(lambda: functional.cross_entropy(supernet.forward_full(x, path, gates_LK), y), supernet)
    mixture = saved_bytes(lambda: functional.cross_entropy(supernet.forward_mixture(x, weights_LK), y), supernet)
    assert 0 < full <= 1.35 * alone
    assert mixture > 4 * alone


# proxyless-r


def test_leave_one_out_is_unbiased_over_every_draw() -> None:
    """Two blocks of 2 and 3 candidates, M = 2: the mean over all 36 pairs of networks, by enumeration, is the gradient."""
    logits = torch.tensor([[0.3, -0.4, float("-inf")], [1.0, 0.0, -0.7]], dtype=torch.float64)
    networks = list(itertools.product(range(2), range(3)))
    reward = dict(zip(networks, torch.randn(6, generator=generator(0, "r"), dtype=torch.float64), strict=True))
    p_LK = torch.softmax(logits, 1)
    probability = {n: float(p_LK[0, n[0]] * p_LK[1, n[1]]) for n in networks}
    mean = torch.zeros(2, 3, dtype=torch.float64)
    for a, b in itertools.product(networks, repeat=2):
        estimate = reinforce_gradient(logits, [a, b], torch.stack([reward[a], reward[b]]))
        mean += probability[a] * probability[b] * estimate
    leaf = logits.clone().requires_grad_()
    p = torch.softmax(leaf, 1)
    (-sum(p[0, i] * p[1, j] * reward[i, j] for i, j in networks)).backward()
    assert leaf.grad is not None
    assert torch.allclose(mean, torch.nan_to_num(leaf.grad), atol=1e-14)


def test_reinforce_rests_at_first_and_the_multiplier_with_it() -> None:
    state = toy(target_s=0.36)
    before = state.supernet.alpha_LK.detach().clone()
    advance(state, load("proxyless_r"), range(STEPS // 4))
    assert torch.equal(state.supernet.alpha_LK.detach(), before)
    assert state.loss.values == [0]
    advance(state, load("proxyless_r"), range(STEPS // 4, STEPS // 4 + 2))
    assert not torch.equal(state.supernet.alpha_LK.detach(), before)
    assert state.loss.values != [0]


@pytest.mark.parametrize("latency", ["power", "absolute"])
def test_latency_in_the_reward_alone_brings_latency_to_the_target(latency: str) -> None:
    """A strong weight on latency, none of the multiplier's help."""
    state = toy(target_s=0.25 + 1e-6, seed=2)
    strong = {"power": "20", "beta": "-20", "controller_warmup": "0"}
    state.supernet.alpha_LK.data.scatter_(1, torch.tensor(BEST)[:, None], 1.0)
    began_s = state.supernet.expected_s().item()
    advance(state, load("proxyless_r", {"latency": latency, **strong}), range(STEPS))
    assert state.supernet.expected_s().item() < 0.6 * (began_s - 0.25) + 0.25
    assert state.loss.values == [0]


# names and options


def test_strategies_are_found_by_file_and_take_both_spellings() -> None:
    assert {"proxyless_g", "proxyless_r"} <= set(names())
    assert load("proxyless-g") == load("proxyless_g")
    with pytest.raises(StrategyError, match=r"did you mean 'proxyless-g'.*known: .*proxyless-g"):
        load("proxyles_g")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("proxyless-g", {"gate": "full"}, r"proxyless-g has no option 'gate': did you mean 'gates'\? it has gates \(two or full; default two\)"),
        ("proxyless-g", {"gates": "ful"}, r"gates=ful .*did you mean 'full'\? two or full is needed"),
        ("proxyless-r", {"samples": "many"}, r"samples=many .*a whole number is needed"),
        ("proxyless-r", {"samples": 4.7}, r"samples=4.7 .*a whole number is needed"),
        ("proxyless-r", {"samples": "1"}, r"samples=1: at least 2"),
        ("proxyless-r", {"power": "nan"}, r"power=nan .*a number is needed"),
        ("proxyless-r", {"beta": "0.1"}, r"beta=0.1: a number below 0"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        load(name, options)


def test_options_are_parsed_and_told() -> None:
    assert parse_options(["gates=full", "estimator=reinmax"]) == {"gates": "full", "estimator": "reinmax"}
    for wrong in (["gates"], ["=full"], ["gates="], ["gates=two", "gates=full"]):
        with pytest.raises(StrategyError, match="--strategy-option"):
            parse_options(wrong)
    assert chosen(load("proxyless-g", {"gates": "two"})) == {}  # so runs of before there were options can be resumed
    assert chosen(load("proxyless-g", {"gates": "full"})) == {"gates": "full"}
    made = load("proxyless-r", {"samples": "4", "controller-warmup": "0.5"})
    assert (made.samples, made.controller_warmup) == (4, 0.5)
