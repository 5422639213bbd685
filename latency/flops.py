"""What an op computes and moves: one table of primitive kernels, from which MACs, parameters and bytes follow."""

from __future__ import annotations

from dataclasses import dataclass

from latency.kernels import (
    KERNELS,
    BatchNorm,
    DenseConv,
    Elementwise,
    Gemm,
    GlobalPool,
    MatMul,
    Norm,
    Pooling,
    Reduce,
    TransposedConv,
    View,
)
from latency.kernels import Depthwise as DepthwiseKernel
from latency.kernels import Pointwise as PointwiseKernel
from latency.ops import (
    Add,
    Concat,
    Conv2d,
    Fork,
    Identity,
    Linear,
    MBConv,
    Next,
    Op,
    Pad,
    Pool,
    SepConv,
    Slice,
    Zero,
    squeeze_width,
)

DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Kernel:
    """One fused kernel: a (grouped) convolution or pooling; activation and batch norm ride along for free.

    Sizes are of one image; `weights` counts parameters, batch norm folded in as a bias.
    """

    kind: str  # "dense", "pointwise", "depthwise", "linear", "pool", "glue"
    macs: int
    elements_in: int
    elements_out: int
    weights: int


def _conv(kind: str, c_in: int, c_out: int, h_in: int, w_in: int, kernel: int, stride: int, groups: int = 1) -> Kernel:
    h_out, w_out = -(-h_in // stride), -(-w_in // stride)
    weights = kernel * kernel * c_in // groups * c_out
    return Kernel(kind, weights * h_out * w_out, c_in * h_in * w_in, c_out * h_out * w_out, weights + c_out)


def _window(op: DenseConv) -> Kernel:
    groups = op.in_channels if isinstance(op, DepthwiseKernel) else getattr(op, "groups", 1)
    kind = (
        "depthwise"
        if isinstance(op, DepthwiseKernel)
        else "pointwise" if isinstance(op, PointwiseKernel) else "dense"
    )  # fmt: skip
    _, c_out, h_out, w_out = op.output_shape
    weights = op.window[0] * op.window[1] * op.in_channels // groups * c_out
    out = c_out * h_out * w_out
    read = op.in_channels * op.height * op.width + (out if op.add else 0)
    return Kernel(kind, weights * h_out * w_out, read, out, weights + c_out)


def _kernel(op: Op) -> Kernel:
    """What one of latency.kernels does, for one image (MatMul: for one of its `batch` products)."""
    c_in, elements = op.in_channels, op.in_channels * op.height * op.width
    _, c_out, h_out, w_out = op.output_shape
    out = c_out * h_out * w_out
    match op:
        case DenseConv():
            return _window(op)
        case TransposedConv():
            weights = op.kernel**2 * c_in // op.groups * c_out
            return Kernel("dense", weights * op.height * op.width, elements, out, weights + c_out)
        case Pooling():
            return Kernel("pool", out * op.window[0] * op.window[1], elements, out, 0)
        case GlobalPool():
            return Kernel("pool", elements, elements, out, 0)
        case Gemm():
            rows = op.height * op.width
            return Kernel("linear", rows * c_in * c_out, elements, rows * c_out, c_in * c_out + c_out)
        case MatMul():
            return Kernel("dense", elements * c_out, elements + c_in * c_out, op.height * op.width * c_out, 0)
        case Elementwise():
            second = {"none": elements, "inner": c_in, "outer": c_in, "scalar": 1}[op.broadcast]
            return Kernel("glue", 0, elements + second, out, 0)
        case BatchNorm():
            return Kernel("glue", 0, elements, out, 2 * c_in)
        case Norm():
            more = elements if op.norm == "skip_layer" else 0
            return Kernel("glue", 0, elements + more, out + more, 2 * c_in)
        case Reduce():
            return Kernel("glue", 0, elements, op.height * op.width, 0)
        case View():
            return Kernel("glue", 0, 0, 0, 0)
        case _:
            return Kernel("glue", 0, elements, out, 0)


def kernels(op: Op) -> tuple[Kernel, ...]:
    """The kernels that `op` runs, for one image. Raises TypeError for a class that is not in the vocabulary."""
    c_in, c_out, h, w = op.in_channels, op.out_channels, op.height, op.width
    match op:
        case Zero() | Identity() | Fork() | Next():
            return ()
        case Add() | Concat():  # moves maps; its additions are left out of MACs, as in the literature
            return (Kernel("glue", 0, op.branches * c_in * h * w, c_out * h * w, 0),)
        case Slice() | Pad():
            return (Kernel("glue", 0, min(c_in, c_out) * h * w, c_out * h * w, 0),)
        case Conv2d():
            kind = "depthwise" if op.groups == c_in == c_out else "pointwise" if op.kernel == 1 else "dense"
            return (_conv(kind, c_in, c_out, h, w, op.kernel, op.stride, op.groups),)
        case SepConv():
            _, _, h_out, w_out = op.output_shape
            return (
                _conv("depthwise", c_in, c_in, h, w, op.kernel, op.stride, c_in),
                _conv("pointwise", c_in, c_out, h_out, w_out, 1, 1),
            )
        case Pool():
            _, _, h_out, w_out = op.output_shape
            return (Kernel("pool", c_in * h_out * w_out * op.kernel**2, c_in * h * w, c_out * h_out * w_out, 0),)
        case Linear():
            return (Kernel("linear", c_in * c_out, c_in * h * w, c_out, c_in * c_out + c_out),)
        case MBConv():
            _, _, h_out, w_out = op.output_shape
            mid = op.mid_channels
            found = [_conv("pointwise", c_in, mid, h, w, 1, 1, op.groups)] if op.expands else []
            if found and op.groups > 1:
                found.append(Kernel("glue", 0, mid * h * w, mid * h * w, 0))  # the channel shuffle
            found.append(_conv("depthwise", mid, mid, h, w, op.kernel, op.stride, mid))
            if op.se:
                squeezed = squeeze_width(mid)
                found.append(
                    Kernel("linear", 2 * mid * squeezed, mid * h_out * w_out, mid, 2 * mid * squeezed + squeezed + mid)
                )
            found.append(_conv("pointwise", mid, c_out, h_out, w_out, 1, 1, op.groups))
            return tuple(found)
        case _ if isinstance(op, KERNELS):
            return (_kernel(op),)
    raise TypeError(f"no kernels for {type(op).__name__}")


def macs(op: Op) -> int:
    """Multiply-accumulates of one inference, batch included."""
    return op.batch * sum(k.macs for k in kernels(op))


def params(op: Op) -> int:
    """Parameters, batch norm folded."""
    return sum(k.weights for k in kernels(op))


def bytes_moved(op: Op) -> int:
    """Bytes read and written by the op's kernels: inputs, outputs and weights, each once per kernel."""
    size = DTYPE_BYTES[op.dtype]
    return size * sum(op.batch * (k.elements_in + k.elements_out) + k.weights for k in kernels(op))
