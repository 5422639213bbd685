"""Blind networks of benchmarks/any_network_blind.py: of tokens, and mixers."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.any_network_parts import Add, cbr, classifier


def mlp(c: int, m: int, act: type[nn.Module] = nn.GELU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c, m), act(), nn.Linear(m, c))


class MlpMixer(nn.Module):
    """MLP-Mixer (2105.01601, figure 1): patches of 16, eight layers."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        n = (size // 16) ** 2
        self.patch = nn.Conv2d(3, c, 16, 16)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"n1": nn.LayerNorm(c), "mix": mlp(n, c // 2), "n2": nn.LayerNorm(c), "own": mlp(c, 4 * c)})
            for _ in range(8)
        )
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for m in self.layers:
            x = x + m["mix"](m["n1"](x).transpose(1, 2)).transpose(1, 2)
            x = x + m["own"](m["n2"](x))
        return self.head(self.norm(x).mean(1))


class WindowAttention(nn.Module):
    """Attention in windows of 7 x 7, shifted in every second block (2103.14030, section 3.2)."""

    def __init__(self, c: int, heads: int, size: int, shift: int, window: int = 7) -> None:
        super().__init__()
        self.heads, self.w, self.shift = heads, window, shift
        self.norm, self.qkv, self.out = nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.bias = nn.Parameter(torch.zeros(1, heads, window**2, window**2))
        self.rest = nn.Sequential(nn.LayerNorm(c), mlp(c, 4 * c))
        region = torch.zeros(size)
        region[-window : -shift or None], region[-shift or size :] = 1, 2
        part = self._windows((3 * region[:, None] + region)[None, :, :, None])[..., 0]
        self.register_buffer("mask", -100.0 * (part[:, None, :, None] != part[:, None, None, :]).float())

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        x = x.reshape(n, h // self.w, self.w, w // self.w, self.w, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, self.w**2, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        y = self.norm(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self._windows(y)
        b, t, _ = y.shape
        q, k, v = self.qkv(y).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        a = q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1) + self.bias
        if self.shift:
            a = a + self.mask
        y = self.out((a.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))
        y = y.reshape(n, h // self.w, w // self.w, self.w, self.w, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.rest(x)


class Merge(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * c), nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(quarters, -1)))


class Swin(nn.Module):
    """Swin transformer of three stages of two blocks, heads of 16 (2103.14030); size a multiple of 112."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        self.patch, self.norm0 = nn.Conv2d(3, c, 4, 4), nn.LayerNorm(c)
        layers: list[nn.Module] = []
        for stage in range(3):
            side = size // 4 // 2**stage
            layers += [Merge(c)] if stage else []
            c *= 2 if stage else 1
            layers += [WindowAttention(c, c // 16, side, s if side > 7 else 0) for s in (0, 3)]
        self.layers, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(c), nn.Linear(c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.norm0(self.patch(x).permute(0, 2, 3, 1)))
        return self.head(self.norm(x).mean((1, 2)))


def convmixer(w: int) -> nn.Module:
    """ConvMixer of depth 8, patches of 7, kernels of 9 (2201.09792, figure 3)."""

    def part(conv: nn.Module) -> nn.Sequential:
        return nn.Sequential(conv, nn.GELU(), nn.BatchNorm2d(w))

    blocks = [
        nn.Sequential(Add(part(nn.Conv2d(w, w, 9, groups=w, padding="same"))), part(nn.Conv2d(w, w, 1)))
        for _ in range(8)
    ]
    return nn.Sequential(part(nn.Conv2d(3, w, 7, 7)), *blocks, *classifier(w))


class MobileVitBlock(nn.Module):
    """Attention between the same places of all 2 x 2 patches (2110.02178, figure 1 b)."""

    def __init__(self, c: int, d: int, depth: int) -> None:
        super().__init__()
        self.local = nn.Sequential(cbr(c, c, act=nn.SiLU), nn.Conv2d(c, d, 1, bias=False))
        self.layers = nn.ModuleList(
            nn.ModuleDict({"n1": nn.LayerNorm(d), "qkv": nn.Linear(d, 3 * d), "out": nn.Linear(d, d),
                           "mlp": nn.Sequential(nn.LayerNorm(d), mlp(d, 2 * d, nn.SiLU))})
            for _ in range(depth)
        )  # fmt: skip
        self.norm, self.back, self.join = nn.LayerNorm(d), cbr(d, c, 1, act=nn.SiLU), cbr(2 * c, c, act=nn.SiLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.local(x)
        _, d, h, w = y.shape
        y = y.reshape(d, h // 2, 2, w // 2, 2).permute(2, 4, 1, 3, 0).reshape(4, h * w // 4, d)
        for m in self.layers:
            b, t, _ = y.shape
            q, k, v = m["qkv"](m["n1"](y)).reshape(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
            a = torch.softmax(q @ k.transpose(-2, -1) * (d // 4) ** -0.5, -1) @ v
            y = y + m["out"](a.transpose(1, 2).reshape(b, t, d))
            y = y + m["mlp"](y)
        y = self.norm(y).reshape(2, 2, h // 2, w // 2, d).permute(4, 2, 0, 3, 1).reshape(1, d, h, w)
        return self.join(torch.cat([x, self.back(y)], 1))


def mobilevit(w: int) -> nn.Module:
    """MobileViT-XS (2110.02178, table 4) with one block of attention a stage less; w = 16 is its width."""

    def mv2(i: int, o: int, s: int) -> nn.Module:
        m = 4 * i
        body = nn.Sequential(cbr(i, m, 1, act=nn.SiLU), cbr(m, m, 3, s, m, nn.SiLU), cbr(m, o, 1, act=None))
        return Add(body) if s == 1 and i == o else body

    c = [w, 2 * w, 3 * w, 4 * w, 5 * w]
    return nn.Sequential(
        cbr(3, c[0], 3, 2, act=nn.SiLU), mv2(c[0], c[1], 1), mv2(c[1], c[2], 2), mv2(c[2], c[2], 1),
        mv2(c[2], c[3], 2), MobileVitBlock(c[3], 6 * w, 2), mv2(c[3], c[4], 2), MobileVitBlock(c[4], 7 * w + 8, 3),
        mv2(c[4], c[4], 2), MobileVitBlock(c[4], 9 * w, 2), cbr(c[4], 24 * w, 1, act=nn.SiLU), *classifier(24 * w),
    )  # fmt: skip


class PoolBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.GroupNorm(1, c), nn.GroupNorm(1, c)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.mlp = nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1))
        self.g1, self.g2 = (nn.Parameter(torch.full((c, 1, 1), 0.1)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.n1(x)
        x = x + self.g1 * (self.pool(y) - y)
        return x + self.g2 * self.mlp(self.n2(x))


def poolformer(w: int) -> nn.Module:
    """PoolFormer (2111.11418, table 1), blocks 2, 2, 3, 2; w = 64 is the width of S12."""
    layers: list[nn.Module] = [nn.Conv2d(3, w, 7, 4, 2)]
    c = w
    for i, (o, n) in enumerate(((w, 2), (2 * w, 2), (5 * w, 3), (8 * w, 2))):
        layers += [nn.Conv2d(c, o, 3, 2, 1)] if i else []
        layers += [PoolBlock(o) for _ in range(n)]
        c = o
    return nn.Sequential(*layers, nn.GroupNorm(1, c), *classifier(c))
