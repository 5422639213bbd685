"""Parts: nodes of an ONNX graph on their way to kernels, and what a runtime's fusions are, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from latency.onnx_file import Graph, Node

CONVS = ("Conv", "ConvTranspose")
ALIASES = ("Identity", "Dropout")
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Rules:
    """What one runtime does to a graph."""

    name: str
    conv_acts: frozenset[str]  # activations (ONNX ops) that a convolution carries along
    constant_second: bool  # and constants to multiply by or to add, but only as onnxruntime looks for them: second
    conv_add: bool  # a convolution adds a residual in the same kernel
    blocked: bool  # convolutions run in a layout of their own, and data is brought into it
    views: bool  # a reshape starts a kernel, although it moves nothing
    gemm_act: bool  # a fully connected layer carries its activation along
    skip_norm: bool  # layer norm takes the addition before it along
    profiled: bool  # it times kernels inside their network, so that each says what that reads


RULES = {
    "onnxruntime": Rules(
        "onnxruntime",
        frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "LeakyRelu", "HardSwish"}),
        constant_second=True,
        conv_add=True,
        blocked=True,
        views=True,
        gemm_act=True,
        skip_norm=True,
        profiled=True,
    ),
    "other": Rules(
        "other",
        frozenset({"Relu", "Clip"}),
        constant_second=False,
        conv_add=False,
        blocked=False,
        views=False,
        gemm_act=True,
        skip_norm=False,
        profiled=False,
    ),
}


def rules_for(runtime: str) -> Rules:
    """The rules of a device's fingerprint `runtime`, for example "onnxruntime 1.27.0"."""
    return RULES["onnxruntime" if runtime.startswith("onnxruntime") else "other"]


@dataclass(frozen=True)
class Part:
    """A kernel in the making. `inputs` are the tensors computed at run time, constants left out."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    node: Node  # the one that decides: the convolution of a convolution with its activation
    members: tuple[str, ...]  # names of all nodes in it
    act: Node | None = None
    adds: bool = False
    apart: tuple[Part, ...] = ()  # what it is where the residual cannot be taken along after all
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]


class Parts:
    """Parts in running order, with who makes and who takes each tensor. Passes replace parts in place."""

    def __init__(self, graph: Graph, parts: list[Part]) -> None:
        self.graph = graph
        self.kept: dict[int, Part] = dict(enumerate(parts))
        self.index()

    def index(self) -> None:
        """Rebuild the look-ups from the parts kept."""
        self.maker: dict[str, int] = {o: i for i, p in self.kept.items() for o in p.outputs if o}
        self.takers: dict[str, list[int]] = {}
        for i, p in self.kept.items():
            for t in p.inputs:
                self.takers.setdefault(t, []).append(i)

    def walk(self) -> Iterator[tuple[int, Part]]:
        """The parts, as they are at each step."""
        for i in sorted(self.kept):
            if i in self.kept:
                yield i, self.kept[i]

    def only_taker(self, tensor: str) -> tuple[int, Part] | None:
        """The one part that takes `tensor`, where there is one and it is no output of the graph."""
        takers = self.takers.get(tensor, [])
        if len(takers) != 1 or tensor in self.graph.outputs:
            return None
        return takers[0], self.kept[takers[0]]

    def made_by(self, tensor: str, *op_types: str) -> tuple[int, Part] | None:
        """The part that makes `tensor`, where it is one of `op_types`."""
        i = self.maker.get(tensor)
        return (i, self.kept[i]) if i is not None and self.kept[i].op_type in op_types else None

    def merge(self, indices: list[int], made: Part, at: int) -> None:
        """Replace the parts `indices` by `made`, which runs at place `at`."""
        for i in indices:
            del self.kept[i]
        self.kept[at] = made
        self.index()

    def extend(self, i: int, after: tuple[int, Part], **changes: Any) -> int:
        """Part `i` takes the part `after` it along; it runs where the later of its inputs is ready: returns where."""
        part = self.kept[i]
        made = replace(part, outputs=after[1].outputs, members=(*part.members, *after[1].members), **changes)
        self.merge([i, after[0]], made, after[0])
        return after[0]

    def insert(self, at: int, made: Part) -> None:
        """Put `made` before the part that runs at place `at`."""
        self.kept = {k if k < at else k + 1: p for k, p in self.kept.items()} | {at: made}
        self.index()

    def constants(self, part: Part) -> list[str]:
        """The constant inputs of the part's node."""
        return [i for i in part.node.inputs if i and i in self.graph.constants]


def chain(parts: Parts, start: int, *op_types: tuple[str, ...]) -> list[tuple[int, Part]] | None:
    """The parts that follow one another from `start`, each the only taker of the one before."""
    found = [(start, parts.kept[start])]
    for wanted in op_types:
        after = parts.only_taker(found[-1][1].output)
        if after is None or after[1].op_type not in wanted:
            return None
        found.append(after)
    return found


def joined(found: list[tuple[int, Part]], op_type: str, inputs: tuple[str, ...], **more: Any) -> Part:
    """The parts `found` as one, which runs last."""
    last = found[-1][1]
    members = tuple(m for _, p in found for m in p.members)
    return Part(op_type, last.name, inputs, last.outputs, found[0][1].node, members, more=more)


def renamed(part: Part, old: str, new: str) -> Part:
    """`part` reading the tensor `new` where it read `old`."""
    node = replace(part.node, inputs=tuple(new if t == old else t for t in part.node.inputs))
    return replace(part, inputs=tuple(new if t == old else t for t in part.inputs), node=node)


def drop_unused(parts: Parts, tensors: list[str]) -> None:
    """Remove what makes `tensors`, where nothing takes them."""
    for t in tensors:
        if t in parts.maker and not parts.takers.get(t) and t not in parts.graph.outputs:
            del parts.kept[parts.maker[t]]
            parts.index()


def size(shape: tuple[int, ...]) -> int:
    """Elements of a tensor."""
    size = 1
    for s in shape:
        size *= s
    return size
