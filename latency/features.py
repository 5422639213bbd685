"""op -> vector: THE feature table. Fit and predict both come here, so the two cannot drift apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from latency.flops import bytes_moved, kernels, macs, params
from latency.kernels import KERNELS, DenseConv, Depthwise, Gemm, GlobalPool, MatMul, Pooling, Resize, Windowed
from latency.op_base import ACTIVATIONS, BROADCASTS, COPIES, FUNCTIONS, NORMS, REDUCTIONS, RESIZES
from latency.ops import MBConv, Op
from latency.stats import Floats
from latency.tiles import FAR_KIB, LANES, NAMES, blocked, channels_computed, filled, moves_blocks, tiles

#: Values of a kernel's fields that are names; each has a column.
NAMED = (
    *(a for a in ACTIVATIONS if a not in ("none", "hswish")),
    *(f for f in FUNCTIONS if f != "add"),
    *(f"{b}_operand" for b in BROADCASTS[1:]),
    *COPIES,
    *NORMS[1:],
    *REDUCTIONS[1:],
    *RESIZES[1:],
    "linear_plain",
)
OWN = 12  # features of kernels that are numbers

#: What a Gaussian process on logs sees: sizes, channels, kernel, expansion, stride, shortcut, ...
SHAPE = (
    "log_height",
    "log_width",
    "log_in",
    "log_out",
    "log_expand",
    "log_kernel",
    "log_stride",
    "shortcut",
    "se",
    "hswish",
    "log_groups",
    "log_dilation",
    "log_batch",
    "max_pool",
    # Of kernels (latency/kernels.py) only, 0 for blocks:
    "log_kernel_aspect",
    "log_resized",
    "add",
    "log_parts",
    "log_waste_in",
    "log_waste_out",
    "ragged",
    "log_moved",
    "log_computed",
    "log_tile",
    "log_inside",
    "log_network",
    *(f"is_{name}" for name in NAMED),
)
#: What the op computes and moves.
WORK = ("macs", "macs_depthwise", "bytes", "params", "kernels", *NAMES)
FEATURES = SHAPE + WORK

#: Op fields with few values each: a value never measured cannot be predicted, however near.
DISCRETE = (
    "kernel", "stride", "shortcut", "se", "act", "groups", "dilation", "pool", "branches", "dtype", "fn", "broadcast",
    "copy", "norm", "reduction", "resize", "expand_conv",
)  # fmt: skip


@lru_cache(maxsize=8192)  # networks hold the same few hundred ops over and over
def features(op: Op) -> Floats:
    """(len(FEATURES),) the features of one op, in order of FEATURES; the same array each time, not to be written to."""

    def get(name: str, default: float) -> float:
        return float(getattr(op, name, default))

    expand = op.mid_channels / op.in_channels if isinstance(op, MBConv) else 1.0
    depthwise = sum(k.macs for k in kernels(op) if k.kind == "depthwise")
    log = np.log(
        np.array(
            [
                op.height,
                op.width,
                op.in_channels,
                op.out_channels,
                expand,
                get("kernel", 1),
                get("stride", 1),
                get("groups", 1),
                get("dilation", 1),
                op.batch,
            ],
            dtype=np.float64,
        )
    )
    shape = [
        *log[:7],
        get("shortcut", 0),
        get("se", 0),
        float(getattr(op, "act", "") == "hswish"),
        *log[7:],
        float(getattr(op, "pool", "") == "max"),
        *_of_kernel(op),
    ]
    work = [macs(op), op.batch * depthwise, bytes_moved(op), params(op), len(kernels(op)), *tiles(op)]
    found = np.array([*shape, *work], dtype=np.float64)
    found.setflags(write=False)
    return found


def _of_kernel(op: Op) -> list[float]:
    """The features that only kernels have; all 0 for a block."""
    if not isinstance(op, KERNELS):
        return [0.0] * (OWN + len(NAMED))
    aspect = resized = 0.0
    if isinstance(op, Windowed):
        aspect = float(np.log(op.window[1] / op.window[0]))
        plain = (-(-op.height // op.strides[0])) * (-(-op.width // op.strides[1]))
        resized = float(np.log(op.output_shape[2] * op.output_shape[3] / plain))
    elif hasattr(op, "out_height"):
        resized = float(np.log(op.output_shape[2] * op.output_shape[3] / (op.height * op.width)))
    groups = op.in_channels if isinstance(op, Depthwise) else getattr(op, "groups", 1)
    channels_in, channels_out = op.in_channels // groups, op.out_channels // groups
    waste_in = waste_out = ragged = 0.0
    if isinstance(op, DenseConv | Gemm | MatMul):
        waste_out = _waste(op.out_channels if groups == 1 or isinstance(op, Depthwise) else channels_out)
        waste_in = 0.0 if isinstance(op, Depthwise) else _waste(channels_in)
    if isinstance(op, DenseConv):
        ragged = float(not blocked(op))
    elif isinstance(op, Pooling | GlobalPool):  # pooled in blocks, or one number at a time
        ragged = float(op.in_channels % LANES != 0)
    elif isinstance(op, Resize):
        ragged = float(not op.blocked)
    if moves_blocks(op):
        waste_out = _waste(op.out_channels)
    named = set(_names(op))
    numbers = [float(getattr(op, "add", 0)), float(np.log(getattr(op, "parts", 1))), waste_in, waste_out, ragged]
    numbers += [float(np.log1p(bytes_moved(op))), float(np.log1p(macs(op)))]  # steps where caches end
    numbers += [*_cut(op), float(np.log(min(max(getattr(op, "network_kib", 0), 1), FAR_KIB)))]
    return [aspect, resized, *numbers, *(float(n in named) for n in NAMED)]


def _names(op: Op) -> list[str]:
    found = [str(getattr(op, f)) for f in ("act", "fn", "copy", "norm", "reduction", "resize") if hasattr(op, f)]
    if isinstance(op, Resize) and not op.blocked:  # by another kernel
        found += [f"{op.resize}_plain"]
    return [*found, f"{getattr(op, 'broadcast', '')}_operand"]


def _waste(channels: int) -> float:
    """log of the channels computed per channel wanted."""
    return float(np.log(filled(channels) / channels))


def _cut(op: Op) -> list[float]:
    """log multiplications per turn of a convolution's innermost loop, log share of its windows inside the map."""
    work = dict(zip(NAMES, tiles(op), strict=True))
    if not isinstance(op, DenseConv) or not work["turns"]:
        return [0.0, 0.0]
    channels, blocks = channels_computed(op)
    n, _, height, width = op.output_shape
    whole = n * height * width * op.window[0] * op.window[1] * channels * blocks
    return [float(np.log(work["multiplications"] / work["turns"])), float(np.log(work["multiplications"] / whole))]


def feature_matrix(ops: Sequence[Op]) -> Floats:
    """(n, len(FEATURES)) features of `ops`."""
    return np.stack([features(op) for op in ops]) if ops else np.empty((0, len(FEATURES)))


def measured_values(ops: Iterable[Op]) -> dict[str, list[str]]:
    """The values of each DISCRETE field among `ops`, of one kind; shorter texts first, so that 3 is before 11."""
    found: dict[str, set[str]] = {}
    for op in ops:
        for name, value in discrete_values(op).items():
            found.setdefault(name, set()).add(value)
    return {name: sorted(values, key=lambda text: (len(text), text)) for name, values in found.items()}


def discrete_values(op: Op) -> dict[str, str]:
    """The op's values of the DISCRETE fields that its kind has, as text."""
    return {name: str(getattr(op, name)) for name in DISCRETE if hasattr(op, name) and name not in op.smooth}
