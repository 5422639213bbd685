"""Blind networks of benchmarks/any_network_blind.py: small and mobile ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Excite, cbr, classifier


def mobilenet_v1(w: int) -> nn.Module:
    """Depthwise separable convolutions (1704.04861, table 1); w = 32 is width 1."""
    rows = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))
    layers: list[nn.Module] = [cbr(3, w, 3, 2)]
    c = w
    for wide, s in rows:
        layers += [cbr(c, c, 3, s, c), cbr(c, w * wide, 1)]
        c = w * wide
    return nn.Sequential(*layers, *classifier(c))


class GhostModule(nn.Module):
    def __init__(self, i: int, o: int, act: type[nn.Module] | None) -> None:
        super().__init__()
        self.o, half = o, -(-o // 2)
        self.primary, self.cheap = cbr(i, half, 1, act=act), cbr(half, half, 3, g=half, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.o]


def ghostnet(w: int) -> nn.Module:
    """GhostNet (1911.11907, table 1); w = 16 is width 1."""
    rows = ((3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1),
            (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1),
            (5, 672, 160, 1, 2), (5, 960, 160, 0, 1), (5, 960, 160, 1, 1))  # fmt: skip
    layers: list[nn.Module] = [cbr(3, w, 3, 2)]
    c = w
    for k, m, o, se, s in rows:
        m, o = m * w // 16 // 4 * 4, o * w // 16 // 4 * 4
        body: list[nn.Module] = [GhostModule(c, m, nn.ReLU)]
        body += [cbr(m, m, k, s, m, None)] if s > 1 else []
        body += [Excite(m, max(4, m // 4 // 4 * 4), nn.ReLU, nn.Hardsigmoid)] if se else []
        body += [GhostModule(m, o, None)]
        by = None if s == 1 and c == o else nn.Sequential(cbr(c, c, k, s, c, None), cbr(c, o, 1, act=None))
        layers.append(Add(nn.Sequential(*body), by))
        c = o
    head = [cbr(c, 60 * w, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(60 * w, 1280, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(1280, 1000))


def efficientnet_v2(w: int) -> nn.Module:
    """EfficientNetV2-S at half its depth (2104.00298, table 4); w = 24 is its width."""
    layers: list[nn.Module] = [cbr(3, w, 3, 2, act=nn.SiLU)]
    c = w
    for fused, t, o, n, s in ((1, 1, 24, 1, 1), (1, 4, 48, 2, 2), (1, 4, 64, 2, 2), (0, 4, 128, 3, 2),
                              (0, 6, 160, 4, 1), (0, 6, 256, 7, 2)):  # fmt: skip
        o = o * w // 24 // 8 * 8
        for i in range(n):
            m, stride = c * t, s if i == 0 else 1
            if fused and t == 1:
                body: nn.Module = cbr(c, o, 3, stride, act=nn.SiLU)
            elif fused:
                body = nn.Sequential(cbr(c, m, 3, stride, act=nn.SiLU), cbr(m, o, 1, act=None))
            else:
                gate = Excite(m, c // 4, nn.SiLU, nn.Sigmoid)
                body = nn.Sequential(
                    cbr(c, m, 1, act=nn.SiLU), cbr(m, m, 3, stride, m, nn.SiLU), gate, cbr(m, o, 1, act=None)
                )
            layers.append(Add(body) if stride == 1 and c == o else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 1280, 1, act=nn.SiLU), *classifier(1280))


def ds_cnn(w: int) -> nn.Module:
    """DS-CNN, keywords in 49 x 10 MFCCs (1711.07128, table 6); w = 64 is the small one."""
    layers: list[nn.Module] = [nn.Conv2d(1, w, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(w), nn.ReLU()]
    for _ in range(4):
        layers += [cbr(w, w, 3, 1, w), cbr(w, w, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, 12))


def lenet(w: int) -> nn.Module:
    """LeNet-5 on 32 x 32 (LeCun et al. 1998, figure 2); w = 6 is its width."""
    return nn.Sequential(
        nn.Conv2d(1, w, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(w, 16 * w // 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16 * w // 6 * 25, 20 * w), nn.Tanh(), nn.Linear(20 * w, 14 * w), nn.Tanh(),
        nn.Linear(14 * w, 10),
    )  # fmt: skip


class Separable(nn.Module):
    """NASNet's separable convolution: ReLU first, twice."""

    def __init__(self, i: int, o: int, k: int, s: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(i, i, k, s, k // 2, groups=i, bias=False), cbr(i, o, 1, act=None),
            nn.ReLU(), nn.Conv2d(o, o, k, 1, k // 2, groups=o, bias=False), cbr(o, o, 1, act=None),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class NasCell(nn.Module):
    """A cell of NASNet-A (1707.07012, figure 4), normal or reducing; the input before is brought to this size."""

    def __init__(self, before: int, i: int, c: int, reduces: bool, shrink: bool) -> None:
        super().__init__()
        self.reduces, s = reduces, 2 if reduces else 1
        self.h = nn.Sequential(nn.ReLU(), cbr(i, c, 1, act=None))
        self.p = nn.Sequential(nn.ReLU(), cbr(before, c, 1, 2 if shrink else 1, act=None))
        rows = ((7, 5, 7, 5, 3) if reduces else (5, 5, 3, 3, 3))  # fmt: skip
        self.seps = nn.ModuleList(Separable(c, c, k, 1 if reduces and n == 4 else s) for n, k in enumerate(rows))
        self.avg, self.top = nn.AvgPool2d(3, s, 1, count_include_pad=False), nn.MaxPool2d(3, s, 1)
        self.low = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, before: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        h, p, sep = self.h(x), self.p(before), self.seps
        if self.reduces:
            a = sep[1](h) + sep[0](p)
            b = self.top(h) + sep[2](p)
            return torch.cat([b, self.avg(h) + sep[3](p), self.low(a) + b, sep[4](a) + self.top(h)], 1)
        return torch.cat([sep[2](h) + h, sep[3](p) + sep[0](h), self.avg(h) + p,
                          self.avg(p) + self.avg(p), sep[1](p) + sep[4](p), p], 1)  # fmt: skip


class NasNet(nn.Module):
    """NASNet-A, one normal cell a stage (1707.07012); w is the filters of the first."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.stem, self.cells = cbr(3, w, 3, 2, act=None), nn.ModuleList()
        before = i = w
        last = False
        for c, reduces in ((w // 2, True), (w, True), (w, False), (2 * w, True), (2 * w, False), (4 * w, True),
                           (4 * w, False)):  # fmt: skip
            self.cells.append(NasCell(before, i, c, reduces, last))
            before, i, last = i, c * (4 if reduces else 6), reduces
        self.head = nn.Sequential(nn.ReLU(), *classifier(i))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x = self.stem(x)
        for cell in self.cells:
            before, x = x, cell(before, x)
        return self.head(F.dropout(x, 0.5, self.training))
