"""Why measured and predicted disagree: on the scripted device, whose truth is known."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from devices.onnx_cpu import export_onnx
from devices.replay import ReplayDevice
from latency import fit, in_context, profile, verify
from latency.device_state import state_differences, states
from latency.disagree import Block, Verdict, judge, judge_blocks, recalibrated, shared_by
from latency.fitting import fit_predictor
from latency.joint import Observation
from latency.modules import build_network
from latency.onnx_graph import kernels_of
from latency.predict import predict_architecture
from latency.predictor import LatencyPredictor, load_predictor
from tests.latency.conftest import kinds_by_macs, small_space, true_s


@pytest.fixture(scope="module")
def predictor_of_truth():
    """Fitted on ops and networks of `true_s`, with the fingerprint of the replay device below."""
    space, rng, noisy = small_space(), random.Random(0), np.random.default_rng(0)
    ops = [Observation((op,), true_s(op), 2e-3 * true_s(op)) for op in space.unique_ops()]
    chains = [space.random(rng).ops for _ in range(30)]
    nets = [
        Observation(c, sum(map(true_s, c)) * float(np.exp(5e-3 * noisy.standard_normal())), 2e-3 * sum(map(true_s, c)))
        for c in chains
    ]
    fingerprint = {"device": "slow", "runtime": "replay", "noise_cv": 0.02}
    return fit_predictor("slow", ops + nets, folds=3, provenance={"fingerprint": fingerprint})


@pytest.fixture
def run(tmp_path, space, space_py, predictor_of_truth, capsys):
    """Run latency.verify on a replay device whose op `op` takes `factor(op)` times the truth."""
    predictor_of_truth.save(tmp_path / "slow.pkl")
    arch = tmp_path / "architecture.json"
    arch.write_text(space.architecture([0, 1, 2, 3, 4]).to_json())

    def go(factor, *args, options=""):
        recording = {str(op): factor(op) * true_s(op) for op in space.unique_ops()}
        (tmp_path / "recording.json").write_text(json.dumps(recording))
        device = tmp_path / "slow.toml"
        device.write_text(
            f"runtime = 'replay'\n[options]\nrecording = '{tmp_path / 'recording.json'}'\nnoise_cv = 0.02\n{options}"
        )
        code = verify.main(
            ["--arch", str(arch), "--predictor", str(tmp_path / "slow.pkl"), "--device", str(device),
             "--space", space_py, "--budget-min", "0.03", "--json", *args]
        )  # fmt: skip
        out = capsys.readouterr()
        return code, json.loads(out.out) if code in (0, 3) else None, out.err

    return go


def test_the_same_device_agrees(run, tmp_path):
    code, result, err = run(lambda op: 1.0, "--recalibrate")
    assert code == 0
    assert result["gap"] == "none"
    assert result["blocks_off"] == result["differences"] == []
    assert "the predictor holds here" in err
    assert "no block is off" in err
    assert result["recalibrated"] is None
    assert not (tmp_path / "slow-recalibrated.pkl").exists()


def test_a_slower_device_is_a_constant_scale_and_is_recalibrated(run, tmp_path, space, predictor_of_truth):
    code, result, err = run(lambda op: 1.2, "--recalibrate")
    assert code == 0
    assert result["gap"] == "scale"
    assert result["scale"] == pytest.approx(1.2, rel=0.02)
    assert result["scale_interval"][0] < result["scale"] < result["scale_interval"][1]
    assert result["blocks_off"] == [], "a common factor is no block's fault"
    assert "the gap is a constant scale" in err
    made = load_predictor(tmp_path / "slow-recalibrated.pkl")
    assert result["recalibrated"] == str(tmp_path / "slow-recalibrated.pkl")
    for seed in range(20):
        ops = space.random(random.Random(100 + seed)).ops
        truth = 1.2 * sum(map(true_s, ops))
        seconds, std_s = made.network_s(ops)
        before, before_std_s = predictor_of_truth.network_s(ops)
        assert seconds == pytest.approx(truth, rel=0.03)
        assert std_s / seconds == pytest.approx(before_std_s / before), "what is not known of F stays so"
    (done,) = made.provenance["recalibrated"]
    assert done["mape_after"] < 0.03 < 0.1 < done["mape_before"]
    assert done["scale"] == pytest.approx(1.2, rel=0.02)
    assert made.provenance["errors"] == predictor_of_truth.provenance["errors"]


def test_blocks_of_a_kind_that_is_off_are_named(run, tmp_path):
    code, result, err = run(
        lambda op: 1.6 if op.kernel == 5 else 1.0, "--recalibrate", "--out", str(tmp_path / "n.pkl")
    )
    assert code == 3, "asked to recalibrate, and a factor would not mend it"
    assert result["gap"] == "mixed"
    assert len(result["blocks_off"]) == 2
    assert all("kernel=5" in text for text in result["blocks_off"])
    assert "kernel 5" in result["blocks_share"]
    assert "no constant scale" in err
    assert "no other block has: kernel 5" in err
    assert not (tmp_path / "n.pkl").exists()


def test_another_number_of_threads_is_named(run, tmp_path):
    code, result, err = run(lambda op: 1.0, options="threads = 4\n")
    assert code == 0
    assert result["differences"] == [
        "threads: table has None, here 4 (the number of threads changes ops by different factors: profile anew)"
    ]
    assert "fitted on another target: threads" in err
    kept = json.loads((tmp_path / "verify.json").read_text())
    assert kept["device"]["threads"] == 4
    assert len(kept["blocks"]) == 5
    assert kept["judged"]["networks"] == 9


def test_heat_and_clocks_of_the_table_are_compared(run, tmp_path, replay_toml, space_py, monkeypatch, capsys):
    """Profiled at 31 C, verified at 44 C, by the commands; the recalibrated predictor is one of 44 C."""

    def at(celsius, mhz=None):
        state = {"serial": "S3CRET", "heat": f"thermal status 0, CPU {celsius} C", "mhz_low_median_high": mhz}
        monkeypatch.setattr(ReplayDevice, "state", lambda self: state, raising=False)

    at(31, [1800, 2800, 2800])
    out = tmp_path / "slow.csv"
    args = ["--device", replay_toml, "--space", space_py, "--networks", 9, "--budget-min", 0.05, "--out", out]
    assert profile.main([str(a) for a in args]) == 0
    assert fit.main([str(out), "--out", str(tmp_path / "warm.pkl"), "--folds", "2", "--no-report"]) == 0
    assert b"S3CRET" not in (tmp_path / "warm.pkl").read_bytes(), "a predictor is passed on"
    assert load_predictor(tmp_path / "warm.pkl").provenance["device_state"][0]["heat"].endswith("31 C")
    capsys.readouterr()
    warm = ["--predictor", str(tmp_path / "warm.pkl")]
    _, result, _ = run(lambda op: 1.0, *warm)
    assert not any("temperature" in line for line in result["differences"])
    at(44, [1800, 1900, 2800])
    _, result, err = run(lambda op: 1.3, *warm, "--recalibrate")
    about = [line.partition(" (")[0] for line in result["differences"]]
    assert {"temperature: table at 31 C, here 44 C", "clock: table at 2800 MHz, here 1900 MHz"} <= set(about)
    assert "in another state than when it was profiled: temperature: table at 31 C, here 44 C (a warm chip" in err
    _, result, _ = run(lambda op: 1.3, "--predictor", result["recalibrated"])
    assert not any("temperature" in line for line in result["differences"])


def test_states_of_phones_and_sessions_are_a_range():
    cool, warm, throttled = ({"heat": f"thermal status {s}, skin {c} C"} for s, c in ((0, 31), (0, 36), (2, 52)))
    table = states({"a": {"serial": "a", **cool}, "b": {"serial": "b", **warm}}, None, cool)
    assert table == [cool, warm, cool]
    assert state_differences(table, [{"heat": "thermal status 0, AP 40 C"}]) == [], "within 5 C"
    assert [line.partition(" (")[0] for line in state_differences(table, states(throttled))] == [
        "temperature: table at 31 to 36 C, here 52 C",
        "thermal status: table at 0, here 2",
    ]
    assert state_differences([], [throttled]) == state_differences(table, []) == []
    assert state_differences(table, [{"heat": "thermal status not told"}]) == []


def test_without_blocks_only_networks_are_timed(run, tmp_path):
    code, _, _ = run(lambda op: 1.0, "--no-blocks", "--random", "1")
    assert code == 0
    kept = json.loads((tmp_path / "verify.json").read_text())
    assert kept["blocks"] == []
    assert kept["gap"] == "unknown", "two networks do not tell a scale"


@pytest.fixture(scope="module")
def of_kernels():
    """A predictor of the kinds of kernels in networks of `small_space`: 1 us and 0.1 ns a MAC each."""
    space, found = small_space(), []
    for candidate in range(6):
        ops = space.architecture([candidate] * 5).ops
        found += [k.op for k in kernels_of(export_onnx(build_network(ops), ops[0].input_shape))]
    kinds = kinds_by_macs(found, 1e-6, 1e-10, 0.01)
    return LatencyPredictor("slow", kinds, network_rel_std=0.05)


def test_a_predictor_of_kernels_is_checked_by_networks(run, tmp_path, of_kernels):
    of_kernels.save(tmp_path / "kernels.pkl")
    code, result, err = run(lambda op: 1.0, "--predictor", str(tmp_path / "kernels.pkl"), "--random", "2")
    assert code == 0
    assert result["predicted_by"] == "kernels"
    assert result["blocks_off"] == []
    assert err.count("networks are predicted by their kernels, blocks are not compared") == 1
    by_kernels = predict_architecture(tmp_path / "architecture.json", load_predictor(tmp_path / "kernels.pkl"))
    assert result["predicted_ms"] == pytest.approx(by_kernels.seconds * 1e3)
    assert len(json.loads((tmp_path / "verify.json").read_text())["random"]) == 2


def test_networks_that_kernels_do_not_cover_whole_are_not_predicted(run, tmp_path, of_kernels):
    depthwise = of_kernels.kinds["Depthwise"]
    others = {name: kind for name, kind in of_kernels.kinds.items() if name != "Depthwise"}
    replace(of_kernels, kinds=others).save(tmp_path / "kernels.pkl")
    code, _, err = run(lambda op: 1.0, "--predictor", str(tmp_path / "kernels.pkl"))
    assert code == 2
    assert "found: 5 of its" in err
    assert "kernels are not covered: Depthwise: " in err
    LatencyPredictor("slow", {"Linear": depthwise}).save(tmp_path / "other.pkl")
    code, _, err = run(lambda op: 1.0, "--predictor", str(tmp_path / "other.pkl"))
    assert code == 2
    assert "MBConv(" in err
    assert "was fitted on Linear; profile it" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--out", "x.pkl"], "--out goes with --recalibrate"),
        (["--recalibrate", "--out", "x.csv"], "a predictor is a .pkl file"),
        (["--recalibrate", "--random", "1"], "--recalibrate needs --random 2"),
        (["--budget-min", "1e-9"], "too few rounds for a 95 % interval: raise --budget-min"),
    ],
)
def test_bad_input_is_one_line(run, args, says):
    code, _, err = run(lambda op: 1.0, *args)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_random_networks_of_no_known_space_are_refused_where_they_are_asked_for(run, tmp_path, replay_toml, capsys):
    run(lambda op: 1.0, "--random", "0")
    given = ["--arch", str(tmp_path / "architecture.json"), "--predictor", str(tmp_path / "slow.pkl"), "--device",
             str(replay_toml), "--budget-min", "0.03"]  # fmt: skip
    assert verify.main([*given, "--random", "4"]) == 2
    assert "--random 4 asks for random networks: name the space of 'small' with --space" in capsys.readouterr().err
    assert verify.main([*given, "--recalibrate"]) == 2
    assert "--recalibrate needs random networks" in capsys.readouterr().err
    assert verify.main(given) == 0


def verdicts(gaps, rel_std):
    """Networks of 1 ms predicted."""
    return [
        Verdict(str(i), 1e-3, rel_std * 1e-3, 1e-3 * (1 + g), (1e-3 * (1 + g - 1e-4), 1e-3 * (1 + g + 1e-4)))
        for i, g in enumerate(gaps)
    ]


def test_the_judgement_keeps_its_error_rate():
    """Constant gaps of many made-up devices are called constant, and no gap is called none, at about the stated rate."""
    rng = np.random.default_rng(0)
    for gap, kind in ((0.0, "none"), (0.1, "scale")):
        called = [judge(verdicts(gap + 0.02 * rng.standard_normal(9), 0.02)).kind for _ in range(300)]
        assert np.mean([c == kind for c in called]) > 0.9
        assert np.mean([c == "mixed" for c in called]) < 0.04
    called = [judge(verdicts(0.1 + 0.06 * rng.standard_normal(9), 0.02)).kind for _ in range(100)]
    assert np.mean([c == "mixed" for c in called]) > 0.95


def test_the_hosts_speed_is_common_to_all_networks_and_no_scatter():
    """A gap of 4 % that the session's own speed explains is no scale; it does not hide scatter either."""
    gaps = 0.04 + np.array([0.02, -0.02, 0.015, -0.015, 0.0])

    def told(own, common):
        wide = 0.1  # as ci_s says it, the host's speed in it
        return [
            Verdict(str(i), 1.0, 1e-6, 1 + g, ((1 + g) * (1 - wide), (1 + g) * (1 + wide)), (), own, common)
            for i, g in enumerate(gaps)
        ]

    assert judge(told(0.03, 0.0)).kind == "scale"
    assert judge(told(0.03, 0.1)).kind == "none"
    assert judge(told(0.002, 0.1)).kind == "mixed"


def test_blocks_share_a_factor(space):
    ops = space.unique_ops()[:6]
    blocks = [Block(op, 1e-3, 1e-5, 1.3e-3 * (1.4 if op.kernel == 7 else 1.0), 1e-6) for op in ops]
    judged = judge_blocks(blocks)
    assert {b.op for b in judged if b.far} == {op for op in ops if op.kernel == 7}
    assert judged[0].off == pytest.approx(0.4)
    assert shared_by(judged) == ["kernel 7"]
    assert judge_blocks([]) == shared_by([]) == []
    beside = judge_blocks(blocks, middle=float(np.log(1.3 * 1.4)))
    assert {b.op for b in beside if b.far} == {op for op in ops if op.kernel != 7}, "said what is no block's fault"


def test_times_inside_the_network_are_taken_where_the_device_tells_them(space):
    chain = space.architecture([0, 0, 0, 0, 0]).ops
    nodes = {str(i): 2.0 * true_s(op) for i, op in enumerate(chain)}
    inside = in_context.shares_s(chain, nodes, 1e-3)
    assert sum(inside[op] for op in chain) == pytest.approx(1e-3), "shares of the measured network"
    assert in_context.shares_s(chain, {"conv_1": 1.0}, 1e-3) == {}, "names that are not the chain's"


def test_a_recalibrated_predictor_can_be_recalibrated_again(predictor_of_truth):
    of = verdicts([0.1] * 5, 0.02)
    twice = recalibrated(recalibrated(predictor_of_truth, judge(of), {}, of), judge(of), {"device": "b"}, of)
    assert twice.scale == pytest.approx(predictor_of_truth.scale * 1.21, rel=1e-3)
    assert len(twice.provenance["recalibrated"]) == 2
    assert twice.provenance["fingerprint"] == {"device": "b"}
