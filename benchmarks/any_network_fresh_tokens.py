"""Fresh networks of benchmarks/any_network_fresh.py: attention of four kinds."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from benchmarks.any_network_parts import Excite, cbr, classifier


def feed(c: int, m: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(c), nn.Linear(c, m), nn.GELU(), nn.Linear(m, c))


def heads_of(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(n, tokens, c) -> (n, heads, tokens, c / heads)."""
    n, t, c = x.shape
    return x.reshape(n, t, heads, c // heads).transpose(1, 2)


class PreMBConv(nn.Module):
    """Normalisation first, the stride in the first convolution (2106.04803, appendix A.1, equation 5)."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        m = 4 * o
        expand = [nn.BatchNorm2d(i), cbr(i, m, 1, s, act=nn.GELU), cbr(m, m, 3, 1, m, nn.GELU)]
        self.body = nn.Sequential(*expand, Excite(m, o // 4, nn.SiLU, nn.Sigmoid), nn.Conv2d(m, o, 1))
        self.by = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(i, o, 1)) if s > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.by(x) + self.body(x)


class Relative(nn.Module):
    """Attention with a bias for every pair of places, on maps, heads of 32 (2106.04803, section 2.1, equation 3)."""

    def __init__(self, i: int, o: int, s: int, side: int) -> None:
        super().__init__()
        self.heads = o // 32
        self.norm, self.qkv, self.out, self.rest = nn.LayerNorm(i), nn.Linear(i, 3 * o), nn.Linear(o, o), feed(o, 4 * o)
        self.pool = nn.MaxPool2d(3, 2, 1) if s > 1 else None
        self.by = nn.Conv2d(i, o, 1) if s > 1 else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(1, self.heads, side**2, side**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.pool is not None:
            x, y = self.pool(x), self.pool(y)
        q, k, v = (heads_of(z, self.heads) for z in self.qkv(y.flatten(2).transpose(1, 2)).chunk(3, 2))
        a = torch.softmax(q * 32**-0.5 @ k.transpose(-2, -1) + self.bias, -1) @ v
        x = self.by(x)
        n, c, h, w = x.shape
        z = x.flatten(2).transpose(1, 2) + self.out(a.transpose(1, 2).reshape(n, h * w, c))
        z = z + self.rest(z)
        return z.transpose(1, 2).reshape(n, c, h, w)


def coatnet(w: int, size: int) -> nn.Module:
    """CoAtNet-0 with 1, 2, 2, 1 of its 2, 3, 5, 2 blocks (2106.04803, table 3); w = 32 is its width."""
    layers: list[nn.Module] = [cbr(3, 2 * w, 3, 2, act=nn.GELU), nn.Conv2d(2 * w, 2 * w, 3, 1, 1)]
    layers += [PreMBConv(2 * w, 3 * w, 2), PreMBConv(3 * w, 6 * w, 2), PreMBConv(6 * w, 6 * w, 1)]
    layers += [Relative(6 * w, 12 * w, 2, size // 16), Relative(12 * w, 12 * w, 1, size // 16)]
    layers += [Relative(12 * w, 24 * w, 2, size // 32)]
    return nn.Sequential(*layers, *classifier(24 * w))


class Reduced(nn.Module):
    """Attention to keys and values of patches of r x r (2102.12122, section 3.3, figure 4)."""

    def __init__(self, c: int, heads: int, r: int, m: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.norm, self.rest = nn.LayerNorm(c), feed(c, m)
        self.q, self.kv, self.out = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.reduce = nn.Conv2d(c, c, r, r) if r > 1 else None
        self.after = nn.LayerNorm(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        y = z = self.norm(x)
        if self.reduce is not None:
            z = self.reduce(y.transpose(1, 2).reshape(n, c, self.side, self.side))
            z = self.after(z.flatten(2).transpose(1, 2))
        q, (k, v) = heads_of(self.q(y), self.heads), (heads_of(u, self.heads) for u in self.kv(z).chunk(2, 2))
        a = torch.softmax(q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(n, t, c))
        return x + self.rest(x)


class Pvt(nn.Module):
    """PVT-Tiny, averaging tokens in place of its class token (2102.12122, table 1); c = 64 is its width."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        widths, side = (3, c, 2 * c, 5 * c, 8 * c), size // 4
        self.patches, self.norms, self.stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.places = nn.ParameterList()
        plan = ((4, 1, 8, 8), (2, 2, 4, 8), (2, 5, 2, 4), (2, 8, 1, 4))  # patch, heads, reduction, expansion
        for (i, o), (p, heads, r, e) in zip(pairwise(widths), plan, strict=True):
            self.patches.append(nn.Conv2d(i, o, p, p))
            self.norms.append(nn.LayerNorm(o))
            self.stages.append(nn.Sequential(*(Reduced(o, heads, r, e * o, side) for _ in range(2))))
            self.places.append(nn.Parameter(torch.zeros(1, side**2, o)))
            side //= 2
        self.norm, self.head = nn.LayerNorm(8 * c), nn.Linear(8 * c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for patch, norm, blocks, places in zip(self.patches, self.norms, self.stages, self.places, strict=True):
            x = patch(x)
            n, c, h, w = x.shape
            y = blocks(norm(x.flatten(2).transpose(1, 2)) + places)
            x = y.transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.norm(y).mean(1))


class Levit(nn.Module):
    """Attention with keys narrower than values, a bias and h-swish (2104.01136, figure 3, section 4.2); with a stride,
    a quarter of the places ask (section 4.2.4)."""

    def __init__(self, i: int, o: int, heads: int, d: int, side: int, s: int) -> None:
        super().__init__()
        self.heads, self.d, self.side, self.s = heads, d, side, s
        self.v = (4 if s > 1 else 2) * d
        asked = (side - 1) // s + 1
        self.q, self.kv = nn.Linear(i, heads * d), nn.Linear(i, heads * (d + self.v))
        self.bias = nn.Parameter(torch.zeros(1, heads, asked**2, side**2))
        self.out = nn.Sequential(nn.Hardswish(), nn.Linear(heads * self.v, o))
        self.rest = nn.Sequential(nn.Linear(o, 2 * o), nn.Hardswish(), nn.Linear(2 * o, o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, c = x.shape
        ask = x
        if self.s > 1:
            ask = x.reshape(n, self.side, self.side, c)[:, :: self.s, :: self.s].reshape(n, -1, c)
        q = heads_of(self.q(ask), self.heads)
        k, v = torch.split(heads_of(self.kv(x), self.heads), [self.d, self.v], 3)
        a = torch.softmax(q @ k.transpose(-2, -1) * self.d**-0.5 + self.bias, -1) @ v
        y = self.out(a.transpose(1, 2).flatten(2))
        y = x + y if self.s == 1 else y
        return y + self.rest(y)


class LeViT(nn.Module):
    """LeViT-128S as it is deployed, batch norms folded (2104.01136, table 1, figure 4); c = 128 is its width."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        sizes = (3, c // 8, c // 4, c // 2, c)
        stem: list[nn.Module] = []
        for i, o in pairwise(sizes):
            stem += [nn.Conv2d(i, o, 3, 2, 1), *([nn.Hardswish()] if o < c else [])]
        side, d = size // 16, c // 8
        layers: list[nn.Module] = []
        for i, (n, heads) in enumerate(((2, 4), (3, 6), (4, 8)), 1):
            layers += [Levit(i * c, i * c, heads, d, side, 1) for _ in range(n)]
            if i < 3:
                layers.append(Levit(i * c, (i + 1) * c, i * 8, d, side, 2))
                side = (side - 1) // 2 + 1
        self.stem, self.layers, self.head = nn.Sequential(*stem), nn.Sequential(*layers), nn.Linear(3 * c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class TalkingHeads(nn.Module):
    """Attention whose heads are mixed before and after the softmax; layers scaled (2103.17239, equation 4)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.heads = c // 48
        self.norm, self.qkv, self.out, self.rest = nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c), feed(c, 4 * c)
        self.before, self.then = nn.Linear(self.heads, self.heads), nn.Linear(self.heads, self.heads)
        self.g1, self.g2 = nn.Parameter(0.1 * torch.ones(c)), nn.Parameter(0.1 * torch.ones(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, 48).permute(2, 0, 3, 1, 4)
        a = q * 48**-0.5 @ k.transpose(-2, -1)
        a = self.before(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        a = self.then(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.g1 * self.out((a @ v).transpose(1, 2).reshape(n, t, c))
        return x + self.g2 * self.rest(x)


class ClassAttention(nn.Module):
    """Only the class asks (2103.17239, section 3, equations 5 to 8)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.heads = c // 48
        self.norm, self.q, self.kv = nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(c, 2 * c)
        self.out, self.rest = nn.Linear(c, c), feed(c, 4 * c)
        self.g1, self.g2 = nn.Parameter(0.1 * torch.ones(c)), nn.Parameter(0.1 * torch.ones(c))

    def forward(self, cls: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z = self.norm(torch.cat([cls, x], 1))
        k, v = (heads_of(u, self.heads) for u in self.kv(z).chunk(2, 2))
        a = torch.softmax(heads_of(self.q(z[:, :1]) * 48**-0.5, self.heads) @ k.transpose(-2, -1), -1) @ v
        cls = cls + self.g1 * self.out(a.transpose(1, 2).flatten(2))
        return cls + self.g2 * self.rest(cls)


class CaiT(nn.Module):
    """CaiT-XXS with six of its 24 layers, two of the class (2103.17239, figure 2, table 3); c = 192 is its width."""

    def __init__(self, c: int, size: int) -> None:
        super().__init__()
        self.patch, self.places = nn.Conv2d(3, c, 16, 16), nn.Parameter(torch.zeros(1, (size // 16) ** 2, c))
        self.layers = nn.Sequential(*(TalkingHeads(c) for _ in range(6)))
        self.cls, self.last = nn.Parameter(torch.zeros(1, 1, c)), nn.ModuleList(ClassAttention(c) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.patch(x).flatten(2).transpose(1, 2) + self.places)
        cls = self.cls
        for layer in self.last:
            cls = layer(cls, x)
        return self.head(self.norm(torch.cat([cls, x], 1))[:, 0])
