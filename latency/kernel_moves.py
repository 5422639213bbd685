"""Extras of the `kernels` space that pool, pad, join, shuffle and resize; see latency/kernel_extras.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_blocks import Cat, Drawn, Sum, conv, divided

Tensor = torch.Tensor


class Fold(nn.Module):
    """(n, c f f, h, w) -> (n, c, h f, w f) as reshapes about a transpose, the blocks' places before the channels."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        f, (n, c, h, w) = self.factor, (int(s) for s in x.shape)
        return x.view(n, f, f, c // f**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // f**2, h * f, w * f)


class Up(nn.Module):
    """A map brought to twice (`factor` times) its size, in a way that is drawn; the channels may change."""

    def __init__(self, d: Drawn, c_in: int, c_out: int, factor: int = 2) -> None:
        super().__init__()
        ways = ("nearest", "bilinear", "bicubic", "transposed", "shuffle", "fold")
        way = d.rng.choices(ways, (2, 2, 1.2, 4, 3, 1))[0]
        self.way, self.factor = way, factor
        if way == "transposed":
            k, groups = d.rng.choice((factor, factor + 1, 2 * factor)), 1
            if c_in == c_out and d.rng.random() < 0.3:
                groups = d.rng.choice([g for g in (2, 4, c_in) if c_in % g == 0] or [1])
            pad = max(0, -(-(k - factor) // 2))
            more = factor - (k - 2 * pad)
            self.body: nn.Module = nn.ConvTranspose2d(c_in, c_out, k, factor, pad, max(0, more), groups)
        elif way in ("shuffle", "fold"):  # 1609.05158; spelled out as a transpose of six axes
            self.body = nn.Sequential(nn.Conv2d(c_in, c_out * factor**2, d.rng.choice((1, 3)), padding="same"),
                                      nn.PixelShuffle(factor) if way == "shuffle" else Fold(factor))  # fmt: skip
        else:
            self.body = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if self.way in ("transposed", "shuffle", "fold"):
            return y
        return functional.interpolate(y, scale_factor=float(self.factor), mode=self.way)


class Down(nn.Module):
    """A map brought to half its size, in a way that is drawn; odd sizes are filled up first."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.way, k = d.rng.choice(("max", "avg", "conv", "unshuffle", "unfold")), d.rng.choice((2, 3))
        pools = {"max": nn.MaxPool2d(k, 2, k // 2 if k > 2 else 0), "avg": nn.AvgPool2d(k, 2, k // 2 if k > 2 else 0)}
        self.body = pools.get(self.way) or (
            conv(c, c, 3, 2, d.rng.choice((1, c)), d.act) if self.way == "conv" else conv(4 * c, c, act=d.act)
        )

    def forward(self, x: Tensor) -> Tensor:
        h, w = int(x.shape[-2]), int(x.shape[-1])
        if h % 2 or w % 2:
            x = functional.pad(x, (0, w % 2, 0, h % 2))
        if self.way == "unshuffle":
            x = functional.pixel_unshuffle(x, 2)
        elif self.way == "unfold":  # 2003.13630
            n, c, h, w = (int(s) for s in x.shape)
            x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
        y: Tensor = self.body(x)
        return y


class DownAndUp(nn.Module):
    """Half the size, a convolution, and back, added to the input (1603.06937)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.down, self.body, self.up = Down(d, c), conv(c, c, d.rng.choice((1, 3)), 1, 1, d.act), Up(d, c, c)

    def forward(self, x: Tensor) -> Tensor:
        h, w = int(x.shape[-2]), int(x.shape[-1])
        y = self.up(self.body(self.down(x)))
        if y.shape[-2:] != x.shape[-2:]:
            y = y[..., :h, :w]
        z: Tensor = x + y
        return z


class Pyramid(nn.Module):
    """Averages over parts of the map, brought back to its size and joined (1612.01105)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.bins = d.rng.sample((1, 2, 3, 4, 6), d.rng.randint(1, 3))
        self.mode, inner = d.rng.choices(("bilinear", "nearest", "bicubic"), (4, 3, 1.5))[0], divided(c // 4, 4)
        self.parts = nn.ModuleList(conv(c, inner, act=d.act) for _ in self.bins)
        self.last = conv(c + inner * len(self.bins), c, d.rng.choice((1, 3)), act=d.act)

    def forward(self, x: Tensor) -> Tensor:
        h, w = int(x.shape[-2]), int(x.shape[-1])
        found = [x]
        for bins, part in zip(self.bins, self.parts, strict=True):
            y = part(functional.avg_pool2d(x, (max(1, h // bins), max(1, w // bins))))
            found.append(functional.interpolate(y, size=(h, w), mode=self.mode))
        z: Tensor = self.last(torch.cat(found, 1))
        return z


class Padded(nn.Module):
    """Padding by itself: reflected or repeated borders (1603.08155), or channels of zeros (1512.03385, option A)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.mode, self.k = d.rng.choice(("reflect", "replicate", "channels")), d.rng.choice((3, 3, 5, 7))
        if self.mode == "channels":
            self.more = divided(c // 4, 4)
            self.body: nn.Module = conv(c + self.more, c, act=d.act)
        else:
            groups = d.rng.choice((1, c)) if self.k == 3 else c
            self.body = nn.Conv2d(c, c, self.k, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "channels":
            y: Tensor = self.body(functional.pad(x, (0, 0, 0, 0, 0, self.more)))
            return y
        p = self.k // 2
        mode = self.mode if min(x.shape[-2:]) > p else "replicate"
        y = self.body(functional.pad(x, (p, p, p, p), mode=mode))
        return y


def windows(d: Drawn, c: int) -> nn.Module:
    """Poolings of several windows, stride 1, joined (1406.4729), or one in place."""

    def pool() -> nn.Module:
        k = d.rng.choice((2, 3, 3, 5, 7, 9, 13))
        kind = d.rng.choice(("max", "avg", "valid"))
        if k % 2 == 0:
            return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(k, 1))
        if kind == "max":
            return nn.MaxPool2d(k, 1, k // 2)
        return nn.AvgPool2d(k, 1, k // 2, count_include_pad=kind == "avg")

    n = d.rng.randint(1, 3)
    if n == 1:
        return nn.Sequential(pool(), conv(c, c, act=d.act))
    return nn.Sequential(Cat(nn.Identity(), *(pool() for _ in range(n))), conv((n + 1) * c, c, act=d.act))


def dilated(d: Drawn, c: int) -> nn.Module:
    """Convolutions of several dilations side by side (1706.05587)."""
    inner, groups = divided(c // 4, 4), d.rng.choice((1, c))

    def part() -> nn.Module:
        r = d.rng.choice((2, 2, 3, 4, 6))
        first = nn.Conv2d(c, inner if groups == 1 else c, 3, 1, r, r, groups)
        return nn.Sequential(first, nn.ReLU(), *([] if groups == 1 else [conv(c, inner, act=d.act)]))

    parts = [part() for _ in range(d.rng.randint(1, 3))]
    return nn.Sequential(Cat(*parts), conv(inner * len(parts), c, act=d.act))


def grouped(d: Drawn, c: int) -> nn.Module:
    """Grouped or one-sided convolutions (1611.05431, 1512.00567)."""
    groups = d.rng.choice([g for g in (2, 4, 8, 16, 32, c // 8) if g > 1 and c % g == 0] or [1])
    k = d.rng.choice((1, 3, 3, 5))
    if d.rng.random() < 0.3:
        body: nn.Module = nn.Sequential(conv(c, c, (1, 2 * k + 1), 1, c, None), conv(c, c, (2 * k + 1, 1), 1, c, d.act))
    else:
        body = conv(c, c, k, 1, groups, d.act)
    return Sum(nn.Sequential(body, conv(c, c, act=None)))


class Steps(nn.Module):
    """The channels in parts, each convolved with what the part before gave (1904.01169)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        n = d.rng.choice([p for p in (2, 3, 4, 5, 8) if c % p == 0] or [1])
        self.part = c // n
        self.convs = nn.ModuleList(conv(self.part, self.part, 3, act=d.act) for _ in range(n - 1))
        self.last = conv(c, c, act=d.act)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(torch.split(x, self.part, 1))
        for i, body in enumerate(self.convs):
            parts[i + 1] = body(parts[i + 1] + parts[i] if i else parts[i + 1])
        z: Tensor = x + self.last(torch.cat(parts, 1))
        return z


class Everywhere(nn.Module):
    """What the whole map says, joined to every place (1506.04579); or channels in another order."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.order = torch.tensor(d.rng.sample(range(c), c)) if d.rng.random() < 0.4 else None
        self.last = conv(c if self.order is not None else 2 * c, c, act=d.act)

    def forward(self, x: Tensor) -> Tensor:
        if self.order is not None:
            y: Tensor = self.last(x[:, self.order])
            return y
        y = self.last(torch.cat([x, functional.adaptive_avg_pool2d(x, 1).expand_as(x)], 1))
        return y


MOVES: dict[str, Callable[[Drawn, int], nn.Module]] = {
    "down_and_up": DownAndUp, "pyramid": Pyramid, "padded": Padded, "windows": windows, "dilated": dilated,
    "grouped": grouped, "steps": Steps, "everywhere": Everywhere,
}  # fmt: skip
