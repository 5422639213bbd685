from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from latency import estimators, frozen, pickles
from latency.features import feature_matrix
from latency.fit_errors import fit_network_level
from latency.fitting import fit_predictor, split_networks
from latency.joint import Observation
from latency.op_fit import MARGIN, FitError, fit_ops
from latency.ops import Linear, Zero, mbconv
from latency.pickles import PickleError
from latency.predictor import PredictorError, UnsupportedOp, load_predictor
from tests.conftest import ROOT
from tests.latency.conftest import small_space, true_s

GOLDEN_SCHEMA_1 = (0.007898100748667656, 1.7288030758906498e-05)  # s; what version 0.1.0 says of the op below


@pytest.fixture(scope="module")
def fitted():
    import random

    space, rng = small_space(), random.Random(0)
    ops = [Observation((op,), true_s(op), 1e-3 * true_s(op)) for op in space.unique_ops()]
    networks = []
    for _ in range(20):
        chain = space.random(rng).ops
        seconds = 2e-5 + 0.9 * sum(map(true_s, chain))
        networks.append(Observation(chain, seconds, 1e-3 * seconds, drift=0.01))
    return space, fit_predictor("fake", ops + networks, folds=4, provenance={"source": "test"})


def test_gp_is_chosen_and_networks_are_predicted(fitted):
    _, predictor = fitted
    errors = predictor.provenance["errors"]
    by_model = errors["cv"]["MBConv"]
    assert set(by_model) == {"gaussian_process", "ridge", "random_forest", "gradient_boosting"}
    best = min(by_model, key=by_model.get)  # the truth is a line in MACs: ridge may well be best
    assert errors["model"] == {
        "MBConv": best if by_model[best] < MARGIN * by_model["gaussian_process"] else "gaussian_process"
    }
    assert errors["op_mape"] == pytest.approx(by_model[errors["model"]["MBConv"]])
    assert errors["op"]["within_10"] == 1.0
    assert set(errors["extrapolation"]) == {"MBConv.log_kernel", "MBConv.log_expand"}
    assert set(errors["network"]) == {
        "n", "mape", "rmse_s", "within_5", "within_10", "spearman", "kendall", "coverage_90",
    }  # fmt: skip
    assert errors["op_mape"] < 0.05
    assert errors["network_mape"] < 0.01
    assert errors["network_spearman"] > 0.97
    assert errors["noise_floor"] == pytest.approx(0.01)
    assert set(errors["baselines"]) == {"lookup_sum", "flops_line", "random_forest"}
    assert errors["baselines"]["lookup_sum"]["mape"] > 1.5 * errors["network_mape"], (
        "the plain sum knows nothing of scale and constant"
    )


def test_a_network_is_constant_plus_scaled_sum(fitted):
    space, predictor = fitted
    ops = tuple(c.candidates[0] for c in space.choices)
    seconds, std = predictor.network_s(ops)
    assert seconds == pytest.approx(predictor.constant_s + predictor.scale * predictor.predict_s(ops).sum())
    assert std > 0
    first, rest = predictor.network_s(ops[:2])[0], predictor.network_s(ops[2:])[0]
    assert first + rest - predictor.constant_s == pytest.approx(seconds), "the latency of a concatenation is the sum"


def test_free_ops_cost_nothing(fitted):
    space, predictor = fitted
    op = space.choices[0].candidates[0]
    zero = Zero(in_channels=8, out_channels=8, height=8, width=8, shortcut=1)
    assert predictor.predict_s([zero, op, zero]).tolist() == [0, predictor.predict_s([op])[0], 0]
    assert predictor.covers(zero)


def test_unknown_means_raise(fitted):
    space, predictor = fitted
    with pytest.raises(UnsupportedOp, match="was fitted on MBConv; profile it with"):
        predictor.predict_s([Linear(in_channels=8, out_channels=2, height=1, width=1)])
    with pytest.raises(UnsupportedOp, match="was fitted on kernel 3, 5, 7"):
        predictor.predict_s([mbconv(8, 8, 8, kernel=9, stride=1, expand=3)])
    big = mbconv(8, 8, 64, kernel=3, stride=1, expand=3)
    assert not predictor.covers(big)
    assert set(predictor.outside(big)) == {"log_height", "log_width"}
    assert predictor.covers(space.choices[0].candidates[0])


def test_few_ops_are_looked_up_only(fitted):
    head = Linear(in_channels=8, out_channels=2, height=1, width=1)
    fit = fit_ops([Observation((head,), 1e-3, 1e-5)], 2)
    predictor = dataclasses.replace(fitted[1], kinds=fit.kinds, context=None)
    assert predictor.predict_s([head]) == pytest.approx([1e-3])
    assert fit.op_mape is None
    with pytest.raises(UnsupportedOp, match="has of this kind only Linear"):
        predictor.predict_s([dataclasses.replace(head, out_channels=3)])


@pytest.mark.parametrize("name", [n for n in estimators.CANDIDATES if n != "gaussian_process"])
def test_frozen_models_predict_what_scikit_learn_predicts(name, monkeypatch):
    """Every candidate against the estimator it came from, caught as it is fitted."""
    import sklearn.ensemble
    import sklearn.linear_model

    caught = []
    for module, cls in (
        (sklearn.linear_model, "Ridge"),
        (sklearn.ensemble, "RandomForestRegressor"), (sklearn.ensemble, "GradientBoostingRegressor"),
    ):  # fmt: skip
        original = getattr(module, cls)
        monkeypatch.setattr(module, cls, lambda *a, o=original, **k: caught.append(o(*a, **k)) or caught[-1])
    x, seconds, probe = probes()
    model = estimators.CANDIDATES[name](x, np.log(seconds), np.full(len(x), 1e-4))
    mean, _ = frozen.predict(model, probe)
    (sk,) = caught
    columns = probe[:, model["columns"]]
    if name == "ridge":
        assert np.allclose(mean, np.log(np.maximum(columns @ model["coef"] + sk.intercept_, model["floor_s"])))
    else:
        assert np.allclose(mean, sk.predict(columns))


def probes():
    ops = small_space().unique_ops()
    x, seconds = feature_matrix(ops), np.array([true_s(op) for op in ops])
    rng = np.random.default_rng(0)
    return x, seconds, x[rng.integers(len(x), size=50)] * rng.uniform(0.9, 1.1, (50, x.shape[1]))


def test_the_evidence_model_is_the_gaussian_process_of_scikit_learn():
    """Mean and standard error against GaussianProcessRegressor with the same kernel and hyper-parameters."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern, WhiteKernel

    x, seconds, probe = probes()
    x[:, 0] += np.linspace(0, 1, len(x))  # sizes vary too
    noise = np.full(len(x), 1e-4)
    model = estimators.fit_gp(x, np.log(seconds), noise)
    smooth, rough = np.where(model["rough"] > 0, 1e9, model["length"]), np.where(model["rough"], model["length"], 1e9)
    kernel = (
        ConstantKernel(model["amplitude"], "fixed") * RBF(smooth, "fixed") * Matern(rough, "fixed", nu=0.5)
        + ConstantKernel(model["linear"], "fixed") * DotProduct(1.0, "fixed")
        + WhiteKernel(model["nugget"], "fixed")
    )
    gp = GaussianProcessRegressor(kernel, alpha=noise + 1e-12, optimizer=None)
    gp.fit(frozen.standardised(model, x), np.log(seconds) - frozen.mean_log(model["prior"], x))
    expected, expected_std = gp.predict(frozen.standardised(model, probe), return_std=True)
    mean, std = frozen.predict(model, probe)
    assert np.allclose(mean, expected + frozen.mean_log(model["prior"], probe), atol=1e-6)
    assert np.allclose(std, expected_std, rtol=1e-3)


def test_save_and_load_give_the_same_predictions(fitted, tmp_path):
    space, predictor = fitted
    path = tmp_path / "p.pkl"
    predictor.save(path)
    loaded = load_predictor(path)
    ops = space.unique_ops()
    for a, b in zip(predictor.predict_s(ops, return_std=True), loaded.predict_s(ops, return_std=True), strict=True):
        assert (a == b).all()
    assert loaded.provenance == predictor.provenance
    assert path.stat().st_size < 2**20


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


def cli(*args):
    return subprocess.run([sys.executable, "-m", *args], cwd=ROOT, capture_output=True, text=True)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"schema": 1, "kinds": Hostile(marker)}))
    done = cli("latency.fit", "--show", str(path))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "nothing was run" in done.stderr
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the file was hostile indeed: a plain load runs it"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_pickle_says_so(fitted, tmp_path, keep):
    path = tmp_path / "p.pkl"
    fitted[1].save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(PickleError, match="damaged or cut short"):
        load_predictor(path)


def test_other_files_are_not_predictors(tmp_path):
    path = tmp_path / "p.pkl"
    path.write_bytes(b"")
    with pytest.raises(PickleError, match="cut short"):
        load_predictor(path)
    pickles.dump(path, {"schema": 99})
    with pytest.raises(PredictorError, match="not a latency predictor"):
        load_predictor(path)
    pickles.dump(path, {"schema": 99, "kinds": {}})
    with pytest.raises(PredictorError, match=r"newer version .schema 99; this version reads schemas up to 6"):
        load_predictor(path)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(PickleError, match="not a file of this project"):
        load_predictor(path)
    path.write_bytes(pickle.dumps({"x": np.array([object()])}))
    with pytest.raises(PickleError):
        load_predictor(path)
    with pytest.raises(TypeError, match="object is not plain data"):
        pickles.dump(path, {"x": object()})


def test_loading_and_predicting_needs_neither_scikit_learn_nor_torch(fitted, tmp_path):
    path = tmp_path / "p.pkl"
    fitted[1].save(path)
    code = (
        "import sys; from latency.predictor import load_predictor; from latency.ops import mbconv\n"
        f"p = load_predictor({str(path)!r}); p.network_s([mbconv(8, 8, 8, kernel=3, stride=1, expand=3)])\n"
        "print([m for m in ('sklearn', 'torch', 'scipy', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_a_file_of_schema_1_still_predicts_the_same():
    """tests/golden/pixel1_schema1.pkl was written by version 0.1.0; the golden seconds were computed by it."""
    predictor = load_predictor(ROOT / "tests" / "golden" / "pixel1_schema1.pkl")
    op = mbconv(24, 24, 56, kernel=5, stride=1, expand=3)
    seconds, std = predictor.predict_s([op], return_std=True)
    assert seconds[0] == pytest.approx(GOLDEN_SCHEMA_1[0], rel=1e-9)
    assert std[0] == pytest.approx(GOLDEN_SCHEMA_1[1], rel=1e-9)
    assert predictor.network_s([op, op])[0] == pytest.approx(2 * seconds[0])
    newer = dataclasses.replace(op, mid_channels=24, expand_conv=1)  # a field that the file knows nothing of
    with pytest.raises(UnsupportedOp, match="fitted on expand_conv 0"):
        predictor.predict_s([newer])


def test_a_file_that_would_lie_is_refused_and_one_that_may_says_so(fitted, tmp_path):
    """Before schema 4 the shuffle of grouped blocks was no work; before 6 kernels were described and timed otherwise."""
    _, predictor = fitted
    kind = predictor.kinds["MBConv"]
    of_groups = dataclasses.replace(kind, discrete={**kind.discrete, "groups": ["1", "2"]})
    for kinds, schema in (
        ({"MBConv": of_groups}, 3),
        ({"MBConv": of_groups}, 4),
        ({"Pointwise": kind}, 3),
        ({"Pointwise": kind}, 4),
        ({"Pointwise": kind}, 5),
    ):
        path = tmp_path / "old.pkl"
        dataclasses.replace(predictor, kinds=kinds).save(path)
        pickles.dump(path, pickles.load(path) | {"schema": schema})
        if "Pointwise" in kinds:
            assert "profile with --space kernels" in load_predictor(path).provenance["caution"]
        elif schema == 4:
            assert "caution" not in load_predictor(path).provenance
        else:
            with pytest.raises(PredictorError, match="fitted on grouped MBConv when the shuffle"):
                load_predictor(path)


def test_a_file_from_before_a_feature_was_added_still_predicts_the_same(fitted, tmp_path):
    space, predictor = fitted
    path = tmp_path / "old.pkl"
    predictor.save(path)
    content = pickles.load(path)
    names = content["features"]
    order = [*range(1, len(names)), 0]  # another order, and one feature that the old table did not have
    dropped = names.index("log_dilation")
    order.remove(dropped)
    content["features"] = [names[i] for i in order]
    for kind in content["kinds"].values():
        kind["low"], kind["high"] = kind["low"][order], kind["high"][order]
        kind["model"]["columns"] = np.array([order.index(c) for c in kind["model"]["columns"]])
    pickles.dump(path, content)
    loaded, ops = load_predictor(path), space.unique_ops()
    assert np.array_equal(loaded.predict_s(ops), predictor.predict_s(ops))
    assert [loaded.covers(op) for op in ops] == [predictor.covers(op) for op in ops]
    content["features"][0] = "log_gone"
    content["kinds"]["MBConv"]["model"]["columns"][0] = 0
    pickles.dump(path, content)
    with pytest.raises(PredictorError, match=r"a feature that this version does not have .log_gone"):
        load_predictor(path)


def test_a_predictor_holds_only_arrays_and_builtins(fitted, tmp_path):
    """By construction it loads under any scikit-learn: no class is in the file, and the loader admits none."""
    import pickletools

    path = tmp_path / "p.pkl"
    fitted[1].save(path)
    asked = [arg for op, arg, _ in pickletools.genops(path.read_bytes()) if op.name in ("GLOBAL", "INST") and arg]
    text = path.read_bytes()
    assert asked == []
    assert b"sklearn" not in text.replace(b"scikit-learn", b"")


def test_network_level_recovers_constant_and_scale():
    sums = np.linspace(1e-2, 3e-2, 40)
    constant, scale = fit_network_level(sums, 1e-3 + 0.95 * sums, 1e-3 * sums)
    assert constant == pytest.approx(1e-3, rel=0.05)
    assert scale == pytest.approx(0.95, rel=0.01)
    constant, scale = fit_network_level(sums[:1], 1.1 * sums[:1], 1e-3 * sums[:1])
    assert 1.0 < scale < 1.1
    assert constant > 0


def test_sums_that_are_off_do_not_lower_the_scale():
    """Errors of sums of 15 % either way: least squares relative to the measured would find 3 % less."""
    rng = np.random.default_rng(0)
    sums = np.exp(rng.uniform(-8, -3, 2000))
    measured = 1.05 * sums * np.exp(0.15 * rng.standard_normal(2000))
    measured[::100] *= 3.0  # and some that are no sum at all
    constant, scale = fit_network_level(sums, measured, 0.15 * measured, least_constant_s=0.0)
    assert scale == pytest.approx(1.05, rel=0.01)
    assert 0.0 <= constant < 1e-5


def test_test_networks_are_never_fitted():
    networks = [Observation((), float(i + 1), 0.1) for i in range(40)]
    fit, test = split_networks(networks)
    assert len(test) == 16
    assert sorted(o.seconds for o in fit + test) == [float(i + 1) for i in range(40)]
    assert split_networks(networks[:4]) == (networks[:4], [])


def test_nothing_measured():
    with pytest.raises(FitError, match="profile a device first"):
        fit_ops([], 3)
