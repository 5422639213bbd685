"""Devices that drift while networks are measured: the order of measuring tells it from what ops take."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from latency import pace
from latency.evidence import Level, Noise, Rows, linearise, solve
from latency.features import feature_matrix
from latency.flops import macs
from latency.joint import Observation, fit_joint, latents_of
from latency.network_file import read_networks
from latency.predictor import LatencyPredictor, from_fit
from latency.priors import _evidence_gradient, make_group, prior_cov
from tests.latency.conftest import small_space


def seconds_of(ops) -> float:
    return 1e-4 + sum(2e-5 + 1e-10 * macs(op) * (1 + 0.15 * (op.kernel - 3)) for op in ops if not op.is_free)


def measured(n: int, drifted, seed: int = 0, noise: float = 0.002) -> list[Observation]:
    """Networks one after the other on a device slower by `drifted(share of the time that has passed)`."""
    rng, noisy = random.Random(seed), np.random.default_rng(seed)
    found = []
    for i in range(n):
        ops = small_space().random(rng).ops
        factor = 1 + drifted(i / n) + noise * noisy.standard_normal()
        found.append(Observation(ops, seconds_of(ops) * factor, 0.0, at=float(i)))
    return found


def untold(observations: list[Observation]) -> list[Observation]:
    return [replace(o, at=None) for o in observations]


def fitted(observations: list[Observation]) -> LatencyPredictor:
    return from_fit("fake", fit_joint(observations, calibrate=False))


def ratios(predictor: LatencyPredictor, seed: int = 9) -> np.ndarray:
    """Predicted per true seconds, without drift, of unseen networks."""
    rng = random.Random(seed)
    nets = [small_space().random(rng).ops for _ in range(60)]
    return np.array([predictor.network_s(ops)[0] / seconds_of(ops) for ops in nets])


def warming(share: float) -> float:
    return 0.06 * (share - 0.5)


def test_told_the_order_a_device_that_warms_up_is_known_better():
    nets = measured(120, warming)
    spread = {told: float(np.std(ratios(fitted(nets if told else untold(nets))))) for told in (True, False)}
    assert spread[True] < 0.6 * spread[False]


def test_what_is_predicted_is_the_average_moment_and_its_drift_is_noise_of_networks_to_come():
    nets = measured(120, warming)
    predictor = fitted(nets)
    assert float(np.median(ratios(predictor))) == pytest.approx(1.0, abs=0.006)
    seconds, std_s = predictor.network_s(nets[0].ops)
    assert 0.008 < std_s / seconds < 0.04  # the drift's standard deviation is 1.7 %, the noise's 0.2 %


def test_a_tenth_of_the_time_at_twice_the_speed_does_not_move_the_level():
    predictor = fitted(measured(150, lambda share: 0.3 * (0.4 < share < 0.5)))
    assert float(np.median(ratios(predictor))) == pytest.approx(1.0, abs=0.01)


def test_without_drift_or_with_few_networks_the_order_changes_nothing():
    exact = measured(110, lambda share: 0.0, noise=0.0)
    assert ratios(fitted(exact)) == pytest.approx(ratios(fitted(untold(exact))), rel=1e-4)
    few = measured(pace.MIN_NETWORKS - 1, warming)
    assert np.array_equal(ratios(fitted(few)), ratios(fitted(untold(few))))


def test_one_network_of_unknown_moment_leaves_the_drift_out():
    nets = measured(110, warming)
    assert latents_of(nets)[1].at is not None
    assert latents_of([*nets[:-1], replace(nets[-1], at=None)])[1].at is None


def test_the_basis_has_the_covariance_and_many_moments_are_near_it():
    rng = np.random.default_rng(0)
    at = np.sort(rng.uniform(0, 50, 60))
    theta = np.log([0.01, 12.0])
    cov, _ = pace.covariance(at, theta)
    columns = pace.basis(at, 0.01, 12.0)
    assert np.allclose(columns @ columns.T, cov, atol=1e-9)
    assert np.allclose(columns.sum(axis=0), 0.0, atol=1e-12)
    many = np.sort(rng.uniform(0, 50, 400))
    near = pace.basis(many, 0.01, 12.0)
    assert near.shape[1] <= pace.KNOTS
    assert np.allclose(near @ near.T, pace.covariance(many, theta)[0], atol=0.1 * 0.01**2)


def test_the_evidence_has_its_gradient_by_drift_too():
    rng = np.random.default_rng(3)
    ops = small_space().unique_ops()
    counts = rng.integers(0, 3, (pace.MIN_NETWORKS, len(ops))).astype(float)
    counts[:, 0] += 1
    y = counts.sum(axis=1) * (1 + 0.02 * rng.standard_normal(len(counts)))
    rows = Rows(counts, y, np.full(len(y), 1e-4), np.ones(len(y), dtype=bool), at=np.arange(len(y)) * 2.0)
    level, noise, mean, fixed = Level(20.0, scale_std=0.0), Noise(0.02), np.zeros(len(ops)), np.zeros(len(ops))
    kinds = [type(op).__name__ for op in ops]
    group = make_group(tuple(dict.fromkeys(kinds)), kinds, feature_matrix(ops))
    at = solve(rows, mean, prior_cov([group], fixed), level, noise)
    lin = linearise(rows, mean, at.u, level, noise)
    lin = replace(lin, shares=pace.expected_s(rows, mean, level) / y)
    theta = np.concatenate([group.theta, np.log([0.01, 30.0, 0.02])])

    def cost(t):
        return _evidence_gradient(t, [group], fixed, level, rows, lin, noise)

    assert cost(theta)[1] == pytest.approx(approx_fprime(theta, lambda t: cost(t)[0], 1e-6), rel=1e-3, abs=1e-3)


def test_a_file_of_networks_is_read_as_measured_in_its_order(tmp_path):
    path = tmp_path / "nets.csv"
    space = small_space()
    archs = ["-".join("0" for _ in space.choices)] * 3
    path.write_text("arch,x_ms\n" + "".join(f'"{arch}",{i + 1}.0\n' for i, arch in enumerate(archs)))
    found = [o.at for o in read_networks(path, space, "x_ms")]
    assert found == sorted(found)
    assert len(set(found)) == 3
