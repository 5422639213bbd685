"""A new device from few networks."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from latency import fit, pickles, profile
from latency.fit_errors import judged
from latency.joint import JointFit, Observation, fit_joint
from latency.ops import Linear, mbconv
from latency.predictor import LatencyPredictor, UnsupportedOp, from_fit, load_predictor
from latency.space import load_space
from latency.stats import mape, spearman
from latency.transfer import AROUND, TransferError, _lean, check_sources, fit_from, mix, most_informative
from tests.latency.conftest import small_space
from tests.latency.test_evidence import networks, predictor_of


def device(name, a, b):
    """A made-up device: a s per op, b s times a kernel's work, and a factor per op that all devices share."""
    rng = np.random.default_rng(0)
    own = {op: float(np.exp(0.1 * rng.standard_normal())) for op in small_space(blocks=10).unique_ops()}
    return name, lambda op: (a + b * op.kernel**2 * op.mid_channels) * own[op]


def observed(truth, n, seed):
    rng = random.Random(seed)
    space = small_space(blocks=10)
    chains = [space.random(rng).ops for _ in range(n)]
    return [Observation(c, 1e-4 + sum(map(truth, c)), 0.0) for c in chains]


@pytest.fixture(scope="module")
def known():
    makers = [device("launch", 1e-4, 1e-8), device("work", 1e-6, 1e-7), device("odd", 3e-5, 3e-8)]
    found = []
    for name, truth in makers:
        fitted = fit_joint(observed(truth, 80, 0), calibrate=False)
        found.append(from_fit(name, fitted))
    return found


def test_ten_networks_and_other_devices_beat_ten_networks(known):
    _, truth = device("new", 5e-5, 5e-8)
    few, test = observed(truth, 10, 7), observed(truth, 100, 8)
    y = np.array([o.seconds for o in test])

    def outcome(fitted):
        predictor = predictor_of(fitted)
        return np.array([predictor.network_s(o.ops)[0] for o in test])

    with_others = outcome(fit_from(known, few))
    alone = outcome(fit_joint(few, calibrate=False))
    assert mape(with_others, y) < mape(alone, y)
    assert spearman(with_others, y) > 0.9


def test_a_mixture_is_found():
    rng = np.random.default_rng(0)
    totals = rng.uniform(1, 3, (40, 3))
    weights = mix(totals, totals @ [2.0, 0.0, 0.5])
    assert (weights >= 0).all()
    assert totals @ weights == pytest.approx(totals @ [2.0, 0.0, 0.5], rel=0.02)
    same = mix(np.tile(totals[:2, :1], (1, 3)), totals[:2, 0])
    assert same == pytest.approx([1 / 3] * 3, abs=0.02), "devices that few networks cannot tell apart share"


def test_the_most_telling_networks_differ_and_leave_less_variance(known):
    rng, space = random.Random(0), small_space(blocks=10)
    pool = [space.random(rng).ops for _ in range(60)]
    for sources in ((), known):
        chosen = most_informative(pool, 8, sources)
        assert len(set(chosen)) == 8
        assert most_informative(pool, 3, sources) == chosen[:3], "greedy: a larger choice keeps the smaller"
    with pytest.raises(TransferError, match="61 networks to choose out of 60"):
        most_informative(pool, 61)


def test_a_transferred_predictor_stands_alone_and_is_small(known, tmp_path):
    _, truth = device("new", 5e-5, 5e-8)
    fitted = fit_from(known, observed(truth, 10, 7))
    predictor = predictor_of(fitted)
    predictor.save(tmp_path / "new.pkl")
    assert (tmp_path / "new.pkl").stat().st_size < 2**20
    ops = small_space(blocks=10).unique_ops()
    loaded = load_predictor(tmp_path / "new.pkl")
    assert np.array_equal(loaded.predict_s(ops), predictor.predict_s(ops))
    assert loaded.network_s(ops) == pytest.approx(predictor.network_s(ops))


def test_a_new_device_answers_for_all_that_the_others_know():
    """Its three networks hold neither the kernels 5 and 7 nor the second head."""
    space = small_space(blocks=4)
    heads = [Linear(in_channels=24, out_channels=n, height=8, width=8) for n in (10, 100)]
    rng = random.Random(0)

    def seconds(ops, factor):
        return factor * sum(1e-5 * (1 + op.out_channels / 8 + getattr(op, "kernel", 0)) for op in ops)

    chains = [(*space.random(rng).ops, rng.choice(heads)) for _ in range(60)]
    known = [
        predictor_of(fit_joint([Observation(c, seconds(c, f), 0.0) for c in chains], calibrate=False))
        for f in (1.0, 3.0)
    ]
    small = [(*tuple(c.candidates[i] for c in space.choices), heads[0]) for i in (0, 3)]
    fitted = fit_from(known, [Observation(c, seconds(c, 2.0), 0.0) for c in (*small, small[0])])
    new = predictor_of(fitted)
    unseen = space.choices[0].candidates[1]
    assert unseen.kernel == 5
    assert new.covers(unseen)
    for chain in chains[:10]:
        assert new.network_s(chain)[0] == pytest.approx(seconds(chain, 2.0), rel=0.03)
    with pytest.raises(UnsupportedOp, match="has of this kind only"):
        new.predict_s([Linear(in_channels=24, out_channels=11, height=8, width=8)])
    with pytest.raises(UnsupportedOp, match="was fitted on kernel 3, 5, 7"):
        new.predict_s([mbconv(8, 8, 8, kernel=9, stride=1, expand=3)])


def test_too_few_networks_or_an_unknown_op_is_said(known):
    _, truth = device("new", 5e-5, 5e-8)
    with pytest.raises(TransferError, match="2 measured networks of the new device; at least 3"):
        check_sources(known, observed(truth, 2, 0))
    op = mbconv(8, 8, 8, kernel=9, stride=1, expand=3)
    with pytest.raises(UnsupportedOp, match="was fitted on kernel"):
        check_sources(known, [Observation((op, op), 1e-3, 0.0)] * 3)


def test_a_chain_of_transfers_is_saved_or_refused_before_the_fit(tmp_path):
    """Each generation holds the one before; once they nest too deep for a file, it is said before anything is fitted."""
    space = small_space(blocks=2)
    chains = [space.architecture([i, j]).ops for i in range(6) for j in range(6)]
    few = [Observation(c, sum(1e-5 * op.mid_channels * op.kernel for op in c), 0.0) for c in chains[::6]]
    source = predictor_of(fit_joint(few, calibrate=False))
    for generation in range(5):
        check_sources([source], few)
        made = predictor_of(fit_from([source], few))
        made.save(tmp_path / f"g{generation}.pkl")
        source = load_predictor(tmp_path / f"g{generation}.pkl")
        assert source.network_s(chains[1]) == made.network_s(chains[1])
    assert (tmp_path / "g4.pkl").stat().st_size < 2**18, "what serves a source's standard errors only is left out"
    (name,) = source.kinds
    while pickles.depth(source.kinds[name].model) + AROUND <= pickles.MAX_DEPTH:
        made = replace(source, kinds={name: wrapped(source.kinds[name])})
        made.save(tmp_path / "deep.pkl")
        source = load_predictor(tmp_path / "deep.pkl")
    with pytest.raises(TransferError, match=r"deep\.pkl: transferred from transferred predictors too many times"):
        check_sources([source], few)


def wrapped(kind):
    """`kind` as a transfer from it has it, without the fit."""
    models = {"kind": "mixture", "models": [kind.model], "weights": np.ones(1), "floor_s": 1e-9}
    return replace(kind, model={**kind.model, "prior": models})


def test_what_serves_standard_errors_only_is_left_out_at_every_level():
    evidence = {"kind": "evidence", "v": np.ones((4, 3)), "prior": {"kind": "work", "weights": np.ones(5)}}
    trees = {"kind": "trees", "value": np.ones(2), "prior": {"kind": "mixture", "models": [evidence]}}
    model = {
        "kind": "context",
        "model": {"kind": "blend", "std": 0.1, "models": [evidence, trees]},
        "rates": np.ones(2),
    }
    lean = _lean(model)["model"]["models"]
    assert lean[0]["v"].shape == lean[1]["prior"]["models"][0]["v"].shape == (4, 0)
    assert evidence["v"].shape == (4, 3), "the source stays as it is"


def test_intervals_of_networks_left_out_are_as_wide_as_the_others_errors():
    """One outlier of 20: its own interval is that of the others, which do not know of it, and misses it."""
    chains = [c.candidates for c in small_space(blocks=4).choices] * 5
    nets = [Observation(c, 1.0, 0.0) for c in chains]
    error = np.array([0.01, -0.01] * 10)
    error[7] = 0.5
    joint = JointFit({}, 0.0, 1.0, {}, error, np.full(20, 0.01))
    found = judged(LatencyPredictor("new", {}), joint, nets, [])
    assert found.how == "left out in turn"
    assert found.predicted_s * (1 + error) == pytest.approx(found.measured_s)
    relative = found.std_s / found.predicted_s
    assert relative[7] < 0.02 < np.median(relative)
    assert judged(LatencyPredictor("new", {}), replace(joint, loo_error=np.empty(0)), nets, []).how == ""


def call(main, *args, capsys):
    code = main([str(a) for a in args])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_profile_few_then_fit_from_others(replay_toml, space_py, space, tmp_path, capsys):
    source = predictor_of(fit_joint(networks(space, 30), calibrate=False))
    source.save(tmp_path / "a.pkl")
    table = tmp_path / "new.csv"
    code, out, _ = call(
        profile.main, "--device", replay_toml, "--space", space_py, "--few", 6, "--prior", tmp_path / "a.pkl",
        "--out", table, "--budget-min", 0.05, "--json", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["rows"] == json.loads(out)["networks"] == 6
    code, out, err = call(
        fit.main, table, "--transfer-from", tmp_path / "a.pkl", "--device", "new", "--out", tmp_path / "new.pkl",
        "--json", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["networks"] == 6
    assert "6 networks, none held out, each left out of the fit in turn: MAPE" in err
    assert "nominal 90 % intervals hold" in err
    loaded = load_predictor(tmp_path / "new.pkl")
    assert loaded.provenance["transfer_from"] == ["fake"]
    assert loaded.provenance["fingerprint"]["runtime"] == "replay"
    page = (tmp_path / "new.html").read_text()
    errors = loaded.provenance["errors"]
    assert (errors["networks_test"], errors["network_mape"], errors["network_how"]) == (0, None, "left out in turn")
    assert errors["network"]["n"] == 6
    assert errors["network"]["mape"] == pytest.approx(errors["network_loo_mape"])
    assert 0 <= errors["network"]["coverage_90"] <= 1
    assert "6 networks, each left out of a fit in turn" in page
    assert "No network was held out" in page
    assert f"<td>inside nominal 90 % intervals</td><td>{errors['network']['coverage_90']:.2%}</td>" in page
    assert "nominal share of an interval" in page


def test_fit_from_a_file_of_networks(shared_data, tmp_path, capsys):
    path = tmp_path / "few.csv"
    path.write_text("\n".join((shared_data / "fbnet" / "latency.csv").read_text().splitlines()[:61]))
    args = ["--networks", path, "--space", "fbnet", "--column", "titan_rtx_1_ms", "--out", tmp_path / "t.pkl"]
    code, out, _ = call(fit.main, *args, "--no-report", "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["device"] == "titan_rtx_1"
    assert json.loads(out)["networks"] == 60
    assert json.loads(out)["network_mape"] < 0.015
    assert load_predictor(tmp_path / "t.pkl").provenance["errors"]["network_how"] == "held out"
    assert not (tmp_path / "t.html").exists()
    assert (tmp_path / "t.pkl").stat().st_size < 2**20
    predictor = load_predictor(tmp_path / "t.pkl")
    seconds, std = predictor.network_s(load_space("fbnet").random(random.Random(0)).ops)
    assert 0.005 < seconds < 0.02
    assert 0 < std < 0.05 * seconds


@pytest.mark.parametrize(("n", "warned"), [(3, True), (9, True), (10, False)])
def test_few_networks_alone_are_warned_of(n, warned, space_py, tmp_path, capsys):
    path = tmp_path / "few.csv"
    path.write_text("arch,a_ms\n" + "".join(f"{i % 6}{i // 6}{i % 5}00,{1 + i / 10}\n" for i in range(n)))
    args = ["--networks", path, "--space", space_py, "--column", "a_ms", "--out", tmp_path / "f.pkl", "--no-report"]
    code, _, err = call(fit.main, *args, capsys=capsys)
    assert code == 0
    assert (f"warning: {path}: {n} different networks, no op timed alone: below 10" in err) is warned


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--networks", "x.csv"], "--networks needs --space NAME and --column"),
        (["--column", "a_ms"], "go with --networks"),
        (["--transfer-from", "a.pkl"], "--transfer-from needs --device"),
        (["--transfer-from", "a.pkl", "a.pkl", "--device", "new"], "names a predictor twice"),
        (["--few", "3"], "--few N (at least 1) goes with"),
        (["--networks", "x.csv", "--space", "fbnet", "--column", "a"], "does not tell its unit"),
        (["--networks", "x.csv", "--space", "fbnet", "--column", "a_ms"], "x.csv: No such file"),
        (["--networks", "bad.csv", "--space", "fbnet", "--column", "b_ms"], "no column 'b_ms': did you mean 'a_ms'?"),
        (["--networks", "bad.csv", "--space", "fbnet", "--column", "a_ms"], "bad.csv line 3: '12' "),
        (["--networks", "zero.csv", "--space", "fbnet", "--column", "a_ms"], "zero.csv line 2: a_ms = -1 is not a positive time"),
        (["--networks", "digit.csv", "--space", "fbnet", "--column", "a_ms"], "has 9 candidates, got index 9"),
        (["--networks", "ok.csv", "--space", "fbnet", "--column", "a_ms", "--out", "bad.csv/x.pkl"], "cannot write bad.csv/x.pkl"),
        (["--networks", "ok.csv", "--space", "fbnet", "--column", "a_ms", "--out", "."], "it is a folder"),
        (["--networks", "ok.csv", "--space", "fbnet", "--column", "a_ms"], "ok.csv: 1 different network, no op timed alone; at least 3"),
        (["--networks", "two.csv", "--space", "fbnet", "--column", "a_ms"], "two.csv: 2 different networks, no op timed alone; at least 3"),
        (["--networks", "bad.csv", "--space", "fbnett", "--column", "a_ms"], "did you mean 'fbnet'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(args, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = "0" * 22
    (tmp_path / "bad.csv").write_text(f"arch,a_ms\n{good},1.5\n12 ,1.0\n")
    (tmp_path / "ok.csv").write_text("arch,a_ms\n" + f"{good},1.5\n" * 12)
    (tmp_path / "two.csv").write_text(f"arch,a_ms\n{good},1.5\n{'1' * 22},1.5\n{good},1.6\n")
    (tmp_path / "zero.csv").write_text(f"arch,a_ms\n{good},-1\n")
    (tmp_path / "digit.csv").write_text(f"arch,a_ms\n{'9' * 22},1\n")
    (tmp_path / "a.pkl").write_bytes(b"")
    code, _, err = call(fit.main, *args, capsys=capsys)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    if says != "bad.csv line 3: '12' ":
        assert says in err
    else:
        assert "bad.csv line 3: space 'fbnet' has 22 choices" in err
