"""Branches written as chains: they compute what they say, keep their text, and refuse what does not fit."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency.modules import Wired, build, build_network, merge
from latency.ops import (
    Add,
    Concat,
    Conv2d,
    Identity,
    Linear,
    OpError,
    Pad,
    Pool,
    SepConv,
    Zero,
    network_text,
    parse_network,
    parse_op,
)
from latency.space import Choice, SearchSpace, SpaceError, load_architecture, without_identities
from latency.wiring import FORK, NEXT, WiringError, check, parallel, scaled_sizes, split

SIZE = {"height": 6, "width": 6}


def sep(c_in: int, c_out: int | None = None, kernel: int = 3) -> SepConv:
    return SepConv(in_channels=c_in, out_channels=c_out or c_in, kernel=kernel, **SIZE)


def add(channels: int, branches: int = 2) -> Add:
    return Add(in_channels=channels, out_channels=channels, branches=branches, **SIZE)


def concat(channels: int, branches: int = 2) -> Concat:
    return Concat(in_channels=channels, out_channels=channels * branches, branches=branches, **SIZE)


@st.composite
def trees(draw, channels: int = 8, depth: int = 3):
    """A random well-formed network from `channels` to `channels` channels."""
    kind = draw(st.sampled_from(["op", "two", "add", "concat"])) if depth else "op"
    if kind == "op":
        same = {"in_channels": channels, "out_channels": channels, **SIZE}
        return [draw(st.sampled_from([sep(channels), Identity(**same), Pool(kernel=3, **same), Zero(**same)]))]
    if kind == "two":
        return [*draw(trees(channels, depth - 1)), *draw(trees(channels, depth - 1))]
    if kind == "add" or channels % 4:
        n = draw(st.integers(2, 3))
        return parallel(*(draw(trees(channels, depth - 1)) for _ in range(n)), close=add(channels, n))
    half = channels // 2
    slices = split(sep(channels), 2)
    return parallel(*([s, *draw(trees(half, depth - 1))] for s in slices), close=concat(half))


@settings(max_examples=60, deadline=None)
@given(trees())
def test_a_wired_network_keeps_its_text_and_its_function(steps):
    ops = tuple(steps)
    assert parse_network(network_text(ops)) == ops
    check(ops, lambda slot: ops[slot], "network")
    network = build_network(ops).eval()
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        y = network(x)
        assert y.shape == x.shape
        if isinstance(network, Wired):  # what computes nothing may be left out
            fewer = Wired(without_identities(ops)).eval()
            kept = [m for i, m in network.body.items() if ops[int(i)] in fewer.ops]
            for mine, theirs in zip(fewer.body.values(), kept, strict=True):
                mine.load_state_dict(theirs.state_dict())
            assert torch.equal(fewer(x), y)


def test_branches_are_the_sums_and_stacks_written_out():
    a, b, c = sep(8, kernel=3), sep(8, kernel=5), sep(4)
    x = torch.randn(2, 8, 6, 6)
    tree = build_network(parallel([a, *parallel([b], [], close=add(8))], [], close=add(8))).eval()
    first, second = tree.body["1"], tree.body["3"]
    with torch.no_grad():
        inner = first(x)
        assert torch.equal(tree(x), (second(inner) + inner) + x)
    low, high = split(b, 2)
    parts = build_network(parallel([low, c], [high], close=concat(4))).eval()
    with torch.no_grad():
        assert torch.equal(parts(x), torch.cat([parts.body["2"](x[:, :4]), x[:, 4:]], 1))
    pad = build(Pad(in_channels=8, out_channels=12, **SIZE))
    assert torch.equal(pad(x), torch.cat([x, torch.zeros(2, 4, 6, 6)], 1))


def test_what_closes_branches_is_timed_by_itself():
    """Alone, Add and Concat work on as many maps of the same size as in a network."""
    for op in (add(8, 3), concat(4, 3)):
        module = build(op)
        others = list(module.buffers())
        assert [tuple(o.shape) for o in others] == [op.input_shape] * 2
        x = torch.randn(op.input_shape)
        assert torch.equal(module(x), merge(op, [x, *others]))
        assert tuple(module(x).shape) == op.output_shape
        assert not op.is_free
        assert parse_op(str(op)) == op
        assert not module.state_dict()


@pytest.mark.parametrize(
    ("ops", "says"),
    [
        ([NEXT, sep(8)], "Next() at place 0 has no Fork"),
        ([sep(8), add(8)], "has no Fork before it"),
        ([FORK, sep(8), NEXT, sep(8)], "1 Fork without an Add or Concat"),
        ([FORK, sep(8), add(8)], "closes 1 branches"),
        ([FORK, sep(8), NEXT, sep(8, 4), add(8)], "a branch gives (1, 4, 6, 6)"),
        ([FORK, sep(8), NEXT, sep(4, 8), add(8)], None),  # the input is unknown, each branch may take what it likes
        ([sep(8), FORK, sep(8), NEXT, sep(4, 8), add(8)], "but SepConv(in_channels=4"),
        ([sep(8), sep(4)], "gives (1, 8, 6, 6)"),
    ],
)
def test_misfits_are_named(ops, says):
    if says is None:
        check(ops, ops.__getitem__, "it")
        return
    with pytest.raises(WiringError) as error:
        check(ops, ops.__getitem__, "it")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Fork(height=2)", "takes no fields"),
        ("Add(in_channels=8,out_channels=4,height=2,width=2)", "differs"),
        ("Concat(in_channels=8,out_channels=8,height=2,width=2)", "2 x 8 channels are not 8"),
        ("Slice(in_channels=8,out_channels=4,height=2,width=2,start=5)", "channels 5 + 4 of 8"),
        ("Pad(in_channels=8,out_channels=8,height=2,width=2)", "not above"),
    ],
)
def test_impossible_ops(text, says):
    with pytest.raises(OpError, match=says.replace("+", r"\+")):
        parse_op(text)
    with pytest.raises(WiringError, match="equal shares"):
        split(sep(8), 3)


def space_of(layout, n=2):
    kinds = tuple(sep(8, kernel=k) for k in (3, 5))
    head = (Linear(in_channels=8, out_channels=10, **SIZE),)
    stem = (Conv2d(in_channels=3, out_channels=8, kernel=3, **SIZE),)
    return SearchSpace("t", stem, tuple(Choice(f"c{i}", kinds) for i in range(n)), head, tuple(layout))


def test_a_layout_names_every_choice_once_in_order():
    good = space_of(parallel([0], [1], close=add(8)))
    assert good.n_networks == 4
    assert add(8) in good.unique_ops()
    assert add(8) in good.fixed_ops
    assert FORK not in good.unique_ops()
    for layout in ([0], [1, 0], [0, 0, 1], [0, 1, 2]):
        with pytest.raises(SpaceError, match="each once and in order"):
            space_of(layout)
    with pytest.raises(SpaceError, match="without an Add"):
        space_of([FORK, 0, NEXT, 1])
    with pytest.raises(SpaceError, match="a branch gives"):
        space_of(parallel([0], [1], close=add(4)))
    chain = space_of(())
    assert chain == dataclasses.replace(chain, layout=())
    assert chain.steps == (0, 1)
    assert chain.architecture([1, 0]).ops == (*chain.stem, sep(8, kernel=5), sep(8), *chain.head)


def test_architectures_with_branches_round_trip(tmp_path):
    space = space_of(parallel([0, 1], [], close=add(8)))
    architecture = space.random(random.Random(0))
    path = tmp_path / "architecture.json"
    path.write_text(architecture.to_json())
    assert load_architecture(path) == architecture
    path.write_text(architecture.to_json().replace('"Next()",', ""))
    with pytest.raises(SpaceError, match=r"field 'ops': Add.* closes 1 branches"):
        load_architecture(path)


def test_sizes_follow_branches():
    pool = Pool(in_channels=8, out_channels=8, kernel=3, stride=2, **SIZE)
    closed = dataclasses.replace(add(8), height=3, width=3)
    assert scaled_sizes(parallel([pool], [pool], close=closed), 20, 9) == (10, 5)
