"""Kernel -> torch module: how a kernel is timed by itself, where a runtime does not tell kernels apart in a network.

A kernel of two inputs is built on one, the other being constant (`MatMul`, a residual) or the same (`Elementwise`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from latency import kernels as k
from latency.op_base import Op

Function = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid, "hsigmoid": nn.Hardsigmoid, "tanh": nn.Tanh, "leaky": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU, "softplus": nn.Softplus, "mish": nn.Mish, "prelu": nn.PReLU,
    "erf": lambda: Call(torch.erf), "exp": lambda: Call(torch.exp), "log": lambda: Call(torch.log),
    "sqrt": lambda: Call(torch.sqrt), "reciprocal": lambda: Call(torch.reciprocal), "abs": lambda: Call(torch.abs),
    "neg": lambda: Call(torch.neg), "clip": lambda: nn.Hardtanh(-1.0, 1.0),
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "mul": torch.mul, "sub": torch.sub, "div": torch.div, "max": torch.maximum, "min": torch.minimum,
    "pow": torch.pow,
}  # fmt: skip


class Call(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class With(nn.Module):
    """A function of the input and a constant tensor of `shape`."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.other = function, nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.other)


def build_kernel(op: Op) -> nn.Module:
    """The module that computes `op` on an input of `op.input_shape`. Raises TypeError for an op that is no kernel."""
    match op:
        case k.DenseConv():
            return _conv(op)
        case k.TransposedConv():
            return _transposed(op)
        case k.Pooling():
            left, right, top, bottom = op.padding
            pool: nn.Module = nn.AvgPool2d(op.window, op.strides)
            if op.pool == "max":
                pool = nn.MaxPool2d(op.window, op.strides, dilation=op.dilation)
            return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), pool)
        case k.GlobalPool():
            return nn.AdaptiveAvgPool2d(1) if op.pool == "avg" else nn.AdaptiveMaxPool2d(1)
        case k.Gemm():
            layer = nn.Linear(op.in_channels, op.out_channels)
            return _acted([Call(lambda x: x.flatten(2).transpose(1, 2)), layer], op.act)
        case k.MatMul():
            second = (op.batch, op.in_channels, op.out_channels)
            return nn.Sequential(Call(lambda x: x.flatten(2).transpose(1, 2)), With(torch.matmul, second))
        case k.Activation():
            return ACTIVATIONS[op.act]()
        case k.Elementwise():
            fn, shape = FUNCTIONS[op.fn], {"inner": op.input_shape[1:], "outer": (op.in_channels, 1, 1), "scalar": (1,)}
            return Call(lambda x: fn(x, x)) if op.broadcast == "none" else With(fn, shape[op.broadcast])
        case k.BatchNorm():
            return _acted([nn.BatchNorm2d(op.in_channels)], op.act)
        case k.Resize():
            mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[op.resize]
            return nn.Upsample(size=(op.out_height, op.out_width), mode=mode)
        case k.Softmax():
            return nn.Softmax(1)
        case _:
            return _moving(op)


def _moving(op: Op) -> nn.Module:
    match op:
        case k.Join():
            sizes = [op.in_channels // op.parts] * (op.parts - 1)
            sizes.append(op.in_channels - sum(sizes))
            cut = [s for s in sizes if s]
            return Call(lambda x: torch.cat([x.narrow(1, 0, s) for s in cut], 1))
        case k.Copy():
            return Call(_copy(op))
        case k.View():
            return nn.Flatten()
        case k.Norm():
            width = op.in_channels
            if op.norm == "instance":
                return nn.InstanceNorm2d(op.in_channels, affine=True)
            add = [Call(lambda x: x + x)] if op.norm == "skip_layer" else []
            norm = nn.RMSNorm(width) if op.norm == "rms" else nn.LayerNorm(width)
            return nn.Sequential(Call(lambda x: x.flatten(2).transpose(1, 2)), *add, norm)
        case k.Reduce():
            reduce: dict[str, Function] = {
                "mean": lambda x: x.mean(1), "sum": lambda x: x.sum(1), "max": lambda x: x.amax(1),
                "min": lambda x: x.amin(1), "prod": lambda x: x.prod(1), "argmax": lambda x: x.argmax(1),
                "norm": lambda x: x.norm(dim=1),
            }  # fmt: skip
            return Call(reduce[op.reduction])
    raise TypeError(f"no builder for {type(op).__name__}")


def _copy(op: k.Copy) -> Function:
    if op.copy == "slice":
        return lambda x: torch.cat([x, x], 1)[:, : x.shape[1]]
    if op.copy == "pad":
        return lambda x: functional.pad(x[:, :, :-1], (0, 0, 0, 1)) if x.shape[2] > 1 else functional.pad(x, (0, 0))
    if op.copy == "cast":
        return lambda x: x.to(torch.float64)
    if op.copy == "shuffle" and op.in_channels % 2 == 0:
        return lambda x: x.reshape(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
    return lambda x: x.permute(0, 2, 3, 1).contiguous()


def _acted(layers: list[nn.Module], act: str) -> nn.Sequential:
    return nn.Sequential(*layers, *([] if act == "none" else [ACTIVATIONS[act]()]))


def _conv(op: k.DenseConv) -> nn.Module:
    groups = op.in_channels if isinstance(op, k.Depthwise) else getattr(op, "groups", 1)
    left, right, top, bottom = op.padding
    even = left == right and top == bottom
    layers: list[nn.Module] = [] if even else [nn.ZeroPad2d((left, right, top, bottom))]
    layers.append(
        nn.Conv2d(
            op.in_channels, op.out_channels, op.window, op.strides, (top, left) if even else 0, op.dilation, groups
        )
    )
    if op.add:
        layers.append(With(torch.add, op.output_shape))
    return _acted(layers, op.act)


def _transposed(op: k.TransposedConv) -> nn.Module:
    """Padding so that the output has its size: out = (in - 1) stride - 2 pad + kernel + more."""
    pads, more = [], []
    for size, out in zip(op.input_shape[2:], op.output_shape[2:], strict=True):
        full = (size - 1) * op.stride + op.kernel
        pad = max(0, -(-(full - out) // 2))
        pads.append(pad)
        more.append(out - (full - 2 * pad))
    return nn.ConvTranspose2d(
        op.in_channels, op.out_channels, op.kernel, op.stride, (pads[0], pads[1]), (more[0], more[1]), op.groups
    )
