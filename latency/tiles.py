"""How kernels are cut into register tiles: what a runtime on vector registers computes, not what was asked for.

A convolution whose channels come in blocks of LANES is computed a row of outputs at a time: up to OUTPUTS neighbours,
up to BLOCKS blocks of output channels together, over every place of the window that lies inside the map and every input
channel. So channels are filled up to whole blocks, outputs at a border are computed one by one, and places of a window
that lie in the padding cost nothing: a dilation larger than the map leaves the middle one. Other convolutions are
unrolled and multiplied as matrices, as linear layers are. After onnxruntime/core/mlas (snchwc.cpp, sgemm.cpp) with
AVX-512; on a runtime that cuts otherwise the rates of these terms, which are fitted, come out as what they are worth.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields, replace
from functools import lru_cache

from latency.flops import bytes_moved, params
from latency.kernels import (
    Copy,
    DenseConv,
    Depthwise,
    Gemm,
    KernelOp,
    MatMul,
    Norm,
    Pointwise,
    Reduce,
    Resize,
    Softmax,
    TransposedConv,
)
from latency.op_base import Op

LANES = 16  # floats of the widest vector registers; channels are computed in multiples of it
OUTPUTS = 6  # neighbouring outputs of a convolution computed together; a rest by 3, 2, 1
BLOCKS = 4  # blocks of output channels computed together
ROWS, COLUMNS = 12, 2  # of a tile of a matrix product; columns in blocks of LANES
LEAST_TILE = 8  # a tile of fewer multiplications takes the time of as many: they wait for each other
NEAR_KIB, MIDDLE_KIB, FAR_KIB = 2**9, 2**13, 2**16  # what an inference reads: of a core's cache, a shared one, memory
DEEP = 8  # blocks of input channels that a 1 x 1 convolution adds up before it stores


@dataclass(frozen=True)
class Tiles:
    """Work of one op, batch included; all 0 of blocks of a search space."""

    multiplications: float = 0.0  # of vectors, of convolutions in blocks
    turns: float = 0.0  # of their innermost loop
    accumulated: float = 0.0  # vectors of outputs stored and loaded again while input channels are added up
    calls: float = 0.0  # of the routine that computes a row
    product: float = 0.0  # multiplications of vectors, of matrix products
    unrolled: float = 0.0  # numbers copied to be multiplied as a matrix
    thin: float = 0.0  # numbers read in the layout of images, by convolutions of fewer channels than a block
    weights_near: float = 0.0  # weights read in a network of at most NEAR_KIB, part of them in one of up to MIDDLE_KIB
    weights_middle: float = 0.0  # in one of MIDDLE_KIB, in part in smaller and larger ones
    weights_far: float = 0.0  # in one of at least FAR_KIB, part of them in one of down to MIDDLE_KIB
    rows: float = 0.0  # of a softmax, a norm or a reduction; runs that a transpose copies
    acted: float = 0.0  # outputs taken through an activation other than max(x, 0)
    filled: float = 0.0  # numbers in blocks, channels filled up, that a reorder or a resize moves
    pieces: float = 0.0  # tiles of matrix products
    interpolated: float = 0.0  # such numbers that are each computed of several
    spilled: float = 0.0  # bytes that an op moves beyond NEAR_KIB
    starts_middle: float = 0.0  # of a kernel, its code and descriptions coming from the middle, as weights do
    starts_far: float = 0.0
    bytes_middle: float = 0.0  # of maps, and weights, likewise
    bytes_far: float = 0.0


NAMES = tuple(f.name for f in fields(Tiles))


@lru_cache(maxsize=8192)
def tiles(op: Op) -> tuple[float, ...]:
    """The numbers of `Tiles`, in its order, of one op."""
    if isinstance(op, DenseConv):
        found = _blocked(op) if blocked(op) else _unrolled(op)
    elif isinstance(op, Gemm | MatMul):  # a single row is no product of matrices: its weights are all there is to it
        rows = op.height * op.width * (op.batch if isinstance(op, Gemm) else 1)
        times = 1 if isinstance(op, Gemm) else op.batch
        found = _products(times, rows, op.in_channels, op.out_channels) if rows > 1 else Tiles()
    elif isinstance(op, TransposedConv):
        wide, n = op.kernel**2 * op.out_channels // op.groups, op.height * op.width
        found = _products(op.batch * op.groups, wide, op.in_channels // op.groups, n)
        found = replace(found, unrolled=float(op.batch * op.groups * wide * n))
    else:
        _, _, height, width = op.output_shape
        numbers = float(op.batch * filled(op.in_channels) * height * width) if moves_blocks(op) else 0.0
        computed = numbers if getattr(op, "resize", "nearest") != "nearest" else 0.0
        found = Tiles(rows=float(_rows(op)), filled=numbers - computed, interpolated=computed)
    near, middle, far = _from(getattr(op, "network_kib", 0))
    moved = bytes_moved(op)
    found = replace(found, starts_middle=middle, starts_far=far, bytes_middle=middle * moved, bytes_far=far * moved,
                    spilled=max(0.0, moved - NEAR_KIB * 1024.0) if isinstance(op, KernelOp) else 0.0)  # fmt: skip
    if isinstance(op, DenseConv | Gemm | MatMul | TransposedConv):
        outputs = op.output_shape[1] * op.output_shape[2] * op.output_shape[3] * op.batch
        acted = outputs if getattr(op, "act", "none") not in ("none", "relu") else 0
        weights = params(op)
        found = replace(found, weights_near=near * weights, weights_middle=middle * weights, weights_far=far * weights,
                        acted=float(acted))  # fmt: skip
    return astuple(found)


def _products(times: int, rows: int, inner: int, columns: int) -> Tiles:
    """`times` products of (rows x inner) (inner x columns)."""
    across = sum(_cut(-(-columns // LANES), (COLUMNS, 1)).values())
    return Tiles(product=times * product(rows, inner, columns), pieces=float(times * -(-rows // ROWS) * across))


def _rows(op: Op) -> int:
    if isinstance(op, Softmax | Norm | Reduce):
        return op.batch * op.height * op.width
    if isinstance(op, Copy) and op.copy in ("transpose", "permute"):
        return op.batch * op.height * (op.width * op.in_channels if op.width > 1 else 1)
    return 0


def moves_blocks(op: Op) -> bool:
    """Whether it is a reorder or a resize in blocks: it moves whole ones."""
    return (isinstance(op, Copy) and op.copy.startswith("reorder")) or (isinstance(op, Resize) and bool(op.blocked))


def _from(kib: int) -> tuple[float, float, float]:
    """Shares of a network's weights that come from near, from the middle and from far; all 0 where `kib` is 0."""
    if kib <= 0:
        return 0.0, 0.0, 0.0
    low, middle, high = math.log2(NEAR_KIB), math.log2(MIDDLE_KIB), math.log2(FAR_KIB)
    at = min(max(math.log2(kib), low), high)
    near, far = max(0.0, (middle - at) / (middle - low)), max(0.0, (at - middle) / (high - middle))
    return near, 1.0 - near - far, far


def blocked(op: DenseConv, lanes: int = LANES) -> bool:
    """Whether channels divide so that a runtime can compute in blocks of `lanes` of them.

    As onnxruntime's NchwcTransformer decides: multiples of 4 (of the block where there are groups), or fewer channels
    in than a block.
    """
    if isinstance(op, Depthwise):
        return op.in_channels % 4 == 0
    groups = getattr(op, "groups", 1)
    if groups > 1:
        return (op.in_channels // groups) % lanes == 0 and (op.out_channels // groups) % lanes == 0
    return op.in_channels < lanes or op.in_channels % 4 == 0


def filled(channels: int) -> int:
    """`channels` up to a whole block."""
    return -(-channels // LANES) * LANES


def product(rows: int, inner: int, columns: int) -> float:
    """Multiplications of vectors in (rows x inner) (inner x columns)."""
    across = _cut(-(-columns // LANES), (COLUMNS, 1))
    down = [ROWS] * (rows // ROWS) + ([rows % ROWS] if rows % ROWS else [])
    full, rest = down.count(ROWS), [d for d in down if d != ROWS]
    per_row = sum(n * (full * max(ROWS * wide, LEAST_TILE) + sum(max(d * wide, LEAST_TILE) for d in rest))
                  for wide, n in across.items())  # fmt: skip
    return float(inner * per_row)


def _cut(n: int, sizes: tuple[int, ...]) -> dict[int, int]:
    """`n` in pieces, the largest first: size -> how many."""
    found = {}
    for size in sizes:
        found[size], n = divmod(n, size)
    return found


def inside(size: int, out: int, window: int, stride: int, dilation: int, before: int) -> list[int]:
    """For each of `out` outputs along an axis, how many places of the window lie inside the map."""
    first = [o * stride - before for o in range(out)]
    return [sum(0 <= f + k * dilation < size for k in range(window)) for f in first]


def channels_computed(op: DenseConv) -> tuple[int, int]:
    """(input channels of each output, blocks of output channels) that a convolution in blocks computes."""
    groups = getattr(op, "groups", 1)  # of a depthwise one as of a dense one: every block has its own channels
    channels = 1 if isinstance(op, Depthwise) else op.in_channels // groups
    return channels if channels < LANES else filled(channels), groups * filled(op.out_channels // groups) // LANES


def _blocked(op: DenseConv) -> Tiles:
    _, _, height, width = op.output_shape
    left, _, top, _ = op.padding
    depthwise = isinstance(op, Depthwise)
    inner, blocks = channels_computed(op)
    thin, deep = inner < LANES and not depthwise, -(-inner // LANES)
    groups = getattr(op, "groups", 1)
    sets = groups * sum(_cut(blocks // groups, (1,) if depthwise else (BLOCKS, 3, 2, 1)).values())
    if isinstance(op, Pointwise) and op.strides == (1, 1) and not thin:  # the map as one row
        rows, stores = 1, -(-deep // DEEP)
        each, turns = float(height * width), float(_pieces(height * width))
        lines = 1.0
    else:
        rows, stores = height, deep
        across = inside(op.width, width, op.window[1], op.strides[1], op.dilation, left)
        down = inside(op.height, height, op.window[0], op.strides[0], op.dilation, top)
        middle, edge = across.count(op.window[1]), sum(a for a in across if a < op.window[1])
        lines = float(sum(down))
        each, turns = float(sum(across)), float(_pieces(middle) * op.window[1] + edge)
    n = op.batch
    return Tiles(
        multiplications=n * each * lines * inner * blocks,
        turns=n * turns * lines * inner * sets,
        accumulated=float(n * stores * height * width * blocks),
        calls=float(n * stores * rows * sets),
        thin=float(n * inner * op.height * op.width * sets) if thin else 0.0,
    )


def _pieces(outputs: int) -> int:
    return sum(_cut(outputs, (OUTPUTS, 3, 2, 1)).values())


def _unrolled(op: DenseConv) -> Tiles:
    groups = op.in_channels if isinstance(op, Depthwise) else getattr(op, "groups", 1)
    _, out, height, width = op.output_shape
    inner = op.in_channels // groups * op.window[0] * op.window[1]
    copied = 0 if op.window == (1, 1) and op.strides == (1, 1) else inner * height * width
    found = _products(op.batch * groups, out // groups, inner, height * width)
    return replace(found, unrolled=float(op.batch * groups * copied))
