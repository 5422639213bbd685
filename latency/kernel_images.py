"""Networks of the `kernels` space that put out maps: at full resolution, from a vector, or from what they put in.

(draws, Draw) -> a module on the Draw's input shape.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_blocks import Cat, Drawn, Gate, Sum, conv
from latency.kernel_draws import Draw, log_uniform
from latency.kernel_extras import Of, OfPlaces

Tensor = torch.Tensor
ACTS = (nn.ReLU, nn.ReLU, nn.PReLU, lambda: nn.LeakyReLU(0.1), nn.GELU, nn.SiLU, nn.ReLU6, nn.Tanh, nn.ELU)
TRANSPOSED = ((2, 2), (3, 2), (4, 2), (4, 2), (5, 2))  # (kernel, stride)


class Padded(nn.Module):
    """A convolution with its borders reflected, as style transfer has it (1603.08155), or filled with zeros."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1, reflect: bool = False) -> None:
        super().__init__()
        self.pad = k // 2 if reflect else 0
        self.conv = nn.Conv2d(c_in, c_out, k, stride, 0 if reflect else k // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            mode = "reflect" if min(x.shape[-2:]) > self.pad else "replicate"
            x = functional.pad(x, (self.pad,) * 4, mode=mode)
        y: Tensor = self.conv(x)
        return y


def _norm(d: Drawn, kind: str, c: int) -> list[nn.Module]:
    if kind == "none":
        return []
    if kind == "group":
        return [nn.GroupNorm(d.rng.choice([g for g in (1, 2, 4, 8) if c % g == 0]), c)]
    return [nn.BatchNorm2d(c) if kind == "batch" else OfPlaces(nn.InstanceNorm2d(c, affine=d.rng.random() < 0.7))]


def _residual(d: Drawn, c: int, norm: str, reflect: bool) -> nn.Module:
    """A residual block (1603.08155; without norms 1707.02921), with a gate of channels in some (1807.02758)."""
    act, k = d.rng.choice(ACTS), d.rng.choice((3, 3, 3, 5))
    body = [Padded(c, c, k, 1, reflect), *_norm(d, norm, c), act(), Padded(c, c, k, 1, reflect), *_norm(d, norm, c)]
    if d.rng.random() < 0.25:
        body.append(Gate(c, max(2, c // d.rng.choice((4, 16))), "relu", nn.Sigmoid()))
    made: nn.Module = nn.Sequential(*body)
    return Of(lambda x, y: x + 0.1 * y, made) if d.rng.random() < 0.25 else Sum(made)


def _joined(d: Drawn, c: int) -> nn.Module:
    """Convolutions of what was before, all joined, then back to as many channels (1802.08797)."""
    growth, layers = d.rng.choice((8, 10, 14, 16, 22, 32)), []
    n = d.rng.randint(2, 4)
    for i in range(n):
        layers.append(Cat(nn.Identity(), nn.Sequential(nn.Conv2d(c + i * growth, growth, 3, 1, 1), nn.ReLU())))
    return Sum(nn.Sequential(*layers, nn.Conv2d(c + n * growth, c, 1)))


def _plain(d: Drawn, c: int, norm: str, reflect: bool) -> nn.Module:
    """Convolutions one after another (1608.03981), depthwise ones or a norm over channels among them (2204.04676)."""
    if d.rng.random() < 0.3:
        gate = Of(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1])
        return Sum(nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, 1, 1, groups=2 * c), gate,
                                 nn.Conv2d(c, c, 1)))  # fmt: skip
    k = d.rng.choice((3, 3, 3, 5, 1))
    return nn.Sequential(Padded(c, c, k, 1, reflect), *_norm(d, norm, c), d.rng.choice(ACTS)())


def _back(d: Drawn, c: int, factor: int, out: int) -> nn.Module:
    """To `factor` times the size and `out` channels: shuffled (1609.05158), transposed (1608.00367), or resized."""
    k = d.rng.choice((3, 3, 5, 9))
    if factor == 1:
        return nn.Conv2d(c, out, k, 1, k // 2)
    match d.rng.choice(("shuffle", "shuffle", "transposed", "resize", "first")):
        case "shuffle":
            return nn.Sequential(nn.Conv2d(c, out * factor**2, 3, 1, 1), nn.PixelShuffle(factor))
        case "transposed":
            k = d.rng.choice((factor, 2 * factor, 9))
            return nn.ConvTranspose2d(
                c, out, k, factor, max(0, -(-(k - factor) // 2)), (k - factor) % 2 if k > factor else 0
            )
        case "first":
            few = max(4, c // 2)
            return nn.Sequential(nn.Conv2d(c, few * factor**2, 3, 1, 1), nn.PixelShuffle(factor), nn.PReLU(),
                                 nn.Conv2d(few, out, k, 1, k // 2))  # fmt: skip
    up = nn.Upsample(scale_factor=float(factor), mode=d.rng.choice(("nearest", "bilinear", "bicubic")))
    return nn.Sequential(
        *([up, nn.Conv2d(c, out, k, 1, k // 2)] if d.rng.random() < 0.5 else [nn.Conv2d(c, out, k, 1, k // 2), up])
    )


def full_resolution(d: Drawn, draw: Draw) -> nn.Module:
    """Bodies of few channels without strides: super-resolution, denoising, style transfer."""
    rng, c = d.rng, draw.stem_channels
    norm, reflect = rng.choice(("none", "none", "batch", "instance", "group")), rng.random() < 0.25
    k, out = rng.choice((3, 3, 5, 7, 9, 9)), rng.choice((draw.in_channels, draw.in_channels, 1, 2, 4, 12))
    kind, factor = rng.choice(("residual", "joined", "plain", "plain", "style")), rng.choice((1, 1, 2, 3, 4))
    first: list[nn.Module] = [Padded(draw.in_channels, c, k, 1, reflect), *_norm(d, norm, c), rng.choice(ACTS)()]
    body: list[nn.Module] = []
    inner = c
    if kind == "style":  # down, residuals, up
        inner, norm = 2 * c, rng.choice(("instance", "instance", "batch"))
        body += [Padded(c, inner, 3, 2, reflect), *_norm(d, norm, inner), nn.ReLU()]
    for _ in range(draw.stages[0][2]):
        if kind == "joined":
            body.append(_joined(d, inner))
        elif kind == "plain":
            body.append(_plain(d, inner, norm, reflect))
        else:
            body.append(_residual(d, inner, norm, reflect))
    if kind == "style":
        up = nn.Upsample(scale_factor=2.0, mode=rng.choice(("nearest", "bilinear")))
        turned = nn.ConvTranspose2d(inner, c, 3, 2, 1, 1)
        ups = [up, Padded(inner, c, 3, 1, reflect)] if rng.random() < 0.6 else [turned]
        body += [*ups, *_norm(d, norm, c), nn.ReLU()]
    whole = nn.Sequential(*body)
    middle: nn.Module = Sum(whole) if kind != "style" and rng.random() < 0.4 else whole
    last: list[nn.Module] = [_back(d, c, 1 if kind == "style" else factor, out)]
    last += rng.choice(([], [], [nn.Tanh()], [nn.Sigmoid()], [nn.Hardtanh(0.0, 1.0)]))
    made = nn.Sequential(*first, middle, *last)
    if factor == 1 and out == draw.in_channels and rng.random() < 0.5:
        how = rng.choice(("noise", "curve"))
        if how == "curve":  # 2001.06826
            return Of(lambda x, a: x + a * (x * x - x), made)
        return Of(lambda x, y: x - y, made)  # 1608.03981
    return made


def _up(d: Drawn, c_in: int, c_out: int, norm: str, act: nn.Module | None) -> nn.Module:
    """A transposed convolution to twice the size."""
    k, stride = d.rng.choice(TRANSPOSED)
    pad = max(0, -(-(k - stride) // 2))
    body = nn.ConvTranspose2d(c_in, c_out, k, stride, pad, stride - (k - 2 * pad), bias=norm == "none")
    return nn.Sequential(body, *([] if act is None else [*_norm(d, norm, c_out), act]))


def _decoder(d: Drawn, widths: list[int], out: int, norm: str) -> list[nn.Module]:
    act = d.rng.choice((nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.SiLU, nn.ELU))
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers.append(_up(d, a, b, norm, act()))
        if d.rng.random() < 0.25:
            layers.append(conv(b, b, 3, act="relu"))
    last = (
        _up(d, widths[-1], out, "none", None)
        if d.rng.random() < 0.6
        else nn.Conv2d(widths[-1], out, d.rng.choice((3, 7)), padding="same")
    )
    return [*layers, last, d.rng.choice((nn.Tanh, nn.Sigmoid, nn.Identity))()]


def generator(d: Drawn, draw: Draw) -> nn.Module:
    """A vector -> a small map -> transposed convolutions (1511.06434). The stages' channels are those of its maps."""
    rng, widths = d.rng, [row[1] for row in draw.stages]
    side, norm = rng.choice((2, 3, 4, 4, 7, 8)), rng.choice(("batch", "batch", "instance", "none"))
    c = draw.in_channels
    if rng.random() < 0.7 or side == 2:
        shape = (widths[0], side, side)
        start: list[nn.Module] = [nn.Flatten(), nn.Linear(c, widths[0] * side * side)]
        start += [*rng.choice(([], [nn.ReLU()], [nn.LeakyReLU(0.2)])), Of(lambda x: x.reshape(1, *shape))]
    else:
        start = [nn.ConvTranspose2d(c, widths[0], side, 1), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    return nn.Sequential(*start, *_decoder(d, widths, rng.choice((1, 3, 3, 4)), norm))


def autoencoder(d: Drawn, draw: Draw) -> nn.Module:
    """Strided convolutions to few places, through a vector in some (1312.6114), and transposed ones back."""
    rng, widths = d.rng, [row[1] for row in draw.stages]
    act, norm = rng.choice(ACTS), rng.choice(("batch", "none", "none", "instance", "group"))
    layers: list[nn.Module] = []
    c, side = draw.in_channels, (draw.resolution, draw.across)
    for wide in widths[::-1]:
        k = rng.choice((3, 3, 5, 4))
        layers += [nn.Conv2d(c, wide, k, 2, (k - 1) // 2), *_norm(d, norm, wide), act()]
        c, side = wide, tuple((s + 2 * ((k - 1) // 2) - k) // 2 + 1 for s in side)  # type: ignore[assignment]
    small, n = (c, *side), c * side[0] * side[1]
    if n <= 40_000 and rng.random() < 0.5:
        vector = max(2, round(log_uniform(rng, 4, 256)))
        layers += [nn.Flatten(), nn.Linear(n, vector)]
        if rng.random() < 0.6:  # a sample, of a mean and of the logarithm of a variance
            layers[-1] = Of(lambda x, m, v: m + 0.5 * torch.exp(0.5 * v), nn.Linear(n, vector), nn.Linear(n, vector))
        layers += [nn.Linear(vector, n), nn.ReLU(), Of(lambda x: x.reshape(1, *small))]
    elif rng.random() < 0.3:
        layers += [_residual(d, c, norm, False)]
    return nn.Sequential(*layers, *_decoder(d, widths, draw.in_channels, norm if norm != "group" else "none"))
