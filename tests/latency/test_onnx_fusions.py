"""What small graphs become: the same kernels as onnxruntime makes of them, where it looks at the form of a graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.onnx_cpu import export_onnx
from latency.kernels import Depthwise, Resize
from latency.onnx_graph import kernels_of
from latency.onnx_parts import RULES
from tests.latency.test_onnx_graph import alone, counts, my_kernels, ort_kernels


class Between(nn.Module):
    """`function` of (self, what a convolution makes), and a convolution of that."""

    def __init__(self, function, channels=32):
        super().__init__()
        self.function = function
        self.first, self.inner = nn.Conv2d(16, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.last, self.norm = nn.Conv2d(channels, 32, 3), nn.BatchNorm2d(channels)
        self.factor, self.number = nn.Parameter(torch.rand(channels, 1, 1)), nn.Parameter(torch.rand(1))

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


SCALES = {
    "factor second": lambda s, y: y * s.factor,
    "factor first": lambda s, y: s.factor * y,
    "addend second": lambda s, y: y + s.factor,
    "addend first": lambda s, y: s.factor + y,
    "after an activation": lambda s, y: y.relu() * s.factor,
    "before and after": lambda s, y: (y.relu() * s.factor).relu(),
    "one number": lambda s, y: y.relu() * s.number,
    "layer scale": lambda s, y: y.relu() + s.factor * s.inner(y.relu()),
    "layer scale, activation": lambda s, y: (y.relu() + s.factor * s.inner(y.relu())).relu(),
    "batch norm and residual": lambda s, y: y.relu() + s.norm(s.inner(y.relu()).relu()),
    "batch norm of what is not in blocks": lambda s, y: s.norm(functional.softplus(y)).relu(),
    "clipped": lambda s, y: functional.relu6(y.relu() * s.factor),
    "leaky": lambda s, y: functional.leaky_relu(s.norm(y.relu())),
    "hard sigmoid": lambda s, y: functional.hardsigmoid(y.relu() + s.factor * s.inner(y.relu())),
    "one map for all channels": lambda s, y: y.relu()[:, :1] * s.factor,
    "a number added": lambda s, y: y + s.number,
    "a number multiplied": lambda s, y: y * s.number,
    "a plain number": lambda s, y: (y * 0.5 + 2.0).relu(),
    "factor of what is not in blocks": lambda s, y: functional.softplus(y) + s.factor * functional.softplus(s.inner(y)),
}


@pytest.mark.parametrize("channels", [32, 18])
@pytest.mark.parametrize("name", SCALES)
def test_a_factor_per_channel(name, channels, tmp_path):
    model = export_onnx(Between(SCALES[name], channels).eval(), (1, 16, 8, 8))
    theirs = ort_kernels(model, tmp_path)
    scaled = sum(isinstance(k.op, Depthwise) for k in kernels_of(model))
    mine = my_kernels(model)
    if "Mul" in mine and "Mul" not in theirs:  # my_kernels says Mul of what it makes of one
        mine["Conv"], mine["Mul"] = mine["Conv"] + scaled, mine["Mul"] - scaled
    assert +mine == theirs


def test_a_factor_takes_the_residual_and_the_activation_along():
    found = [k.op for k in kernels_of(export_onnx(Between(SCALES["layer scale, activation"]).eval(), (1, 16, 8, 8)))]
    (scale,) = (op for op in found if isinstance(op, Depthwise))
    assert str(alone(scale)) == ("Depthwise(in_channels=32,out_channels=32,height=8,width=8,kernel=1,act=relu,add=1)")
    others = kernels_of(export_onnx(Between(SCALES["factor first"]).eval(), (1, 16, 8, 8)), RULES["other"])
    assert counts(others) == {"DenseConv": 2}


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [8, 16, 20, 24])
def test_resizing_to_a_size(mode, size, tmp_path):
    """By a whole factor it stays in blocks, unless it is cubic."""

    def resized(_, y):
        return functional.interpolate(y.relu(), (size, size), mode=mode)

    model = export_onnx(Between(resized, 20), (1, 16, 8, 8))
    theirs = ort_kernels(model, tmp_path)
    (resize,) = (k.op for k in kernels_of(model) if isinstance(k.op, Resize))
    assert resize.blocked == theirs["Upsample"] == int(mode != "bicubic" and size % 8 == 0)
    reorders = ("ReorderInput", "ReorderOutput")
    mine = my_kernels(model)
    assert [mine[r] for r in reorders] == [theirs[r] for r in reorders]


@pytest.mark.parametrize("explicit", [True, False])
def test_padding_whose_value_is_left_empty_stays_apart(explicit, tmp_path):
    pads, value = (0, 1, 0, 1), 0.0 if explicit else None
    model = export_onnx(Between(lambda _, y: functional.pad(y.relu(), pads, "constant", value)), (1, 16, 8, 8))
    theirs = ort_kernels(model, tmp_path)
    assert my_kernels(model) == theirs
    assert theirs["Pad"] == int(not explicit)


@pytest.mark.parametrize("shape", [(1, 24), (1, 10, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_after_a_linear_layer(bias, shape, tmp_path):
    """It joins a product without bias of rows, and leaves others as they are."""
    norm = nn.BatchNorm1d(16 if len(shape) == 2 else 10)
    body = nn.Sequential(nn.Linear(24, 16, bias=bias), norm, nn.ReLU(), nn.Linear(16, 8))
    model = export_onnx(body.eval(), shape)
    theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
    theirs["Gemm"] += theirs.pop("MatMul", 0)  # my_kernels has one name for products with a constant
    assert mine == theirs
    assert mine["BatchNormalization"] == int(bias or len(shape) == 3)


class Scaled(nn.Module):
    def __init__(self, body, shape):
        super().__init__()
        self.body, self.factor = body, nn.Parameter(torch.rand(shape))

    def forward(self, x):
        return (self.body(x) * self.factor).relu()


@pytest.mark.parametrize(
    ("body", "factor", "shape", "joins"),
    [
        (nn.ConvTranspose2d(16, 32, 2, 2), (32, 1, 1), (1, 16, 8, 8), False),
        (nn.Conv1d(16, 32, 3), (32, 1), (1, 16, 20), True),
        (nn.Conv1d(16, 32, 3), (1, 32, 1), (1, 16, 20), True),
        (nn.Conv1d(16, 32, 3), (18,), (1, 16, 20), False),
    ],
)
def test_a_factor_of_other_convolutions(body, factor, shape, joins, tmp_path):
    model = export_onnx(Scaled(body, factor).eval(), shape)
    theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
    assert mine == theirs
    assert mine["Mul"] == int(not joins)


def attention(every):
    return (every[0] @ every[1].transpose(-2, -1)).softmax(-1) @ every[2]


TAKEN = {  # of queries, keys and values -> whether a split takes them apart
    "all": (attention, True),
    "two of three": (lambda every: every[0] + every[2], False),
    "all, and the whole": (lambda every: attention(every) + every.sigmoid().mean(0), True),
    "by lists of one": (lambda every: every[[0]] + every[[1]] * every[[2]], True),
}


class Taken(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.product, self.function = nn.Linear(32, 96), function

    def forward(self, x):
        return self.function(self.product(x).reshape(1, 10, 3, 2, 16).permute(2, 0, 3, 1, 4))


@pytest.mark.parametrize("name", TAKEN)
def test_gathers_that_share_out_a_tensor_are_one_split(name, tmp_path):
    function, several = TAKEN[name]
    model = export_onnx(Taken(function).eval(), (1, 10, 32))
    theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
    assert mine["Split"] == theirs["Split"] == int(several)
    assert (mine["Gather"], mine["Reshape"]) == (theirs["Gather"], theirs["Reshape"])
