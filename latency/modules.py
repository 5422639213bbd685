"""op -> torch.nn.Module: THE builder. What is timed is what is searched, trained and exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from latency import wiring
from latency.kernel_modules import ACTIVATIONS, build_kernel
from latency.kernels import KERNELS
from latency.ops import (
    Add,
    Concat,
    Conv2d,
    Identity,
    Linear,
    MBConv,
    Op,
    Pad,
    Pool,
    SepConv,
    Slice,
    Zero,
    network_text,
    squeeze_width,
)

# ProxylessNAS (arXiv 1812.00332), released code: momentum 0.1, eps 1e-3, he_fout.
BN_MOMENTUM, BN_EPS = 0.1, 1e-3


class Residual(nn.Module):
    """y = x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.body(x)
        return y


class ZeroOut(nn.Module):
    """Zeros of the op's output shape."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        return x.new_zeros(n, self.out_channels, -(-h // self.stride), -(-w // self.stride))


class SqueezeExcite(nn.Module):
    """Channel gate of MobileNetV3: x * hsigmoid(W2 relu(W1 mean(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = squeeze_width(channels)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x * self.gate(x)
        return y


class Slicer(nn.Module):
    """Channels `start` to `stop`."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.start : self.stop]


class Merge(nn.Module):
    """An Add or Concat by itself, as it is timed: the other branches' maps are constants of the same size."""

    def __init__(self, op: Add | Concat) -> None:
        super().__init__()
        self.op = op
        for i in range(1, op.branches):
            self.register_buffer(f"branch{i}", torch.randn(op.input_shape), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return merge(self.op, [x, *self.buffers()])


def merge(op: Add | Concat, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """What `op` does where branches close: the sum of `maps`, or `maps` behind each other. Shapes (n, c, h, w)."""
    if isinstance(op, Concat):
        return torch.cat(list(maps), dim=1)
    total = maps[0]
    for other in maps[1:]:
        total = total + other
    return total


class Wired(nn.Module):
    """A network with branches: the modules of its ops, by place, and the walk through them (latency.wiring)."""

    def __init__(self, ops: Sequence[Op]) -> None:
        super().__init__()
        wiring.check(ops, _no_slot, "network")
        self.ops = tuple(ops)
        self.body = nn.ModuleDict({str(i): build(op) for i, op in enumerate(ops) if not op.is_wiring})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return wiring.fold(self.ops, x, lambda place, y: self.body[str(place)](y), merge)


def _no_slot(slot: int) -> Op:
    raise AssertionError(f"a network has no choice {slot}")


class ChannelShuffle(nn.Module):
    """(n, g*c, h, w) -> the same with groups interleaved (ShuffleNet), between grouped 1x1 convs."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def _conv_bn_act(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "none", dilation: int = 1
) -> list[nn.Module]:
    pad = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, pad, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, eps=BN_EPS, momentum=BN_MOMENTUM),
    ]
    return layers if act == "none" else [*layers, ACTIVATIONS[act]()]


def _mbconv(op: MBConv) -> nn.Module:
    layers: list[nn.Module] = []
    if op.expands:
        layers += _conv_bn_act(op.in_channels, op.mid_channels, 1, groups=op.groups, act=op.act)
        if op.groups > 1:
            layers.append(ChannelShuffle(op.groups))
    layers += _conv_bn_act(op.mid_channels, op.mid_channels, op.kernel, op.stride, op.mid_channels, op.act)
    if op.se:
        layers.append(SqueezeExcite(op.mid_channels))
    layers += _conv_bn_act(op.mid_channels, op.out_channels, 1, groups=op.groups)
    body = nn.Sequential(*layers)
    return Residual(body) if op.shortcut else body


def _sepconv(op: SepConv) -> nn.Module:
    pad = op.dilation * (op.kernel // 2)
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(
            op.in_channels,
            op.in_channels,
            op.kernel,
            op.stride,
            pad,
            dilation=op.dilation,
            groups=op.in_channels,
            bias=False,
        ),
        nn.Conv2d(op.in_channels, op.out_channels, 1, bias=False),
        nn.BatchNorm2d(op.out_channels, eps=BN_EPS, momentum=BN_MOMENTUM),
    )


def _pool(op: Pool) -> nn.Module:
    if op.pool == "avg":
        return nn.AvgPool2d(op.kernel, op.stride, op.kernel // 2, count_include_pad=False)
    return nn.MaxPool2d(op.kernel, op.stride, op.kernel // 2)


def _linear(op: Linear) -> nn.Module:
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if (op.height, op.width) != (1, 1) else []
    return nn.Sequential(*pool, nn.Flatten(), nn.Linear(op.in_channels, op.out_channels))


def build(op: Op) -> nn.Module:
    """The module that computes `op`, freshly initialised. `module.key` is the op's text form.

    Input (batch, in_channels, height, width); output `op.output_shape`, or (batch, out_channels) for Linear.
    Raises TypeError for a class that is not in the vocabulary.
    """
    match op:
        case Conv2d():
            module: nn.Module = nn.Sequential(
                *_conv_bn_act(op.in_channels, op.out_channels, op.kernel, op.stride, op.groups, op.act)
            )
        case MBConv():
            module = _mbconv(op)
        case SepConv():
            module = _sepconv(op)
        case Pool():
            module = _pool(op)
        case Linear():
            module = _linear(op)
        case Zero():
            module = nn.Identity() if op.shortcut else ZeroOut(op.out_channels, op.stride)
        case Identity():
            module = nn.Identity()
        case _ if isinstance(op, KERNELS):
            module = build_kernel(op)
        case Slice():
            module = Slicer(op.start, op.start + op.out_channels)
        case Pad():
            module = nn.ZeroPad3d((0, 0, 0, 0, 0, op.out_channels - op.in_channels))
        case Add() | Concat():
            module = Merge(op)
        case _:
            raise TypeError(f"no builder for {type(op).__name__}")
    module.apply(_init)
    module.key = str(op)  # type: ignore[assignment]
    return module


def build_network(ops: Sequence[Op]) -> nn.Module:
    """`ops` as one module: a Sequential for a chain, else `Wired`; `module.key` is `network_text(ops)`.

    Raises WiringError where branches do not open and close.
    """
    network = Wired(ops) if wiring.is_wired(ops) else nn.Sequential(*map(build, ops))
    network.key = network_text(tuple(ops))  # type: ignore[assignment]
    return network


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
