"""Fourth networks of benchmarks/any_network_fourth.py: mobile ones."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Excite, cbr, classifier


def by_eight(v: float) -> int:
    """The nearest multiple of eight, not below 90 % of v (1801.04381, as its authors' code)."""
    near = max(8, int(v + 4) // 8 * 8)
    return near + 8 if near < 0.9 * v else near


def efficientnet_lite(w: int) -> nn.Module:
    """EfficientNet-Lite0 of ReLU6 without gates (1905.11946, table 1, as its authors' Lite); w is the width in
    hundredths; from 110 on as deep as Lite2. Its stem, head and the depth of its outer stages are fixed."""
    deep = 1.2 if w >= 110 else 1.0
    layers: list[nn.Module] = [cbr(3, 32, 3, 2, act=nn.ReLU6)]
    c = 32
    rows = ((3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2), (5, 6, 112, 3, 1),
            (5, 6, 192, 4, 2), (3, 6, 320, 1, 1))  # fmt: skip
    for at, (k, t, o, n, s) in enumerate(rows):
        o = by_eight(o * w / 100)
        for i in range(n if at in (0, 6) else math.ceil(n * deep)):
            m, stride = c * t, s if i == 0 else 1
            expand = [cbr(c, m, 1, act=nn.ReLU6)] if t > 1 else []
            body = nn.Sequential(*expand, cbr(m, m, k, stride, m, nn.ReLU6), cbr(m, o, 1, act=None))
            layers.append(Add(body) if stride == 1 and c == o else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 1280, 1, act=nn.ReLU6), *classifier(1280))


def hard(i: int, o: int, k: int = 1, s: int = 1, g: int = 1) -> nn.Sequential:
    return cbr(i, o, k, s, g, nn.Hardswish)


def gate(c: int) -> nn.Module:
    return Excite(c, c // 4, nn.ReLU, nn.Hardsigmoid)


class Mixed(nn.Module):
    """Half a map kept, half put beside a cheap copy of itself, gated; then shuffled (2111.00902, section 3.1)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        h = c // 2
        self.start, self.cheap = hard(h, h), cbr(h, h, 3, 1, h, None)
        self.gate, self.end = gate(c), hard(c, h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, y = torch.chunk(x, 2, 1)
        y = self.start(y)
        x = torch.cat([kept, self.end(self.gate(torch.cat([y, self.cheap(y)], 1)))], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Halved(nn.Module):
    """A stride: two ways side by side, mixed by a depthwise and a 1 x 1 convolution (2111.00902, section 3.1)."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        h = o // 2
        self.one = nn.Sequential(cbr(i, i, 3, 2, i, None), hard(i, h))
        self.two = nn.Sequential(hard(i, h), cbr(h, h, 3, 2, h, None), gate(h), hard(h, h))
        self.mix = nn.Sequential(hard(o, o, 3, 1, o), hard(o, o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(torch.cat([self.one(x), self.two(x)], 1))


def esnet(w: int) -> nn.Module:
    """ESNet, the enhanced ShuffleNet of PP-PicoDet, as a classifier (2111.00902, section 3.1, as its authors' code); w
    is the width in hundredths."""
    layers: list[nn.Module] = [hard(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    c = 24
    for o, n in ((116, 3), (232, 7), (464, 3)):
        o = by_eight(o * w / 100)
        layers += [Halved(c, o), *(Mixed(o) for _ in range(n - 1))]
        c = o
    last = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(1024, 1280, 1, bias=False), nn.Hardswish(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, hard(c, 1024), *last, nn.Flatten(), nn.Linear(1280, 1000))


def folded(i: int, o: int, k: int, s: int = 1, g: int = 1) -> list[nn.Module]:
    """A convolution whose branches and batch norms are folded into it."""
    return [nn.Conv2d(i, o, k, s, k // 2, groups=g), nn.ReLU()]


def mobileone(which: int) -> nn.Module:
    """MobileOne-S0, S1 and S3 as they are deployed, every block a depthwise and a 1 x 1 convolution (2206.04040,
    sections 3.2 and 3.3); the number is theirs."""
    wide = {0: (0.75, 1.0, 1.0, 2.0), 1: (1.5, 1.5, 2.0, 2.5), 3: (2.0, 2.5, 3.0, 4.0)}[which]
    c = min(64, int(64 * wide[0]))
    layers = folded(3, c, 3, 2)
    for base, times, n in zip((64, 128, 256, 512), wide, (2, 8, 10, 1), strict=True):
        for i in range(n):
            o = int(base * times)
            layers += [*folded(c, c, 3, 2 if i == 0 else 1, c), *folded(c, o, 1)]
            c = o
    return nn.Sequential(*layers, *classifier(c))


class Blaze(nn.Module):
    """One or two depthwise 5 x 5, each with its 1 x 1; the shortcut pooled and padded (1907.05047, figure 1)."""

    def __init__(self, i: int, o: int, s: int = 1, between: int = 0) -> None:
        super().__init__()
        m = between or o
        body: list[nn.Module] = [nn.Conv2d(i, i, 5, s, 2, groups=i), nn.Conv2d(i, m, 1)]
        if between:
            body += [nn.ReLU(), nn.Conv2d(m, m, 5, 1, 2, groups=m), nn.Conv2d(m, o, 1)]
        self.body, self.more = nn.Sequential(*body), o - i
        self.pool = nn.MaxPool2d(2) if s > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.pool is None else self.pool(x)
        if self.more:
            kept = F.pad(kept, (0, 0, 0, 0, 0, self.more))
        return F.relu(kept + self.body(x))


class BlazeFace(nn.Module):
    """BlazeFace, batch norms folded: two maps of anchors, of each a score and 16 numbers (1907.05047, appendix A);
    w = 24 is its width."""

    def __init__(self, w: int) -> None:
        super().__init__()
        a, b = 2 * w, 4 * w
        start = [
            nn.Conv2d(3, w, 5, 2, 2),
            nn.ReLU(),
            Blaze(w, w),
            Blaze(w, w),
            Blaze(w, a, 2),
            Blaze(a, a),
            Blaze(a, a),
        ]
        self.large = nn.Sequential(*start, Blaze(a, b, 2, w), Blaze(b, b, 1, w), Blaze(b, b, 1, w))
        self.small = nn.Sequential(Blaze(b, b, 2, w), Blaze(b, b, 1, w), Blaze(b, b, 1, w))
        self.scores = nn.ModuleList(nn.Conv2d(b, n, 1) for n in (2, 6))
        self.boxes = nn.ModuleList(nn.Conv2d(b, 16 * n, 1) for n in (2, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = self.large(x)
        found = []
        for y, score, box in zip((large, self.small(large)), self.scores, self.boxes, strict=True):
            rows = (score(y).permute(0, 2, 3, 1).reshape(1, -1, 1), box(y).permute(0, 2, 3, 1).reshape(1, -1, 16))
            found.append(torch.cat(rows, 2))
        return torch.cat(found, 1)
