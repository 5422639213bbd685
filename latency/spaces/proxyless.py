"""The ProxylessNAS ImageNet space (arXiv 1812.00332; widths and strides from the authors' released code).

21 choice blocks, MBConv kernel {3,5,7} x expand {3,6}, plus Zero where a shortcut makes it the identity
(15 blocks): 6^6 * 7^15 networks. Candidates are in the order k3e3, k5e3, k7e3, k3e6, k5e6, k7e6, Zero.
"""

from __future__ import annotations

from latency.ops import Conv2d, Linear, Op, Zero, mbconv
from latency.space import Choice, SearchSpace

BLOCKS = (4, 4, 4, 4, 4, 1)
STRIDES = (2, 2, 2, 1, 2, 1)


def make(
    name: str,
    widths: tuple[int, ...],
    *,
    image_size: int = 224,
    first: int = 16,
    stem: int = 32,
    head: int = 1280,
    num_classes: int = 1000,
    batch: int = 1,
) -> SearchSpace:
    """The space with its own widths of the six stages; everything else as in the paper."""
    size = -(-image_size // 2)
    stem_ops: tuple[Op, ...] = (
        Conv2d(in_channels=3, out_channels=stem, height=image_size, width=image_size, kernel=3, stride=2, batch=batch),
        mbconv(stem, first, size, kernel=3, stride=1, expand=1, batch=batch),
    )
    choices: list[Choice] = []
    channels = first
    for stage, (width, blocks, first_stride) in enumerate(zip(widths, BLOCKS, STRIDES, strict=True), 1):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            candidates: list[Op] = [
                mbconv(channels, width, size, kernel=kernel, stride=stride, expand=expand, batch=batch)
                for expand in (3, 6)
                for kernel in (3, 5, 7)
            ]
            if stride == 1 and channels == width:
                candidates.append(
                    Zero(in_channels=width, out_channels=width, height=size, width=size, shortcut=1, batch=batch)
                )
            choices.append(Choice(f"stage{stage}.{block}", tuple(candidates)))
            channels, size = width, -(-size // stride)
    head_ops = (
        Conv2d(in_channels=channels, out_channels=head, height=size, width=size, kernel=1, batch=batch),
        Linear(in_channels=head, out_channels=num_classes, height=size, width=size, batch=batch),
    )
    return SearchSpace(name, stem_ops, tuple(choices), head_ops)


SPACES = {
    space.name: space
    for space in (
        make("proxyless", (24, 40, 80, 96, 192, 320)),
        make("proxyless_mobile", (32, 40, 80, 96, 192, 320)),
        make("proxyless_cpu", (32, 48, 88, 104, 216, 360), first=24, stem=40, head=1432),
        make("proxyless_gpu", (32, 56, 112, 128, 256, 432), first=24, stem=40, head=1728),
    )
}
