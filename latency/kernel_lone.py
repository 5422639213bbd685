"""Extras of the `kernels` space of kernels that stand alone: norms and activations, functions of one tensor, softmaxes,
reductions and resizes; see latency/kernel_extras.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_blocks import Drawn, NormChannels, Sum, conv, divided
from latency.kernel_extras import LONE_ACTS, REDUCE, GlobalMax, Of, OfPlaces, RootMeanSquare

Tensor = torch.Tensor
#: Functions of one tensor that stand alone, kept finite; each with what networks have it for.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda x: torch.exp(x.clamp(max=8.0)), "log": lambda x: torch.log(x.abs() + 1.0),
    "sqrt": lambda x: torch.sqrt(x * x + 1e-3), "reciprocal": lambda x: torch.reciprocal(x.abs() + 1.0),
    "abs": torch.abs, "neg": lambda x: -x, "erf": torch.erf,
    "logsigmoid": functional.logsigmoid,
}  # fmt: skip
ACTS = ("sigmoid", "sigmoid", "sigmoid", "tanh", "silu", "gelu", "hswish", "relu", "elu", "softplus", "mish", "prelu",
        "leaky", "hsigmoid", "relu6", "clip")  # fmt: skip


def _act(d: Drawn) -> nn.Module:
    name = d.rng.choice(ACTS)
    return nn.Hardswish() if name == "hswish" else LONE_ACTS[name]()


def _norm(d: Drawn, c: int) -> nn.Module:
    match d.rng.choice(("batch", "instance", "affine", "group", "layer", "layer", "rms")):
        case "batch":
            return nn.BatchNorm2d(c)
        case "group":
            return nn.GroupNorm(d.rng.choice([g for g in (1, 2, 3, 4, 8, 16, 32) if c % g == 0]), c)
        case "layer":
            return NormChannels(c)
        case "rms":
            return RootMeanSquare(c)
        case kind:
            return OfPlaces(nn.InstanceNorm2d(c, affine=kind == "affine"))


def norm_act(d: Drawn, c: int) -> nn.Module:
    """Norms that no convolution takes up, with activations that stand alone (1603.05027, 1607.08022, 1803.08494)."""
    layers: list[nn.Module] = [nn.MaxPool2d(3, 1, 1)] if d.rng.random() < 0.3 else []
    for _ in range(d.rng.randint(1, 3)):
        layers += [_norm(d, c), _act(d)]
        if d.rng.random() < 0.6:
            layers.append(nn.Conv2d(c, c, d.rng.choice((1, 3)), padding="same", groups=d.rng.choice((1, c))))
    made = nn.Sequential(*layers)
    return Sum(made) if d.rng.random() < 0.5 else made


def acts(d: Drawn, c: int) -> nn.Module:
    """Activations that stand alone, after a sum or a scale: gates of maps (1612.08083), residuals (1512.03385)."""
    layers: list[nn.Module] = []
    for _ in range(d.rng.randint(2, 3)):
        first, last = nn.Conv2d(c, c, 1, groups=d.rng.choice((1, c))), _act(d)
        gated = d.rng.random() < 0.4
        layers.append(
            Of(lambda x, y: x * y, nn.Sequential(Sum(first), last)) if gated else nn.Sequential(Sum(first), last)
        )
    return nn.Sequential(*layers)


def functions(d: Drawn, c: int) -> nn.Module:
    """Functions of one tensor: log and exp of pooling and of losses, square roots of norms, x / (1 + |x|), ..."""
    first = nn.Conv2d(c, c, 1, groups=d.rng.choice((1, c)))
    chosen = [FUNCTIONS[f] for f in d.rng.sample(sorted(FUNCTIONS), 4)]

    def of(x: Tensor, y: Tensor) -> Tensor:
        for f in chosen:
            y = f(y)
        return x + y

    return Of(of, first)


def softmaxes(d: Drawn, c: int) -> nn.Module:
    """Softmax over few numbers in many rows (1901.10430, 2103.06255), over places, or over branches (1903.06586)."""
    way = d.rng.choice(("window", "places", "rows", "branches"))
    if way == "window":
        heads, k = d.rng.choice((1, 2, 4, 8)), d.rng.choice((2, 3, 4, 5, 7)) ** 2
        weigh = Of(lambda x: x.reshape(x.shape[0] * heads, k, x.shape[2], x.shape[3]).softmax(1).amax(1).reshape(
            x.shape[0], heads, x.shape[2], x.shape[3]))  # fmt: skip
        back = nn.Conv2d(heads, c, 1)
        return Of(lambda x, g: x * g, nn.Sequential(nn.Conv2d(c, heads * k, 1), weigh, back, nn.Sigmoid()))
    few = d.rng.choice((1, 2, 4, 8, 17))
    if way == "places":  # heat maps (1711.08229)
        heat = Of(lambda x: x.flatten(2).softmax(-1).reshape(x.shape))
        return Sum(nn.Sequential(nn.Conv2d(c, few, 1), heat, nn.Conv2d(few, c, 1)))
    if way == "rows":
        rows = Of(lambda x: x.softmax(3))
        return Sum(
            nn.Sequential(nn.Conv2d(c, 4 * few, d.rng.choice((1, 3)), padding="same"), rows, nn.Conv2d(4 * few, c, 1))
        )
    n, squeezed = d.rng.choice((2, 3)), divided(c // 4, 4)
    body = nn.Sequential(nn.Linear(c, squeezed), nn.ReLU(), nn.Linear(squeezed, n * c))
    mean = REDUCE[d.rng.choice(("mean", "mean", "max"))]
    weights = nn.Sequential(Of(lambda x: mean(x, (2, 3), False)), body)
    parts = [conv(c, c, 3, 1, d.rng.choice((1, c)), d.act) for _ in range(n)]

    def select(x: Tensor, w: Tensor, *ys: Tensor) -> Tensor:
        shares = w.reshape(1, n, c).softmax(1).reshape(n, 1, c, 1, 1)
        found = ys[0] * shares[0]
        for i in range(1, n):
            found = found + ys[i] * shares[i]
        return found

    return Of(select, weights, *parts)


def _norm_of(x: Tensor, axis: int) -> Tensor:
    g = x.norm(dim=(2, 3), keepdim=True)
    y: Tensor = g / (g.mean(1, keepdim=True) + 1e-6)
    return y


def _deviation(x: Tensor, axis: int) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return torch.sqrt(((x - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5)


#: What is said of a map by reductions of other kinds; `axis`: that some of them take.
SAYS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "norm": _norm_of, "deviation": _deviation,
    "power": lambda x, axis: x.clamp(min=1e-3).pow(3.0).mean((2, 3), keepdim=True).pow(1 / 3),
    "product": lambda x, axis: (torch.tanh(x) + 1.5).prod(axis, keepdim=True).clamp(0.0, 4.0),
    "range": lambda x, axis: x.amax(axis, keepdim=True) - x.amin(axis, keepdim=True),
    "index": lambda x, axis: x.argmax(axis, keepdim=True).to(x.dtype),
    "evidence": lambda x, axis: torch.log(torch.exp(x.clamp(max=8.0)).sum(axis, keepdim=True)),
}  # fmt: skip


def powers(d: Drawn, c: int) -> nn.Module:
    """Gates from reductions of other kinds: norms (1909.11519), products, powers (1711.02512), deviations, log sum exp
    (1411.6228).
    """
    layers: list[nn.Module] = []
    for way in d.rng.sample(sorted(SAYS), 3):
        says, axis, join = SAYS[way], d.rng.choice((1, 1, 2, 3)), d.rng.choice((torch.add, torch.mul))
        layers.append(Of(lambda x, join=join, says=says, axis=axis: join(x, says(x, axis))))
        layers.append(nn.Conv2d(c, c, 1, groups=d.rng.choice((1, c))))
    return nn.Sequential(*layers)


class Scales(nn.Module):
    """Down by 2 to 16, few channels, and back to the map's size (1704.08545, 1808.00897)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.few, self.factor = d.rng.choice((1, 2, 3, 4, 8, 16, 19, 21, 32)), d.rng.choice((2, 4, 8, 16))
        self.mode = d.rng.choices(("bilinear", "nearest", "bicubic"), (4, 4, 2.5))[0]
        self.first, self.last = (
            conv(c, self.few, act=d.act),
            nn.Conv2d(self.few, c, d.rng.choice((1, 1, 3)), padding="same"),
        )
        self.gate, self.most = d.rng.random() < 0.3, d.rng.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        h, w = int(x.shape[2]), int(x.shape[3])
        k = (min(self.factor, h), min(self.factor, w))
        pool = functional.max_pool2d if self.most else functional.avg_pool2d
        y = self.first(pool(x, k, k))
        if h % k[0] or w % k[1]:
            y = functional.interpolate(y, size=(h, w), mode=self.mode)
        else:
            y = functional.interpolate(y, scale_factor=(float(k[0]), float(k[1])), mode=self.mode)
        z: Tensor = self.last(y)
        return x * torch.sigmoid(z) if self.gate else x + z


class Bins(nn.Module):
    """The map pooled to few bins, what they say through layers, as a gate (1807.06521)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        squeezed = divided(c // d.rng.choice((2, 4, 8, 16)), 4)
        self.bins, act = d.rng.choice((1, 1, 1, 2, 3, 4, 7)), d.rng.choice((nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish))
        self.shared = nn.Sequential(nn.Conv2d(c, squeezed, 1), act(), nn.Conv2d(squeezed, c, 1))
        self.most = d.rng.choice((GlobalMax(), GlobalMax(), nn.AdaptiveMaxPool2d(1)))
        self.both, self.gate = d.rng.random() < 0.6, d.rng.choice((nn.Sigmoid, nn.Hardsigmoid, nn.Tanh))()

    def forward(self, x: Tensor) -> Tensor:
        h, w = int(x.shape[2]), int(x.shape[3])
        bins = self.bins if h % self.bins == 0 and w % self.bins == 0 else 1
        if bins > 1:
            k = (h // bins, w // bins)
            mean, most = functional.avg_pool2d(x, k, k), functional.max_pool2d(x, k, k)
        else:
            mean, most = functional.adaptive_avg_pool2d(x, 1), self.most(x)
        y = self.shared(mean)
        if self.both:
            y = y + self.shared(most)
        y = self.gate(y)
        if bins > 1:
            y = functional.interpolate(y, size=(h, w), mode="nearest")
        z: Tensor = x * y
        return z


LONE: dict[str, Callable[[Drawn, int], nn.Module]] = {
    "norm_act": norm_act, "acts": acts, "functions": functions, "softmaxes": softmaxes, "powers": powers,
    "scales": Scales, "bins": Bins,
}  # fmt: skip
