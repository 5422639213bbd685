"""Reading an ONNX file: the shape of every tensor, which tensors are constant. No weights.

Weights are never read: a model with gigabytes of external data costs no more than its graph. Small constants (shapes,
bounds of a Clip) are, and whatever is computed from them alone is folded, as every runtime does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from devices.errors import did_you_mean
from latency.onnx_check import OnnxError, check_names, check_ops, check_opset, check_shapes, node_name

SMALL = 4096  # elements; larger constants are known by shape only
MAX_FOLDS = 12  # rounds of folding and shape inference; each round folds all it can


@dataclass(frozen=True)
class Node:
    """One node of the graph that computes at run time."""

    name: str
    op_type: str
    inputs: tuple[str, ...]  # "" for one left out
    outputs: tuple[str, ...]
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """A model without its weights. `nodes` in an order in which they can run; constants are folded away."""

    nodes: tuple[Node, ...]
    shapes: dict[str, tuple[int, ...]]
    constants: frozenset[str]
    values: dict[str, np.ndarray[Any, Any]]  # of small constants
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.shapes[name]

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element; None where it is not one."""
        value = self.values.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def read_onnx(source: Path | bytes, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """The graph of the model in a file, or in memory. `input_shapes` fixes the shapes of dynamic inputs, by name.

    Raises OnnxError: no such file, not ONNX, no nodes, an opset or a domain that is not known, an op that does not
    exist, a tensor that nothing makes, shapes that do not fit, a shape that is not fixed.
    """
    name = str(source) if isinstance(source, Path) else "the model"
    model = _parse(source, name)
    check_opset(model, name)
    model = _inlined(model)
    check_ops(model, name)
    check_names(model.graph, name)
    _fix_inputs(model, dict(input_shapes or {}), name)
    return _fold(model, name)


def runnable_onnx(path: Path, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> bytes:
    """The model in a file as it is, but for the shapes of its inputs, which `input_shapes` fixes: to be run.

    Raises OnnxError as `read_onnx`, and where a file with its weights is not there, which reading does not need.
    """
    import onnx

    model = _parse(path, str(path))
    _fix_inputs(model, dict(input_shapes or {}), str(path))
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            file = next((e.value for e in tensor.external_data if e.key == "location"), "")
            if not (path.parent / file).is_file():
                raise OnnxError(f"{path}: its weights are in a file '{file}' that is not beside it; without weights it "
                                "can be predicted, but not run")  # fmt: skip
    return bytes(model.SerializeToString())


def _parse(source: Path | bytes, name: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if isinstance(source, Path):
            size = source.stat().st_size
            if size >= 2**31:
                raise OnnxError(f"{name}: {size / 2**30:.1f} GiB in one file; ONNX files end at 2 GiB: save it with "
                                "onnx.save(model, path, save_as_external_data=True)")  # fmt: skip
            source = source.read_bytes()
        if not source:
            raise OnnxError(f"{name}: an empty file, not an ONNX model")
        model = onnx.ModelProto.FromString(source)
    except OSError as error:
        raise OnnxError(f"{name}: {error.strerror or error}") from None
    except DecodeError:
        raise OnnxError(f"{name}: not an ONNX model, or a damaged one: it does not parse; export it again") from None
    if not model.HasField("graph") or not model.ir_version:
        raise OnnxError(f"{name}: not an ONNX model: it has no graph; export it again")
    if not model.graph.node:
        raise OnnxError(f"{name}: an empty model: its graph has no nodes, there is nothing to predict")
    return model


def _inlined(model: Any) -> Any:
    """The model with its own functions put in their places."""
    if not model.functions:
        return model
    from onnx.inliner import inline_local_functions

    return inline_local_functions(model)


def _fix_inputs(model: Any, given: dict[str, tuple[int, ...]], name: str) -> None:
    """Set the shapes given; raise OnnxError where an input is still dynamic."""
    weights = {i.name for i in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in weights}
    for wanted, shape in given.items():
        if wanted not in inputs:
            raise OnnxError(f"{name}: no input '{wanted}': {did_you_mean(wanted, inputs)}"
                            f"inputs: {', '.join(inputs) or 'none'}")  # fmt: skip
        dims = inputs[wanted].type.tensor_type.shape.dim
        if len(dims) not in (0, len(shape)):
            raise OnnxError(f"{name}: input '{wanted}' has {len(dims)} dimensions, the shape given {len(shape)}")
        for i, size in enumerate(shape):
            if i < len(dims) and dims[i].HasField("dim_value") and dims[i].dim_value not in (0, size):
                raise OnnxError(f"{name}: input '{wanted}' is fixed to {_text(dims)}: {size} does not fit")
        inputs[wanted].type.tensor_type.shape.Clear()
        for size in shape:
            inputs[wanted].type.tensor_type.shape.dim.add().dim_value = size
    for key, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        if value.type.WhichOneof("value") != "tensor_type":
            raise OnnxError(f"{name}: input '{key}' is not a tensor")
        if any(d.dim_value < 1 for d in dims) or not value.type.tensor_type.HasField("shape"):
            example = ",".join(
                str(d.dim_value if d.dim_value > 0 else 1 if i == 0 else 224) for i, d in enumerate(dims)
            )
            raise OnnxError(f"{name}: the shape of input '{key}' is dynamic ({_text(dims) or 'unknown'}): fix it with "
                            f"--input-shape {key}={example or '1,3,224,224'}")  # fmt: skip
    if given:
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")


def _text(dims: Any) -> str:
    return " x ".join(d.dim_param or (str(d.dim_value) if d.dim_value > 0 else "?") for d in dims)


def _fold(model: Any, name: str) -> Graph:
    """Fold what is constant and infer shapes, until neither brings anything new."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    values: dict[str, np.ndarray[Any, Any]] = {}
    constants: set[str] = {""}
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in [*graph.initializer]:
        constants.add(tensor.name)
        shapes[tensor.name] = tuple(tensor.dims)
        if np.prod(tensor.dims, dtype=np.int64) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            values[tensor.name] = numpy_helper.to_array(tensor)
        else:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "external_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.DEFAULT
    for tensor in graph.sparse_initializer:
        constants.add(tensor.values.name)
    left = list(graph.node)
    for _ in range(MAX_FOLDS):
        _infer(model, name, shapes)
        left, folded = _fold_once(left, constants, values, shapes)
        if not folded:
            break
        del graph.node[:]
        graph.node.extend(left)
        have = {t.name for t in graph.initializer}
        graph.initializer.extend(numpy_helper.from_array(values[k], k) for k in folded if k in values and k not in have)
    live = [n for n in left if not all(o in constants for o in n.output)]
    nodes = tuple(
        Node(node_name(n), n.op_type, tuple(n.input), tuple(n.output),
             {a.name: _attribute(a) for a in n.attribute}) for n in live
    )  # fmt: skip
    check_shapes(nodes, shapes, name)
    for node in nodes:
        for output in node.outputs:
            if output and output not in shapes:
                raise OnnxError(f"{name}: the shape of '{output}' (node '{node.name}', {node.op_type}) depends "
                                "on data; only shapes known before the run can be predicted")  # fmt: skip
    weights = {i.name for i in graph.initializer}
    return Graph(
        nodes,
        shapes,
        frozenset(constants),
        values,
        tuple(i.name for i in graph.input if i.name not in weights),
        tuple(o.name for o in graph.output),
    )


def _infer(model: Any, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """Add to `shapes` what ONNX's shape inference finds."""
    import onnx

    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except Exception as error:  # InferenceError and what the C++ side throws
        raise OnnxError(f"{name}: shapes do not fit together: {str(error).splitlines()[0]}") from None
    for value in [*found.value_info, *found.input, *found.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)


def _fold_once(
    nodes: list[Any], constants: set[str], values: dict[str, np.ndarray[Any, Any]], shapes: dict[str, tuple[int, ...]]
) -> tuple[list[Any], list[str]]:
    """(nodes left, names of what was folded). Constants that are too large are marked as such, their nodes kept."""
    left, folded = [], []
    for node in nodes:
        if node.op_type == "Shape" and node.input[0] in shapes:
            start = next((a.i for a in node.attribute if a.name == "start"), 0)
            end = next((a.i for a in node.attribute if a.name == "end"), None)
            made = {node.output[0]: np.array(shapes[node.input[0]][start:end], dtype=np.int64)}
        elif all(i in constants for i in node.input) and node.op_type not in _RANDOM:
            constants.update(node.output)
            made = _evaluate(node, values) if all(i in values or not i for i in node.input) else {}
        else:
            made = {}
        if made and all(v.size <= SMALL for v in made.values()):
            constants.update(made)
            values.update(made)
            shapes.update({k: tuple(v.shape) for k, v in made.items()})
            folded += list(made)
        else:
            left.append(node)
    return left, folded


_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def _evaluate(node: Any, values: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a node of constants; empty where ONNX's reference does not say."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "ConstantOfShape" and np.prod(values[node.input[0]], dtype=np.int64) > SMALL:
        return {}
    feeds = {i: values[i] for i in node.input if i}
    inputs = [onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
              for k, v in feeds.items()]  # fmt: skip
    outputs = [onnx.helper.make_empty_tensor_value_info(o) for o in node.output if o]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    try:
        found = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, feeds)
    except Exception:  # an op that the reference lacks: its value stays unknown, which is said where it matters
        return {}
    return {o: np.asarray(v) for o, v in zip([o for o in node.output if o], found, strict=True)}


def _attribute(attribute: Any) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else value
