"""Blocks of the `kernels` space that join, split and shuffle channels; see latency/kernel_blocks.py."""

from __future__ import annotations

import torch
from torch import nn

from latency.kernel_blocks import Cat, Drawn, HalfShuffle, Shuffle, Sum, conv, divided


class PreActivated(nn.Module):
    """Batch norm and activation before each convolution; the input is joined to what comes out (1608.06993)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


class Ghost(nn.Module):
    """Half of the channels by convolution, half by a cheap depthwise one from these (1911.11907)."""

    def __init__(self, c_in: int, c_out: int, act: str | None) -> None:
        super().__init__()
        half = c_out // 2
        self.first, self.cheap = conv(c_in, half, act=act), conv(half, half, 3, groups=half, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return torch.cat([y, self.cheap(y)], 1)


class Csp(nn.Module):
    """Half of the channels through residual blocks, all joined at the end (1911.11929)."""

    def __init__(self, channels: int, blocks: int, act: str) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.last = conv(channels, 2 * half, act=act), conv((2 + blocks) * half, channels, act=act)
        self.blocks = nn.ModuleList(
            Sum(nn.Sequential(conv(half, half, 3, act=act), conv(half, half, 3, act=act))) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        y: torch.Tensor = self.last(torch.cat(parts, 1))
        return y


def dense(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Dense layers, then a transition to `c_out`."""
    growth = d.rng.choice((12, 16, 24, 32, 48))
    layers: list[nn.Module] = [nn.AvgPool2d(2, 2)] if stride == 2 else []
    channels = c_in
    for _ in range(d.rng.randint(1, 3)):
        layers.append(PreActivated(channels, growth))
        channels += growth
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, c_out, 1, bias=False))


def fire(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """1x1 to few channels, then 1x1 and 3x3 side by side (1602.07360)."""
    squeezed, half = divided(c_out // 8, 8), c_out // 2
    pool = [nn.MaxPool2d(3, 2, ceil_mode=True)] if stride == 2 else []

    def act_conv(a: int, b: int, k: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, k, 1, k // 2), nn.ReLU())

    return nn.Sequential(
        *pool, act_conv(c_in, squeezed, 1), Cat(act_conv(squeezed, half, 1), act_conv(squeezed, c_out - half, 3))
    )


def _shares(c_out: int, parts: int, by: int = 8) -> list[int]:
    share = divided(c_out // parts, by)
    return [share] * (parts - 1) + [max(by, c_out - share * (parts - 1))]


def inception(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Convolutions of several sizes and a pooling side by side (1409.4842, 1512.00567)."""
    one, three, five, pooled = _shares(c_out, 4, d.rng.choice((8, 16)))
    waist = divided(c_out // 5, 8)
    pool = nn.MaxPool2d(3, 1, 1) if d.rng.random() < 0.5 else nn.AvgPool2d(3, 1, 1)
    double = d.rng.random() < 0.5
    wide = [conv(waist, five, 3), conv(five, five, 3)] if double else [conv(waist, five, 5)]
    branches = Cat(
        conv(c_in, one),
        nn.Sequential(conv(c_in, waist), conv(waist, three, 3)),
        nn.Sequential(conv(c_in, waist), *wide),
        nn.Sequential(pool, conv(c_in, pooled)),
    )
    made = nn.Sequential(*([nn.MaxPool2d(3, 2, 1)] if stride == 2 else []), branches)
    total = one + three + five + pooled
    return made if total == c_out else nn.Sequential(made, conv(total, c_out))


def inception7(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Convolutions of 1x7 and 7x1 (1512.00567)."""
    one, seven, pooled = _shares(c_out, 3, d.rng.choice((8, 16)))
    waist, k = divided(c_out // 5, 8), d.rng.choice((3, 7, 7))
    branches = Cat(
        conv(c_in, one),
        nn.Sequential(conv(c_in, waist), conv(waist, waist, (1, k)), conv(waist, seven, (k, 1))),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(c_in, pooled)),
    )
    made = nn.Sequential(*([nn.MaxPool2d(3, 2, 1)] if stride == 2 else []), branches)
    total = one + seven + pooled
    return made if total == c_out else nn.Sequential(made, conv(total, c_out))


def shuffle1(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Grouped 1x1, shuffle, depthwise, grouped 1x1 (1707.01083); a stage's first comes after a plain 1x1."""
    groups = d.rng.choice((2, 3, 4, 8))
    if c_out % (4 * groups) or stride == 2 or c_in != c_out:
        entry = nn.Sequential(conv(c_in, c_in, 3, stride, c_in, act=None), conv(c_in, c_out))
        if c_out % (4 * groups):
            return entry
        return nn.Sequential(entry, shuffle1_body(c_out, groups))
    return shuffle1_body(c_out, groups)


def shuffle1_body(channels: int, groups: int) -> nn.Module:
    """The residual unit of stride 1."""
    mid = channels // 4
    body = nn.Sequential(
        conv(channels, mid, groups=groups), Shuffle(groups), conv(mid, mid, 3, 1, mid, act=None),
        conv(mid, channels, groups=groups, act=None),
    )  # fmt: skip
    return Sum(body, None, nn.ReLU())


def shuffle2(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Split, 1x1, depthwise, 1x1, join, shuffle (1807.11164)."""
    half = c_out // 2
    if stride == 1 and c_in == c_out and c_out % 2 == 0:
        return HalfShuffle(
            nn.Sequential(conv(half, half), conv(half, half, 3, 1, half, act=None), conv(half, half)), None
        )
    body = nn.Sequential(conv(c_in, half), conv(half, half, 3, stride, half, act=None), conv(half, half))
    by = nn.Sequential(conv(c_in, c_in, 3, stride, c_in, act=None), conv(c_in, half))
    made = HalfShuffle(body, by)
    return made if 2 * half == c_out else nn.Sequential(made, conv(2 * half, c_out))


def ghost(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """Ghost bottleneck."""
    mid, c_out2 = divided(c_in * d.rng.choice((2, 3, 6)), 8), c_out - c_out % 2
    down = [conv(mid, mid, 3, 2, mid, act=None)] if stride == 2 else []
    body = nn.Sequential(Ghost(c_in, mid, "relu"), *down, Ghost(mid, c_out2, None))
    if c_out2 != c_out:
        return nn.Sequential(body, conv(c_out2, c_out))
    return Sum(body) if stride == 1 and c_in == c_out else body


def csp(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    """A strided convolution, then a cross-stage block."""
    act = d.rng.choice(("silu", "leaky", "relu"))
    return nn.Sequential(conv(c_in, c_out, 3, stride, act=act), Csp(c_out, d.rng.randint(1, 2), act))
