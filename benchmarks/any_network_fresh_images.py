"""Fresh networks of benchmarks/any_network_fresh.py: segmentation, detection, image to image."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Branches, cbr


def simple(i: int, o: int, s: int = 1) -> nn.Module:
    """ResNet-18's block."""
    by = cbr(i, o, 1, s, act=None) if s > 1 or i != o else None
    return Add(nn.Sequential(cbr(i, o, 3, s), cbr(o, o, act=None)), by, True)


class Refine(nn.Module):
    """Attention refinement (1808.00897, figure 2 b)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = cbr(i, o)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), cbr(o, o, 1, act=None), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y * self.gate(y)


class BiSeNet(nn.Module):
    """BiSeNet on ResNet-18 (1808.00897, figure 2, as its authors' code has the widths); w = 64 is its width."""

    def __init__(self, w: int, classes: int = 19) -> None:
        super().__init__()
        c = 2 * w
        self.spatial = nn.Sequential(cbr(3, w, 7, 2), cbr(w, w, 3, 2), cbr(w, w, 3, 2), cbr(w, c, 1))
        stem = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1), simple(w, w), simple(w, w), simple(w, 2 * w, 2)]
        self.c4 = nn.Sequential(*stem, simple(2 * w, 2 * w), simple(2 * w, 4 * w, 2), simple(4 * w, 4 * w))
        self.c5 = nn.Sequential(simple(4 * w, 8 * w, 2), simple(8 * w, 8 * w))
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), cbr(8 * w, c, 1))
        self.a4, self.a5, self.h4, self.h5 = Refine(4 * w, c), Refine(8 * w, c), cbr(c, c), cbr(c, c)
        self.fuse = cbr(2 * c, 2 * c, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * c, c // 2, 1, bias=False), nn.ReLU(),
                                  nn.Conv2d(c // 2, 2 * c, 1, bias=False), nn.Sigmoid())  # fmt: skip
        self.head = nn.Sequential(cbr(2 * c, 2 * c), nn.Conv2d(2 * c, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c4 = self.c4(x)
        c5 = self.c5(c4)
        y = self.h5(F.interpolate(self.a5(c5) + self.whole(c5), scale_factor=2))
        y = self.h4(F.interpolate(self.a4(c4) + y, scale_factor=2))
        y = self.fuse(torch.cat([self.spatial(x), y], 1))
        y = self.head(y + y * self.gate(y))
        return F.interpolate(y, scale_factor=8, mode="bilinear", align_corners=True)


class RetinaNet(nn.Module):
    """A pyramid of features on ResNet-18 (1612.03144, figure 3), heads of two of the four convolutions
    (1708.02002, figure 3); w = 64 is its width."""

    def __init__(self, w: int, classes: int = 20, anchors: int = 9) -> None:
        super().__init__()
        self.k, c = classes, 4 * w
        stem = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1), simple(w, w), simple(w, w)]
        self.c3 = nn.Sequential(*stem, simple(w, 2 * w, 2), simple(2 * w, 2 * w))
        self.c4 = nn.Sequential(simple(2 * w, 4 * w, 2), simple(4 * w, 4 * w))
        self.c5 = nn.Sequential(simple(4 * w, 8 * w, 2), simple(8 * w, 8 * w))
        self.lateral = nn.ModuleList(nn.Conv2d(i * w, c, 1) for i in (2, 4, 8))
        self.smooth = nn.ModuleList(nn.Conv2d(c, c, 3, 1, 1) for _ in range(3))
        self.p6, self.p7 = nn.Conv2d(8 * w, c, 3, 2, 1), nn.Conv2d(c, c, 3, 2, 1)

        def head(o: int) -> nn.Sequential:
            body = [nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1), nn.ReLU()]
            return nn.Sequential(*body, nn.Conv2d(c, anchors * o, 3, 1, 1))

        self.what, self.where = head(classes), head(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c3 = self.c3(x)
        c4 = self.c4(c3)
        c5 = self.c5(c4)
        m5 = self.lateral[2](c5)
        m4 = self.lateral[1](c4) + F.interpolate(m5, scale_factor=2)
        m3 = self.lateral[0](c3) + F.interpolate(m4, scale_factor=2)
        p6 = self.p6(c5)
        levels = [*(f(m) for f, m in zip(self.smooth, (m3, m4, m5), strict=True)), p6, self.p7(F.relu(p6))]
        found = []
        for p in levels:
            what = self.what(p).permute(0, 2, 3, 1).reshape(1, -1, self.k)
            where = self.where(p).permute(0, 2, 3, 1).reshape(1, -1, 4)
            found.append(torch.cat([where, torch.sigmoid(what)], 2))
        return torch.cat(found, 1)


def dilated(i: int, o: int, rate: int) -> nn.Sequential:
    conv = nn.Conv2d(i, o, 3, 1, rate, dilation=rate, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU())


class ImagePool(nn.Module):
    """The mean of the image, put to its every place."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), cbr(i, o, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class DeepLab(nn.Module):
    """DeepLabv3 on ResNet-26, strides to 16 (1706.05587, figure 5, rates 6, 12, 18); w = 64 is its width."""

    def __init__(self, w: int, classes: int = 21) -> None:
        super().__init__()
        layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
        c = w
        for m, s, rate in ((w, 1, 1), (w, 1, 1), (2 * w, 2, 1), (2 * w, 1, 1), (4 * w, 2, 1), (4 * w, 1, 1),
                           (8 * w, 1, 2), (8 * w, 1, 4)):  # fmt: skip
            by = cbr(c, 4 * m, 1, s, act=None) if c != 4 * m else None
            mid = dilated(m, m, rate) if rate > 1 else cbr(m, m, 3, s)
            layers.append(Add(nn.Sequential(cbr(c, m, 1), mid, cbr(m, 4 * m, 1, act=None)), by, True))
            c = 4 * m
        o = 4 * w
        spread = Branches(cbr(c, o, 1), *(dilated(c, o, rate) for rate in (6, 12, 18)), ImagePool(c, o))
        head = [spread, cbr(5 * o, o, 1), nn.Dropout(), cbr(o, o), nn.Conv2d(o, classes, 1)]
        self.body = nn.Sequential(*layers, *head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.body(x), scale_factor=16, mode="bilinear", align_corners=False)


def style_transfer(w: int) -> nn.Module:
    """Styles in one pass (1603.08155, supplement, table 1), with instance normalisation (1607.08022) and nearest
    upsampling before convolutions in place of strides of 1/2; w = 32 is its width."""

    def part(i: int, o: int, k: int, s: int = 1, relu: bool = True) -> list[nn.Module]:
        conv = [nn.ReflectionPad2d(k // 2), nn.Conv2d(i, o, k, s), nn.InstanceNorm2d(o, affine=True)]
        return [*conv, nn.ReLU()] if relu else conv

    c = 4 * w
    down = [*part(3, w, 9), *part(w, 2 * w, 3, 2), *part(2 * w, c, 3, 2)]
    body = [Add(nn.Sequential(*part(c, c, 3), *part(c, c, 3, relu=False))) for _ in range(5)]
    up = [nn.Upsample(scale_factor=2), *part(c, 2 * w, 3), nn.Upsample(scale_factor=2), *part(2 * w, w, 3)]
    return nn.Sequential(*down, *body, *up, nn.ReflectionPad2d(4), nn.Conv2d(w, 3, 9))
