"""Third networks of benchmarks/any_network_third.py: classifiers of plain, grouped and gated convolutions."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Branches, Excite, cbr, classifier


def conv(i: int, o: int, k: int | tuple[int, int], s: int = 1, same: bool = True) -> nn.Sequential:
    """A convolution of any window, padded or not, with batch norm and ReLU."""
    high, wide = (k, k) if isinstance(k, int) else k
    pad = (high // 2, wide // 2) if same else 0
    return nn.Sequential(nn.Conv2d(i, o, (high, wide), s, pad, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def inception_v3(w: int) -> nn.Module:
    """Inception-v3 (1512.00567, table 1, figures 5 to 7, as torchvision has the widths); w = 32 is its width."""

    def n(v: int) -> int:
        return v * w // 32

    def chain(i: int, *rows: tuple[int, int | tuple[int, int]], last: int = 1) -> nn.Module:
        """Convolutions of (width, window); the last, of a stride, is not padded."""
        layers = []
        for at, (o, k) in enumerate(rows, 1):
            reduces = last > 1 and at == len(rows)
            layers.append(conv(i, n(o), k, last if reduces else 1, not reduces))
            i = n(o)
        return nn.Sequential(*layers)

    def pooled(i: int, o: int) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(3, 1, 1), cbr(i, n(o), 1))

    def both(i: int) -> nn.Module:
        return Branches(conv(i, n(384), (1, 3)), conv(i, n(384), (3, 1)))

    pool, a, b = nn.MaxPool2d(3, 2), (1, 7), (7, 1)
    layers: list[nn.Module] = [conv(3, w, 3, 2, False), conv(w, w, 3, 1, False), cbr(w, n(64)), pool]
    layers += [cbr(n(64), n(80), 1), conv(n(80), n(192), 3, 1, False), pool]
    c = n(192)
    for o in (32, 64, 64):
        layers.append(Branches(chain(c, (64, 1)), chain(c, (48, 1), (64, 5)), chain(c, (64, 1), (96, 3), (96, 3)),
                               pooled(c, o)))  # fmt: skip
        c = n(224) + n(o)
    layers.append(Branches(chain(c, (384, 3), last=2), chain(c, (64, 1), (96, 3), (96, 3), last=2), pool))
    c = n(768)
    for m in (128, 160, 160, 192):
        long = chain(c, (m, 1), (m, b), (m, a), (m, b), (192, a))
        layers.append(Branches(chain(c, (192, 1)), chain(c, (m, 1), (m, a), (192, b)), long, pooled(c, 192)))
    long = chain(c, (192, 1), (192, a), (192, b), (192, 3), last=2)
    layers.append(Branches(chain(c, (192, 1), (320, 3), last=2), long, pool))
    for c in (n(1280), n(2048)):
        deep = nn.Sequential(chain(c, (448, 1), (384, 3)), both(n(384)))
        layers.append(Branches(chain(c, (320, 1)), nn.Sequential(chain(c, (384, 1)), both(n(384))), deep,
                               pooled(c, 192)))  # fmt: skip
    return nn.Sequential(*layers, *classifier(n(2048)))


def pre(i: int, o: int, k: int = 1, s: int = 1, g: int = 1) -> list[nn.Module]:
    """Batch norm and ReLU before a convolution."""
    return [nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False)]


class DualPath(nn.Module):
    """A path that adds and one that grows, of one body (1707.01629, figure 2 d)."""

    def __init__(self, i: int, m: int, c: int, more: int, s: int, groups: int, starts: bool) -> None:
        super().__init__()
        self.c = c
        self.by = nn.Sequential(*pre(i, c + 2 * more, 1, s)) if starts else None
        self.body = nn.Sequential(*pre(i, m), *pre(m, m, 3, s, groups), *pre(m, c + more))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        x = x if self.by is None else self.by(x)
        return torch.cat([x[:, : self.c] + y[:, : self.c], x[:, self.c :], y[:, self.c :]], 1)


def dpn(w: int) -> nn.Module:
    """DPN-68 with 2, 2, 4, 2 of its 3, 4, 12, 3 blocks (1707.01629, section 4, as its authors' code); w = 64 is its
    width, and there are w / 2 groups."""
    c = max(8, 10 * w // 64)
    layers: list[nn.Module] = [cbr(3, c, 3, 2), nn.MaxPool2d(3, 2, 1)]
    for n, (wide, more, blocks) in enumerate(((1, 16, 2), (2, 32, 2), (4, 32, 4), (8, 64, 2))):
        more = more * w // 64
        for i in range(blocks):
            layers.append(DualPath(c, 2 * wide * w, wide * w, more, 2 if n and not i else 1, w // 2, not i))
            c = wide * w + 3 * more if i == 0 else c + more
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), *classifier(c))


class Leaky(nn.LeakyReLU):
    """Darknet's slope."""

    def __init__(self) -> None:
        super().__init__(0.1)


def darknet(w: int) -> nn.Module:
    """Darknet-53 with 1, 2, 4, 4, 2 of its 1, 2, 8, 8, 4 blocks (1804.02767, table 1); w = 32 is its width."""
    layers: list[nn.Module] = [cbr(3, w, act=Leaky)]
    c = w
    for n in (1, 2, 4, 4, 2):
        layers.append(cbr(c, 2 * c, 3, 2, act=Leaky))
        c *= 2
        layers += [Add(nn.Sequential(cbr(c, c // 2, 1, act=Leaky), cbr(c // 2, c, act=Leaky))) for _ in range(n)]
    return nn.Sequential(*layers, *classifier(c))


class ChannelAttention(nn.Module):
    """A gate of a convolution over neighbouring channels (1910.03151, figure 2, equation 12)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        k = int(abs(math.log2(c) + 1) / 2)
        k += 1 - k % 2
        self.over = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, _, _ = x.shape
        y = self.over(F.adaptive_avg_pool2d(x, 1).reshape(n, 1, c))
        return x * torch.sigmoid(y).reshape(n, c, 1, 1)


def eca_resnet_d(w: int) -> nn.Module:
    """ECA-ResNet-26-D: a stem of three convolutions, shortcuts averaged (1812.01187, figure 2), gated (1910.03151);
    w = 64 is its width."""
    layers: list[nn.Module] = [cbr(3, w // 2, 3, 2), cbr(w // 2, w // 2), cbr(w // 2, w), nn.MaxPool2d(3, 2, 1)]
    c = w
    for m, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        by: nn.Module | None = None
        if c != 4 * m:
            by = nn.Sequential(*([nn.AvgPool2d(2, 2)] if s > 1 else []), cbr(c, 4 * m, 1, act=None))
        body = nn.Sequential(cbr(c, m, 1), cbr(m, m, 3, s), cbr(m, 4 * m, 1, act=None), ChannelAttention(4 * m))
        layers.append(Add(body, by, True))
        c = 4 * m
    return nn.Sequential(*layers, *classifier(c))


class PreActivated(nn.Module):
    """A bottleneck after group norm and ReLU, whose shortcut is projected from behind them (1912.11370)."""

    def __init__(self, i: int, m: int, s: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, i)
        self.by = nn.Conv2d(i, 4 * m, 1, s, bias=False) if s > 1 or i != 4 * m else None
        mid = [nn.GroupNorm(groups, m), nn.ReLU(), nn.Conv2d(m, m, 3, s, 1, bias=False)]
        last = [nn.GroupNorm(groups, m), nn.ReLU(), nn.Conv2d(m, 4 * m, 1, bias=False)]
        self.body = nn.Sequential(nn.Conv2d(i, m, 1, bias=False), *mid, *last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(x))
        return (x if self.by is None else self.by(y)) + self.body(y)


def bit(w: int) -> nn.Module:
    """BiT-R26: residual units of 1603.05027 with group norm (1912.11370, section 2.1); weights count as standardised
    already, as they are once it is deployed; w = 64 is its width, of 32 groups."""
    layers: list[nn.Module] = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    c, groups = w, w // 2
    for m, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        layers.append(PreActivated(c, m, s, groups))
        c = 4 * m
    return nn.Sequential(*layers, nn.GroupNorm(groups, c), nn.ReLU(), *classifier(c))


class Slight(nn.LeakyReLU):
    """TResNet's slope."""

    def __init__(self) -> None:
        super().__init__(0.001)


def blurred(i: int, o: int, s: int) -> nn.Module:
    """A 3 x 3 convolution whose stride is a fixed blur after it (2003.13630, section 2.1; 1904.11486)."""
    if s == 1:
        return cbr(i, o, act=Slight)
    blur = nn.Conv2d(o, o, 3, 2, groups=o, bias=False)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur.weight.data = (row[:, None] * row[None]).repeat(o, 1, 1, 1)
    return nn.Sequential(cbr(i, o, act=Slight), nn.ReflectionPad2d(1), blur)


def tresnet(w: int) -> nn.Module:
    """TResNet-M with 2, 2, 3, 2 of its 3, 4, 11, 3 blocks (2003.13630, table 2): two stages of simple blocks, two of
    bottlenecks, gated but in the last; w = 64 is its width."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(4), cbr(48, w, act=Slight)]
    c = w
    for stage, n in enumerate((2, 2, 3, 2)):
        m = w * 2**stage
        o = m if stage < 2 else 4 * m
        for i in range(n):
            s = 2 if stage and i == 0 else 1
            by: nn.Module | None = None
            if c != o:
                by = nn.Sequential(*([nn.AvgPool2d(2, 2)] if s > 1 else []), cbr(c, o, 1, act=None))
            gate = [Excite(m, max(w, m // 4), nn.ReLU, nn.Sigmoid)] if stage < 3 else []
            if stage < 2:
                body = [blurred(c, m, s), cbr(m, m, act=None), *gate]
            else:
                body = [cbr(c, m, 1, act=Slight), blurred(m, m, s), *gate, cbr(m, o, 1, act=None)]
            layers.append(Add(nn.Sequential(*body), by, True))
            c = o
    return nn.Sequential(*layers, *classifier(c))
