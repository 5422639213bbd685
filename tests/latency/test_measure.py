"""The policy, on the scripted device: its clock is virtual, so nothing here waits."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from devices.base import DeviceError
from devices.replay import ReplayDevice, Script
from latency.measure import (
    PARTS,
    Measurement,
    Policy,
    Progress,
    Workload,
    _visit,
    cache_label,
    prepare,
    run_rounds,
    warm_up,
)
from latency.repeat import choose, compare, repeat
from latency.stats import median_ci, spearman
from tests.devices.test_devices import Named


def times(n, rng):
    return {f"w{i}": float(t) for i, t in enumerate(rng.uniform(5e-3, 50e-3, n))}


def run(truth, script, policy, *, seed=0, progress=None, stop_after=None):
    """Measure `truth` (key -> seconds) on a replay device. Returns (measurements, progress, rounds, failed)."""
    device = ReplayDevice(truth.__getitem__, script, seed)
    todo = [Workload(key, "op", lambda key=key: Named(key), (1,)) for key in truth]
    sessions, failed = prepare(device, todo, lambda *_: None)
    done: list[Measurement] = []
    rounds: list[list[str]] = []

    def on_round(round_, taken):
        rounds.append([key for key, _ in taken])
        if stop_after and len(rounds) == stop_after:
            raise KeyboardInterrupt

    progress = progress or Progress()
    found = run_rounds(
        sessions,
        todo,
        policy,
        random.Random(seed),
        progress,
        on_round=on_round,
        on_done=done.append,
        on_failed=lambda k, e: failed.update({k: str(e)}),
        report=lambda *_: None,
    )
    assert {m.key for m in found} == {m.key for m in done}
    return found, progress, rounds, failed


def test_quiet_device_is_measured_exactly():
    truth = times(20, np.random.default_rng(0))
    done, _, rounds, _ = run(truth, Script(), Policy())
    assert {m.key: m.median_s for m in done} == pytest.approx(truth)
    assert all(m.flags == ("warm",) for m in done)
    assert len(rounds) == 14, "10 samples, and once more at 10 x 1.4 to confirm"


def test_every_round_visits_all_unfinished_in_a_fresh_order():
    _, _, rounds, _ = run(times(20, np.random.default_rng(0)), Script(noise_cv=0.05), Policy(max_rounds=12))
    assert all(sorted(r) == sorted(rounds[0]) for r in rounds)
    assert len({tuple(r) for r in rounds}) == len(rounds)


def test_what_hits_a_whole_round_is_taken_out():
    """A slow first round and +-20 % drift: the medians of the rounds before correction are off, after it they agree."""
    truth = times(60, np.random.default_rng(1))
    script = Script(drift=0.2, drift_period_s=40, slow_start_s=2.0, noise_cv=0.05)
    done, _, _, _ = run(truth, script, Policy(target=0.01))
    ratio = np.array([m.median_s / truth[m.key] for m in done])
    assert ratio.std() / ratio.mean() < 0.01, "a common scale is drift of the host; between workloads nothing is left"
    raw = np.array([np.std(m.samples_s) / np.mean(m.samples_s) for m in done])
    corrected = np.array([np.std(m.corrected_s) / np.mean(m.corrected_s) for m in done])
    assert np.median(corrected) < 0.5 * np.median(raw)


NOISY = Script(noise_cv=0.27, drift=0.2, drift_period_s=200, slow_start_s=3.0, outlier_share=0.05)


def covered(done, truth):
    """Share of 95 % intervals that hold the truth, as they are told and with what they have in common taken out."""
    truths = np.array([truth[m.key] for m in done])
    low, high = np.array([m.ci_s for m in done]).T
    own_low, own_high = np.array([median_ci(m.corrected_s) for m in done]).T
    scale = np.median(np.array([m.median_s for m in done]) / truths)
    told = np.mean((low <= truths) & (truths <= high))
    return told, np.mean((own_low / scale <= truths) & (truths <= own_high / scale))


@pytest.mark.parametrize(("seed", "slow_start_s"), [(2, 3.0), (7, 120.0)])
def test_intervals_on_a_noisy_drifting_device_hold_the_truth(seed, slow_start_s):
    """cv 27 %, +-20 % drift, 5 % outliers of 10 x: 95 % intervals cover >= 93 % of 300 workloads.

    Warming up takes some 40 s at full speed: with a slow start of 120 s the whole first round is 2 x slow. These seeds
    were the worst: 77 and 73 % of the intervals, as told, held the truth when the scale was the median of the rounds.
    """
    truth = times(300, np.random.default_rng(seed))
    script = replace(NOISY, slow_start_s=slow_start_s)
    done, _, _, _ = run(truth, script, Policy(target=0.05, max_rounds=160), seed=seed)
    assert len(done) == 300
    told, rescaled = covered(done, truth)
    assert told >= 0.93
    assert rescaled >= 0.93
    widths = np.array([[m.half_width, np.diff(m.ci_s)[0] / 2 / m.median_s] for m in done])
    assert np.median(widths[:, 1] / widths[:, 0]) < 1.1, "and it is not width that makes it so"


def test_early_and_late_results_are_on_one_scale_and_the_intervals_know_it():
    """A drift so slow that the first to finish see another host than the last: rows apart by 13 to 22 %."""
    truth = times(60, np.random.default_rng(0))
    script = Script(noise_cv=0.05, drift=0.2, drift_period_s=400)
    done, _, _, _ = run(truth, script, Policy(max_rounds=160))
    ratio = np.array([m.median_s / truth[m.key] for m in done])
    n = np.array([len(m.samples_s) for m in done])
    early = n <= np.quantile(n, 0.3)
    assert abs(ratio[early].mean() / ratio[~early].mean() - 1) < 0.01
    told, _ = covered(done, truth)
    assert told >= 0.93
    assert all(m.flags == ("warm",) for m in done), "the stop looks at the samples alone: drift cannot keep it waiting"
    assert all(m.scale > 0.05 for m in done)


def test_a_ranking_of_workloads_2_percent_apart_survives_the_noise():
    truth = {f"w{i}": 0.01 * 1.02**i for i in range(60)}
    shuffled = {k: truth[k] for k in np.random.default_rng(2).permutation(list(truth))}
    done, _, _, _ = run(shuffled, NOISY, Policy(target=0.02, max_rounds=400))
    assert spearman(np.array([m.median_s for m in done]), np.array([truth[m.key] for m in done])) >= 0.99
    told, rescaled = covered(done, truth)
    assert rescaled >= 0.85, "of 60, that stop when their intervals are narrow"
    assert told >= 0.93


def test_done_workloads_meet_the_target_and_the_rest_is_flagged():
    truth = times(20, np.random.default_rng(3))
    done, _, _, _ = run(truth, Script(noise_cv=0.27), Policy(target=0.02, max_rounds=30))
    assert len(done) == 20
    for m in done:
        assert ("noisy" in m.flags) == (m.half_width > 0.02)
    assert any("noisy" in m.flags for m in done)


def test_interrupted_and_resumed_keeps_every_sample():
    truth = times(12, np.random.default_rng(4))
    progress = Progress()
    with pytest.raises(KeyboardInterrupt):
        run(truth, Script(noise_cv=0.05), Policy(), progress=progress, stop_after=7)
    kept = {k: list(v) for k, v in progress.samples.items()}
    done, _, _, _ = run(truth, Script(noise_cv=0.05), Policy(), progress=progress, seed=1)
    assert len(done) == 12
    for m in done:
        assert progress.samples[m.key][: len(kept[m.key])] == kept[m.key]


def test_one_fault_is_retried_and_a_broken_workload_is_left_out():
    truth = times(10, np.random.default_rng(5))
    done, _, _, failed = run(truth, Script(faults={50: DeviceError("hiccup")}), Policy())
    assert len(done) == 10
    assert not failed

    class Broken(ReplayDevice):
        def prepare(self, module, input_shape):
            if module.key == "w3":
                raise DeviceError("wrong op")
            return super().prepare(module, input_shape)

    todo = [Workload(key, "op", lambda key=key: Named(key), (1,)) for key in truth]
    sessions, failed = prepare(Broken(truth.__getitem__), todo, lambda *_: None)
    assert failed == {"w3": "wrong op"}
    assert len(sessions) == 9


def test_a_sample_lasts_long_enough():
    session = ReplayDevice(lambda key: 1e-4).prepare(Named("x"), (1,))
    assert warm_up(session, 2e-3) == 20
    assert warm_up(ReplayDevice(lambda key: 1.0).prepare(Named("x"), (1,)), 2e-3) == 1


class Interrupted:
    """Each call takes 0.15 ms an inference; every fourth one, a time slice of another process."""

    def __init__(self, every=4):
        self.every, self.calls = every, []

    def time_s(self, loops):
        self.calls.append(loops)
        return loops * 1.5e-4 + (4e-3 if len(self.calls) % self.every == 0 else 0.0)


def test_time_slices_of_other_processes_do_not_enter_a_sample():
    session = Interrupted()
    assert _visit(session, 14) == pytest.approx(1.5e-4), "the mean of the batch would be several times that"
    assert session.calls == [1] + [2] * 7
    tiny = Interrupted()
    _visit(tiny, 1000)
    assert tiny.calls == [1] + [1000 // PARTS] * PARTS, "no part is too short for the clock"


def test_a_session_may_have_its_samples_in_one_piece():
    session = Interrupted()
    session.parts = 1
    _visit(session, 14)
    assert session.calls == [1, 14]


def test_warm_up_ends_on_a_device_that_never_settles():
    session = ReplayDevice(lambda key: 1e-3, Script(noise_cv=0.5)).prepare(Named("x"), (1,))
    assert warm_up(session, 2e-3) >= 1


def test_rows_say_in_what_state_the_caches_were():
    session = ReplayDevice(lambda key: 1e-3).prepare(Named("x"), (1,))
    assert cache_label(session) == "warm"
    session.cache_state = "cold"
    assert cache_label(session) == "cold"


def test_a_device_that_converts_is_given_all_models_at_once():
    class Converting(ReplayDevice):
        def convert_ahead(self, jobs, on_done):
            self.ahead = [(make().key, shape) for make, shape in jobs]
            on_done(len(self.ahead))

    device, notes = Converting(lambda key: 1e-3), []
    todo = [Workload(key, "op", lambda key=key: Named(key), (1, 2)) for key in "abc"]
    prepare(device, todo, lambda done, total, note: notes.append(note))
    assert device.ahead == [("a", (1, 2)), ("b", (1, 2)), ("c", (1, 2))]
    assert notes[0] == "converted 3 of 3"


def test_a_second_session_tells_the_common_shift_from_the_spread():
    """By hand: ratios 1.10, 1.10 * 1.04 and 1.10 * 0.99: shift 10 %, off by 0, 4 and 1 %."""
    second = [
        Measurement(key, "op", np.full(20, seconds), np.ones(20))
        for key, seconds in (("a", 1.10), ("b", 2.0 * 1.10 * 1.04), ("c", 3.0 * 1.10 * 0.99), ("new", 9.0))
    ]
    found = compare({"a": 1.0, "b": 2.0, "c": 3.0}, second)
    assert found.n == 3
    assert (found.shift, found.spread, found.worst) == pytest.approx((0.10, 0.01, 0.04))
    assert found.noise == 0
    assert compare({"a": 1.0, "b": 2.0}, second) is None


def test_what_changes_from_session_to_session_is_found():
    """A device that times every newly opened session 0 to 12 % slower: its intervals say nothing of that."""

    class Moody(ReplayDevice):
        def prepare(self, module, input_shape):
            session = super().prepare(module, input_shape)
            session._seconds *= 1 + 0.12 * self._rng.random()
            return session

    truth = times(160, np.random.default_rng(6))
    todo = [Workload(key, "op", lambda key=key: Named(key), (1,)) for key in truth]

    def again(device):
        return repeat(device, todo, truth, Policy(target=0.01), random.Random(0), lambda *_: None)

    moody, steady = (again(kind(truth.__getitem__, Script(noise_cv=0.02), 3)) for kind in (Moody, ReplayDevice))
    assert moody.n == steady.n == 8, "5 % of 160"
    assert 2 * steady.spread < moody.spread < 0.12
    assert moody.shift > 0.01
    assert steady.noise == pytest.approx(moody.noise, abs=0.005)


@pytest.mark.parametrize(("have", "taken"), [(3, 3), (40, 8), (160, 8), (400, 20)])
def test_a_twentieth_is_repeated_and_never_too_few(have, taken):
    todo = [Workload(f"w{i}", "op", lambda: Named("x"), (1,)) for i in range(have)]
    assert len({w.key for w in choose(todo, random.Random(0))}) == taken
    assert len(choose(todo, random.Random(0), width=2)) == min(have, max(16, taken)), "as many for each phone"
