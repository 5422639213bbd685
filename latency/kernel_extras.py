"""Extras of the `kernels` space: modules put between stages, so that kernels that few blocks have come in many sizes.

(draws, channels) -> a module that keeps the map's shape. Each follows the paper that its docstring names; which
reduction, activation, norm or way up it takes is drawn, so that every value of the vocabulary is measured. Those that
reduce, gate and normalise are here; those that move, pool and resize: latency/kernel_moves.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_blocks import ACTS, Drawn, Sum, conv, divided

Tensor = torch.Tensor
Function = Callable[..., Tensor]

REDUCE: dict[str, Function] = {
    "mean": lambda x, dims, keep=True: x.mean(dims, keepdim=keep),
    "sum": lambda x, dims, keep=True: x.sum(dims, keepdim=keep),
    "max": lambda x, dims, keep=True: x.amax(dims, keepdim=keep),
    "min": lambda x, dims, keep=True: x.amin(dims, keepdim=keep),
}
OFTEN_REDUCED = ("mean", "mean", "mean", "sum", "max", "min")
FUNCTIONS: dict[str, Function] = {
    "add": torch.add, "mul": torch.mul, "sub": torch.sub, "max": torch.maximum, "min": torch.minimum,
    "div": lambda a, b: a / (b.abs() + 1.0),
}  # fmt: skip
#: Activations that a convolution carries along, those that a fully connected layer does, and those that stand alone.
CONV_ACTS: dict[str, Callable[[], nn.Module]] = {
    **{name: ACTS[name] for name in ("relu", "relu6", "hswish", "leaky")},
    "sigmoid": nn.Sigmoid, "hsigmoid": nn.Hardsigmoid, "tanh": nn.Tanh, "clip": lambda: nn.Hardtanh(-1.0, 1.0),
}  # fmt: skip
GEMM_ACTS: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.LeakyReLU)
LONE_ACTS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "leaky": nn.LeakyReLU,
    "softplus": nn.Softplus, "mish": nn.Mish, "prelu": nn.PReLU, "hsigmoid": nn.Hardsigmoid, "relu": nn.ReLU,
    "clip": lambda: nn.Hardtanh(-1.0, 1.0), "relu6": nn.ReLU6,
}  # fmt: skip


class Of(nn.Module):
    """A function of x and what modules make of it: function(x, module(x), ...)."""

    def __init__(self, function: Function, *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.modules_ = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(m(x) for m in self.modules_))


class _GlobalMax(torch.autograd.Function):
    """The largest number of each channel, as ONNX's GlobalMaxPool: of a size it knows, torch writes a MaxPool of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=True)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        """The node, with the shape that it gives where that of its input is known."""
        made, sizes = g.op("GlobalMaxPool", x), x.type().sizes()
        return made if sizes is None else made.setType(x.type().with_sizes([*sizes[:2], 1, 1]))


class GlobalMax(nn.Module):
    """(n, c, h, w) -> (n, c, 1, 1), the largest."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _GlobalMax.apply(x)  # type: ignore[no-untyped-call]
        return y


class OfPlaces(nn.Module):
    """A norm over the places of a map, where there is more than one."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x) if x.shape[2] * x.shape[3] > 1 else x
        return y


class RootMeanSquare(nn.Module):
    """RMS norm over the channels of a map (1910.07467), spelled out: the exporter has no other form of it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.weight
        return y


def pooled_gate(d: Drawn, c: int) -> nn.Module:
    """Squeeze-excite by a reduction over height and width and two fully connected layers (1709.01507)."""
    reduce, squeezed = REDUCE[d.rng.choice(OFTEN_REDUCED)], divided(c // d.rng.choice((2, 4, 16)), 4)
    act, gate = d.rng.choice(GEMM_ACTS), d.rng.choice((nn.Sigmoid, nn.Hardsigmoid, nn.Tanh))
    keep = d.rng.random() < 0.3
    means: list[nn.Module] = [Of(lambda x: reduce(x, (2, 3), keep)), *([nn.Flatten()] if keep else [])]
    body = nn.Sequential(*means, nn.Linear(c, squeezed), act(), nn.Linear(squeezed, c), gate())
    return Of(lambda x, g: x * g[:, :, None, None], body)


def spatial_gate(d: Drawn, c: int) -> nn.Module:
    """A gate per place from reductions over the channels (1807.06521)."""
    a, b = (REDUCE[d.rng.choice(OFTEN_REDUCED)] for _ in range(2))
    k = d.rng.choice((3, 5, 7))
    gate = nn.Sequential(
        Of(lambda x: torch.cat([a(x, 1), b(x, 1)], 1)),
        nn.Conv2d(2, 1, k, 1, k // 2),
        d.rng.choice((nn.Sigmoid, nn.Tanh))(),
    )
    return Of(lambda x, g: x * g, gate)


def axis_gates(d: Drawn, c: int) -> nn.Module:
    """Gates per row and per column from reductions over one axis each (2103.02907)."""
    reduce = REDUCE[d.rng.choice(OFTEN_REDUCED)]
    rows, columns = (
        nn.Sequential(nn.Conv2d(c, c, 1, groups=d.rng.choice((1, c))), d.rng.choice((nn.Sigmoid, nn.Hardsigmoid))())
        for _ in range(2)
    )
    return Of(lambda x, r, q: x * r * q, nn.Sequential(Of(lambda x: reduce(x, 3)), rows),
              nn.Sequential(Of(lambda x: reduce(x, 2)), columns))  # fmt: skip


def context(d: Drawn, c: int) -> nn.Module:
    """What all places say, weighted by a softmax over them, added to each (1904.11492)."""
    squeezed = divided(c // d.rng.choice((2, 4, 8)), 4)
    back = nn.Sequential(nn.Conv2d(c, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, c, 1))
    pool = Of(lambda x, w: (x.flatten(2) @ w.flatten(2).softmax(-1).transpose(1, 2))[..., None], nn.Conv2d(c, 1, 1))
    join = FUNCTIONS[d.rng.choice(("add", "add", "mul"))]
    return Of(lambda x, y: join(x, y), nn.Sequential(pool, back))


def channel_weights(d: Drawn, c: int) -> nn.Module:
    """Softmax over the channels, or over groups of them, as weights (1810.11579)."""
    parts = d.rng.choice([g for g in (1, 2, 3, 4, 8) if c % g == 0])

    def weigh(x: Tensor, y: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x * (
            y.softmax(1) if parts == 1 else y.reshape(n, parts, c // parts, h, w).softmax(1).reshape(n, c, h, w)
        )

    return Of(weigh, conv(c, c, act=None))


def normed(d: Drawn, c: int) -> nn.Module:
    """Instance norm (1607.08022), group norm (1803.08494) or RMS norm over channels after a convolution."""
    groups = d.rng.choice([g for g in (1, 2, 4, 8, 16, 32) if c % g == 0])
    kind = d.rng.choice(("instance", "group", "group", "rms"))
    norm: nn.Module
    if kind == "rms":
        norm = RootMeanSquare(c)
    else:
        instance = Of(lambda x: functional.instance_norm(x) if x.shape[2] * x.shape[3] > 1 else x)
        norm = instance if kind == "instance" else nn.GroupNorm(groups, c)
    first = nn.Conv2d(c, c, 3, 1, 1, groups=d.rng.choice((1, c)))
    return nn.Sequential(first, norm, LONE_ACTS[d.rng.choice(("relu", "silu", "gelu", "leaky"))]())


def unit_length(d: Drawn, c: int) -> nn.Module:
    """Channels scaled to length 1 at every place, then by a gain each (1506.04579)."""
    gain = nn.Conv2d(c, c, 1, groups=c)
    return nn.Sequential(Of(lambda x: functional.normalize(x, dim=1)), gain)


def carried(d: Drawn, c: int) -> nn.Module:
    """Convolutions of every kind with an activation that they carry along."""
    layers: list[nn.Module] = []
    for act in d.rng.sample(sorted(CONV_ACTS), 4):
        groups = d.rng.choice([g for g in (1, 1, 1, 2, 4, 8, c, c) if c % g == 0])
        k = d.rng.choice((1, 1, 3, 3, 5)) if groups in (1, c) else d.rng.choice((1, 3, 5))
        layers += [nn.Conv2d(c, c, k, 1, k // 2, groups=groups), CONV_ACTS[act]()]
    return nn.Sequential(*layers)


def lone(d: Drawn, c: int) -> nn.Module:
    """Activations that stand alone, after a residual or after a convolution."""
    layers: list[nn.Module] = []
    for act in d.rng.sample(sorted(LONE_ACTS), 4):
        body = nn.Conv2d(c, c, d.rng.choice((1, 3)), padding="same", groups=d.rng.choice((1, c, c)))
        layers += [Sum(body) if d.rng.random() < 0.5 else body, LONE_ACTS[act]()]
    return nn.Sequential(*layers)


def binary(d: Drawn, c: int) -> nn.Module:
    """Two functions of two tensors each."""
    return nn.Sequential(_binary(d, c), _binary(d, c))


def _binary(d: Drawn, c: int) -> nn.Module:
    """A function of two tensors, the second as large, one number a channel, one a place, or one."""
    fn = FUNCTIONS[d.rng.choice(sorted(FUNCTIONS))]
    first = nn.Sequential(nn.Conv2d(c, c, 1, groups=d.rng.choice((1, c))), nn.ReLU())
    match d.rng.choice(("none", "outer", "inner", "scalar", "power", "root")):
        case "none":
            return Of(lambda x, y: fn(y, x), first)
        case "outer":
            return Of(lambda x, y, z: fn(y, z), first, nn.AdaptiveMaxPool2d(1))
        case "inner":
            return Of(lambda x, y: fn(y, x.mean(1, keepdim=True)), first)
        case "scalar":  # a residual scaled down (1809.00219)
            return Of(lambda x, y: x + 0.2 * y, first)
        case "power":
            exponent = d.rng.choice((2.0, 2.0, 3.0))  # of RMS norm, of GELU by tanh
            return Of(lambda x, y: x + y**exponent, first)
        case _:
            return Of(lambda x, y: x + torch.sqrt(y + 1.0), first)


class MapAttention(nn.Module):
    """Attention of places to places, keys pooled so that there are at most 256 (1711.07971, 2102.12122)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.inner = divided(c // d.rng.choice((1, 2, 4)), 8)
        self.heads = d.rng.choice([h for h in (1, 2, 4, 8) if self.inner % (4 * h) == 0])
        self.q, self.kv = nn.Conv2d(c, self.inner, 1), nn.Conv2d(c, 2 * self.inner, 1)
        self.out = nn.Conv2d(self.inner, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w = (int(x.shape[i]) for i in (0, 2, 3))
        step = max(1, min(h, w, round((h * w / 256) ** 0.5)))
        small = functional.avg_pool2d(x, step) if step > 1 else x
        q = self.q(x).reshape(n * self.heads, self.inner // self.heads, -1).transpose(1, 2)
        k, v = self.kv(small).reshape(n, 2, self.heads, self.inner // self.heads, -1).unbind(1)
        y = (q @ k[0] * self.inner**-0.5).softmax(-1) @ v[0].transpose(1, 2)
        z: Tensor = x + self.out(y.transpose(1, 2).reshape(n, self.inner, h, w))
        return z


EXTRAS: dict[str, Callable[[Drawn, int], nn.Module]] = {
    "pooled_gate": pooled_gate, "spatial_gate": spatial_gate, "axis_gates": axis_gates, "context": context,
    "channel_weights": channel_weights, "normed": normed, "unit_length": unit_length, "carried": carried,
    "lone": lone, "binary": binary, "map_attention": MapAttention,
}  # fmt: skip
