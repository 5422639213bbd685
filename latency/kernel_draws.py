"""What a random network of the `kernels` space is described by, and the distributions of sizes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

#: (block, channels out, blocks in the public network, stride of the first)
StageRow = tuple[str, int, int, int]
#: What is put between stages (latency/kernel_extras.py, kernel_moves.py, kernel_windows.py, kernel_lone.py,
#: kernel_token_blocks.py), so that kernels that few blocks have come in many sizes; how often each is drawn.
EXTRAS = {
    "pooled_gate": 2.0, "spatial_gate": 1.5, "axis_gates": 1.0, "context": 1.0, "channel_weights": 1.0, "normed": 1.5,
    "unit_length": 0.7, "carried": 1.5, "lone": 1.5, "binary": 1.5, "map_attention": 1.0, "down_and_up": 3.5,
    "pyramid": 1.0, "padded": 0.7, "windows": 1.0, "dilated": 0.7, "grouped": 1.0, "steps": 1.0, "everywhere": 0.7,
    "atrous": 2.5, "deep_atrous": 0.7, "large_window": 2.2, "wide_dense": 1.2, "few_channels": 1.3, "odd_groups": 1.0,
    "conv_ffn": 0.8, "maxout": 2.4, "growth": 0.7, "norm_act": 1.7, "acts": 1.6, "functions": 3.0, "softmaxes": 1.3,
    "powers": 3.5, "scales": 1.5, "bins": 1.5, "attend": 2.0,
}  # fmt: skip
ODD = 0.12  # of networks have widths that are any number


@dataclass(frozen=True)
class Draw:
    """A random network: what to build. `stages`: (block or extra, channels, how many, stride)."""

    family: str
    resolution: int
    across: int  # the width of the input, where `resolution` is its height
    in_channels: int
    stem: str
    stem_channels: int
    stages: tuple[StageRow, ...]
    head: str
    seed: int  # of what is drawn inside blocks: kernels, expansions

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width)."""
        return (1, self.in_channels, self.resolution, self.across)


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def width(rng: random.Random, channels: float, odd: bool = False) -> int:
    """`channels` to a multiple of 8 mostly, as networks have it; sometimes of 16, 32, 4, or to any even number.

    `odd`: to any number at all.
    """
    if odd:
        return max(5, round(channels))
    step = rng.choices((8, 16, 32, 4, 2), (50, 30, 10, 8, 2))[0]
    return max(step, round(channels / step) * step, 8)


def an_extra(rng: random.Random) -> str:
    """One of EXTRAS."""
    return rng.choices(list(EXTRAS), list(EXTRAS.values()))[0]
