"""The blocked layout of onnxruntime on x86 and Arm, and what it takes to bring data into it and out of it.

Convolutions compute on channels in blocks (NCHWc). What lies between two of them and can do the same stays in the
layout; for the rest data is reordered, which costs as much as an element-wise kernel. An op timed by itself pays for
two reorders that a network amortises: to know which ones a network has is what makes the sum of its kernels right.
After onnxruntime/core/optimizer/nchwc_transformer.cc.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from latency.features import LANES, blocked
from latency.kernels import (
    Activation,
    BatchNorm,
    Concat,
    Copy,
    DenseConv,
    Depthwise,
    Elementwise,
    GlobalPool,
    Pooling,
    Resize,
)
from latency.onnx_file import Graph, Node
from latency.onnx_ops import as_map
from latency.op_base import Op
from latency.parts import Part

PLAIN, BLOCKED = "plain", "blocked"
#: Activations by themselves that compute in whatever layout they are given.
ANY_LAYOUT = ("relu", "sigmoid", "tanh", "hsigmoid", "hswish", "gelu", "silu")


@dataclass(frozen=True)
class Placed:
    """A part and its op; None where the vocabulary has none (`why` says so)."""

    part: Part
    op: Op | None
    why: str = ""


def reordered(graph: Graph, placed: list[Placed]) -> list[Placed]:
    """`placed` with the reorders that the blocked layout needs, and with transposes that a reorder does by the way."""
    layouts: dict[str, set[str]] = {t: {PLAIN} for t in graph.inputs}
    takers: dict[str, list[Placed]] = {}
    for p in placed:
        for t in p.part.inputs:
            takers.setdefault(t, []).append(p)
    found: list[Placed] = []

    def need(tensor: str, layout: str) -> None:
        have = layouts.setdefault(tensor, {PLAIN})
        if layout not in have:
            found.append(_reorder(graph, tensor, layout))
            have.add(layout)

    for p in placed:
        op, part = p.op, p.part
        swap = _nhwc(part)
        if swap == "out" and PLAIN not in layouts.get(part.inputs[0], {PLAIN}):
            found.append(replace(p, op=Copy(**as_map(graph.shape(part.output)), copy="reorder_out")))
            layouts[part.output] = {PLAIN}
            continue
        if (
            swap == "in"
            and part.output not in graph.outputs
            and all(_wants_blocks(graph, t) for t in takers.get(part.output, [p]))
        ):
            found.append(replace(p, op=Copy(**as_map(graph.shape(part.output)), copy="reorder_in")))
            layouts[part.output] = {BLOCKED}
            continue
        if _blocked(graph, p):
            need(part.inputs[0], BLOCKED if _wants_blocks(graph, p) else PLAIN)
            for t in part.inputs[1:]:
                need(t, BLOCKED)
            made = BLOCKED
        elif isinstance(op, Pooling) and op.in_channels % LANES == 0:
            need(part.inputs[0], BLOCKED)
            made = BLOCKED
        elif _follows(graph, p) and all(BLOCKED in layouts.get(t, {PLAIN}) for t in part.inputs):
            made = BLOCKED
            if isinstance(op, BatchNorm):  # runs as a depthwise convolution of 1 x 1
                fields = {k: getattr(op, k) for k in ("in_channels", "out_channels", "height", "width", "batch", "act")}
                p = replace(p, op=Depthwise(**fields, kernel=1))
        else:
            for t in part.inputs:
                need(t, PLAIN)
            made = PLAIN
        found += [p] if made == BLOCKED else _apart(p)
        for t in part.outputs:
            layouts[t] = {made}
    for t in graph.outputs:
        need(t, PLAIN)
    return found


def _reorder(graph: Graph, tensor: str, layout: str) -> Placed:
    copy = "reorder_in" if layout == BLOCKED else "reorder_out"
    node = Node(f"{tensor}/{copy}", "Reorder", (tensor,), (f"{tensor}/{layout}",), {})
    part = Part("Reorder", node.name, (tensor,), node.outputs, node, ())
    return Placed(part, Copy(**as_map(graph.shape(tensor)), copy=copy))


def _apart(p: Placed) -> list[Placed]:
    """What runs as one kernel in blocks alone: batch norm with its activation, anything with h-swish."""
    op, act = p.op, getattr(p.op, "act", "none")
    if op is None or not (act == "hswish" or (isinstance(op, BatchNorm) and act != "none")):
        return [p]
    _, channels, height, width = op.output_shape
    shape: dict[str, Any] = {
        "batch": op.batch,
        "in_channels": channels,
        "out_channels": channels,
        "height": height,
        "width": width,
    }
    found = [] if isinstance(op, Activation) else [replace(p, op=replace(op, act="none"))]  # type: ignore[call-arg]
    if act != "hswish":
        return [*found, _more(p, Activation(**shape, act=act))]
    return [*found, _more(p, Activation(**shape, act="hsigmoid")), _more(p, Elementwise(**shape, fn="mul"))]


def _more(p: Placed, op: Op) -> Placed:
    return Placed(replace(p.part, name=f"{p.part.name}/{type(op).__name__}", members=()), op)


def _blocked(graph: Graph, p: Placed) -> bool:
    return isinstance(p.op, DenseConv) and blocked(p.op) and len(graph.shape(p.part.output)) == 4


def _wants_blocks(graph: Graph, p: Placed) -> bool:
    """Whether it is a convolution that reads its input in blocks: one of few channels reads it as it is."""
    if not isinstance(p.op, DenseConv) or not _blocked(graph, p):
        return False
    return isinstance(p.op, Depthwise) or p.op.in_channels >= LANES or getattr(p.op, "groups", 1) > 1


def _follows(graph: Graph, p: Placed) -> bool:
    """Whether it can compute in blocks where its inputs are in blocks."""
    op, shape = p.op, graph.shape(p.part.output)
    if len(shape) != 4:
        return False
    match op:
        case Activation():
            return op.act in ANY_LAYOUT
        case Elementwise():
            same = all(graph.shape(t) == shape for t in p.part.inputs)
            return op.fn in ("add", "mul") and len(p.part.inputs) == 2 and same
        case Concat():
            return p.part.node.attrs.get("axis") in (1, -3) and all(
                graph.shape(t)[1] % LANES == 0 for t in p.part.inputs
            )
        case Resize():
            whole = op.out_height % op.height == 0 and op.out_width % op.width == 0
            return op.resize in ("nearest", "linear") and whole and len(p.part.node.inputs) < 4
        case GlobalPool():
            return op.in_channels % LANES == 0
        case BatchNorm():
            return op.in_channels % 4 == 0
    return False


def _nhwc(part: Part) -> str:
    """ "out" for a transpose of NCHW to NHWC, "in" for one back, "" for anything else."""
    perm = list(part.node.attrs.get("perm", ())) if part.op_type == "Transpose" else []
    return {(0, 2, 3, 1): "out", (0, 3, 1, 2): "in"}.get(tuple(perm), "")
