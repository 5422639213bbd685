"""The time of each kernel inside a network, as onnxruntime's own profiler tells it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError
from devices.onnx_cpu import OnnxCpuSession

if TYPE_CHECKING:
    import onnxruntime

WARM_RUNS = 2  # inferences after opening that are not reported


@dataclass(frozen=True)
class KernelRun:
    """One kernel of the optimised graph. Shapes are those of the tensors it takes and gives, as the runtime lays them
    out (channels filled up to blocks); weights that the runtime has packed are not among them."""

    name: str
    op_type: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]  # one per inference, in whole microseconds


class ProfiledSession(OnnxCpuSession):
    """A session that notes the time of each kernel; an inference takes some microseconds a kernel longer for it."""

    def __init__(self, model: bytes, options: onnxruntime.SessionOptions) -> None:
        self._folder = tempfile.TemporaryDirectory()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        super().__init__(model, options)

    def kernel_runs(self) -> list[KernelRun]:
        """Every kernel in running order, with its time in each inference but the first. Ends the profiling.

        Raises DeviceError where the profile does not hold whole inferences.
        """
        if self._session is None:
            raise DeviceError("the session is closed")
        path = Path(self._session.end_profiling())
        try:
            return kernel_runs(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise DeviceError(f"onnxruntime's profile cannot be read: {type(error).__name__} {error}") from error

    def close(self) -> None:
        """Free the model's memory, and remove the profile."""
        super().close()
        self._folder.cleanup()


def kernel_runs(events: list[dict[str, Any]]) -> list[KernelRun]:
    """The kernels of a profile. Raises DeviceError where inferences differ in the kernels they ran."""
    inferences: list[list[dict[str, Any]]] = []
    nodes: list[dict[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            nodes.append(event)
        elif event.get("name") == "model_run":
            inferences.append(nodes)
            nodes = []
    inferences = inferences[WARM_RUNS:]
    if not inferences:
        raise DeviceError("onnxruntime's profile holds no inference")
    first = inferences[0]
    if any([e["name"] for e in run] != [e["name"] for e in first] for run in inferences):
        raise DeviceError("onnxruntime's profile holds inferences of different kernels")
    return [
        KernelRun(
            str(event["name"]).removesuffix("_kernel_time"),
            str(event["args"]["op_name"]),
            _shapes(event["args"].get("input_type_shape", [])),
            _shapes(event["args"].get("output_type_shape", [])),
            tuple(run[i]["dur"] * 1e-6 for run in inferences),
        )
        for i, event in enumerate(first)
    ]


def _shapes(typed: list[dict[str, list[int]]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(shape) for entry in typed for shape in entry.values())
