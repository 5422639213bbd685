"""Heads of the networks of the `kernels` space: (batch, channels, height, width) -> classes, maps, embeddings."""

from __future__ import annotations

import torch
from torch import nn

from latency.kernel_blocks import Drawn, conv
from latency.kernel_draws import log_uniform
from latency.kernel_extras import REDUCE, GlobalMax, Of
from latency.kernel_moves import Up
from latency.kernel_vectors import LARGEST

CLASSES = (10, 100, 1000, 1000)
FEW_CLASSES = (2, 10, 12, 35, 100)  # of networks too narrow for a thousand
NARROW = 64  # channels before the head


def _pooled(d: Drawn) -> list[nn.Module]:
    """(n, c, h, w) -> (n, c): by a pooling mostly, else by a reduction, which runtimes run by another kernel."""
    if d.rng.random() < 0.35:
        reduce = REDUCE[d.rng.choice(("mean", "mean", "mean", "sum", "max"))]
        return [Of(lambda x: reduce(x, (2, 3), False))]
    most = d.rng.choice((GlobalMax(), nn.AdaptiveMaxPool2d(1)))
    return [nn.AdaptiveAvgPool2d(1) if d.rng.random() < 0.85 else most, nn.Flatten()]


def head(d: Drawn, kind: str, channels: int) -> nn.Module:
    narrow = channels <= NARROW
    classes = d.rng.choice(FEW_CLASSES if narrow else CLASSES)
    pool = _pooled(d)
    match kind:
        case "pool":
            return nn.Sequential(*pool, nn.Linear(channels, classes))
        case "wide":
            wide = channels * d.rng.choice((2, 4, 6)) if narrow else d.rng.choice((640, 960, 1280))
            return nn.Sequential(conv(channels, wide, act=d.act), *pool, nn.Linear(wide, classes))
        case "dense":
            wide = d.rng.choice((32, 64, 84, 120, 256) if narrow else (256, 512, 1024, 2048))
            return nn.Sequential(
                *pool, nn.Linear(channels, wide), nn.ReLU(), nn.Dropout(), nn.Linear(wide, wide), nn.ReLU(),
                nn.Linear(wide, classes),
            )  # fmt: skip
        case "conv":
            return nn.Sequential(nn.Dropout(), nn.Conv2d(channels, classes, 1), nn.ReLU(), *pool)
        case "norm":
            return nn.Sequential(*pool, nn.LayerNorm(channels), nn.Linear(channels, classes))
        case "detect":
            return nn.Conv2d(channels, 3 * d.rng.choice((6, 25, 85)), 1)
        case "segment":
            few = d.rng.choice((2, 5, 19, 21))
            return nn.Sequential(nn.Conv2d(channels, few, 1), Up(d, few, few, d.rng.choice((2, 4))), nn.Softmax(1))
        case "embed":
            unit = Of(lambda x: nn.functional.normalize(x, dim=1))
            return nn.Sequential(*pool, nn.Linear(channels, d.rng.choice((32, 64, 128, 256))), unit)
    raise ValueError(f"unknown head '{kind}'")


def flat_head(d: Drawn, body: nn.Module, shape: tuple[int, int, int, int]) -> nn.Module:
    """The map that `body` makes of an input of `shape`, pooled where it is large, flattened into layers (1409.1556)."""
    with torch.no_grad():
        _, c, h, w = body.eval()(torch.zeros(shape)).shape
    bins = d.rng.choice((1, 2, 3, 4, 6, 7))
    k = (max(1, h // bins), max(1, w // bins))
    n = c * ((h - k[0]) // k[0] + 1) * ((w - k[1]) // k[1] + 1)
    wide = max(4, round(log_uniform(d.rng, 16, max(17, min(4096, LARGEST // n)))))
    return nn.Sequential(
        nn.AvgPool2d(k, k), nn.Flatten(), nn.Linear(n, wide), d.rng.choice((nn.ReLU, nn.Tanh))(),
        nn.Linear(wide, d.rng.choice(FEW_CLASSES if wide < 256 else CLASSES)),
    )  # fmt: skip
