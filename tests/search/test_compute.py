"""Every way of computing gives the plain result, and resumes bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from devices.errors import UserError
from latency.modules import build_network
from latency.space import SearchSpace
from search import checkpoint
from search.compute import PLAIN, Compute, ComputeError, Engine, ops_of
from search.costs import Costs
from search.data import Data
from search.memory import saved_bytes
from search.recipe import Recipe
from search.state import start
from search.strategies import load
from search.trainer import SearchPhase, TrainPhase
from tests.search.conftest import make_space
from tests.search.test_run import same

WAYS = {
    "checkpointing": Compute(checkpoint_activations=True),
    "channels-last": Compute(channels_last=True),
    "bf16": Compute("bf16"),
    "fp16": Compute("fp16"),
    "all": Compute("bf16", channels_last=True, checkpoint_activations=True),
}
ATOL = {"checkpointing": 0.0, "channels-last": 1e-4, "bf16": 0.05, "fp16": 0.05, "all": 0.05}


def searching(space: SearchSpace, costs: Costs, data: Data, recipe: Recipe, compute: Compute) -> SearchPhase:
    state = start(space, costs, num_classes=3, target_s=2.5e-4, recipe=recipe, seed=0)
    counts = [len(c.candidates) for c in space.choices]
    return SearchPhase(state, load("proxyless_g"), data, recipe, counts, compute)


@pytest.mark.parametrize("way", WAYS)
def test_a_search_computed_another_way(
    space: SearchSpace, costs: Costs, bands: Data, quick: Recipe, tmp_path: Path, way: str
) -> None:
    """The same losses, statistics and alphas within rounding; stopped and resumed, the same bits."""
    plain, other = (searching(space, costs, bands, quick, c) for c in (PLAIN, WAYS[way]))
    rows = [(plain.advance(), other.advance()) for _ in range(8)]
    for expected, got in rows:
        assert got["loss"] == pytest.approx(expected["loss"], abs=ATOL[way])
    if way == "checkpointing":  # every running statistic too: none has seen a batch twice
        assert same(plain.state.state_dict(), other.state.state_dict())
    rest = [other.advance() for _ in range(other.total - 8)]

    stopped = searching(space, costs, bands, quick, WAYS[way])
    for _ in range(8):
        stopped.advance()
    checkpoint.save(tmp_path / "c.pt", {"state": stopped.state_dict()})
    resumed = searching(space, costs, bands, quick, WAYS[way])
    resumed.load_state_dict(checkpoint.load(tmp_path / "c.pt")["state"])
    assert [resumed.advance() for _ in range(resumed.total - 8)] == rest
    assert same(resumed.state_dict(), other.state_dict())


@pytest.mark.parametrize(("name", "options"), [("proxyless-g", {"gates": "full"}), ("proxyless-r", {"samples": 2})])
def test_other_strategies_run_the_same_way(
    space: SearchSpace, costs: Costs, bands: Data, quick: Recipe, name: str, options: dict[str, object]
) -> None:
    def phase(compute: Compute) -> SearchPhase:
        state = start(space, costs, num_classes=3, target_s=2.5e-4, recipe=quick, seed=0)
        return SearchPhase(state, load(name, options), bands, quick, state.supernet.counts(), compute)

    plain, frugal, mixed = phase(PLAIN), phase(WAYS["checkpointing"]), phase(WAYS["all"])
    for _ in range(plain.total):
        row = plain.advance()
        assert frugal.advance() == row
        assert mixed.advance()["loss"] == pytest.approx(row["loss"], abs=0.1)
    assert same(frugal.state_dict(), plain.state_dict())


def test_statistics_of_a_recomputed_op_see_each_batch_once() -> None:
    """Against the plain op after every backward; and in a block that only_alpha froze, no statistic moves."""
    space = make_space()
    torch.manual_seed(0)
    network = build_network(space.architecture([0, 1, 2]).ops)
    twin = build_network(space.architecture([0, 1, 2]).ops)
    twin.load_state_dict(network.state_dict())
    Engine(twin, WAYS["checkpointing"])
    x = torch.rand(4, 3, 16, 16)
    for _ in range(3):
        for one in (network, twin):
            one(x).square().mean().backward()
    assert same(dict(network.state_dict()), dict(twin.state_dict()))
    assert all(
        torch.equal(p.grad, q.grad) for p, q in zip(network.parameters(), twin.parameters(), strict=True)  # type: ignore[arg-type]
    )  # fmt: skip


def test_recomputing_keeps_only_the_inputs_of_ops() -> None:
    space = make_space()
    ops = space.architecture([1, 1, 3]).ops
    x = torch.rand(8, 3, 16, 16)
    plain, frugal = build_network(ops), build_network(ops)
    Engine(frugal, WAYS["checkpointing"])
    kept = saved_bytes(lambda: frugal(x).sum(), frugal)
    inputs = sum(4 * 8 * op.in_channels * op.height * op.width for op in ops)
    assert kept < 1.1 * inputs
    assert saved_bytes(lambda: plain(x).sum(), plain) > 2.5 * kept


def test_logits_leave_in_fp32_and_weights_stay_fp32() -> None:
    network = build_network(make_space().architecture([0, 0, 0]).ops)
    Engine(network, Compute("bf16"))
    seen: list[torch.dtype] = []
    network[1].register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    assert network(torch.rand(2, 3, 16, 16)).dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_the_scaler_leaves_out_a_step_that_overflowed_and_is_kept() -> None:
    network = build_network(make_space().architecture([0, 0, 0]).ops)
    engine = Engine(network, Compute("fp16"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in network.named_parameters()}
    loss = network(torch.rand(2, 3, 16, 16)).sum()
    engine.backward(loss * 1e30)
    engine.update(optimizer)
    assert same(dict(network.named_parameters()), before)
    assert engine.state_dict()["scale"] == 2.0**15
    other = Engine(build_network(make_space().architecture([0, 0, 0]).ops), Compute("fp16"))
    other.load_state_dict(engine.state_dict())
    assert other.state_dict() == engine.state_dict()
    assert Engine(nn.Linear(1, 1), PLAIN).state_dict() == {}


def test_alpha_steps_run_in_fp32_where_no_scaler_looks_after_them() -> None:
    network = build_network(make_space().architecture([0, 0, 0]).ops)
    engine = Engine(network, Compute("fp16"))
    x, dtypes = torch.rand(2, 3, 16, 16), []
    network[0].register_forward_hook(lambda module, given, result: dtypes.append(result.dtype))
    network(x)
    with engine.unscaled():
        network(x)
    network(x)
    assert dtypes == [torch.float16, torch.float32, torch.float16]


def test_clipping_cuts_the_norm_of_a_step() -> None:
    layer = nn.Linear(3, 1)
    before = layer.weight.detach().clone()
    engine = Engine(layer, PLAIN)
    engine.backward((layer(torch.full((1, 3), 100.0)) * 100).sum())
    engine.update(torch.optim.SGD(layer.parameters(), lr=1.0), clip_norm=0.5)
    moved = torch.cat([(layer.weight.detach() - before).flatten(), layer.bias.detach() * 0])
    assert float(moved.norm()) == pytest.approx(0.5, rel=0.01)


def test_compiled_ops_give_the_same_and_resume(bands: Data, quick: Recipe) -> None:
    try:
        compute = Compute(compile=True)
    except ComputeError as error:
        pytest.skip(str(error))
    ops = make_space(blocks=1).architecture([0]).ops
    ops = (*ops[:2], dataclasses.replace(ops[-1], in_channels=12))
    recipe = dataclasses.replace(quick, train_steps=4)
    plain, compiled = (TrainPhase("x", ops, bands, recipe, 0, compute=c) for c in (PLAIN, compute))
    for _ in range(4):
        assert compiled.advance()["loss"] == pytest.approx(plain.advance()["loss"], abs=1e-4)
    again = TrainPhase("x", ops, bands, recipe, 0, compute=compute)
    again.advance()
    state = again.state_dict()
    third = TrainPhase("x", ops, bands, recipe, 0, compute=compute)
    third.load_state_dict(state)
    for _ in range(3):
        third.advance()
    assert same(third.state_dict(), compiled.state_dict())


@pytest.mark.parametrize("compute", [PLAIN, Compute("fp16"), Compute(checkpoint_activations=True)])
def test_training_with_everything_on_resumes_bit_for_bit(
    space: SearchSpace, bands: Data, quick: Recipe, tmp_path: Path, compute: Compute
) -> None:
    recipe = dataclasses.replace(quick, train_steps=6, dropout=0.3, cutout=0.5, ema=0.9, clip_norm=1.0)
    ops = space.architecture([0, 1, 4]).ops
    straight = TrainPhase("x", ops, bands, recipe, 0, compute=compute)
    rows = [straight.advance() for _ in range(6)]
    first = TrainPhase("x", ops, bands, recipe, 0, compute=compute)
    for _ in range(3):
        first.advance()
    checkpoint.save(tmp_path / "c.pt", {"state": first.state_dict()})
    second = TrainPhase("x", ops, bands, recipe, 0, compute=compute)
    second.load_state_dict(checkpoint.load(tmp_path / "c.pt")["state"])
    assert [second.advance() for _ in range(3)] == rows[3:]
    assert same(second.state_dict(), straight.state_dict())
    assert not same(dict(second.trained.state_dict()), dict(second.network.state_dict()))
    assert second.trained.state_dict().keys() == build_network(ops).state_dict().keys()


def test_dropout_is_drawn_from_the_step_and_silent_in_evaluation(space: SearchSpace, bands: Data) -> None:
    recipe = Recipe(batch_size=16, warmup_steps=0, search_steps=1, train_steps=1, dropout=0.5)
    phase = TrainPhase("x", space.architecture([0, 1, 4]).ops, bands, recipe, 0)
    x = torch.rand(4, 3, 16, 16)
    first, second = phase.network(x), phase.network(x)
    assert torch.equal(first, second)
    phase._dropout.step = 1
    assert not torch.equal(first, phase.network(x))
    phase.network.eval()
    phase._dropout.step = 2
    assert torch.equal(phase.network(x), build_like(phase.network, space)(x))


def build_like(network: nn.Module, space: SearchSpace) -> nn.Module:
    plain = build_network(
        (*space.architecture([0, 1, 4]).ops[:-1], dataclasses.replace(space.head[-1], out_channels=3))
    )
    plain.load_state_dict(network.state_dict())
    return plain.eval()


def test_dropout_keeps_the_mean() -> None:
    from search.regularise import Dropout

    layer = nn.Linear(20_000, 1)
    dropout = Dropout(layer, 0.3, seed=0)
    (y,) = dropout(layer, (torch.ones(1, 20_000),))  # type: ignore[misc]
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    assert float((y == 0).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_the_average_follows_the_weights(space: SearchSpace, bands: Data, quick: Recipe) -> None:
    from search.regularise import average_of

    layer = nn.Linear(1, 1, bias=False)
    average = average_of(layer, 0.9)
    values = [1.0, 2.0, 4.0]
    for value in values:
        nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
    second = 1.0 + (2.0 - 1.0) * (1 - 2 / 11)  # decay (1 + n) / (10 + n), n = 1
    assert float(average.module.weight.detach()) == pytest.approx(second + (4.0 - second) * (1 - 3 / 12))


def test_the_modules_that_are_ops() -> None:
    network = build_network(make_space().architecture([0, 0, 4]).ops)
    assert [getattr(op, "key", "") for op in ops_of(network)] == [
        str(op.key) for op in network if list(op.parameters())
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf8"}, "--precision bf8: did you mean 'bf16'"),
        ({"precision": "double"}, "one of fp32, bf16, fp16"),
    ],
)
def test_what_cannot_be_computed_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Compute(**options)  # type: ignore[arg-type]


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"--compile needs a C\+\+ compiler: there is no no-such-compiler"):
        Compute(compile=True)
