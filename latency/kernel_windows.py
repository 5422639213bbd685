"""Extras of the `kernels` space whose windows, groups or channels are out of the ordinary; see kernel_extras.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_blocks import ACTS, Cat, Drawn, Sum, conv, divided
from latency.kernel_draws import log_uniform
from latency.kernel_extras import FUNCTIONS, Of

Tensor = torch.Tensor
FEW = (1, 2, 3, 4, 12)  # channels


def _dilation(d: Drawn) -> int:
    """From 2 to 24, also larger than half of the maps that there are."""
    if d.rng.random() < 0.4:
        return d.rng.choice((2, 4, 6, 8, 12, 18, 24))
    return max(2, round(log_uniform(d.rng, 2, 24)))


def _atrous_conv(d: Drawn, c_in: int, c_out: int, act: str) -> nn.Module:
    r, k = _dilation(d), d.rng.choice((3, 3, 3, 5))
    if d.rng.random() < 0.4:
        first = nn.Conv2d(c_in, c_in, k, 1, r * (k // 2), r, c_in, bias=False)
        return nn.Sequential(first, nn.BatchNorm2d(c_in), ACTS[act](), conv(c_in, c_out, act=act))
    k = 3 if c_in * c_out > 16_384 else k
    groups = d.rng.choice((1, 1, 1, 1, *(g for g in (2, 4, 8) if c_in % g == 0 and c_out % g == 0)))
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, k, 1, r * (k // 2), r, groups, bias=False), nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, ACTS[act]())


class Atrous(nn.Module):
    """Dilated convolutions side by side with the mean of the map, joined (1706.05587, 1802.02611)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        act, inner = d.act, divided(c // d.rng.choice((1, 2, 4)), 4)
        self.parts = nn.ModuleList(_atrous_conv(d, c, inner, act) for _ in range(d.rng.randint(1, 3)))
        self.every = conv(c, inner, act=act) if d.rng.random() < 0.6 else None
        self.mean = conv(c, inner, act=act) if d.rng.random() < 0.5 else None
        n = len(self.parts) + (self.every is not None) + (self.mean is not None)
        self.mode, self.last = d.rng.choice(("bilinear", "nearest")), conv(n * inner, c, act=act)

    def forward(self, x: Tensor) -> Tensor:
        found = [p(x) for p in self.parts]
        if self.every is not None:
            found.append(self.every(x))
        if self.mean is not None:
            h, w = int(x.shape[2]), int(x.shape[3])
            mean = self.mean(functional.adaptive_avg_pool2d(x, 1))
            found.append(functional.interpolate(mean, size=(h, w), mode=self.mode))
        y: Tensor = self.last(torch.cat(found, 1) if len(found) > 1 else found[0])
        return y


def deep_atrous(d: Drawn, c: int) -> nn.Module:
    """Residual convolutions whose dilation doubles (1511.07122, 1705.09914)."""
    inner, r, layers = max(4, min(c, round(log_uniform(d.rng, 8, 64)))), 1, []
    for _ in range(d.rng.randint(2, 4)):
        depthwise = d.rng.random() < 0.4
        body = nn.Conv2d(inner, inner, 3, 1, r, r, inner if depthwise else 1)
        layers.append(Sum(nn.Sequential(body, ACTS[d.act](), *([nn.Conv2d(inner, inner, 1)] if depthwise else []))))
        r *= 2
    return nn.Sequential(conv(c, inner, act=d.act), *layers, nn.Conv2d(inner, c, 1))


def large_window(d: Drawn, c: int) -> nn.Module:
    """A depthwise window of 9 to 31 (2203.06717, 2201.09792), beside one of 5 in some; or split in two (2207.03620)."""
    k = d.rng.choice((9, 9, 11, 13, 21, 31))
    act = d.rng.choice(("relu", "gelu", d.act))
    if d.rng.random() < 0.15:
        body: nn.Module = nn.Sequential(conv(c, c, (k, 5), 1, c, None), conv(c, c, (5, k), 1, c, act))
    elif d.rng.random() < 0.3:
        body = nn.Sequential(
            Of(lambda x, a, b: a + b, conv(c, c, k, 1, c, None), conv(c, c, 5, 1, c, None)), ACTS[act]()
        )
    else:
        body = conv(c, c, k, 1, c, act)
    return nn.Sequential(Sum(body), conv(c, c, act=act))


def wide_dense(d: Drawn, c: int) -> nn.Module:
    """A dense window of 5 to 11 of few channels (1501.00092), after and before a product."""
    a, b = (max(4, min(c, round(log_uniform(d.rng, 8, 64)))) for _ in range(2))
    k = d.rng.choice((5, 5, 7, 7, 9, 11))
    way = d.rng.choice(("inside", "from_few", "to_few"))
    if way == "inside":
        return nn.Sequential(conv(c, a, act=d.act), conv(a, b, k, act=d.act), conv(b, c, act=d.act))
    few = d.rng.choice((2, 4, 8, 16)) if c > 96 else a
    first, last = (conv(c, few, act=d.act), conv(few, c, k, act=d.act))
    if way == "to_few":
        first, last = conv(c, few, k, act=d.act), conv(few, c, act=d.act)
    return nn.Sequential(first, last)


def few_channels(d: Drawn, c: int) -> nn.Module:
    """To 1, 2, 3, 4 or 12 channels and back, as outputs on the way are (1603.06937), as a gate or added."""
    few, k = d.rng.choice(FEW), d.rng.choice((1, 3, 3, 5, 9))
    last = d.rng.choice((nn.Identity, nn.Sigmoid, nn.Tanh, nn.ReLU))()
    first = nn.Sequential(nn.Conv2d(c, few, k, 1, k // 2), last)
    if few == 1 and d.rng.random() < 0.6:
        return Of(lambda x, y: x * y, first)
    k = d.rng.choice((1, 3, 3, 5))
    return Sum(nn.Sequential(first, nn.Conv2d(few, c, k, 1, k // 2)))


def odd_groups(d: Drawn, c: int) -> nn.Module:
    """Convolutions in 3, 5, 6 groups, or in groups of 4 to 64 channels, after a product to so many (1611.05431)."""
    groups = d.rng.choice((3, 5, 6, 0, 0))
    of = d.rng.choice((4, 6, 8, 10, 12, 16, 24, 32, 48, 64))
    groups = groups or max(2, round(c / of))
    inner = groups * (max(1, round(c / groups)) if d.rng.random() < 0.5 else min(of, max(2, c // groups)))
    k = d.rng.choice((1, 3, 3, 3, 5, 7))
    grouped = conv(inner, inner, k, 1, groups, d.act)
    return Sum(nn.Sequential(conv(c, inner, act=d.act), grouped, conv(inner, c, act=None)))


def conv_ffn(d: Drawn, c: int) -> nn.Module:
    """1x1, depthwise, activation, 1x1, scaled and added (2202.09741, 2206.01191); a pooling as mixer in some."""
    wide, k = divided(round(c * d.rng.choice((1, 2, 3, 4))), 4), d.rng.choice((3, 3, 5, 7))
    act = d.rng.choice((nn.GELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ReLU))
    body: nn.Module = nn.Sequential(nn.Conv2d(c, wide, 1), nn.Conv2d(wide, wide, k, 1, k // 2, groups=wide), act(),
                         nn.Conv2d(wide, c, 1))  # fmt: skip
    if d.rng.random() < 0.5:
        body = nn.Sequential(nn.BatchNorm2d(c), body)
    if d.rng.random() < 0.3:  # 2111.11418
        return nn.Sequential(Of(lambda x, p: x + (p - x), nn.AvgPool2d(3, 1, 1, count_include_pad=False)), Sum(body))
    return Scaled(body, c) if d.rng.random() < 0.5 else Sum(body)


class Scaled(nn.Module):
    """x + a learnt number a channel times what comes out (2103.17239)."""

    def __init__(self, body: nn.Module, c: int) -> None:
        super().__init__()
        self.body, self.scale = body, nn.Parameter(torch.full((c, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.scale * self.body(x)
        return y


def maxout(d: Drawn, c: int) -> nn.Module:
    """The larger (1302.4389), the smaller, or the difference of two convolutions; or x and -x (1603.05201)."""
    if d.rng.random() < 0.3:
        return nn.Sequential(Of(lambda x: torch.cat([x, -x], 1).relu()), nn.Conv2d(2 * c, c, 1))
    layers = []
    for name in d.rng.sample(("max", "max", "min", "sub"), 2):
        a, b = (conv(c, c, d.rng.choice((1, 3)), 1, d.rng.choice((1, c, c)), None) for _ in range(2))
        layers.append(Of(lambda x, p, q, function=FUNCTIONS[name]: function(p, q), a, b))
    return nn.Sequential(*layers)


def growth(d: Drawn, c: int) -> nn.Module:
    """Few channels joined to what is there, again and again: 10, 14, 22 each time (1608.06993, 1909.00948)."""
    each, n, act = d.rng.choice((6, 10, 14, 18, 20, 22, 28)), d.rng.randint(2, 4), ACTS[d.act]
    layers = [Cat(nn.Identity(), nn.Sequential(nn.Conv2d(c + i * each, each, 3, 1, 1), act())) for i in range(n)]
    return nn.Sequential(*layers, conv(c + n * each, c, act=d.act))


WINDOWS: dict[str, Callable[[Drawn, int], nn.Module]] = {
    "atrous": Atrous, "deep_atrous": deep_atrous, "large_window": large_window, "wide_dense": wide_dense,
    "few_channels": few_channels, "odd_groups": odd_groups, "conv_ffn": conv_ffn, "maxout": maxout, "growth": growth,
}  # fmt: skip
