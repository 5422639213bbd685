"""Fourth networks of benchmarks/any_network_fourth.py: classifiers of plain convolutions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, Branches, cbr, classifier


def first(i: int, o: int, k: int = 1, s: int = 1) -> list[nn.Module]:
    """Batch norm and ReLU before a convolution."""
    return [nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, o, k, s, k // 2, bias=False)]


class Unit(nn.Module):
    """A bottleneck after batch norm and ReLU; where the map changes, the shortcut starts behind them too."""

    def __init__(self, i: int, m: int, s: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(i)
        self.by = nn.Conv2d(i, 4 * m, 1, s, bias=False) if s > 1 or i != 4 * m else None
        self.body = nn.Sequential(nn.Conv2d(i, m, 1, bias=False), *first(m, m, 3, s), *first(m, 4 * m))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(x))
        kept = x if self.by is None else self.by(y)
        return kept + self.body(y)


def resnet_v2(w: int) -> nn.Module:
    """ResNet-26 and ResNet-50 of pre-activated bottlenecks (1603.05027, figure 4 e, appendix); w = 64 is their width,
    and 32 has 26 layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    c = w
    for stage, n in enumerate((2, 2, 2, 2) if w < 48 else (3, 4, 6, 3)):
        m = w * 2**stage
        for i in range(n):
            layers.append(Unit(c, m, 2 if stage and i == 0 else 1))
            c = 4 * m
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), *classifier(c))


class Grow(nn.Module):
    """Everything before, and k more channels (1608.06993, section 3, bottleneck layers)."""

    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*first(c, 4 * k), *first(4 * k, k, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet_bc(k: int) -> nn.Module:
    """DenseNet-BC of three blocks, its first convolution at full size, as for CIFAR (1608.06993, section 3,
    implementation details): of 100 layers at growth 12, 40 at 24 and 64 at 32; 200 classes."""
    n = ({12: 100, 24: 40, 32: 64}[k] - 4) // 6
    c = 2 * k
    layers: list[nn.Module] = [nn.Conv2d(3, c, 3, 1, 1, bias=False)]
    for block in range(3):
        if block:
            layers += [*first(c, c // 2), nn.AvgPool2d(2)]
            c //= 2
        layers += [Grow(c + i * k, k) for i in range(n)]
        c += n * k
    return nn.Sequential(
        *layers, nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 200)
    )


#: 1 x 1; 3 x 3 and what it starts from; two 3 x 3 and what they start from; pooled. None in the ones of a stride.
MODULES = (
    (64, 64, 64, 64, 96, 32), (64, 64, 96, 64, 96, 64), (0, 128, 160, 64, 96, 0), (224, 64, 96, 96, 128, 128),
    (192, 96, 128, 96, 128, 128), (160, 128, 160, 128, 160, 128), (96, 128, 192, 160, 192, 128),
    (0, 128, 192, 192, 256, 0), (352, 192, 320, 160, 224, 128), (352, 192, 320, 192, 224, 128),
)  # fmt: skip


def bn_inception(w: int) -> nn.Module:
    """Inception with batch norm, its 5 x 5 replaced by two 3 x 3 (1502.03167, appendix, figure 5); w = 64 is its
    width."""
    c = 3 * w
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    layers += [cbr(w, w, 1), cbr(w, c), nn.MaxPool2d(3, 2, 1)]
    for at, row in enumerate(MODULES):
        one, b, bb, d, dd, p = (v * w // 64 for v in row)
        s = 1 if one else 2
        parts: list[nn.Module] = [cbr(c, one, 1)] if one else []
        parts.append(nn.Sequential(cbr(c, b, 1), cbr(b, bb, 3, s)))
        parts.append(nn.Sequential(cbr(c, d, 1), cbr(d, dd), cbr(dd, dd, 3, s)))
        if one:
            pool = nn.MaxPool2d(3, 1, 1) if at == len(MODULES) - 1 else nn.AvgPool2d(3, 1, 1)
            parts.append(nn.Sequential(pool, cbr(c, p, 1)))
        else:
            parts.append(nn.MaxPool2d(3, 2, 1))
        layers.append(Branches(*parts))
        c = one + bb + dd + (p or c)
    return nn.Sequential(*layers, *classifier(c))


def vgg_bn(w: int, size: int) -> nn.Module:
    """VGG with batch norm and its three layers at the end (1409.1556, table 1): D at 24, E at 32, B at 64, which is
    its width."""
    layers: list[nn.Module] = []
    c = 3
    for stage, n in enumerate({24: (2, 2, 3, 3, 3), 32: (2, 2, 4, 4, 4), 64: (2, 2, 2, 2, 2)}[w]):
        o = w * min(8, 2**stage)
        for _ in range(n):
            layers += [nn.Conv2d(c, o, 3, 1, 1), nn.BatchNorm2d(o), nn.ReLU()]
            c = o
        layers.append(nn.MaxPool2d(2))
    flat, m = c * (size // 32) ** 2, 64 * w
    head = [nn.Linear(flat, m), nn.ReLU(), nn.Dropout(), nn.Linear(m, m), nn.ReLU(), nn.Dropout(), nn.Linear(m, 1000)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def thin(i: int, o: int, k: tuple[int, int] = (1, 1), s: int = 1) -> nn.Sequential:
    """A convolution with bias, batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(i, o, k, s, (k[0] // 2, k[1] // 2)), nn.BatchNorm2d(o), nn.ReLU())


def squeeze_twice(i: int, o: int, s: int) -> nn.Module:
    """Two 1 x 1 squeezes, a 3 x 3 in two halves and an expansion (1803.10615, section 3)."""
    r = 1 if s > 1 else 4 if i > o else 2
    a, b = i // r, i // (2 * r)
    body = nn.Sequential(thin(i, a, s=s), thin(a, b), thin(b, a, (1, 3)), thin(a, a, (3, 1)), thin(a, o))
    return Add(body, thin(i, o, s=s) if s > 1 or i != o else None, True)


def squeezenext(w: int) -> nn.Module:
    """SqueezeNext-23 (1803.10615), w = 32 of its first plan, wider ones of its fifth; w = 32 is its
    width."""
    c = 2 * w
    layers: list[nn.Module] = [
        nn.Conv2d(3, c, 7, 2, 1),
        nn.BatchNorm2d(c),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ]
    for stage, n in enumerate((6, 6, 8, 1) if w == 32 else (2, 4, 14, 1)):
        o = w * 2**stage
        for i in range(n):
            layers.append(squeeze_twice(c, o, 2 if stage and i == 0 else 1))
            c = o
    return nn.Sequential(*layers, thin(c, 4 * w), *classifier(4 * w))
