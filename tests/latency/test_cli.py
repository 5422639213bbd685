"""The commands end to end on the scripted device: profile -> fit -> verify, kills, and bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from latency import fit, profile, verify
from latency.flops import bytes_moved
from latency.predictor import load_predictor
from latency.space import load_architecture
from latency.spaces.proxyless_cifar import make as make_cifar
from latency.table import LatencyTable
from tests.conftest import ROOT
from tests.latency.conftest import true_s


def call(main, *args, capsys):
    """Run a CLI in this process. Returns (exit code, stdout, stderr)."""
    code = main([str(a) for a in args])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def profiled(replay_toml, space_py, tmp_path, capsys):
    table = tmp_path / "fake.csv"
    args = ["--device", replay_toml, "--space", space_py, "--out", table, "--networks", 20, "--budget-min", 0.05]
    code, out, _ = call(profile.main, *args, "--json", capsys=capsys)
    assert code == 0
    return table, args, json.loads(out)


def test_profile_fit_verify(profiled, replay_toml, space, space_py, tmp_path, capsys):
    table, _, result = profiled
    assert set(result) == {"device", "rows", "networks", "seconds", "noisy"}
    assert result["networks"] == 20
    assert result["rows"] == len(space.unique_ops()) + 20

    code, out, err = call(fit.main, table, "--json", "--folds", 3, capsys=capsys)
    assert code == 0
    fitted = json.loads(out)
    assert set(fitted) == {
        "device", "ops", "networks", "op_mape", "network_mape", "network_spearman", "noise_floor", "baselines",
    }  # fmt: skip
    assert len(out.splitlines()) == 1
    assert "Spearman" in err
    assert fitted["network_mape"] < 0.02
    assert table.with_suffix(".pkl").stat().st_size < 2**20
    page = table.with_suffix(".html").read_text()
    assert page.count("<svg") >= 3, "networks, ops left out, residuals by feature"
    assert not re.search(r"(src|href)=.?(https?:|//)|@import|<script", page), "one file, nothing from outside"
    assert load_predictor(table.with_suffix(".pkl")).provenance["fingerprint"]["runtime"] == "replay"

    arch = tmp_path / "architecture.json"
    arch.write_text(space.architecture([0, 1, 2, 3, 4]).to_json())
    assert load_architecture(arch).space == "small"
    code, out, err = call(
        verify.main, "--arch", arch, "--predictor", table.with_suffix(".pkl"), "--device", replay_toml, "--space", space_py,
        "--budget-min", 0.03, "--json", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    verdict = json.loads(out)
    assert set(verdict) >= {
        "predicted_ms",
        "measured_ms",
        "ci_ms",
        "error",
        "gap",
        "scale",
        "blocks_off",
        "differences",
    }
    assert abs(verdict["error"]) < 0.05
    assert verdict["ci_ms"][0] <= verdict["measured_ms"] <= verdict["ci_ms"][1]
    assert json.loads((tmp_path / "verify.json").read_text())["measured_ms"] == verdict["measured_ms"]
    assert "random 8" in err
    assert "fitted on another target" not in err


def test_a_second_profile_adds_nothing_and_a_larger_one_only_what_is_new(profiled, capsys):
    table, args, result = profiled
    before = table.read_bytes()
    code, _, _ = call(profile.main, *args, capsys=capsys)
    assert code == 0
    assert table.read_bytes() == before
    args[args.index("--networks") + 1] = 23
    code, out, _ = call(profile.main, *args, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["rows"] == result["rows"] + 3
    assert table.read_bytes().startswith(before)


def test_what_cannot_be_prepared_is_told_with_its_reason(replay_toml, space, space_py, tmp_path, capsys):
    recording = tmp_path / "recording.json"
    known = json.loads(recording.read_text())
    args = ["--device", replay_toml, "--space", space_py, "--out", tmp_path / "fake.csv", "--networks", 0]
    recording.write_text(json.dumps(dict(list(known.items())[5:])))
    code, out, err = call(profile.main, *args, "--budget-min", 0.02, capsys=capsys)
    assert code == 0
    assert err.count("no recorded seconds for") == err.count("; left out") == 3
    assert "2 more could not be prepared" in err
    assert "5 failed, see " in out
    assert len(LatencyTable(tmp_path / "fake.csv").rows()) == len(known) - 5


def test_a_profile_in_which_nothing_can_be_timed_fails(replay_toml, space, space_py, tmp_path, capsys):
    (tmp_path / "recording.json").write_text("{}")
    args = ["--device", replay_toml, "--space", space_py, "--out", tmp_path / "fake.csv", "--networks", 0]
    code, out, err = call(profile.main, *args, capsys=capsys)
    last = err.splitlines()[-1]
    assert code == 2
    assert last.startswith(
        f"error: none of the {len(space.unique_ops())} workloads could be measured; the first: MBConv("
    )
    assert "no recorded seconds for" in last
    assert "latency.fit" not in out
    assert len(LatencyTable(tmp_path / "fake.csv").provenance()["sessions"][0]["failed"]) == len(space.unique_ops())


def test_ctrl_c_keeps_what_was_measured(replay_toml, space_py, tmp_path, capsys, monkeypatch):
    append, calls = LatencyTable.append_samples, []

    def interrupted(self, session, round_, samples):
        append(self, session, round_, samples)
        calls.append(round_)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(LatencyTable, "append_samples", interrupted)
    table = tmp_path / "fake.csv"
    args = ["--device", replay_toml, "--space", space_py, "--out", table, "--networks", 5, "--budget-min", 0.05]
    code, out, err = call(profile.main, *args, capsys=capsys)
    assert code == 130
    assert err.startswith("interrupted:")
    kept = LatencyTable(table).samples()
    assert {r for _, r, _, _ in kept} == set(range(5))
    code, out, _ = call(profile.main, *args, capsys=capsys)
    assert code == 0
    assert "5 rounds of the others are kept" in out
    samples = LatencyTable(table).samples()
    assert samples[: len(kept)] == kept
    assert {s for s, *_ in samples} == {1, 2}


def test_kill_9_half_way_loses_and_repeats_nothing(replay_toml, space_py, tmp_path):
    """A real kill of a real process, three times, at whatever point it has reached."""
    replay_toml.write_text(replay_toml.read_text().replace("0.05", "0.2"))
    table = LatencyTable(tmp_path / "fake.csv")
    command = [
        sys.executable, "-m", "latency.profile", "--device", str(replay_toml), "--space", space_py, "--networks", "30",
        "--out", str(table.path), "--budget-min", "0.2", "--target-ci", "0.03",
    ]  # fmt: skip
    for _ in range(3):
        rows_before = table.path.read_bytes() if table.path.exists() else b""
        samples_before = table.samples_path.read_bytes() if table.samples_path.exists() else b""
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if table.samples_path.exists() and table.samples_path.stat().st_size > len(samples_before) + 20_000:
                break
            if running.poll() is not None:
                break
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL) if running.poll() is None else None
        running.wait()
        keep = rows_before[: rows_before.rfind(b"\n") + 1]
        assert table.path.read_bytes().startswith(keep), "finished rows are kept byte for byte"
        whole = samples_before[: samples_before.rfind(b"\n") + 1]
        assert table.samples_path.read_bytes().startswith(whole)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = table.rows()  # raises where a row stands twice
    assert len(rows) == 30 + len({r.op for r in rows if r.kind == "op"})
    rounds = [(r, w) for _, r, w, _ in table.samples()]
    assert len(rounds) == len(set(rounds)), "no sample twice"


def test_fit_without_arguments_fits_what_is_newer(profiled, tmp_path, capsys, monkeypatch):
    table, _, _ = profiled
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit, "TABLES", tmp_path)
    code, out, _ = call(fit.main, "--folds", 2, capsys=capsys)
    assert code == 0
    assert "wrote" in out
    pkl = table.with_suffix(".pkl")
    stamp = pkl.stat().st_mtime_ns
    code, out, _ = call(fit.main, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["ops"] > 0, "an up-to-date predictor still tells its errors"
    assert pkl.stat().st_mtime_ns == stamp
    os.utime(table, ns=(stamp + 10**9, stamp + 10**9))
    code, out, _ = call(fit.main, "--folds", 2, capsys=capsys)
    assert "wrote" in out


@pytest.mark.parametrize(
    ("main", "args", "says"),
    [
        (profile.main, ["--device", "pixle"], "unknown device 'pixle'"),
        (profile.main, ["--space", "proxiless"], "did you mean 'proxyless'?"),
        (profile.main, ["--networks", "-1"], "--networks -1 must be at least 0"),
        (profile.main, ["--budget-min", "nan"], "--budget-min nan must be a number above 0"),
        (profile.main, ["--budget-min", "0"], "--budget-min 0.0 must be"),
        (profile.main, ["--budget-min", "inf"], "--budget-min inf must be"),
        (profile.main, ["--target-ci", "-1"], "--target-ci -1.0 must be"),
        (profile.main, ["--out", "x.txt"], "a table is a .csv file"),
        (fit.main, ["nowhere.csv"], "nowhere.csv: No such file"),
        (fit.main, ["--show", "nowhere.pkl"], "nowhere.pkl: No such file"),
        (fit.main, ["--published", "nowhere.yaml", "--device", "x"], "nowhere.yaml: No such file"),
        (fit.main, ["--published", "nowhere.yaml"], "--published needs --device"),
        (fit.main, ["--device", "cpu"], "--device goes with --published"),
        (fit.main, ["--folds", "1"], "--folds 1"),
        (fit.main, ["--report", "a.html", "--no-report"], "one or the other"),
        (fit.main, ["a.csv", "b.csv", "--report", "a.html"], "--report takes one table, there are 2"),
        (verify.main, ["--arch", "no.json", "--predictor", "tables/pixel1.pkl"], "no.json: No such file"),
        (verify.main, ["--arch", "no.json", "--predictor", "x.pkl", "--device", "cup"], "did you mean 'cpu'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(main, args, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(main, *args, capsys=capsys)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")


def test_fit_says_where_a_table_is_bad(profiled, capsys):
    table, _, _ = profiled
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(lines[0] + lines[1].replace(",op,", ",op,", 1) + lines[2].replace(",op,", ",opp,", 1))
    code, _, err = call(fit.main, table, capsys=capsys)
    assert code == 2
    assert "line 3: kind = 'opp'" in err
    table.write_text("")
    code, _, err = call(fit.main, table, capsys=capsys)
    assert code == 2
    assert "empty" in err
    table.write_text(lines[0])
    code, _, err = call(fit.main, table, capsys=capsys)
    assert code == 2
    assert "no measured ops" in err


def test_show_tells_where_a_predictor_comes_from(capsys):
    code, out, _ = call(fit.main, "--show", ROOT / "tables" / "pixel1.pkl", capsys=capsys)
    assert code == 0
    assert "mobile_trim.yaml" in out
    assert "gaussian_process (chosen)" in out
    assert load_predictor(ROOT / "tables" / "pixel1.pkl").provenance["errors"]["op_mape"] <= 0.01


def test_a_stop_before_anything_is_saved_says_so_too(replay_toml, space_py, tmp_path, monkeypatch, capsys):
    def stopped(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("devices.find", stopped)
    code, _, err = call(profile.main, "--device", replay_toml, "--out", tmp_path / "t.csv", capsys=capsys)
    assert code == 130
    assert err == "interrupted: what was finished is saved; run the same command again to go on\n"


def test_a_space_too_small_for_so_many_networks(replay_toml, tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.latency.conftest import small_space\nspace = small_space(blocks=1)\n")
    code, _, err = call(
        profile.main, "--device", replay_toml, "--space", f"{path}:space", "--out", tmp_path / "t.csv", capsys=capsys
    )
    assert code == 2
    assert "holds only 6 networks" in err


def test_a_space_with_branches_is_profiled_fitted_and_verified(tmp_path, capsys):
    """Ops between branches are measured like any other, and a network is the sum of all of them."""
    space = make_cifar("trees", blocks=1, width=32, stem=4, bottleneck=2, branches=(2, 2), image_size=16)
    recording = {str(op): true_s(op) + 1e-11 * bytes_moved(op) for op in space.unique_ops()}
    (tmp_path / "recording.json").write_text(json.dumps(recording))
    device = tmp_path / "fake.toml"
    device.write_text(f"runtime = 'replay'\n[options]\nrecording = '{tmp_path}/recording.json'\nnoise_cv = 0.02\n")
    source = tmp_path / "trees.py"
    source.write_text(
        "from latency.spaces.proxyless_cifar import make\n"
        "space = make('trees', blocks=1, width=32, stem=4, bottleneck=2, branches=(2, 2), image_size=16)\n"
    )
    table = tmp_path / "trees.csv"
    args = ["--device", device, "--space", f"{source}:space", "--out", table, "--networks", 12, "--budget-min", 0.05]
    code, out, _ = call(profile.main, *args, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["rows"] == len(space.unique_ops()) + 12
    assert {type(row.ops[0]).__name__ for row in LatencyTable(table).rows()} >= {"Add", "Pad", "Pool", "SepConv"}
    code, out, _ = call(fit.main, table, "--json", "--folds", 3, "--no-report", capsys=capsys)
    assert code == 0
    assert json.loads(out)["network_mape"] < 0.03
    arch = tmp_path / "architecture.json"
    arch.write_text(space.architecture([i % 7 for i in range(18)]).to_json())
    code, out, _ = call(
        verify.main, "--arch", arch, "--predictor", table.with_suffix(".pkl"), "--device", device,
        "--budget-min", 0.03, "--json", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert abs(json.loads(out)["error"]) < 0.05


def test_a_warning_is_one_write(monkeypatch):
    """Two threads that warn at once write two lines: `print` writes a line and its end apart."""
    from latency.console import Ui

    written = []

    class Err:
        write = staticmethod(written.append)

    ui = Ui()
    monkeypatch.setattr("sys.stderr", Err)
    ui.warn("late")
    assert written == ["warning: late\n"]
