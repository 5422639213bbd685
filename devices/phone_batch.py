"""Many models in one shell call: the script that runs on the phone, and what its output tells of each model.

A batch that is cut off tells of the models it had finished: they are kept, and only the others are run again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from devices.adb import exit_meaning
from devices.base import DeviceError
from devices.benchmark_lines import printable
from devices.benchmark_text import Outcome, parse
from devices.phone_state import effective_mhz, parse_time_in_state

#: adbd of Android 6 and older takes 4096 bytes of command; leave room for the wrapping.
COMMAND_BYTES = 3200
WARM_RUNS = 1
DELEGATES = {
    "default": (),
    "cpu": ("--use_xnnpack=false",),
    "xnnpack": ("--use_xnnpack=true",),
    "gpu": ("--use_gpu=true",),
    "nnapi": ("--use_nnapi=true",),
}
#: delegate -> the name in benchmark_model's own words, of those that are asked for and may not run all the same.
EXPLICIT = {"gpu": "GPU", "nnapi": "NNAPI", "xnnpack": "XNNPACK"}


class NotExecutable(DeviceError):
    """The binary does not run on this phone at all: it is not the model's fault."""


@dataclass(frozen=True)
class Setup:
    """How every model is run. `mask` in hex as toybox taskset takes it, "" for no mask."""

    folder: str
    binary: str
    threads: int
    delegate: str
    mask: str
    warmup_s: float
    has_timeout: bool
    clock: int | None = None  # the first core of the cluster whose clock is watched; its cpufreq policy has that number

    def flags(self) -> list[str]:
        """The flags that do not depend on the model."""
        return [
            f"--num_threads={self.threads}",
            "--min_secs=0",  # exactly num_runs: the loop ends when both are met
            f"--warmup_runs={WARM_RUNS}",
            f"--warmup_min_secs={self.warmup_s:g}",
            *DELEGATES[self.delegate],
        ]


@dataclass(frozen=True)
class Job:
    """One model (a file name in `folder`/m) to run `loops` times; `limit_s` is enforced on the phone."""

    file: str
    loops: int
    limit_s: float


def script(setup: Setup, jobs: Sequence[Job], token: str, extra: Sequence[str] = ()) -> str:
    """The shell script for `jobs`. Streams are not merged: stderr could otherwise land in the middle of a line.

    It begins no further job once another script has written its `token`: on a phone that dropped, it may live on.
    """
    command = [*(["taskset", setup.mask] if setup.mask else []), f"./{setup.binary}", *setup.flags(), *extra]
    run = " ".join(shlex.quote(c) for c in command)
    limit = "timeout -k 2 $3 " if setup.has_timeout else ""
    cpu = "/sys/devices/system/cpu"
    places = (f"{cpu}/cpufreq/policy{setup.clock}", f"{cpu}/cpu{setup.clock}/cpufreq")  # kernels before 4.3: the second
    clocks = (
        " || ".join(f"cat {place}/stats/time_in_state 2>/dev/null" for place in places)
        if setup.clock is not None
        else ":"
    )
    lines = [
        f"cd {setup.folder} || exit 1",
        f"echo {token} >running",
        f'r() {{ read t <running; [ "$t" = {token} ] || exit 9; echo; echo @@job $1; '
        f"{limit}{run} --graph=m/$1 --num_runs=$2 2>stderr; c=$?; "
        "echo; echo @@stderr; cat stderr; echo; echo @@end $1 $c; }",
        "echo @@before",
        clocks,
        *(f"r {job.file} {job.loops} {job.limit_s:.0f}" for job in jobs),
        "echo @@after",
        clocks,
        "echo @@done",
    ]
    return "\n".join(lines)


def chunks(jobs: Sequence[tuple[int, Job]]) -> list[list[tuple[int, Job]]]:
    """`jobs` in pieces that fit into one command, and whose limits sum to at most some minutes."""
    found: list[list[tuple[int, Job]]] = [[]]
    size = limit = 0.0
    for index, job in jobs:
        length = len(job.file) + 16
        if found[-1] and (size + length > COMMAND_BYTES or limit + job.limit_s > 300):
            found.append([])
            size = limit = 0.0
        found[-1].append((index, job))
        size, limit = size + length, limit + job.limit_s
    return found


def read_batch(text: str, jobs: Sequence[Job], delegate: str) -> dict[str, Outcome | DeviceError]:
    """File -> outcome, for every job that ended. Jobs that `text` does not tell the end of are absent.

    A job that failed is a DeviceError; NotExecutable where the binary cannot run on this phone.
    """
    found: dict[str, Outcome | DeviceError] = {}
    by_file = {job.file: job for job in jobs}
    for m in re.finditer(
        r"^@@job (\S+)\n(.*?)^@@stderr\n(.*?)^@@end (\S+) ([0-9]{1,3})\n", text.replace("\r", ""), re.M | re.S
    ):
        file, out, err, end, code = m.groups()
        if file != end or file not in by_file or "\n@@job " in out:
            continue
        found[file] = _outcome(out, err, int(code), by_file[file], delegate)
    return found


def _outcome(out: str, err: str, code: int, job: Job, delegate: str) -> Outcome | DeviceError:
    said = " ".join(printable(err or out).split())[-200:]
    if code in (126, 127):
        return NotExecutable(f"benchmark_model does not run on this phone ({exit_meaning(code)}): {said}")
    if code == 124:
        return DeviceError(f"benchmark_model was ended after {job.limit_s:.0f} s on the phone")
    if code not in (0, 1):  # 1: it says why itself
        return DeviceError(f"benchmark_model failed with {exit_meaning(code)}{': ' + said if said else ''}")
    try:
        outcome = parse(out + "\n" + err, runs=job.loops, delegate=EXPLICIT.get(delegate))
    except DeviceError as error:
        return error
    return outcome if code == 0 else DeviceError(f"benchmark_model failed with exit code {code}: {said}")


def clock_mhz(text: str) -> float | None:
    """The mean clock of the watched cluster while the batch ran; None where it is not told or the batch was cut."""
    before, _, after = text.replace("\r", "").partition("\n@@after\n")
    first = parse_time_in_state(before.partition("@@before\n")[2].partition("@@job")[0])
    return effective_mhz(first, parse_time_in_state(after))
