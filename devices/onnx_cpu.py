"""This machine's CPU through onnxruntime: explicit threads, spinning off, IOBinding, fp32 or int8."""

from __future__ import annotations

import io
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError, DeviceUnavailable
from devices.onnx_model import OnnxModel, bind_output, example, int8_of
from devices.spec import DeviceSpec

if TYPE_CHECKING:
    import onnxruntime
    from torch import nn

    from devices.onnx_profile import ProfiledSession

OPSET = 17
PRECISIONS = ("fp32", "int8")
CALIBRATION_INPUTS = 2


def export_onnx(module: nn.Module, input_shape: tuple[int, ...], path: Path | None = None) -> bytes:
    """The ONNX model of `module` in eval mode for a fixed `input_shape`; also written to `path`. The one code path.

    The TorchScript exporter is used: the dynamo one takes 6 to 12 s for a 21-block network where this takes 0.4 s,
    and a profile exports a hundred. Raises DeviceError where the module cannot be exported.
    """
    import torch

    was_training = module.training
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                (torch.zeros(input_shape),),
                buffer,  # type: ignore[arg-type]  # the TorchScript exporter writes to files in memory too
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                do_constant_folding=True,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise DeviceError(
            f"export to ONNX failed for {getattr(module, 'key', type(module).__name__)}: {error}"
        ) from error
    finally:
        module.train(was_training)
    model = buffer.getvalue()
    if path is not None:
        partial = path.with_suffix(path.suffix + ".part")
        partial.write_bytes(model)
        partial.replace(path)
    return model


def quantize_int8(
    model: bytes, input_shape: tuple[int, ...], calibration: Sequence[Any] | None = None, input_name: str = "input"
) -> bytes:
    """`model` with int8 weights (per channel) and uint8 activations, as QuantizeLinear/DequantizeLinear pairs that
    onnxruntime fuses into integer kernels. Calibrated on `calibration`, float32 arrays of `input_shape`; without them
    on random inputs: right for timing, not for accuracy.

    Input and output stay fp32. Raises DeviceError where the quantiser refuses the model.
    """
    import logging

    import numpy as np
    import onnx
    from onnxruntime import quantization

    class Inputs(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            random = (rng.standard_normal(input_shape, dtype=np.float32) for _ in range(CALIBRATION_INPUTS))
            self._left = list(random if calibration is None else calibration)

        def get_next(self) -> dict[str, Any] | None:
            return {input_name: self._left.pop()} if self._left else None

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # it advises a step that is taken here
        try:
            # Shapes and fusions first: a Conv+BN or Conv+Clip left apart would be quantised apart.
            quantization.shape_inference.quant_pre_process(
                onnx.load_model_from_string(model), str(prepared), skip_symbolic_shape=True
            )
            quantization.quantize_static(
                str(prepared),
                str(made),
                Inputs(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:  # the quantiser raises whatever its parts raise
            raise DeviceError(f"onnxruntime cannot quantise the model: {error}") from error
        finally:
            logging.disable(logging.NOTSET)
        return made.read_bytes()


class OnnxCpuSession:
    """An onnxruntime session with inputs and outputs bound once."""

    def __init__(self, model: bytes, options: onnxruntime.SessionOptions) -> None:
        import onnxruntime as ort

        try:
            self._session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own unexported classes
            raise DeviceError(f"onnxruntime refuses the model: {error}") from error
        self._binding = self._session.io_binding()
        self._inputs = []  # bound without a copy, so kept
        for wanted in self._session.get_inputs():
            value = ort.OrtValue.ortvalue_from_numpy(example(wanted.name, wanted.type, wanted.shape))
            self._binding.bind_ortvalue_input(wanted.name, value)
            self._inputs.append(value)
        for output in self._session.get_outputs():
            bind_output(self._binding, output)

    def time_s(self, loops: int) -> float:
        """Wall seconds for `loops` inferences."""
        if self._session is None:
            raise DeviceError("the session is closed")
        run, binding = self._session.run_with_iobinding, self._binding
        start = time.perf_counter()
        try:
            for _ in range(loops):
                run(binding)
        except Exception as error:  # as above
            raise DeviceError(f"onnxruntime cannot run the model: {error}") from error
        return time.perf_counter() - start

    def close(self) -> None:
        """Free the model's memory."""
        self._session = self._binding = None


class OnnxCpu:
    """The devices `cpu` and `cpu-int8`."""

    def __init__(self, spec: DeviceSpec) -> None:
        spec.only("threads", "spinning", "precision")
        self.name = spec.name
        self.threads = spec.option("threads", 1)
        self.spinning = spec.option("spinning", False)
        self.precision = spec.option("precision", "fp32")
        if self.threads < 1:
            raise DeviceError(f"{spec.name}.toml: options.threads = {self.threads}; at least 1")
        if self.precision not in PRECISIONS:
            raise DeviceError(
                f"{spec.name}.toml: options.precision = {self.precision!r}; one of {', '.join(PRECISIONS)}"
            )
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise DeviceUnavailable(
                f"device {spec.name} needs onnxruntime ({error}); pip install onnxruntime"
            ) from None
        self._ort = ort

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> OnnxCpuSession:
        """Export `module` and open a session. Raises DeviceError."""
        return OnnxCpuSession(self._model(module, input_shape), self._options())

    def prepare_profiled(self, module: nn.Module, input_shape: tuple[int, ...]) -> ProfiledSession:
        """The same, in a session that tells the time of each kernel: see devices/onnx_profile.py."""
        from devices.onnx_profile import ProfiledSession

        return ProfiledSession(self._model(module, input_shape), self._options())

    def prepare_model(self, model: OnnxModel, profiled: bool = False) -> OnnxCpuSession:
        """The same for a model that is ONNX already. Raises DeviceError."""
        from devices.onnx_profile import ProfiledSession

        content = int8_of(model) if self.precision == "int8" else model.model
        return (ProfiledSession if profiled else OnnxCpuSession)(content, self._options(model.folder))

    def _model(self, module: nn.Module, input_shape: tuple[int, ...]) -> bytes:
        model = export_onnx(module, input_shape)
        return quantize_int8(model, input_shape) if self.precision == "int8" else model

    def _options(self, weights: Path | None = None) -> onnxruntime.SessionOptions:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        if weights is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        # Not session.set_denormal_as_zero: it flips the calling thread's floating-point mode for good, and with it
        # the numbers of everything else in this process. Random inputs and weights meet no denormals.
        return options

    def describe(self) -> dict[str, Any]:
        """The fingerprint of this CPU and runtime."""
        return {
            "device": self.name,
            "runtime": f"onnxruntime {self._ort.__version__}",
            "provider": "CPUExecutionProvider",
            "threads": self.threads,
            "spinning": self.spinning,
            "dtype": self.precision,
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.system(),
            "governor": _governor(),
        }


def open_device(spec: DeviceSpec) -> OnnxCpu:
    """The device that `spec` describes."""
    return OnnxCpu(spec)


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text) or platform.processor() or "unknown"


def parse_cpuinfo(text: str) -> str:
    """The name of the processor in /proc/cpuinfo; "" where it tells none (as on most ARM boards)."""
    named = (line.partition(":") for line in text.splitlines())
    return next((" ".join(v.split()) for k, _, v in named if k.strip() == "model name" and v.strip()), "")


def _governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="utf-8").strip()
    except OSError:
        return "not exposed"
