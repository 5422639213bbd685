"""latency.predict end to end: a predictor of kernels with a known truth, coverage, exit codes, warnings, JSON."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from devices.onnx_cpu import export_onnx
from latency import kernel_space, predict
from latency.flops import bytes_moved, macs
from latency.joint import Observation
from latency.kernel_fit import fit_kernels
from latency.kernel_networks import build_draw
from latency.kernel_profile import Network
from latency.kernel_refine import expected_errors, most_uncertain
from latency.kernel_space import ZOO, draw
from latency.kernels import DenseConv
from latency.onnx_graph import KernelNode, kernels_of
from latency.ops import mbconv
from latency.predictor import load_predictor
from latency.space import Architecture
from latency.table import Row
from tests.conftest import ROOT

FAMILIES = ("resnet18", "mobilenetv2", "vgg", "mobilenetv3")


def truth_s(op) -> float:
    """2 us a kernel, 0.02 ns a MAC, 0.1 ns a byte."""
    return 2e-6 + 2e-11 * macs(op) + 1e-10 * bytes_moved(op)


def drawn(n, seed=0, families=FAMILIES):
    rng = random.Random(seed)
    torch.manual_seed(0)
    found = []
    for i in range(n):
        with pytest.MonkeyPatch.context() as of:
            of.setattr(kernel_space, "WITH_EXTRAS", 0.0)
            made = draw(rng, next(f for f in ZOO if f.name == families[i % len(families)]))
        made = type(made)(**{**made.__dict__, "resolution": 64 + 32 * (i % 2)})
        module, shape = build_draw(made)
        found.append(Network(made, kernels_of(export_onnx(module, shape))))
    return found


@pytest.fixture(scope="module")
def networks():
    return drawn(12)


@pytest.fixture(scope="module")
def predictor(networks, tmp_path_factory):
    rng = np.random.default_rng(0)
    ops = dict.fromkeys(op for n in networks for op in n.ops)
    rows = [Observation((op,), truth_s(op) * float(np.exp(rng.normal(0, 0.01))), 0.01 * truth_s(op)) for op in ops]
    for n in networks:
        s = 1e-4 + sum(map(truth_s, n.ops))
        rows.append(Observation(n.ops, s, 0.002 * s))
    fitted, details = fit_kernels("cpu", rows, provenance={"fingerprint": {"runtime": "onnxruntime 1.32.0"}})
    assert len(details.test_ops) == len(networks)
    path = tmp_path_factory.mktemp("p") / "cpu.pkl"
    fitted.save(path)
    assert path.stat().st_size < 1_000_000
    return load_predictor(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A residual network whose kernels are like those measured."""
    layers = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for _ in range(3):
        layers += [nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 100))
    path = tmp_path_factory.mktemp("m") / "model.onnx"
    export_onnx(module, (1, 3, 96, 96), path)
    return module, path


def call(args, capsys):
    code = predict.main([str(a) for a in args])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_truth_is_found_again(predictor, networks):
    """Kernels of networks never seen, of the same families: the made-up truth within a few per cent."""
    errors = predictor.provenance["errors"]
    assert errors["op_mape"] < 0.1
    assert errors["network_mape"] < 0.1
    off = []
    for network in drawn(8, seed=9):
        if all(predictor.covers_kind(op) for op in network.ops):
            found, std = predictor.network_s(network.ops)
            off.append(found / (1e-4 + sum(map(truth_s, network.ops))) - 1)
            assert std > 0
    assert len(off) >= 2
    assert np.abs(off).max() < 0.15


def test_a_model_is_predicted_and_the_sum_is_that_of_its_kernels(predictor, model, capsys):
    module, path = model
    code, out, err = call([path, "--predictor", predictor.path], capsys)
    assert code == 0, out + err
    assert "covered: 100.0% of the nodes, 100.0% of" in out
    assert "costliest of" in out
    assert "predicted" in out
    found = predict.predict_onnx(path, predictor)
    assert found.seconds == pytest.approx(predictor.constant_s + sum(n.seconds for n in found.nodes))
    assert found.covered_nodes == found.covered_macs == 1.0
    assert sum(n.macs for n in found.nodes if n.op.startswith(("Dense", "Gemm"))) == (
        48 * 48 * 32 * 27 + 3 * 24 * 24 * 32 * 32 * 9 + 3200
    )
    again = predict.predict_module(module, (1, 3, 96, 96), predictor)
    assert (again.seconds, again.std_s) == (found.seconds, found.std_s)
    assert not found.uncovered


def test_json_is_one_line_with_the_same_numbers(predictor, model, capsys):
    code, out, _ = call([model[1], "--predictor", predictor.path, "--json", "--top", 2], capsys)
    assert code == 0
    content = json.loads(out)
    assert set(content) == {
        "device", "predicted_ms", "std_ms", "kernels", "covered_nodes", "covered_macs", "macs", "uncovered", "outside",
        "disagreement", "costliest",
    }  # fmt: skip
    assert content["predicted_ms"] == pytest.approx(predict.predict_onnx(model[1], predictor).seconds * 1e3)
    assert len(content["costliest"]) == 2
    assert content["costliest"][0]["ms"] >= content["costliest"][1]["ms"]


def test_what_is_not_covered_is_listed_and_the_exit_code_is_3(predictor, tmp_path, capsys):
    """A transposed convolution and a tanh: neither is in the networks of the fit."""
    path = tmp_path / "odd.onnx"
    module = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 32, 2, 2), nn.Tanh())
    export_onnx(module, (1, 3, 64, 64), path)
    code, out, err = call([path, "--predictor", predictor.path], capsys)
    assert code == predict.NOT_COVERED == 3
    assert "NOT COVERED: /2/ConvTranspose" in out
    assert "was fitted on" in out
    assert "at least" in out
    assert "kernels are missing from the sum" in err
    code, out, _ = call([path, "--predictor", predictor.path, "--allow-partial", "--json"], capsys)
    assert code == 0
    content = json.loads(out)
    assert {u["op"].split("(")[0] for u in content["uncovered"]} == {"TransposedConv", "Activation"}
    assert content["predicted_ms"] > 0
    assert content["covered_nodes"] == pytest.approx(2 / 4)  # Conv and Relu
    conv, up = 32 * 32 * 32 * 27, 32 * 32 * 32 * 32 * 4
    assert content["covered_macs"] == pytest.approx(conv / (conv + up))


def test_beyond_what_was_measured_a_warning_names_the_feature(predictor, tmp_path, capsys, monkeypatch):
    path = tmp_path / "wide.onnx"
    export_onnx(nn.Sequential(nn.Conv2d(3, 4096, 3, 2, 1), nn.ReLU()), (1, 3, 64, 64), path)
    code, _, err = call([path, "--predictor", predictor.path], capsys)
    assert code == 0
    assert "warning: log_out: " in err
    assert "lie outside what was measured" in err
    monkeypatch.setattr(predict, "DISAGREE", 0.001)
    _, _, err = call([path, "--predictor", predictor.path], capsys)
    assert "warning: its kernels are unlike those measured: the models that F is the mean of part by" in err


def test_few_networks_leave_kernels_their_own_errors(networks):
    """Too few to say how far sums are off; a measured kernel is no less known for it."""
    some = networks[:4]
    ops = list(dict.fromkeys(op for n in some for op in n.ops))
    rows = [Observation((op,), truth_s(op), 0.01 * truth_s(op)) for op in ops]
    rows += [Observation(n.ops, 1e-4 + sum(map(truth_s, n.ops)), 1e-6) for n in some]
    few, _ = fit_kernels("cpu", rows, provenance={"fingerprint": {"runtime": "onnxruntime 1.32.0"}})
    known = [op for op in ops if few.covers_kind(op)]
    seconds, std = few.predict_s(known, return_std=True)
    off = np.abs(seconds / np.array([truth_s(op) for op in known]) - 1)
    assert np.median(std / seconds) < 0.3
    assert np.mean(off <= 3 * std / seconds) > 0.95
    total, total_std = few.network_s(known)
    assert 0.05 < total_std / total < 0.3


def test_how_far_models_part_about_kernels_unlike_those_measured(predictor, networks, model, capsys):
    ops = next(n.ops for n in networks if all(predictor.covers_kind(op) for op in n.ops))
    measured = predict.predict_kernels([KernelNode(str(i), "", op, ("n",)) for i, op in enumerate(ops)], predictor)
    assert measured.disagreement < 0.02, "all of them are in the table"
    wide = [
        KernelNode("0", "", DenseConv(in_channels=8, out_channels=8, height=8, width=900, kernel=3, act="relu"), ("n",))
    ]
    assert predict.predict_kernels(wide, predictor).disagreement > 2 * measured.disagreement
    blocks = load_predictor(ROOT / "tables" / "pixel1.pkl")
    op = mbconv(24, 24, 56, kernel=5, stride=1, expand=3)
    assert predict.predict_kernels([KernelNode("0", "", op, ("n",))], blocks).disagreement is None
    _, out, _ = call([model[1], "--predictor", predictor.path, "--json"], capsys)
    assert 0 <= json.loads(out)["disagreement"] < 0.1


def test_a_predictor_of_blocks_says_what_to_do(model, capsys):
    code, out, _ = call([model[1], "--predictor", ROOT / "tables" / "pixel1.pkl"], capsys)
    assert code == 3
    assert "nothing is covered" in out
    assert "--space kernels" in out


def test_an_architecture_of_a_search_by_its_blocks_or_by_its_kernels(predictor, tmp_path, capsys):
    ops = (mbconv(24, 24, 56, kernel=3, stride=1, expand=3), mbconv(24, 24, 56, kernel=5, stride=1, expand=3))
    path = tmp_path / "architecture.json"
    path.write_text(Architecture("small", (0, 1), ops).to_json())
    pixel = load_predictor(ROOT / "tables" / "pixel1.pkl")
    assert predict.predict_architecture(path, pixel).seconds == pixel.network_s(ops)[0]
    by_kernels = predict.predict_architecture(path, predictor)
    assert {n.op.split("(")[0] for n in by_kernels.nodes} >= {"Pointwise", "Depthwise"}
    code, _, err = call([path, "--predictor", predictor.path, "--input-shape", "x=1,3,4,4"], capsys)
    assert code == 2
    assert "goes with ONNX models" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere.onnx", "--predictor", "{pkl}"], "nowhere.onnx: No such file"),
        (["{model}", "--predictor", "nowhere.pkl"], "nowhere.pkl: No such file"),
        (["{model}", "--predictor", "{pkl}", "--input-shape", "1,3,4,4"], "--input-shape 1,3,4,4: expected NAME=1,3,224,224"),
        (["{model}", "--predictor", "{pkl}", "--input-shape", "input=1,0,4,4"], "expected NAME="),
        (["{model}", "--predictor", "{pkl}", "--input-shape", "imput=1,3,96,96"], "no input 'imput': did you mean 'input'?"),
        (["{model}", "--predictor", "{pkl}", "--top", "-1"], "--top -1 must be at least 0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(args, says, predictor, model, capsys):
    filled = [a.format(pkl=predictor.path, model=model[1]) for a in args]
    code, _, err = call(filled, capsys)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_refinement_prefers_networks_of_kernels_that_are_known_badly(networks):
    """Depthwise kernels follow no rule, pointwise ones do: networks with most time in depthwise ones are wanted."""
    rng = np.random.default_rng(0)

    def noisy(op):
        return type(op).__name__ == "Depthwise"

    kept = [
        Network(n.draw, tuple(k for k in n.kernels if type(k.op).__name__ in ("Depthwise", "Pointwise")))
        for n in networks
    ]
    kept = [n for n in kept if n.kernels]
    ops = list(dict.fromkeys(op for n in kept for op in n.ops))
    rows = []
    for op in ops:
        s = truth_s(op) * (float(np.exp(rng.normal(0, 1.0))) if noisy(op) else 1.0)
        rows.append(Row(str(op), "op", 10, s, s, s, s, s, 0.0, (), 1))
    _, error = expected_errors([(r.ops[0], r.median_s) for r in rows], ops)
    wild = np.array([noisy(op) for op in ops])
    assert np.median(error[wild]) > 3 * np.median(error[~wild])
    chosen = most_uncertain(kept, 3, rows)

    def share(n):
        return sum(truth_s(op) for op in n.ops if noisy(op)) / sum(map(truth_s, n.ops))

    assert len(chosen) == 3
    assert np.mean([share(n) for n in chosen]) > 1.3 * np.mean([share(n) for n in kept])


def test_profile_of_kernels_end_to_end_on_this_cpu(tmp_path, capsys, monkeypatch):
    """Two lots of three networks on the real runtime: rows for networks and their kernels, nothing twice; then a fit."""
    pytest.importorskip("onnxruntime")
    from latency import fit, kernel_profile, kernel_times, profile
    from latency.table import LatencyTable

    monkeypatch.setattr(kernel_profile, "LOT", 3)
    monkeypatch.setattr(kernel_profile, "POOL", 1.4)
    small = tuple(f for f in ZOO if f.name in ("resnet18", "mobilenetv2"))
    monkeypatch.setattr(kernel_space, "ZOO", small)
    monkeypatch.setattr(kernel_space, "OTHERS", 0.0)
    monkeypatch.setattr(kernel_space, "WITH_EXTRAS", 0.0)  # of these not every kernel is found in the profile
    table = tmp_path / "cpu.csv"
    args = ["--space", "kernels", "--networks", 6, "--budget-min", 0.08, "--out", table, "--target-ci", 0.2]
    args = list(map(str, args))
    assert profile.main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["networks"] == 6
    kept = LatencyTable(table)
    rows, sessions = kept.rows(), kept.provenance()["sessions"]
    networks = [r for r in rows if r.kind == "network"]
    alone = {r.ops[0]: r for r in rows if r.kind == "op"}
    drawn = {op for r in networks for op in r.ops}
    assert set(alone) <= drawn
    assert len(alone) > 0.95 * len(drawn), "nearly every kernel of every network has a row"
    assert [s["kernel_lot"] for s in sessions] == [0, 1]
    assert all(s["kernels"] >= s["kernels_named"] > 0.95 * s["kernels"] for s in sessions)
    assert all(s["time_named"] == pytest.approx(1.0, abs=0.02) for s in sessions)
    before = table.read_bytes()
    assert profile.main(args) == 0
    assert table.read_bytes() == before, "a second run adds nothing"
    capsys.readouterr()
    with monkeypatch.context() as of:
        of.setattr(kernel_times, "DRAWING", 99)
        for command, given in ((profile, args), (fit, [str(table)])):
            assert command.main(given) == 2
            assert "is of random networks as another version drew" in capsys.readouterr().err
    assert fit.main([str(table), "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["ops"] == len(alone)
    assert fitted["network_mape"] > 0
    shown = load_predictor(table.with_suffix(".pkl"))
    assert {"DenseConv", "Pointwise", "Copy"} <= set(shown.kinds)
    assert shown.provenance["fingerprint"]["runtime"].startswith("onnxruntime")
    assert table.with_suffix(".html").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--networks", "0"], "--networks must be at least 1"),
        (["--few", "3"], "--few and --prior go with a search space"),
    ],
)
def test_profile_of_kernels_says_what_does_not_go(args, says, tmp_path, capsys):
    from latency import profile

    assert profile.main(["--space", "kernels", "--out", str(tmp_path / "t.csv"), *args]) == 2
    assert says in capsys.readouterr().err
