"""Conversion to .tflite: agreement with torch, the cache, and what happens to a conversion that does not end well."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import nn

from devices import convert
from devices.base import DeviceError, DeviceUnavailable
from devices.convert import content_hash, to_tflite, to_tflite_many
from devices.convert_worker import fold_batch_norms
from latency.modules import build, build_network
from latency.ops import Conv2d, Linear, Pool, SepConv, mbconv

needs_converter = pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is None, reason="litert-torch is not installed (extra: tflite)"
)
OPS = [
    Conv2d(in_channels=3, out_channels=8, height=32, width=32, kernel=3, stride=2),
    mbconv(8, 8, 16, kernel=5, stride=1, expand=3),
    mbconv(8, 12, 16, kernel=7, stride=2, expand=6, se=1, act="hswish"),
    SepConv(in_channels=8, out_channels=8, height=16, width=16, kernel=3, dilation=2),
    Pool(in_channels=8, out_channels=8, height=16, width=16, kernel=3, stride=2, pool="avg"),
    Linear(in_channels=12, out_channels=10, height=4, width=4),
]
CHAIN = [OPS[0], OPS[1], OPS[2], Linear(in_channels=12, out_channels=10, height=8, width=8)]


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` with batch norms that have seen data: fresh ones hide a wrong folding."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
        norm.running_var.uniform_(0.5, 2.0, generator=generator)
        norm.weight.data.uniform_(0.5, 2.0, generator=generator)
    return module


def outputs(path, module, shape):
    """(what LiteRT answers, what torch answers), both NCHW or (batch, n)."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert tuple(given["shape"]) == (shape[0], *shape[2:], shape[1]), "the input is NHWC"
    nhwc = x.permute(0, 2, 3, 1).contiguous().numpy()
    if given["dtype"] == np.int8:
        scale, zero = given["quantization"]
        nhwc = np.clip(np.round(nhwc / scale + zero), -128, 127).astype(np.int8)
    interpreter.set_tensor(given["index"], nhwc)
    interpreter.invoke()
    y = interpreter.get_tensor(made["index"])
    if made["dtype"] == np.int8:
        scale, zero = made["quantization"]
        y = (y.astype(np.float32) - zero) * scale
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    return (y.transpose(0, 3, 1, 2) if y.ndim == 4 else y), expected


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own; the converter's processes live for the module."""
    patch = pytest.MonkeyPatch()
    patch.setenv("METRONOME_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield convert.cache_folder()
    patch.undo()
    convert.release()


@needs_converter
def test_converted_ops_and_networks_agree_with_torch(cache):
    modules = [lived_in(build(op)) for op in OPS] + [lived_in(build_network(CHAIN))]
    shapes = [op.input_shape for op in [*OPS, OPS[0]]]
    seen: list[int] = []
    paths = to_tflite_many(zip(modules, shapes, strict=True), on_done=seen.append)
    assert seen == list(range(1, len(modules) + 1))
    for path, module, shape in zip(paths, modules, shapes, strict=True):
        got, expected = outputs(path, module, shape)
        assert got.shape == expected.shape
        assert np.abs(expected).max() > 0.1, "an output of nothing would agree with anything"
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
    assert sorted(paths) == sorted(cache.iterdir()), "the cache holds the models and nothing else"


@needs_converter
def test_a_second_time_comes_from_the_cache(cache, monkeypatch):
    path = to_tflite(lived_in(build(OPS[1])), OPS[1].input_shape)
    before = path.stat().st_mtime_ns
    assert to_tflite(lived_in(build(OPS[1])), OPS[1].input_shape) == path
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(convert, "check_installed", lambda: pytest.fail("what is in the cache needs no converter"))
    assert to_tflite(lived_in(build(OPS[1])), OPS[1].input_shape) == path


@needs_converter
@pytest.mark.parametrize(("quantization", "off"), [("fp16", 0.01), ("dynamic", 0.1), ("int8", 0.2)])
def test_quantised_models_are_smaller_and_near(cache, quantization, off):
    op = mbconv(16, 16, 8, kernel=3, stride=1, expand=6)
    module = lived_in(build(op))
    full, small = to_tflite(module, op.input_shape), to_tflite(module, op.input_shape, quantization)
    assert small.stat().st_size < full.stat().st_size * (0.7 if quantization == "fp16" else 0.9)
    got, expected = outputs(small, module, op.input_shape)
    error = np.abs(got - expected).mean() / np.abs(expected).mean()
    assert 1e-6 < error < off, "quantised it differs a little, and only a little"


class Splitting(nn.Module):
    """Not convertible: two outputs."""

    def forward(self, x):
        return x, x


class Dying(nn.Module):
    """Takes the converter's process with it."""

    def forward(self, x):
        import os

        os._exit(9)


@needs_converter
def test_one_bad_module_does_not_stop_the_others(cache):
    good = lived_in(build(OPS[0]))
    bad, dead, path = to_tflite_many([(Splitting(), (1, 3, 8, 8)), (Dying(), (1, 3, 8, 8)), (good, OPS[0].input_shape)])
    assert isinstance(bad, DeviceError)
    assert "one output tensor is needed, not tuple" in str(bad)
    assert isinstance(dead, DeviceError)
    assert "exit status 9" in str(dead)
    assert outputs(path, good, OPS[0].input_shape)[0].size
    assert not list(cache.glob("*.part"))


@needs_converter
def test_an_interrupted_conversion_leaves_nothing(cache):
    class Stop(Exception):
        pass

    before = set(cache.iterdir())

    def jobs():
        yield lived_in(build(OPS[1]), seed=7), OPS[1].input_shape
        raise Stop

    with pytest.raises(Stop):
        to_tflite_many(jobs())
    assert set(cache.iterdir()) == before
    assert to_tflite(lived_in(build(OPS[1]), seed=7), OPS[1].input_shape).exists(), "and the next one is served"


def test_a_conversion_that_takes_too_long_is_ended(cache, monkeypatch):
    monkeypatch.setattr(convert, "LIMIT_S", 0.05)
    monkeypatch.setattr(convert, "check_installed", lambda: "")
    convert.release()
    with pytest.raises(DeviceError, match=r"took longer than 0\.05 s"):
        to_tflite(lived_in(build(OPS[1]), seed=8), OPS[1].input_shape)
    assert not convert._WORKERS


def test_the_hash_sees_all_that_decides_the_file():
    def of(module, shape=(1, 8, 16, 16), quantization="fp32"):
        return content_hash(module, shape, quantization)

    base = lived_in(build(OPS[1]))
    assert of(base) == of(lived_in(build(OPS[1])))
    other_setting = lived_in(build(OPS[1]))
    next(m for m in other_setting.modules() if isinstance(m, nn.Conv2d)).stride = (2, 2)
    zero, wider = (build(op) for op in (_zero(8), _zero(16)))
    hashes = [
        of(base),
        of(lived_in(build(OPS[1]), seed=1)),
        of(base, (2, 8, 16, 16)),
        of(base, quantization="int8"),
        of(other_setting),
        of(zero),
        of(wider),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_sees_the_quantizer_and_buffers_that_are_not_saved(monkeypatch):
    class Scaled(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.register_buffer("by", torch.full((4,), by), persistent=False)

        def forward(self, x):
            return x * self.by

    def of(by, quantization):
        return content_hash(Scaled(by), (1, 4), quantization)

    assert of(1.0, "fp32") == of(1.0, "fp32") != of(2.0, "fp32")
    before = {q: of(1.0, q) for q in convert.QUANTIZATIONS}
    version = convert.version
    monkeypatch.setattr(convert, "version", lambda name: "99" if name == "ai-edge-quantizer" else version(name))
    assert [q for q in convert.QUANTIZATIONS if of(1.0, q) != before[q]] == ["fp16", "dynamic", "int8"]
    assert convert.versions("fp32") == f"litert-torch {version('litert-torch')}"
    assert convert.versions("int8").endswith(", ai-edge-quantizer 99")


def _zero(channels):
    from latency.ops import Zero

    return Zero(in_channels=8, out_channels=channels, height=16, width=16)


def test_folding_changes_neither_output_nor_the_module():
    module = lived_in(build_network(CHAIN)).eval()
    x = torch.randn(OPS[0].input_shape)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    folded = fold_batch_norms(module)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), module(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_without_the_converter_the_message_says_what_to_install(cache, monkeypatch):
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceUnavailable, match=r"metronome-nas\[tflite\]"):
        to_tflite(lived_in(build(OPS[0]), seed=9), OPS[0].input_shape)


@needs_converter
def test_mistakes_are_named(cache):
    with pytest.raises(DeviceError, match="one of fp32, fp16, dynamic, int8"):
        to_tflite(build(OPS[0]), OPS[0].input_shape, "int4")
    module = build(OPS[0])
    module.hook = lambda: None
    with pytest.raises(DeviceError, match=r"Conv2d\(.*cannot be sent to the converter"):
        to_tflite(module, OPS[0].input_shape)


def test_importing_the_device_module_imports_no_torch():
    import subprocess

    code = "import sys, devices.convert; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
