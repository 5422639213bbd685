"""Attention of the `kernels` space in the forms that papers have it, on tokens (batch, tokens, channels).

What one network's attention is (`Style`) is drawn once; each form follows the paper that its function names.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor
HEAD_WIDTHS = (4, 8, 16, 16, 32, 32, 32, 64, 64, 80)
WINDOWS = (4, 7, 7, 8)
FFN_ACTS = (nn.GELU, nn.GELU, nn.GELU, nn.ReLU, nn.SiLU, nn.Hardswish, nn.ReLU6, nn.LeakyReLU)  # after attention


@dataclass(frozen=True)
class Style:
    """What the attention of a network is; `key`, `value`: channels a head."""

    kind: str
    heads: int
    key: int
    value: int
    talking: bool = False
    biased: bool = False
    together: str = "qkv"
    fused: bool = False
    post_norm: bool = False
    layer_scale: bool = False
    ffn: str = "mlp"
    ratio: float = 4.0
    act: int = 0
    window: int = 7
    shrink: int = 2


def style(rng: random.Random, c: int, kinds: tuple[str, ...]) -> Style:
    """A random style for `c` channels: heads as wide as `c` has room for mostly, else any."""
    key = rng.choice([w for w in HEAD_WIDTHS if w <= max(4, c)])
    heads = max(1, c // key) if rng.random() < 0.6 else rng.choice((1, 1, 2, 3, 4, 5, 6, 8, 12, 16))
    heads = min(heads, 16, max(1, 2 * c // key))
    kind = rng.choice(kinds)
    value = key if rng.random() < 0.7 or kind == "channels" else max(4, rng.choice((key // 2, 2 * key, 4 * key)))
    talking, biased = rng.random() < 0.15, rng.random() < 0.4
    return Style(
        kind, heads, key, value, talking, biased,
        together=rng.choice(("qkv", "qkv", "kv", "none")), fused=not (talking or biased) and rng.random() < 0.4,
        post_norm=rng.random() < 0.25, layer_scale=rng.random() < 0.2,
        ffn=rng.choice(("mlp", "mlp", "mlp", "conv", "glu")), ratio=rng.choice((1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 8 / 3)),
        act=rng.randrange(len(FFN_ACTS)), window=rng.choice(WINDOWS), shrink=rng.choice((2, 2, 4, 8)),
    )  # fmt: skip


class Attention(nn.Module):
    """Queries of `x` to keys and values of `y`: (b, t, c), (b, s, c) -> (b, t, c).

    `queries`, `keys`: how many there are, 0 where it is not known; then nothing is learnt for each.
    Logits with a learnt bias (1910.10683), heads that talk before and after the softmax (2003.02436), values wider
    than keys (2104.01136), all in one product or apart.
    """

    def __init__(self, c: int, s: Style, queries: int, keys: int, own: bool = True) -> None:
        super().__init__()
        self.s = s
        keyed, valued = s.heads * s.key, s.heads * s.value
        self.joint = s.together == "qkv" and own and s.key == s.value
        self.qkv = nn.Linear(c, 2 * keyed + valued) if self.joint else None
        self.q = None if self.joint else nn.Linear(c, keyed)
        self.kv = nn.Linear(c, keyed + valued) if not self.joint and s.together == "kv" else None
        apart = not self.joint and self.kv is None
        self.k = nn.Linear(c, keyed) if apart else None
        self.v = nn.Linear(c, valued) if apart else None
        many = s.kind in ("linear", "channels")
        biased = s.biased and not many and queries > 0
        self.bias = nn.Parameter(torch.zeros(s.heads, queries, keys)) if biased else None
        talks = s.talking and not many
        self.before, self.after = (nn.Linear(s.heads, s.heads) if talks else None for _ in range(2))
        self.out = nn.Linear(valued, c)

    def _split(self, x: Tensor, width: int) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.s.heads, width).transpose(1, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        s, (b, t, _), y = self.s, x.shape, x if y is None else y
        if self.qkv is not None:
            qkv: Tensor = self.qkv(x).reshape(b, t, 3, s.heads, s.key).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
        else:
            assert self.q is not None
            q = self._split(self.q(x), s.key)
            if self.kv is not None:
                first, second = torch.split(self.kv(y), [s.heads * s.key, s.heads * s.value], -1)
            else:
                assert self.k is not None
                assert self.v is not None
                first, second = self.k(y), self.v(y)
            k, v = self._split(first, s.key), self._split(second, s.value)
        z: Tensor = self.out(self._attend(q, k, v).transpose(1, 2).reshape(b, t, s.heads * s.value))
        return z

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = self.s
        if s.kind == "linear":  # 2006.16236; by softmax over channels and over tokens: 1812.01243
            if s.talking:
                return q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)
            q, k = (functional.relu(x) if s.biased else functional.elu(x) + 1.0 for x in (q, k))
            return (q @ (k.transpose(-2, -1) @ v)) / (q @ k.sum(-2, keepdim=True).transpose(-2, -1) + 1e-6)
        if s.kind == "channels":  # 2106.09681, 2111.09881
            q, k = functional.normalize(q, dim=-2), functional.normalize(k, dim=-2)
            return v @ (q.transpose(-2, -1) @ k).softmax(-1)
        if s.fused and self.bias is None and self.before is None:
            return functional.scaled_dot_product_attention(q, k, v)
        logits = q @ k.transpose(-2, -1) * s.key**-0.5
        if self.bias is not None:
            logits = logits + self.bias
        if self.before is not None:
            logits = self.before(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = logits.softmax(-1)
        if self.after is not None:
            weights = self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mixed: Tensor = weights @ v
        return mixed
