"""The Once-for-All MobileNetV3 space at width 1.2 (arXiv 1908.09791), as in the authors' Note 10 look-up tables.

Five stages of 2 to 4 blocks, kernel {3,5,7} x expand {3,4,6}; squeeze-excite in stages 2, 4 and 5, h-swish from
stage 3 on. Candidates in the order k3e3, k5e3, k7e3, k3e4, ..., k7e6; the third and fourth block of a stage may also
be Zero, which makes the stage shallower. One space per input resolution: ofa_mbv3 (224), ofa_mbv3_160, ... . The
ops are those of the published keys, which do not state the activation of the plain convolutions: ReLU6 here.
"""

from __future__ import annotations

from latency.ops import Conv2d, Linear, MBConv, Op, Pool, Zero
from latency.space import Choice, SearchSpace

STEM, LAST, FEATURE = 24, 1152, 1536
WIDTHS = (32, 48, 96, 136, 192)
STRIDES = (2, 2, 2, 1, 2)
SQUEEZE = (0, 1, 0, 1, 1)
HSWISH = (0, 0, 1, 1, 1)
BLOCKS, AT_LEAST = 4, 2
KERNELS, EXPANDS = (3, 5, 7), (3, 4, 6)


def make(name: str, image_size: int, *, num_classes: int = 1000, batch: int = 1) -> SearchSpace:
    """The space at one input resolution."""
    size = -(-image_size // 2)
    stem: tuple[Op, ...] = (
        Conv2d(in_channels=3, out_channels=STEM, height=image_size, width=image_size, kernel=3, stride=2, batch=batch),
        MBConv(
            in_channels=STEM,
            out_channels=STEM,
            height=size,
            width=size,
            kernel=3,
            stride=1,
            mid_channels=STEM,
            shortcut=1,
            batch=batch,
        ),
    )
    choices: list[Choice] = []
    channels = STEM
    for stage, (width, first_stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
        for block in range(BLOCKS):
            stride = first_stride if block == 0 else 1
            candidates: list[Op] = [
                MBConv(
                    in_channels=channels,
                    out_channels=width,
                    height=size,
                    width=size,
                    kernel=kernel,
                    stride=stride,
                    mid_channels=channels * expand,
                    shortcut=int(stride == 1 and channels == width),
                    se=SQUEEZE[stage],
                    act="hswish" if HSWISH[stage] else "relu6",
                    batch=batch,
                )
                for expand in EXPANDS
                for kernel in KERNELS
            ]
            if block >= AT_LEAST:
                candidates.append(
                    Zero(in_channels=width, out_channels=width, height=size, width=size, shortcut=1, batch=batch)
                )
            choices.append(Choice(f"stage{stage + 1}.{block}", tuple(candidates)))
            channels, size = width, -(-size // stride)
    kernel = size + 1 - size % 2
    head: tuple[Op, ...] = (
        Conv2d(in_channels=channels, out_channels=LAST, height=size, width=size, kernel=1, batch=batch),
        Pool(in_channels=LAST, out_channels=LAST, height=size, width=size, kernel=kernel, stride=size, batch=batch),
        Conv2d(in_channels=LAST, out_channels=FEATURE, height=1, width=1, kernel=1, batch=batch),
        Linear(in_channels=FEATURE, out_channels=num_classes, height=1, width=1, batch=batch),
    )
    return SearchSpace(name, stem, tuple(choices), head)


SPACES = {"ofa_mbv3": make("ofa_mbv3", 224)} | {f"ofa_mbv3_{r}": make(f"ofa_mbv3_{r}", r) for r in (160, 176, 192, 208)}
