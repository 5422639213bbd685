"""Third networks of benchmarks/any_network_third.py: attention, and speech."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import cbr


def by_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(n, tokens, c) -> (n, heads, tokens, c / heads)."""
    n, t, c = x.shape
    return x.reshape(n, t, heads, c // heads).permute(0, 2, 1, 3)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Of (n, heads, tokens, width) each, to (n, tokens, heads x width)."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


class MixBlock(nn.Module):
    """Attention to a map made smaller, and a depthwise convolution in the MLP (2105.15203, equations 2 and 3)."""

    def __init__(self, c: int, heads: int, r: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.n2, self.n3 = nn.LayerNorm(c), nn.LayerNorm(c), nn.LayerNorm(c)
        self.q, self.kv, self.out = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.less = nn.Conv2d(c, c, r, r) if r > 1 else None
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.spread = nn.Conv2d(4 * c, 4 * c, 3, 1, 1, groups=4 * c)

    def forward(self, x: torch.Tensor, h: int, w: int) -> torch.Tensor:
        n, _, c = x.shape
        y = z = self.n1(x)
        if self.less is not None:
            z = self.n2(self.less(y.transpose(1, 2).reshape(n, c, h, w)).flatten(2).transpose(1, 2))
        k, v = self.kv(z).chunk(2, 2)
        x = x + self.out(attend(by_heads(self.q(y), self.heads), by_heads(k, self.heads), by_heads(v, self.heads)))
        y = self.up(self.n3(x)).transpose(1, 2).reshape(n, 4 * c, h, w)
        return x + self.down(F.gelu(self.spread(y).flatten(2).transpose(1, 2)))


class SegFormer(nn.Module):
    """SegFormer-B0 (2105.15203, figure 2, table 6); c = 32 is its width."""

    def __init__(self, c: int, classes: int = 19) -> None:
        super().__init__()
        widths, m = (c, 2 * c, 5 * c, 8 * c), 8 * c
        plan = ((7, 4, 1, 8), (3, 2, 2, 4), (3, 2, 5, 2), (3, 2, 8, 1))  # window, stride, heads, reduction
        self.patches, self.first, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.last = nn.ModuleList(nn.LayerNorm(o) for o in widths)
        for (i, o), (k, s, heads, r) in zip(pairwise((3, *widths)), plan, strict=True):
            self.patches.append(nn.Conv2d(i, o, k, s, k // 2))
            self.first.append(nn.LayerNorm(o))
            self.blocks.append(nn.ModuleList(MixBlock(o, heads, r) for _ in range(2)))
        self.same = nn.ModuleList(nn.Linear(o, m) for o in widths)
        self.join, self.head = cbr(4 * m, m, 1), nn.Conv2d(m, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for patch, first, blocks, last, same in zip(
            self.patches, self.first, self.blocks, self.last, self.same, strict=True
        ):
            x = patch(x)
            n, c, h, w = x.shape
            y = first(x.flatten(2).transpose(1, 2))
            for block in blocks:  # type: ignore[attr-defined]
                y = block(y, h, w)
            y = last(y)
            x = y.transpose(1, 2).reshape(n, c, h, w)
            z = same(y).transpose(1, 2).reshape(n, -1, h, w)
            size = found[0].shape[-2:] if found else (h, w)
            found.append(F.interpolate(z, size=size, mode="bilinear", align_corners=False) if found else z)
        return self.head(self.join(torch.cat(found[::-1], 1)))


class PoolMix(nn.Module):
    """Pooling as mixer, then 1 x 1 convolutions, each scaled (2206.01191, equations 1 to 3)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.rest = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.BatchNorm2d(4 * c), nn.GELU(),
                                  nn.Conv2d(4 * c, c, 1), nn.BatchNorm2d(c))  # fmt: skip
        self.g1, self.g2 = (nn.Parameter(torch.full((c, 1, 1), 1e-5)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.g1 * (self.pool(x) - x)
        return x + self.g2 * self.rest(x)


class Attend(nn.Module):
    """Attention with a bias for every pair of places, values four times as wide as keys (2206.01191, equation 4)."""

    def __init__(self, c: int, d: int, tokens: int, heads: int = 8) -> None:
        super().__init__()
        self.heads, self.sizes = heads, (heads * d, heads * d, 4 * heads * d)
        self.n1, self.n2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.out = nn.Linear(c, 6 * heads * d), nn.Linear(4 * heads * d, c)
        self.bias = nn.Parameter(torch.zeros(1, heads, tokens, tokens))
        self.rest = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        self.g1, self.g2 = (nn.Parameter(torch.full((c,), 1e-5)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (by_heads(y, self.heads) for y in self.qkv(self.n1(x)).split(self.sizes, 2))
        x = x + self.g1 * self.out(attend(q, k, v, self.bias))
        return x + self.g2 * self.rest(self.n2(x))


class EfficientFormer(nn.Module):
    """EfficientFormer-L1 (2206.01191, figure 3, table 7); c = 48 is its width."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        widths = (c, 2 * c, 14 * c // 3, 28 * c // 3)
        layers: list[nn.Module] = [cbr(3, c // 2, 3, 2), cbr(c // 2, c, 3, 2)]
        for stage, n in enumerate((3, 2, 6, 3)):
            if stage:
                i, o = widths[stage - 1 : stage + 1]
                layers += [nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o)]
            layers += [PoolMix(widths[stage]) for _ in range(n)]
        o = widths[3]
        self.body, self.last = nn.Sequential(*layers), Attend(o, 2 * c // 3, (-(-size // 32)) ** 2)
        self.norm, self.head = nn.LayerNorm(o), nn.Linear(o, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.body(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


class FtBlock(nn.Module):
    """A layer over features, normalised first but where it is the first of all, with ReGLU (2106.11959, appendix E)."""

    def __init__(self, c: int, first: bool, heads: int = 8) -> None:
        super().__init__()
        self.heads, m = heads, c * 4 // 3
        self.n1, self.n2 = nn.Identity() if first else nn.LayerNorm(c), nn.LayerNorm(c)
        self.q, self.k, self.v, self.out = (nn.Linear(c, c) for _ in range(4))
        self.up, self.down = nn.Linear(c, 2 * m), nn.Linear(m, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.n1(x)
        q, k, v = (by_heads(f(y), self.heads) for f in (self.q, self.k, self.v))
        x = x + self.out(attend(q, k, v))
        a, b = self.up(self.n2(x)).chunk(2, 2)
        return x + self.down(a * F.relu(b))


class FtTransformer(nn.Module):
    """FT-Transformer of a table's row of numbers (2106.11959, figures 1 and 2, table 13); c = 192 is its width."""

    def __init__(self, c: int, features: int, outputs: int = 7) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.rand(1, features, c)) for _ in range(2))
        self.cls = nn.Parameter(torch.rand(1, 1, c))
        self.blocks = nn.Sequential(*(FtBlock(c, i == 0) for i in range(3)))
        self.head = nn.Sequential(nn.LayerNorm(c), nn.ReLU(), nn.Linear(c, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(1, -1, 1) * self.weight + self.bias
        return self.head(self.blocks(torch.cat([self.cls, x], 1))[:, 0])


class SubSpectral(nn.Module):
    """Batch norm of five bands of frequencies apart (2103.13620)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(5 * c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, f, t = x.shape
        return self.norm(x.reshape(n, 5 * c, f // 5, t)).reshape(n, c, f, t)


class Broadcasted(nn.Module):
    """Over frequencies in two dimensions, over time in one, put to every frequency (2106.04140, figure 2)."""

    def __init__(self, i: int, o: int, s: int, rate: int) -> None:
        super().__init__()
        start = cbr(i, o, 1) if i != o else nn.Identity()
        self.two = nn.Sequential(start, nn.Conv2d(o, o, (3, 1), (s, 1), (1, 0), groups=o, bias=False), SubSpectral(o))
        time = [nn.Conv2d(o, o, (1, 3), 1, (0, rate), (1, rate), o, bias=False), nn.BatchNorm2d(o), nn.SiLU()]
        self.one, self.adds = nn.Sequential(*time, nn.Conv2d(o, o, 1, bias=False), nn.Dropout2d(0.1)), i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.two(x)
        z = y + self.one(y.mean(2, keepdim=True))
        return F.relu(z + x if self.adds else z)


def bc_resnet(w: int) -> nn.Module:
    """BC-ResNet over 40 bands of frequencies, 12 keywords (2106.04140, table 1); w = 8 is BC-ResNet-1."""
    layers: list[nn.Module] = [nn.Conv2d(1, 2 * w, 5, (2, 1), 2, bias=False), nn.BatchNorm2d(2 * w), nn.ReLU()]
    c = 2 * w
    for o, n, s, rate in ((w, 2, 1, 1), (3 * w // 2, 2, 2, 2), (2 * w, 4, 2, 4), (5 * w // 2, 4, 1, 8)):
        for i in range(n):
            layers.append(Broadcasted(c, o, s if i == 0 else 1, rate))
            c = o
    last = [nn.Conv2d(c, c, 5, 1, (0, 2), groups=c, bias=False), nn.Conv2d(c, 4 * w, 1, bias=False)]
    head = [nn.BatchNorm2d(4 * w), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * w, 12, 1), nn.Flatten()]
    return nn.Sequential(*layers, *last, *head)
