"""This machine's CPU through LiteRT (TensorFlow Lite), in process: explicit threads, XNNPACK on or off."""

from __future__ import annotations

import importlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices import convert
from devices.base import DeviceError, DeviceUnavailable
from devices.onnx_cpu import _cpu_model, _governor
from devices.spec import DeviceSpec

if TYPE_CHECKING:
    from torch import nn

#: package to import -> distribution that holds it, the one to prefer first
RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}


def _runtime(name: str) -> tuple[Any, str]:
    """(interpreter module, "ai-edge-litert 2.3.0"). Raises DeviceUnavailable where neither package is installed."""
    for package, distribution in RUNTIMES.items():
        try:
            module = importlib.import_module(f"{package}.interpreter")
        except ImportError:
            continue
        return module, f"{distribution} {convert.version(distribution, 'unknown')}"
    raise DeviceUnavailable(
        f"device {name} needs LiteRT: neither {' nor '.join(RUNTIMES)} can be imported; "
        "pip install 'metronome-nas[tflite]'"
    )


class TfliteSession:
    """One interpreter with its input set once; the input stays in place between inferences: warm."""

    def __init__(self, interpreter: Any, xnnpack: bool) -> None:
        import numpy as np

        self._interpreter = interpreter
        try:
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"LiteRT refuses the model: {error}") from error
        rng = np.random.default_rng(0)  # zeros would let sparse and denormal paths look better than they are
        for given in interpreter.get_input_details():
            if np.issubdtype(given["dtype"], np.integer):
                info = np.iinfo(given["dtype"])
                value = rng.integers(info.min, info.max, given["shape"], given["dtype"], endpoint=True)
            else:
                value = rng.standard_normal(given["shape"]).astype(given["dtype"])
            interpreter.set_tensor(given["index"], value)
        # The count of nodes the delegate took is not told; that it took any is seen in the plan.
        self.delegated = any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
        if xnnpack and not self.delegated:
            raise DeviceError("XNNPACK took no node of the model: it would be timed on the reference kernels")
        self._invoke: Callable[[], None] | None = interpreter.invoke

    def time_s(self, loops: int) -> float:
        """Wall seconds for `loops` inferences."""
        invoke = self._invoke
        if invoke is None:
            raise DeviceError("the session is closed")
        try:
            start = time.perf_counter()
            for _ in range(loops):
                invoke()
            return time.perf_counter() - start
        except RuntimeError as error:
            raise DeviceError(f"LiteRT failed in an inference: {error}") from error

    def close(self) -> None:
        """Free the model's memory."""
        self._interpreter = self._invoke = None


class Network:
    """A .tflite file with one input and one output, to compute with rather than to time."""

    def __init__(self, model: Path) -> None:
        """Raises DeviceUnavailable without LiteRT, DeviceError where it refuses the file."""
        module, _ = _runtime("tflite")
        try:
            self._interpreter = module.Interpreter(model_path=str(model), num_threads=1)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"LiteRT refuses {model}: {error}") from error
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def __call__(self, x_NCHW: Any) -> Any:
        """float32 (batch, channels, height, width) -> float32 outputs; integers are scaled as the file says."""
        import numpy as np

        x = np.ascontiguousarray(x_NCHW.transpose(0, 2, 3, 1))
        if np.issubdtype(self._input["dtype"], np.integer):
            scale, zero = self._input["quantization"]
            info = np.iinfo(self._input["dtype"])
            x = np.clip(np.round(x / scale) + zero, info.min, info.max)
        self._interpreter.set_tensor(self._input["index"], x.astype(self._input["dtype"]))
        self._interpreter.invoke()
        y = self._interpreter.get_tensor(self._output["index"])
        if np.issubdtype(y.dtype, np.integer):
            scale, zero = self._output["quantization"]
            y = (y.astype(np.float32) - zero) * scale
        return y.astype(np.float32)


class Tflite:
    """The device `tflite`."""

    def __init__(self, spec: DeviceSpec) -> None:
        spec.only("threads", "xnnpack", "quantization")
        self.name = spec.name
        self.threads = spec.option("threads", 1)
        self.xnnpack = spec.option("xnnpack", True)
        self.quantization = spec.option("quantization", "fp32")
        if self.threads < 1:
            raise DeviceError(f"{spec.name}.toml: options.threads = {self.threads}; at least 1")
        if self.quantization not in convert.QUANTIZATIONS:
            raise DeviceError(
                f"{spec.name}.toml: options.quantization = {self.quantization!r}; "
                f"one of {', '.join(convert.QUANTIZATIONS)}"
            )
        self._module, self._version = _runtime(spec.name)

    def convert_ahead(
        self, jobs: Sequence[tuple[Callable[[], nn.Module], tuple[int, ...]]], on_done: Callable[[int], None]
    ) -> None:
        """Convert (make, input_shape) jobs side by side into the cache, so that `prepare` finds them there.

        A module that cannot be converted raises in `prepare`, not here.
        """
        convert.to_tflite_many(((make(), shape) for make, shape in jobs), self.quantization, on_done)
        convert.release()  # idle converters hold memory

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> TfliteSession:
        """Convert `module` (or take it from the cache) and open an interpreter. Raises DeviceError."""
        return self.open(convert.to_tflite(module, input_shape, self.quantization))

    def open(self, model: Path) -> TfliteSession:
        """A session of a .tflite file. Raises DeviceError."""
        resolvers = self._module.OpResolverType
        resolver = resolvers.AUTO if self.xnnpack else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            interpreter = self._module.Interpreter(
                model_path=str(model), num_threads=self.threads, experimental_op_resolver_type=resolver
            )
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"LiteRT refuses {model}: {error}") from error
        return TfliteSession(interpreter, self.xnnpack)

    def describe(self) -> dict[str, Any]:
        """The fingerprint of this CPU and runtime."""
        return {
            "device": self.name,
            "runtime": self._version,
            "xnnpack": self.xnnpack,
            "threads": self.threads,
            "quantization": self.quantization,
            "converter": convert.versions(self.quantization),
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.system(),
            "governor": _governor(),
        }


def open_device(spec: DeviceSpec) -> Tflite:
    """The device that `spec` describes."""
    return Tflite(spec)
