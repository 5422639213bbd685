"""Third networks of benchmarks/any_network_third.py: mobile and efficient ones."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import torch
from torch import nn

from benchmarks.any_network_parts import Add, Branches, Excite, cbr, classifier


def shares(c: int, n: int) -> list[int]:
    """`c` channels in `n` parts, the rest to the first."""
    return [c // n + (c % n if k == 0 else 0) for k in range(n)]


class Mixed(nn.Module):
    """A part of the channels for every window (1907.09595, figure 2)."""

    def __init__(self, i: int, o: int, windows: tuple[int, ...], s: int = 1) -> None:
        super().__init__()
        self.parts = shares(i, len(windows))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, s, k // 2, groups=a if k > 1 else 1, bias=False)
            for a, b, k in zip(self.parts, shares(o, len(windows)), windows, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.parts) == 1:
            return self.convs[0](x)
        return torch.cat([f(p) for f, p in zip(self.convs, torch.split(x, self.parts, 1), strict=True)], 1)


def mixnet(w: int) -> nn.Module:
    """MixNet-S (1907.09595, figure 5, as its authors' code splits 1 x 1 convolutions); w = 16 is width 1."""
    # windows, parts of the expansion, parts of the projection, expansion, width, blocks, gate's part, stride
    rows = (((3,), 2, 2, 6, 24, 1, 0, 2), ((3,), 2, 2, 3, 24, 1, 0, 1), ((3, 5, 7), 1, 1, 6, 40, 1, 2, 2),
            ((3, 5), 2, 2, 6, 40, 3, 2, 1), ((3, 5, 7), 1, 2, 6, 80, 1, 4, 2), ((3, 5), 1, 2, 6, 80, 2, 4, 1),
            ((3, 5, 7), 2, 2, 6, 120, 1, 2, 1), ((3, 5, 7, 9), 2, 2, 3, 120, 2, 2, 1),
            ((3, 5, 7, 9, 11), 1, 1, 6, 200, 1, 2, 2), ((3, 5, 7, 9), 1, 2, 6, 200, 2, 2, 1))  # fmt: skip
    layers: list[nn.Module] = [cbr(3, w, 3, 2), Add(nn.Sequential(cbr(w, w, 3, 1, w), cbr(w, w, 1, act=None)))]
    c = w
    for windows, a, b, t, o, n, part, s in rows:
        o, act = o * w // 16 // 4 * 4, nn.SiLU if part else nn.ReLU
        for _ in range(n):
            m = c * t
            gate = [Excite(m, max(4, c // part), nn.SiLU, nn.Sigmoid)] if part else []
            expand = [Mixed(c, m, (1,) * a), nn.BatchNorm2d(m), act()]
            spread = [Mixed(m, m, windows, s), nn.BatchNorm2d(m), act(), *gate]
            body = nn.Sequential(*expand, *spread, Mixed(m, o, (1,) * b), nn.BatchNorm2d(o))
            layers.append(Add(body) if s == 1 and c == o else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 96 * w, 1), *classifier(96 * w))


def repvit(w: int) -> nn.Module:
    """RepViT-M0.9 with six of the 16 blocks of its third stage, branches merged as it is deployed (2307.09283, figure
    3, section 3, as its authors' code); w = 48 is its width."""
    layers: list[nn.Module] = [cbr(3, w // 2, 3, 2, act=nn.GELU), cbr(w // 2, w, 3, 2, act=None)]
    c = w
    for stage, n in enumerate((3, 4, 6, 3)):
        o = w * 2**stage
        for i in range(n):
            gated = i % 2 == (1 if stage else 0) and i < n - 1
            if stage and i == 0:
                mix: list[nn.Module] = [cbr(c, c, 3, 2, c, None), cbr(c, o, 1, act=None)]
            else:
                mix = [nn.Conv2d(c, c, 3, 1, 1, groups=c)]
                mix += [Excite(c, max(8, c // 4), nn.ReLU, nn.Sigmoid)] if gated else []
            layers += [*mix, Add(nn.Sequential(cbr(o, 2 * o, 1, act=nn.GELU), cbr(2 * o, o, 1, act=None)))]
            c = o
    return nn.Sequential(*layers, *classifier(c))


def mobilenet_v4(w: int) -> nn.Module:
    """MobileNetV4-Conv-S (2404.10518, figure 4, appendix D); w = 32 is width 1."""

    def n(v: int) -> int:
        return v * w // 32

    # windows before and after the expansion (0: none), expansion, width, stride
    rows = ((5, 5, 3, 96, 2), *[(0, 3, 2, 96, 1)] * 4, (3, 0, 4, 96, 1), (3, 3, 6, 128, 2), (5, 5, 4, 128, 1),
            (0, 5, 4, 128, 1), (0, 5, 3, 128, 1), (0, 3, 4, 128, 1), (0, 3, 4, 128, 1))  # fmt: skip
    layers: list[nn.Module] = [cbr(3, w, 3, 2), cbr(w, w, 3, 2), cbr(w, w, 1), cbr(w, n(96), 3, 2)]
    layers.append(cbr(n(96), n(64), 1))
    c = n(64)
    for a, b, t, o, s in rows:
        m, o = c * t, n(o)
        body = [cbr(c, c, a, 1 if b else s, c, None)] if a else []
        body += [cbr(c, m, 1), *([cbr(m, m, b, s, m)] if b else []), cbr(m, o, 1, act=None)]
        layers.append(Add(nn.Sequential(*body)) if s == 1 and c == o else nn.Sequential(*body))
        c = o
    head = [cbr(c, n(960), 1), nn.AdaptiveAvgPool2d(1), cbr(n(960), n(1280), 1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(n(1280), 1000))


def pp_lcnet(w: int) -> nn.Module:
    """PP-LCNet (2109.15099, table 2, figure 1); w = 16 is width 1."""
    # window, width, stride, gate
    rows = ((3, 2, 1, 0), (3, 4, 2, 0), (3, 4, 1, 0), (3, 8, 2, 0), (3, 8, 1, 0), (3, 16, 2, 0),
            *[(5, 16, 1, 0)] * 5, (5, 32, 2, 1), (5, 32, 1, 1))  # fmt: skip
    layers: list[nn.Module] = [cbr(3, w, 3, 2, act=nn.Hardswish)]
    c = w
    for k, wide, s, se in rows:
        layers.append(cbr(c, c, k, s, c, nn.Hardswish))
        layers += [Excite(c, c // 4, nn.ReLU, nn.Hardsigmoid)] if se else []
        layers.append(cbr(c, w * wide, 1, act=nn.Hardswish))
        c = w * wide
    head = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 1280, 1, bias=False), nn.Hardswish(), nn.Dropout(), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(1280, 1000))


def peleenet(growth: int) -> nn.Module:
    """PeleeNet with 3, 4, 6, 4 of its 3, 4, 8, 6 layers (1804.06882, table 1, figures 1 and 2); growth 32 is its."""
    c, half = growth, growth // 2
    stem = Branches(nn.Sequential(cbr(c, half, 1), cbr(half, c, 3, 2)), nn.MaxPool2d(2, 2))
    layers: list[nn.Module] = [cbr(3, c, 3, 2), stem, cbr(2 * c, c, 1)]
    for stage, (n, wide) in enumerate(((3, 1), (4, 2), (6, 4), (4, 4))):
        for _ in range(n):
            m = half * wide if half * wide <= c // 2 else c // 8 * 4
            two = nn.Sequential(cbr(c, m, 1), cbr(m, half), cbr(half, half))
            layers.append(Branches(nn.Identity(), nn.Sequential(cbr(c, m, 1), cbr(m, half)), two))
            c += growth
        layers += [cbr(c, c, 1), *([nn.AvgPool2d(2, 2)] if stage < 3 else [])]
    return nn.Sequential(*layers, *classifier(c))


class Partial(nn.Module):
    """A quarter of the channels convolved, then two 1 x 1 convolutions (2303.03667, figure 4)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.parts = [c // 4, c - c // 4]
        self.conv = nn.Conv2d(c // 4, c // 4, 3, 1, 1, bias=False)
        self.rest = nn.Sequential(cbr(c, 2 * c, 1, act=nn.GELU), nn.Conv2d(2 * c, c, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = torch.split(x, self.parts, 1)
        return x + self.rest(torch.cat([self.conv(a), b], 1))


def fasternet(c: int) -> nn.Module:
    """FasterNet-T0 (2303.03667, table 9); c = 40 is its width."""
    layers: list[nn.Module] = [nn.Conv2d(3, c, 4, 4, bias=False), nn.BatchNorm2d(c)]
    for stage, n in enumerate((1, 2, 8, 2)):
        if stage:
            layers += [nn.Conv2d(c, 2 * c, 2, 2, bias=False), nn.BatchNorm2d(2 * c)]
            c *= 2
        layers += [Partial(c) for _ in range(n)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 1280, 1, bias=False), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(1280, 1000))


def prelu(i: int, o: int, k: int = 3, s: int = 1, g: int = 1) -> nn.Sequential:
    return nn.Sequential(cbr(i, o, k, s, g, None), nn.PReLU(o))


def mobilefacenet(w: int, size: int) -> nn.Module:
    """MobileFaceNet: a face to 128 numbers, through a depthwise convolution as large as the map (1804.07573, table 1);
    w = 64 is its width."""
    layers: list[nn.Module] = [prelu(3, w, 3, 2), prelu(w, w, 3, 1, w)]
    c = w
    for t, wide, n, s in ((2, 1, 5, 2), (4, 2, 1, 2), (2, 2, 6, 1), (4, 2, 1, 2), (2, 2, 2, 1)):
        for i in range(n):
            m, o, stride = c * t, wide * w, s if i == 0 else 1
            body = nn.Sequential(prelu(c, m, 1), prelu(m, m, 3, stride, m), cbr(m, o, 1, act=None))
            layers.append(Add(body) if stride == 1 and c == o else body)
            c = o
    m = 8 * w
    whole = [nn.Conv2d(m, m, -(-size // 16), groups=m, bias=False), nn.BatchNorm2d(m)]
    return nn.Sequential(*layers, prelu(c, m, 1), *whole, cbr(m, 128, 1, act=None), nn.Flatten())
