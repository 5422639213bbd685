"""Which kernel of a network is which of those that onnxruntime's profile names.

Both lists are read from the same model; kernels are paired by what they do and by the sizes of what they take and
give: first where the runtime's name is of one of the kernel's nodes, then in order. Branches side by side differ in
nothing but names, and a runtime need not run them in the model's order. A kernel that finds no partner has no time: it
is left out, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latency.kernels import Activation, Copy, DenseConv, Depthwise, Elementwise, Gemm, Join, Norm
from latency.onnx_graph import KernelNode
from latency.op_base import Op
from latency.tiles import filled

if TYPE_CHECKING:
    from devices.onnx_profile import KernelRun

#: onnxruntime's op -> what it is called here; its own name in small letters where it is not listed.
_NAMES = {
    "FusedConv": "conv", "ReorderInput": "reorder_in", "ReorderOutput": "reorder_out", "QuickGelu": "silu",
    "MaxPool": "pooling", "AveragePool": "pooling", "GlobalAveragePool": "globalpool", "GlobalMaxPool": "globalpool",
    "Reshape": "view", "Flatten": "view", "Squeeze": "view", "Unsqueeze": "view", "FusedGemm": "gemm",
    "FusedMatMul": "matmul", "LayerNormalization": "norm", "SkipLayerNormalization": "norm",
    "InstanceNormalization": "norm", "BatchNormalization": "batchnorm", "Upsample": "resize", "Split": "slice",
    "DepthToSpace": "shuffle", "SpaceToDepth": "shuffle", "ReduceMean": "reduce", "ReduceSum": "reduce",
    "ReduceMax": "reduce", "ReduceMin": "reduce", "ReduceProd": "reduce", "ReduceL2": "reduce", "ArgMax": "reduce",
    "ConvTranspose": "transposedconv", "HardSigmoid": "hsigmoid", "LeakyRelu": "leaky", "Clip": "relu6",
    "Tile": "expand", "Concat": "join",
}  # fmt: skip


def match(kernels: Sequence[KernelNode], runs: Sequence[KernelRun]) -> list[tuple[KernelNode, KernelRun]]:
    """The pairs found, in the order of `kernels`."""
    free: dict[str, list[KernelRun]] = {}
    for run in runs:
        free.setdefault(_NAMES.get(run.op_type, run.op_type.lower()), []).append(run)
    # The names of those in blocks are of tensors.
    node = {id(run): re.sub(r"(_output_\d+)?((_mul)?_nchwc)?$", "", run.name) for run in runs}
    found: dict[int, KernelRun] = {}
    for by_name in (True, False):
        for i, kernel in enumerate(kernels):
            if kernel.op is None or i in found:
                continue
            fitting = (
                (kind, run)
                for kind in _kinds(kernel.op)
                for run in free.get(kind, [])
                if (not by_name or (node[id(run)] and node[id(run)] in kernel.nodes)) and _fits(kernel.op, run)
            )
            kind, found_run = next(fitting, ("", None))
            if found_run is not None:
                found[i] = found_run
                free[kind] = [r for r in free[kind] if r is not found_run]
    return [(kernels[i], found[i]) for i in sorted(found)]


def _kinds(op: Op) -> tuple[str, ...]:
    match op:
        case DenseConv():
            return ("conv",)
        case Activation():
            return ("relu6", "clip") if op.act in ("relu6", "clip") else (op.act,)
        case Elementwise():
            return (op.fn,)
        case Copy():
            return ("transpose" if op.copy == "permute" else op.copy,)
        case Gemm():
            return ("gemm", "matmul")
        case _:
            return (type(op).__name__.lower(),)


def _fits(op: Op, run: KernelRun) -> bool:
    """Whether sizes agree, exactly or with channels filled up to a block."""
    if type(op).__name__ == "View":
        return True
    if (
        not run.outputs
        or (not _elements(run.outputs[0]) & _sizes(op, op.output_shape) and not isinstance(op, Norm | Gemm))
    ) and run.op_type != "Split":
        return False
    match op:
        case DenseConv():
            return _conv_fits(op, run)
        case Gemm():
            out = op.batch * op.height * op.width * op.out_channels
            return bool(run.inputs) and run.inputs[0][-1:] == (op.in_channels,) and _product(run.outputs[0]) == out
        case Norm():
            return _product(run.outputs[0]) == op.batch * op.in_channels * op.height * op.width
    if run.op_type == "Split":
        return _product(run.inputs[0]) == op.batch * op.in_channels * op.height * op.width
    if isinstance(op, Join) or (isinstance(op, Copy) and op.copy in ("gather", "slice", "pad", "expand")):
        return True
    return bool(run.inputs) and any(_elements(i) & _sizes(op, op.input_shape) for i in run.inputs)


def _conv_fits(op: DenseConv, run: KernelRun) -> bool:
    if len(run.inputs) < 2 or len(run.inputs[1]) < 3:
        return False
    weights, window = run.inputs[1], op.window if len(run.inputs[1]) == 4 else op.window[1:]
    if tuple(weights[2:]) != tuple(window) or not _elements(run.inputs[0]) & _sizes(op, op.input_shape):
        return False
    if isinstance(op, Depthwise):
        return weights[1] == 1
    if bool(op.add) != any(i == run.outputs[0] for i in run.inputs[2:]):
        return False
    inner = op.in_channels // getattr(op, "groups", 1)
    return weights[1] in (inner, filled(inner))


def _sizes(op: Op, shape: tuple[int, int, int, int]) -> set[int]:
    n, c, h, w = shape
    return {n * c * h * w, n * filled(c) * h * w}


def _elements(shape: tuple[int, ...]) -> set[int]:
    return {_product(shape)}


def _product(shape: tuple[int, ...]) -> int:
    found = 1
    for s in shape:
        found *= s
    return found
