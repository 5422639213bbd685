"""Phones that share a table are calibrated against each other, however few the workloads are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from devices import phone_group
from devices.base import DeviceError
from devices.phone_group import PhoneGroup
from latency.measure import Policy, Progress, Workload, prepare, run_rounds
from latency.repeat import repeat
from latency.stats import FEWEST
from tests.devices.test_devices import Named


class Phone:
    """A phone that takes `speed` times the truth, within 1 %; its models are named by their keys."""

    name, waited_s = "phone", 0.0

    def __init__(self, truth, speed, seed):
        self.truth, self.speed, self.rng, self.broken = truth, speed, random.Random(seed), ""

    def describe(self):
        return {"quantization": "fp32"}

    def session(self, model):
        return str(model)

    def time_many(self, parts, loops):
        return [
            DeviceError("broken") if key == self.broken else self.seconds(key) * n
            for key, n in zip(parts, loops, strict=True)
        ]

    def seconds(self, key):
        return self.truth[key] * self.speed * float(np.exp(self.rng.gauss(0, 0.01)))


class Group(PhoneGroup):
    """Nothing is converted."""

    convert_ahead = None

    def session(self, model):
        opened = super().session(model)
        opened.close = lambda: None
        return opened


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr("devices.convert.to_tflite", lambda module, *_: Path(module.key))

    def of(n, speeds):
        truth = {f"w{i}": float(t) for i, t in enumerate(np.random.default_rng(0).uniform(5e-3, 5e-2, n))}
        group = Group([Phone(truth, speed, i) for i, speed in enumerate(speeds)])
        return group, truth, [Workload(key, "op", lambda key=key: Named(key), (1,)) for key in truth]

    return of


def timed(group, todo, rounds=40):
    sessions, failed = prepare(group, todo, lambda *_: None)
    assert not failed
    done, broken, columns = [], [], []
    run_rounds(
        sessions,
        todo,
        Policy(max_rounds=rounds),
        random.Random(0),
        Progress(),
        on_round=lambda _, taken: columns.append(len(taken)),
        on_done=done.append,
        on_failed=lambda key, _: broken.append(key),
        report=lambda *_: None,
    )
    return done, broken, columns


def test_both_ask_for_the_same_number():
    assert phone_group.FEWEST == FEWEST


@pytest.mark.parametrize(("n", "speeds"), [(5, (1, 1.15)), (12, (1, 1.15)), (15, (1, 2)), (20, (1, 1.15, 1.3))])
def test_few_workloads_compare_although_the_phones_differ(make, n, speeds):
    group, truth, todo = make(n, speeds)
    done, _, _ = timed(group, todo)
    ratio = np.array([m.median_s / truth[m.key] for m in done])
    assert len(done) == n
    assert ratio.max() / ratio.min() < 1.02
    if n >= FEWEST:
        assert not any("noisy" in m.flags for m in done)


def test_many_are_shared_out(make):
    group, truth, todo = make(40, (1, 1.15))
    done, _, columns = timed(group, todo)
    assert columns[0] == 20
    ratio = np.array([m.median_s / truth[m.key] for m in done])
    assert ratio.max() / ratio.min() < 1.02


@pytest.mark.parametrize("n", [12, 40])
def test_the_second_session_does_not_report_the_phones(make, n):
    group, truth, todo = make(n, (1, 1.15))
    found = repeat(group, todo, truth, Policy(max_rounds=25), random.Random(0), lambda *_: None)
    assert found.n == min(n, 2 * FEWEST)
    assert found.spread < 0.01
    assert found.worst < 0.02


def test_what_breaks_on_both_phones_is_told_once(make):
    group, _, todo = make(10, (1, 1))
    for phone in group.phones:
        phone.broken = "w3"
    done, broken, _ = timed(group, todo)
    assert broken == ["w3"]
    assert len(done) == 9
