"""What a kernel's time depends on besides the kernel: how much the network around it reads between two of its runs.

Weights come from the cache that still holds them since the last inference, and every byte that an inference reads in
between makes that a farther one: the same linear layer takes half the time in a network that fits into a core's own
cache. So do code and descriptions of tensors: a reshape, which moves nothing, takes 0.6 of its mean time in a network
of at most 1 MiB and 1.7 of it in one of 16. Maps are made just before they are read: they count by the largest alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from latency.flops import DTYPE_BYTES, bytes_moved, params
from latency.kernels import KernelOp
from latency.op_base import Op


def network_kib(ops: Sequence[Op]) -> int:
    """KiB that an inference of the network of `ops` reads: its weights and the largest maps, to a power of two."""
    weights = [params(op) * DTYPE_BYTES[op.dtype] for op in ops]
    maps = max((bytes_moved(op) - w for op, w in zip(ops, weights, strict=True)), default=0)
    return int(2 ** round(math.log2(max(1.0, (sum(weights) + maps) / 1024))))


def placed(ops: Sequence[Op]) -> list[Op]:
    """The ops of a network, each saying what the network reads, where one of them does not."""
    if all(getattr(op, "network_kib", 1) for op in ops):
        return list(ops)
    kib = network_kib(ops)
    return [in_network(op, kib) for op in ops]


def text_alone(op: Op) -> str:
    """The text of `op` by itself: kernels that are looked up, being few, are so in networks of any size."""
    return str(replace(op, network_kib=0) if getattr(op, "network_kib", 0) else op)  # type: ignore[call-arg]


def in_network(op: Op, kib: int) -> Op:
    """`op` as a kernel of a network of `kib`; the same op where it is no kernel."""
    return replace(op, network_kib=kib) if isinstance(op, KernelOp) else op
