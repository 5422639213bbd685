"""Kernels as ops: texts, shapes, builders, work; the space of random networks; rows of kernels timed in place."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.onnx_profile import kernel_runs
from latency import kernels as k
from latency.features import FEATURES, discrete_values, feature_matrix, features
from latency.flops import bytes_moved, macs, params
from latency.kernel_draws import EXTRAS
from latency.kernel_kinds import KINDS as WHOLE
from latency.kernel_kinds import draw_kind
from latency.kernel_modules import build_kernel
from latency.kernel_space import BLOCKS, OTHERS, ZOO, draw
from latency.kernel_times import kernel_row, kernel_seconds
from latency.modules import build
from latency.op_base import ACTIVATIONS, BROADCASTS, COPIES, FUNCTIONS, NORMS, REDUCTIONS, RESIZES
from latency.ops import KINDS, OpError, mbconv, parse_op

CARRIED = ACTIVATIONS[: ACTIVATIONS.index("prelu")]


@st.composite
def convs(draw_):
    height, width = draw_(st.integers(4, 12)), draw_(st.integers(4, 12))
    window = (draw_(st.integers(1, 4)), draw_(st.integers(1, 4)))
    stride, dilation = draw_(st.integers(1, 3)), draw_(st.sampled_from([1, 2]))
    sizes = []
    for size, kernel in ((height, window[0]), (width, window[1])):
        reach = dilation * (kernel - 1) + 1
        pads = draw_(st.integers(0, reach - 1))
        sizes.append((size + pads - reach) // stride + 1)
    if min(sizes) < 1:
        sizes = [-(-height // stride), -(-width // stride)]
    groups, wide = draw_(st.sampled_from([(1, 8), (4, 8), (8, 8)]))
    return k.conv(
        8, wide, groups=groups, window=window, strides=(stride, stride), dilation=dilation, out=tuple(sizes),
        height=height, width=width, act=draw_(st.sampled_from(CARRIED)), add=draw_(st.sampled_from([0, 1])),
        batch=draw_(st.integers(1, 2)),
    )  # fmt: skip


@st.composite
def others(draw_):
    c = draw_(st.integers(1, 6).map(lambda n: 4 * n))
    size = {"in_channels": c, "height": draw_(st.integers(2, 9)), "width": draw_(st.integers(1, 9))}
    same = {**size, "out_channels": c, "batch": draw_(st.integers(1, 2))}
    pick = lambda values: draw_(st.sampled_from(values))  # noqa: E731
    makers = [
        lambda: k.TransposedConv(**{**same, "out_channels": 8}, kernel=pick([2, 3, 4]), stride=2),
        lambda: k.windowed(k.Pooling, in_channels=c, out_channels=c, height=8, width=8, window=(2, 2), strides=(2, 2), out=(4, 4), pool=pick(["avg", "max"])),
        lambda: k.GlobalPool(**same, pool=pick(["avg", "max"])),
        lambda: k.Gemm(**{**same, "out_channels": 12}, act=pick(CARRIED)),
        lambda: k.MatMul(**{**same, "width": 1, "out_channels": 5}),
        lambda: k.Activation(**same, act=pick(ACTIVATIONS[1:])),
        lambda: k.Elementwise(**same, fn=pick(FUNCTIONS), broadcast=pick(BROADCASTS)),
        lambda: k.BatchNorm(**same, act=pick(CARRIED)),
        lambda: k.Join(**same, parts=pick([2, 3, 4])),
        lambda: k.Copy(**same, copy=pick(COPIES)),
        lambda: k.View(),
        lambda: k.Resize(**same, out_height=16, out_width=10, resize=pick(RESIZES)),
        lambda: k.Softmax(**same),
        lambda: k.Norm(**same, norm=pick(NORMS)),
        lambda: k.Reduce(**size, reduction=pick(REDUCTIONS)),
    ]  # fmt: skip
    return draw_(st.sampled_from(makers))()


@given(st.one_of(convs(), others()))
def test_text_round_trips(op):
    assert parse_op(str(op)) == op


@settings(max_examples=80, deadline=None)
@given(st.one_of(convs(), others()))
def test_the_built_module_gives_as_many_numbers_as_the_op_says(op):
    module = build(op).eval()
    with torch.no_grad():
        out = module(torch.rand(op.input_shape) + 0.1)
    if isinstance(op, k.Gemm):
        expected = op.batch * op.height * op.width * op.out_channels
    elif isinstance(op, k.Reduce):
        expected = op.batch * op.height * op.width
    else:
        expected = np.prod(op.output_shape)
    assert out.numel() == expected
    if isinstance(op, k.DenseConv | k.TransposedConv | k.Pooling | k.Resize):
        assert tuple(out.shape) == op.output_shape


@settings(max_examples=60, deadline=None)
@given(convs())
def test_parameters_of_a_convolution_are_those_of_its_module(op):
    module = build_kernel(op)
    added = np.prod(op.output_shape) if op.add else 0
    assert params(op) == sum(p.numel() for p in module.parameters()) - added


@given(st.one_of(convs(), others()))
def test_features_are_finite_and_work_is_not_negative(op):
    x = features(op)
    assert x.shape == (len(FEATURES),)
    assert np.isfinite(x).all()
    assert min(macs(op), params(op), bytes_moved(op)) >= 0


def test_every_kind_is_drawn_by_these_tests():
    kinds = {type(op) for op in _examples()}
    assert kinds == set(k.KERNELS)
    assert {c.__name__ for c in k.KERNELS} <= set(KINDS)


def _examples():
    shape = {"in_channels": 8, "out_channels": 8, "height": 4, "width": 4}
    made = [kind(**shape) for kind in (k.Gemm, k.MatMul, k.Elementwise, k.BatchNorm, k.Join, k.Softmax, k.Norm, k.GlobalPool, k.Reduce)]  # fmt: skip
    made += [k.View(), k.Activation(**shape, act="relu"), k.Copy(**shape, copy="pad"), k.Resize(**shape, out_height=8, out_width=8)]  # fmt: skip
    made += [kind(**shape, kernel=3) for kind in (k.DenseConv, k.Depthwise, k.TransposedConv, k.Pooling)]
    return [*made, k.Pointwise(**shape), k.GroupedConv(**shape, kernel=3, groups=2)]


def test_blocks_keep_the_features_they_had():
    """Predictors fitted before kernels existed take a new feature as 0: it has to be 0 for every block."""
    x = features(mbconv(24, 24, 56, kernel=3, stride=1, expand=3))
    assert not x[FEATURES.index("log_kernel_aspect") : FEATURES.index("macs")].any()


def test_work_of_known_kernels():
    """By hand: ResNet's stem 3 -> 64, 7 x 7 / 2 at 224, and a layer of ViT-S's MLP, 197 tokens, 384 -> 1536."""
    stem = k.conv(3, 64, window=(7, 7), strides=(2, 2), out=(112, 112), height=224, width=224)
    assert str(stem) == "DenseConv(in_channels=3,out_channels=64,height=224,width=224,kernel=7,stride=2)"
    assert macs(stem) == 112 * 112 * 64 * 3 * 49
    assert macs(k.Gemm(in_channels=384, out_channels=1536, height=197, width=1)) == 197 * 384 * 1536
    assert macs(k.MatMul(batch=6, in_channels=64, out_channels=197, height=197, width=1)) == 6 * 197 * 197 * 64
    assert macs(k.Depthwise(in_channels=32, out_channels=32, height=8, width=8, kernel=3)) == 64 * 32 * 9


def test_kernels_interpolate_in_sizes_but_not_in_names():
    op = k.GroupedConv(in_channels=8, out_channels=8, height=4, width=4, kernel=3, groups=2, act="relu")
    assert discrete_values(op) == {"act": "relu", "dtype": "fp32"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: k.DenseConv(in_channels=8, out_channels=8, height=4, width=4, kernel=3, out_height=20), "no padding gives 20 out of 4"),
        (lambda: k.DenseConv(in_channels=8, out_channels=8, height=4, width=4, kernel=3, out_height=4), "leave it out"),
        (lambda: k.Depthwise(in_channels=8, out_channels=16, height=4, width=4, kernel=3), "differs from in_channels"),
        (lambda: k.Copy(in_channels=8, out_channels=8, height=4, width=4, copy="teleport"), "copy='teleport'; one of transpose"),
        (lambda: k.Resize(in_channels=8, out_channels=8, height=4, width=4, out_height=0, out_width=8), "at least 1"),
    ],
)  # fmt: skip
def test_kernels_that_cannot_exist(make, says):
    with pytest.raises(OpError, match=says.replace("(", r"\(")):
        make()


def test_every_block_of_the_zoo_is_built_at_any_width():
    from latency.kernel_blocks import Drawn
    from latency.kernel_networks import BUILD

    assert set(BLOCKS) == set(BUILD) - set(EXTRAS)
    for seed, name in enumerate(BLOCKS):
        for c_in, c_out, stride in ((24, 24, 1), (20, 36, 2), (32, 64, 1)):
            block = BUILD[name](Drawn(random.Random(seed)), c_in, c_out, stride).eval()
            with torch.no_grad():
                out = block(torch.zeros(1, c_in, 12, 12))
            assert out.shape[:2] == (1, c_out), name
            assert out.shape[2] == 12 // stride, name


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_keeps_the_map_however_small(name):
    from latency.kernel_blocks import Drawn
    from latency.kernel_networks import BUILD

    sizes = ((16, 12, 12), (24, 7, 9), (8, 1, 1), (20, 3, 2), (10, 5, 6), (13, 8, 8), (7, 4, 5), (32, 16, 16))
    for seed, (channels, height, width) in enumerate(sizes):
        extra = BUILD[name](Drawn(random.Random(f"{name}{seed}")), channels, channels, 1).eval()
        with torch.no_grad():
            out = extra(torch.rand(1, channels, height, width))
        assert out.shape == (1, channels, height, width), seed
        assert torch.isfinite(out).all()


def test_draws_are_of_all_sizes_and_hold_every_kind_of_kernel():
    """Of families a fifth is tiny; some have one channel, odd widths or an oblong input; each extra, each kind is drawn."""
    rng = random.Random(0)
    drawn = [draw(rng) for _ in range(1000)]
    made = [m for m in drawn if m.family not in WHOLE]
    assert np.mean([m.family in WHOLE for m in drawn]) == pytest.approx(OTHERS, abs=0.05)
    assert {m.family for m in drawn} == {f.name for f in ZOO} | set(WHOLE)
    assert 0.1 < np.mean([m.resolution <= 64 for m in made]) < 0.4
    assert {m.in_channels for m in made} == {1, 3}
    assert any(m.across != m.resolution for m in made)
    assert set(EXTRAS) <= {row[0] for m in made for row in m.stages}
    assert 0.07 < np.mean([any(row[1] % 2 for row in m.stages) for m in made]) < 0.2


def test_draws_are_seeded_and_near_their_family():
    first, again, other = (draw(random.Random(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    for family in ZOO:
        made = draw(random.Random(0), family)
        assert 0.3 * family.resolution <= made.resolution <= 1.3 * family.resolution
        assert len([row for row in made.stages if row[0] not in EXTRAS]) == len(family.stages)


@pytest.mark.parametrize("name", ["vit", "mixer", "unet", "convnext", "inceptionv3"])
def test_a_network_of_the_family_runs_and_is_the_same_again(name):
    from latency.kernel_networks import build_draw

    family = next(f for f in ZOO if f.name == name)
    made = draw(random.Random(4), family)
    module, shape = build_draw(made)
    with torch.no_grad():
        out = module.eval()(torch.zeros(shape))
    assert torch.isfinite(out).all()
    assert str(module) == str(build_draw(made)[0])


@pytest.mark.parametrize("name", WHOLE)
def test_a_network_of_any_kind_runs_and_is_the_same_again(name):
    """On inputs of the shape that the draw says; at sizes that are cut too, as tests of other modules do."""
    from latency.kernel_networks import build_draw

    for seed in range(4):
        made = draw_kind(random.Random(f"{name}{seed}"), name)
        assert made.family == name
        assert made == draw_kind(random.Random(f"{name}{seed}"), name)
        small = replace(made, resolution=min(made.resolution, 64), across=min(made.across, 64))
        module, shape = build_draw(small)
        with torch.no_grad():
            out = module.eval()(torch.rand(shape))
        assert torch.isfinite(out).all()
        assert str(module) == str(build_draw(small)[0])


@pytest.mark.parametrize("kind", ["full", "window", "reduced", "linear", "channels"])
def test_attention_keeps_tokens_whatever_its_style(kind):
    """Also where windows do not divide the map; logits weighted to one give values between those that there are."""
    from latency.kernel_attention import style
    from latency.kernel_token_blocks import Block

    for seed, (c, side) in enumerate(((16, (8, 8)), (24, (7, 10)), (19, (5, 3)), (40, (16, 12)), (8, (1, 1)))):
        for shifted in (False, True):
            rng = random.Random(f"{kind}{seed}{shifted}")
            s = style(rng, c, (kind,))
            assert s.heads * s.key <= max(2 * c, s.key)
            x = torch.rand(2, side[0] * side[1], c)
            with torch.no_grad():
                out = Block(c, s, side, shifted=shifted).eval()(x, side)
            assert out.shape == x.shape
            assert torch.isfinite(out).all()


def test_windows_are_of_neighbours_and_every_place_comes_back_where_it_was():
    """Attention that passes values on as they are gives back the map, shifted, padded or neither."""
    from latency.kernel_attention import Style
    from latency.kernel_token_blocks import OnMap

    for side in ((8, 8), (7, 10)):
        for shifted in (False, True):
            module = OnMap(6, Style("window", 1, 6, 6, window=4), side, shifted)
            module.attention = torch.nn.Identity()
            x = torch.rand(2, side[0] * side[1], 6)
            assert torch.equal(module(x, side), x)


def test_drawn_networks_hold_nearly_every_name_of_the_vocabulary():
    """Of 40 networks without the larger ones; what an exporter never leaves in a graph is named here."""
    from devices.onnx_cpu import export_onnx
    from latency.kernel_networks import build_draw
    from latency.onnx_graph import kernels_of

    rng, found = random.Random("0/0"), set()
    networks = [draw_kind(rng, "medley") for _ in range(40)]
    for made in networks:
        module, shape = build_draw(replace(made, resolution=min(made.resolution, 24), across=min(made.across, 24)))
        ops = [kernel.op for kernel in kernels_of(export_onnx(module, shape))]
        assert None not in ops
        found |= {value for op in ops for value in discrete_values(op).values()}
    spelled_out = {"mish", "rms"}
    assert {*ACTIVATIONS, *FUNCTIONS, *BROADCASTS, *NORMS, *RESIZES, *COPIES} - found <= spelled_out
    assert set(REDUCTIONS) <= found


@pytest.mark.parametrize("each_s", [2e-6, -1e-6])
def test_kernels_of_a_network_sum_to_its_time(each_s):
    """Three networks that take 1.1 x their profile and so much more or less a kernel: both are found, and spread."""
    rng = np.random.default_rng(0)
    profiles = [np.repeat(rng.uniform(5e-6, 5e-5, (n, 1)), 4, axis=1) for n in (5, 20, 60)]
    walls = [1.1 * p[:, 0].sum() + each_s * len(p) for p in profiles]
    all_found, call_s = kernel_seconds([p.tolist() for p in profiles], walls)
    assert call_s == 0  # of three networks it is not looked for
    for p, w, found in zip(profiles, walls, all_found, strict=True):
        assert found.sum(axis=0) == pytest.approx(w)
        assert found[:, 0] == pytest.approx(1.1 * p[:, 0] + each_s, rel=1e-3)


def test_whole_microseconds_are_no_error_in_the_mean():
    """Kernels of 0.3 and 1.2 us beside long ones, seen in whole microseconds; one inference in ten is disturbed."""
    rng, true = np.random.default_rng(0), np.array([0.3e-6, 1.2e-6, 20e-6, 35e-6] * 5)
    ends = np.cumsum(np.repeat(true[:, None], 400, axis=1), axis=0) + rng.uniform(0, 1e-6, (1, 400))
    seen = np.floor(ends * 1e6) - np.floor(np.vstack([ends[:1] - true[0], ends[:-1]]) * 1e6)
    seen[7, ::10] += 900
    ((found,), _) = kernel_seconds([(seen * 1e-6).tolist()], [true.sum()])
    assert found.mean(axis=1).sum() == pytest.approx(true.sum())
    assert found.mean(axis=1).reshape(5, 4).mean(axis=0) == pytest.approx(true[:4], rel=0.15)


def test_what_a_call_takes_besides_its_kernels_is_told_apart():
    rng = np.random.default_rng(1)
    profiles = [np.repeat(rng.uniform(5e-6, 5e-5, (n, 1)), 4, axis=1) for n in range(3, 20)]
    walls = [1.05 * p[:, 0].sum() + 1e-6 * len(p) + 8e-6 for p in profiles]
    found, call_s = kernel_seconds([p.tolist() for p in profiles], walls)
    assert call_s == pytest.approx(8e-6)
    assert [f[:, 0].sum() for f in found] == pytest.approx([w - 8e-6 for w in walls])


def test_a_kernel_s_row_counts_each_occurrence_alike():
    op = k.View()
    row = kernel_row(op, [np.full(10, 2e-6), np.full(1000, 4e-6), np.full(10, 3e-6)], 1)
    assert row.median_s == pytest.approx(3e-6)
    assert row.ci_low_s < row.median_s < row.ci_high_s
    assert row.flags == ("in_context",)


def _event(name, op, micros, inputs, outputs):
    args = {"op_name": op, "input_type_shape": [{"float": s} for s in inputs], "output_type_shape": [{"float": s} for s in outputs]}  # fmt: skip
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": args}


def test_a_profile_is_read_by_inference():
    """The form of onnxruntime 1.32: node events, then model_run, for each inference; the first two are warm-up."""
    run = {"cat": "Session", "name": "model_run", "dur": 99}
    events = []
    for micros in (900, 50, 10, 11):
        events += [_event("/0/Conv", "Conv", micros, [[1, 3, 8, 8], [16, 3, 3, 3]], [[1, 16, 8, 8]]), run]
    found = kernel_runs(events)
    (run,) = found
    assert (run.name, run.op_type) == ("/0/Conv", "Conv")
    assert (run.inputs, run.outputs) == (((1, 3, 8, 8), (16, 3, 3, 3)), ((1, 16, 8, 8),))
    assert run.seconds == pytest.approx((1e-5, 1.1e-5))


def test_feature_matrix_of_kernels_has_one_row_each():
    assert feature_matrix(_examples()).shape == (len(_examples()), len(FEATURES))
