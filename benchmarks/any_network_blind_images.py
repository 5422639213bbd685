"""Blind networks of benchmarks/any_network_blind.py: image to image, and detection."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.any_network_parts import Add, cbr


def autoencoder(w: int) -> nn.Module:
    """Strided convolutions down, transposed ones up, as DCGAN has them (1511.06434, section 3)."""
    sizes = (3, w, 2 * w, 4 * w, 8 * w)
    down = [cbr(i, o, 3, 2, act=nn.LeakyReLU) for i, o in pairwise(sizes)]
    up: list[nn.Module] = []
    for i, o in zip(sizes[:1:-1], sizes[-2:0:-1], strict=True):
        up += [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*down, *up, nn.ConvTranspose2d(w, 3, 4, 2, 1), nn.Tanh())


class SuperResolution(nn.Module):
    """EDSR's baseline with four blocks, twice as large by pixel shuffle (1707.02921, figure 3; 1609.05158)."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, w, 3, 1, 1), nn.Conv2d(w, 3, 3, 1, 1)
        blocks = [Add(nn.Sequential(nn.Conv2d(w, w, 3, 1, 1), nn.ReLU(), nn.Conv2d(w, w, 3, 1, 1))) for _ in range(4)]
        self.body = Add(nn.Sequential(*blocks, nn.Conv2d(w, w, 3, 1, 1)))
        self.up = nn.Conv2d(w, 4 * w, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.pixel_shuffle(self.up(self.body(self.first(x))), 2))


class Csp(nn.Module):
    """A cross-stage block as YOLOv5 has it (1911.11929, figure 3)."""

    def __init__(self, i: int, o: int, n: int, adds: bool) -> None:
        super().__init__()
        h = o // 2
        self.a, self.b, self.join = (cbr(x, y, 1, act=nn.SiLU) for x, y in ((i, h), (i, h), (2 * h, o)))
        blocks = [nn.Sequential(cbr(h, h, 1, act=nn.SiLU), cbr(h, h, act=nn.SiLU)) for _ in range(n)]
        self.body = nn.Sequential(*(Add(m) if adds else m for m in blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(torch.cat([self.body(self.a(x)), self.b(x)], 1))


class Yolo(nn.Module):
    """CSPDarknet, pyramid of poolings, path aggregation, three heads: YOLOv5n's plan; w = 16 is its width."""

    def __init__(self, w: int) -> None:
        super().__init__()

        def act(i: int, o: int, k: int, s: int = 1) -> nn.Module:
            return cbr(i, o, k, s, act=nn.SiLU)

        self.p3 = nn.Sequential(nn.Sequential(nn.Conv2d(3, w, 6, 2, 2, bias=False), nn.BatchNorm2d(w), nn.SiLU()),
                                act(w, 2 * w, 3, 2), Csp(2 * w, 2 * w, 1, True), act(2 * w, 4 * w, 3, 2),
                                Csp(4 * w, 4 * w, 2, True))  # fmt: skip
        self.p4 = nn.Sequential(act(4 * w, 8 * w, 3, 2), Csp(8 * w, 8 * w, 3, True))
        self.p5 = nn.Sequential(act(8 * w, 16 * w, 3, 2), Csp(16 * w, 16 * w, 1, True), act(16 * w, 8 * w, 1))
        self.pool, self.after = nn.MaxPool2d(5, 1, 2), act(32 * w, 16 * w, 1)
        self.l5, self.l4 = act(16 * w, 8 * w, 1), act(8 * w, 4 * w, 1)
        self.u4, self.u3 = Csp(16 * w, 8 * w, 1, False), Csp(8 * w, 4 * w, 1, False)
        self.d3, self.d4 = act(4 * w, 4 * w, 3, 2), act(8 * w, 8 * w, 3, 2)
        self.n4, self.n5 = Csp(8 * w, 8 * w, 1, False), Csp(16 * w, 16 * w, 1, False)
        self.heads = nn.ModuleList(nn.Conv2d(v * w, 255, 1) for v in (4, 8, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        y = [self.p5(p4)]
        for _ in range(3):
            y.append(self.pool(y[-1]))
        l5 = self.l5(self.after(torch.cat(y, 1)))
        l4 = self.l4(self.u4(torch.cat([F.interpolate(l5, scale_factor=2), p4], 1)))
        o3 = self.u3(torch.cat([F.interpolate(l4, scale_factor=2), p3], 1))
        o4 = self.n4(torch.cat([self.d3(o3), l4], 1))
        o5 = self.n5(torch.cat([self.d4(o4), l5], 1))
        return torch.cat([h(o).flatten(2) for h, o in zip(self.heads, (o3, o4, o5), strict=True)], 2)
