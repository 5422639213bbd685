"""One contract test over all device files; what is not attached skips, with the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import devices
from devices.base import Device, DeviceError, DeviceUnavailable, Session
from devices.onnx_cpu import export_onnx
from devices.replay import ReplayDevice, Script, read_recording
from devices.spec import SpecError, read
from latency import profile
from latency.modules import build
from latency.ops import Conv2d, mbconv

OP = Conv2d(in_channels=3, out_channels=8, height=16, width=16, kernel=3)


@pytest.mark.parametrize("name", devices.names())
def test_contract(name):
    try:
        device = devices.load(name)
    except DeviceUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    assert isinstance(device, Device)
    fingerprint = device.describe()
    assert fingerprint == device.describe()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    session = device.prepare(build(OP), OP.input_shape)
    assert isinstance(session, Session)
    assert session.time_s(1) > 0
    assert session.time_s(3) > 0
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.time_s(1)


def test_timing_leaves_the_arithmetic_of_this_process_alone():
    """onnxruntime's set_denormal_as_zero would make 1e-310 zero in all later code of this thread."""
    session = devices.load("cpu").prepare(build(OP), OP.input_shape)
    session.time_s(2)
    session.close()
    assert np.float64(1e-310) * 0.5 > 0


def test_unknown_device_names_the_known_ones():
    with pytest.raises(devices.UserError, match=r"did you mean 'cpu'\? known: .*replay"):
        devices.load("cpuu")


@pytest.mark.parametrize("stem", ["mine", "cpu"])  # of a name of its own, and of a shipped one's
def test_doctor_looks_at_the_file_it_is_given(tmp_path, capsys, stem):
    path = tmp_path / f"{stem}.toml"
    path.write_text("runtime = 'onnx_cpu'\n[options]\nthreads = 2\n")
    code = profile.main(["--doctor", str(path)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "threads 2" in out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runtime = 'onnx_cpu'\n[options]\nthread = 2", "unknown option 'thread': did you mean 'threads'?"),
        ("runtime = 'onnx_cpu'\n[options]\nthreads = 'two'", "must be of type int"),
        ("runtime = 'onnx_cpu'\n[options]\nthreads = 0", "at least 1"),
        ("runtime = 'onyx'", "onnx_cpu"),
        ("colour = 'red'", "unknown field 'colour'"),
        ("runtime = ", "not TOML"),
    ],
)
def test_bad_device_files(tmp_path, text, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(devices.UserError) as error:
        devices.load(str(path))
    assert says in str(error.value)
    assert "mine.toml" in str(error.value)


def test_missing_device_file(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        read(tmp_path / "none.toml")


def test_export_agrees_with_torch(tmp_path):
    import onnxruntime

    op = mbconv(8, 8, 12, kernel=5, stride=1, expand=3)
    module = build(op)
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    model = export_onnx(module, op.input_shape, tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").read_bytes() == model
    assert module.training, "export must leave the module's mode as it was"
    x = torch.randn(op.input_shape)
    (out,) = onnxruntime.InferenceSession(model).run(None, {"input": x.numpy()})
    with torch.no_grad():
        assert np.allclose(out, module.eval()(x).numpy(), atol=1e-4)


class Named(torch.nn.Module):
    def __init__(self, key):
        super().__init__()
        self.key = key


def test_replay_plays_what_was_recorded(tmp_path):
    path = tmp_path / "rec.json"
    path.write_text(json.dumps({"a": 0.5, "b": 0.25}))
    spec = tmp_path / "dev.toml"
    spec.write_text(f"runtime = 'replay'\n[options]\nrecording = '{path}'\nnoise_cv = 0.0")
    device = devices.load(str(spec))
    assert device.prepare(Named("a"), (1,)).time_s(4) == 2.0
    assert device.prepare(Named("a > b"), (1,)).time_s(1) == 0.75
    with pytest.raises(DeviceError, match="no recorded seconds for c"):
        device.prepare(Named("a > c"), (1,))


def test_replay_injects_what_the_script_says():
    device = ReplayDevice(lambda key: 1.0, Script(slow_start_s=3.0, faults={4: DeviceError("gone")}))
    session = device.prepare(Named("x"), (1,))
    assert [session.time_s(1) for _ in range(3)] == [2.0, 2.0, 1.0]
    with pytest.raises(DeviceError, match="gone"):
        session.time_s(1)
    noisy = ReplayDevice(lambda key: 1.0, Script(noise_cv=0.27), seed=1).prepare(Named("x"), (1,))
    samples = np.array([noisy.time_s(1) for _ in range(4000)])
    assert samples.std() / samples.mean() == pytest.approx(0.27, rel=0.1)
    assert np.median(samples) == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not JSON"), ("[]", "JSON object"), ('{"a": -1}', "a: -1 is not"), ('{"a": NaN}', "not a positive")],
)
def test_bad_recordings(tmp_path, text, says):
    path = tmp_path / "rec.json"
    path.write_text(text)
    with pytest.raises(DeviceError) as error:
        read_recording(path)
    assert says in str(error.value)
