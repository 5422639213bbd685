"""`adb devices -l`: which phones are attached, and what each of their states means and asks for."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from devices.base import DeviceError, DeviceUnavailable


class PhoneUnavailable(DeviceUnavailable):
    """No phone to work on, or one in a state in which it does not work; the message says what to do."""


class PhoneLost(DeviceError):
    """The connection broke, or the limit passed without an answer. What was under way may be tried again."""


class PhoneError(DeviceError):
    """The phone answered, and the answer is a failure."""


@dataclass(frozen=True)
class Attached:
    """One line of `adb devices -l`; `about` holds product, model, device, transport_id, usb where told."""

    serial: str
    state: str
    about: dict[str, str]

    @property
    def model(self) -> str:
        """The model to show: adb writes an underscore for all that is no letter or digit, most often a space."""
        return self.about.get("model", "").replace("_", " ")


NAMELESS = "(no serial number)"  # adb's words in place of a serial

#: state -> what it means and what to do. Every state of adb's own list (types.cpp, to_string(ConnectionState)).
STATES = {
    "offline": "does not answer: unplug it and plug it in again, or run `adb reconnect`; over Wi-Fi, wake it first",
    "unauthorized": "has not allowed this computer: unlock it and accept 'Allow USB debugging?'; if nothing is asked, "
    "revoke USB debugging authorizations in its developer options and plug it in again",
    "authorizing": "is still deciding about this computer's key: unlock it, wait a moment, and run this again",
    "connecting": "is still being connected: wait a moment and run this again",
    "recovery": "is in recovery mode: choose 'Reboot system now' on it",
    "rescue": "is in rescue mode: reboot it into Android",
    "sideload": "waits for a sideload in recovery mode: choose 'Reboot system now' on it",
    "bootloader": "is in its bootloader: run `fastboot reboot`",
    "host": "is another adb server, not a phone: attach the phone itself",
    "detached": "is held by another program: run `adb attach`",
    "no permissions": "may not be opened by this user: on Linux install the android-udev-rules (package "
    "android-sdk-platform-tools-common), be in the group plugdev, and plug it in again",
}


_PAIRS = r"(?:\s+\w+:.*)?"
#: serial, state, the rest: with a state that is known, and with one word that is not, after a serial without spaces.
_WORDS = "|".join({"device", *STATES} - {"no permissions"})
_LINE = re.compile(rf"(\S|\S.*?\S)\s+(no permissions(?=\W|$)|(?:{_WORDS})(?={_PAIRS}$))(.*)")
_NEW_STATE = re.compile(rf"(\S+)\s+([a-z]+)({_PAIRS})")


def parse_devices(text: str) -> list[Attached]:
    """The phones in the output of `adb devices -l`. Lines of the server's own (`* daemon started ...`) are no phones.

    A serial may hold spaces (`adb-1414 (2)._adb-tls-connect._tcp`, `(no serial number)`): the state is what the line is
    read by. A line that cannot be read is passed over with a warning: the other phones can be worked on.
    """
    found = []
    for line in text.replace("\r", "").split("\n"):
        line = line.strip()
        if not line or line.startswith(("*", "List of devices", "adb server")):
            continue
        m = _LINE.fullmatch(line) or _NEW_STATE.fullmatch(line)
        if m is None or not line.replace("\t", " ").isprintable():  # such a serial would reach the terminal as it is
            warnings.warn(f"passed over in `adb devices -l`, unreadable: '{telling_line(line)}'", stacklevel=2)
            continue
        found.append(Attached(m[1], m[2], _about(re.sub(r"\[[^\]]*\]", "", m[3]))))
    return found


def _about(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+):(\S+)", text))


def choose(attached: Sequence[Attached], serial: str | None = None) -> Attached:
    """The phone to work on. Raises PhoneUnavailable: none, several without a serial, or one in another state."""
    if serial is not None:
        mine = [a for a in attached if a.serial == serial]
        if not mine:
            have = ", ".join(f"{a.serial} ({a.state})" for a in attached) or "none"
            raise PhoneUnavailable(f"no phone with serial {serial}; attached: {have}")
    else:
        mine = list(attached)
        if not mine:
            raise PhoneUnavailable(
                "no phone: `adb devices -l` lists none; plug one in with USB debugging on (developer options), "
                "or run `adb connect HOST:PORT`"
            )
        usable = [a for a in mine if a.state == "device" and a.serial != NAMELESS]
        if len(usable) > 1:
            listed = "; ".join(
                f"--serial {shlex.quote(a.serial)}" + (f" ({a.model})" if a.model else "") for a in usable
            )
            raise PhoneUnavailable(f"{len(usable)} phones are attached; say which: {listed}")
        mine = usable or mine
    phone = mine[0]
    if phone.serial == NAMELESS:
        raise PhoneUnavailable(
            "a phone is attached that tells no serial number, by which adb would address it: `adb tcpip 5555`, then "
            "`adb connect HOST:5555`, gives it one"
        )
    if phone.state != "device":
        what = STATES.get(phone.state, "is in a state that is not known here: plug it in again")
        raise PhoneUnavailable(f"phone {phone.serial} is '{phone.state}': it {what}")
    return phone


def telling_line(text: str) -> str:
    """The line of `text` that says what went wrong: adb's own complaint, else the last one; printable."""
    lines = [s for line in text.split("\n") if (s := line.strip()) and not s.startswith("* daemon")]
    own = [s for s in lines if s.startswith(("adb: ", "error: "))]
    return "".join(c if c.isprintable() else "?" for c in (own or lines[-1:] or [""])[0])[:200]
