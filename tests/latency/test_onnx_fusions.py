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
    "factor of what is not in blocks": lambda s, y: functional.softplus(y) + s.factor * functional.softplus(s.inner(y)),
}


@pytest.mark.parametrize("name", SCALES)
def test_a_factor_per_channel(name, tmp_path):
    model = export_onnx(Between(SCALES[name]).eval(), (1, 16, 8, 8))
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


class Normed(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(24, 16, bias=bias), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_after_a_linear_layer(bias, tmp_path):
    """It joins a product without bias, and leaves one with bias as it is."""
    model = export_onnx(Normed(bias).eval(), (1, 24))
    theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
    assert mine == theirs
    assert mine["BatchNormalization"] == int(bias)


class Taken(nn.Module):
    """Queries, keys and values from one product: all of them, or two of three."""

    def __init__(self, several):
        super().__init__()
        self.product, self.several = nn.Linear(32, 96), several

    def forward(self, x):
        every = self.product(x).reshape(1, 10, 3, 2, 16).permute(2, 0, 3, 1, 4)
        q, v = every[0], every[2]
        return (q @ every[1].transpose(-2, -1)).softmax(-1) @ v if self.several else q + v


@pytest.mark.parametrize("several", [True, False])
def test_gathers_that_share_out_a_tensor_are_one_split(several, tmp_path):
    model = export_onnx(Taken(several).eval(), (1, 10, 32))
    theirs, mine = ort_kernels(model, tmp_path), my_kernels(model)
    assert mine == theirs
    assert mine["Split"] == int(several)
