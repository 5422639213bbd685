"""op -> vector: THE feature table. Fit and predict both come here, so the two cannot drift apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latency.flops import bytes_moved, kernels, macs, params
from latency.ops import MBConv, Op
from latency.stats import Floats

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
)
#: What the op computes and moves.
WORK = ("macs", "macs_depthwise", "bytes", "params", "kernels")
FEATURES = SHAPE + WORK

#: Op fields with few values each: a value never measured cannot be predicted, however near.
DISCRETE = ("kernel", "stride", "shortcut", "se", "act", "groups", "dilation", "pool", "branches", "dtype")


def features(op: Op) -> Floats:
    """(len(FEATURES),) the features of one op, in order of FEATURES."""

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
    shape = [*log[:7], get("shortcut", 0), get("se", 0), float(getattr(op, "act", "") == "hswish"), *log[7:]]
    shape.append(float(getattr(op, "pool", "") == "max"))
    work = [macs(op), op.batch * depthwise, bytes_moved(op), params(op), len(kernels(op))]
    return np.array([*shape, *work], dtype=np.float64)


def feature_matrix(ops: Sequence[Op]) -> Floats:
    """(n, len(FEATURES)) features of `ops`."""
    return np.stack([features(op) for op in ops]) if ops else np.empty((0, len(FEATURES)))


def discrete_values(op: Op) -> dict[str, str]:
    """The op's values of the DISCRETE fields that its kind has, as text."""
    return {name: str(getattr(op, name)) for name in DISCRETE if hasattr(op, name)}
