"""Settings of a phone that timing needs changed, and that are put back: at the end, on an error, and after a crash.

How to put them back is written on the phone before anything is changed. Who finds that file first runs it: the session
itself when it ends, else the next one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from devices.adb import Adb
from devices.adb_states import PhoneError


@dataclass(frozen=True)
class Setting:
    """`read` prints the value now; `restore(value)` is the command that brings it back, None: nothing to bring back."""

    name: str
    read: str
    change: str
    restore: Callable[[str], str | None]


def _global(name: str, change: str) -> Setting:
    def restore(value: str) -> str | None:
        if value == "null":
            return f"settings delete global {name}"
        return f"settings put global {name} {value}" if re.fullmatch(r"\d{1,9}", value, re.A) else None

    return Setting(name, f"settings get global {name}", change, restore)


SETTINGS = (
    _global("stay_on_while_plugged_in", "svc power stayon true"),  # the screen's sleep lowers clocks
    _global("low_power", "settings put global low_power 0"),
    Setting(
        "deviceidle",
        "dumpsys deviceidle enabled",
        "dumpsys deviceidle disable",
        lambda value: "dumpsys deviceidle enable" if value == "1" else None,
    ),
)
#: Android 11 and newer; on phones whose makers wired it up, clocks stay at a level they can hold. No one reads it back.
FIXED_PERFORMANCE = Setting(
    "fixed_performance",
    "echo 0",
    "cmd power set-fixed-performance-mode-enabled true",
    lambda value: "cmd power set-fixed-performance-mode-enabled false",
)


class SettingsKeeper:
    """The settings of one phone; `folder` is where on the phone the way back is written."""

    def __init__(self, adb: Adb, folder: str) -> None:
        self._adb, self.journal = adb, f"{folder}/restore.sh"

    def left_behind(self) -> bool:
        """Whether a session that ended badly (or one that runs right now) has left its way back."""
        return self._adb.shell(f"test -s {self.journal}").code == 0

    def apply(self, fixed_performance: bool = False) -> dict[str, str]:
        """Change what timing needs; returns what was changed -> the value it had. Raises PhoneError, PhoneLost."""
        self.restore()
        settings = (*SETTINGS, FIXED_PERFORMANCE) if fixed_performance else SETTINGS
        reading = "; ".join(f"echo @@{s.name}; {s.read}" for s in settings)
        told = re.findall(r"^@@(\w+)\n([^@\n]*)$", self._adb.shell(reading).stdout.replace("\r", ""), re.M)
        values = {name: value.strip() for name, value in told if value.strip()}
        back = {s.name: line for s in settings if s.name in values and (line := s.restore(values[s.name]))}
        if not back:
            return {}
        script = "\n".join(back.values()) + "\n"
        folder = self.journal.rpartition("/")[0]
        self._adb.check(
            f"mkdir -p {folder} && printf %s {shlex.quote(script)} >{self.journal}.part "
            f"&& mv {self.journal}.part {self.journal} && sync"
        )
        self._adb.shell("; ".join(f"{s.change} >/dev/null 2>&1" for s in SETTINGS if s.name in back))
        if fixed_performance and self._adb.shell(FIXED_PERFORMANCE.change).code:
            self.restore()
            raise PhoneError("this phone knows no fixed-performance mode: fixed_performance = false in the device file")
        return {name: values[name] for name in back}

    def restore(self) -> bool:
        """Put everything back; True where there was something. Safe to call at any time, and twice."""
        answer = self._adb.shell(
            f"if [ -s {self.journal} ]; then sh {self.journal} >/dev/null 2>&1; rm -f {self.journal}; echo restored; fi"
        )
        return "restored" in answer.stdout
