"""Memory told before the run is the memory of the run: against saved tensors and the allocator's own peak."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from latency.ops import Linear, MBConv
from latency.space import SearchSpace, load_space
from search.costs import Costs, make_costs
from search.estimate import PATHS, Estimator, Setting, narrower, ways_down
from search.lean import LeanReLU6, lean
from search.memory import GIB, Step, count_step, saved_bytes
from search.supernet import Supernet, only_alpha
from tests.search.conftest import FakePredictor, make_space

BATCHES = (16, 48, 96)


@pytest.fixture
def setting(space: SearchSpace) -> Setting:
    return Setting(space, 3, (3, 16, 16))


def real_step(space: SearchSpace, costs: Costs, paths: str, order: list[list[int]]) -> tuple[Supernet, Callable]:
    """A supernet of real tensors, and the forward pass that `Estimator` counts for `paths`."""
    supernet = Supernet(space, costs, 3)
    lean(supernet)
    if paths == "one path":
        return supernet, lambda x: supernet(x, [o[0] for o in order])
    if paths == "two paths":
        pairs = torch.tensor([o[:2] for o in order])
        gates_L2 = torch.ones(pairs.shape, requires_grad=True)
        return supernet, lambda x: supernet.forward_pair(x, pairs, gates_L2)

    weights_LK = torch.ones(len(order), 5, requires_grad=True)

    def every(x: torch.Tensor) -> torch.Tensor:
        x = supernet.stem(x)
        for weights, block in zip(weights_LK, supernet.blocks, strict=True):
            x = torch.stack([w * op(x) for w, op in zip(weights, block, strict=False)]).sum(0)
        return supernet.head(x)

    return supernet, every


@pytest.mark.parametrize("paths", PATHS)
def test_what_is_told_is_what_autograd_keeps_and_what_the_allocator_sees(paths: str, predictor: FakePredictor) -> None:
    """Within 10 %: activations against the saved tensors of a real step, the peak against the allocator's."""
    space = make_space(blocks=8)
    costs, estimator = make_costs(space, predictor), Estimator(Setting(space, 3, (3, 16, 16)))
    estimator.need(paths, 2)
    supernet, forward = real_step(space, costs, paths, estimator.order)
    for batch in BATCHES:
        need = estimator.need(paths, batch)
        x, y = torch.rand(batch, 3, 16, 16), torch.zeros(batch, dtype=torch.long)
        if paths == "two paths":
            with only_alpha(supernet):
                kept = saved_bytes(lambda x=x, y=y: functional.cross_entropy(forward(x), y), supernet)
                peak = allocator_peak(lambda x=x, y=y: functional.cross_entropy(forward(x.clone()), y).backward())
        else:
            kept = saved_bytes(lambda x=x, y=y: functional.cross_entropy(forward(x), y), supernet)
            peak = allocator_peak(lambda x=x, y=y: functional.cross_entropy(forward(x.clone()), y).backward())
            assert need.gradients == sum(p.grad.nbytes for p in supernet.parameters() if p.grad is not None)
            supernet.zero_grad()
        assert need.activations == pytest.approx(kept, rel=0.1)
        standing = need.parameters + need.buffers + need.optimizer
        assert need.total - standing == pytest.approx(max(peak, 2 * need.gradients), rel=0.1)
    assert need.parameters == sum(p.nbytes for p in supernet.parameters())


def allocator_peak(work: Callable[[], None]) -> int:
    """The most bytes beyond those before it that torch's CPU allocator had given out during `work`, by its own events."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    stack, sizes = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
    now = most = 0
    for _, size in sorted(sizes, key=lambda s: s[0]):
        now += size
        most = max(most, now)
    return most


def test_counting_needs_no_real_numbers(setting: Setting, space: SearchSpace, costs: Costs) -> None:
    """The same code counted on real tensors and on fake ones gives the same bytes."""
    estimator = Estimator(setting)
    need = estimator.need("one path", 16)
    supernet, forward = real_step(space, costs, "one path", estimator.order)
    step = count_step(
        lambda: (torch.rand(16, 3, 16, 16), torch.zeros(16, dtype=torch.long)),
        lambda xy: functional.cross_entropy(forward(xy[0]), xy[1]),
        supernet,
    )
    assert (step.activations, step.gradients) == (need.activations, need.gradients)
    assert need.total - need.parameters - need.buffers - need.optimizer == pytest.approx(step.peak, rel=0.02)


def test_the_largest_batch_fits_and_the_next_does_not(setting: Setting) -> None:
    estimator = Estimator(setting)
    for paths in ("one path", "two paths"):
        for batch in (2, 50, 700):
            budget = estimator.need(paths, batch).total
            assert estimator.largest_batch(paths, budget) == batch
            assert estimator.largest_batch(paths, budget - 1) == (batch - 1 if batch > 2 else 0)


@pytest.mark.parametrize("paths", PATHS)
def test_two_counts_tell_every_batch_as_counting_would(paths: str, setting: Setting) -> None:
    told = Estimator(setting)
    for batch in (8, 2):
        told.need(paths, batch)
    for batch in (3, 48, 1000):
        assert told.need(paths, batch) == Estimator(setting).need(paths, batch)


def test_a_dry_run_counts_each_step_twice_at_most(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two counts of each kind of step, and one of each way to compute that is not the run's."""
    counts = []

    def counted(*args: object) -> Step:
        counts.append(args)
        return count_step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("search.estimate.count_step", counted)
    estimator = Estimator(setting)
    for paths in PATHS:
        estimator.need(paths, 8)
        estimator.largest_batch(paths, GIB)
    assert len(counts) == 2 * len(PATHS)
    ways_down(estimator, "two paths", 8)
    assert len(counts) == 2 * len(PATHS) + 4  # smaller model, bf16, checkpointing, ReLU6 as it is in torch


def test_the_full_size_cells_take_a_weight_step(predictor: FakePredictor) -> None:
    space = load_space("proxyless_cifar")
    supernet = Supernet(space, make_costs(space, predictor), 10)
    path = [block % len(choice.candidates) for block, choice in enumerate(space.choices)]
    optimizer = torch.optim.SGD((p for _, p in supernet.weights()), lr=0.01)
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = functional.cross_entropy(supernet(x, path), torch.arange(8))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in supernet.parameters())


def test_the_full_size_cells_are_counted_on_fakes() -> None:
    estimator = Estimator(Setting(load_space("proxyless_cifar"), 10, (3, 32, 32)))
    need = estimator.need("one path", 8)
    assert len(estimator.order) == 648
    assert 0.5 * GIB < need.activations < need.total < 3 * GIB


def test_optimisers_and_ways_down(setting: Setting) -> None:
    sgd, momentum, adam = (Estimator(setting, name).need("one path", 8) for name in ("sgd", "momentum", "adam"))
    assert (sgd.optimizer, momentum.optimizer, adam.optimizer) == (0, sgd.parameters, 2 * sgd.parameters)
    estimator = Estimator(setting)
    whole = estimator.need("one path", 64).total
    ways = {way.name: way for way in ways_down(estimator, "one path", 64)}
    assert list(ways) == ["smaller model", "smaller batch", "mixed precision", "checkpointing", "in place"]
    assert ways["in place"].total == whole
    for name in ("smaller model", "smaller batch", "mixed precision", "checkpointing"):
        assert ways[name].total is not None
        assert ways[name].total < 0.95 * whole, name
    assert estimator.need("one path", 64).total == whole  # the estimator is as it was


def test_the_whole_imagenet_space_at_full_size() -> None:
    """Batch 256 at 224 pixels: about a hundred times this machine's patience, none of it computed."""
    estimator = Estimator(Setting(load_space("proxyless"), 1000, (3, 224, 224)))
    one, every = (estimator.need(paths, 256) for paths in ("one path", "all paths"))
    assert 10 * GIB < one.total < 30 * GIB
    assert every.activations > 4 * one.activations
    assert one.activations == pytest.approx(256 / 64 * estimator.need("one path", 64).activations, rel=0.01)


def test_spaces_with_branches_are_counted_too(predictor: FakePredictor) -> None:
    """On fakes, what a real step of the same path keeps; blocks that share their input, as in a tree, included."""
    space = load_space("proxyless_cifar_small")
    estimator = Estimator(Setting(space, 10, (3, 32, 32), lean=False))
    needs = {paths: estimator.need(paths, 4) for paths in PATHS}
    assert needs["one path"].total < needs["two paths"].total < needs["all paths"].total
    heaviest = [order[0] for order in estimator.order]
    supernet = Supernet(space, make_costs(space, predictor), 10)
    x = torch.zeros(4, 3, 32, 32)
    kept = saved_bytes(lambda: functional.cross_entropy(supernet(x, heaviest), torch.arange(4)), supernet)
    assert needs["one path"].activations == pytest.approx(kept, rel=0.1)


def test_narrower_spaces_keep_what_is_not_width(space: SearchSpace) -> None:
    narrow = narrower(load_space("proxyless"))
    last = narrow.head[-1]
    assert isinstance(last, Linear)
    assert (narrow.input_shape, last.out_channels) == (load_space("proxyless").input_shape, 1000)
    block = narrow.choices[1].candidates[-2]
    assert isinstance(block, MBConv)
    assert block.mid_channels == 6 * block.in_channels
    assert narrower(space).choices[1].candidates[0].in_channels == 8


def test_lean_relu6_is_relu6_to_the_bit_in_less_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor([-1.0, -0.0, 0.0, 6.0, 7.0, float("inf"), float("nan")])
    x = torch.cat([torch.randn(1000, generator=generator) * 4, edges])
    upstream = torch.randn(x.shape, generator=generator)
    results = []
    for act in (nn.ReLU6(), LeanReLU6()):
        a = x.clone().requires_grad_()
        y = act(a)
        y.backward(upstream)
        assert a.grad is not None
        results.append((y.detach(), a.grad))
    assert all(torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)) for a, b in zip(*results, strict=True))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    image = torch.rand(4, 3, 8, 8)
    before, names = saved_bytes(lambda: net(image).sum(), net), list(net.state_dict())
    assert saved_bytes(lambda: lean(net)(image).sum(), net) < 0.8 * before
    assert list(net.state_dict()) == names
    assert saved_bytes(lambda: lean(net, on=False)(image).sum(), net) == before


@pytest.mark.gpu
def test_what_is_told_is_what_a_gpu_allocates(setting: Setting, space: SearchSpace, costs: Costs) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    setting = dataclasses.replace(setting, shape=(3, 64, 64))
    estimator = Estimator(setting)
    for batch in (256, 1024):
        need = estimator.need("one path", batch)
        supernet, forward = real_step(space, costs, "one path", estimator.order)
        supernet.cuda()
        torch.cuda.reset_peak_memory_stats()
        x, y = torch.rand(batch, 3, 64, 64, device="cuda"), torch.zeros(batch, dtype=torch.long, device="cuda")
        functional.cross_entropy(forward(x), y).backward()
        assert need.total - need.optimizer == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)


def test_the_dry_run_command(cli) -> None:
    code, out, err = cli("--dry-run", "--memory-gib", "0.0001")
    assert code == 0
    assert "does not fit" in err
    assert "checkpointing" in out


def test_memory_needs_no_predictor_but_a_search_does(capsys) -> None:
    from search.run import main

    assert main(["--dry-run", "--space", "proxyless_cifar_small", "--image-size", "32", "--batch-size", "8"]) == 0
    assert "largest batch" in capsys.readouterr().out
    assert main([]) == 2
    assert "--predictor is needed" in capsys.readouterr().err


def test_the_dry_run_command_for_machines(cli, tmp_path: Path) -> None:
    code, out, err = cli("--dry-run", "--json", "--memory-gib", "0.5", "--batch-size", "16")
    assert code == 0, err
    told = json.loads(out)
    assert told["steps"].keys() == set(PATHS)
    assert told["steps"]["one path"]["largest_batch"] > 16
    assert told["budget_bytes"] == GIB // 2
    assert (told["batch_size"], told["shape"], told["fits"]) == (16, [3, 8, 8], True)
    assert {"sgd", "momentum", "adam"} == told["optimizer_bytes"].keys()
    assert not (tmp_path / "runs").exists()
    code, _, err = cli("--dry-run", "--memory-gib", "-1")
    assert code == 2
    assert "--memory-gib -1" in err
