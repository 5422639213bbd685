"""A trained network as .onnx or .tflite at the size it is deployed at, fp32, fp16 or int8, checked against torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devices.base import DeviceError
from devices.errors import UserError, did_you_mean
from devices.onnx_cpu import export_onnx, quantize_int8
from latency.files import write_atomically

FORMATS, PRECISIONS = ("onnx", "tflite"), ("fp32", "fp16", "int8")
#: Largest deviation from torch that is accepted, of the largest output, at least of 1. int8 has none: it is reported.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
Array = npt.NDArray[np.float32]


class ExportError(UserError):
    """The exported network does not compute what the trained one does, or cannot be made."""


@dataclass(frozen=True)
class Exported:
    """A file, how far its outputs lie from torch's (of the largest, at least of 1), and a way to run it.

    `run` takes float32 (batch, channels, height, width) of the shape it was exported for and gives (batch, classes).
    """

    path: Path
    deviation: float
    run: Callable[[Array], Array]


def check_format(kind: str, precision: str) -> None:
    """Raise ExportError where there is no such format or precision."""
    for option, value, known in (("format", kind, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ExportError(f"--{option} {value}: {did_you_mean(value, known)}one of {', '.join(known)}")


def export(
    network: nn.Module,
    input_shape: tuple[int, ...],
    path: Path,
    precision: str = "fp32",
    calibration: Array | None = None,
    seed: int = 0,
) -> Exported:
    """Write `network` in the format that `path` ends in, for inputs of `input_shape`, float32 in [0, 1].

    int8 is calibrated on `calibration`, inputs (n, *input_shape), without it on uniform noise. Both runtimes compute
    one input: the first of `calibration`, else noise. Raises ExportError where they differ by more than TOLERANCES,
    DeviceError where the network cannot be converted, DeviceUnavailable where the extra `tflite` is not installed.
    """
    kind = path.suffix.removeprefix(".")
    check_format(kind, precision)
    network = network.cpu()
    draws = torch.Generator().manual_seed(seed)
    x = torch.rand(input_shape, generator=draws) if calibration is None else torch.from_numpy(calibration[0])
    if precision == "int8" and calibration is None:
        calibration = torch.rand(8, *input_shape, generator=draws).numpy()
    write = _onnx if kind == "onnx" else _tflite
    run = write(network, input_shape, path, precision, calibration if precision == "int8" else None)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        expected = network(x).numpy()
    network.train(was_training)
    deviation = float(np.abs(run(x.numpy()) - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not deviation <= TOLERANCES.get(precision, float("inf")):
        path.unlink(missing_ok=True)
        raise ExportError(
            f"{path}: its runtime and torch differ by {deviation:.1e} (allowed {TOLERANCES.get(precision)}); not kept"
        )
    return Exported(path, deviation, run)


def export_network(network: nn.Module, input_shape: tuple[int, ...], path: Path, seed: int = 0) -> float:
    """`export` in fp32; returns the largest deviation."""
    return export(network, input_shape, path, seed=seed).deviation


def _onnx(
    network: nn.Module, shape: tuple[int, ...], path: Path, precision: str, calibration: Array | None
) -> Callable[[Array], Array]:
    import onnxruntime as ort

    model = export_onnx(network, shape)
    if precision == "int8":
        model = quantize_int8(model, shape, None if calibration is None else list(calibration))
    elif precision == "fp16":
        model = _halved(model)
    write_atomically(path, model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # images come one at a time; threads that wait for the next would spin
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Array) -> Array:
        output: Array = session.run(None, {name: x})[0]
        return output

    return run


def _halved(model: bytes) -> bytes:
    """Weights and arithmetic in fp16; input and output stay fp32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved: bytes = convert_float_to_float16(onnx.load_model_from_string(model), keep_io_types=True).SerializeToString()
    return halved


def _tflite(
    network: nn.Module, shape: tuple[int, ...], path: Path, precision: str, calibration: Array | None
) -> Callable[[Array], Array]:
    from devices.convert import to_tflite
    from devices.tflite import Network

    made = to_tflite(network.eval(), shape, precision, calibration)
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DeviceError(f"cannot write {path}: {error.strerror or error}") from error
    loaded = Network(path)

    def run(x: Array) -> Array:
        output: Array = loaded(x)
        return output

    return run


def export_if_possible(network: nn.Module, input_shape: tuple[int, ...], path: Path) -> str:
    """`export`, told in a line, or why not: a search that is done does not fail for it."""
    try:
        made = export(network, input_shape, path)
    except (DeviceError, ExportError) as error:
        return f"no {path.name}: {error}"
    return f"{path}: LiteRT agrees with torch to {made.deviation:.0e}"
