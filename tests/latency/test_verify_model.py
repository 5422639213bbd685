"""latency.verify of an ONNX file: on a device whose truth is known kernel by kernel, and on this CPU."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import devices
from devices.base import DeviceError
from devices.onnx_cpu import export_onnx
from devices.onnx_model import OnnxModel, example
from latency import kernel_profile, pickles, verify
from latency.disagree import Verdict
from latency.flops import macs
from latency.kernel_match import match
from latency.kernel_networks import build_draw
from latency.kernel_space import ZOO, draw
from latency.onnx_file import runnable_onnx
from latency.onnx_graph import kernels_of
from latency.predict import predict_onnx
from latency.predictor import LatencyPredictor, load_predictor
from latency.verify_kernels import compare
from tests.latency.conftest import kinds_by_macs

UNKNOWN_S = 5e-5  # what the device takes for a kernel that the vocabulary lacks


def truth_s(op) -> float:
    """2 us a kernel and 0.02 ns a MAC; what the predictor below says."""
    return UNKNOWN_S if op is None else 2e-6 + 2e-11 * macs(op)


def small(rng):
    """A random network of two families and their own blocks, small enough to be built in no time."""
    name = rng.choice(["resnet18", "mobilenetv2"])
    family = next(f for f in ZOO if f.name == name)
    made = draw(rng, family)
    stages = tuple((row[0], rng.choice((24, 40, 56)), rng.randint(1, 2), row[3]) for row in family.stages[:2])
    return replace(made, resolution=48, across=48, in_channels=3, stem_channels=24, head="pool", stages=stages)


@pytest.fixture(scope="module")
def predictor_pkl(tmp_path_factory):
    """A predictor that says `truth_s`, of all kinds and values that the small networks and the model have."""
    rng = random.Random(1)
    modules = [build_draw(small(rng)) for _ in range(12)] + [(network(), (1, 3, 32, 32))]
    found = kinds_by_macs((k.op for m, shape in modules for k in kernels_of(export_onnx(m, shape))), 2e-6, 2e-11, 0.02)
    path = tmp_path_factory.mktemp("p") / "cpu-kernels.pkl"
    fingerprint = {"runtime": "onnxruntime 1.32.0"}
    LatencyPredictor("cpu", found, network_rel_std=0.02, provenance={"fingerprint": fingerprint}).save(path)
    return path


def network(extra=None):
    """A few convolutions, two of them alike."""
    layers = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()]
    layers += [nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, *([extra] if extra else []), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Sums(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


class TruthDevice:
    """onnxruntime runs what it is given; the seconds told are `factor(kernel)` times the truth."""

    def __init__(self, factor):
        self._cpu, self._factor = devices.open_spec(devices.find("cpu")), factor

    def describe(self):
        return {"runtime": "onnxruntime 1.32.0"}

    def prepare(self, module, input_shape):
        return TruthSession(export_onnx(module, input_shape), self._factor)

    def prepare_profiled(self, module, input_shape):
        model = export_onnx(module, input_shape)
        return TruthSession(model, self._factor, self._cpu.prepare_model(OnnxModel(model), profiled=True))

    def prepare_model(self, model, profiled=False):
        real = self._cpu.prepare_model(model, profiled=True) if profiled else None
        return TruthSession(model.model, self._factor, real)


class TruthSession:
    def __init__(self, model, factor, profiled=None):
        self._kernels, self._real = kernels_of(model), profiled
        self._seconds = {k.name: truth_s(k.op) * factor(k) for k in self._kernels}

    def time_s(self, loops):
        if self._real is not None:
            self._real.time_s(loops)
        return sum(self._seconds.values()) * loops

    def kernel_runs(self):
        runs = self._real.kernel_runs()
        of = {id(run): self._seconds[k.name] for k, run in match(self._kernels, runs)}
        return [replace(r, seconds=(of.get(id(r), UNKNOWN_S),) * len(r.seconds)) for r in runs]

    def close(self):
        if self._real is not None:
            self._real.close()


@pytest.fixture
def run(tmp_path, predictor_pkl, monkeypatch, capsys):
    """Run latency.verify --model on a device where each kernel takes `factor(kernel)` times what is predicted."""

    def go(factor, *args, module=None, random_networks=3):
        monkeypatch.setattr(devices, "load", lambda name, **options: TruthDevice(factor))
        monkeypatch.setattr(kernel_profile, "draw", small)
        export_onnx(module or network(), (1, 3, 32, 32), tmp_path / "net.onnx")
        code = verify.main(
            ["--model", str(tmp_path / "net.onnx"), "--predictor", str(predictor_pkl), "--budget-min", "0.05",
             "--random", str(random_networks), "--json", *args]
        )  # fmt: skip
        out = capsys.readouterr()
        return code, json.loads(out.out) if code in (0, 3) else None, out.err

    return go


def test_a_model_that_is_as_predicted(run, tmp_path, predictor_pkl):
    code, result, err = run(lambda k: 1.0)
    assert code == 0
    assert result["gap"] == "none"
    assert result["predicted_by"] == "kernels"
    assert result["predicted_ms"] == pytest.approx(result["measured_ms"], rel=0.01)
    told = predict_onnx(tmp_path / "net.onnx", load_predictor(predictor_pkl))
    assert result["predicted_ms"] == pytest.approx(told.seconds * 1e3)
    assert result["kernels_off"] == result["uncovered"] == []
    assert "no kernel is off" in err
    kept = json.loads((tmp_path / "net.verify.json").read_text())
    assert len(kept["random"]) == 3
    assert sum(len(names) * ms for names, _, _, ms, *_ in kept["kernels"]) == pytest.approx(
        result["measured_ms"], rel=0.02
    ), "the kernels of the model sum to it"
    assert max(len(names) for names, *_ in kept["kernels"]) == 2, "equal ops are told together"


def test_a_slower_device_is_a_scale_and_no_kernels_fault(run, tmp_path, predictor_pkl):
    out = tmp_path / "new.pkl"
    code, result, _ = run(lambda k: 1.3, "--recalibrate", "--out", str(out))
    assert code == 0
    assert result["gap"] == "scale"
    assert result["scale"] == pytest.approx(1.3, rel=0.01)
    assert result["kernels_off"] == []
    assert load_predictor(out).scale == pytest.approx(1.3 * load_predictor(predictor_pkl).scale, rel=0.01)


def test_a_predictor_of_before_is_read_with_caution(run, predictor_pkl):
    content = pickles.load(predictor_pkl)
    pickles.dump(predictor_pkl, content | {"schema": 5})
    try:
        assert "profile with --space kernels and fit anew" in run(lambda k: 1.0)[2]
    finally:
        pickles.dump(predictor_pkl, content)
    assert "fit anew" not in run(lambda k: 1.0)[2]


def test_the_kernel_that_is_off_is_named_with_what_it_adds(run, tmp_path):
    code, result, err = run(lambda k: 4.0 if k.op is not None and k.op.out_channels == 64 and macs(k.op) > 1e6 else 1.0)
    assert code == 0
    (name,) = result["kernels_off"]
    kept = json.loads((tmp_path / "net.verify.json").read_text())
    names, op, predicted_ms, measured_ms, off, adds_ms, far = kept["kernels"][0]
    assert names == [name]
    assert "out_channels=64" in op
    assert far
    assert measured_ms / predicted_ms == pytest.approx(4.0, rel=0.03)
    assert off == pytest.approx(3.0, rel=0.05)
    assert adds_ms == pytest.approx(measured_ms - predicted_ms, rel=0.05)
    assert "kernels that are off" in err


def test_without_random_networks_the_middle_kernel_is_the_measure(run):
    code, result, err = run(
        lambda k: 1.5 * (3.0 if k.op is not None and k.op.in_channels == 3 else 1.0), random_networks=0
    )
    assert code == 0
    assert result["gap"] == "unknown"
    assert len(result["kernels_off"]) == 1
    assert "beside the middle kernel" in err


def test_kernels_that_are_not_covered_are_listed_and_exit_3(run):
    code, result, err = run(lambda k: 1.0, module=network(Sums()))
    assert code == 3
    assert [u["why"] for u in result["uncovered"]] == ["no kernel for CumSum"]
    assert "NOT COVERED" in err
    assert result["gap"] == "none", "judged by the networks that are covered whole"
    assert result["predicted_ms"] + UNKNOWN_S * 1e3 == pytest.approx(result["measured_ms"], rel=0.02)
    assert result["kernels_off"] == [], "what is missing is not laid at the door of the others"
    code, _, err = run(lambda k: 1.0, module=network(Sums()), random_networks=0)
    assert code == 2
    assert "--random 8" in err


def test_the_same_networks_every_time_none_of_a_profile(run, monkeypatch):
    seen = []
    real = kernel_profile.drawn_networks
    monkeypatch.setattr(
        "latency.verify_model.drawn_networks", lambda n, rng, *a: seen.append(rng.getstate()) or real(n, rng, *a)
    )
    for _ in range(2):
        run(lambda k: 1.0, "--no-blocks")
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert all(random.Random(f"0/{lot}").getstate() not in seen for lot in range(50))


def test_no_blocks_compares_no_kernels(run, tmp_path):
    code, result, _ = run(lambda k: 1.0, "--no-blocks")
    assert code == 0
    assert json.loads((tmp_path / "net.verify.json").read_text())["kernels"] == []
    assert result["kernels_named"] == 0.0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "--arch architecture.json or --model model.onnx: one of the two"),
        (["--model", "net.onnx", "--arch", "a.json"], "one of the two"),
        (["--model", "net.onnx", "--space", "fbnet"], "--space goes with --arch"),
        (["--arch", "a.json", "--input-shape", "x=1,3,8,8"], "--input-shape goes with --model"),
        (["--model", "net.onnx", "--random", "-1"], "--random at least 0"),
        (["--model", "net.onnx", "--recalibrate", "--random", "1"], "--recalibrate needs --random 2"),
        (["--model", "net.onnx", "--device", "tflite"], "--model goes with cpu, cpu-int8"),
        (["--model", "net.onnx", "--device", "pixel1"], "device pixel1 (runtime android) does not run ONNX files"),
        (["--model", "net.onnx", "--serial", "A"], "--serial goes with phones"),
        (["--model", ""], "--model '' names no file"),
        (["--arch", "."], "--arch '.' names no file"),
        (["--model", "none.onnx"], "none.onnx: No such file"),
        (["--model", "text.onnx"], "text.onnx: not an ONNX model"),
        (["--model", "cut.onnx"], "cut.onnx: not an ONNX model, or a damaged one"),
        (["--model", "dynamic.onnx"], "fix it with --input-shape image=1,3,224,224"),
        (["--model", "net.onnx", "--input-shape", "x=1,3,32,32"], "no input 'x'"),
        (["--model", "net.onnx", "--input-shape", "input=3;3"], "expected NAME=1,3,224,224"),
        (["--model", "net.onnx", "--predictor", "blocks.pkl"], "none of its"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(args, says, tmp_path, monkeypatch, predictor_pkl, capsys):
    monkeypatch.chdir(tmp_path)
    content = export_onnx(network(), (1, 3, 32, 32), tmp_path / "net.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "dynamic.onnx").write_bytes(dynamic())
    LatencyPredictor("cpu", {"MBConv": load_predictor(predictor_pkl).kinds["DenseConv"]}).save(tmp_path / "blocks.pkl")
    given = ["--predictor", str(predictor_pkl), *args] if "--predictor" not in args else args
    assert verify.main(given) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.json"))


def dynamic() -> bytes:
    model = onnx.load_model_from_string(export_onnx(nn.Conv2d(3, 8, 3, padding=1), (1, 3, 32, 32)))
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    for value in (model.graph.input[0], model.graph.output[0]):
        for i, size in ((0, "n"), (2, "h"), (3, "w")):
            value.type.tensor_type.shape.dim[i].dim_param = size
    return model.SerializeToString()


def test_this_cpu_runs_models_of_any_inputs(tmp_path, predictor_pkl, capsys):
    """Whole numbers in, an output whose size the data decides, a dynamic shape that is fixed, weights beside it."""

    class Ids(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(50, 64), nn.Linear(64, 400)

        def forward(self, ids, scale):
            y = self.out(self.table(ids)) * scale
            return y, torch.nonzero(y > 0)

    cpu = devices.load("cpu")
    torch.onnx.export(Ids().eval(), (torch.ones(1, 7, dtype=torch.long), torch.ones(1)), str(tmp_path / "ids.onnx"),
                      dynamo=False, opset_version=17, input_names=["ids", "scale"],
                      dynamic_axes={"ids": {1: "length"}})  # fmt: skip
    session = cpu.prepare_model(OnnxModel(runnable_onnx(tmp_path / "ids.onnx", {"ids": (1, 5)})))
    assert session.time_s(3) > 0
    session.close()
    with pytest.raises(DeviceError, match="its shape is not fixed"):
        cpu.prepare_model(OnnxModel((tmp_path / "ids.onnx").read_bytes()))
    whole = onnx.load(tmp_path / "ids.onnx")
    onnx.save(whole, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.bin", size_threshold=0)
    apart = OnnxModel(runnable_onnx(tmp_path / "apart.onnx", {"ids": (1, 5)}), tmp_path)
    session = cpu.prepare_model(apart, profiled=True)
    session.time_s(4)
    assert len(session.kernel_runs()) > 2
    session.close()
    (tmp_path / "apart.bin").unlink()
    with pytest.raises(devices.UserError, match=r"its weights are in a file 'apart.bin' that is not beside it"):
        runnable_onnx(tmp_path / "apart.onnx", {"ids": (1, 5)})
    with pytest.raises(DeviceError, match="one input, of fp32"):
        devices.load("cpu-int8").prepare_model(OnnxModel(whole.SerializeToString()))
    (tmp_path / "net.onnx").write_bytes(dynamic())
    args = ["--model", tmp_path / "net.onnx", "--input-shape", "image=1,3,32,32", "--predictor", predictor_pkl,
            "--random", 0, "--budget-min", 0.02, "--json"]  # fmt: skip
    assert verify.main([str(a) for a in args]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["measured_ms"] > 0
    assert result["kernels_named"] > 0.9


def test_an_int8_device_times_a_model_of_its_own_input_name():
    model = OnnxModel(dynamic())
    fixed = onnx.load_model_from_string(model.model)
    for i, size in ((0, 1), (2, 32), (3, 32)):
        fixed.graph.input[0].type.tensor_type.shape.dim[i].dim_value = size
    session = devices.load("cpu-int8").prepare_model(OnnxModel(fixed.SerializeToString()))
    assert session.time_s(2) > 0
    session.close()


def test_inputs_are_numbers_of_their_type():
    assert example("x", "tensor(float16)", [2, 3]).dtype == np.float16
    assert (example("ids", "tensor(int64)", [4]) == 1).all()
    assert example("mask", "tensor(bool)", []).item() is True
    with pytest.raises(DeviceError, match="only tensors of numbers"):
        example("text", "tensor(string)", [1])


def test_what_random_networks_are_off_by_is_no_kernels_fault(predictor_pkl):
    predictor = load_predictor(predictor_pkl)
    nodes = kernels_of(export_onnx(network(), (1, 3, 32, 32)))
    times = [(k, np.full(20, 1.5 * truth_s(k.op) * (2 if k.op.in_channels == 3 else 1))) for k in nodes]
    others = [Verdict(str(i), 1.0, 0.02, 1.5, (1.49, 1.51)) for i in range(3)]
    found = compare(times, predictor, others)
    (far,) = (k for k in found if k.block.far)
    assert far.block.op.in_channels == 3
    assert far.lost_s == pytest.approx(1.5 * truth_s(far.block.op), rel=0.02)
    assert far.errors > 3
    assert sum(k.lost_s for k in found) == pytest.approx(far.lost_s, rel=0.02)
