"""Fourth networks of benchmarks/any_network_fourth.py: attention, and what came of it."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, cbr


class SelfAttention(nn.Module):
    """Scaled dot products of every token with every other (1706.03762, equation 1)."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (c // heads) ** -0.5
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, c))


class Before(nn.Module):
    """Attention and MLP, each normalised before."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.n1, self.n2, self.mix = nn.LayerNorm(c, 1e-6), nn.LayerNorm(c, 1e-6), SelfAttention(c, heads)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.n1(x))
        return x + self.mlp(self.n2(x))


class Deit(nn.Module):
    """DeiT of twelve layers and heads of 64, with a class and a distillation token, whose answers are averaged
    (2012.12877, section 4, table 1); c = 192 is DeiT-Ti, 384 DeiT-S."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, c, 16, 16)
        self.cls, self.dist = (nn.Parameter(torch.randn(1, 1, c) / 50) for _ in range(2))
        self.places = nn.Parameter(torch.randn(1, (size // 16) ** 2 + 2, c) / 50)
        self.blocks, self.norm = nn.Sequential(*(Before(c, c // 64) for _ in range(12))), nn.LayerNorm(c, 1e-6)
        self.head, self.other = nn.Linear(c, 1000), nn.Linear(c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls, self.dist, x), 1) + self.places
        x = self.norm(self.blocks(x))
        return (self.head(x[:, 0]) + self.other(x[:, 1])) / 2


class Linearly(nn.Module):
    """One score a token, one context of all of them (2206.02680, section 3.2)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d, self.qkv, self.out = d, nn.Conv2d(d, 1 + 2 * d, 1), nn.Conv2d(d, d, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).split((1, self.d, self.d), 1)
        context = (k * q.softmax(-1)).sum(-1, keepdim=True)
        return self.out(F.relu(v) * context)


class Patches(nn.Module):
    """A local convolution, then separable attention among the pixels of the same place in patches of 2 x 2
    (2206.02680, section 3.3; 2110.02178, figure 1 b)."""

    def __init__(self, c: int, d: int, n: int) -> None:
        super().__init__()
        self.start = nn.Sequential(cbr(c, c, 3, 1, c, nn.SiLU), nn.Conv2d(c, d, 1, bias=False))
        rows: list[nn.Module] = []
        for _ in range(n):
            rows.append(Add(nn.Sequential(nn.GroupNorm(1, d), Linearly(d))))
            mlp = [nn.Conv2d(d, 2 * d, 1), nn.SiLU(), nn.Conv2d(2 * d, d, 1)]
            rows.append(Add(nn.Sequential(nn.GroupNorm(1, d), *mlp)))
        self.rows, self.end = nn.Sequential(*rows, nn.GroupNorm(1, d)), cbr(d, c, 1, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        n, d, h, w = x.shape
        x = x.reshape(n, d, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, d, 4, h * w // 4)
        x = self.rows(x).reshape(n, d, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3)
        return self.end(x.reshape(n, d, h, w))


def twice(i: int, o: int, s: int) -> nn.Module:
    """An inverted residual, twice as wide inside."""
    m = 2 * i
    body = nn.Sequential(cbr(i, m, 1, act=nn.SiLU), cbr(m, m, 3, s, m, nn.SiLU), cbr(m, o, 1, act=None))
    return Add(body) if s == 1 and i == o else body


def mobilevit_v2(w: int) -> nn.Module:
    """MobileViTv2 (2206.02680, section 3.3, as its authors' code); w is the width in hundredths, 50 its
    smallest."""
    c, a, b, d, e, f = (v * w // 100 for v in (32, 64, 128, 256, 384, 512))
    layers: list[nn.Module] = [cbr(3, c, 3, 2, act=nn.SiLU), twice(c, a, 1), twice(a, b, 2), twice(b, b, 1)]
    for i, o, n in ((b, d, 2), (d, e, 4), (e, f, 3)):
        layers += [twice(i, o, 2), Patches(o, o // 2, n)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(f, 1000))


class Responses(nn.Module):
    """Every channel by its norm over the map, relative to the others' (2301.00808, section 3, algorithm 1)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.randn(1, 1, 1, c) / 10) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        own = own / (own.mean(-1, keepdim=True) + 1e-6)
        return self.gamma * (x * own) + self.beta + x


class NextV2(nn.Module):
    """Depthwise 7 x 7, then an MLP of every pixel with response normalisation inside (2301.00808, figure 5, right)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(c, c, 7, 1, 3, groups=c)
        up = [nn.LayerNorm(c, 1e-6), nn.Linear(c, 4 * c), nn.GELU(), Responses(4 * c)]
        self.mlp = nn.Sequential(*up, nn.Linear(4 * c, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.spread(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsFirst(nn.Module):
    """Layer norm over the channels of a map, written out, as its authors' code has it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c, 1, 1)), nn.Parameter(torch.zeros(c, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        off = x - mean
        return self.weight * (off / torch.sqrt(off.pow(2).mean(1, keepdim=True) + 1e-6)) + self.bias


def convnext_v2(w: int) -> nn.Module:
    """ConvNeXt V2 of 2, 2, 6, 2 blocks (2301.00808, as its authors' code): Atto at 40, Femto at 48,
    Pico at 64."""
    layers: list[nn.Module] = [nn.Conv2d(3, w, 4, 4), ChannelsFirst(w)]
    c = w
    for stage, n in enumerate((2, 2, 6, 2)):
        if stage:
            layers += [ChannelsFirst(c), nn.Conv2d(c, 2 * c, 2, 2)]
            c *= 2
        layers += [NextV2(c) for _ in range(n)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(c, 1e-6), nn.Linear(c, 1000))


class After(nn.Module):
    """Attention of three projections and MLP, each normalised after its residual (1706.03762, section 3.1)."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (c // heads) ** 0.5
        self.q, self.k, self.v, self.out = (nn.Linear(c, c) for _ in range(4))
        self.n1, self.n2 = nn.LayerNorm(c, 1e-12), nn.LayerNorm(c, 1e-12)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = (f(x).view(n, t, self.heads, c // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / self.scale, -1)
        x = self.n1(self.out((weights @ v).transpose(1, 2).reshape(n, t, c)) + x)
        return self.n2(self.mlp(x) + x)


class Bert(nn.Module):
    """BERT's encoder with its look-up and pooler (1810.04805, section 3): Tiny of two layers at 128, Mini of four at
    256 (1908.08962, table 1), MiniLM of six at 384 with heads of 32 (2002.10957). Words are given as numbers, and all
    of them count."""

    def __init__(self, c: int, words: int = 30522, longest: int = 512) -> None:
        super().__init__()
        layers, heads = {128: (2, 2), 256: (4, 4), 384: (6, 12)}[c]
        self.words, self.norm = nn.Embedding(words, c), nn.LayerNorm(c, 1e-12)
        self.places, self.kind = (nn.Parameter(torch.randn(1, n, c) / 50) for n in (longest, 1))
        self.blocks, self.pool = nn.Sequential(*(After(c, heads) for _ in range(layers))), nn.Linear(c, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.words(x.flatten(1).long())
        y = self.blocks(self.norm(y + self.places[:, : y.shape[1]] + self.kind))
        return torch.tanh(self.pool(y[:, 0]))
