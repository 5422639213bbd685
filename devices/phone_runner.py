"""Batches on one phone: not while it is hot, over as many connections as it takes, no finished job run again."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from devices.adb import Adb
from devices.adb_states import PhoneError, PhoneLost, PhoneUnavailable
from devices.base import DeviceError
from devices.benchmark_text import Outcome, UnknownFlags
from devices.op_table import Node, parse_table
from devices.phone_batch import Job, NotExecutable, Setup, chunks, clock_mhz, read_batch, script
from devices.phone_state import Heat, parse_battery, parse_heat
from devices.phone_store import FOLDER

HOT_BATTERY_C = 45.0  # asked only where the phone tells no thermal status (Android 9 and older)
COOL_S = 900.0  # how long a phone is given to cool down
POLL_S = 5.0
TRIES = 3  # connections that a model may break, and batches that heat may spoil, before it is given up
_T = TypeVar("_T")


def quietly(text: str) -> None:
    """A `tell` that says nothing."""


class PhoneRunner:
    """Runs jobs on the phone behind `adb`. `tell` gets a line whenever the phone has to be waited for."""

    def __init__(self, adb: Adb, setup: Setup, thermal_limit: int) -> None:
        self.adb, self.setup, self._thermal_limit = adb, setup, thermal_limit
        self.tell: Callable[[str], None] = quietly
        self.cool_s, self.poll_s = COOL_S, POLL_S
        self.heat = Heat(None)
        self.waited_s = 0.0
        self.mhz: list[float] = []  # the mean clock of every batch
        self._known_s: dict[str, float] = {}  # file -> seconds an inference took last

    def run(self, files: Sequence[str], loops: Sequence[int]) -> list[Outcome | DeviceError]:
        """The outcome for each file. What failed is tried once more.

        Raises PhoneUnavailable where the phone stays away, stays hot, or cannot run the binary as it is asked to.
        """
        todo = {i: Job(f, n, self._limit_s(f, n)) for i, (f, n) in enumerate(zip(files, loops, strict=True))}
        found: dict[int, Outcome | DeviceError] = {}
        for part in chunks(list(todo.items())):
            found |= self._chunk(dict(part))
        again = [(i, todo[i]) for i, outcome in found.items() if isinstance(outcome, DeviceError)]
        for part in chunks(again):
            found |= self._chunk(dict(part))
        for i, job in todo.items():
            outcome = found[i]
            if isinstance(outcome, Outcome):
                self._known_s[job.file] = outcome.seconds
        return [found[i] for i in todo]

    def op_table(self, file: str, loops: int) -> tuple[Node, ...]:
        """Seconds by op within the model. Raises DeviceError."""
        self.cool_down()
        job = Job(file, loops, self._limit_s(file, loops))
        text = self.adb.shell(
            script(self.setup, [job], self._token(), ["--enable_op_profiling=true"]), job.limit_s + 30
        ).stdout
        outcome = read_batch(text, [job], self.setup.delegate).get(file, DeviceError("the phone's output is garbled"))
        if isinstance(outcome, DeviceError):
            raise outcome
        return parse_table(text)

    def _chunk(self, todo: dict[int, Job]) -> dict[int, Outcome | DeviceError]:
        """Run `todo` until every job has ended."""
        found: dict[int, Outcome | DeviceError] = {}
        breaks: dict[int, int] = {}
        hot = 0
        while todo:
            self.cool_down()
            text, whole = self._shell(list(todo.values()))
            ended = read_batch(text, list(todo.values()), self.setup.delegate)
            self._refuse_hopeless(ended)
            if ended and self._hot():
                hot += 1
                if hot == TRIES:
                    raise PhoneUnavailable(
                        f"phone {self.adb.serial} gets too hot within one batch, {TRIES} times running: cool it "
                        "(no case, a fan, screen off), or raise thermal_limit in the device file"
                    )
                continue  # what was taken while it throttled says nothing: once more, when it is cool
            if (mhz := clock_mhz(text)) is not None:
                self.mhz.append(mhz)
            for i in [i for i, job in todo.items() if job.file in ended]:
                found[i] = ended[todo.pop(i).file]
            if whole:  # the script came to its end: what it does not tell of is lost for good
                return found | dict.fromkeys(todo, DeviceError("garbled output: no end of this model in it"))
            if todo:
                first = next(iter(todo))  # jobs run in order: the one that ran when the connection broke
                breaks[first] = breaks.get(first, 0) + 1
                if breaks[first] == TRIES:
                    found[first] = DeviceError(f"the connection broke {TRIES} times while this model ran")
                    del todo[first]
        return found

    def _shell(self, jobs: list[Job]) -> tuple[str, bool]:
        """(what the script printed, whether it came to its end). After a drop: when the phone is back."""
        try:
            answer = self.adb.shell(script(self.setup, jobs, self._token()), 30 + sum(job.limit_s + 3 for job in jobs))
        except PhoneLost as lost:
            self._wait(lost)
            self._end_strays()
            return str(lost.__dict__.get("partial", "")), False
        if answer.code and "@@job" not in answer.stdout:
            raise PhoneError(f"phone {self.adb.serial}: {(answer.stderr or answer.stdout).strip()[-200:]}")
        return answer.stdout, True

    def _end_strays(self) -> None:
        """End what of ours still runs on a phone that dropped: it would disturb the next timing."""
        binary = self.setup.binary
        self.patiently(
            lambda: self.adb.shell(
                f"echo none >{FOLDER}/running; "
                f'for p in $(pidof {binary}); do [ "$(readlink /proc/$p/exe)" = {FOLDER}/{binary} ] && kill -9 $p; done'
            )
        )

    def _refuse_hopeless(self, ended: dict[str, Outcome | DeviceError]) -> None:
        """Raise PhoneUnavailable for what is not one model's failure but that of the binary or the device file."""
        for outcome in ended.values():
            if isinstance(outcome, NotExecutable | UnknownFlags):
                raise PhoneUnavailable(f"phone {self.adb.serial}: {outcome}")

    def cool_down(self) -> None:
        """Wait until the phone does not throttle. Raises PhoneUnavailable after `cool_s`."""
        end = time.monotonic() + self.cool_s
        while self._hot():
            self.tell(f"phone {self.adb.serial} is hot ({heat_text(self.heat)}): waiting for it to cool down")
            if time.monotonic() > end:
                raise PhoneUnavailable(
                    f"phone {self.adb.serial} stays hot ({heat_text(self.heat)}) for {self.cool_s:.0f} s: "
                    "take it out of its case and the sun, unplug fast charging, and run the same command again"
                )
            time.sleep(self.poll_s)
            self.waited_s += self.poll_s

    def _hot(self) -> bool:
        answer = self.patiently(
            lambda: self.adb.shell("dumpsys thermalservice 2>/dev/null; echo @@battery; dumpsys battery")
        )
        thermal, _, battery = answer.stdout.partition("@@battery")
        self.heat = parse_heat(thermal)
        if self.heat.status is not None:
            return self.heat.status >= self._thermal_limit
        celsius = parse_battery(battery).celsius
        return celsius is not None and celsius >= HOT_BATTERY_C

    def patiently(self, work: Callable[[], _T]) -> _T:
        """`work`, again when the phone is back after a drop, a few times."""
        for _ in range(TRIES):
            try:
                return work()
            except PhoneLost as lost:
                self._wait(lost)
        return work()

    def _wait(self, lost: PhoneLost) -> None:
        start = time.monotonic()
        self.tell(f"{lost}; going on when it is back")
        self.adb.wait(tell=self.tell)
        self.waited_s += time.monotonic() - start

    @staticmethod
    def _token() -> str:
        return secrets.token_hex(4)

    def _limit_s(self, file: str, loops: int) -> float:
        """Seconds that an invocation is given on the phone."""
        known = self._known_s.get(file)
        return 60.0 if known is None else math.ceil(10 + 20 * known * (loops + 10) + 20 * self.setup.warmup_s)


def heat_text(heat: Heat) -> str:
    """`thermal status 3, CPU 48 C`."""
    hottest = max(heat.celsius.items(), key=lambda pair: pair[1], default=None)
    status = "not told" if heat.status is None else str(heat.status)
    return f"thermal status {status}" + (f", {hottest[0]} {hottest[1]:.0f} C" if hottest else "")
