"""The evidence model: any mix of lone ops and whole networks, and its standard errors."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from latency import frozen, joint
from latency.calibration import left_out, new_value_factor, spread
from latency.evidence import Level, Noise, Rows, fit_tails, leave_one_out, linearise, solve, solve_robustly
from latency.features import feature_matrix
from latency.flops import macs
from latency.freezing import MAX_FLOATS, _thin
from latency.joint import Observation, fit_joint, latents_of
from latency.ops import Conv2d, Pool, Zero, mbconv
from latency.predictor import LatencyPredictor, UnsupportedOp, from_fit, load_predictor
from latency.priors import _evidence_gradient, fit_rates, freeze, kernel, make_group
from tests.latency.conftest import small_space


def curved_s(op) -> float:
    """A truth that is no line in MACs: larger kernels are dearer per MAC."""
    return 2e-5 + 1e-10 * macs(op) * (1 + 0.15 * (op.kernel - 3))


def networks(space, n, seed=0, constant_s=1e-4, scale=1.0, noise=0.0):
    rng, noisy = random.Random(seed), np.random.default_rng(seed)
    found = []
    for _ in range(n):
        ops = space.random(rng).ops
        seconds = constant_s + scale * sum(curved_s(op) for op in ops if not op.is_free)
        found.append(Observation(ops, seconds * float(np.exp(noise * noisy.standard_normal())), noise * seconds))
    return found


def predictor_of(fit) -> LatencyPredictor:
    return from_fit("fake", fit)


def error(predictor, nets) -> float:
    return float(np.mean([abs(predictor.network_s(o.ops)[0] / o.seconds - 1) for o in nets]))


@pytest.mark.parametrize("mix", ["ops", "networks", "both"])
def test_any_mix_of_evidence_predicts_unseen_networks(mix):
    space = small_space()
    ops = [Observation((op,), curved_s(op) / 1.1, 1e-3 * curved_s(op)) for op in space.unique_ops()]
    nets = networks(space, 40)
    fit = fit_joint({"ops": ops, "networks": nets, "both": ops + nets}[mix])
    test = networks(space, 40, seed=1)
    if mix == "ops":  # they know neither the scale (1.1) nor the constant of networks
        test = [Observation(o.ops, (o.seconds - 1e-4) / 1.1, 0.0) for o in test]
    assert error(predictor_of(fit), test) < 0.005
    assert fit.scale == (pytest.approx(1.1, rel=0.05) if mix == "both" else 1.0)


def test_more_networks_never_hurt_and_few_are_better_than_a_line_in_macs():
    space = small_space(blocks=12)
    test = networks(space, 60, seed=9)
    fits = [fit_joint(networks(space, n, noise=0.005), calibrate=False) for n in (8, 30, 100)]
    errors = [error(predictor_of(fit), test) for fit in fits]
    line = np.polyfit([sum(map(macs, o.ops)) for o in networks(space, 8)], [o.seconds for o in networks(space, 8)], 1)
    by_line = np.mean([abs(np.polyval(line, sum(map(macs, o.ops))) / o.seconds - 1) for o in test])
    assert errors[0] < by_line
    assert errors[2] < 0.004
    assert errors == sorted(errors, reverse=True)


def test_latency_is_additive_over_concatenation_and_free_ops_are_free():
    fit = fit_joint(networks(small_space(), 30))
    predictor = predictor_of(fit)
    ops = small_space().random(random.Random(3)).ops
    zero = Zero(in_channels=8, out_channels=8, height=8, width=8, shortcut=1)
    seconds, std = predictor.network_s(ops)
    assert seconds == pytest.approx(predictor.constant_s + predictor.scale * predictor.predict_s(ops).sum())
    with_zero = predictor.network_s((*ops, zero))
    assert with_zero == pytest.approx((seconds, std))


def test_an_outlier_is_not_believed():
    space = small_space()
    nets = networks(space, 60, noise=0.002)
    clean = predictor_of(fit_joint(nets))
    spoilt = list(nets)
    for i in range(0, 60, 15):
        spoilt[i] = Observation(nets[i].ops, 3 * nets[i].seconds, nets[i].stderr_s)
    robust = predictor_of(fit_joint(spoilt))
    test = networks(space, 40, seed=5)
    assert error(robust, test) < 0.01
    assert error(clean, test) < 0.005


def test_nominal_90_intervals_hold_about_90_of_unseen_networks():
    space = small_space(blocks=8)
    inside = []
    for seed in range(3):
        predictor = predictor_of(fit_joint(networks(space, 60, seed=seed, noise=0.02)))
        for o in networks(space, 200, seed=100 + seed, noise=0.02):
            seconds, std = predictor.network_s(o.ops)
            inside.append(abs(seconds - o.seconds) <= 1.645 * std)
    assert 0.83 <= np.mean(inside) <= 0.96


def test_what_ops_timed_alone_leave_out_is_learned_from_networks(monkeypatch):
    """Weights stay in the cache of an op timed alone, and its layout is converted: 2 ns a parameter, -0.1 ns a byte."""
    rates = np.array([-0.1e-9, 2e-9])
    space = small_space(blocks=8)

    def inside_s(op) -> float:
        return curved_s(op) + float(frozen.context_terms(feature_matrix([op]))[0] @ rates)

    ops = [Observation((op,), curved_s(op), 1e-3 * curved_s(op)) for op in space.unique_ops()]
    fit_on, test = (
        [Observation(o.ops, sum(inside_s(op) for op in o.ops), 1e-3 * o.seconds) for o in networks(space, n, seed=n)]
        for n in (40, 30)
    )
    predictor = predictor_of(fit_joint([*ops, *fit_on]))
    with monkeypatch.context() as patch:
        patch.setattr(joint, "CONTEXT_STD", 1e-9)
        without = predictor_of(fit_joint([*ops, *fit_on]))
    assert error(predictor, test) < min(0.003, error(without, test) / 2)
    some = space.random(random.Random(3)).ops
    total, std = predictor.network_s(some)
    assert total == pytest.approx(predictor.constant_s + predictor.scale * predictor.predict_s(some).sum())
    assert 0 < std < 0.02 * total
    lone = [o.ops[0] for o in ops]
    alone_s, alone_std_s = predictor.alone_s(lone)
    assert np.abs(alone_s / [o.seconds for o in ops] - 1).max() < 0.01
    assert (predictor.predict_s(lone, return_std=True)[1] > 0.5 * alone_std_s).all()


def test_intervals_hold_where_lone_ops_leave_something_out():
    space, rates = small_space(blocks=8), np.array([-0.1e-9, 2e-9])
    inside, z = [], []
    for seed in range(3):
        noisy = np.random.default_rng(seed)
        ops = [
            Observation((op,), curved_s(op) * float(np.exp(0.003 * noisy.standard_normal())), 3e-3 * curved_s(op))
            for op in space.unique_ops()
        ]

        def measured(n, seed, noisy=noisy):
            found = []
            for o in networks(space, n, seed=seed):
                y = o.seconds + float(frozen.context_terms(feature_matrix(o.ops)).sum(axis=0) @ rates)
                found.append(Observation(o.ops, y * float(np.exp(0.005 * noisy.standard_normal())), 5e-3 * y))
            return found

        predictor = from_fit("fake", fit_joint([*ops, *measured(36, seed)]))
        for o in measured(100, 50 + seed):
            seconds, std = predictor.network_s(o.ops)
            z.append((o.seconds - seconds) / std)
            inside.append(abs(z[-1]) <= 1.645)
    assert 0.8 <= np.mean(inside) <= 0.97
    assert 0.6 <= np.std(z) <= 1.3


def test_where_no_network_was_measured_the_scale_is_known_to_a_tenth():
    space = small_space()
    lone = [Observation((op,), curved_s(op), 1e-3 * curved_s(op)) for op in space.unique_ops()]
    seconds, std = from_fit("fake", fit_joint(lone)).network_s(space.random(random.Random(0)).ops)
    assert 0.09 <= std / seconds <= 0.12


def test_a_network_smaller_than_all_measured_takes_time():
    """A negative constant is of networks like those measured: one op alone must not come out below zero."""
    space = small_space()
    predictor = replace(from_fit("fake", fit_joint(networks(space, 30))), constant_s=-1e-4)
    for op in space.unique_ops():
        seconds, std = predictor.network_s([op])
        assert seconds > 0
        assert std > 0


def test_no_op_takes_no_time_in_context():
    x = feature_matrix([mbconv(8, 8, 8, kernel=3, stride=1, expand=3)])
    alone = np.array([1e-5])
    assert frozen.in_context(alone, x, np.array([-1.0, 0.0])) == pytest.approx(frozen.LEAST * alone)
    assert frozen.in_context(alone, x, np.zeros(2)) == pytest.approx(alone)


def toy_rows(rng, n_ops=4, n_nets=6):
    counts = np.vstack([np.eye(n_ops), rng.integers(0, 3, (n_nets, n_ops)) + (np.arange(n_ops) == 0)])
    f = np.exp(rng.normal(0, 0.3, n_ops))
    y = counts @ f * np.exp(rng.normal(0, 0.01, len(counts)))
    return Rows(counts.astype(float), y, np.full(len(y), 1e-4), np.arange(len(y)) >= n_ops)


def test_the_derivative_of_every_row_is_right():
    rng = np.random.default_rng(0)
    rows, level, noise = toy_rows(rng), Level(2.0, 0.1, context_std=(0.1, 0.2)), Noise()
    rows = replace(rows, context=rng.uniform(0.5, 1.5, (len(rows.seconds), 2)) * rows.network[:, None])
    mean, u = np.zeros(4), rng.normal(0, 0.2, 8)
    at = linearise(rows, mean, u, level, noise)
    m = np.concatenate([mean, level.mean])
    here = at.target - at.jacobian @ (u - m)
    for i in range(8):
        step = np.zeros(8)
        step[i] = 1e-6
        there = linearise(rows, mean, u + step, level, noise)
        residual = there.target - there.jacobian @ (u + step - m)
        assert np.allclose((here - residual) / 1e-6, at.jacobian[:, i], atol=1e-4)


def test_the_mode_and_its_covariance_solve_the_normal_equations():
    """Against the dense formulas that need the inverse of K."""
    rows, level, noise = toy_rows(np.random.default_rng(1)), Level(2.0), Noise(0.02, 0.01)
    k = 0.1 * np.eye(4) + 0.05
    posterior = solve(rows, np.zeros(4), k, level, noise)
    at = linearise(rows, np.zeros(4), posterior.u, level, noise)
    precision = at.jacobian.T @ (at.jacobian / at.variance[:, None]) + np.linalg.inv(posterior.prior_cov)
    assert np.allclose(posterior.covariance(), np.linalg.inv(precision), rtol=1e-6, atol=1e-12)
    mode = np.linalg.solve(precision, at.jacobian.T @ (at.target / at.variance))
    assert np.allclose(posterior.u - np.array([0, 0, 0, 0, level.constant, 0]), mode, atol=1e-6)


def test_leave_one_out_is_what_leaving_out_gives():
    rows, level, noise = toy_rows(np.random.default_rng(2)), Level(2.0), Noise(0.02, 0.01)
    k = 0.1 * np.eye(4) + 0.05
    posterior = solve(rows, np.zeros(4), k, level, noise)
    residual, _ = leave_one_out(rows, np.zeros(4), posterior, np.ones(len(rows.seconds)))
    at = linearise(rows, np.zeros(4), posterior.u, level, noise)
    i = 7
    rest = np.delete(np.arange(len(rows.seconds)), i)
    j, r = at.jacobian[rest], at.variance[rest]
    precision = j.T @ (j / r[:, None]) + np.linalg.inv(posterior.prior_cov)
    without = np.linalg.solve(precision, j.T @ (at.target[rest] / r))
    assert residual[i] == pytest.approx(at.target[i] - at.jacobian[i] @ without, rel=1e-4)


def test_gradients_of_the_marginal_likelihood():
    ops = small_space().unique_ops()
    x = feature_matrix(ops)
    group = make_group(("MBConv",), ["MBConv"] * len(ops), x)
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 2, (12, len(ops))).astype(float) + np.eye(12, len(ops))
    rows = Rows(counts, counts.sum(axis=1), np.full(12, 1e-4), np.ones(12, dtype=bool))
    level, noise, fixed, mean = Level(20.0), Noise(0.02), np.zeros(len(ops)), np.zeros(len(ops))
    lin = linearise(rows, mean, np.zeros(len(ops) + 2), level, noise)
    theta = np.concatenate([group.theta + rng.normal(0, 0.3, len(group.theta)), [np.log(0.02)]])
    value, gradient = _evidence_gradient(theta, [group], fixed, level, rows, lin, noise)
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-5
        up = _evidence_gradient(theta + step, [group], fixed, level, rows, lin, noise)[0]
        assert (up - value) / 1e-5 == pytest.approx(gradient[i], rel=1e-3, abs=1e-3)


def test_the_kernel_of_the_fit_is_the_kernel_of_the_prediction():
    ops = small_space().unique_ops()
    x = feature_matrix(ops)
    group = make_group(("MBConv",), ["MBConv"] * len(ops), x)
    model = freeze(group, "MBConv", {}, np.zeros(len(ops)), np.zeros((len(ops), 0)))
    z = frozen.standardised(model, x)
    assert np.allclose(z, group.x)
    assert np.allclose(frozen.kernel(model, z, z), kernel(group, group.theta)[0])


def test_ops_with_equal_features_are_one_latent():
    op = Conv2d(in_channels=8, out_channels=8, height=8, width=8, kernel=3)
    other = Conv2d(in_channels=8, out_channels=8, height=8, width=8, kernel=3, act="relu")
    latents, rows = latents_of([Observation((op, other, op), 1.0, 0.0)])
    assert len(latents.ops) == 1
    assert rows.counts.tolist() == [[3.0]]


def test_values_that_no_feature_tells_are_answered_for_all_that_were_measured():
    """Two activations of one convolution are one latent, but both were measured, so both are answered."""

    def conv(channels, act):
        return Conv2d(in_channels=channels, out_channels=8, height=8, width=8, kernel=3, act=act)

    for sizes in (range(8, 15), (8,)):  # a fitted kind, and one of too few ops, answered by look-up
        ops = [conv(c, act) for c in sizes for act in ("relu6", "none")]
        nets = [Observation(tuple(ops[i:] + ops[:i]), 1e-3, 1e-5) for i in range(3)]
        found = fit_joint([*(Observation((op,), 1e-4, 1e-6) for op in ops), *nets])
        predictor = from_fit("x", found)
        assert predictor.predict_s(ops).min() > 0
        assert predictor.network_s(ops)[1] > 0
        with pytest.raises(UnsupportedOp):
            predictor.predict_s([conv(8, "hswish")])


def test_pools_are_told_apart():
    avg, most = (Pool(in_channels=8, out_channels=8, height=8, width=8, kernel=3, pool=p) for p in ("avg", "max"))
    assert not np.array_equal(*feature_matrix([avg, most]))


def test_rates_of_work_are_positive_and_found():
    rng = np.random.default_rng(0)
    terms = np.exp(rng.normal(0, 1, (60, 3)))
    rates = fit_rates(terms, terms @ [1.0, 0.0, 2.0], np.zeros(60), strength=1e-3)
    assert rates == pytest.approx([1.0, 0.0, 2.0], abs=0.02)
    assert (fit_rates(terms[:1], np.array([3.0]), np.zeros(1)) >= 0).all()


def test_tails_are_told_apart():
    rng = np.random.default_rng(0)
    scale, nu = fit_tails(0.02 * rng.standard_normal(500))
    assert nu >= 8  # some tails are assumed unless data say otherwise
    assert scale == pytest.approx(0.02, rel=0.1)
    scale, nu = fit_tails(0.02 * rng.standard_t(2, 500))
    assert nu <= 4
    assert scale == pytest.approx(0.02, rel=0.2)


def test_few_networks_keep_the_noise_given():
    rows = toy_rows(np.random.default_rng(3))
    posterior, residual, std = solve_robustly(rows, np.zeros(4), np.eye(4), Level(2.0), Noise(0.05, 0.01))
    assert posterior.noise.network == 0.05
    assert len(residual) == len(std) == 6


def test_what_is_stored_of_the_uncertainty_is_bounded_and_never_too_sure():
    v = np.random.default_rng(0).normal(size=(600, 600))
    thin = _thin(v)
    assert thin.size <= MAX_FLOATS
    w = np.random.default_rng(1).normal(size=600)
    assert np.sum((w @ thin) ** 2) <= np.sum((w @ v) ** 2) * (1 + 1e-5)


def test_the_standard_error_grows_outside_what_was_measured():
    space = small_space()
    predictor = predictor_of(fit_joint(networks(space, 40)))
    seen, wide = space.choices[0].candidates[0], mbconv(96, 96, 8, kernel=3, stride=1, expand=3)
    near, far = np.divide(*predictor.predict_s([seen, wide], return_std=True)[::-1])
    assert far > 1.2 * near
    assert predictor.covers(seen)
    assert not predictor.covers(wide)
    assert set(predictor.outside(wide)) == {"log_in", "log_out"}


def test_the_factor_at_new_values_is_that_of_values_left_out():
    rng = np.random.default_rng(0)
    values = np.repeat(np.arange(40.0), 5)
    believed = np.exp(-np.abs(values[:, None] - values[None]) / 5) + 1e-4 * np.eye(200)
    low = np.linalg.cholesky(believed)
    of_truth = [new_value_factor(values, believed, low @ rng.standard_normal(200)) for _ in range(8)]
    assert np.mean(of_truth) == pytest.approx(1.0, abs=0.15)
    assert new_value_factor(values, believed / 9, low @ rng.standard_normal(200)) == pytest.approx(3.0, rel=0.25)
    assert new_value_factor(values, 9 * believed, low @ rng.standard_normal(200)) == 1.0  # never narrower
    assert new_value_factor(np.repeat([1.0, 2, 3], 5), believed[:15, :15], 9 * rng.standard_normal(15)) == 1.0


def test_intervals_are_wider_at_a_size_never_measured(tmp_path):
    """A jump of 8 % from size to size that no shape tells: what is between two sizes is not known as they are."""
    rng = np.random.default_rng(1)
    sizes = (7, 10, 14, 20, 28, 40, 56, 80)
    jump = dict(zip(sizes, np.exp(0.08 * rng.standard_normal(len(sizes))), strict=True))
    ops = [mbconv(c, c, size, kernel=k, stride=1, expand=3) for size in sizes for c in (16, 32, 64) for k in (3, 5)]
    fit = fit_joint([Observation((op,), curved_s(op) * jump[op.height], 1e-3 * curved_s(op)) for op in ops])
    path = tmp_path / "sizes.pkl"
    predictor_of(fit).save(path)
    predictor = load_predictor(path)
    model = predictor.kinds["MBConv"].model
    assert model is not None
    assert model["new_size"] > 1
    still = {**model, "drift": 0.0}  # of what ops at new sizes share: test_new_sizes.py
    predictor, plain = (
        replace(predictor, kinds={"MBConv": replace(predictor.kinds["MBConv"], model=m)})
        for m in (still, {**still, "new_size": 1.0})
    )
    for size, wider in ((28, 1.0), (34, model["new_size"])):
        op = mbconv(32, 32, size, kernel=3, stride=1, expand=3)
        (_, std), (_, narrow) = (p.predict_s([op], return_std=True) for p in (predictor, plain))
        assert std == pytest.approx(wider * narrow)
        assert predictor.network_s([op])[1] >= plain.network_s([op])[1]
    assert predictor.network_s([op])[1] > plain.network_s([op])[1]


def test_an_op_timed_twice_to_the_last_digit_is_fitted():
    ops = [mbconv(16, 16, size, kernel=k, stride=1, expand=3) for size in (7, 14, 28, 56) for k in (3, 5)]
    seconds, _ = predictor_of(fit_joint([Observation((op,), curved_s(op), 0.0) for op in (*ops, *ops)])).alone_s(ops)
    assert seconds == pytest.approx([curved_s(op) for op in ops], rel=1e-2)


def test_intervals_come_from_fits_that_never_saw_the_network():
    """Kernels and noise are fitted anew without each fold; the factor is that of the errors' own law."""
    seen: list[int] = []
    nets = networks(small_space(), 24, noise=0.02)

    def fit(part):
        seen.append(len(part))
        return fit_joint(part, calibrate=False)

    error_, std = left_out(nets, fit)
    assert len(error_) == len(std) == 24
    assert seen == [21] * 4 + [22] * 6, "10 folds"
    assert left_out(nets[:3], fit)[0].size == 0


def test_the_factor_of_intervals():
    rng = np.random.default_rng(0)
    assert spread(rng.standard_normal(400)) == pytest.approx(1.0, rel=0.1)
    assert spread(2 * rng.standard_normal(400)) == pytest.approx(2.0, rel=0.1)
    tailed = rng.standard_t(2, 2000)
    assert np.mean(np.abs(tailed) < 1.645 * spread(tailed)) == pytest.approx(0.9, abs=0.02)
    assert spread(np.empty(0)) == 1.0
    assert spread(np.full(5, 2.0)) == pytest.approx(1.58 * 1.102, rel=0.01), "few errors: half theirs, half the stated"
