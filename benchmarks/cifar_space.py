"""A space of 200,704 small networks for 32x32 images, in which the choice matters: benchmarks.search_quality.

Two stages of three blocks on 16x16 and 8x8 maps. A block is an inverted bottleneck of kernel 3 or 5 and expansion 1, 2
or 4, or something cheaper: a separable convolution, pooling (no shortcut, no weights: good for latency, bad for the
network), nothing at all (Zero with its shortcut: depth), or, where it halves the map, a plain convolution.
"""

from __future__ import annotations

from latency.ops import Conv2d, Linear, Op, Pool, SepConv, Zero, mbconv
from latency.space import Choice, SearchSpace

STAGES = ((24, 16), (48, 8))  # (channels, size of the map it takes); its first block halves the map
KINDS = ((3, 1), (3, 2), (3, 4), (5, 2))  # kernel, expansion


def _reduce(c_in: int, c_out: int, size: int) -> tuple[Op, ...]:
    shape = {"in_channels": c_in, "out_channels": c_out, "height": size, "width": size, "stride": 2}
    return (
        *(mbconv(c_in, c_out, size, kernel=k, stride=2, expand=e) for k, e in KINDS),
        SepConv(kernel=5, **shape),
        Conv2d(kernel=1, **shape),
        Conv2d(kernel=3, **shape),
    )


def _keep(channels: int, size: int) -> tuple[Op, ...]:
    shape = {"in_channels": channels, "out_channels": channels, "height": size, "width": size}
    return (
        *(mbconv(channels, channels, size, kernel=k, stride=1, expand=e) for k, e in KINDS),
        SepConv(kernel=3, **shape),
        SepConv(kernel=5, **shape),
        Pool(kernel=3, **shape),
        Zero(shortcut=1, **shape),
    )


def make() -> SearchSpace:
    """The space."""
    stem = Conv2d(in_channels=3, out_channels=16, height=32, width=32, kernel=3, stride=2)
    choices, c_in = [], 16
    for stage, (c_out, size) in enumerate(STAGES, 1):
        choices.append(Choice(f"stage{stage}.0", _reduce(c_in, c_out, size)))
        choices += [Choice(f"stage{stage}.{block}", _keep(c_out, size // 2)) for block in (1, 2)]
        c_in = c_out
    head = (
        Conv2d(in_channels=c_in, out_channels=128, height=4, width=4, kernel=1),
        Linear(in_channels=128, out_channels=10, height=4, width=4),
    )
    return SearchSpace("cifar_small", (stem,), tuple(choices), head)


space = make()
