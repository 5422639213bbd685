"""What a fit's page and `--show` tell: residuals of networks, ops in context, networks with something rare."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from latency import fit, frozen
from latency.features import feature_matrix
from latency.fit_errors import context_errors
from latency.fit_report import write_report
from latency.fit_tables import context_rows, rare_rows
from latency.fitting import fit_detailed
from latency.flops import macs
from latency.joint import Observation, fit_joint
from latency.ops import Conv2d, Zero, mbconv
from latency.predictor import load_predictor
from latency.residuals import most_telling, network_columns, op_columns, told
from tests.latency.conftest import small_space, true_s

QUICK = partial(fit_joint, calibrate=False)  # intervals are not looked at


def test_an_error_is_told_by_what_it_follows_and_by_nothing_else():
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 4, 200).astype(float), rng.uniform(0, 1, 200)
    noise = rng.standard_normal(200)
    assert told(few, few.copy()) == pytest.approx(1.0)
    assert told(many, np.where(many > 0.5, 1.0, -1.0) + 0.1 * noise) > 0.8, "one bin straddles the step"
    chance = [told(values, rng.standard_normal(200)) for values in (few, many) for _ in range(50)]
    assert np.mean(chance) < 0.02
    wild = few + 0.1 * noise
    wild[::20] += 1000.0
    assert told(few, wild) > 0.4, "ten mismeasured networks do not hide it"
    assert told(few, np.zeros(200)) == told(np.arange(3.0), noise[:3]) == 0.0
    assert told(few, np.where(few == 3, 1.0, 0.0)) == pytest.approx(1.0), "most errors equal"


def test_those_that_tell_most_come_first_and_each_once():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 300)).astype(float)
    columns = {"b": b, "a": a, "twice a": 10 - 2 * a, "same for all": np.ones(300)}
    shown = most_telling(columns, a + 0.5 * b + 0.1 * rng.standard_normal(300), 8)
    assert list(shown) == ["a", "b"]
    assert shown["a"] > shown["b"] > 0.05
    assert list(most_telling(columns, a, 1)) == ["a"]


def test_columns_of_networks_count_their_ops():
    skip = Zero(in_channels=8, out_channels=8, height=8, width=8, shortcut=1)
    chain = (
        mbconv(8, 8, 8, kernel=3, stride=1, expand=3),
        skip,
        mbconv(8, 8, 8, kernel=5, stride=1, expand=6),
        mbconv(8, 8, 8, kernel=5, stride=1, expand=3),
    )
    columns = network_columns([chain, chain[:1]], np.array([2e-3, 1e-3]))
    assert {n: tuple(columns[n]) for n in ("ops", "skips", "MBConv ops", "ops with kernel 5", "ops with expand 3")} == {
        "ops": (3, 1), "skips": (1, 0), "MBConv ops": (3, 1), "ops with kernel 5": (2, 0), "ops with expand 3": (2, 1),
    }  # fmt: skip
    assert columns["MMACs"][0] == pytest.approx(sum(map(macs, chain)) / 1e6)
    assert tuple(columns["predicted, ms"]) == (2.0, 1.0)
    assert np.ptp(op_columns([chain[0], chain[2]])["log_kernel"]) == pytest.approx(np.log(5 / 3))


def networks(n, dear=1.0):
    """Of `small_space`; each op of kernel 7 beyond the second makes the network `dear` times slower: no sum tells."""
    space, rng, noisy = small_space(), random.Random(0), np.random.default_rng(0)
    found = []
    for _ in range(n):
        ops = space.random(rng).ops
        seconds = 1e-4 + sum(map(true_s, ops))
        seconds *= dear ** max(0, sum(op.kernel == 7 for op in ops) - 2)
        found.append(Observation(ops, seconds * float(np.exp(0.003 * noisy.standard_normal())), 1e-3 * seconds))
    return found


def test_the_page_of_networks_alone_has_their_residuals(tmp_path):
    predictor, details = fit_detailed("slow", networks(120, dear=1.3), provenance={"source": "test"}, joint_fit=QUICK)
    page = write_report(tmp_path / "page.html", predictor, details).read_text()
    assert "Residuals of networks, by what they differ in" in page
    error = details.test_predicted_s / details.test_measured_s - 1
    shown = most_telling(network_columns(details.test_ops, details.test_predicted_s), error, 3)
    assert "ops with kernel 7" in shown
    assert "Residuals by feature" not in page, "no op was timed alone"
    assert "Ops inside a network" not in page
    for name in predictor.provenance["errors"]["network_extrapolation"]:
        assert name in page


def test_the_page_of_ops_and_networks_has_both_and_what_context_adds(tmp_path, capsys):
    lone = [Observation((op,), 0.8 * true_s(op), 1e-3 * true_s(op)) for op in small_space().unique_ops()]
    predictor, details = fit_detailed("slow", [*lone, *networks(40)], folds=3, provenance={"source": "test"})
    page = write_report(tmp_path / "page.html", predictor, details).read_text()
    for title in ("Residuals of networks", "Residuals by feature", "Ops inside a network", "mean in a network"):
        assert title in page
    of = predictor.provenance["errors"]["context"]["MBConv"]
    assert of["network_s"] / of["alone_s"] == pytest.approx(1.25, rel=0.05)
    assert f"{of['network_s'] / of['alone_s']:.3f}" in page
    predictor.save(tmp_path / "slow.pkl")
    assert fit.main(["--show", str(tmp_path / "slow.pkl")]) == 0
    out = capsys.readouterr().out
    assert "ops alone and inside a network" in out
    assert "networks with something that no network" in out
    kept = load_predictor(tmp_path / "slow.pkl").provenance["errors"]
    assert json.dumps(kept["network_extrapolation"], allow_nan=False)


def test_files_from_before_these_figures_are_shown_without_them(tmp_path, capsys):
    predictor, _ = fit_detailed("slow", networks(30), provenance={"source": "test"}, joint_fit=QUICK)
    errors = {k: v for k, v in predictor.provenance["errors"].items() if k not in ("context", "network_extrapolation")}
    replace(predictor, provenance={"errors": errors}).save(tmp_path / "old.pkl")
    assert rare_rows(errors) == context_rows(errors) == []
    assert fit.main(["--show", str(tmp_path / "old.pkl")]) == 0
    assert "networks with something" not in capsys.readouterr().out


def test_what_context_adds_is_weighed_by_how_often_ops_occur():
    small, large = (mbconv(8, 8, 8, kernel=3, stride=1, expand=e) for e in (3, 6))
    stem = Conv2d(in_channels=3, out_channels=8, height=8, width=8, kernel=3)
    lone = [Observation((op,), true_s(op), 1e-3 * true_s(op)) for op in (*small_space().unique_ops(), stem)]
    predictor, _ = fit_detailed("slow", [*lone, *networks(20)], folds=2, provenance={})
    predictor = replace(predictor, scale=2.0, context=np.array([1e-12, 0.0]))
    nets = [Observation((stem, small, small, large), 1.0, 0.1), Observation((small, large), 1.0, 0.1)]
    found = context_errors(predictor, nets)
    ops = [small, small, small, large, large]
    alone = predictor.alone_s(ops)[0]
    inside = 2.0 * frozen.in_context(alone, feature_matrix(ops), predictor.context)
    assert found["MBConv"] == {
        "ops": 2, "alone_s": pytest.approx(alone.mean()), "network_s": pytest.approx(inside.mean()),
    }  # fmt: skip
    assert found["Conv2d"]["ops"] == 1
    assert context_errors(replace(predictor, context=None), nets) == {}
