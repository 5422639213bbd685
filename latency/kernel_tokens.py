"""Networks of tokens in the `kernels` space: pyramids of stages, columns of one width, rows of points.

(draws, Draw) -> a module on the Draw's input shape. The blocks: latency/kernel_token_blocks.py.
"""

from __future__ import annotations

import torch
from torch import nn

from latency.kernel_attention import Attention, style
from latency.kernel_blocks import ACTS, Drawn, conv
from latency.kernel_draws import Draw, log_uniform
from latency.kernel_token_blocks import Block, map_kinds

Tensor = torch.Tensor
CLASSES = (2, 10, 21, 100, 365, 1000, 1000)


class Merge(nn.Module):
    """Two by two places to one, by a product (2103.14030) or a convolution (2102.12122, 2107.00641)."""

    def __init__(self, d: Drawn, c_in: int, c_out: int) -> None:
        super().__init__()
        self.way = d.rng.choice(("product", "product", "two", "three"))
        self.norm = nn.LayerNorm(4 * c_in if self.way == "product" else c_out)
        self.body: nn.Module = nn.Linear(4 * c_in, c_out, bias=False)
        if self.way != "product":
            self.body = nn.Conv2d(c_in, c_out, 2, 2) if self.way == "two" else nn.Conv2d(c_in, c_out, 3, 2, 1)

    def forward(self, x: Tensor, side: tuple[int, int]) -> Tensor:
        (b, _, c), (h, w) = x.shape, side
        if self.way == "product":
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).reshape(b, h * w // 4, 4 * c)
            y: Tensor = self.body(self.norm(x))
            return y
        y = self.norm(self.body(x.transpose(1, 2).reshape(b, c, h, w)).flatten(2).transpose(1, 2))
        return y


class Stage(nn.Module):
    """Blocks on a map of `side`, as tokens; merged first where `merge` is given."""

    def __init__(self, merge: nn.Module | None, side: tuple[int, int], blocks: list[nn.Module]) -> None:
        super().__init__()
        self.merge, self.side, self.blocks = merge, side, nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.side
        if self.merge is not None:
            x = self.merge(x, (2 * h, 2 * w))
        for block in self.blocks:
            x = block(x, self.side)
        return x


class ToTokens(nn.Module):
    """(b, c, h, w) -> (b, h w, c), with a norm and positions where they are drawn."""

    def __init__(self, d: Drawn, c: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c) if d.rng.random() < 0.5 else None
        self.position = nn.Parameter(torch.zeros(1, tokens, c)) if d.rng.random() < 0.4 else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = self.norm(x) if self.norm is not None else x
        return x + self.position if self.position is not None else x


class ToMap(nn.Module):
    """(b, h w, c) -> (b, c, h, w)."""

    def __init__(self, side: tuple[int, int]) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *self.side)


class Mean(nn.Module):
    """(b, t, c) -> (b, c), by a mean or a maximum over tokens."""

    def __init__(self, most: bool) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(1) if self.most else x.mean(1)


def pyramid(d: Drawn, draw: Draw) -> nn.Module:
    """Stages of tokens, each of a quarter as many as the one before (2103.14030, 2102.12122)."""
    c = draw.stem_channels
    side = (draw.resolution // 4, draw.across // 4)
    stem: list[nn.Module] = [nn.Conv2d(draw.in_channels, c, 4, 4)]
    if d.rng.random() < 0.4:  # overlapping patches (2106.13797, 2107.00652)
        stem = [conv(draw.in_channels, c, 3, 2, act=d.act), nn.Conv2d(c, c, 3, 2, 1)]
    kinds = map_kinds(side[0] * side[1])
    kind = d.rng.choice(kinds)
    layers: list[nn.Module] = [*stem, ToTokens(d, c, side[0] * side[1])]
    for i, (_, wide, depth, _) in enumerate(draw.stages):
        merge = None
        if i:
            if side[0] % 2 or side[1] % 2 or min(side) < 4:
                break
            merge, side = Merge(d, c, wide), (side[0] // 2, side[1] // 2)
            c = wide
        full = kind == "reduced" and side[0] * side[1] <= 64  # the last stages of pyramids have as many keys
        s = style(d.rng, c, ("full",) if full else (kind,))
        layers.append(Stage(merge, side, [Block(c, s, side, shifted=bool(k % 2)) for k in range(depth)]))
    if d.rng.random() < 0.2:  # back to a map, for dense prediction (2105.15203)
        return nn.Sequential(*layers, ToMap(side), conv(c, c, 1, act=d.act), nn.Conv2d(c, d.rng.choice(CLASSES), 1))
    head = nn.Linear(c, d.rng.choice(CLASSES))
    return nn.Sequential(*layers, nn.LayerNorm(c), Mean(d.rng.random() < 0.1), head)


class Columns(nn.Module):
    """Tokens of one width, with class tokens that ask from the start or in the last block alone (2103.17239)."""

    def __init__(self, d: Drawn, draw: Draw) -> None:
        super().__init__()
        c, rng = draw.stem_channels, d.rng
        sides = (draw.resolution, draw.across)
        fits = [
            p
            for p in (4, 7, 8, 14, 16, 16, 20, 32)
            if p <= min(sides) and 4 <= (sides[0] // p) * (sides[1] // p) <= 320
        ]
        patch = rng.choice(fits or [max(1, min(sides) // 8)])
        n = (sides[0] // patch) * (sides[1] // patch)
        self.patches: nn.Module = nn.Conv2d(draw.in_channels, c, patch, patch)
        self.lead = rng.choice((0, 0, 1, 1, 1, 2, 4))  # class, distillation, registers (2309.16588)
        self.late = self.lead == 1 and rng.random() < 0.4
        first = 0 if self.late else self.lead
        self.token = nn.Parameter(torch.zeros(1, self.lead, c)) if self.lead else None
        self.position = nn.Parameter(torch.zeros(1, n + first, c))
        s = style(rng, c, ("full", "full", "full", "linear", "channels"))
        self.blocks = nn.Sequential(*(Block(c, s, None, n + first, on_map=False) for _ in range(draw.stages[0][2])))
        self.asks = Attention(c, style(rng, c, ("full",)), 1, n + 1, own=False) if self.late else None
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, rng.choice(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None and not self.late:
            x = torch.cat([self.token, x], 1)
        x = self.blocks(x + self.position)
        if self.asks is not None and self.token is not None:
            x = self.norm(self.token + self.asks(self.token, torch.cat([self.token, x], 1)))
        else:
            x = self.norm(x)
        y: Tensor = self.head(x[:, 0] if self.lead else x.mean(1))
        return y


class Rows(nn.Module):
    """(1, c, t, 1) -> layers over every row, narrow ones too (1612.00593), then attention or a maximum over them."""

    def __init__(self, d: Drawn, draw: Draw) -> None:
        super().__init__()
        rng, c, layers = d.rng, draw.in_channels, []
        norm = rng.choice((nn.LayerNorm, nn.Identity, nn.Identity))
        act = rng.choice((*ACTS.values(), nn.Tanh, nn.Sigmoid))
        for _ in range(rng.randint(1, 5)):
            wide = max(2, round(log_uniform(rng, 2, 32 if rng.random() < 0.5 else 256)))
            layers += [nn.Linear(c, wide), norm(wide), act()]
            c = wide
        self.first = nn.Sequential(*layers)
        s = style(rng, draw.stem_channels, ("full",) if draw.resolution <= 320 else ("linear", "channels"))
        self.enter = nn.Linear(c, draw.stem_channels)
        self.blocks = nn.Sequential(
            *(Block(draw.stem_channels, s, None, draw.resolution, on_map=False) for _ in range(draw.stages[0][2] - 1))
        )
        classes = rng.choice(CLASSES)
        each = rng.random() < 0.25
        self.head = nn.Sequential(*([] if each else [Mean(rng.random() < 0.6)]), nn.Linear(draw.stem_channels, classes))
        self.last = rng.choice((None, None, nn.Softmax(-1), nn.Sigmoid()))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.enter(self.first(x.flatten(2).transpose(1, 2)))))
        return self.last(y) if self.last is not None else y
