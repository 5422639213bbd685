"""The blocks of the `kernels` space as torch modules: (draws, channels in, channels out, stride) -> a module.

Each follows the paper that its entry in latency/kernel_space.py names, with what papers vary (kernel, expansion,
activation) drawn. Channel counts that a block needs to be divisible are rounded inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU,
    "leaky": lambda: nn.LeakyReLU(0.1),
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """What is drawn inside blocks: a generator, and the activation of the whole network."""

    rng: random.Random
    act: str = "relu"
    kernels: tuple[int, ...] = field(default=(3, 3, 3, 5, 7))

    def kernel(self) -> int:
        """A depthwise kernel."""
        return self.rng.choice(self.kernels)


class Sum(nn.Module):
    """act(body(x) + shortcut(x)); the shortcut is x itself where shapes allow it."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x) + (self.shortcut(x) if self.shortcut is not None else x)
        return self.act(y) if self.act is not None else y


class Cat(nn.Module):
    """The branches' outputs, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([b(x) for b in self.branches], 1)


class Gate(nn.Module):
    """Squeeze-excite (1709.01507): x scaled by what its means say."""

    def __init__(self, channels: int, squeezed: int, act: str, gate: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            ACTS[act](),
            nn.Conv2d(squeezed, channels, 1),
            gate,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x * self.gate(x)
        return y


class HalfShuffle(nn.Module):
    """ShuffleNetV2 (1807.11164): half of the channels pass by, then both halves are interleaved."""

    def __init__(self, body: nn.Module, by: nn.Module | None) -> None:
        super().__init__()
        self.body, self.by = body, by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.by is None:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, self.body(b)], 1)
        else:
            x = torch.cat([self.by(x), self.body(x)], 1)
        return shuffle(x, 2)


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(n, c, h, w) with the groups of channels interleaved."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shuffle(nn.Module):
    """`shuffle` as a module."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shuffle(x, self.groups)


class ConvNext(nn.Module):
    """x + scale MLP(norm(depthwise 7x7(x))), the MLP with channels last (2201.03545)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.scale * self.mlp(self.spatial(x).permute(0, 2, 3, 1))
        return x + y.permute(0, 3, 1, 2)


class NormChannels(nn.Module):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class Transformer(nn.Module):
    """Pre-norm attention and MLP on tokens (2010.11929)."""

    def __init__(self, channels: int, heads: int, ratio: int, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.before, self.between = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, ratio * channels), nn.GELU(), nn.Linear(ratio * channels, channels)
        )
        self.heads, self.fused = heads, fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        qkv = self.qkv(self.before(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        z: torch.Tensor = x + self.mlp(self.between(x))
        return z


class Mixer(nn.Module):
    """MLPs over tokens and over channels (2105.01601)."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.over_tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.over_channels = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.over_tokens(self.before(x).transpose(1, 2)).transpose(1, 2)
        y: torch.Tensor = x + self.over_channels(self.between(x))
        return y


def conv(
    c_in: int, c_out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1, act: str | None = "relu"
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    pad = (kernel[0] // 2, kernel[1] // 2) if isinstance(kernel, tuple) else kernel // 2
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, pad, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([ACTS[act]()] if act else []))


def divided(channels: int, by: int) -> int:
    """`channels` to a multiple of `by`, at least one."""
    return max(by, round(channels / by) * by)


def _residual(d: Drawn, body: nn.Module, c_in: int, c_out: int, stride: int, act: str | None) -> nn.Module:
    by = None if stride == 1 and c_in == c_out else conv(c_in, c_out, 1, stride, act=None)
    return Sum(body, by, ACTS[act]() if act else None)


def plain(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """One convolution."""
    return conv(c_in, c_out, d.rng.choice((3, 3, 3, 5, 1)), stride, act=d.act)


def plain_pool(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """A convolution after a pooling."""
    pool = (nn.MaxPool2d if d.rng.random() < 0.7 else nn.AvgPool2d)(2, 2)
    return nn.Sequential(*([pool] if stride == 2 else []), conv(c_in, c_out, 3, act=d.act))


def basic(d: Drawn, c_in: int, c_out: int, stride: int, gate: bool = False) -> nn.Module:
    """Two 3x3 convolutions and a residual."""
    layers = [conv(c_in, c_out, 3, stride, act=d.act), conv(c_out, c_out, 3, act=None)]
    if gate:
        layers.append(Gate(c_out, max(8, c_out // 16), "relu", nn.Sigmoid()))  # type: ignore[arg-type]
    return _residual(d, nn.Sequential(*layers), c_in, c_out, stride, d.act)


def bottleneck(d: Drawn, c_in: int, c_out: int, stride: int, groups: int = 1, ratio: int = 4) -> nn.Module:
    """1x1, 3x3 (grouped), 1x1 and a residual."""
    mid = divided(c_out // ratio, groups if groups > 1 else 8)
    body = nn.Sequential(
        conv(c_in, mid, act=d.act), conv(mid, mid, 3, stride, groups, act=d.act), conv(mid, c_out, act=None)
    )
    return _residual(d, body, c_in, c_out, stride, d.act)


def resnext(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """A bottleneck of half the width, in 32 groups (fewer where it is narrow)."""
    groups = 32 if c_out >= 256 else 8
    return bottleneck(d, c_in, c_out, stride, groups, 2)


def regnet(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """A bottleneck without a waist, groups of fixed width."""
    group = d.rng.choice((8, 16, 24, 32))
    mid = divided(c_out, group)
    body = nn.Sequential(
        conv(c_in, mid, act=d.act), conv(mid, mid, 3, stride, mid // group, act=d.act), conv(mid, c_out, act=None)
    )
    return _residual(d, body, c_in, c_out, stride, d.act)


def inverted(d: Drawn, c_in: int, c_out: int, stride: int, act: str = "relu6", gate: str = "") -> nn.Module:
    """Inverted residual, with squeeze-excite where `gate` names its last activation."""
    mid, kernel = divided(c_in * d.rng.choice((1, 3, 4, 6, 6)), 8), d.kernel()
    layers: list[nn.Module] = [] if mid == c_in else [conv(c_in, mid, act=act)]
    layers.append(conv(mid, mid, kernel, stride, mid, act=act))
    if gate == "hsigmoid":
        layers.append(Gate(mid, divided(mid // 4, 8), "relu", nn.Hardsigmoid()))
    elif gate == "sigmoid":
        layers.append(Gate(mid, max(4, c_in // 4), act, nn.Sigmoid()))
    body = nn.Sequential(*layers, conv(mid, c_out, act=None))
    return Sum(body) if stride == 1 and c_in == c_out else body


def fused(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Inverted residual whose first two convolutions are one of 3x3 (2104.00298)."""
    ratio = d.rng.choice((1, 4))
    act = d.rng.choice(("silu", "relu", d.act))
    body = (
        conv(c_in, c_out, 3, stride, act=act)
        if ratio == 1
        else nn.Sequential(conv(c_in, ratio * c_in, 3, stride, act=act), conv(ratio * c_in, c_out, act=None))
    )
    return Sum(body) if stride == 1 and c_in == c_out else body


def separable(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Depthwise, then pointwise."""
    return nn.Sequential(conv(c_in, c_in, d.kernel(), stride, c_in, act=d.act), conv(c_in, c_out, act=d.act))


def xception(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Activations first, separable convolutions without one between, pooling where it strides."""

    def part(a: int, b: int) -> list[nn.Module]:
        return [nn.ReLU(), nn.Conv2d(a, a, 3, 1, 1, groups=a, bias=False), conv(a, b, act=None)]

    body = nn.Sequential(*part(c_in, c_out), *part(c_out, c_out), *([nn.MaxPool2d(3, 2, 1)] if stride == 2 else []))
    return _residual(d, body, c_in, c_out, stride, None)
