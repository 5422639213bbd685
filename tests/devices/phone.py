"""A phone for tests: an adbd (tests/devices/adbd.py) over a temporary root with Android's commands and files.

Its `benchmark_model` is a small client of `tests/devices/phone_bench.py`, which really runs the models through LiteRT.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.devices.adbd import Adbd

PROPS = {
    "ro.product.model": "Pixel 2",
    "ro.product.manufacturer": "Google",
    "ro.product.name": "walleye",
    "ro.product.device": "walleye",
    "ro.board.platform": "msm8998",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
    "ro.build.version.release": "11",
    "ro.build.version.sdk": "30",
    "ro.build.fingerprint": "google/walleye/walleye:11/RP1A.201005.004.A1/6934943:user/release-keys",
}
CLUSTERS = {0: ("0 1 2 3", 1900800), 4: ("4 5 6 7", 2457600)}

#: Imports little, for it is started for every invocation.
CLIENT = """#!{python} -IS
import _socket, os, sys
s = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
s.connect(os.environ["PHONE_BENCH"])
s.send("\\0".join([os.getcwd(), os.environ["PHONE_CONTROL"], *sys.argv[1:]]).encode() + b"\\n")
data = b"".join(iter(lambda: s.recv(65536), b""))
head, _, text = data.partition(b"\\n")
code, signal, length = map(int, head.split())
os.write(1, text[:length])
os.write(2, text[length:])
if signal:
    os.kill(os.getpid(), signal)
sys.exit(code)
"""

#: Android's commands, as far as they are used. $R is the phone's root; state lies in $R/state/NAME.
COMMANDS = {
    "getprop": 'cat "$R/state/props"',
    "dumpsys": r"""
case "$1 $2" in
"thermalservice "*) [ -e "$R/state/no_thermalservice" ] && { echo "Can't find service: thermalservice"; exit 0; }
  set -- $(cat "$R/state/thermal"); now=$1; shift
  [ $# -gt 0 ] && echo "$@" >"$R/state/thermal"
  printf 'IsStatusOverride: false\nThermal Status: %s\nCached temperatures:\n' "$now"
  printf '\tTemperature{mValue=99.0, mType=0, mName=AP, mStatus=0}\nCurrent temperatures from HAL:\n'
  printf '\tTemperature{mValue=25.6, mType=0, mName=AP, mStatus=%s}\n' "$now";;
"battery "*) printf 'Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 87\n  temperature: %s\n' "$(cat "$R/state/battery")";;
"deviceidle enabled") cat "$R/state/deviceidle";;
"deviceidle disable") echo 0 >"$R/state/deviceidle"; echo "Deep idle mode disabled";;
"deviceidle enable") echo 1 >"$R/state/deviceidle"; echo "Deep idle mode enabled";;
esac""",
    "settings": r"""
case "$1" in
get) cat "$R/state/global.$3" 2>/dev/null || echo null;;
put) echo "$4" >"$R/state/global.$3";;
delete) rm -f "$R/state/global.$3";;
esac""",
    "svc": '[ "$*" = "power stayon true" ] && echo 7 >"$R/state/global.stay_on_while_plugged_in"',
    "cmd": '[ -e "$R/state/no_fixed" ] && exit 255; echo "$3" >"$R/state/fixed"',
    "taskset": r"""
echo "$1" >>"$R/state/taskset.log"
case "$1" in 0x*) echo "taskset: bad mask '$1'" >&2; exit 1;; esac
[ $((0x$1 & 0xff)) -ne 0 ] || { echo "taskset: sched_setaffinity: Invalid argument" >&2; exit 1; }
shift; exec "$@" """,
    "df": r"""
printf 'Filesystem     1K-blocks     Used Available Use%% Mounted on\n/dev/block/dm-4 53691372 9 %s 1%% /data\n' "$(cat "$R/state/free_k")" """,
    "pidof": "exit 1",
}


class Processor:
    """The process that runs the models of all test phones."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="bench")
        self.socket = f"{self.folder}/s"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.devices.phone_bench", self.socket],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


class Phone:
    """One phone, attached to nothing yet. `socket` is where its processor (a `Processor`) listens."""

    def __init__(self, socket: str = "", model: str = "Pixel 2", **names: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="phone"))
        self.props = PROPS | {"ro.product.model": model} | names
        self._make_files()
        self.binary = self.root / "benchmark_model"
        self.binary.write_text(CLIENT.format(python=sys.executable))
        self.binary.chmod(0o755)
        self.control: dict[str, Any] = {"phone": str(self.root)}
        self.set()
        path = f"{self.root}/system/bin:/usr/bin:/bin"
        names = {k.removeprefix("ro.product."): v for k, v in self.props.items()}
        self.adbd = Adbd(
            self.root,
            {k: names[k].replace(" ", "_") for k in ("name", "model", "device")},
            path,
            {"R": str(self.root), "PHONE_BENCH": socket, "PHONE_CONTROL": str(self.root / "control.json")},
        )

    @property
    def serial(self) -> str:
        return self.adbd.serial

    def _make_files(self) -> None:
        for folder in ("system/bin", "state", "data/local/tmp"):
            (self.root / folder).mkdir(parents=True)
        for name, body in COMMANDS.items():
            path = self.root / "system/bin" / name
            path.write_text(f"#!/bin/sh\n{body.strip()}\n")
            path.chmod(0o755)
        for number, (cpus, khz) in CLUSTERS.items():
            policy = self.root / f"sys/devices/system/cpu/cpufreq/policy{number}"
            (policy / "stats").mkdir(parents=True)
            (policy / "related_cpus").write_text(cpus + " \n")
            (policy / "cpuinfo_max_freq").write_text(f"{khz}\n")
            (policy / "scaling_governor").write_text("interactive\n")
            (policy / "stats/time_in_state").write_text(f"300000 1000\n{khz} 500\n")
        self.write(props="".join(f"[{k}]: [{v}]\n" for k, v in self.props.items()), thermal="0", battery="253")
        self.write(deviceidle="1", free_k="40000000", **{"global.low_power": "1"})

    def age(self) -> None:
        """Its kernel becomes one of before 4.3: no policy folders, cpuN/cpufreq instead, of a cluster's first core."""
        cpu = self.root / "sys/devices/system/cpu"
        for number, (cpus, _) in CLUSTERS.items():
            for core in cpus.split():
                (cpu / f"cpu{core}").mkdir()
                (cpu / f"cpu{core}/cpufreq").symlink_to(f"../cpu{number}/cpufreq")
            (cpu / f"cpu{number}/cpufreq").unlink()
            (cpu / f"cpufreq/policy{number}").rename(cpu / f"cpu{number}/cpufreq")

    def write(self, **state: str) -> None:
        """Set the files of $R/state: thermal="3 3 0" gives one value a reading, the last one for ever."""
        for name, text in state.items():
            (self.root / "state" / name).write_text(text + "\n")

    def read(self, name: str) -> str:
        """One file of $R/state, "" where it is absent."""
        path = self.root / "state" / name
        return path.read_text().strip() if path.exists() else ""

    def set(self, **control: Any) -> None:
        """Change what phone_bench does: see Bench.run."""
        self.control |= control
        path = self.root / "control.json"
        path.with_suffix(".new").write_text(json.dumps(self.control))
        path.with_suffix(".new").replace(path)

    def invocations(self) -> list[str]:
        """The command lines that benchmark_model was started with, in order."""
        log = self.root / "invocations.log"
        return log.read_text().splitlines() if log.exists() else []

    def when(self, invocations: int, act: Callable[[], None]) -> threading.Thread:
        """Call `act` in a thread as soon as so many more invocations have begun."""
        goal = len(self.invocations()) + invocations

        def watch() -> None:
            for _ in range(6000):
                if len(self.invocations()) >= goal:
                    act()
                    return
                time.sleep(0.003)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    def drop_for(self, seconds: float) -> None:
        """The cable is out for `seconds`."""
        self.adbd.drop()
        time.sleep(seconds)
        self.adbd.plug()

    def close(self) -> None:
        self.adbd.drop()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.root)
