"""Third networks of benchmarks/any_network_third.py: segmentation, detection, keypoints, super-resolution."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, cbr


def separable(i: int, o: int, s: int = 1) -> nn.Sequential:
    return nn.Sequential(cbr(i, i, 3, s, i), cbr(i, o, 1))


def inverted(i: int, o: int, n: int, s: int) -> list[nn.Module]:
    """Fast-SCNN's bottlenecks, six times as wide inside (1902.04502, table 2)."""
    layers: list[nn.Module] = []
    for k in range(n):
        m, stride = 6 * i, s if k == 0 else 1
        body = nn.Sequential(cbr(i, m, 1), cbr(m, m, 3, stride, m), cbr(m, o, 1, act=None))
        layers.append(Add(body) if stride == 1 and i == o else body)
        i = o
    return layers


class Pyramid(nn.Module):
    """Means of 1, 2, 3 and 6 parts a side, put beside the map (1612.01105, figure 3)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), cbr(c, c // 4, 1)) for n in (1, 2, 3, 6))
        self.join = cbr(2 * c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        found = [F.interpolate(part(x), size=size, mode="bilinear", align_corners=True) for part in self.parts]
        return self.join(torch.cat([x, *found], 1))


class FastScnn(nn.Module):
    """Fast-SCNN (1902.04502, table 1, figure 1); w = 32 is its width."""

    def __init__(self, w: int, classes: int = 19) -> None:
        super().__init__()
        a, b, c, d = w * 3 // 2, 2 * w, 3 * w, 4 * w
        self.down = nn.Sequential(cbr(3, w, 3, 2), separable(w, a, 2), separable(a, b, 2))
        body = [*inverted(b, b, 3, 2), *inverted(b, c, 3, 2), *inverted(c, d, 3, 1)]
        self.deep = nn.Sequential(*body, Pyramid(d))
        wide = nn.Conv2d(d, d, 3, 1, 4, dilation=4, groups=d, bias=False)
        low = [wide, nn.BatchNorm2d(d), nn.ReLU(), nn.Conv2d(d, d, 1), nn.BatchNorm2d(d)]
        self.low, self.high = nn.Sequential(*low), nn.Sequential(nn.Conv2d(b, d, 1), nn.BatchNorm2d(d))
        self.head = nn.Sequential(separable(d, d), separable(d, d), nn.Dropout(0.1), nn.Conv2d(d, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.down(x)
        low = F.interpolate(self.deep(high), scale_factor=4, mode="bilinear", align_corners=True)
        y = self.head(F.relu(self.high(high) + self.low(low)))
        return F.interpolate(y, scale_factor=8, mode="bilinear", align_corners=True)


def relus(*sizes: int) -> list[nn.Module]:
    """VGG's convolutions."""
    return [m for i, o in pairwise(sizes) for m in (nn.Conv2d(i, o, 3, 1, 1), nn.ReLU())]


class Ssd(nn.Module):
    """SSD300 on VGG-16 (1512.02325, figure 2; section 3.1: the map of conv4 normalised); the last two extra layers are
    left out where the map is too small for them; w = 64 is its width."""

    def __init__(self, w: int, size: int, classes: int = 21) -> None:
        super().__init__()
        self.k = classes
        two, ceil = nn.MaxPool2d(2, 2), nn.MaxPool2d(2, 2, ceil_mode=True)
        first = [*relus(3, w, w), two, *relus(w, 2 * w, 2 * w), two, *relus(2 * w, 4 * w, 4 * w, 4 * w), ceil]
        self.c4 = nn.Sequential(*first, *relus(4 * w, 8 * w, 8 * w, 8 * w))
        self.scale = nn.Parameter(torch.full((1, 8 * w, 1, 1), 20.0))
        m = 16 * w
        seven = [nn.Conv2d(8 * w, m, 3, 1, 6, dilation=6), nn.ReLU(), nn.Conv2d(m, m, 1), nn.ReLU()]
        c5 = [nn.MaxPool2d(2, 2), *relus(8 * w, 8 * w, 8 * w, 8 * w), nn.MaxPool2d(3, 1, 1)]
        self.more = nn.ModuleList([nn.Sequential(*c5, *seven)])
        i, side, sizes = m, -(-(size // 4) // 2) // 2, [8 * w, m]
        for h, o, s in ((4 * w, 8 * w, 2), (2 * w, 4 * w, 2), (2 * w, 4 * w, 1), (2 * w, 4 * w, 1)):
            if s == 1 and side < 3:
                break
            after = [nn.Conv2d(h, o, 3, s, 1 if s > 1 else 0), nn.ReLU()]
            self.more.append(nn.Sequential(nn.Conv2d(i, h, 1), nn.ReLU(), *after))
            side = (side - 1) // 2 + 1 if s > 1 else side - 2
            sizes.append(o)
            i = o
        boxes = (4, 6, 6, 6, 4, 4)
        self.where = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, 1, 1) for c, n in zip(sizes, boxes, strict=False))
        self.what = nn.ModuleList(nn.Conv2d(c, classes * n, 3, 1, 1) for c, n in zip(sizes, boxes, strict=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c4(x)
        maps = [F.normalize(x, dim=1) * self.scale]
        for layer in self.more:
            x = layer(x)
            maps.append(x)
        where = [f(m).permute(0, 2, 3, 1).reshape(1, -1, 4) for f, m in zip(self.where, maps, strict=True)]
        what = [f(m).permute(0, 2, 3, 1).reshape(1, -1, self.k) for f, m in zip(self.what, maps, strict=True)]
        return torch.cat([torch.cat(where, 1), torch.softmax(torch.cat(what, 1), -1)], 2)


def pose(w: int) -> nn.Module:
    """A simple baseline for keypoints: ResNet-18, three transposed convolutions, 17 maps (1804.06208, figure 1 c);
    w = 64 is its width."""
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = w
    for o, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        by = cbr(c, o, 1, s, act=None) if s > 1 else None
        layers.append(Add(nn.Sequential(cbr(c, o, 3, s), cbr(o, o, act=None)), by, True))
        c = o
    for _ in range(3):
        layers += [nn.ConvTranspose2d(c, 4 * w, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * w), nn.ReLU()]
        c = 4 * w
    return nn.Sequential(*layers, nn.Conv2d(c, 17, 1))


class Gate(nn.Module):
    """What is skipped, weighed place by place with a coarser map asking (1804.03999, figure 2)."""

    def __init__(self, c: int, g: int) -> None:
        super().__init__()
        self.theta, self.phi = nn.Conv2d(c, c, 2, 2, bias=False), nn.Conv2d(g, c, 1)
        self.psi, self.after = nn.Conv2d(c, 1, 1), cbr(c, c, 1, act=None)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        a = torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g))))
        return self.after(x * F.interpolate(a, scale_factor=2, mode="bilinear", align_corners=False))


class AttentionUnet(nn.Module):
    """Attention U-Net in two dimensions (1804.03999, figure 1); w = 16 is its width."""

    def __init__(self, w: int, classes: int = 4) -> None:
        super().__init__()
        sizes = (w, 2 * w, 4 * w, 8 * w)
        self.down = nn.ModuleList(nn.Sequential(cbr(i, o), cbr(o, o)) for i, o in pairwise((1, *sizes)))
        steps = tuple(pairwise(sizes[::-1]))
        self.gates = nn.ModuleList(Gate(o, i) for i, o in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in steps)
        self.after = nn.ModuleList(nn.Sequential(cbr(2 * o, o), cbr(o, o)) for _, o in steps)
        self.last = nn.Conv2d(w, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = []
        for i, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if i else x)
            seen.append(x)
        for gate, up, after, side in zip(self.gates, self.up, self.after, seen[-2::-1], strict=True):
            x = after(torch.cat([gate(side, x), up(x)], 1))
        return self.last(x)


def fsrcnn(d: int) -> nn.Module:
    """FSRCNN(d, 12 d / 56, 4), luminance to three times its size (1608.00367, figure 2, section 3.4); d = 56 is its."""

    def conv(i: int, o: int, k: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, k, 1, k // 2), nn.PReLU(o)]

    s = 12 * d // 56
    layers = [*conv(1, d, 5), *conv(d, s, 1), *(m for _ in range(4) for m in conv(s, s, 3)), *conv(s, d, 1)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(d, 1, 9, 3, 4, output_padding=2))
