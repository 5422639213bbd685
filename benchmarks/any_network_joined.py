"""Networks of benchmarks/any_network_models.py that join, split or attend."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Branches, cbr, classifier


class DenseLayer(nn.Module):
    def __init__(self, c: int, g: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 4 * g, 1, bias=False))
        self.two = nn.Sequential(nn.BatchNorm2d(4 * g), nn.ReLU(), nn.Conv2d(4 * g, g, 3, padding=1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.two(self.one(x))], 1)


def densenet(g: int) -> nn.Module:
    """Dense blocks of 4, 6, 8, 6 layers of growth g (1608.06993)."""
    c = 2 * g
    layers: list[nn.Module] = [cbr(3, c, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for block, n in enumerate((4, 6, 8, 6)):
        for _ in range(n):
            layers.append(DenseLayer(c, g))
            c += g
        layers += [nn.BatchNorm2d(c), nn.ReLU()]
        if block < 3:
            layers += [nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            c //= 2
    return nn.Sequential(*layers, *classifier(c))


def inception(w: int) -> nn.Module:
    """GoogLeNet's modules (1409.4842); w = 64 is its width."""
    layers: list[nn.Module] = [
        cbr(3, w, 7, 2),
        nn.MaxPool2d(3, 2, 1),
        cbr(w, w, 1),
        cbr(w, 3 * w),
        nn.MaxPool2d(3, 2, 1),
    ]
    c = 3 * w
    rows = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
            (160, 112, 224, 24, 64, 64), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))  # fmt: skip
    for i, row in enumerate(rows):
        a, b, bb, d, dd, p = (max(8, v * w // 64 // 8 * 8) for v in row)
        if i in (2, 4):
            layers.append(nn.MaxPool2d(3, 2, 1))
        pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), cbr(c, p, 1))
        layers.append(Branches(cbr(c, a, 1), nn.Sequential(cbr(c, b, 1), cbr(b, bb)),
                               nn.Sequential(cbr(c, d, 1), cbr(d, dd, 5)), pool))  # fmt: skip
        c = a + bb + dd + p
    return nn.Sequential(*layers, *classifier(c))


class ShuffleUnit(nn.Module):
    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        h = o // 2
        start = i if s > 1 else h
        self.right = nn.Sequential(cbr(start, h, 1), cbr(h, h, 3, s, h, None), cbr(h, h, 1))
        self.left = nn.Sequential(cbr(i, i, 3, s, i, None), cbr(i, h, 1)) if s > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1) if self.left is None else (self.left(x), x)
        x = torch.cat([left, self.right(right)], 1)
        n, c, h, w = x.shape
        return x.reshape(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def shufflenet_v2(w: int) -> nn.Module:
    """ShuffleNetV2 (1807.11164); w = 116 is width 1."""
    layers: list[nn.Module] = [cbr(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    c = 24
    for o, n in ((w, 4), (2 * w, 6), (4 * w, 4)):
        for i in range(n):
            layers.append(ShuffleUnit(c, o, 2 if i == 0 else 1))
            c = o
    return nn.Sequential(*layers, cbr(c, 1024, 1), *classifier(1024))


def squeezenet(w: int) -> nn.Module:
    """SqueezeNet 1.1 (1602.07360); w = 64 is its width."""

    def fire(i: int, q: int, e: int) -> nn.Module:
        def act(a: int, b: int, k: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, k, padding=k // 2), nn.ReLU())

        return nn.Sequential(act(i, q, 1), Branches(act(q, e, 1), act(q, e, 3)))

    pool, q = nn.MaxPool2d(3, 2, ceil_mode=True), w // 4
    return nn.Sequential(
        nn.Conv2d(3, w, 3, 2), nn.ReLU(), pool, fire(w, q, w), fire(2 * w, q, w), pool, fire(2 * w, 2 * q, 2 * w),
        fire(4 * w, 2 * q, 2 * w), pool, fire(4 * w, 3 * q, 3 * w), fire(6 * w, 3 * q, 3 * w),
        fire(6 * w, 4 * q, 4 * w), nn.Conv2d(8 * w, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class NextBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.up, self.down, self.gamma = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.ones(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class MapNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext(w: int) -> nn.Module:
    """ConvNeXt, blocks 2, 2, 4, 2 (2201.03545)."""
    layers: list[nn.Module] = [nn.Conv2d(3, w, 4, 4), MapNorm(w)]
    c = w
    for i, n in enumerate((2, 2, 4, 2)):
        if i:
            layers += [MapNorm(c), nn.Conv2d(c, 2 * c, 2, 2)]
            c *= 2
        layers += [NextBlock(c) for _ in range(n)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(c), nn.Linear(c, 1000))


class UNet(nn.Module):
    """U-Net of four levels (1505.04597), upsampled bilinearly."""

    def __init__(self, w: int) -> None:
        super().__init__()
        sizes = (w, 2 * w, 4 * w, 8 * w)
        self.down = nn.ModuleList(nn.Sequential(cbr(i, o), cbr(o, o)) for i, o in zip((3, *sizes), sizes, strict=False))
        self.up = nn.ModuleList(cbr(3 * s, s) for s in sizes[-2::-1])
        self.last = nn.Conv2d(w, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = []
        for i, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if i else x)
            seen.append(x)
        for level, side in zip(self.up, seen[-2::-1], strict=True):
            x = level(torch.cat([side, F.interpolate(x, scale_factor=2, mode="bilinear")], 1))
        return self.last(x)


class ViT(nn.Module):
    """A small vision transformer (2010.11929): patches of 16, heads of 32, eight layers."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.patch, self.heads = nn.Conv2d(3, c, 16, 16), c // 32
        self.layers = nn.ModuleList(
            nn.ModuleDict({"n1": nn.LayerNorm(c), "qkv": nn.Linear(c, 3 * c), "out": nn.Linear(c, c),
                           "n2": nn.LayerNorm(c), "up": nn.Linear(c, 4 * c), "down": nn.Linear(4 * c, c)})
            for _ in range(8)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        n, t, c = x.shape
        for m in self.layers:
            qkv = m["qkv"](m["n1"](x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            a = torch.softmax(q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5, -1) @ v
            x = x + m["out"](a.transpose(1, 2).reshape(n, t, c))
            x = x + m["down"](F.gelu(m["up"](m["n2"](x))))
        return self.head(self.norm(x).mean(1))
