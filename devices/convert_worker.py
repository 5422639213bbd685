"""The process that converts: `python -m devices.convert_worker` reads jobs from stdin until it is closed."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

CALIBRATION_INPUTS = 2


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A copy of `module` (in eval mode) in which a BatchNorm2d that follows a Conv2d in a Sequential is folded into it.

    The converter folds them too, but from a dozen elementwise ops each: its time is proportional to the graph's size.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def fold(part: nn.Module) -> None:
        for child in part.children():
            fold(child)
        if type(part) is not nn.Sequential:
            return
        layers: list[nn.Module] = []
        for child in part:
            if type(child) is nn.BatchNorm2d and layers and type(layers[-1]) is nn.Conv2d:
                layers[-1] = fuse_conv_bn_eval(layers[-1], child)
            else:
                layers.append(child)
        part._modules = {str(i): layer for i, layer in enumerate(layers)}

    folded = copy.deepcopy(module).eval()
    fold(folded)
    return folded


def convert(module: nn.Module, input_shape: tuple[int, ...], quantization: str, calibration: Any = None) -> bytes:
    """The .tflite content; see `devices.convert.to_tflite`."""
    import litert_torch
    import torch

    folded: Any = fold_batch_norms(module)
    example = torch.zeros(input_shape)
    with torch.no_grad():
        outputs = folded(example)
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"a module with one output tensor is needed, not {type(outputs).__name__}")
    if example.ndim == 4:
        folded = litert_torch.to_channel_last_io(folded, args=[0], outputs=[0] if outputs.ndim == 4 else None).eval()
        example = example.permute(0, 2, 3, 1).contiguous()
    model: bytes = litert_torch.convert(folded, (example,)).model_content()
    if calibration is not None and calibration.ndim == 5:
        calibration = calibration.transpose(0, 1, 3, 4, 2)
    return model if quantization == "fp32" else quantize(model, tuple(example.shape), quantization, calibration)


def quantize(model: bytes, nhwc_shape: tuple[int, ...], quantization: str, inputs_NHWC: Any = None) -> bytes:
    """`model` with fp16 weights, int8 weights (dynamic), or int8 weights and activations, by ai-edge-quantizer."""
    import numpy as np
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(bytearray(model))
    if quantization == "fp16":
        made.add_weight_only_config(".*", "*", 16, algorithm_key=recipe.AlgorithmName.FLOAT_CASTING)
    elif quantization == "dynamic":
        made.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    else:
        made.load_quantization_recipe(recipe.static_wi8_ai8())
    calibration = None
    if made.need_calibration:
        from ai_edge_litert.interpreter import Interpreter

        (signature,) = Interpreter(model_content=model).get_signature_list().items()
        name, inputs = signature[0], signature[1]["inputs"]
        rng = np.random.default_rng(0)
        random = (rng.standard_normal(nhwc_shape, dtype=np.float32) for _ in range(CALIBRATION_INPUTS))
        given = random if inputs_NHWC is None else map(np.ascontiguousarray, inputs_NHWC)
        data = [{inputs[0]: x} for x in given]
        calibration = made.calibrate({name: data}, num_threads=1)
    return bytes(made.quantize(calibration).quantized_model)


def serve() -> None:
    """Serve jobs: a pickle of (pickled module, input shape, quantization, path, calibration) each, answered by a line
    of JSON.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the converter prints: its talk must not mix with the answers
    warnings.simplefilter("ignore")
    while True:
        try:
            frozen, shape, quantization, path, calibration = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        error = None
        try:
            write(Path(path), convert(pickle.loads(frozen), shape, quantization, calibration))
        except Exception as failure:  # whatever the converter raises is told to whoever asked
            error = f"{type(failure).__name__}: {' '.join(str(failure).split())[:400]}"
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def write(path: Path, model: bytes) -> None:
    """`model` in `path`, whole or not at all; two processes that write the same file do not disturb each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part")
    try:
        partial.write_bytes(model)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    serve()
