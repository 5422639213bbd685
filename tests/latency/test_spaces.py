"""The spaces that ship, against what was published of them."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest
from torch import nn

from latency.flops import kernels, macs, params
from latency.modules import ChannelShuffle, build, build_network
from latency.ops import Conv2d, MBConv, Zero, mbconv
from latency.published import read_published
from latency.space import Choice, load_space, space_names
from tests.conftest import ROOT


def test_fbnet_is_the_published_space():
    """Layers, strides and channels: arXiv 1812.03443, table 1; digits: HELP's file (see the data's README)."""
    space = load_space("fbnet")
    assert len(space.choices) == 22
    assert {len(c.candidates) for c in space.choices} == {9}
    firsts = [c.candidates[0] for c in space.choices]
    assert [op.height for op in firsts] == [112, 112] + [56] * 4 + [28] * 4 + [14] * 8 + [7] * 4
    assert [op.out_channels for op in firsts] == [16] + [24] * 4 + [32] * 4 + [64] * 4 + [112] * 4 + [184] * 4 + [352]
    k5_e1_g2, skip = space.choices[3].candidates[5], space.choices[3].candidates[8]
    assert isinstance(k5_e1_g2, MBConv)
    assert (k5_e1_g2.kernel, k5_e1_g2.mid_channels, k5_e1_g2.groups) == (5, 24, 2)
    assert isinstance(skip, Zero)
    strided = space.choices[1].candidates[8]
    assert isinstance(strided, Conv2d)
    assert (strided.kernel, strided.stride) == (1, 2)
    assert all(op.expands for c in space.choices for op in c.candidates if isinstance(op, MBConv)), "section 3.1"
    assert len(space.unique_ops()) == 12 * 9 - 6 + 3, "12 distinct layers, of which 6 skip for free; stem and head"


@pytest.mark.parametrize(("groups", "convolutions", "moved"), [(1, 3, 0), (2, 3, 1)])
def test_a_block_of_expansion_1_does_what_its_work_says(groups, convolutions, moved):
    """FBNet's e1 blocks, with and without groups: what is counted is what is built."""
    op = mbconv(16, 24, 8, kernel=3, stride=2, expand=1, groups=groups, act="relu", expand_conv=1)
    counted, built = kernels(op), list(build(op).modules())
    assert sum(k.kind != "glue" for k in counted) == convolutions
    assert sum(isinstance(m, nn.Conv2d) for m in built) == convolutions
    assert sum(k.kind == "glue" for k in counted) == sum(isinstance(m, ChannelShuffle) for m in built) == moved
    weights = sum(p.numel() for m in built if isinstance(m, nn.Conv2d) for p in m.parameters())
    biases = 16 + 16 + 24  # of the batch norms, folded
    assert params(op) == weights + biases
    assert macs(op) == 16 * 16 // groups * 64 + 9 * 16 * 16 + 16 * 24 // groups * 16


@pytest.mark.parametrize("resolution", [160, 176, 192, 208])
def test_once_for_all_has_exactly_the_published_ops(resolution, shared_data):
    published = {e.op for e in read_published(shared_data / "note10" / f"{resolution}_lookup_table.yaml")}
    assert set(load_space(f"ofa_mbv3_{resolution}").unique_ops()) == published


def test_once_for_all_is_as_deep_as_its_choices_say():
    space = load_space("ofa_mbv3")
    assert len(space.choices) == 20
    free = [any(op.is_free for op in c.candidates) for c in space.choices]
    assert free == [False, False, True, True] * 5


def test_proxyless_cifar_is_the_papers_space():
    """arXiv 1812.00332, section 4.1: 3 stages of 18 blocks, 400 channels in the last; 12 edges a cell, 7 ops an edge."""
    space = load_space("proxyless_cifar")
    assert len(space.choices) == 3 * 18 * 12
    assert {len(c.candidates) for c in space.choices} == {7}
    assert space.n_networks == 7**648
    cells = Counter(c.name.split("/")[0] for c in space.choices)
    assert len(cells) == 54
    assert set(cells.values()) == {12}
    assert [space.choices[12 * 18 * s].candidates[0].height for s in range(3)] == [32, 16, 8]
    widths = [op.out_channels for op in space.fixed_ops if isinstance(op, Conv2d) and op.act == "none"]
    assert len(widths) == 54
    assert widths[-1] == 400
    steps = {b - a for a, b in itertools.pairwise(widths)}
    assert max(steps) - min(steps) <= 4, "additive widening, up to rounding a quarter of the width"
    kinds = [type(op).__name__ for op in space.choices[0].candidates]
    assert kinds == ["SepConv"] * 4 + ["Identity", "Pool", "Pool"]
    largest = space.architecture([2] * 648).ops
    assert 5.7e6 < sum(map(params, largest)) < 7e6, "the published networks, found inside, have 5.7 and 5.8 M"


@pytest.mark.parametrize("name", ["fbnet", "ofa_mbv3_160", "proxyless_cifar"])
def test_networks_of_the_space_run(name):
    import torch

    space = load_space(name)
    ops = space.random(random.Random(0)).ops
    network = build_network(ops).eval()
    with torch.inference_mode():
        out = network(torch.zeros(space.input_shape))
    assert out.shape == (1, space.head[-1].out_channels)
    assert sum(map(macs, ops)) > 1e7
    assert sum(map(params, ops)) > 1e6


def test_names_are_unique():
    names = space_names()
    assert len(names) == len(set(names))
    assert {"fbnet", "ofa_mbv3", "proxyless_cifar", "proxyless_cifar_small"} <= set(names)


def test_the_page_on_spaces_is_true():
    """Its code runs, and its counts of networks are those of the spaces."""
    text = (ROOT / "docs" / "spaces.md").read_text()
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert names["space"].n_networks == 5**4
    assert names["tree"].n_networks == 4**3
    joined = names["SearchSpace"](
        "joined",
        names["stem"],
        tuple(Choice(f"c{i}", names["narrow"]) for i in range(2)),
        names["head"],
        names["joined"],
    )
    assert joined.n_networks == 4
    told = dict(re.findall(r"^\| `(\w+)`.*?\| [\d]+ \|.*?\| ([\d.e^]+) \| \S", text, re.MULTILINE))
    assert len(told) >= 5
    for name, count in told.items():
        found = load_space(name)
        if "^" in count:
            base, power = map(int, count.split("^"))
            assert found.n_networks == base**power
        else:
            assert float(found.n_networks) == pytest.approx(float(count), rel=0.02)
