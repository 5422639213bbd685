"""Fourth networks of benchmarks/any_network_fourth.py: detection, segmentation, super-resolution."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, cbr


def silu(i: int, o: int, k: int = 1, s: int = 1, g: int = 1) -> nn.Sequential:
    return cbr(i, o, k, s, g, nn.SiLU)


def spatial(i: int, o: int, s: int = 1, deep: bool = False) -> nn.Module:
    """A 3 x 3 convolution, or in the smallest detector a depthwise one and a 1 x 1."""
    return nn.Sequential(silu(i, i, 3, s, i), silu(i, o)) if deep else silu(i, o, 3, s)


class Stage(nn.Module):
    """A cross-stage block: bottlenecks beside a 1 x 1 convolution (1911.11929)."""

    def __init__(self, i: int, o: int, n: int = 1, adds: bool = False, deep: bool = False) -> None:
        super().__init__()
        h = o // 2
        self.left, self.right, self.out = silu(i, h), silu(i, h), silu(2 * h, o)
        rows = [nn.Sequential(silu(h, h), spatial(h, h, 1, deep)) for _ in range(n)]
        self.rows = nn.Sequential(*(Add(row) if adds else row for row in rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat((self.rows(self.left(x)), self.right(x)), 1))


class Focus(nn.Module):
    """Every second pixel, four times, as channels."""

    def __init__(self, o: int) -> None:
        super().__init__()
        self.conv = silu(12, o, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(parts, 1))


class Poolings(nn.Module):
    """Maxima of three windows beside the map (1406.4729, as YOLOv3-SPP has it)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.less, self.out = silu(c, c // 2), silu(2 * c, c)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.less(x)
        return self.out(torch.cat([x, *(pool(x) for pool in self.pools)], 1))


class Decoupled(nn.Module):
    """Classes, and box and objectness, in two ways (2107.08430, figure 2)."""

    def __init__(self, i: int, c: int, deep: bool, classes: int = 80) -> None:
        super().__init__()
        self.stem = silu(i, c)
        self.classes = nn.Sequential(spatial(c, c, 1, deep), spatial(c, c, 1, deep), nn.Conv2d(c, classes, 1))
        self.places = nn.Sequential(spatial(c, c, 1, deep), spatial(c, c, 1, deep))
        self.box, self.there = nn.Conv2d(c, 4, 1), nn.Conv2d(c, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.places(x)
        found = (self.box(y), torch.sigmoid(self.there(y)), torch.sigmoid(self.classes(x)))
        return torch.cat(found, 1).flatten(2)


class YoloX(nn.Module):
    """YOLOX (2107.08430, sections 2.1 and 2.2, as its authors' code): Nano, of depthwise convolutions, at w = 16, Tiny
    at 24, S at 32. Boxes are not decoded."""

    def __init__(self, w: int) -> None:
        super().__init__()
        deep = w == 16
        c3, c4, c5 = 4 * w, 8 * w, 16 * w
        conv, stage = partial(spatial, deep=deep), partial(Stage, deep=deep)
        start = [Focus(w), conv(w, 2 * w, 2), stage(2 * w, 2 * w, 1, True)]
        self.p3 = nn.Sequential(*start, conv(2 * w, c3, 2), stage(c3, c3, 3, True))
        self.p4 = nn.Sequential(conv(c3, c4, 2), stage(c4, c4, 3, True))
        self.p5 = nn.Sequential(conv(c4, c5, 2), Poolings(c5), stage(c5, c5), silu(c5, c4))
        self.up4, self.up3 = nn.Sequential(stage(2 * c4, c4), silu(c4, c3)), stage(2 * c3, c3)
        self.less3, self.less4 = conv(c3, c3, 2), conv(c4, c4, 2)
        self.down4, self.down5 = stage(2 * c3, c4), stage(2 * c4, c5)
        self.heads = nn.ModuleList(Decoupled(i, c3, deep) for i in (c3, c4, c5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x3 = self.p3(x)
        x4 = self.p4(x3)
        t5 = self.p5(x4)
        t4 = self.up4(torch.cat((F.interpolate(t5, scale_factor=2.0, mode="nearest"), x4), 1))
        o3 = self.up3(torch.cat((F.interpolate(t4, scale_factor=2.0, mode="nearest"), x3), 1))
        o4 = self.down4(torch.cat((self.less3(o3), t4), 1))
        o5 = self.down5(torch.cat((self.less4(o4), t5), 1))
        rows = [head(o) for head, o in zip(self.heads, (o3, o4, o5), strict=True)]
        return torch.cat(rows, 2).permute(0, 2, 1)


def rate(i: int, o: int, d: int = 1) -> nn.Sequential:
    """A convolution of a dilation, with bias, batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(i, o, 3, 1, d, d), nn.BatchNorm2d(o), nn.ReLU())


def like(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x as large as y."""
    return F.interpolate(x, size=y.shape[2:], mode="bilinear", align_corners=False)


class Nested(nn.Module):
    """A U of `levels` levels within a residual; without pools, of dilations (2005.09007, figure 2 e, figure 5)."""

    def __init__(self, levels: int, i: int, m: int, o: int, pools: bool = True) -> None:
        super().__init__()
        self.pools, self.start = pools, rate(i, o)
        rates = [1] * (levels - 1) + [2] if pools else [2**n for n in range(levels)]
        self.down = nn.ModuleList(rate(m if n else o, m, d) for n, d in enumerate(rates))
        back = [1] * (levels - 1) if pools else rates[-2::-1]
        self.up = nn.ModuleList(rate(2 * m, m if n < levels - 2 else o, d) for n, d in enumerate(back))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = y = self.start(x)
        seen: list[torch.Tensor] = []
        for n, level in enumerate(self.down):
            if self.pools and 0 < n < len(self.down) - 1:
                y = F.max_pool2d(y, 2, 2, ceil_mode=True)
            y = level(y)
            seen.append(y)
        for level, side in zip(self.up, seen[-2::-1], strict=True):
            y = level(torch.cat((like(y, side) if y.shape != side.shape else y, side), 1))
        return y + kept


class U2Net(nn.Module):
    """U2-Net's small form: a U of Us, six side maps fused (2005.09007, figure 5, table 1); w = 16 is its width, of 64
    channels outside."""

    def __init__(self, w: int) -> None:
        super().__init__()
        o = 4 * w
        plan = ((7, True), (6, True), (5, True), (4, True), (4, False), (4, False))
        self.down = nn.ModuleList(Nested(n, o if at else 3, w, o, pools) for at, (n, pools) in enumerate(plan))
        self.up = nn.ModuleList(Nested(n, 2 * o, w, o, pools) for n, pools in plan[-2::-1])
        self.sides = nn.ModuleList(nn.Conv2d(o, 1, 3, 1, 1) for _ in plan)
        self.fuse = nn.Conv2d(6, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, seen = x, []
        for n, level in enumerate(self.down):
            y = level(F.max_pool2d(y, 2, 2, ceil_mode=True) if n else y)
            seen.append(y)
        maps = [y]
        for level, side in zip(self.up, seen[-2::-1], strict=True):
            y = level(torch.cat((like(y, side), side), 1))
            maps.append(y)
        small = [side(m) for side, m in zip(self.sides, maps[::-1], strict=True)]
        large = [small[0], *(like(m, small[0]) for m in small[1:])]
        return torch.sigmoid(self.fuse(torch.cat(large, 1)))


class Distil(nn.Module):
    """A quarter kept at every step, the rest refined; gated by contrast (1909.11856, section 3.2)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.q = c // 4
        rest = c - self.q
        self.steps = nn.ModuleList(nn.Conv2d(i, c, 3, 1, 1) for i in (c, rest, rest))
        self.last, self.out = nn.Conv2d(rest, self.q, 3, 1, 1), nn.Conv2d(c, c, 1)
        r = max(1, c // 16)
        self.gate = nn.Sequential(nn.Conv2d(c, r, 1), nn.ReLU(), nn.Conv2d(r, c, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, kept = x, []
        for step in self.steps:
            part, y = F.leaky_relu(step(y), 0.05).split((self.q, x.shape[1] - self.q), 1)
            kept.append(part)
        z = torch.cat([*kept, self.last(y)], 1)
        mean = z.mean((2, 3), keepdim=True)
        contrast = (z - mean).pow(2).mean((2, 3), keepdim=True).sqrt() + mean
        return self.out(z * self.gate(contrast)) + x


class Imdn(nn.Module):
    """IMDN, four times as large (1909.11856, figure 2, section 3.1); w = 64 is its width."""

    def __init__(self, w: int, blocks: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, w, 3, 1, 1)
        self.blocks = nn.ModuleList(Distil(w) for _ in range(blocks))
        self.join = nn.Sequential(nn.Conv2d(blocks * w, w, 1), nn.LeakyReLU(0.05), nn.Conv2d(w, w, 3, 1, 1))
        self.up = nn.Sequential(nn.Conv2d(w, 48, 3, 1, 1), nn.PixelShuffle(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = start = self.first(x)
        seen = []
        for block in self.blocks:
            y = block(y)
            seen.append(y)
        return self.up(self.join(torch.cat(seen, 1)) + start)
