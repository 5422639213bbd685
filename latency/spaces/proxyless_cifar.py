"""The ProxylessNAS CIFAR-10 space: a PyramidNet whose 3x3 convolutions are trees of searched ops.

From the papers (arXiv 1812.00332, sections 3 and 4.1; Cai et al. 2018, "Path-Level Network Transformation", arXiv
1806.02639; Han et al. 2017, "Deep Pyramidal Residual Networks", arXiv 1610.02915):
- 3 stages of B = 18 residual bottleneck blocks, 54 in all; widths grow by the same amount from block to block until the
  last puts out F = 400 channels; a bottleneck's 1x1 convolutions lead from the block's input to a quarter of its output
  width and back; the shortcut has no parameters: it is pooled where the block halves the map, and padded with zero
  channels where the block widens it.
- In the bottleneck a tree cell of depth 3 with 2 branches at each node stands for the 3x3 convolution. A node gives
  its whole input to each branch (replicate) and adds what they return, two of the schemes of the tree cell.
- Seven ops an edge: SepConv 3x3, 5x5, 7x7, dilated SepConv 3x3, identity, average pool 3x3, max pool 3x3.

Our reading, where the papers leave it open:
- 12 edges a cell. A full binary tree of depth 3 has 2 + 4 + 8 = 14; here the two under the root carry no op, which
  makes the root a node of four branches. Each leads through an op to a node of two branches with an op each.
- A tree op keeps its shape. Where a block halves the map, an average pool 3x3 of stride 2 (the vocabulary's kernels
  are odd) stands before the tree, and one in the shortcut.
- Order of a convolution: convolution, batch norm, activation, as everywhere here; the first 1x1 has a ReLU, the last
  none. Batch norm and ReLU before the final pooling are left out. The stem has 16 channels.

Adds, pads and pools are ops: timed, predicted and part of E[latency] like any other.
The largest network has 6.3 M parameters; the published ones, found in such a space, 5.7 and 5.8 M.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from latency.ops import Add, Conv2d, Identity, Linear, Op, Pad, Pool, SepConv
from latency.space import Choice, SearchSpace
from latency.wiring import Step, parallel

STAGES = 3
BOTTLENECK = 4
SEPARABLE = ((3, 1), (5, 1), (7, 1), (3, 2))  # (kernel, dilation)


def make(
    name: str,
    *,
    blocks: int = 18,
    width: int = 400,
    stem: int = 16,
    bottleneck: int = BOTTLENECK,
    branches: tuple[int, int] = (4, 2),
    image_size: int = 32,
    num_classes: int = 10,
    batch: int = 1,
) -> SearchSpace:
    """The space with `blocks` blocks a stage, widening from `stem` to `width` channels.

    `branches`: how many branches the root has, and each node under it.
    """
    size, channels = image_size, stem
    choices: list[Choice] = []
    layout: list[Step] = []
    slots = count()
    for block in range(STAGES * blocks):
        stage, place = divmod(block, blocks)
        inner = round(stem + (width / bottleneck - stem) * (block + 1) / (STAGES * blocks))
        halve = stage > 0 and place == 0
        body: list[Step] = [_conv(channels, inner, size, batch, act="relu")]
        shortcut: list[Step] = []
        if halve:
            body.append(_pool(inner, size, batch, stride=2))
            shortcut.append(_pool(channels, size, batch, stride=2))
            size = -(-size // 2)
        out = inner * bottleneck
        candidates = _candidates(inner, size, batch)

        def edge(path: str, cell: str = f"stage{stage + 1}.{place}", ops: tuple[Op, ...] = candidates) -> Step:
            choices.append(Choice(f"{cell}/{path}", ops))
            return next(slots)

        root, node = branches
        add_node, add_root = (_add(inner, size, batch, n) for n in (node, root))
        body += parallel(
            *(
                [edge(f"{i}"), *parallel(*([edge(f"{i}{j}")] for j in range(node)), close=add_node)]
                for i in range(root)
            ),
            close=add_root,
        )
        body.append(_conv(inner, out, size, batch, act="none"))
        if out > channels:
            shortcut.append(Pad(in_channels=channels, out_channels=out, height=size, width=size, batch=batch))
        layout += parallel(body, shortcut, close=_add(out, size, batch, 2))
        channels = out
    first = Conv2d(in_channels=3, out_channels=stem, height=image_size, width=image_size, kernel=3, batch=batch)
    last = Linear(in_channels=channels, out_channels=num_classes, height=size, width=size, batch=batch)
    return SearchSpace(name, (first,), tuple(choices), (last,), tuple(layout))


def _candidates(channels: int, size: int, batch: int) -> tuple[Op, ...]:
    same: dict[str, Any] = {"in_channels": channels, "out_channels": channels, "height": size, "width": size}
    same["batch"] = batch
    return (
        *(SepConv(**same, kernel=kernel, dilation=dilation) for kernel, dilation in SEPARABLE),
        Identity(**same),
        _pool(channels, size, batch),
        _pool(channels, size, batch, pool="max"),
    )


def _conv(c_in: int, c_out: int, size: int, batch: int, act: str) -> Conv2d:
    return Conv2d(in_channels=c_in, out_channels=c_out, height=size, width=size, kernel=1, act=act, batch=batch)


def _pool(channels: int, size: int, batch: int, stride: int = 1, pool: str = "avg") -> Pool:
    return Pool(
        in_channels=channels,
        out_channels=channels,
        height=size,
        width=size,
        kernel=3,
        stride=stride,
        pool=pool,
        batch=batch,
    )


def _add(channels: int, size: int, batch: int, branches: int) -> Add:
    return Add(in_channels=channels, out_channels=channels, height=size, width=size, branches=branches, batch=batch)


SPACES = {
    "proxyless_cifar": make("proxyless_cifar"),
    "proxyless_cifar_small": make(
        "proxyless_cifar_small", blocks=1, width=64, stem=8, bottleneck=2, branches=(2, 2), image_size=32
    ),
}
