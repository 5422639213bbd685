"""Sizes never measured: what their ops share is learnt from resolutions left out, and only they are wider for it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from latency import fit, joint
from latency.accuracy import Z90
from latency.fit_report import write_report
from latency.fit_tables import size_rows
from latency.fitting import fit_detailed
from latency.joint import Observation, fit_joint
from latency.new_sizes import LeftOut, drift_of, resolutions, told, with_drift
from latency.ops import mbconv
from latency.predictor import from_fit, load_predictor
from latency.published import read_published
from latency.space import load_space
from tests.latency.conftest import true_s

OFF = {48: 1.05, 56: 0.97, 64: 1.04}  # what no shape tells of a resolution, the same for all of its ops
STAGES = ((8, 16), (16, 32), (32, 64))


def stages(size):
    """The candidates of each block of a network of `size` pixels: three sizes, each half of the one before."""
    return [
        [mbconv(a, b, -(-size // 2**i), kernel=k, stride=2, expand=e) for k in (3, 5) for e in (3, 4, 6)]
        for i, (a, b) in enumerate(STAGES)
    ]


def lone(off=OFF, noise=0.004):
    rng = np.random.default_rng(0)
    ops = [(op, factor) for size, factor in off.items() for block in stages(size) for op in block]
    took = [true_s(op) * factor * np.exp(noise * rng.standard_normal()) for op, factor in ops]
    return [Observation((op,), s, noise * s) for (op, _), s in zip(ops, took, strict=True)]


def networks(off, each, seed=0):
    rng, noisy = random.Random(seed), np.random.default_rng(seed)
    found = []
    for size, factor in off.items():
        for _ in range(each):
            ops = tuple(rng.choice(block) for block in stages(size))
            seconds = sum(map(true_s, ops)) * factor * float(np.exp(0.003 * noisy.standard_normal()))
            found.append(Observation(ops, seconds, 2e-3 * seconds))
    return found


@pytest.fixture(scope="module")
def fitted():
    return from_fit("sizes", fit_joint(lone()))


def without(predictor):
    return replace(predictor, kinds=with_drift(predictor.kinds, 0.0, predictor.kinds))


def drift_at(predictor, ops):
    """What the drift adds to the variance of a network of `ops`."""
    return predictor.network_s(ops)[1] ** 2 - without(predictor).network_s(ops)[1] ** 2


def test_a_resolution_has_the_sizes_that_no_other_is_turned_into():
    ops = [mbconv(8, 8, size, stride=s, kernel=3, expand=3) for size in (11, 12, 22, 24, 44, 48) for s in (1, 2)]
    assert resolutions(ops) == {44: {11, 22, 44}, 48: {12, 24, 48}}
    seven = mbconv(8, 8, 6, stride=1, kernel=3, expand=3)  # 11 and 12 both become 6
    assert resolutions([*ops, seven]) == resolutions(ops)
    plain = [mbconv(8, 8, size, stride=1, kernel=3, expand=3) for size in (7, 14)]
    assert resolutions(plain) == {}, "nothing tells stages of a network from resolutions"


@pytest.mark.parametrize("name", ["proxyless", "proxyless_cifar", "fbnet", "ofa_mbv3_176"])
def test_a_space_of_one_resolution_has_one(name):
    assert len(resolutions(load_space(name).unique_ops())) == 1


def test_the_drift_of_few_errors_is_wider_by_students_t():
    def left(errors, variance, reach=0.1):
        return [LeftOut(i, e, variance, reach) for i, e in enumerate(errors)]

    exact = left([0.02, -0.02, 0.02], 1e-12)
    assert drift_of(exact) == pytest.approx(0.02 / np.sqrt(0.1) * 2.353 / Z90, rel=0.01)
    assert drift_of(exact[:2]) == pytest.approx(0.02 / np.sqrt(0.1) * 2.920 / Z90, rel=0.01)
    assert drift_of(exact[:1]) == drift_of([]) == 0.0
    assert drift_of(left([0.02, -0.01, 0.015], 0.02**2)) == 0.0, "no further off than the fit says"
    assert 0 < drift_of(left([0.02, -0.02, 0.02], 0.01**2)) < drift_of(exact)


@pytest.mark.parametrize("truth", [0.0, 0.03, 0.08, 0.3])
def test_intervals_with_the_drift_hold_about_90(truth):
    """On average over resolutions: of one, whose ops all err alike, they hold nearly all or nearly none."""
    rng = np.random.default_rng(0)
    variance, reach = np.array([0.9e-2, 1.2e-2, 1.0e-2]) ** 2, np.array([0.09, 0.05, 0.08])
    held = []
    for _ in range(600):
        errors = rng.standard_normal(3) * np.sqrt(variance + truth**2 * reach)
        drift = drift_of([LeftOut(i, *row) for i, row in enumerate(zip(errors, variance, reach, strict=True))])
        off = rng.standard_normal() * np.sqrt(1e-4 + truth**2 * 0.08)
        held.append(abs(off) <= Z90 * np.sqrt(1e-4 + drift**2 * 0.08))
    assert 0.82 < np.mean(held) < 0.96


def test_nothing_of_a_resolution_is_in_the_fit_that_predicts_it(monkeypatch):
    fits = []
    plain = joint.fit_joint

    def spied(observations, *args, **options):
        fits.append({op.height for o in observations for op in o.ops})
        return plain(observations, *args, **options)

    monkeypatch.setattr(joint, "fit_joint", spied)
    found = joint.fit_joint(lone())
    every = {64, 32, 16, 56, 28, 14, 48, 24, 12}
    assert fits == [every, every - {48, 24, 12}, every - {56, 28, 14}, every - {64, 32, 16}]
    assert found.uncertainty["new_sizes"]["resolutions"].tolist() == [48, 56, 64]


def test_only_sizes_never_measured_are_wider(fitted, tmp_path):
    assert fitted.uncertainty["new_sizes"]["drift"] > 0
    inside = [op for size in OFF for block in stages(size) for op in block]
    for a, b in zip(fitted.predict_s(inside, True), without(fitted).predict_s(inside, True), strict=True):
        assert np.array_equal(a, b)
    for size in OFF:
        ops = [block[0] for block in stages(size)]
        assert fitted.network_s(ops) == without(fitted).network_s(ops)
    new = [block[0] for block in stages(72)]
    assert np.array_equal(fitted.predict_s(new), without(fitted).predict_s(new))
    assert np.all(fitted.predict_s(new, True)[1] > without(fitted).predict_s(new, True)[1])
    fitted.save(tmp_path / "sizes.pkl")
    again = load_predictor(tmp_path / "sizes.pkl")
    assert again.network_s(new) == fitted.network_s(new)
    assert told(again.uncertainty) == told(fitted.uncertainty)


def test_a_file_of_before_has_no_drift(fitted, tmp_path):
    kind = fitted.kinds["MBConv"]
    older = {k: v for k, v in kind.model.items() if k not in ("drift", "sizes", "new_size")}
    about = {k: v for k, v in fitted.uncertainty.items() if k != "new_sizes"}
    path = tmp_path / "older.pkl"
    replace(fitted, kinds={"MBConv": replace(kind, model=older)}, uncertainty=about).save(path)
    loaded = load_predictor(path)
    assert told(loaded.uncertainty) == {}
    ops = [block[0] for block in stages(72)]
    assert loaded.network_s(ops)[1] <= without(fitted).network_s(ops)[1]


def test_the_drift_grows_with_the_distance_and_is_shared(fitted):
    def at(size):
        op = mbconv(8, 16, size, kernel=3, stride=2, expand=3)
        return drift_at(fitted, [op]) / float(fitted.predict_s([op])[0]) ** 2

    assert at(64) == 0.0
    assert 0 < at(57) < at(60)
    assert 0 < at(66) < at(68) < at(80)
    drift = fitted.uncertainty["new_sizes"]["drift"]
    assert at(80) == pytest.approx(drift**2 * np.log(80 / 64))
    a, b = np.log(60 / 56), np.log(64 / 60)
    assert at(60) == pytest.approx(drift**2 * a * b / (a + b))
    ops = [block[0] for block in stages(72)]
    each = [np.sqrt(drift_at(fitted, [op])) for op in ops]
    assert np.sqrt(drift_at(fitted, ops)) == pytest.approx(sum(each)), "in one direction: it does not average out"


@pytest.mark.parametrize("of", ["ops", "networks", "both"])
def test_what_resolutions_differ_by_is_learnt_from_any_evidence(of):
    alike = dict.fromkeys(OFF, 1.0)
    found = []
    for off in (OFF, alike):
        rows = {"ops": lone(off), "networks": networks(off, 12), "both": [*lone(off), *networks(off, 4)]}[of]
        found.append(from_fit(of, fit_joint(rows)))
    differ, same = (told(p.uncertainty) for p in found)
    assert set(differ["resolutions"]) == set(same["resolutions"]) == {"48", "56", "64"}
    assert differ["drift"] > 2 * same["drift"]
    new = networks({72: 1.04}, 20, seed=5)
    assert np.mean([drift_at(found[0], o.ops) > 0 for o in new]) == 1.0
    off = [abs(o.seconds - found[0].network_s(o.ops)[0]) / found[0].network_s(o.ops)[1] for o in new]
    assert np.mean(np.array(off) <= Z90) > 0.8


def test_one_resolution_says_nothing_of_another():
    predictor = from_fit("one", fit_joint(lone({64: 1.0})))
    assert told(predictor.uncertainty) == {}
    assert "drift" not in predictor.kinds["MBConv"].model


def test_a_fit_tells_how_far_each_resolution_was_off(tmp_path, capsys):
    predictor, details = fit_detailed("sizes", lone(), folds=2, provenance={"source": "made up"})
    errors = predictor.provenance["errors"]
    assert errors["new_sizes"] == told(predictor.uncertainty)
    rows = size_rows(errors)
    assert [row[0] for row in rows] == ["48", "56", "64"]
    page = write_report(tmp_path / "page.html", predictor, details).read_text(encoding="utf-8")
    predictor.save(tmp_path / "sizes.pkl")
    assert fit.main(["--show", str(tmp_path / "sizes.pkl")]) == 0
    shown = capsys.readouterr().out
    assert "resolutions left out" in shown
    for row in rows:
        assert row[1] in shown
        assert row[1] in page
    assert size_rows({}) == [], "a file of before"


@pytest.mark.parametrize("out", [192, 208])
def test_note10_intervals_at_a_resolution_left_out(shared_data, out):
    """Published times: from the other three resolutions; without what its ops share, 62 and 70 % of them are held."""
    tables = {r: read_published(shared_data / "note10" / f"{r}_lookup_table.yaml") for r in (160, 176, 192, 208)}
    rows = [Observation((e.op,), e.mean_s, e.stderr_s) for r in tables if r != out for e in tables[r]]
    predictor = from_fit("note10", fit_joint(rows))
    asked = [e for e in tables[out] if predictor.covers_kind(e.op)]
    y = np.array([e.mean_s for e in asked])

    def held(p):
        mean, std = p.predict_s([e.op for e in asked], return_std=True)
        return np.mean(np.abs(mean - y) <= Z90 * np.hypot(std, [e.stderr_s for e in asked]))

    assert held(without(predictor)) < 0.75
    assert held(predictor) > 0.8
