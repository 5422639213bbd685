"""A profile that goes on in a second session measures what is left as well as one that was never interrupted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from devices.base import DeviceError
from devices.replay import ReplayDevice, Script
from latency.measure import Policy, Progress, Workload
from latency.profile import profile
from latency.resume import ties
from latency.stats import round_factors
from latency.table import LatencyTable
from tests.devices.test_devices import Named
from tests.latency.conftest import small_space

SPACE = small_space()  # only its name is asked for
POLICY = Policy(target=0.02, max_rounds=250)


def todo_of(n):
    """`n` workloads with keys that a table can read, and what each truly takes."""
    keys = [str(op) for op in small_space(blocks=30).unique_ops()][:n]
    assert len(keys) == n
    truth = dict(zip(keys, np.random.default_rng(0).uniform(5e-3, 50e-3, n).tolist(), strict=True))
    return [Workload(key, "op", lambda key=key: Named(key), (1,)) for key in keys], truth


def in_two(tmp_path, todo, truth, first, seed=1, device=ReplayDevice):
    """Measure the first `first` of `todo`, then, on a host at another speed, all. Returns median / truth of all."""
    table = LatencyTable(tmp_path / "t.csv")
    script = Script(noise_cv=0.05, drift=0.2, drift_period_s=40)
    profile(ReplayDevice(truth.__getitem__, script, seed), SPACE, table, POLICY, only=todo[:first])
    before = table.path.read_bytes()
    slower = {key: 1.3 * s for key, s in truth.items()}
    result = profile(device(slower.__getitem__, script, seed + 1), SPACE, table, POLICY, only=todo)
    assert table.path.read_bytes().startswith(before), "rows already written stay byte for byte"
    rows = {row.op: row for row in table.rows()}
    assert all(row.ci_low_s < row.median_s < row.ci_high_s for row in rows.values())
    assert set(table.scales()) == {1, 2}
    return result, rows, np.array([rows[w.key].median_s / truth[w.key] for w in todo])


@pytest.mark.parametrize(("n", "left"), [(40, 3), (60, 45)])
def test_what_is_left_is_on_the_scale_of_what_was_measured(tmp_path, n, left):
    """Few are left: nobody tells what hit the round. Many, all new: they agree among themselves, 30 % too slow."""
    todo, truth = todo_of(n)
    result, rows, ratio = in_two(tmp_path, todo, truth, n - left)
    assert (result.rows, result.failed) == (n, 0)
    off = ratio / np.median(ratio[: n - left]) - 1
    assert abs(np.median(off[n - left :])) < 0.012
    assert np.abs(off[n - left :]).max() < 0.03
    low, high = np.array([(rows[w.key].ci_low_s, rows[w.key].ci_high_s) for w in todo[n - left :]]).T
    there = np.array([truth[w.key] for w in todo[n - left :]]) * np.median(ratio[: n - left])
    assert np.mean((low <= there) & (there <= high)) >= 0.93


def test_a_workload_that_only_ties_and_fails_is_not_missed(tmp_path):
    todo, truth = todo_of(30)

    class Half(ReplayDevice):
        def prepare(self, module, input_shape):
            if module.key in [w.key for w in todo[:14]]:
                raise DeviceError("not today")
            return super().prepare(module, input_shape)

    result, _, _ = in_two(tmp_path, todo, truth, 27, device=Half)
    assert (result.rows, result.failed) == (30, 0)


def test_workloads_with_samples_tie_first():
    todo = [Workload(f"w{i}", "op", lambda: Named("x"), (1,)) for i in range(20)]
    progress = Progress({f"w{i}": [(r, 1.0) for r in range(10)] for i in (3, 7, 9)}, 10)
    assert {w.key for w in ties(todo, progress, 3, random.Random(0))} == {"w3", "w7", "w9"}
    assert len(ties(todo, progress, 12, random.Random(0))) == 12
    assert ties([], progress, 12, random.Random(0)) == []


def test_rounds_that_share_few_workloads_are_brought_together():
    """60 workloads in the first 40 rounds, 60 others and 8 of the first in 40 rounds 1.5 x as slow."""
    rng = np.random.default_rng(0)
    truth, factors = rng.uniform(1, 20, 120), np.r_[np.ones(40), np.full(40, 1.5)]
    samples = truth[:, None] * factors * np.exp(rng.normal(0, 0.05, (120, 80)))
    samples[rng.random(samples.shape) < 0.05] *= 10
    samples[60:, :40] = samples[8:60, 40:] = np.nan
    ratio = np.nanmedian(samples / round_factors(samples), axis=1) / truth
    assert np.median(ratio[60:]) / np.median(ratio[:60]) == pytest.approx(1, abs=0.02)
