"""Small .tflite files made in milliseconds, for tests that are not about conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def convolution(path: Path, size: int, channels: int = 16, seed: int = 0) -> Path:
    """A 3x3 convolution on (1, size, size, channels), NHWC, written to `path`."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    shapes = {"input": [1, size, size, channels], "weight": [channels, 3, 3, channels], "bias": [channels]}
    shapes["output"] = shapes["input"]
    rng = np.random.default_rng(seed + size)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [schema.BufferT()], []
    for name, shape in shapes.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, schema.TensorType.FLOAT32, 0
        if name in ("weight", "bias"):
            buffer = schema.BufferT()
            buffer.data = list(rng.standard_normal(shape).astype(np.float32).tobytes())
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 1
    model.operatorCodes = [code]
    options = schema.Conv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.SAME, 1, 1
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, [0, 1, 2], [3]
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    graph.inputs, graph.outputs, graph.operators = [0], [3], [op]
    model.subgraphs = [graph]
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return path
