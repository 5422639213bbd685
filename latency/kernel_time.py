"""Networks over time in the `kernels` space: series (1, c, t, 1), and spectrograms (1, 1, frequencies, t).

(draws, Draw) -> a module on the Draw's input shape. Convolutions over time are k x 1 on maps of width 1, or of one
dimension, as the network has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_blocks import ACTS, Cat, Drawn, Gate, Sum, conv, divided
from latency.kernel_draws import Draw
from latency.kernel_extras import GlobalMax, Of

Tensor = torch.Tensor
OVER_TIME = (3, 3, 5, 7, 9, 15, 25)
CLASSES = (2, 4, 6, 10, 12, 18, 35, 50, 527)
#: Windows of keyword spotting (1711.07128; sainath15), frequencies first, and oblong ones in general.
OBLONG = ((10, 4), (8, 20), (3, 9), (4, 10), (20, 8), (5, 3), (9, 3), (1, 9), (9, 1), (1, 5), (7, 1), (3, 3), (5, 5))


class Timed:
    """Layers over time of one network: of one dimension (`flat`), or of two with a width of 1."""

    def __init__(self, d: Drawn, flat: bool) -> None:
        self.d, self.flat = d, flat

    def conv(self, c_in: int, c_out: int, k: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1,
             act: str | None = "", norm: bool = True) -> nn.Module:  # fmt: skip
        """Convolution, batch norm, activation ("": the network's)."""
        pad, bias = dilation * (k - 1) // 2, not norm
        layers: list[nn.Module]
        if self.flat:
            layers = [nn.Conv1d(c_in, c_out, k, stride, pad, dilation, groups, bias)]
        else:
            layers = [nn.Conv2d(c_in, c_out, (k, 1), (stride, 1), (pad, 0), (dilation, 1), groups, bias)]
        if norm:
            layers.append(nn.BatchNorm1d(c_out) if self.flat else nn.BatchNorm2d(c_out))
        act = self.d.act if act == "" else act
        return nn.Sequential(*layers, *([ACTS[act]()] if act else []))

    def pool(self, k: int, stride: int, most: bool) -> nn.Module:
        """A pooling over time."""
        if self.flat:
            return nn.MaxPool1d(k, stride, k // 2) if most else nn.AvgPool1d(k, stride, k // 2)
        pool = nn.MaxPool2d if most else nn.AvgPool2d
        return pool((k, 1), (stride, 1), (k // 2, 0))

    def gate(self, c: int) -> nn.Module:
        """Squeeze-excite (1709.01507) over time."""
        squeezed = divided(c // self.d.rng.choice((2, 4, 8, 16)), 4)
        last = self.d.rng.choice((nn.Sigmoid, nn.Hardsigmoid))()
        if not self.flat:
            return Gate(c, squeezed, "relu", last)
        body = nn.Sequential(nn.Linear(c, squeezed), nn.ReLU(), nn.Linear(squeezed, c), last)
        return Of(lambda x, g: x * g[..., None], nn.Sequential(Of(lambda x: x.mean(-1)), body))


def residual(t: Timed, c_in: int, c_out: int, stride: int, at: int) -> nn.Module:
    """Two or three convolutions over time and a residual (1611.06455), with squeeze-excite in some."""
    ks = sorted((t.d.rng.choice(OVER_TIME) for _ in range(t.d.rng.randint(2, 3))), reverse=True)
    layers = [t.conv(c_in if not i else c_out, c_out, k, 1 if i else stride) for i, k in enumerate(ks[:-1])]
    layers += [t.conv(c_out, c_out, ks[-1], act=None), *([t.gate(c_out)] if t.d.rng.random() < 0.3 else [])]
    by = None if c_in == c_out and stride == 1 else t.conv(c_in, c_out, 1, stride, act=None)
    return Sum(nn.Sequential(*layers), by, ACTS[t.d.act]())


def separable(t: Timed, c_in: int, c_out: int, stride: int, at: int) -> nn.Module:
    """Depthwise over time, then pointwise (1910.10261)."""
    body = nn.Sequential(t.conv(c_in, c_in, t.d.rng.choice(OVER_TIME), stride, groups=c_in, act=None),
                         t.conv(c_in, c_out), *([t.gate(c_out)] if t.d.rng.random() < 0.3 else []))  # fmt: skip
    return Sum(body) if c_in == c_out and stride == 1 and t.d.rng.random() < 0.5 else body


class Causal(nn.Module):
    """Only what was before: padded on the left (1803.01271), with what is too much cut, or none put there."""

    def __init__(self, body: nn.Module, more: int, flat: bool) -> None:
        super().__init__()
        self.body, self.more, self.flat = body, more, flat

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(functional.pad(x, (self.more, 0) if self.flat else (0, 0, self.more, 0)))
        return y[:, :, : x.shape[2]]


def dilated(t: Timed, c_in: int, c_out: int, stride: int, at: int) -> nn.Module:
    """Dilations that double from block to block (1803.01271), gated by a second convolution in some (1609.03499)."""
    k, r = t.d.rng.choice((2, 3, 3, 5, 7)), 2 ** min(at, 6)
    if k == 2 or t.d.rng.random() < 0.25:
        first: nn.Module = Causal(t.conv(c_in, c_out, k, dilation=r), r * (k - 1) - r * (k - 1) // 2, t.flat)
    elif t.d.rng.random() < 0.3:
        a, b = (t.conv(c_in, c_out, k, dilation=r, act=None, norm=False) for _ in range(2))
        first = Of(lambda x, p, q: torch.tanh(p) * torch.sigmoid(q), a, b)
    else:
        first = t.conv(c_in, c_out, k, dilation=r, groups=c_in if c_in == c_out and t.d.rng.random() < 0.3 else 1)
    body = nn.Sequential(first, t.conv(c_out, c_out, 1, act=None))
    made = Sum(body, None if c_in == c_out else t.conv(c_in, c_out, 1, act=None, norm=False), ACTS[t.d.act]())
    return made if stride == 1 else nn.Sequential(made, t.pool(3, stride, t.d.rng.random() < 0.5))


def inception(t: Timed, c_in: int, c_out: int, stride: int, at: int) -> nn.Module:
    """Windows of several lengths side by side, after few channels, beside a pooling (1909.04939)."""
    share, waist = max(4, c_out // 4), max(4, c_out // 4)
    parts = [nn.Sequential(t.conv(c_in, waist, norm=False, act=None), t.conv(waist, share, k, norm=False, act=None))
             for k in t.d.rng.sample((9, 15, 19, 25, 39), 3)]  # fmt: skip
    by = nn.Sequential(t.pool(3, 1, True), t.conv(c_in, share, norm=False, act=None))
    made = nn.Sequential(Cat(*parts, by), t.conv(4 * share, c_out))
    return made if stride == 1 else nn.Sequential(made, t.pool(3, stride, True))


KINDS: dict[str, Callable[[Timed, int, int, int, int], nn.Module]] = {
    "residual": residual, "separable": separable, "dilated": dilated, "inception": inception,
}  # fmt: skip


def deviation(x: Tensor) -> Tensor:
    """(1, c, t) -> (1, 2 c): means and standard deviations over time (1803.10963's statistics pooling)."""
    mean = x.mean(-1, keepdim=True)
    return torch.cat([mean, torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5)], 1).flatten(1)


def _over_all(d: Drawn, c: int, steps: int) -> list[nn.Module]:
    """(1, c, t) -> classes."""
    classes = d.rng.choice(CLASSES)
    match d.rng.choice(("mean", "mean", "mean", "max", "deviation", "flat", "attended")):
        case "mean":
            return [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(c, classes)]
        case "max":
            return [Of(lambda x: x.amax(2)), nn.Linear(c, classes)]
        case "deviation":
            return [Of(deviation), nn.Linear(2 * c, d.rng.choice((64, 128, 192))), nn.ReLU()]
        case "attended":  # steps weighted by a softmax over them (1803.10963)
            return [Of(lambda x, w: (x * w.softmax(-1)).sum(-1), nn.Conv1d(c, 1, 1)), nn.Linear(c, classes)]
        case _:
            few = min(c, 16)
            return [nn.Conv1d(c, few, 1), nn.ReLU(), nn.Flatten(), nn.Linear(few * steps, classes)]
    raise AssertionError


def series(d: Drawn, draw: Draw) -> nn.Module:
    """Convolutions over time from stem to head."""
    rng = d.rng
    t = Timed(d, rng.random() < 0.4)
    stride = rng.choice((1, 1, 2, 4)) if draw.resolution >= 64 else 1
    k, c, steps = rng.choice((*OVER_TIME, 1)), draw.stem_channels, draw.resolution
    layers: list[nn.Module] = [Of(lambda x: x.squeeze(-1))] if t.flat else []
    layers.append(t.conv(draw.in_channels, c, k, stride))
    steps, at = -(-steps // stride), 0
    kind = rng.choice(list(KINDS))
    for _, wide, depth, down in draw.stages:
        for i in range(depth):
            step = down if i == 0 and steps >= 8 else 1
            name = kind if rng.random() < 0.8 else rng.choice(list(KINDS))
            layers.append(KINDS[name](t, c, wide, step, at))
            c, steps, at = wide, -(-steps // step), at + 1
    if rng.random() < 0.2:  # something said at every step
        every = t.conv(c, rng.choice(CLASSES), norm=False, act=None)
        return nn.Sequential(*layers, every, rng.choice((nn.Identity, nn.Sigmoid, lambda: nn.Softmax(1)))())
    return nn.Sequential(*layers, *([] if t.flat else [nn.Flatten(2)]), *_over_all(d, c, steps))


def _oblong(d: Drawn, c_in: int, c_out: int, window: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, window, stride, (window[0] // 2, window[1] // 2), bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(c_out), ACTS[d.act]())


def broadcast(d: Drawn, c: int) -> nn.Module:
    """What frequencies say on average, convolved over time and added to each of them (2106.04140)."""
    body = nn.Sequential(nn.Conv2d(c, c, (3, 1), 1, (1, 0), groups=c), nn.BatchNorm2d(c))
    r = d.rng.choice((1, 2, 4, 8))
    over = nn.Sequential(Of(lambda x: x.mean(2, keepdim=True)),
                         nn.Conv2d(c, c, (1, 3), 1, (0, r), (1, r), groups=c, bias=False), nn.BatchNorm2d(c), nn.SiLU(),
                         nn.Conv2d(c, c, 1))  # fmt: skip
    return nn.Sequential(Of(lambda x, y: x + y, nn.Sequential(body, Of(lambda x, y: x + y, over))), ACTS[d.act]())


def spectrogram(d: Drawn, draw: Draw) -> nn.Module:
    """Oblong windows over frequencies and time; in some, frequencies become channels (1904.03814)."""
    rng, c = d.rng, draw.stem_channels
    if rng.random() < 0.2:
        turned = Of(lambda x: x.permute(0, 2, 3, 1) if draw.in_channels == 1 else x.flatten(1, 2)[..., None])
        inside = replace(draw, resolution=draw.across, in_channels=draw.in_channels * draw.resolution)
        return nn.Sequential(turned, series(d, inside))
    strides = rng.choice(((1, 1), (2, 2), (2, 1), (1, 2)))
    layers = [_oblong(d, draw.in_channels, c, rng.choice(OBLONG), strides)]
    kind = rng.choice(("plain", "separable", "residual", "broadcast"))
    shape = [-(-draw.resolution // strides[0]), -(-draw.across // strides[1])]
    for _, wide, depth, down in draw.stages:
        if down == 2 and min(shape) >= 4:
            k = rng.choice(((2, 2), (2, 2), (2, 1), (1, 2)))
            layers.append((nn.MaxPool2d if rng.random() < 0.7 else nn.AvgPool2d)(k, k))
        for _ in range(depth):
            window = rng.choice(OBLONG)
            pointwise = conv(c, wide, act=d.act)
            if kind == "plain" and window[0] * window[1] * c * wide > 400_000:
                window = (3, 3)
            if kind == "plain":
                layers.append(_oblong(d, c, wide, window, (1, 1)))
            elif kind == "separable":
                layers.append(nn.Sequential(conv(c, c, tuple(k | 1 for k in window), 1, c, d.act), pointwise))  # type: ignore[arg-type]
            elif kind == "residual":
                body = nn.Sequential(conv(c, wide, (3, 1), act=d.act), conv(wide, wide, (1, 3), act=None))
                layers.append(Sum(body, None if c == wide else conv(c, wide, act=None), ACTS[d.act]()))
            else:
                layers.append(nn.Sequential(pointwise, broadcast(d, wide)))
            c = wide
    how = rng.choice(("pool", "pool", "mean", "most", "each"))
    classes = rng.choice(CLASSES)
    if how == "each":  # sounds at every step: frequencies averaged out (1912.10211)
        return nn.Sequential(*layers, Of(lambda x: x.mean(2).transpose(1, 2)), nn.Linear(c, classes), nn.Sigmoid())
    over = {"pool": nn.AdaptiveAvgPool2d(1), "mean": Of(lambda x: x.mean(2).amax(2) + x.mean(2).mean(2)),
            "most": GlobalMax()}[how]  # fmt: skip
    return nn.Sequential(*layers, over, nn.Flatten(), nn.Linear(c, classes))
