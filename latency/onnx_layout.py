"""The blocked layout of onnxruntime on x86 and Arm, and what it takes to bring data into it and out of it.

Convolutions compute on channels in blocks (NCHWc). What lies between two of them and can do the same stays in the
layout; for the rest data is reordered, which costs as much as an element-wise kernel. An op timed by itself pays for
two reorders that a network amortises: to know which ones a network has is what makes the sum of its kernels right.
After onnxruntime/core/optimizer/nchwc_transformer.cc.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from latency.fusions_conv import scales
from latency.kernels import (
    Activation,
    BatchNorm,
    Copy,
    DenseConv,
    Depthwise,
    Elementwise,
    GlobalPool,
    Join,
    Pooling,
    Resize,
)
from latency.onnx_file import Graph, Node
from latency.onnx_ops import act_name, as_map, op_of
from latency.onnx_parts import Part
from latency.op_base import Op
from latency.tiles import LANES, blocked

PLAIN, BLOCKED = "plain", "blocked"
#: Activations by themselves that compute in whatever layout they are given.
ANY_LAYOUT = ("relu", "sigmoid", "tanh", "hsigmoid", "hswish", "gelu", "silu")


@dataclass(frozen=True)
class Placed:
    """A part and its op; None where the vocabulary has none (`why` says so)."""

    part: Part
    op: Op | None
    why: str = ""


class _Layouts:
    """Which layouts each tensor is to be had in, while parts are placed in running order."""

    def __init__(self, graph: Graph, placed: list[Placed]) -> None:
        self.graph = graph
        self.native: dict[str, str] = {}  # the layout in which a tensor is made; PLAIN where it says nothing
        self.copies: set[tuple[str, str]] = set()
        self.found: list[Placed] = []
        self.takers: dict[str, list[Placed]] = {}
        for p in placed:
            for t in p.part.inputs:
                self.takers.setdefault(t, []).append(p)

    def is_blocked(self, tensor: str) -> bool:
        """Whether it is made in blocks: a copy in blocks, brought there for a convolution, does not count."""
        return self.native.get(tensor) == BLOCKED

    def need(self, tensor: str, layout: str) -> None:
        """Bring `tensor` into `layout` where it is not to be had in it."""
        if self.native.get(tensor, PLAIN) != layout and (tensor, layout) not in self.copies:
            self.found.append(_reorder(self.graph, tensor, layout))
            self.copies.add((tensor, layout))

    def turn(self, p: Placed) -> bool:
        """A transpose that a reorder does by the way."""
        source, out, swap = p.part.inputs[:1], p.part.output, _nhwc(p.part)
        if swap == "out" and self.is_blocked(source[0]) and (source[0], PLAIN) not in self.copies:
            copy, made = "reorder_out", PLAIN
        elif (
            swap == "in"
            and out not in self.graph.outputs
            and all(_wants_blocks(self.graph, t) for t in self.takers.get(out, [p]))
        ):
            copy, made = "reorder_in", BLOCKED
        else:
            return False
        channels_first = self.graph.shape(source[0] if swap == "out" else out)
        self.found.append(replace(p, op=Copy(**as_map(channels_first), copy=copy)))
        self.native[out] = made
        return True

    def place(self, p: Placed) -> None:
        """Put one part, after the reorders it needs."""
        op, part, graph = p.op, p.part, self.graph
        if self.turn(p):
            return
        blocks, scale = _blocked(graph, p), isinstance(op, BatchNorm) or scales(graph, part)
        follows = _follows(graph, p) and all(map(self.is_blocked, part.inputs))
        # A residual that is not in blocks is added by a kernel of its own; a scale elsewhere takes nothing along.
        if part.apart and ((blocks and not self.is_blocked(part.inputs[-1])) or (scale and not follows)):
            for piece in part.apart:
                self.place(Placed(piece, op_of(graph, piece)))
            return
        made = PLAIN
        if blocks:
            self.need(part.inputs[0], BLOCKED if _wants_blocks(graph, p) else PLAIN)
            made = BLOCKED
        elif isinstance(op, Pooling) and op.in_channels % LANES == 0 and len(graph.shape(part.output)) == 4:
            self.need(part.inputs[0], BLOCKED)
            made = BLOCKED
        elif follows:
            made = BLOCKED
            if scale:  # runs as a depthwise convolution of 1 x 1
                act = act_name(graph, part.act)
                p = replace(p, op=Depthwise(**as_map(graph.shape(part.output)), kernel=1, act=act, add=int(part.adds)))
            elif isinstance(op, Resize):
                p = replace(p, op=replace(op, blocked=1))
        else:
            for t in part.inputs:
                self.need(t, PLAIN)
        self.found += [p] if made == BLOCKED else _apart(p)
        for t in part.outputs:
            self.native[t] = made


def reordered(graph: Graph, placed: list[Placed]) -> list[Placed]:
    """`placed` with the reorders that the blocked layout needs, and with transposes that a reorder does by the way."""
    layouts = _Layouts(graph, placed)
    for p in placed:
        layouts.place(p)
    for t in graph.outputs:
        layouts.need(t, PLAIN)
    return layouts.found


def _reorder(graph: Graph, tensor: str, layout: str) -> Placed:
    copy = "reorder_in" if layout == BLOCKED else "reorder_out"
    node = Node(f"{tensor}/{copy}", "Reorder", (tensor,), (f"{tensor}/{layout}",), {})
    part = Part("Reorder", node.name, (tensor,), node.outputs, node, ())
    return Placed(part, Copy(**as_map(graph.shape(tensor)), copy=copy))


def _apart(p: Placed) -> list[Placed]:
    """What runs as one kernel in blocks alone: anything with h-swish."""
    op = p.op
    if op is None or getattr(op, "act", "none") != "hswish":
        return [p]
    shape = as_map(op.output_shape)
    found = [] if isinstance(op, Activation) else [replace(p, op=replace(op, act="none"))]  # type: ignore[call-arg]
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
        case BatchNorm():
            return True
        case Elementwise() if scales(graph, p.part):
            return True
        case Elementwise():
            same = all(graph.shape(t) == shape for t in p.part.inputs)
            return op.fn in ("add", "mul") and len(p.part.inputs) == 2 and same
        case Join():
            return p.part.node.attrs.get("axis") in (1, -3) and all(
                graph.shape(t)[1] % LANES == 0 for t in p.part.inputs
            )
        case Resize():
            return op.resize in ("nearest", "linear") and op.out_height % op.height == op.out_width % op.width == 0
        case GlobalPool():
            return op.in_channels % LANES == 0
    return False


def _nhwc(part: Part) -> str:
    """ "out" for a transpose of NCHW to NHWC, "in" for one back, "" for anything else."""
    perm = list(part.node.attrs.get("perm", ())) if part.op_type == "Transpose" else []
    return {(0, 2, 3, 1): "out", (0, 3, 1, 2): "in"}.get(tuple(perm), "")
