"""Blind networks of benchmarks/any_network_blind.py: of residuals, selections and aggregations."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Excite, cbr, classifier


def regnet_y(w: int) -> nn.Module:
    """RegNetY-400MF (2003.13678, table 11) with depths 1, 2, 4, 3; w = 48 is its width."""
    layers: list[nn.Module] = [cbr(3, 32, 3, 2)]
    c = 32
    for o, n in ((48, 1), (104, 2), (208, 4), (440, 3)):
        o = o * w // 48 // 8 * 8
        for i in range(n):
            s = 2 if i == 0 else 1
            body = nn.Sequential(
                cbr(c, o, 1), cbr(o, o, 3, s, o // 8), Excite(o, max(4, c // 4), nn.ReLU, nn.Sigmoid),
                cbr(o, o, 1, act=None),
            )  # fmt: skip
            layers.append(Add(body, cbr(c, o, 1, s, act=None) if i == 0 else None, True))
            c = o
    return nn.Sequential(*layers, *classifier(c))


def xception(w: int) -> nn.Module:
    """Xception with two of its eight middle blocks (1610.02357, figure 5); w = 32 is its width."""

    def sep(i: int, o: int, relu: bool = True) -> list[nn.Module]:
        first: list[nn.Module] = [nn.ReLU()] if relu else []
        return [*first, nn.Conv2d(i, i, 3, 1, 1, groups=i, bias=False), cbr(i, o, 1, act=None)]

    layers: list[nn.Module] = [cbr(3, w, 3, 2), cbr(w, 2 * w)]
    c = 2 * w
    for n, o in enumerate((4 * w, 8 * w, 22 * w)):
        body = nn.Sequential(*sep(c, o, n > 0), *sep(o, o), nn.MaxPool2d(3, 2, 1))
        layers.append(Add(body, cbr(c, o, 1, 2, act=None)))
        c = o
    layers += [Add(nn.Sequential(*sep(c, c), *sep(c, c), *sep(c, c))) for _ in range(2)]
    layers.append(
        Add(nn.Sequential(*sep(c, c), *sep(c, 32 * w), nn.MaxPool2d(3, 2, 1)), cbr(c, 32 * w, 1, 2, act=None))
    )
    layers += [*sep(32 * w, 48 * w, False), nn.ReLU(), *sep(48 * w, 64 * w, False), nn.ReLU()]
    return nn.Sequential(*layers, *classifier(64 * w))


class Selective(nn.Module):
    """Two kernels, each channel choosing between them (1903.06586, section 3.1)."""

    def __init__(self, c: int, s: int, groups: int) -> None:
        super().__init__()
        self.three = cbr(c, c, 3, s, groups)
        wide = nn.Conv2d(c, c, 3, s, 2, dilation=2, groups=groups, bias=False)
        self.five = nn.Sequential(wide, nn.BatchNorm2d(c), nn.ReLU())
        d = max(c // 16, 32)
        self.squeeze = nn.Sequential(nn.Linear(c, d, bias=False), nn.BatchNorm1d(d), nn.ReLU())
        self.choose = nn.Linear(d, 2 * c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.stack([self.three(x), self.five(x)], 1)
        n, m, c = both.shape[:3]
        z = self.squeeze(both.sum(1).mean((2, 3)))
        a = torch.softmax(self.choose(z).reshape(n, m, c), 1)
        return (both * a[..., None, None]).sum(1)


def sknet(w: int) -> nn.Module:
    """SKNet-26 (1903.06586, table 1, two blocks a stage); w = 64 is its width."""
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = w
    for m, s in ((2 * w, 1), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1), (16 * w, 2), (16 * w, 1)):
        by = cbr(c, 2 * m, 1, s, act=None) if s > 1 or c != 2 * m else None
        layers.append(Add(nn.Sequential(cbr(c, m, 1), Selective(m, s, 32), cbr(m, 2 * m, 1, act=None)), by, True))
        c = 2 * m
    return nn.Sequential(*layers, *classifier(c))


def basic(i: int, o: int, s: int = 1) -> nn.Module:
    by = cbr(i, o, 1, s, act=None) if s > 1 or i != o else None
    return Add(nn.Sequential(cbr(i, o, 3, s), cbr(o, o, act=None)), by, True)


class Exchange(nn.Module):
    """A stage of HRNet (1908.07919, figure 3): two blocks a branch, then every branch is summed into every other."""

    def __init__(self, w: int, branches: int) -> None:
        super().__init__()
        c = [w * 2**i for i in range(branches)]
        self.blocks = nn.ModuleList(nn.Sequential(basic(v, v), basic(v, v)) for v in c)
        self.fuse = nn.ModuleList(
            nn.ModuleList(self._path(c, i, j) if i != j else nn.Identity() for i in range(branches))
            for j in range(branches)
        )

    @staticmethod
    def _path(c: list[int], i: int, j: int) -> nn.Module:
        if i > j:
            return nn.Sequential(cbr(c[i], c[j], 1, act=None), nn.Upsample(scale_factor=2 ** (i - j), mode="nearest"))
        down = [cbr(c[i], c[i], 3, 2) for _ in range(j - i - 1)]
        return nn.Sequential(*down, cbr(c[i], c[j], 3, 2, act=None))

    def forward(self, xs: list[torch.Tensor]) -> list[torch.Tensor]:
        ys = [b(x) for b, x in zip(self.blocks, xs, strict=True)]
        out = []
        for paths in self.fuse:
            total = paths[0](ys[0])
            for path, y in zip(list(paths)[1:], ys[1:], strict=True):
                total = total + path(y)
            out.append(F.relu(total))
        return out


class HRNet(nn.Module):
    """HRNet of one exchange a stage, segmenting (1908.07919); w is the width of its finest branch."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(cbr(3, 32, 3, 2), cbr(32, 32, 3, 2), basic(32, 32), cbr(32, w))
        self.downs = nn.ModuleList(cbr(w * 2**i, w * 2 ** (i + 1), 3, 2) for i in range(3))
        self.stages = nn.ModuleList(Exchange(w, i + 2) for i in range(3))
        self.head = nn.Sequential(cbr(15 * w, 15 * w, 1), nn.Conv2d(15 * w, 19, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        xs = [self.stem(x)]
        for down, stage in zip(self.downs, self.stages, strict=True):
            xs = stage([*xs, down(xs[-1])])
        size = xs[0].shape[-2:]
        ups = [xs[0], *(F.interpolate(v, size=size, mode="bilinear", align_corners=False) for v in xs[1:])]
        return self.head(torch.cat(ups, 1))


class Tree(nn.Module):
    """Hierarchical deep aggregation (1707.06484, figure 3 f)."""

    def __init__(self, depth: int, i: int, o: int, s: int, extra: int = 0) -> None:
        super().__init__()
        self.depth = depth
        root = 2 * o + extra
        if depth == 1:
            self.left, self.right = basic(i, o, s), basic(o, o)
            self.root = cbr(root, o, 1)
        else:
            self.left, self.right = Tree(depth - 1, i, o, s), Tree(depth - 1, o, o, 1, extra + o)

    def forward(self, x: torch.Tensor, children: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
        a = self.left(x)
        if self.depth > 1:
            return self.right(a, (*children, a))
        return self.root(torch.cat([self.right(a), a, *children], 1))


def dla(w: int) -> nn.Module:
    """DLA-34 (1707.06484, table 1); w = 16 is its width."""
    stem = [cbr(3, w, 7), cbr(w, w), cbr(w, 2 * w, 3, 2)]
    trees = [Tree(1, 2 * w, 4 * w, 2), Tree(2, 4 * w, 8 * w, 2), Tree(2, 8 * w, 16 * w, 2), Tree(1, 16 * w, 32 * w, 2)]
    return nn.Sequential(*stem, *trees, *classifier(32 * w))


def wide_resnet(k: int) -> nn.Module:
    """WRN-16-k on 32 x 32 images, activations first (1605.07146, table 1)."""

    class Unit(nn.Module):
        def __init__(self, i: int, o: int, s: int) -> None:
            super().__init__()
            self.act = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU())
            self.body = nn.Sequential(cbr(i, o, 3, s), nn.Conv2d(o, o, 3, 1, 1, bias=False))
            self.by = nn.Conv2d(i, o, 1, s, bias=False) if i != o else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(x)
            return self.body(y) + (self.by(y) if self.by is not None else x)

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    c = 16
    for o, s in ((16 * k, 1), (16 * k, 1), (32 * k, 2), (32 * k, 1), (64 * k, 2), (64 * k, 1)):
        layers.append(Unit(c, o, s))
        c = o
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(c, 100))


def repvgg(w: int) -> nn.Module:
    """RepVGG-A0 as it is deployed (2101.03697, table 2), depths 2, 3, 6, 1; w = 48 is its width."""
    layers: list[nn.Module] = [nn.Conv2d(3, w, 3, 2, 1), nn.ReLU()]
    c = w
    for o, n in ((w, 2), (2 * w, 3), (4 * w, 6), (1280 * w // 48 // 8 * 8, 1)):
        for i in range(n):
            layers += [nn.Conv2d(c, o, 3, 2 if i == 0 else 1, 1), nn.ReLU()]
            c = o
    return nn.Sequential(*layers, *classifier(c))
