"""What runtimes fuse before they run: patterns of ONNX nodes that become one kernel.

Each pass takes parts and gives parts (latency/onnx_parts.py); `fuse` runs them in the order in which runtimes do.
Convolutions and what goes with them: latency/fusions_conv.py; transposes: latency/fusions_move.py.
"""

from __future__ import annotations

from dataclasses import replace

from latency.fusions_conv import convolutions
from latency.fusions_move import gathers, splits, transposes
from latency.onnx_file import Graph
from latency.onnx_parts import ALIASES, Part, Parts, Rules, chain, joined


def fuse(graph: Graph, rules: Rules) -> list[Part]:
    """The kernels of `graph` under `rules`, in running order, still without their ops."""
    parts = Parts(graph, _start(graph))
    _activations(parts)
    _norms(parts)
    _linear(parts, rules)
    _scales(parts)
    if rules.blocked:
        gathers(parts)
    transposes(parts)
    splits(parts)
    convolutions(parts, rules)
    if rules.skip_norm:
        _skip_norms(parts)
    return [parts.kept[i] for i in sorted(parts.kept)]


def _start(graph: Graph) -> list[Part]:
    """One part a node, nodes that only pass on left out."""
    alias: dict[str, str] = {}
    made = []
    for n in graph.nodes:
        inputs = tuple(alias.get(i, i) for i in n.inputs if i and i not in graph.constants)
        if n.op_type in ALIASES and inputs and n.outputs[0] not in graph.outputs:
            alias[n.outputs[0]] = inputs[0]
            continue
        node = replace(n, inputs=tuple(alias.get(i, i) for i in n.inputs))
        made.append(Part(n.op_type, n.name, inputs, n.outputs, node, (n.name,)))
    return made


def _activations(parts: Parts) -> None:
    """x sigmoid(x) and x / 2 (1 + erf(x / sqrt 2)), spelled out by exporters."""
    for i, part in parts.walk():
        if part.op_type == "Sigmoid":
            after = parts.only_taker(part.output)
            if after is not None and after[1].op_type == "Mul" and part.inputs[0] in after[1].inputs:
                parts.merge([i, after[0]], joined([(i, part), after], "Silu", part.inputs), after[0])
        elif part.op_type == "Erf":
            _gelu(parts, i)


def _gelu(parts: Parts, erf: int) -> None:
    before = parts.made_by(parts.kept[erf].inputs[0], "Div", "Mul")
    after_erf = chain(parts, erf, ("Add",), ("Mul",))
    if before is None or after_erf is None or len(before[1].inputs) != 1:
        return
    x = before[1].inputs[0]
    last = after_erf[-1][1]
    other = [t for t in last.inputs if t != after_erf[-2][1].output]
    found = [before, *after_erf]
    if other == [x]:  # (x (1 + erf)) / 2
        after = parts.only_taker(last.output)
        if after is None or after[1].op_type not in ("Mul", "Div") or len(after[1].inputs) != 1:
            return
        found.append(after)
    elif not other or not (half := parts.made_by(other[0], "Mul", "Div")) or half[1].inputs != (x,):
        return
    else:  # (x / 2) (1 + erf)
        found.insert(0, half)
    parts.merge([i for i, _ in found], joined(found, "Gelu", (x,)), found[-1][0])


def _norms(parts: Parts) -> None:
    """Layer norm spelled out, as exporters do before opset 17: (x - mean) / sqrt(mean((x - mean)^2) + eps) w + b."""
    for i, part in list(parts.walk()):
        if part.op_type != "ReduceMean" or i not in parts.kept:
            continue
        after = [parts.kept[t] for t in parts.takers.get(part.output, [])]
        if len(after) != 1 or after[0].op_type != "Sub" or set(after[0].inputs) != {part.inputs[0], part.output}:
            continue
        sub = parts.takers[part.output][0]
        squares = [t for t in parts.takers.get(after[0].output, []) if parts.kept[t].op_type in ("Pow", "Mul")]
        tail = chain(parts, squares[0], ("ReduceMean",), ("Add",), ("Sqrt",), ("Div",)) if squares else None
        if tail is None or after[0].output not in tail[-1][1].inputs:
            continue
        found = [(i, part), (sub, after[0]), *tail]
        for wanted in ("Mul", "Add"):
            more = parts.only_taker(found[-1][1].output)
            if more is not None and more[1].op_type == wanted and len(more[1].inputs) == 1:
                found.append(more)
        made = replace(
            joined(found, "LayerNormalization", part.inputs[:1]), more={"axes": reduced_axes(parts.graph, part)}
        )
        parts.merge([k for k, _ in found], made, found[-1][0])


def reduced_axes(graph: Graph, part: Part) -> tuple[int, ...]:
    """The axes that a reduction takes away, counted from 0."""
    rank = len(graph.shape(part.node.inputs[0]))
    axes = part.node.attrs.get("axes")
    if axes is None and len(part.node.inputs) > 1 and part.node.inputs[1] in graph.values:
        axes = graph.values[part.node.inputs[1]].reshape(-1).tolist()
    return tuple(sorted(int(a) % rank for a in axes)) if axes is not None else tuple(range(rank))


_GEMM_ACTS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")


def _linear(parts: Parts, rules: Rules) -> None:
    """A product with a constant matrix takes the addition of a constant along, and an activation where it is a Gemm."""
    for i, part in list(parts.walk()):
        if part.op_type == "Gemm":
            if rules.gemm_act:
                _activated(parts, i)
            continue
        if part.op_type != "MatMul" or len(part.inputs) != 1 or len(parts.graph.shape(part.node.inputs[1])) != 2:
            continue
        if part.node.inputs[1] not in parts.graph.constants:
            continue
        found, made = [(i, part)], "MatMul"
        after = parts.only_taker(part.output)
        flat = len(parts.graph.shape(part.output)) == 2
        if flat and after is not None and after[1].op_type == "BatchNormalization" and rules.constant_second:
            product = replace(joined([*found, after], "Gemm", part.inputs), more={"matmul": made})
            parts.merge([i, after[0]], product, after[0])
            _activated(parts, after[0])
            continue
        if after is not None and after[1].op_type == "Add" and len(after[1].inputs) == 1:
            bias = parts.constants(after[1])[0]
            if len([s for s in parts.graph.shape(bias) if s > 1]) <= 1:
                found, made = [*found, after], "Biased"
        product = replace(joined(found, "Gemm", part.inputs), more={"matmul": made})
        parts.merge([k for k, _ in found], product, found[-1][0])


def _activated(parts: Parts, i: int) -> None:
    after = parts.only_taker(parts.kept[i].output)
    if after is not None and after[1].op_type in _GEMM_ACTS:
        parts.extend(i, after, act=after[1].node)


def _scales(parts: Parts) -> None:
    """A product of two computed matrices takes a constant factor along, before or after it."""
    for i, part in list(parts.walk()):
        if part.op_type != "MatMul" or len(part.inputs) != 2:
            continue
        part = parts.kept[i]
        for place, tensor in enumerate(part.inputs):
            before = parts.made_by(tensor, "Mul", "Div")
            if before and _is_scalar(parts, before[1]) and parts.only_taker(tensor):
                inputs = tuple(before[1].inputs[0] if k == place else t for k, t in enumerate(part.inputs))
                part = replace(part, inputs=inputs, members=(*before[1].members, *part.members))
                parts.merge([before[0], i], part, i)
            swapped = parts.made_by(part.inputs[place], "Transpose")
            if swapped and parts.only_taker(part.inputs[place]) and _swaps_last(swapped[1]):
                inputs = tuple(swapped[1].inputs[0] if k == place else t for k, t in enumerate(part.inputs))
                part = replace(part, inputs=inputs, members=(*swapped[1].members, *part.members))
                parts.merge([swapped[0], i], part, i)
        after = parts.only_taker(part.output)
        if after and after[1].op_type in ("Mul", "Div") and _is_scalar(parts, after[1]):
            made = replace(part, outputs=after[1].outputs, members=(*part.members, *after[1].members))
            parts.merge([i, after[0]], made, after[0])


def _is_scalar(parts: Parts, part: Part) -> bool:
    return len(part.inputs) == 1 and all(parts.graph.scalar(c) is not None for c in parts.constants(part))


def _swaps_last(part: Part) -> bool:
    perm = list(part.node.attrs.get("perm", ()))
    rank = len(perm)
    return rank >= 2 and perm == [*range(rank - 2), rank - 1, rank - 2]


def _skip_norms(parts: Parts) -> None:
    """Layer norm takes along the addition before it, where nothing else needs the sum."""
    for i, part in list(parts.walk()):
        before = parts.made_by(part.inputs[0], "Add") if part.op_type == "LayerNormalization" and part.inputs else None
        if before is None or len(before[1].inputs) != 2 or not parts.only_taker(part.inputs[0]):
            continue
        shapes = [parts.graph.shape(t) for t in before[1].inputs]
        if shapes[0] == shapes[1] and len(shapes[0]) == 3:
            made = replace(part, inputs=before[1].inputs, adds=True, members=(*before[1].members, *part.members))
            parts.merge([before[0], i], made, i)
