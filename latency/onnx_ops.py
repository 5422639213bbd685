"""A fused part of an ONNX graph -> the op of the vocabulary that says what it computes."""

from __future__ import annotations

from typing import Any

from latency.fusions import reduced_axes
from latency.kernels import (
    Activation,
    BatchNorm,
    Copy,
    Elementwise,
    Gemm,
    GlobalPool,
    Join,
    MatMul,
    Norm,
    Pooling,
    Reduce,
    Resize,
    Softmax,
    TransposedConv,
    View,
    conv,
    windowed,
)
from latency.onnx_file import Graph, Node
from latency.onnx_parts import VIEWS, Part, size
from latency.op_base import Op, OpError

ACTIVATION_OPS = {
    "Relu": "relu", "Clip": "clip", "HardSwish": "hswish", "Silu": "silu", "Swish": "silu", "Gelu": "gelu",
    "Sigmoid": "sigmoid", "HardSigmoid": "hsigmoid", "Tanh": "tanh", "LeakyRelu": "leaky", "Elu": "elu",
    "Selu": "elu", "Celu": "elu", "Softplus": "softplus", "Mish": "mish", "PRelu": "prelu", "Erf": "erf",
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Abs": "abs", "Neg": "neg",
}  # fmt: skip
BINARY_OPS = {
    "Add": "add", "Sum": "add", "Mul": "mul", "Sub": "sub", "Div": "div", "Max": "max", "Min": "min", "Pow": "pow",
}  # fmt: skip
COPY_OPS = {
    "Transpose": "transpose", "Slice": "slice", "Split": "slice", "Pad": "pad", "Expand": "expand", "Tile": "expand",
    "Gather": "gather", "DepthToSpace": "shuffle", "SpaceToDepth": "shuffle", "Cast": "cast",
}  # fmt: skip
REDUCE_OPS = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod",
    "ArgMax": "argmax", "ReduceL2": "norm",
}  # fmt: skip


class NotCovered(Exception):
    """Why a part has no op."""


def as_map(shape: tuple[int, ...]) -> dict[str, Any]:
    """A tensor of any rank as batch, channels, height, width; see latency/kernels.py."""
    if len(shape) == 4:
        batch, channels, height, width = shape
    elif len(shape) == 3:
        (batch, height, channels), width = shape, 1
    else:
        batch, height, width = (shape[0] if len(shape) > 1 else 1), size(shape[1:-1]), 1
        channels = shape[-1] if shape else 1
    return {"batch": batch, "in_channels": channels, "out_channels": channels, "height": height, "width": width}


def op_of(graph: Graph, part: Part) -> Op:
    """The op of `part`. Raises NotCovered saying why there is none."""
    try:
        return _op_of(graph, part)
    except OpError as error:
        raise NotCovered(str(error)) from None
    except (KeyError, IndexError, ValueError) as error:
        raise NotCovered(f"{part.op_type} with attributes or shapes that are not understood ({error})") from None


def _op_of(graph: Graph, part: Part) -> Op:
    node, kind = part.node, part.op_type
    out = graph.shape(part.output)
    if 0 in out:
        raise NotCovered("an empty tensor")
    if kind == "Conv":
        return _conv(graph, part)
    if kind == "ConvTranspose":
        return _transposed(graph, part)
    if kind in ("MaxPool", "AveragePool"):
        return _pool(graph, node)
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return GlobalPool(**_image(graph.shape(node.inputs[0])), pool="avg" if "Average" in kind else "max")
    if kind == "Gemm":
        return _gemm(graph, part)
    if kind == "MatMul":
        return _matmul(graph, part)
    if kind == "BatchNormalization":
        return BatchNorm(**as_map(out), act=act_name(graph, part.act))
    if kind == "Concat":
        return Join(**as_map(out), parts=max(2, len(node.inputs)))
    if kind in ("Resize", "Upsample"):
        return _resize(graph, node)
    if kind in ("Softmax", "LogSoftmax"):
        axis = int(node.attrs.get("axis", -1)) % len(out)
        rows, width = out[axis], size(out[axis + 1 :])
        return Softmax(in_channels=rows, out_channels=rows, height=size(out) // (rows * width), width=width)
    if kind in ("LayerNormalization", "InstanceNormalization", "RMSNormalization", "GroupNormalization"):
        return _norm(graph, part)
    if kind in VIEWS:
        return View()
    return _simple(graph, part, out)


def _simple(graph: Graph, part: Part, out: tuple[int, ...]) -> Op:
    node, kind = part.node, part.op_type
    if kind in ACTIVATION_OPS:
        return Activation(**as_map(out), act=act_name(graph, node, kind))
    if kind in BINARY_OPS and len(node.inputs) == 2:
        return _binary(graph, node, BINARY_OPS[kind], out)
    if kind in REDUCE_OPS:
        source = graph.shape(node.inputs[0])
        n, width = size(source) // size(out), size(source[max(reduced_axes(graph, part), default=-1) + 1 :])
        return Reduce(in_channels=max(n, 1), height=size(out) // width, width=width, reduction=REDUCE_OPS[kind])
    if kind == "Transpose":
        return _transpose(graph, node, out)
    if kind in COPY_OPS:
        return Copy(**as_map(graph.shape(part.inputs[0]) if kind == "Split" else out), copy=COPY_OPS[kind])
    raise NotCovered(f"no kernel for {kind}")


def act_name(graph: Graph, node: Node | None, kind: str | None = None) -> str:
    """The activation that `node` is; "none" for None."""
    if node is None:
        return "none"
    name = ACTIVATION_OPS[kind or node.op_type]
    if name != "clip":
        return name
    low, high = (node.attrs.get(k) for k in ("min", "max"))
    if low is None and len(node.inputs) > 1:
        low = graph.scalar(node.inputs[1])
    if high is None and len(node.inputs) > 2:
        high = graph.scalar(node.inputs[2])
    return "relu6" if (low, high) == (0.0, 6.0) else "relu" if low == 0.0 and high is None else "clip"


def _image(shape: tuple[int, ...]) -> dict[str, Any]:
    """(batch, channels, height, width) of a map, or of a sequence (batch, channels, width) as a map of height 1."""
    if len(shape) not in (3, 4):
        raise NotCovered(f"a window over {len(shape) - 2} dimensions")
    height = shape[2] if len(shape) == 4 else 1
    return {"batch": shape[0], "in_channels": shape[1], "out_channels": shape[1], "height": height, "width": shape[-1]}


def _window(node: Node, rank: int, kernel: Any) -> dict[str, Any]:
    flat = rank - 2 == 1
    window = tuple(kernel)
    strides = tuple(node.attrs.get("strides", [1] * len(window)))
    dilations = tuple(node.attrs.get("dilations", [1] * len(window)))
    if flat:
        window, strides, dilations = (1, *window), (1, *strides), (1, *dilations)
    spread = {d for d, k in zip(dilations, window, strict=True) if k > 1}
    if len(spread) > 1:
        raise NotCovered(f"dilations {dilations}: only equal ones")
    return {"window": window, "strides": strides, "dilation": spread.pop() if spread else 1}


def _conv(graph: Graph, part: Part) -> Op:
    node = part.node
    source, weights, out = graph.shape(node.inputs[0]), graph.shape(node.inputs[1]), graph.shape(part.output)
    image, made = _image(source), _image(out)
    if node.inputs[1] not in graph.constants:
        raise NotCovered("a convolution whose weights are computed")
    return conv(
        image["in_channels"],
        weights[0],
        groups=int(node.attrs.get("group", 1)),
        height=image["height"],
        width=image["width"],
        batch=image["batch"],
        out=(made["height"], made["width"]),
        act=act_name(graph, part.act),
        add=int(part.adds),
        **_window(node, len(source), node.attrs.get("kernel_shape", weights[2:])),
    )


def _transposed(graph: Graph, part: Part) -> Op:
    node = part.node
    source, weights, out = graph.shape(node.inputs[0]), graph.shape(node.inputs[1]), graph.shape(part.output)
    if len(source) != 4:
        raise NotCovered(f"a transposed convolution over {len(source) - 2} dimensions")
    about = _window(node, 4, node.attrs.get("kernel_shape", weights[2:]))
    if len({*about["window"]}) > 1 or len({*about["strides"]}) > 1 or about["dilation"] > 1:
        raise NotCovered("a transposed convolution that is not square, or dilated")
    fields = _image(source) | {"out_channels": out[1], "kernel": about["window"][0], "stride": about["strides"][0]}
    for name, place in (("out_height", 2), ("out_width", 3)):
        if out[place] != source[place] * fields["stride"]:
            fields[name] = out[place]
    return TransposedConv(**fields, groups=int(node.attrs.get("group", 1)))


def _pool(graph: Graph, node: Node) -> Op:
    source, made = graph.shape(node.inputs[0]), _image(graph.shape(node.outputs[0]))
    return windowed(
        Pooling,
        **_image(source),
        out=(made["height"], made["width"]),
        pool="max" if node.op_type == "MaxPool" else "avg",
        **_window(node, len(source), node.attrs["kernel_shape"]),
    )


def _gemm(graph: Graph, part: Part) -> Op:
    node = part.node
    first, weights = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    if node.inputs[1] not in graph.constants:
        raise NotCovered("Gemm with two computed matrices")
    out = graph.shape(part.output)
    inner = weights[1] if node.op_type == "Gemm" and node.attrs.get("transB", 0) else weights[0]
    return Gemm(in_channels=inner, out_channels=out[-1], height=size(first) // inner, width=1,
                act=act_name(graph, part.act))  # fmt: skip


def _matmul(graph: Graph, part: Part) -> Op:
    out = graph.shape(part.output)
    first = graph.shape(part.node.inputs[0])
    rows, columns = (out[-2] if len(out) > 1 else 1), out[-1]
    inner = first[-1]
    return MatMul(batch=size(out) // (rows * columns), in_channels=inner, out_channels=columns, height=rows, width=1)


def _binary(graph: Graph, node: Node, fn: str, out: tuple[int, ...]) -> Op:
    shapes = sorted((graph.shape(i) for i in node.inputs), key=size)
    small = (1,) * (len(out) - len(shapes[0])) + tuple(shapes[0])
    if size(small) == size(out):
        spread = "none"
    elif size(small) == 1:
        spread = "scalar"
    else:
        spread = "inner" if small[-1] == out[-1] and out[-1] > 1 else "outer"
    return Elementwise(**as_map(out), fn=fn, broadcast=spread)


def _resize(graph: Graph, node: Node) -> Op:
    source, out = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if len(source) != 4 or source[:2] != out[:2]:
        raise NotCovered("a resize of other axes than height and width")
    return Resize(**_image(source), out_height=out[2], out_width=out[3], resize=node.attrs.get("mode", "nearest"))


def _norm(graph: Graph, part: Part) -> Op:
    out = graph.shape(part.output)
    if part.op_type in ("LayerNormalization", "RMSNormalization"):
        axis = int(part.node.attrs.get("axis", -1)) % len(out)
        if "axes" in part.more:
            axis = min(part.more["axes"])
        n = size(out[axis:])
        name = "rms" if part.op_type == "RMSNormalization" else "skip_layer" if part.adds else "layer"
        return Norm(in_channels=n, out_channels=n, height=size(out) // n, width=1, norm=name)
    rows = out[0] * (int(part.node.attrs["num_groups"]) if part.op_type == "GroupNormalization" else out[1])
    return Norm(in_channels=size(out) // rows, out_channels=size(out) // rows, height=rows, width=1, norm="instance")


def _transpose(graph: Graph, node: Node, out: tuple[int, ...]) -> Op:
    """A transpose as (height, in_channels, width) read so: runs of `in_channels` values that lie `width` apart.

    Width 1 moves runs as they are. What else there is of axes does not matter: those that stay together are one. Values
    that do not stay in runs are moved one by one, which onnxruntime does fast where the transpose moves a single axis
    (core/providers/cpu/tensor/transpose.cc) and slowly elsewhere: `permute`.
    """
    source = graph.shape(node.inputs[0])
    perm = list(node.attrs.get("perm", range(len(source))[::-1]))
    moved = [p for p in perm if source[p] > 1]
    if moved == sorted(moved):
        return View()
    place = {p: i for i, p in enumerate(sorted(moved))}  # axes of size 1 left out
    sizes, order = [source[p] for p in sorted(moved)], [place[p] for p in moved]
    first = len(order) - 1  # of the axes that end the output and follow one another in the source
    while first and order[first - 1] == order[first] - 1:
        first -= 1
    run, apart = size(tuple(sizes[p] for p in order[first:])), size(tuple(sizes[order[-1] + 1 :]))
    how = "transpose" if apart == 1 or _moves_one_axis(perm) else "permute"
    return Copy(in_channels=run, out_channels=run, height=size(out) // (run * apart), width=apart, copy=how)


def _moves_one_axis(perm: list[int]) -> bool:
    """Whether the axes without one of them are in order."""
    return any(rest == sorted(rest) for rest in (perm[:i] + perm[i + 1 :] for i in range(len(perm))))
