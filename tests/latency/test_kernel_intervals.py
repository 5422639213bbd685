"""Intervals of sums of kernels: from each kernel's own error, shared in part within a kind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from latency import frozen, pickles
from latency import kernels as k
from latency.disagree import Gap, recalibrated
from latency.features import FEATURES, feature_matrix
from latency.joint import Observation
from latency.kernel_fit import blend, boosted, condition, fit_kind, process
from latency.kernel_intervals import Kernels, calibrate, fit_level, smoothed, variances
from latency.kernel_std import (
    FORM,
    LEAST_APART,
    LOOKED_UP,
    disagreement,
    far,
    kernel_rel_std,
    network_std_s,
    parts,
)
from latency.predictor import LatencyPredictor, load_predictor
from latency.uncertainty import KindModel

KINDS = (k.Pointwise, k.Depthwise, k.Activation)
SHARED, FOLDS = 0.3, 5


def sigma(seconds):
    """The truth of these tests: short kernels are worse known."""
    return 0.08 * (seconds / 1e-4) ** -0.25


@pytest.fixture(scope="module")
def world():
    """(kernels of each kind left out, networks, sums of what is predicted, fold) with a known law of errors."""
    rng = np.random.default_rng(0)
    ops, predicted = {}, {}
    for kind in KINDS:
        more = {"act": "silu"} if kind is k.Activation else {"kernel": 3} if kind is k.Depthwise else {}
        shapes = rng.integers(2, 60, (400, 2))
        made = dict.fromkeys(
            kind(in_channels=int(4 * c), out_channels=int(4 * c), height=int(s), width=int(s), **more)
            for c, s in shapes
        )
        ops[kind] = list(made)
        for op in made:
            predicted[op] = 1e-9 * op.in_channels * op.height * op.width * (20 if kind is k.Pointwise else 2)
    networks, sums = [], []
    for i in range(400):
        n = (3, 40)[i % 2]
        chosen = [ops[kind][int(j)] for kind in KINDS for j in rng.choice(len(ops[kind]), n // 3 + 1, replace=False)]
        by_kind = {kind: rng.standard_normal() for kind in KINDS}
        off = [
            sigma(predicted[op]) * (np.sqrt(SHARED) * by_kind[type(op)] + np.sqrt(1 - SHARED) * rng.standard_normal())
            for op in chosen
        ]
        seconds = sum(predicted[op] * (1 + e) for op, e in zip(chosen, off, strict=True))
        networks.append(Observation(tuple(chosen), seconds * (1 + 0.01 * rng.standard_normal()), 1e-9))
        sums.append(sum(predicted[op] for op in chosen))
    told = {}
    for kind in KINDS:
        f = np.array([predicted[op] for op in ops[kind]])
        measured = f * np.exp(sigma(f) * rng.standard_normal(len(f)))
        told[kind.__name__] = Kernels(
            tuple(ops[kind]), f, measured, np.full(len(f), 0.2), rng.integers(0, FOLDS, len(f))
        )
    return told, networks, np.array(sums), rng.integers(0, FOLDS, len(networks))


def test_the_error_of_a_kernel_is_found_over_its_time(world):
    told = world[0]["Pointwise"]
    found = smoothed(told, np.arange(len(told.ops)))
    at = np.quantile(told.predicted_s, [0.2, 0.8])
    std = kernel_rel_std(found, 0.0, at, np.full(2, 0.2))
    assert std == pytest.approx(sigma(at), rel=0.35)
    assert std[0] > std[1]


def test_intervals_hold_what_they_say_in_every_half(world):
    """Networks of few and of many kernels, small and large: nominal 90 % hold 85 to 95 % of networks left out."""
    told, networks, sums, fold = world
    level = fit_level(sums, networks, told, fold)
    assert (level.constant_s, level.scale) == (pytest.approx(0.0, abs=2e-5), pytest.approx(1.0, abs=0.02))
    measured = np.array([o.seconds for o in networks])
    inside = np.abs(measured - level.total_s) <= 1.645 * level.std_s
    few = np.array([len(o.ops) < 10 for o in networks])
    small = measured < np.median(measured)
    for half in (few, ~few, small, ~small):
        assert 0.84 <= inside[half].mean() <= 0.96
    rel = level.std_s / level.total_s
    assert np.median(rel[few]) > 1.2 * np.median(rel[~few])


def test_one_width_for_all_would_not(world):
    _, networks, sums, _ = world
    off = np.array([o.seconds for o in networks]) / sums - 1
    few = np.array([len(o.ops) < 10 for o in networks])
    inside = np.abs(off) <= np.quantile(np.abs(off), 0.9)
    assert inside[few].mean() < inside[~few].mean() - 0.07


def test_a_width_is_of_the_others(world):
    """A network that is far off moves no width of its own fold."""
    told, networks, sums, fold = world
    outlier = [dataclasses.replace(o, seconds=3 * o.seconds) if i == 0 else o for i, o in enumerate(networks)]
    before = calibrate(told, networks, sums, 1.0, fold, int(fold[0]))[1]
    after = calibrate(told, outlier, sums, 1.0, fold, int(fold[0]))[1]
    assert before[0] == after[0]


def test_what_is_shared_adds_up_and_what_is_not_averages_out():
    assert parts([("a", 3.0), ("a", 4.0), ("b", 2.0)]) == (49.0 + 4.0, 9.0 + 16.0 + 4.0)


def test_models_part_where_nothing_was_measured():
    ops = [k.Pointwise(in_channels=c, out_channels=2 * c, height=s, width=s) for c in (16, 32, 64) for s in (7, 14, 28)]
    x = feature_matrix(ops)
    log_s, var = np.log(1e-9 * x[:, FEATURES.index("macs")] ** 0.8 + 1e-6), np.full(len(x), 1e-3)
    rng = np.random.default_rng(0)
    known = process(x, log_s, var, rng)
    model = condition(known, x, log_s, var, np.arange(len(x)), rng)
    other = boosted(x, log_s, var, known.prior)
    mean = blend([model, other], 0.1)
    near, away = (k.Pointwise(in_channels=c, out_channels=2 * c, height=s, width=s) for c, s in ((48, 14), (2048, 112)))
    here, by, apart = disagreement(mean, feature_matrix([ops[4], near, away]))
    assert here < apart
    assert by < apart
    thrice = frozen.predict(blend([model, other], 0.1, [3.0, 1.0]), x)[0]
    assert thrice == pytest.approx(0.75 * frozen.predict(model, x)[0] + 0.25 * frozen.predict(other, x)[0])
    unweighted = {k: v for k, v in mean.items() if k != "weights"}  # a file of before schema 6
    assert frozen.predict(unweighted, x)[0] == pytest.approx(frozen.predict(mean, x)[0])
    same = blend([model, model], 0.1)
    assert disagreement(same, x) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(disagreement(model, x[:1])).all()
    assert far(np.array([0.0, LEAST_APART, 0.5])) == pytest.approx(np.log([LEAST_APART, LEAST_APART, 0.5]))


def _predictor(outside: bool):
    op = k.Pointwise(in_channels=32, out_channels=32, height=14, width=14, network_kib=64)
    x = feature_matrix([op])[0]
    trees = {"kind": "trees", "columns": np.array([0]), "left": np.array([-1]), "right": np.array([-1]), "feature": np.array([0]), "threshold": np.array([0.0]), "value": np.array([0.0]), "roots": np.array([0]), "base": float(np.log(1e-4)), "std": 0.1}  # fmt: skip
    low = x + 1.0 if outside else x
    kinds = {"Pointwise": KindModel(trees, {}, {"act": ["none"], "dtype": ["fp32"]}, low, x + 2.0)}
    spread = {"Pointwise": {"log_s": np.log([1e-5, 1e-3]), "log_std": np.log([0.2, 0.2]), "far": 0.0}}
    about = {
        "form": FORM,
        "spread": spread,
        "far_slope": 1.0,
        "scale": 1.0,
        "shared": 0.0,
        "noise": 0.0,
        "call_s": 0.0,
        "factor": 1.5,
    }
    return LatencyPredictor("x", kinds, uncertainty=about), op


def test_equal_kernels_have_one_error_and_others_average_out():
    predictor, op = _predictor(outside=False)
    other = k.Pointwise(in_channels=32, out_channels=32, height=15, width=14, network_kib=64)
    for ops, factor in (([op], 1.0), ([op, op], 2.0), ([op, other], np.sqrt(2))):
        assert predictor.network_s(ops)[1] == pytest.approx(1.5 * 0.2 * 1e-4 * factor)


def test_kernels_outside_what_was_measured_widen_it():
    predictor, op = _predictor(outside=True)
    assert predictor.outside(op)
    assert predictor.network_s([op])[1] == pytest.approx(1e-4 * 0.2 * np.hypot(1.5, 1.0))


def test_a_kernel_looked_up_has_a_width_too():
    about = {
        "form": FORM,
        "spread": {},
        "far_slope": 0.0,
        "scale": 1.0,
        "shared": 0.5,
        "noise": 0.0,
        "call_s": 0.0,
        "factor": 1.0,
    }
    kinds = {"View": KindModel(None, {"View()": (1e-6, 1e-7)}, {}, np.zeros(len(FEATURES)), np.zeros(len(FEATURES)))}
    assert network_std_s(about, kinds, [k.View()], np.array([1e-6]), 1e-6) == pytest.approx(LOOKED_UP * 1e-6)


def test_recalibrating_keeps_relative_widths():
    predictor, op = _predictor(outside=False)
    uneven = {**predictor.uncertainty["spread"]["Pointwise"], "log_std": np.log([0.4, 0.1])}
    about = {**predictor.uncertainty, "spread": {"Pointwise": uneven}, "call_s": 1e-5}
    predictor = dataclasses.replace(predictor, uncertainty=about)
    twice = recalibrated(predictor, Gap("scale", 2.0, (1.9, 2.1), 0.01, 0.01, 3), {}, [])
    assert twice.network_s([op]) == pytest.approx(tuple(2 * v for v in predictor.network_s([op])))


def test_it_is_kept_in_a_file_and_a_file_with_one_width_still_loads(tmp_path):
    predictor, op = _predictor(outside=False)
    predictor.save(tmp_path / "new.pkl")
    assert load_predictor(tmp_path / "new.pkl").network_s([op]) == predictor.network_s([op])
    content = pickles.load(tmp_path / "new.pkl")
    pickles.dump(tmp_path / "old.pkl", {**content, "schema": 3, "uncertainty": {}, "network_rel_std": 0.06})
    seconds, std = load_predictor(tmp_path / "old.pkl").network_s([op])
    assert (seconds, std) == (pytest.approx(1e-4), pytest.approx(0.06 * 1e-4))


def _parting(by):
    """A kind predicted by two models that part by `by` of their mean, in logarithms, everywhere."""
    model = _predictor(outside=False)[0].kinds["Pointwise"]
    two = [{**model.model, "base": model.model["base"] + off} for off in (-by, by)]
    return dataclasses.replace(model, model=blend(two, 0.1))


def test_what_models_part_by_is_one_error_of_all_kernels_of_a_network():
    predictor, op = _predictor(outside=False)
    kinds = {"Pointwise": _parting(0.2)}
    ops = [dataclasses.replace(op, height=h) for h in range(14, 14 + 16)]
    weights, total = np.full(16, 1e-4), 16e-4
    base = {**predictor.uncertainty, "far_slope": 0.0, "factor": 1.0}
    spread = {"Pointwise": {**base["spread"]["Pointwise"], "log_std": np.log([1e-9, 1e-9])}}
    for share in (0.0, 0.5, 1.5):
        about = {**base, "spread": spread, "apart": share}
        assert network_std_s(about, kinds, ops, weights, total) == pytest.approx(share * 0.2 * total, abs=1e-9)


def test_networks_are_as_unsure_when_predicted_as_when_calibrated():
    """The same variance from the kernels left out (kernel_intervals) as from the models (kernel_std)."""
    predictor, op = _predictor(outside=False)
    kinds = {"Pointwise": _parting(0.2)}
    ops = tuple(dataclasses.replace(op, height=h) for h in range(14, 14 + 16))
    told = Kernels(ops, np.full(16, 1e-4), np.full(16, 1e-4), np.full(16, np.log(0.2)), np.zeros(16))
    about = {**predictor.uncertainty, "shared": 0.3, "noise": 0.02, "call_s": 1e-6, "apart": 0.7, "factor": 1.0}
    network = Observation(ops, 16e-4, 1e-6)
    same, own, apart = variances(about, {"Pointwise": told}, [network], np.array([1 / 16e-4]))[0]
    rel = np.sqrt(0.3 * same + 0.7 * own + 0.02**2 + 0.7**2 * apart + (1e-6 / 16e-4) ** 2)
    assert network_std_s(about, kinds, ops, np.full(16, 1e-4), 16e-4) == pytest.approx(rel * 16e-4)


def test_a_kernel_left_out_has_no_part_in_what_predicts_it():
    rng = np.random.default_rng(0)
    sizes = [(int(c), int(s)) for c, s in zip(rng.integers(4, 90, 60) * 4, rng.integers(4, 60, 60), strict=True)]
    ops = [k.Pointwise(in_channels=c, out_channels=2 * c, height=s, width=s) for c, s in sizes]
    x, fold = feature_matrix(ops), np.arange(60) % 5
    seconds = 1e-6 + 1e-11 * x[:, FEATURES.index("macs")]
    other = np.where(fold == 2, 3.0 * seconds, seconds)
    var = np.full(60, 1e-3)
    before, after = (fit_kind(x, s, var, fold) for s in (seconds, other))
    assert after.left_out_s[fold == 2] == pytest.approx(before.left_out_s[fold == 2], rel=0.2)
    assert np.median(np.abs(before.left_out_s / seconds - 1)) < 0.1


def test_kernels_looked_up_are_so_in_networks_of_any_size():
    op = k.Gemm(in_channels=8, out_channels=8, height=1, width=1)
    some = KindModel(None, {str(op): (1e-6, 1e-7)}, {}, np.zeros(len(FEATURES)), np.zeros(len(FEATURES)))
    predictor = LatencyPredictor("x", {"Gemm": some})
    for kib in (0, 64, 128):
        mine = dataclasses.replace(op, network_kib=kib)
        assert predictor.covers_kind(mine)
        assert predictor.predict_s([mine]) == pytest.approx([1e-6])
