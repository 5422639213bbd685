"""The FBNet space (arXiv 1812.03443), as in HW-NAS-Bench and HELP's latency file: 22 layers of 9 candidates.

Candidates in the order of the file's digits: k3_e1, k3_e1_g2, k3_e3, k3_e6, k5_e1, k5_e1_g2, k5_e3, k5_e6, skip.
Layers per stage 1,4,4,4,4,4,1; channels 16,24,32,64,112,184,352; first strides 1,2,2,2,1,2,1 at 224x224.
`skip` is the identity where shapes allow it, else a strided 1x1 convolution. Blocks of expansion 1 have their first 1x1
convolution too (section 3.1 of the paper), and grouped ones shuffle their channels after it.
"""

from __future__ import annotations

from latency.ops import Conv2d, Linear, Op, Zero, mbconv
from latency.space import Choice, SearchSpace

WIDTHS = (16, 24, 32, 64, 112, 184, 352)
BLOCKS = (1, 4, 4, 4, 4, 4, 1)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
#: (kernel, expand, groups) of the digits 0 to 7; 8 is skip.
CANDIDATES = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))


def make(name: str, *, image_size: int = 224, num_classes: int = 1000, batch: int = 1) -> SearchSpace:
    """The space at an image size and batch of your own."""
    stem = Conv2d(
        in_channels=3, out_channels=16, height=image_size, width=image_size, kernel=3, stride=2, act="relu", batch=batch
    )
    size, channels = -(-image_size // 2), 16
    choices: list[Choice] = []
    for stage, (width, blocks, first_stride) in enumerate(zip(WIDTHS, BLOCKS, STRIDES, strict=True), 1):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            candidates: list[Op] = [
                mbconv(
                    channels,
                    width,
                    size,
                    kernel=k,
                    stride=stride,
                    expand=e,
                    groups=g,
                    act="relu",
                    batch=batch,
                    expand_conv=int(e == 1),
                )
                for k, e, g in CANDIDATES
            ]
            candidates.append(_skip(channels, width, size, stride, batch))
            choices.append(Choice(f"stage{stage}.{block}", tuple(candidates)))
            channels, size = width, -(-size // stride)
    head: tuple[Op, ...] = (
        Conv2d(in_channels=channels, out_channels=1984, height=size, width=size, kernel=1, act="relu", batch=batch),
        Linear(in_channels=1984, out_channels=num_classes, height=size, width=size, batch=batch),
    )
    return SearchSpace(name, (stem,), tuple(choices), head)


def _skip(channels: int, width: int, size: int, stride: int, batch: int) -> Op:
    if stride == 1 and channels == width:
        return Zero(in_channels=width, out_channels=width, height=size, width=size, shortcut=1, batch=batch)
    return Conv2d(
        in_channels=channels,
        out_channels=width,
        height=size,
        width=size,
        kernel=1,
        stride=stride,
        act="relu",
        batch=batch,
    )


SPACES = {"fbnet": make("fbnet")}
