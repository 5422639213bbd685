from __future__ import annotations

import dataclasses
import random

import pytest

from latency.ops import Linear, Zero, mbconv
from latency.space import Choice, SearchSpace, SpaceError, for_classes, load_architecture, load_space, space_names


def test_proxyless_is_the_papers_space():
    """arXiv 1812.00332: 21 blocks, 6 candidates, Zero in the 15 blocks with a shortcut; sizes of the released code."""
    space = load_space("proxyless")
    assert len(space.choices) == 21
    assert space.n_networks == 6**6 * 7**15
    with_zero = [c for c in space.choices if any(isinstance(op, Zero) for op in c.candidates)]
    assert len(with_zero) == 15
    assert {
        (op.kernel, op.mid_channels // op.in_channels) for c in space.choices for op in c.candidates if not op.is_free
    } == {(k, e) for k in (3, 5, 7) for e in (3, 6)}
    assert [c.candidates[0].out_channels for c in space.choices] == [24] * 4 + [40] * 4 + [80] * 4 + [96] * 4 + [
        192
    ] * 4 + [320]
    assert [c.candidates[0].height for c in space.choices] == [112, 56, 56, 56, 56, 28, 28, 28, 28] + [14] * 8 + [7] * 4
    assert len(space.unique_ops()) == 70  # 66 of the choices, stem, first block, 1x1 conv, classifier


def test_width_variants():
    assert {"proxyless", "proxyless_mobile", "proxyless_cpu", "proxyless_gpu"} <= set(space_names())
    last = {
        name: load_space(name).choices[-1].candidates[0].out_channels for name in space_names() if "proxyless" in name
    }
    assert last["proxyless_mobile"] == 320
    assert last["proxyless_cpu"] == 360
    assert last["proxyless_gpu"] == 432


def test_shapes_must_chain():
    a, b = mbconv(8, 8, 4, kernel=3, stride=1, expand=3), mbconv(16, 8, 4, kernel=3, stride=1, expand=3)
    with pytest.raises(SpaceError, match="gives"):
        SearchSpace("bad", (a,), (Choice("c", (b,)),), ())
    with pytest.raises(SpaceError, match="differ in their shapes"):
        Choice("c", (a, b))
    with pytest.raises(SpaceError, match="twice"):
        Choice("c", (a, a))


def test_architecture_round_trips(tmp_path):
    space = load_space("proxyless")
    architecture = space.random(random.Random(3))
    path = tmp_path / "architecture.json"
    path.write_text(architecture.to_json())
    assert load_architecture(path) == architecture
    assert not any(op.is_free for op in architecture.kernel_ops)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not an architecture of schema 1"),
        ('{"schema": 1}', "field 'ops'"),
        ('{"schema": 1, "ops": ["Foo()"], "indices": [], "space": "x"}', "ops[0]: unknown op kind 'Foo'"),
        (
            '{"schema": 1, "ops": ["Linear(in_channels=8,out_channels=8,height=1,width=1)"], "indices": "a", "space": "x"}',
            "indices",
        ),
    ],
)
def test_bad_architecture_files(tmp_path, content, says):
    path = tmp_path / "architecture.json"
    path.write_text(content)
    with pytest.raises(SpaceError) as error:
        load_architecture(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_a_users_own_space(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from latency.ops import mbconv\nfrom latency.space import Choice, SearchSpace\n"
        "c = tuple(mbconv(8, 8, 4, kernel=k, stride=1, expand=3) for k in (3, 5))\n"
        "space = SearchSpace('mine', (), (Choice('one', c),), ())\n"
    )
    assert load_space(f"{path}:space").n_networks == 2
    with pytest.raises(SpaceError, match="'other' is not a SearchSpace; the file has: space"):
        load_space(f"{path}:other")
    path.write_text("1 / 0")
    with pytest.raises(SpaceError, match="ZeroDivisionError"):
        load_space(f"{path}:space")
    with pytest.raises(SpaceError, match="no such file"):
        load_space("nowhere.py:space")
    with pytest.raises(SpaceError, match="did you mean 'proxyless'"):
        load_space("proxiless")


def test_for_classes_changes_the_last_layer_only():
    space = load_space("proxyless")
    ops = space.random(random.Random(0)).ops
    changed = for_classes(ops, 10)
    assert changed[:-1] == ops[:-1]
    assert changed[-1] == dataclasses.replace(ops[-1], out_channels=10)
    assert isinstance(changed[-1], Linear)


def test_indices_out_of_range():
    space = load_space("proxyless")
    with pytest.raises(SpaceError, match="21 choices, got 1"):
        space.architecture([0])
    with pytest.raises(SpaceError, match="has 6 candidates, got index 6"):
        space.architecture([6] * 21)
