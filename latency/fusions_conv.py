"""What a convolution takes along: padding before it; batch norm, constants, a residual, an activation after it."""

from __future__ import annotations

from dataclasses import replace

from latency.onnx_file import Graph
from latency.onnx_parts import CONVS, Part, Parts, Rules, size


def convolutions(parts: Parts, rules: Rules) -> None:
    """Padding before, and batch norm, constant factor and bias, residual and activation after a convolution."""
    for i, part in list(parts.walk()):
        if i not in parts.kept or parts.kept[i].op_type != part.op_type:  # taken along by another
            continue
        if part.op_type in CONVS:
            _pad_before(parts, i, rules)
            place = _affine(parts, i, rules)
            place = _activation(parts, place, rules)
            if part.op_type == "Conv" and rules.conv_add and parts.kept[place].act is None:
                place = _residual(parts, place)
        elif part.op_type == "BatchNormalization" or (rules.blocked and scales(parts.graph, part)):
            _scale(parts, i, rules)


def _pad_before(parts: Parts, i: int, rules: Rules) -> None:
    part = parts.kept[i]
    before = parts.made_by(part.inputs[0], "Pad")
    if before is None or part.op_type != "Conv" or not parts.only_taker(part.inputs[0]):
        return
    more = before[1].node.inputs[2:3]
    value = parts.graph.scalar(more[0]) if more else None
    if more == ("",) and rules.constant_second:  # a value left empty, as torch's pad writes it, is none it can read
        return
    if before[1].node.attrs.get("mode", "constant") != "constant" or value not in (None, 0.0):
        return
    graph = parts.graph
    if len(graph.shape(part.output)) != 4:  # over one axis or three the runtimes keep it
        return
    if graph.shape(before[1].inputs[0])[:2] != graph.shape(part.inputs[0])[:2]:  # channels of zeros: a kernel
        return
    node = replace(part.node, inputs=(before[1].inputs[0], *part.node.inputs[1:]))
    made = replace(part, inputs=(before[1].inputs[0], *part.inputs[1:]), node=node,
                   members=(*before[1].members, *part.members))  # fmt: skip
    parts.merge([before[0], i], made, i)


def scales(graph: Graph, part: Part) -> bool:
    """Whether it multiplies each channel of a map by a constant: in blocks a convolution of 1 x 1, as batch norm is."""
    if part.op_type != "Mul" or len(part.inputs) != 1 + part.adds:
        return False
    shape = graph.shape(part.output)
    constants = [graph.shape(c) for c in part.node.inputs if c in graph.constants]
    if len(shape) != 4 or graph.shape(part.inputs[0]) != shape:
        return False
    return all(size(c) == shape[1] > 1 and _on_channels(c, shape) for c in constants)


def _scale(parts: Parts, i: int, rules: Rules) -> None:
    """An activation, or a residual with the activation after it, that a scale takes along where it runs in blocks."""
    part = parts.kept[i]
    found = parts.only_taker(part.output)
    takes = found is not None and found[1].op_type in _IN_BLOCKS
    place = _activation(parts, i, rules) if takes or not rules.blocked else i
    after = parts.kept[place]
    if after.act is not None:
        act, members = after.act, after.members[len(part.members) :]
        last = Part(act.op_type, act.name, part.outputs, after.outputs, act, members)
        parts.kept[place] = replace(after, apart=(part, last))
    elif rules.conv_add and rules.blocked:
        _residual(parts, place)


def _affine(parts: Parts, i: int, rules: Rules) -> int:
    while True:
        after = parts.only_taker(parts.kept[i].output)
        if after is None or len(after[1].inputs) != 1:
            return i
        if after[1].op_type == "BatchNormalization" or _joins(parts, parts.kept[i], after[1], rules):
            i = parts.extend(i, after)
        else:
            return i


def _joins(parts: Parts, conv: Part, part: Part, rules: Rules) -> bool:
    """Whether the convolution takes up the constant that `part` multiplies by or adds."""
    graph, shape = parts.graph, parts.graph.shape(conv.output)
    if part.op_type not in ("Mul", "Add"):
        return False
    constants = [graph.shape(c) for c in parts.constants(part)]
    if not all(size(c) in (1, shape[1]) and _on_channels(c, shape) for c in constants):
        return False
    if not rules.constant_second:
        return True
    number = part.op_type == "Mul" and constants == [()]
    second = part.node.inputs[0] == part.inputs[0] and conv.op_type == "Conv"
    return second and (number or all(size(c) == shape[1] > 1 for c in constants))


def _on_channels(constant: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a constant of one number, or of one a channel, spreads over maps of `shape` so."""
    axis = len(shape) - 1  # of channels, counted from the end
    return size(constant) == 1 or (len(constant) >= axis and constant[-axis] == shape[1])


def _activation(parts: Parts, i: int, rules: Rules) -> int:
    after = parts.only_taker(parts.kept[i].output)
    if after is None or after[1].op_type not in rules.conv_acts or parts.kept[i].op_type == "ConvTranspose":
        return i
    return parts.extend(i, after, act=after[1].node)


#: Activations that onnxruntime's blocked layout takes up after a residual or a scale.
_IN_BLOCKS = ("Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")


def _residual(parts: Parts, i: int) -> int:
    """Conv + add: the first convolution over two axes that nothing else reads takes it."""
    part = parts.kept[i]
    if len(parts.graph.shape(part.output)) != 4:
        return i
    after = parts.only_taker(part.output)
    if after is None or after[1].op_type != "Add" or len(after[1].inputs) != 2:
        return i
    other = next((t for t in after[1].inputs if t != part.output), None)
    if other is None or parts.graph.shape(other) != parts.graph.shape(part.output):
        return i
    apart = [part, after[1]]
    place = parts.extend(i, after, adds=True, inputs=(*part.inputs, other))
    last = parts.only_taker(parts.kept[place].output)
    if last is not None and last[1].op_type in _IN_BLOCKS:
        place = parts.extend(place, last, act=last[1].node)
        apart.append(last[1])
    parts.kept[place] = replace(parts.kept[place], apart=tuple(apart))
    return place
