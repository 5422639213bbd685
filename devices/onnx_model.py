"""An ONNX model that somebody else made, ready for the onnxruntime devices: what to feed it, and int8 of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.base import DeviceError

#: onnxruntime's name of an element type -> numpy's.
TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint64)": "uint64", "tensor(uint32)": "uint32", "tensor(uint16)": "uint16", "tensor(uint8)": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class OnnxModel:
    """A model whose inputs have fixed shapes. `folder`: where weights that it keeps in files of their own lie."""

    model: bytes
    folder: Path | None = None


def example(name: str, kind: str, shape: list[Any]) -> Any:
    """A numpy array for an input: random floats; ones for whole numbers (indices, masks: every model has a 1).

    Zeros would let denormal handling and branchy kernels look better than they are. Raises DeviceError.
    """
    import numpy as np

    if kind not in TYPES:
        raise DeviceError(f"input '{name}' is a {kind}; only tensors of numbers can be fed")
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise DeviceError(f"input '{name}': its shape is not fixed ({' x '.join(map(str, shape))})")
    dtype = np.dtype(TYPES[kind])
    if dtype.kind != "f":
        return np.ones(shape, dtype=dtype)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)


def bind_output(binding: Any, output: Any) -> None:
    """Bind `output` of a session once, where its shape is known before the run; else leave it to onnxruntime."""
    import numpy as np
    import onnxruntime as ort

    if output.type in TYPES and all(isinstance(size, int) for size in output.shape):
        value = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, np.dtype(TYPES[output.type]))
        binding.bind_ortvalue_output(output.name, value)
    else:
        binding.bind_output(output.name)


def int8_of(model: OnnxModel) -> bytes:
    """`model` with int8 weights, calibrated on random inputs: right for timing. Raises DeviceError."""
    import onnx

    from devices.onnx_cpu import quantize_int8

    graph = onnx.load_model_from_string(model.model).graph
    weights = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise DeviceError("only models with one input, of fp32, can be quantised for timing here")
    if any(i.data_location == onnx.TensorProto.EXTERNAL for i in graph.initializer):
        raise DeviceError("a model that keeps its weights in files of their own cannot be quantised here")
    shape = tuple(d.dim_value for d in inputs[0].type.tensor_type.shape.dim)
    return quantize_int8(model.model, shape, input_name=inputs[0].name)
