"""Fresh networks of benchmarks/any_network_fresh.py: mobile ones, and one over time."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Excite, cbr, classifier


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.g = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, self.g, c // self.g, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleV1(nn.Module):
    """Grouped convolutions with a shuffle between; with a stride the input, averaged, is put beside
    (1707.01083, figure 2 b and c)."""

    def __init__(self, i: int, o: int, s: int, groups: int, first: bool) -> None:
        super().__init__()
        self.s, own = s, o - i if s > 1 else o
        m = o // 4
        start = [cbr(i, m, 1, g=1 if first else groups), Shuffle(groups)]
        self.body = nn.Sequential(*start, cbr(m, m, 3, s, m, None), cbr(m, own, 1, g=groups, act=None))
        self.by = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return F.relu(x + y if self.s == 1 else torch.cat([self.by(x), y], 1))


def shufflenet_v1(w: int) -> nn.Module:
    """ShuffleNet of three groups (1707.01083, table 1); w = 240 is width 1."""
    layers: list[nn.Module] = [cbr(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    c = 24
    for o, n in ((w, 4), (2 * w, 8), (4 * w, 4)):
        for i in range(n):
            layers.append(ShuffleV1(c, o, 2 if i == 0 else 1, 3, c == 24))
            c = o
    return nn.Sequential(*layers, *classifier(c))


def mnasnet(w: int) -> nn.Module:
    """MnasNet-A1 (1807.11626, figure 7); w = 32 is its width."""
    layers: list[nn.Module] = [cbr(3, w, 3, 2), cbr(w, w, 3, 1, w), cbr(w, w // 2, 1, act=None)]
    c = w // 2
    for k, t, o, n, se, s in ((3, 6, 24, 2, 0, 2), (5, 3, 40, 3, 1, 2), (3, 6, 80, 4, 0, 2), (3, 6, 112, 2, 1, 1),
                              (5, 6, 160, 3, 1, 2), (3, 6, 320, 1, 0, 1)):  # fmt: skip
        o = o * w // 32 // 4 * 4
        for i in range(n):
            m, stride = c * t, s if i == 0 else 1
            gate = [Excite(m, max(4, c // 4), nn.ReLU, nn.Sigmoid)] if se else []
            body = nn.Sequential(cbr(c, m, 1), cbr(m, m, k, stride, m), *gate, cbr(m, o, 1, act=None))
            layers.append(Add(body) if i else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 1280, 1), *classifier(1280))


def fbnet(w: int) -> nn.Module:
    """FBNet's macro-architecture at half its depth (1812.03443, table 1), of its eight blocks in turn (table 2);
    w = 16 is its width."""
    blocks = ((3, 1, 1), (3, 6, 1), (3, 1, 2), (5, 6, 1), (5, 1, 2), (3, 3, 1), (5, 3, 1), (5, 1, 1))  # kernel, e, g
    layers: list[nn.Module] = [cbr(3, w, 3, 2)]
    c, turn = w, 0
    for o, n, s in ((16, 1, 1), (24, 3, 2), (32, 3, 2), (64, 3, 2), (112, 3, 1), (184, 3, 2), (352, 1, 1)):
        o = o * w // 16 // 4 * 4
        for i in range(n):
            k, e, g = blocks[turn % len(blocks)]
            m, stride, turn = c * e, s if i == 0 else 1, turn + 1
            mix: list[nn.Module] = [Shuffle(g)] if g > 1 else []
            body = nn.Sequential(cbr(c, m, 1, g=g), *mix, cbr(m, m, k, stride, m), cbr(m, o, 1, g=g, act=None))
            layers.append(Add(body) if stride == 1 and c == o else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 94 * w, 1), *classifier(94 * w))


class Temporal(nn.Module):
    """Nine steps of time at once, all frequencies as channels (1904.03814, figure 2)."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        first = [nn.Conv2d(i, o, (9, 1), (s, 1), (4, 0), bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.body = nn.Sequential(*first, nn.Conv2d(o, o, (9, 1), 1, (4, 0), bias=False), nn.BatchNorm2d(o))
        self.by = nn.Identity() if s == 1 else nn.Sequential(
            nn.Conv2d(i, o, 1, (s, 1), bias=False), nn.BatchNorm2d(o), nn.ReLU()
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.by(x))


def tc_resnet(w: int) -> nn.Module:
    """TC-ResNet14 over frames of 40 MFCCs (1904.03814, section 2.3, figure 2); w = 16 is width 1."""
    layers: list[nn.Module] = [nn.Conv2d(40, w, (3, 1), 1, (1, 0), bias=False)]
    c = w
    for o in (3 * w // 2, 2 * w, 3 * w):
        layers += [Temporal(c, o, 2), Temporal(o, o, 1)]
        c = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Conv2d(c, 12, 1), nn.Flatten())
