"""profile -> fit -> verify on the test phone through the real adb: one phone, one that drops, two that share the work."""

from __future__ import annotations

import importlib.util
import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from devices import convert
from devices.benchmark_binary import digest
from latency import fit, profile, verify
from latency.measure import Progress
from latency.space import load_space
from latency.table import LatencyTable, workload_id
from tests.devices.tflite_files import convolution

needs_converter = pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is None, reason="litert-torch, which converts the ops, is not installed"
)

SPACE = """
from latency.ops import mbconv
from latency.space import Choice, SearchSpace

def space_of(blocks, expands):
    candidates = tuple(mbconv(16, 16, 14, kernel=k, stride=1, expand=e) for e in expands for k in (3, 5, 7))
    return SearchSpace("tiny", (), tuple(Choice(f"block{i}", candidates) for i in range(blocks)), ())

least, tiny = space_of(2, (3,)), space_of(3, (3, 6))
"""


@pytest.fixture
def setup(tmp_path):
    """`setup(space, networks)` -> (space's name, device file, arguments of profile)."""
    (tmp_path / "spaces.py").write_text(SPACE)
    device = tmp_path / "test-phone.toml"
    device.write_text("runtime = 'android'\n[options]\nmodels = ['Pixel 2']\nwarmup_s = 0.0\n")

    def make(space: str, networks: int):
        name = f"{tmp_path / 'spaces.py'}:{space}"
        args = ["--device", device, "--space", name, "--networks", networks, "--budget-min", 0.07]
        return name, device, [*args, "--target-ci", 0.001, "--out", tmp_path / "phone.csv"]

    return make


@pytest.fixture
def quick_conversion(tmp_path, monkeypatch):
    """Files of the right number and of different content, for tests that are not about conversion (it takes seconds)."""

    def to_tflite(module, input_shape, quantization="fp32"):
        number = sum(map(ord, module.key)) * 31 + len(module.key)
        return convolution(tmp_path / f"{number}.tflite", 12 + 2 * module.key.count(">"), seed=number)

    monkeypatch.setattr("devices.convert.to_tflite", to_tflite)
    monkeypatch.setattr("devices.convert.to_tflite_many", lambda jobs, quantization, on_done: None)


def call(main, *args, capsys):
    code = main([str(a) for a in args])
    out = capsys.readouterr()
    return code, out.out, out.err


@needs_converter
def test_profile_fit_verify(setup, phone, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METRONOME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(convert, "WORKERS", 1)  # a worker takes 7 s to start: one, and it is kept for verify
    monkeypatch.setattr(convert, "release", lambda: None)
    space_name, device, args = setup("least", 2)
    phone_args = ["--serial", phone.serial, "--benchmark-model", phone.binary]
    code, out, err = call(profile.main, *args, *phone_args, "--json", capsys=capsys)
    assert code == 0, err
    assert json.loads(out)["rows"] == 3 + 2
    table = LatencyTable(tmp_path / "phone.csv")
    state = table.provenance()["sessions"][0]["device_state"]
    assert (state["serial"], state["text"]) == (phone.serial, "classic, median")
    assert phone.read("global.low_power") == "1", "settings are put back"
    code, out, err = call(fit.main, table.path, "--json", "--folds", 2, capsys=capsys)
    assert code == 0, err
    assert json.loads(out)["networks"] == 2
    space = load_space(space_name)
    (tmp_path / "architecture.json").write_text(space.architecture([0, 2]).to_json())

    def verified(**control):
        phone.set(**control)
        code, out, err = call(
            verify.main, "--arch", tmp_path / "architecture.json", "--predictor", table.path.with_suffix(".pkl"),
            "--device", device, "--space", space_name, "--random", 0, "--budget-min", 0.08, "--json", *phone_args,
            capsys=capsys,
        )  # fmt: skip
        assert code == 0, err
        blocks = json.loads((tmp_path / "verify.json").read_text())["blocks"]
        assert {text for text, *_ in blocks} == {str(op) for op in space.architecture([0, 2]).ops}
        return json.loads(out), sum(measured_ms for _, _, measured_ms, _ in blocks), err

    verdict, blocks_ms, err = verified()
    assert verdict["ci_ms"][0] <= verdict["measured_ms"] <= verdict["ci_ms"][1]
    assert abs(verdict["error"]) < 1.0, "the prediction is of the right order on a busy host"
    assert "fitted on another target" not in err
    assert blocks_ms == pytest.approx(verdict["measured_ms"]), "the blocks' times are those of the phone's op table"
    assert "blocks are compared" not in err
    verdict, _, err = verified(unknown=["enable_op_profiling"])
    assert verdict["measured_ms"] > 0, "what was timed before the op table is kept"
    assert err.count("blocks are compared by their times alone") == 1
    assert "does not know --enable_op_profiling" in err


def test_a_drop_in_the_middle_of_a_round_loses_nothing(setup, quick_conversion, phone, tmp_path, capsys):
    _, _, args = setup("tiny", 8)
    drop = phone.when(60, lambda: phone.drop_for(0.4))
    crash = phone.when(45, lambda: phone.set(faults={"*": {"signal": signal.SIGSEGV, "times": 1}}))
    code, out, err = call(
        profile.main, *args, "--serial", phone.serial, "--benchmark-model", phone.binary, capsys=capsys
    )
    drop.join()
    crash.join()
    assert code == 0, err
    assert "going on when it is back" in out
    table = LatencyTable(tmp_path / "phone.csv")
    assert len(table.rows()) == 14  # raises where a row stands twice
    samples = [(r, w) for _, r, w, _ in table.samples()]
    assert len(samples) == len(set(samples)), "no sample twice"
    rounds = {r for r, _ in samples}
    assert all(sum(s == r for s, _ in samples) == 14 for r in sorted(rounds)[:3]), "every round is whole"


def test_a_model_that_crashes_is_named_and_the_rest_go_on(setup, quick_conversion, phone, tmp_path, capsys):
    name, _, args = setup("least", 4)
    op = str(load_space(name).unique_ops()[1])
    file = f"{digest(convert.to_tflite(SimpleNamespace(key=op), ()))[:24]}.tflite"
    phone.set(faults={file: {"signal": signal.SIGSEGV}})
    code, out, err = call(
        profile.main,
        *args,
        "--budget-min",
        0.03,
        "--serial",
        phone.serial,
        "--benchmark-model",
        phone.binary,
        capsys=capsys,
    )
    assert code == 0, err
    assert err.count("139: segmentation fault") == err.count("; left out") == 1
    assert "1 failed, see " in out
    table = LatencyTable(tmp_path / "phone.csv")
    assert len(table.rows()) == 2 + 4
    assert "139: segmentation fault" in table.provenance()["sessions"][0]["failed"][op]
    assert op not in {row.op for row in table.rows()}


def test_two_phones_are_calibrated_against_each_other(setup, quick_conversion, make_phone, tmp_path, capsys):
    _, _, args = setup("tiny", 12)  # a factor needs 8 workloads in a column
    phones = [make_phone(), make_phone()]
    phones[1].set(slow=2.0)
    serials = [arg for p in phones for arg in ("--serial", p.serial)]
    code, _, err = call(profile.main, *args, *serials, "--benchmark-model", phones[0].binary, capsys=capsys)
    assert code == 0, err
    assert all(len(p.invocations()) > 20 for p in phones)
    table = LatencyTable(tmp_path / "phone.csv")
    assert set(table.provenance()["sessions"][0]["device_state"]) == {p.serial for p in phones}
    progress = Progress()
    for _, round_, workload, seconds in table.samples():
        progress.add(workload, round_, seconds)
    factors, _ = progress.factors()
    by_round = {r: f for key, pairs in progress.samples.items() for (r, _), f in zip(pairs, factors[key], strict=True)}
    middle = float(np.median(list(by_round.values())))
    slow = [f for f in by_round.values() if f > middle]
    fast = [f for f in by_round.values() if f <= middle]
    assert 1.5 < np.median(slow) / np.median(fast) < 2.6, "the factor of a column holds the phone's"
    key = max(progress.samples, key=lambda k: len(progress.samples[k]))
    raw = np.array([s for _, s in progress.samples[key]])
    assert np.std(np.log(raw / factors[key])) < 0.7 * np.std(np.log(raw)), "and dividing it out brings them together"
    assert {workload_id(row.op) for row in table.rows()} == set(progress.samples)


def test_two_phones_without_a_serial(setup, make_phone, capsys):
    _, _, args = setup("least", 1)
    for _ in range(2):
        make_phone(bench=False)
    code, _, err = call(profile.main, *args, capsys=capsys)
    assert code == 2
    assert "2 phones are attached; say which: --serial 127.0.0.1:" in err
    assert len(err.strip().splitlines()) == 1


def test_no_phone_tells_what_to_do_and_what_ships(adb_server, capsys):
    code, _, err = call(profile.main, "--device", "pixel1", capsys=capsys)
    assert code == 2
    for text in (
        "(Pixel, Pixel XL)",
        "looked for with",
        "no phone: `adb devices -l` lists none; plug one in",
        "tables/pixel1.pkl",
    ):
        assert text in err
    assert len(err.strip().splitlines()) == 1


def test_list_and_doctor(setup, phone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "check_installed", lambda: "litert-torch 1")
    _, device, _ = setup("least", 1)
    code, out, _ = call(profile.main, "--list", capsys=capsys)
    assert code == 0
    assert f"attached: {phone.serial} device Pixel 2" in out
    assert any(line.split()[:2] == ["pixel2", phone.serial] for line in out.splitlines())
    assert any(line.split()[:2] == ["pixel1", "-"] for line in out.splitlines())
    code, out, _ = call(profile.main, "--doctor", device, "--benchmark-model", phone.binary, capsys=capsys)
    assert code == 0, out
    assert "mask f0" in out
    assert "87 %, charging" in out
    assert "41.0 GB free" in out
    assert out.splitlines()[-1].endswith("is ready")
    monkeypatch.setenv("METRONOME_CACHE", str(tmp_path / "empty"))
    phone.write(thermal="3", free_k="1000")
    code, out, _ = call(profile.main, "--doctor", device, "--json", capsys=capsys)
    assert code == 1
    found = {c["name"]: c for c in json.loads(out)["checks"]}
    assert {n for n, c in found.items() if c["ok"] is False} == {"benchmark_model", "heat", "storage"}
    assert "android_aarch64_benchmark_model" in found["benchmark_model"]["text"]
    phone.adbd.drop()
    code, out, _ = call(profile.main, "--doctor", device, capsys=capsys)
    assert code == 1
    assert "is 'offline'" in out


def test_a_model_with_a_dash_is_found(make_phone, capsys):
    """adb lists an SM-G973F as SM_G973F."""
    phones = [make_phone(bench=False, model=model) for model in ("SM-G973F", "Pixel 2")]
    code, out, _ = call(profile.main, "--list", capsys=capsys)
    assert code == 0
    assert any(line.split()[:2] == ["samsung-s-series", phones[0].serial] for line in out.splitlines())
    _, out, _ = call(profile.main, "--doctor", "samsung-s-series", capsys=capsys)
    assert f"connection: phone {phones[0].serial} answers" in out
    assert "model: SM-G973F, Android 11" in out


def test_doctor_asks_for_the_converter(monkeypatch, capsys):
    def absent(name):
        return None if name == "litert_torch" else find_spec(name)

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    code, out, _ = call(profile.main, "--doctor", "tflite", capsys=capsys)
    assert code == 1
    assert "NOT OK  converter: litert-torch" in out
    assert "pip install 'metronome-nas[tflite]'" in out


@pytest.mark.parametrize(
    "args",
    [["--doctor", "pixle1"], ["--device", "cpu", "--serial", "A"], ["--doctor", "cpu", "--benchmark-model", "x"]],
)
def test_bad_input(args, capsys):
    code, _, err = call(profile.main, *args, capsys=capsys)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
