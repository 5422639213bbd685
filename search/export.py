"""The derived, trained network as ONNX at the size it is deployed at, checked against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from devices.errors import UserError
from devices.onnx_cpu import export_onnx

TOLERANCE = 1e-4  # of the largest output, at least of 1


class ExportError(UserError):
    """The exported network does not compute what the trained one does."""


def export_network(network: nn.Module, input_shape: tuple[int, ...], path: Path, seed: int = 0) -> float:
    """Write `network` (eval mode) for inputs of `input_shape`, float32 in [0, 1]; returns the largest deviation.

    Both runtimes compute one random input. Raises ExportError where they differ by more than 1e-4, DeviceError
    where the network cannot be exported.
    """
    network = network.cpu()
    model = export_onnx(network, input_shape, path)
    x = torch.rand(input_shape, generator=torch.Generator().manual_seed(seed))
    was_training = network.training
    network.eval()
    with torch.no_grad():
        expected = network(x).numpy()
    network.train(was_training)
    deviation = float(np.abs(_run(model, x.numpy()) - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not deviation <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise ExportError(
            f"{path}: onnxruntime and torch differ by {deviation:.1e} (allowed {TOLERANCE:.0e}); not kept"
        )
    return deviation


def _run(model: bytes, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    output: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: x})[0]
    return output
