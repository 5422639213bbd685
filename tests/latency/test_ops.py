from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency import modules
from latency.flops import bytes_moved, macs, params
from latency.ops import (
    ACTIVATIONS,
    Conv2d,
    Identity,
    Linear,
    MBConv,
    OpError,
    Pool,
    SepConv,
    Zero,
    mbconv,
    network_text,
    parse_network,
    parse_op,
)

sizes, channels, kernels, strides = (
    st.integers(1, 9),
    st.integers(1, 8).map(lambda n: 4 * n),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from([1, 2]),
)
shape = {"height": sizes, "width": sizes, "batch": st.integers(1, 3)}
CARRIED = [a for a in ACTIVATIONS if a != "prelu"]  # which has a parameter of its own
flag, act = st.sampled_from([0, 1]), st.sampled_from(CARRIED)


@st.composite
def ops(draw):
    kind = draw(st.sampled_from(["conv", "mbconv", "residual", "sep", "pool", "linear", "zero", "identity"]))
    common = {name: draw(strategy) for name, strategy in shape.items()}
    common |= {"in_channels": draw(channels), "out_channels": draw(channels)}
    same = common | {"out_channels": common["in_channels"]}
    if kind == "conv":
        return Conv2d(
            **common, kernel=draw(kernels), stride=draw(strides), groups=draw(st.sampled_from([1, 2, 4])), act=draw(act)
        )
    if kind == "mbconv":
        more = {
            "se": draw(flag),
            "act": draw(st.sampled_from(["relu", "hswish"])),
            "groups": draw(st.sampled_from([1, 2])),
        }
        return MBConv(
            **common, kernel=draw(kernels), stride=draw(strides), mid_channels=3 * common["in_channels"], **more
        )
    if kind == "residual":
        return MBConv(**same, kernel=draw(kernels), stride=1, mid_channels=2 * same["in_channels"], shortcut=1)
    if kind == "sep":
        return SepConv(**common, kernel=draw(kernels), stride=draw(strides), dilation=draw(st.sampled_from([1, 2])))
    if kind == "pool":
        return Pool(**same, kernel=draw(kernels), stride=draw(strides), pool=draw(st.sampled_from(["avg", "max"])))
    if kind == "linear":
        return Linear(**common)
    if kind == "zero":
        return draw(st.sampled_from([Zero(**common, stride=2), Zero(**same, shortcut=1)]))
    return Identity(**same)


@given(ops())
def test_text_round_trips(op):
    assert parse_op(str(op)) == op


@given(st.lists(ops(), min_size=1, max_size=4))
def test_network_text_round_trips(chain):
    assert parse_network(network_text(tuple(chain))) == tuple(chain)


@settings(max_examples=60, deadline=None)
@given(ops())
def test_the_built_module_has_the_shape_the_op_says(op):
    module = modules.build(op).eval()
    with torch.no_grad():
        out = module(torch.randn(op.input_shape))
    expected = op.output_shape[:2] if isinstance(op, Linear) else op.output_shape
    assert tuple(out.shape) == expected
    assert module.key == str(op)


@settings(max_examples=40, deadline=None)
@given(ops())
def test_params_agree_with_the_module(op):
    """Batch norm is counted as the bias it folds into: one per channel instead of weight and bias."""
    module = modules.build(op)
    norms = sum(m.num_features for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    counted = params(op) + (op.in_channels * 0 if not isinstance(op, SepConv) else -op.in_channels)
    assert counted == sum(p.numel() for p in module.parameters()) - norms


def test_macs_of_a_known_network():
    """MobileNetV2's inverted residual 14x14x96 k3 e6: 14*14*(2*96*576 + 9*576), by hand."""
    op = mbconv(96, 96, 14, kernel=3, stride=1, expand=6)
    assert macs(op) == 14 * 14 * (2 * 96 * 576 + 9 * 576)
    assert macs(mbconv(96, 96, 14, kernel=3, stride=1, expand=6, batch=4)) == 4 * macs(op)
    assert bytes_moved(op) > 4 * params(op)


@given(st.text(max_size=60))
def test_garbage_is_a_named_error(text):
    with pytest.raises(OpError):
        parse_op(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("MBconv(in_channels=1)", "did you mean 'MBConv'?"),
        ("Linear(in_channels=8,out_channels=2,height=1,width=1,kernle=3)", "no field 'kernle'"),
        ("Linear(in_channels=8,out_channels=2,height=1)", "missing width"),
        ("Linear(in_channels=8,out_channels=2,height=1,width=-1)", "not a whole number"),
        ("Linear(in_channels=0,out_channels=2,height=1,width=1)", "too small"),
        ("Linear(in_channels=8,in_channels=8,out_channels=2,height=1,width=1)", "given twice"),
        ("Conv2d(in_channels=8,out_channels=8,height=4,width=4,kernel=4)", "even"),
        (
            "Conv2d(in_channels=8,out_channels=8,height=4,width=4,kernel=3,act=swoosh)",
            "one of none, relu, relu6, hswish",
        ),
        (
            "MBConv(in_channels=8,out_channels=8,height=4,width=4,kernel=3,stride=2,mid_channels=8,shortcut=1)",
            "stride 1",
        ),
        (
            "MBConv(in_channels=8,out_channels=8,height=4,width=4,kernel=3,stride=2,mid_channels=16,expand_conv=1)",
            "only where mid_channels = in_channels",
        ),
    ],
)
def test_errors_say_what_is_wrong(text, says):
    with pytest.raises(OpError) as error:
        parse_op(text)
    assert says in str(error.value)
