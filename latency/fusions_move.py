"""Moving data less: transposes that cancel or go past an addition, slices that are one split."""

from __future__ import annotations

from dataclasses import replace

from latency.onnx_parts import Part, Parts, drop_unused, joined, renamed, size


def transposes(parts: Parts) -> None:
    """f(transpose(a), transpose(b)) = transpose(f(a, b)); a transpose of a transpose is one, or none."""
    changed = True
    while changed:
        changed = False
        for i, part in parts.walk():
            sources = [parts.made_by(t, "Transpose") for t in part.inputs]
            if part.op_type == "Transpose" and sources[0]:
                changed = _joins(parts, i, sources[0])
            elif part.op_type == "Split" and sources[0]:
                changed = _split_first(parts, i, sources[0])
            elif part.op_type in ("Add", "Mul") and len(part.inputs) == 2 and all(sources):
                changed = _sinks(parts, i, [s for s in sources if s])
            if changed:
                break


def _split_first(parts: Parts, i: int, before: tuple[int, Part]) -> bool:
    """split(transpose(x)) along the first axis = transposes of what split(x) gives: the attention's q, k, v."""
    part, perm = parts.kept[i], list(before[1].node.attrs.get("perm", ()))
    if part.node.attrs.get("axis", 0) != 0 or not perm or perm[0] == 0 or not parts.only_taker(part.inputs[0]):
        return False
    graph, source = parts.graph, before[1].inputs[0]
    inner = tuple(f"{o}/before" for o in part.outputs)
    for o, n in zip(part.outputs, inner, strict=True):
        shape = graph.shape(o)
        graph.shapes[n] = tuple(shape[perm.index(k)] for k in range(len(perm)))
    node = replace(part.node, inputs=(source, *part.node.inputs[1:]), outputs=inner, attrs={"axis": perm[0]})
    turned = [
        Part("Transpose", f"{o}/transpose", (n,), (o,), replace(before[1].node, inputs=(n,), outputs=(o,)), ())
        for o, n in zip(part.outputs, inner, strict=True)
    ]
    made = replace(part, inputs=(source,), outputs=inner, node=node, members=(*before[1].members, *part.members))
    later = {k + len(turned): p for k, p in parts.kept.items() if k > i}
    parts.kept = {k: p for k, p in parts.kept.items() if k < i and k != before[0]}
    parts.kept |= {i + k: p for k, p in enumerate([made, *turned])} | later
    parts.index()
    return True


def _sinks(parts: Parts, i: int, sources: list[tuple[int, Part]]) -> bool:
    perms = [s.node.attrs.get("perm") for _, s in sources]
    part = parts.kept[i]
    if perms[0] is None or perms[0] != perms[1] or sources[0][0] == sources[1][0] or not _pays(parts, part.output):
        return False
    graph, inner = parts.graph, f"{part.output}/before"
    inputs = tuple(s.inputs[0] for _, s in sources)
    graph.shapes[inner] = graph.shape(inputs[0])
    node = replace(part.node, inputs=inputs, outputs=(inner,))
    parts.kept[i] = replace(part, inputs=inputs, outputs=(inner,), node=node)
    turned = replace(sources[0][1].node, inputs=(inner,), outputs=part.outputs)
    made = Part("Transpose", f"{part.name}/transpose", (inner,), part.outputs, turned, ())
    parts.insert(i + 1, made)
    drop_unused(parts, [s.output for _, s in sources])
    return True


def _pays(parts: Parts, tensor: str) -> bool:
    """Whether a transpose of `tensor` would meet another one, at once or past further additions."""
    for i in parts.takers.get(tensor, []):
        taker = parts.kept[i]
        if taker.op_type == "Transpose":
            return True
        others = [t for t in taker.inputs if t != tensor]
        turned = bool(others) and all(parts.made_by(t, "Transpose") for t in others)
        if taker.op_type in ("Add", "Mul") and turned and _pays(parts, taker.output):
            return True
    return False


def _joins(parts: Parts, i: int, before: tuple[int, Part]) -> bool:
    first, second = before[1].node.attrs.get("perm"), parts.kept[i].node.attrs.get("perm")
    if first is None or second is None:
        return False
    perm = [first[k] for k in second]
    part, source = parts.kept[i], before[1].inputs[0]
    if perm == sorted(perm) and part.output not in parts.graph.outputs:
        del parts.kept[i]
        for k, p in parts.kept.items():
            if part.output in p.inputs:
                parts.kept[k] = renamed(p, part.output, source)
    else:
        node = replace(part.node, inputs=(source,), attrs={**part.node.attrs, "perm": perm})
        parts.kept[i] = replace(part, inputs=(source,), node=node)
    parts.index()
    drop_unused(parts, [before[1].output])
    return True


def gathers(parts: Parts) -> None:
    """Gathers that take a tensor apart along one axis, each a single place of it, are one split and reshapes."""
    while _split_of_gathers(parts):
        pass


def _split_of_gathers(parts: Parts) -> bool:
    graph = parts.graph
    by_input: dict[tuple[str, int], dict[int, int]] = {}
    for i, part in parts.walk():
        if part.op_type == "Gather" and len(part.inputs) == 1 and part.node.inputs[0] == part.inputs[0]:
            at, shape = graph.values.get(part.node.inputs[1]), graph.shape(part.inputs[0])
            axis = int(part.node.attrs.get("axis", 0)) % len(shape)
            if at is not None and at.size == 1 and at.ndim <= 1:
                by_input.setdefault((part.inputs[0], axis), {})[int(at.reshape(-1)[0]) % shape[axis]] = i
    for (tensor, axis), places in by_input.items():
        shape = graph.shape(tensor)
        if 1 < len(places) == shape[axis]:
            _share_out(parts, tensor, axis, [places[k] for k in sorted(places)])
            return True
    return False


def _share_out(parts: Parts, tensor: str, axis: int, places: list[int]) -> None:
    shape, found = parts.graph.shape(tensor), [parts.kept[i] for i in places]
    flat = [parts.graph.values[p.node.inputs[1]].ndim == 0 for p in found]  # the others keep the axis
    pieces = tuple(f"{p.output}/piece" if gone else p.output for p, gone in zip(found, flat, strict=True))
    parts.graph.shapes.update(dict.fromkeys(pieces, (*shape[:axis], 1, *shape[axis + 1 :])))
    node = replace(found[0].node, op_type="Split", inputs=(tensor,), outputs=pieces, attrs={"axis": axis})
    made = Part("Split", found[0].name, (tensor,), pieces, node, tuple(m for p in found for m in p.members))
    for i, p, piece, gone in zip(places, found, pieces, flat, strict=True):
        if not gone:
            del parts.kept[i]
            continue
        view = replace(p.node, op_type="Squeeze", inputs=(piece,))
        parts.kept[i] = Part("Squeeze", f"{p.name}/squeeze", (piece,), p.outputs, view, ())
    parts.insert(min(places), made)


def splits(parts: Parts) -> None:
    """Slices that share out one tensor are one split."""
    by_input: dict[str, list[int]] = {}
    for i, part in parts.walk():
        if part.op_type == "Slice":
            by_input.setdefault(part.inputs[0], []).append(i)
    graph = parts.graph
    for tensor, places in by_input.items():
        sizes = [size(graph.shape(parts.kept[i].output)) for i in places]
        if len(places) > 1 and sum(sizes) == size(graph.shape(tensor)):
            found = [(i, parts.kept[i]) for i in places]
            made = replace(joined(found, "Split", (tensor,)), outputs=tuple(p.output for _, p in found))
            parts.merge(places, made, places[0])
