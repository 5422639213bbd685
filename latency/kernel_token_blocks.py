"""Blocks of attention and feed-forward of the `kernels` space, on tokens (batch, tokens, channels).

`side` is the (height, width) of the map that they are, where they are one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from latency.kernel_attention import FFN_ACTS, Attention, Style, style
from latency.kernel_blocks import Drawn

Tensor = torch.Tensor
MANY = 1024  # tokens, above which all of them ask not all of them


class OnMap(nn.Module):
    """Attention of a map's places: in windows, shifted or not (2103.14030), or to fewer keys (2102.12122).

    `side` (height, width) is needed only for a learnt bias, whose size it decides.
    """

    def __init__(self, c: int, s: Style, side: tuple[int, int] | None = None, shifted: bool = False) -> None:
        super().__init__()
        self.s, self.shifted = s, shifted
        queries = keys = 0
        if side is not None and s.kind in ("window", "reduced", "full"):
            (a, e), r = self._window(side), self._shrink(side)
            queries = side[0] * side[1] if s.kind == "reduced" else a * e
            keys = (side[0] // r) * (side[1] // r) if s.kind == "reduced" else queries
        if s.kind == "reduced":
            self.small = nn.Conv2d(c, c, s.shrink, s.shrink) if side and self._shrink(side) == s.shrink else None
            self.norm = nn.LayerNorm(c)
        self.attention = Attention(c, s, queries, keys, own=s.kind != "reduced")

    def _window(self, side: tuple[int, int]) -> tuple[int, int]:
        """The window; all of the map where all places ask all, and are not too many."""
        if self.s.kind == "full" and side[0] * side[1] <= MANY:
            return side
        return min(self.s.window, side[0]), min(self.s.window, side[1])

    def _shrink(self, side: tuple[int, int]) -> int:
        return max(1, min(self.s.shrink, *side))

    def forward(self, x: Tensor, side: tuple[int, int]) -> Tensor:
        b, t, c = x.shape
        if self.s.kind == "reduced":
            small = x.transpose(1, 2).reshape(b, c, *side)
            r = self._shrink(side)
            small = self.small(small) if self.small is not None else functional.avg_pool2d(small, r)
            y: Tensor = self.attention(x, self.norm(small.flatten(2).transpose(1, 2)))
            return y
        (a, e), (h, w) = self._window(side), side
        if self.s.kind in ("linear", "channels") or (a, e) == side:
            y = self.attention(x)
            return y
        shift = min(a, e) // 2 if self.shifted else 0
        x = x.reshape(b, h, w, c)
        more_h, more_w = -h % a, -w % e
        if more_h or more_w:
            x = functional.pad(x, (0, 0, 0, more_w, 0, more_h))
        high, wide = h + more_h, w + more_w
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        x = x.reshape(b, high // a, a, wide // e, e, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, a * e, c)
        x = self.attention(x).reshape(b, high // a, wide // e, a, e, c)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, high, wide, c)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        if more_h or more_w:
            x = x[:, :h, :w]
        return x.reshape(b, t, c)


class FeedForward(nn.Module):
    """Two layers (1706.03762), with a depthwise convolution between them (2106.13797), or gated (2002.05202)."""

    def __init__(self, c: int, s: Style, on_map: bool) -> None:
        super().__init__()
        wide = max(4, round(c * s.ratio))
        self.act = FFN_ACTS[s.act]()
        self.first, self.last = nn.Linear(c, wide), nn.Linear(wide, c)
        self.gate = nn.Linear(c, wide) if s.ffn == "glu" else None
        self.spatial = nn.Conv2d(wide, wide, 3, 1, 1, groups=wide) if s.ffn == "conv" and on_map else None

    def forward(self, x: Tensor, side: tuple[int, int] | None) -> Tensor:
        y = self.first(x)
        if self.spatial is not None and side is not None:
            b, _, c = y.shape
            y = self.spatial(y.transpose(1, 2).reshape(b, c, *side)).flatten(2).transpose(1, 2)
        y = self.act(y) if self.gate is None else self.act(y) * self.gate(x)
        z: Tensor = self.last(y)
        return z


class Block(nn.Module):
    """Attention and feed-forward, each added to what goes in: norms before (2002.04745) or after (1706.03762) them,
    with layer scale (2103.17239) or without. `side`: of the map that the tokens are; None where they are none, or
    where it is not known yet (then without a learnt bias).
    """

    def __init__(
        self,
        c: int,
        s: Style,
        side: tuple[int, int] | None,
        tokens: int = 0,
        on_map: bool = True,
        shifted: bool = False,
    ) -> None:
        super().__init__()
        self.on_map = OnMap(c, s, side, shifted) if on_map else None
        self.attention = None if on_map else Attention(c, s, tokens, tokens)
        self.ffn = FeedForward(c, s, on_map)
        self.norms, self.post = nn.ModuleList(nn.LayerNorm(c) for _ in range(2)), s.post_norm
        scales = [nn.Parameter(torch.full((c,), 0.1)) for _ in range(2)] if s.layer_scale else []
        self.scales = nn.ParameterList(scales)

    def _part(self, i: int, x: Tensor, side: tuple[int, int] | None) -> Tensor:
        if i:
            y: Tensor = self.ffn(x, side)
        elif self.on_map is not None and side is not None:
            y = self.on_map(x, side)
        else:
            assert self.attention is not None
            y = self.attention(x)
        return y

    def forward(self, x: Tensor, side: tuple[int, int] | None = None) -> Tensor:
        for i in range(2):
            y = self._part(i, x if self.post else self.norms[i](x), side)
            if len(self.scales):
                y = y * self.scales[i]
            x = self.norms[i](x + y) if self.post else x + y
        return x


def map_kinds(tokens: int) -> tuple[str, ...]:
    """The kinds of attention that so many tokens of a map can have."""
    few = ("full", "full", "full") if tokens <= MANY // 2 else ()
    return ("window", "window", "reduced", "linear", "channels", *few)


class Attend(nn.Module):
    """An extra: a map as tokens through a block of attention, and back (2110.02178)."""

    def __init__(self, d: Drawn, c: int) -> None:
        super().__init__()
        self.block = Block(c, style(d.rng, c, map_kinds(1)), None, shifted=d.rng.random() < 0.4)

    def forward(self, x: Tensor) -> Tensor:
        (b, c, h, w) = (int(n) for n in x.shape)
        y: Tensor = self.block(x.flatten(2).transpose(1, 2), (h, w))
        return y.transpose(1, 2).reshape(b, c, h, w)
