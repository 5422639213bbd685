"""Android's `adb`, driven as a program: wall-clock limits on everything, a message of its own for every state.

The binary is run through subprocess; adbutils only brings one along in its wheel. A command on the phone is wrapped so
that its last line tells its exit code: whether the command or the connection failed is then never a guess.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.adb_states import Attached, PhoneError, PhoneLost, PhoneUnavailable, choose, parse_devices, telling_line
from devices.base import DeviceError

LIMIT_S = 20.0  # of one short command; the caller says where it may take longer
BACK_S = 60.0  # how long a phone that dropped is waited for
_EXIT = "metronome-exit:"


@dataclass(frozen=True)
class Answer:
    """What a command on the phone came to."""

    code: int
    stdout: str
    stderr: str


def find_adb(environ: dict[str, str] | None = None) -> Path:
    """The adb binary: on PATH, in ANDROID_HOME, or bundled by adbutils. Raises PhoneUnavailable."""
    environ = dict(os.environ) if environ is None else environ
    on_path = shutil.which("adb", path=environ.get("PATH", ""))
    if on_path:
        return Path(on_path)
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        folder = environ.get(name)
        candidate = Path(folder) / "platform-tools" / "adb" if folder else None
        if candidate is not None and os.access(candidate, os.X_OK):
            return candidate
    bundled = _bundled()
    if bundled is not None and os.access(bundled, os.X_OK):
        return bundled
    raise PhoneUnavailable(
        "no adb: it is not on PATH, not in ANDROID_HOME/platform-tools, and adbutils is not installed or brings none "
        "for this platform; install Debian's package adb, or pip install 'metronome-nas[phone]'"
    )


def _bundled() -> Path | None:
    """The adb in the wheel of adbutils; not all its wheels have one."""
    try:
        import adbutils
    except (ImportError, OSError):
        return None
    try:
        return Path(adbutils.adb_path())
    except (OSError, adbutils.AdbError):
        return None


class Adb:
    """One adb binary, talking to one phone (`serial`) or to the server only (None)."""

    def __init__(self, binary: Path, serial: str | None = None) -> None:
        self.binary, self.serial = binary, serial
        self.has_timeout = False  # whether the phone has a `timeout` command; see `look_for_timeout`

    def devices(self) -> list[Attached]:
        """What is attached now. Starts the server where none runs. Raises PhoneLost, PhoneError."""
        return parse_devices(self.call("devices", "-l", to_phone=False))

    def call(self, *args: str, limit_s: float = LIMIT_S, to_phone: bool = True) -> str:
        """Run `adb ARGS` (with -s where `to_phone`) and return its stdout. Raises PhoneLost, PhoneError."""
        code, out, err = self._run(args, limit_s, to_phone)
        if code:
            raise _failure(" ".join(args[:1]), err or out, self.serial)
        return out

    def shell(self, command: str, limit_s: float = LIMIT_S) -> Answer:
        """Run `command` on the phone. Its exit code is the answer's; only a broken connection raises (PhoneLost).

        What the command printed before the connection broke is in the `partial` attribute of the error.
        """
        inner = f"sh -c {shlex.quote(command)}"
        if self.has_timeout:  # a host's limit alone would leave the process running on the phone
            inner = f"timeout -k 2 {limit_s:.0f} {inner}"
        _, out, err = self._run(
            ("shell", f"{inner} </dev/null; c=$?; echo; echo {_EXIT}$c; exit $c"), limit_s + 5.0, True
        )
        body, mark, told = out.replace("\r\n", "\n").rpartition(f"\n{_EXIT}")
        if not mark or not re.fullmatch(r"\s*[0-9]{1,3}\s*", told):
            lost = _failure("shell", err, self.serial)
            if not isinstance(lost, PhoneLost):
                lost = PhoneLost(str(lost))
            lost.__dict__["partial"] = out
            raise lost
        return Answer(int(told.strip()), body, err)

    def check(self, command: str, limit_s: float = LIMIT_S) -> str:
        """stdout of `command` on the phone. Raises PhoneError where it fails."""
        answer = self.shell(command, limit_s)
        if answer.code:
            raise PhoneError(
                f"phone {self.serial}: `{command[:80]}` failed with {exit_meaning(answer.code)}: "
                f"{telling_line(answer.stderr or answer.stdout)}"
            )
        return answer.stdout

    def look_for_timeout(self) -> bool:
        """Find out whether the phone has `timeout` (Android 8 and newer do)."""
        self.has_timeout = self.shell("command -v timeout >/dev/null").code == 0
        return self.has_timeout

    def push(self, local: Path, remote: str, limit_s: float | None = None) -> None:
        """Copy a file to the phone. Raises PhoneUnavailable where its storage is full, PhoneError, PhoneLost."""
        size = local.stat().st_size
        limit_s = LIMIT_S + size / 1e6 if limit_s is None else limit_s  # 1 MB/s is slow Wi-Fi
        code, out, err = self._run(("push", str(local), remote), limit_s, True)
        if not code:
            return
        text = err or out
        if re.search(r"no space left|quota exceeded", text, re.I):
            raise PhoneUnavailable(
                f"phone {self.serial}: no space left for {local.name} ({size / 1e6:.1f} MB) in "
                f"{remote.rpartition('/')[0]}; free some storage on the phone and run the same command again"
            )
        raise _failure("push", text, self.serial)

    def wait(self, limit_s: float = BACK_S, tell: Callable[[str], None] = lambda text: None) -> None:
        """Wait until the phone is back in state `device`. Raises PhoneUnavailable where it stays away.

        A phone on the network (`HOST:PORT`) is connected again: the server forgets it, above all when it is restarted.
        """
        end, told, why = time.monotonic() + limit_s, False, ""
        while True:
            try:
                if self.serial is not None and re.fullmatch(r"\S+:\d+", self.serial):
                    self._run(("connect", self.serial), 5.0, False)
                choose(self.devices(), self.serial)
                if self.shell("true", 5.0).code == 0:
                    return
            except (PhoneLost, PhoneError, PhoneUnavailable) as error:
                why = str(error)
            if not told:
                tell(f"{why}; waiting up to {limit_s:.0f} s for it to come back")
                told = True
            if time.monotonic() > end:
                raise PhoneUnavailable(f"{why} (waited {limit_s:.0f} s); what was measured is kept")
            time.sleep(0.3)

    def _run(self, args: Sequence[str], limit_s: float, to_phone: bool) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of adb itself. Raises PhoneLost when `limit_s` of wall time have passed."""
        prefix = ["-s", self.serial] if to_phone and self.serial is not None else []
        try:
            process = subprocess.Popen(
                [str(self.binary), *prefix, *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is ours: adb must not die of it half-way through a restore
            )
        except OSError as error:
            raise PhoneUnavailable(f"cannot run {self.binary}: {error.strerror or error}") from None
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            try:  # a server that this adb started may hold the pipes open: do not wait for it
                out, err = process.communicate(timeout=1.0)
            except subprocess.TimeoutExpired:
                out, err = b"", b""
            lost = PhoneLost(f"phone {self.serial}: `adb {args[0]}` gave no answer within {limit_s:.0f} s")
            lost.__dict__["partial"] = out.decode(errors="replace")
            raise lost from None
        except BaseException:
            process.kill()
            raise
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def exit_meaning(code: int) -> str:
    """An exit code of a shell on the phone in words."""
    known = {
        124: "its time limit",
        126: "126: not executable, most likely built for another processor (ABI)",
        127: "127: not found on the phone",
        134: "134: it aborted",
        137: "137: killed, most often out of memory",
        139: "139: segmentation fault",
        143: "143: terminated",
    }
    return known.get(code, f"exit code {code}")


def _failure(what: str, text: str, serial: str | None) -> DeviceError:
    """adb's own complaint as an error: lost connections may be retried, the rest not."""
    line = telling_line(text) or "it said nothing"
    gone = (
        r"not found|offline|unauthorized|authorizing|closed|no devices|connection reset|protocol fault|EOF|"
        r"cannot connect to daemon|failed to read|failed to connect|Broken pipe|more than one device|transport|"
        r"it said nothing|server killed|couldn't read from device"
    )
    kind: type[DeviceError] = PhoneLost if re.search(gone, line, re.I) else PhoneError
    return kind(f"phone {serial}: `adb {what}` failed: {line}")
