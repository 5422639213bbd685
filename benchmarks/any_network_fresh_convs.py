"""Fresh networks of benchmarks/any_network_fresh.py: convolutions, their sums, splits and concatenations."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Branches, Excite, cbr, classifier


def tail(c: int, m: int, o: int) -> list[nn.Module]:
    """AlexNet's classifier."""
    first = [nn.Flatten(), nn.Dropout(), nn.Linear(c, m), nn.ReLU()]
    return [*first, nn.Dropout(), nn.Linear(m, m), nn.ReLU(), nn.Linear(m, o)]


def alexnet(w: int, size: int) -> nn.Module:
    """AlexNet of one tower (1404.5997, section 5 and footnote 1; 2012's without normalisation); w = 64 is its width."""
    side, c = (size + 4 - 11) // 4 + 1, 3
    layers: list[nn.Module] = []
    for o, k, s, pools in ((w, 11, 4, 1), (3 * w, 5, 1, 1), (6 * w, 3, 1, 0), (4 * w, 3, 1, 0), (4 * w, 3, 1, 1)):
        layers += [nn.Conv2d(c, o, k, s, 2 if k == 11 else k // 2), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pools else []
        c, side = o, (side - 3) // 2 + 1 if pools else side
    return nn.Sequential(*layers, *tail(c * side**2, 64 * w, 1000))


def resnet_se(w: int) -> nn.Module:
    """SE-ResNet-26 of bottlenecks (1709.01507, figure 3, table 1), reduction 16; w = 64 is its width."""
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = w
    for m, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        gate = Excite(4 * m, m // 4, nn.ReLU, nn.Sigmoid)
        by = cbr(c, 4 * m, 1, s, act=None) if s > 1 or c != 4 * m else None
        body = nn.Sequential(cbr(c, m, 1), cbr(m, m, 3, s), cbr(m, 4 * m, 1, act=None), gate)
        layers.append(Add(body, by, True))
        c = 4 * m
    return nn.Sequential(*layers, *classifier(c))


class Pyramidal(nn.Module):
    """A block whose shortcut is padded with channels of zeros (1610.02915, figure 6 d)."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        first = [nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.body = nn.Sequential(*first, nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
        self.by, self.more = nn.AvgPool2d(2, 2) if s > 1 else nn.Identity(), o - i

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + F.pad(self.by(x), (0, 0, 0, 0, 0, self.more))


def pyramidnet(a: int) -> nn.Module:
    """PyramidNet of 20 layers, its width growing by `a` in steps (1610.02915, equation 3, table 1)."""
    layers: list[nn.Module] = [cbr(3, 16, act=None)]
    c = 16
    for n in range(1, 10):
        o = 16 + a * n // 9
        layers.append(Pyramidal(c, o, 2 if n in (4, 7) else 1))
        c = o
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(c, 100))


class Scales(nn.Module):
    """Four groups, each but the last convolved, after adding what came out before (1904.01169, figure 2 b)."""

    def __init__(self, c: int, s: int, starts: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(cbr(c, c, 3, s) for _ in range(3))
        self.pool = nn.AvgPool2d(3, s, 1) if starts else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.chunk(4, 1)
        if self.pool is not None:  # where a stage starts the groups differ from what comes out: nothing is added
            return torch.cat([*(f(p) for f, p in zip(self.convs, parts, strict=False)), self.pool(parts[3])], 1)
        out, y = [], self.convs[0](parts[0])
        out.append(y)
        for conv, part in zip(list(self.convs)[1:], parts[1:], strict=False):
            y = conv(y + part)
            out.append(y)
        return torch.cat([*out, parts[3]], 1)


def res2net(w: int) -> nn.Module:
    """Res2Net-26 of four scales (1904.01169, section 3), as its authors' code has it; w = 26 is its width."""
    layers: list[nn.Module] = [cbr(3, 5 * w // 2, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = 5 * w // 2
    for m, o in ((w, 10 * w), (2 * w, 20 * w), (4 * w, 40 * w), (8 * w, 80 * w)):
        for i in range(2):
            s = 2 if i == 0 and m > w else 1
            body = nn.Sequential(cbr(c, 4 * m, 1), Scales(m, s, i == 0), cbr(4 * m, o, 1, act=None))
            layers.append(Add(body, cbr(c, o, 1, s, act=None) if i == 0 else None, True))
            c = o
    return nn.Sequential(*layers, *classifier(c))


def valid(i: int, o: int, k: int, s: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def pair(c: int, k: int) -> nn.Sequential:
    """A k x k convolution as 1 x k and k x 1."""
    across = [nn.Conv2d(c, c, (1, k), 1, (0, k // 2), bias=False), nn.BatchNorm2d(c), nn.ReLU()]
    return nn.Sequential(*across, nn.Conv2d(c, c, (k, 1), 1, (k // 2, 0), bias=False), nn.BatchNorm2d(c), nn.ReLU())


class ScaledResidual(nn.Module):
    """Branches, brought to the width by a linear convolution, and scaled (1602.07261, section 3.3)."""

    def __init__(self, c: int, wide: int, scale: float, *branches: nn.Module) -> None:
        super().__init__()
        self.body, self.scale = nn.Sequential(Branches(*branches), nn.Conv2d(wide, c, 1)), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.scale * self.body(x))


def inception_resnet(w: int) -> nn.Module:
    """Inception-ResNet-v1 with 2, 3, 2 of its 5, 10, 5 blocks (1602.07261, figures 10 to 14); w = 32 is its width."""
    a, b, c = 8 * w, 28 * w, 56 * w
    m, n = 4 * w, 6 * w
    pool = nn.MaxPool2d(3, 2)
    stem = [valid(3, w, 3, 2), valid(w, w, 3), cbr(w, 2 * w), pool, cbr(2 * w, 5 * w // 2, 1)]
    layers: list[nn.Module] = [*stem, valid(5 * w // 2, 6 * w, 3), valid(6 * w, a, 3, 2)]
    for _ in range(2):
        three = nn.Sequential(cbr(a, w, 1), cbr(w, w), cbr(w, w))
        layers.append(ScaledResidual(a, 3 * w, 0.17, cbr(a, w, 1), nn.Sequential(cbr(a, w, 1), cbr(w, w)), three))
    deep = nn.Sequential(cbr(a, 6 * w, 1), cbr(6 * w, 6 * w), valid(6 * w, 8 * w, 3, 2))
    layers.append(Branches(pool, valid(a, 12 * w, 3, 2), deep))
    for _ in range(3):
        layers.append(ScaledResidual(b, 2 * m, 0.1, cbr(b, m, 1), nn.Sequential(cbr(b, m, 1), pair(m, 7))))
    long = nn.Sequential(cbr(b, 8 * w, 1), cbr(8 * w, 8 * w), valid(8 * w, 8 * w, 3, 2))
    twice = [nn.Sequential(cbr(b, 8 * w, 1), valid(8 * w, o, 3, 2)) for o in (12 * w, 8 * w)]
    layers.append(Branches(pool, *twice, long))
    for _ in range(2):
        layers.append(ScaledResidual(c, 2 * n, 0.2, cbr(c, n, 1), nn.Sequential(cbr(c, n, 1), pair(n, 3))))
    return nn.Sequential(*layers, *classifier(c))


class SplitAttention(nn.Module):
    """Two splits of a grouped convolution, weighed channel by channel (2004.08955, figure 2)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c, r = c, max(32, c // 2)
        self.conv = cbr(c, 2 * c, 3, 1, 2)
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, r, 1), nn.BatchNorm2d(r), nn.ReLU(),
                                   nn.Conv2d(r, 2 * c, 1))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.conv(x).split(self.c, 1)
        weights = torch.softmax(self.weigh(a + b).reshape(1, 2, self.c, 1, 1), 1)
        return a * weights[:, 0] + b * weights[:, 1]


def resnest(w: int) -> nn.Module:
    """ResNeSt-26, radix 2 (2004.08955, section 3, table 1: deep stem, average pooling); w = 64 is its width."""
    layers: list[nn.Module] = [cbr(3, w // 2, 3, 2), cbr(w // 2, w // 2), cbr(w // 2, w), nn.MaxPool2d(3, 2, 1)]
    c = w
    for m, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        pool: list[nn.Module] = [nn.AvgPool2d(3, s, 1)] if s > 1 else []
        by: nn.Module | None = None
        if c != 4 * m:
            by = nn.Sequential(*([nn.AvgPool2d(s, s)] if s > 1 else []), cbr(c, 4 * m, 1, act=None))
        layers.append(Add(nn.Sequential(cbr(c, m, 1), SplitAttention(m), *pool, cbr(m, 4 * m, 1, act=None)), by, True))
        c = 4 * m
    return nn.Sequential(*layers, *classifier(c))


class OneShot(nn.Module):
    """One-shot aggregation with an effective squeeze and excitation (1911.06667, figure 2 c, equation 2)."""

    def __init__(self, i: int, m: int, o: int, n: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cbr(i if k == 0 else m, m) for k in range(n))
        self.join, self.gate, self.adds = cbr(i + n * m, o, 1), nn.Conv2d(o, o, 1), i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(layer(seen[-1]))
        y = self.join(torch.cat(seen, 1))
        y = y * F.hardsigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        return x + y if self.adds else y


def vovnet(w: int) -> nn.Module:
    """VoVNetV2-19-slim, its third stage twice (1904.09730, table 1; 1911.06667, section 3); w = 16 is its width."""
    layers: list[nn.Module] = [cbr(3, 4 * w, 3, 2), cbr(4 * w, 4 * w), cbr(4 * w, 4 * w, 3, 2)]
    c = 4 * w
    for stage, (m, o, n) in enumerate(((4, 7, 1), (5, 16, 1), (6, 24, 2), (7, 32, 1))):
        layers += [nn.MaxPool2d(3, 2, ceil_mode=True)] if stage else []
        for _ in range(n):
            layers.append(OneShot(c, m * w, o * w))
            c = o * w
    return nn.Sequential(*layers, *classifier(c))


class Harmonic(nn.Module):
    """Layer k takes layer k - 2^n where 2^n divides k, and is 1.7^n as wide (1909.00948, figure 1, section 3.2)."""

    def __init__(self, i: int, growth: int, n: int) -> None:
        super().__init__()
        self.links: list[list[int]] = []
        self.layers = nn.ModuleList()
        wide = [i]
        for k in range(1, n + 1):
            links = [k - 2**p for p in range(10) if k % 2**p == 0 and k >= 2**p]
            wide.append(int(growth * 1.7 ** (len(links) - 1) + 1) // 2 * 2)
            self.layers.append(cbr(sum(wide[j] for j in links), wide[-1], act=nn.ReLU6))
            self.links.append(links)
        self.out = [k for k in range(n + 1) if k == n or k % 2 == 1]
        self.wide = sum(wide[k] for k in self.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for layer, links in zip(self.layers, self.links, strict=True):
            seen.append(layer(torch.cat([seen[j] for j in links], 1) if len(links) > 1 else seen[links[0]]))
        return torch.cat([seen[k] for k in self.out], 1)


def hardnet(w: int) -> nn.Module:
    """HarDNet-68 at half its depth (1909.00948, table 1); w = 32 is its width."""
    layers: list[nn.Module] = [cbr(3, w, 3, 2, act=nn.ReLU6), cbr(w, 2 * w, act=nn.ReLU6), nn.MaxPool2d(3, 2, 1)]
    c = 2 * w
    for o, growth, n, pools in ((128, 14, 4, 1), (256, 16, 8, 0), (320, 20, 8, 1), (640, 40, 8, 1), (1024, 160, 4, 0)):
        block = Harmonic(c, growth * w // 32, n)
        c = o * w // 32
        layers += [block, cbr(block.wide, c, 1, act=nn.ReLU6), *([nn.MaxPool2d(2, 2)] if pools else [])]
    return nn.Sequential(*layers, *classifier(c))
