"""An ONNX model -> the kernels that a runtime runs for it, each with the op that the predictor knows it by.

read_onnx (onnx_file.py)     the graph without weights: shapes, constants folded
fuse (fusions.py)            nodes that run as one kernel
op_of (onnx_ops.py)          the op of each
reordered (onnx_layout.py)   what a blocked layout adds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latency.flops import macs
from latency.fusions import fuse
from latency.kernel_context import in_network, network_kib
from latency.kernels import View
from latency.onnx_check import OnnxError
from latency.onnx_file import Graph, Node, read_onnx
from latency.onnx_layout import Placed, reordered
from latency.onnx_ops import NotCovered, op_of
from latency.onnx_parts import Part, Rules, rules_for
from latency.op_base import Op


@dataclass(frozen=True)
class KernelNode:
    """One kernel of a network. `op` is None where the vocabulary has none; `why` then says why."""

    name: str
    op_type: str  # of ONNX, of the node that decides
    op: Op | None
    nodes: tuple[str, ...]  # names of the ONNX nodes that run as this one kernel; none for a reorder
    why: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 where there is no op."""
        return macs(self.op) if self.op else 0


def kernels_of(
    source: Path | bytes, rules: Rules | None = None, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[KernelNode, ...]:
    """The kernels of a model in a file or in memory, in running order. `rules`: those of onnxruntime.

    Raises OnnxError where the model cannot be read; a node that the vocabulary lacks is a KernelNode without op.
    """
    return _kernels(read_onnx(source, input_shapes), rules or rules_for("onnxruntime"))


def _kernels(graph: Graph, rules: Rules) -> tuple[KernelNode, ...]:
    placed: list[Placed] = []
    for part in fuse(graph, rules):
        try:
            placed.append(Placed(part, op_of(graph, part)))
        except NotCovered as why:
            placed.append(Placed(part, None, str(why)))
    if rules.views:
        placed = _with_views(graph, placed)
    if rules.blocked:
        placed = reordered(graph, placed)
    if not rules.views:
        placed = [p for p in placed if not isinstance(p.op, View)]
    if not placed:
        raise OnnxError("an empty model: nothing in it computes at run time")
    kib = network_kib([p.op for p in placed if p.op]) if rules.profiled else 0
    return tuple(
        KernelNode(p.part.name, p.part.op_type, p.op and in_network(p.op, kib), p.part.members, p.why) for p in placed
    )


def _with_views(graph: Graph, placed: list[Placed]) -> list[Placed]:
    """A product of more than two dimensions with a bias runs flat: a view before and one after, where none is there."""
    makers = {p.part.output: p for p in placed}
    takers: dict[str, list[Part]] = {}
    for p in placed:
        for t in p.part.inputs:
            takers.setdefault(t, []).append(p.part)
    found: list[Placed] = []
    for p in placed:
        if p.part.more.get("matmul") != "Biased" or len(graph.shape(p.part.output)) < 3:
            found.append(p)
            continue
        before, after = makers.get(p.part.inputs[0]), takers.get(p.part.output, [])
        if before is None or before.part.op_type != "Reshape":
            found.append(_view(graph, p.part.inputs[0], "flat"))
        found.append(p)
        if [a.op_type for a in after] != ["Reshape"]:
            found.append(_view(graph, p.part.output, "back"))
    return found


def _view(graph: Graph, tensor: str, what: str) -> Placed:
    graph.shapes[f"{tensor}/{what}"] = graph.shape(tensor)
    node = Node(f"{tensor}/{what}", "Reshape", (), (f"{tensor}/{what}",), {})
    return Placed(Part("Reshape", node.name, (), node.outputs, node, ()), View())
