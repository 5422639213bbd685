"""What makes an ONNX model invalid: its opset, unknown ops, inputs that nothing makes, shapes that do not fit.

Runtimes refuse such models; a prediction for one would be a number for a network that cannot run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from devices.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from latency.onnx_file import Node

OLDEST_OPSET = 7
ONNX_DOMAINS = ("", "ai.onnx")
BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min")
CONVS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "ConvTranspose": (0, 1)}  # input, weights
PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1)}

Shape = tuple[int, ...]


class OnnxError(UserError):
    """A file that is no ONNX model, or one that cannot be read without more being said."""


def check_opset(model: Any, name: str) -> None:
    """Raises OnnxError, naming the file `name`, for an opset that is not known here."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [o.version for o in model.opset_import if o.domain in ONNX_DOMAINS]
    if not versions:
        found = ", ".join(o.domain for o in model.opset_import) or "none"
        raise OnnxError(f"{name}: no opset of the ONNX domain is imported (found: {found}); export it with torch.onnx")
    if max(versions) > newest:
        raise OnnxError(f"{name}: opset {max(versions)} is newer than the installed onnx knows ({newest}): "
                        "update onnx, or export with an older opset_version")  # fmt: skip
    if max(versions) < OLDEST_OPSET:
        raise OnnxError(f"{name}: opset {max(versions)} is older than {OLDEST_OPSET}: "
                        "bring it up to date with onnx.version_converter")  # fmt: skip


def check_ops(model: Any, name: str) -> None:
    """Raises OnnxError for an op that ONNX has not, or of another domain."""
    import onnx

    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain in ONNX_DOMAINS}
    for node in model.graph.node:
        if node.domain not in ONNX_DOMAINS:
            raise OnnxError(f"{name}: node '{node_name(node)}' is {node.domain}.{node.op_type}: only ops of the ONNX "
                            "domain are known; export the model anew, before a runtime optimises it")  # fmt: skip
        if node.op_type not in known:
            hint = did_you_mean(node.op_type, known) or "export the model anew: "
            raise OnnxError(f"{name}: unknown op: {hint}node '{node_name(node)}' is '{node.op_type}', "
                            "which ONNX has not")  # fmt: skip


def node_name(node: Any) -> str:
    """The name of a node; one without is called by its first output, or its op."""
    return str(node.name or (node.output[0] if node.output else node.op_type))


def check_names(graph: Any, name: str, outer: frozenset[str] = frozenset()) -> None:
    """Raises OnnxError where a node, or an output of the graph, uses a tensor that nothing before it makes.

    Made are inputs of the graph, initializers, outputs of earlier nodes and, inside a subgraph, the names `outer`.
    """
    made = {*outer, *(i.name for i in graph.input), *(i.name for i in graph.initializer)}
    made |= {i.values.name for i in graph.sparse_initializer}
    for place, node in enumerate(graph.node):
        for wanted in node.input:
            if wanted and wanted not in made:
                later = next((node_name(n) for n in graph.node[place:] if wanted in n.output), None)
                why = f"only node '{later}' makes, which does not come before it" if later else "nothing makes"
                hint = did_you_mean(wanted, made) if not later else ""
                raise OnnxError(f"{name}: node '{node_name(node)}' ({node.op_type}) takes '{wanted}', which {why}: "
                                f"{hint}the model is damaged, export it again")  # fmt: skip
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                check_names(inner, name, frozenset(made))
        made.update(o for o in node.output if o)
    for output in graph.output:
        if output.name not in made:
            raise OnnxError(f"{name}: its output '{output.name}' is made by no node: "
                            f"{did_you_mean(output.name, made)}the model is damaged, export it again")  # fmt: skip


def check_shapes(nodes: Iterable[Node], shapes: Mapping[str, Shape], name: str) -> None:
    """Raises OnnxError where the operands of a node do not fit each other. What has no known shape is left alone."""
    for node in nodes:
        problem = _misfit(node, shapes)
        if problem:
            raise OnnxError(f"{name}: node '{node.name}' ({node.op_type}): {problem}: "
                            "no runtime can run it, the model is damaged; export it again")  # fmt: skip


def _misfit(node: Node, shapes: Mapping[str, Shape]) -> str:
    """What does not fit in `node`, in words; empty where all does, or nothing is known."""
    if node.op_type in BROADCAST:
        return _broadcast(node, shapes)
    places = (CONVS | PRODUCTS).get(node.op_type)
    if places is None or len(node.inputs) <= places[1]:
        return ""
    first, second = (node.inputs[p] for p in places)
    if first not in shapes or second not in shapes:
        return ""
    a, b = shapes[first], shapes[second]
    about = f"'{first}' is {_text(a)} and '{second}' is {_text(b)}"
    if node.op_type in CONVS:
        bias = shapes.get(node.inputs[-1]) if len(node.inputs) == 3 else None
        return _conv(node, a, b, bias, about)
    if node.op_type == "Gemm":
        return _gemm(node, a, b, about)
    return _matmul(a, b, about)


def _conv(node: Node, image: Shape, weights: Shape, bias: Shape | None, about: str) -> str:
    if len(image) != len(weights) or len(image) < 3:
        return f"{about}: input and weights have to have the same number of dimensions, at least 3"
    transposed, group = node.op_type == "ConvTranspose", int(node.attrs.get("group", 1))
    wanted = weights[0] if transposed else weights[1] * group
    made = weights[1] * group if transposed else weights[0]
    split = weights[0]
    if image[1] != wanted:
        groups = f" in {group} groups" if group != 1 else ""
        return f"its input has {image[1]} channels, its weights take {wanted}{groups} ({about})"
    if group < 1 or split % group:
        return f"{split} channels of its weights do not split into {group} groups ({about})"
    kernel = tuple(node.attrs.get("kernel_shape", weights[2:]))
    if kernel != weights[2:]:
        return f"its kernel_shape is {_text(kernel)}, its weights are of {_text(weights[2:])} ({about})"
    if bias is not None and node.op_type != "ConvInteger" and bias != (made,):
        return f"its bias is {_text(bias)}, it makes {made} channels ({about})"
    return ""


def _gemm(node: Node, a: Shape, b: Shape, about: str) -> str:
    if len(a) != 2 or len(b) != 2:
        return f"{about}: Gemm multiplies matrices, of 2 dimensions"
    inner = a[0] if node.attrs.get("transA", 0) else a[1]
    wanted = b[1] if node.attrs.get("transB", 0) else b[0]
    return f"its input has {inner} channels, its weights take {wanted} ({about})" if inner != wanted else ""


def _matmul(a: Shape, b: Shape, about: str) -> str:
    if not a or not b:
        return f"{about}: a product of a single number"
    wanted = b[-2] if len(b) > 1 else b[0]
    if a[-1] != wanted:
        return f"its first operand has {a[-1]} columns, its second {wanted} rows ({about})"
    return "" if _fit([a[:-2], b[:-2]]) else f"{about}: their batches do not fit"


def _broadcast(node: Node, shapes: Mapping[str, Shape]) -> str:
    known = [(i, shapes[i]) for i in node.inputs if i in shapes]
    if _fit([s for _, s in known]):
        return ""
    return " and ".join(f"'{i}' is {_text(s)}" for i, s in known) + ", which do not fit"


def _fit(shapes: Iterable[Shape]) -> bool:
    """Whether tensors of these shapes can be broadcast together."""
    columns: dict[int, set[int]] = {}
    for shape in shapes:
        for place, size in enumerate(reversed(shape)):
            columns.setdefault(place, set()).add(size)
    return all(len(sizes - {1}) <= 1 for sizes in columns.values())


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a single number"
