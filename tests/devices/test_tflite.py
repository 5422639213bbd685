"""LiteRT in process: real models, real times; where LiteRT is not installed, what its absence is told as."""

from __future__ import annotations

import importlib.util

import pytest

import devices
from devices import convert, tflite
from devices.base import DeviceError, DeviceUnavailable
from devices.onnx_cpu import OnnxCpu, export_onnx, quantize_int8
from devices.spec import DeviceSpec
from latency.modules import build
from latency.ops import Conv2d, mbconv

OP = mbconv(8, 8, 16, kernel=3, stride=1, expand=3)

needs_litert = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None or importlib.util.find_spec("litert_torch") is None,
    reason="ai-edge-litert and litert-torch are not installed (extra: tflite)",
)


def device(**options):
    return tflite.Tflite(DeviceSpec("mine", "tflite", "", options))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("METRONOME_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
    convert.release()


@needs_litert
def test_ahead_of_time_and_in_time_are_the_same_model(cache):
    import torch

    def make():
        torch.manual_seed(0)
        return build(OP)

    seen: list[int] = []
    target = device()
    target.convert_ahead([(make, OP.input_shape)], seen.append)
    assert seen == [1]
    assert not convert._WORKERS, "idle converters would share the cores with what is timed"
    session = target.prepare(make(), OP.input_shape)
    assert not convert._WORKERS, "prepare found it in the cache"
    assert session.delegated
    assert session.time_s(1) > 0
    session.close()
    plain = device(xnnpack=False).prepare(make(), OP.input_shape)
    assert not plain.delegated
    assert plain.time_s(2) > 0


@needs_litert
def test_an_int8_model_is_given_whole_numbers(cache):
    session = device(quantization="int8").prepare(build(OP), OP.input_shape)
    (given,) = session._interpreter.get_input_details()
    assert given["dtype"].__name__ == "int8"
    assert session._interpreter.get_tensor(given["index"]).std() > 20, "spread over the whole range"
    assert session.time_s(3) > 0


@needs_litert
def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"not a model")
    with pytest.raises(DeviceError, match=r"LiteRT refuses .*x\.tflite"):
        device().open(path)


@needs_litert
def test_a_delegate_that_takes_nothing_is_an_error(tmp_path, monkeypatch, cache):
    model = convert.to_tflite(build(OP), OP.input_shape)
    target = device()
    resolvers = target._module.OpResolverType
    without = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = target._module.Interpreter(model_path=str(model), experimental_op_resolver_type=without)
    with pytest.raises(DeviceError, match="XNNPACK took no node"):
        tflite.TfliteSession(interpreter, xnnpack=True)


@needs_litert
def test_the_fingerprint_tells_what_changes_times():
    one, two = device().describe(), device(threads=2, quantization="int8", xnnpack=False).describe()
    assert {k for k in one if one[k] != two[k]} == {"threads", "quantization", "xnnpack", "converter"}
    assert one["runtime"].startswith("ai-edge-litert ")


@needs_litert
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "at least 1"),
        ({"quantization": "int4"}, "one of fp32, fp16, dynamic, int8"),
        ({"delegate": "gpu"}, "unknown option 'delegate'"),
    ],
)
def test_options_are_checked(options, says):
    with pytest.raises(devices.UserError, match=says):
        device(**options)


def test_without_a_runtime_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tflite, "RUNTIMES", {"no_such_runtime": "no-such"})
    with pytest.raises(DeviceUnavailable, match=r"no_such_runtime can be imported; pip install"):
        device()


def test_the_older_runtime_serves_where_only_that_is_there(monkeypatch):
    """tflite_runtime has the same interpreter module under another name."""
    import sys
    from types import ModuleType

    old = ModuleType("tflite_runtime.interpreter")
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", old)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setattr(tflite.importlib.metadata, "version", lambda name: f"of {name}")
    assert tflite._runtime("tflite") == (old, "tflite-runtime of tflite-runtime")

    def absent(name):
        raise tflite.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tflite.importlib.metadata, "version", absent)
    assert tflite._runtime("tflite") == (old, "tflite-runtime unknown"), "built from source: no distribution"


def test_cpu_int8_computes_in_int8_and_stays_near():
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    from tests.devices.test_convert import lived_in

    op = Conv2d(in_channels=8, out_channels=16, height=16, width=16, kernel=3)
    module = lived_in(build(op)).eval()
    model = quantize_int8(export_onnx(module, op.input_shape), op.input_shape)
    kinds = [i.data_type for i in onnx.load_model_from_string(model).graph.initializer if len(i.dims) == 4]
    assert kinds == [onnx.TensorProto.INT8]
    x = torch.randn(op.input_shape, generator=torch.Generator().manual_seed(1))
    (got,) = onnxruntime.InferenceSession(model).run(None, {"input": x.numpy()})
    with torch.no_grad():
        expected = module(x).numpy()
    error = np.abs(got - expected).mean() / np.abs(expected).mean()
    assert 1e-6 < error < 0.2
    with pytest.raises(devices.UserError, match="one of fp32, int8"):
        OnnxCpu(DeviceSpec("mine", "onnx_cpu", "", {"precision": "int4"}))
