"""How to time: random-order rounds over all unfinished workloads, until the interval of each median is narrow.

Ops timed back to back keep their data in cache and are at the mercy of slow drift; visiting every workload once a
round, in a fresh random order, removes both (docs/design.md has the numbers). What hits a whole round at once is its
factor, the median over all workloads of sample / that workload's median, and is divided out: many workloads are a
better sentinel than one. Pure policy: it knows sessions that tell seconds, nothing of ops or hardware.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from devices.base import DeviceError, Session
from latency.batches import batcher_of, columns, first_loops, waited_s
from latency.console import Report
from latency.samples import Measurement, Progress, Workload

if TYPE_CHECKING:
    from devices.base import Device

__all__ = ["Measurement", "Policy", "Progress", "Workload", "cache_label", "prepare", "run_rounds", "warm_up"]

PARTS = 10  # of a sample, each timed by itself: 0.1 ms, which clocks resolve to a thousandth


@dataclass(frozen=True)
class Policy:
    """When a workload is done, and how long a sample lasts."""

    target: float = 0.02  # half-width of the 95 % interval / median, that of the samples alone
    min_samples: int = 10
    growth: float = 1.4  # the interval is looked at only at n x 1.4: limits the bias of peeking
    budget_s: float = 120.0  # of timing; preparing sessions is not counted
    sample_s: float = 1e-3  # a sample is at least this long; longer, and caches are warmer than inside a network
    sentinels: int = 12  # finished workloads that go on being visited while fewer than this are unfinished
    max_rounds: int = 10_000


def prepare(device: Device, workloads: Sequence[Workload], report: Report) -> tuple[dict[str, Session], dict[str, str]]:
    """Open a session for every workload. Returns sessions by key, and by key why a workload has none.

    A device with `convert_ahead([(make, input_shape), ...], on_done)` converts its models side by side first.
    """
    sessions: dict[str, Session] = {}
    failed: dict[str, str] = {}
    ahead = getattr(device, "convert_ahead", None)
    if ahead is not None:
        n = len(workloads)
        ahead([(w.make, w.input_shape) for w in workloads], lambda done: report(done, n, f"converted {done} of {n}"))
    for i, workload in enumerate(workloads):
        try:
            sessions[workload.key] = device.prepare(workload.make(), workload.input_shape)
        except DeviceError as error:
            failed[workload.key] = str(error)
        report(i + 1, len(workloads), f"{i + 1} of {len(workloads)}")
    return sessions, failed


def warm_up(session: Session, sample_s: float, cap_s: float = 0.1) -> int:
    """Run until the last three batches agree within 2 %, or `cap_s`. Returns how many inferences make a sample."""
    spent = once = session.time_s(1)
    loops, batches = 1, [once]
    while len(batches) < 3 or (max(batches[-3:]) > 1.02 * min(batches[-3:]) and spent < cap_s):
        loops = max(1, math.ceil(sample_s / min(batches)))
        seconds = session.time_s(loops)
        spent += seconds
        batches.append(seconds / loops)
        if spent > 10 * cap_s:
            break
    return max(1, math.ceil(sample_s / min(batches)))


class _Watch:
    """Which workloads are done: the interval is looked at only at n = 10, 14, 20, ... and has to hold twice."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._next: dict[str, int] = {}
        self._held: set[str] = set()

    def due(self, key: str, n: int) -> bool:
        """Whether the interval of `key` is to be looked at now that it has `n` samples."""
        return n >= self._next.setdefault(key, self.policy.min_samples)

    def done(self, measurement: Measurement) -> bool:
        """Look at the interval: True where it is narrow for the second time running."""
        key = measurement.key
        while self._next[key] <= len(measurement.samples_s):
            self._next[key] = math.ceil(self._next[key] * self.policy.growth)
        if measurement.half_width > self.policy.target:
            self._held.discard(key)
            return False
        if key in self._held:
            return True
        self._held.add(key)
        return False


def run_rounds(
    sessions: Mapping[str, Session],
    workloads: Sequence[Workload],
    policy: Policy,
    rng: random.Random,
    progress: Progress,
    *,
    on_round: Callable[[int, list[tuple[str, float]]], None],
    on_done: Callable[[Measurement], None],
    on_failed: Callable[[str, DeviceError], None],
    report: Report,
    before: Sequence[Workload] = (),
) -> list[Measurement]:
    """Time `workloads` in rounds until each is done or the budget is spent.

    `before` are workloads that an earlier session finished, opened again: visited as sentinels, they tie the rounds of
    this session to those that `progress` holds, of whose workloads none may be left.

    `on_round(round, [(key, seconds), ...])` and `on_done(measurement)` are called as things finish, so that a kill
    loses at most the round under way. When the budget is spent, what is left is handed to `on_done` flagged `noisy`.
    What is handed over compares with what was before, so the host's mean speed is that of the rounds up to the first.
    Returned are all measurements once more, at the mean speed of all rounds (or that of an earlier session's results).
    A workload whose session raises DeviceError twice running is handed to `on_failed` and left out.
    """
    unfinished = {w.key: w for w in workloads if w.key in sessions}
    labels = {key: cache_label(sessions[key]) for key in unfinished}
    finished = {w.key: w for w in before if w.key in sessions}
    resumed = any(key in progress.samples for key in finished)
    tied = {key for key in unfinished if key in progress.samples or not resumed}  # to the rounds so far
    watch, settled = _Watch(policy), bool(progress.told)
    done: dict[str, Measurement] = {}
    workload_of = dict(unfinished)

    def lost(key: str, error: DeviceError) -> None:
        finished.pop(key, None)  # only a sentinel is lost
        if unfinished.pop(key, None) is not None:
            on_failed(key, error)

    with _gc_off():
        loops: dict[str, int] = {}
        for key, first in first_loops(sessions, [*unfinished, *finished], policy.sample_s, warm_up).items():
            if isinstance(first, DeviceError):
                lost(key, first)
            else:
                loops[key] = first
        sentinels = policy.sentinels * getattr(batcher_of(sessions), "width", 1)
        start, rounds = time.monotonic() - waited_s(sessions), 0
        while unfinished and rounds < policy.max_rounds and _spent(start, sessions) < policy.budget_s:
            spare = max(0, min(sentinels - len(tied & unfinished.keys()), len(finished)))
            keys = [*unfinished, *rng.sample(sorted(finished), spare)]
            rng.shuffle(keys)
            visited: set[str] = set()
            for column in columns(sessions, keys, loops, _visit):
                round_, taken = progress.next_round, []
                for key, result in column:
                    if isinstance(result, DeviceError):
                        lost(key, result)
                    else:
                        taken.append((key, result))
                        progress.add(key, round_, result)
                on_round(round_, taken)
                visited.update(key for key, _ in taken)
            rounds += 1
            due = [k for k in keys if k in visited and k in unfinished and watch.due(k, len(progress.samples[k]))]
            for measurement in progress.measurements([unfinished[k] for k in due], labels):
                if watch.done(measurement):
                    done[measurement.key] = measurement
                    on_done(measurement)
                    progress.tell(measurement)
                    finished[measurement.key] = unfinished.pop(measurement.key)
            spent, n = _spent(start, sessions), len(done) + len(unfinished)
            report(max(spent / policy.budget_s, len(done) / (n or 1)), 1.0, f"round {rounds}, {len(done)} of {n} done")
    if not settled:
        progress.told.clear()
    for measurement in progress.measurements([w for w in unfinished.values() if w.key in progress.samples], labels):
        noisy = measurement.half_width > policy.target
        done[measurement.key] = replace(measurement, flags=(*measurement.flags, "noisy")) if noisy else measurement
        on_done(done[measurement.key])
    if settled:
        return list(done.values())
    return [replace(m, flags=done[m.key].flags) for m in progress.measurements([workload_of[k] for k in done], labels)]


def _spent(start: float, sessions: Mapping[str, Session]) -> float:
    """Seconds of the budget that are gone; a phone that cools down takes none."""
    return time.monotonic() - start - waited_s(sessions)


def cache_label(session: Session) -> str:
    """ "cold" or "warm": in what state a sample finds the caches. Warm unless the session says otherwise, because a
    visit begins with an untimed inference."""
    return str(getattr(session, "cache_state", "warm"))


def _visit(session: Session, loops: int) -> float:
    """One sample: an untimed inference that brings the data in, then a batch. One retry on a DeviceError.

    The batch is timed in parts and their median taken: on a busy host one of them is a time slice of another process
    long, and the mean of a batch of 1 ms would be several times too large.
    """
    part = max(1, math.ceil(loops / getattr(session, "parts", PARTS)))
    for attempt in (0, 1):
        try:
            session.time_s(1)
            return statistics.median(session.time_s(part) / part for _ in range(math.ceil(loops / part)))
        except DeviceError:
            if attempt:
                raise
    raise AssertionError("unreachable")


@contextmanager
def _gc_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
