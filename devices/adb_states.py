"""`adb devices -l`: which phones are attached, and what each of their states means and asks for."""

from __future__ import annotations

import re
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
        """The model as `getprop ro.product.model` has it; adb writes spaces as underscores."""
        return self.about.get("model", "").replace("_", " ")


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


def parse_devices(text: str) -> list[Attached]:
    """The phones in the output of `adb devices -l`. Lines of the server's own (`* daemon started ...`) are no phones.

    Raises PhoneError on a line that is neither.
    """
    found = []
    for line in text.replace("\r", "").split("\n"):
        line = line.strip()
        if not line or line.startswith(("*", "List of devices", "adb server")):
            continue
        if not line.replace("\t", " ").isprintable():  # a serial that would reach the terminal as it is
            raise PhoneError(f"`adb devices -l` says something unknown: '{telling_line(line)}'")
        if m := re.match(r"(\S+)\s+no permissions\b(.*)", line):
            found.append(Attached(m[1], "no permissions", _about(re.sub(r"\[[^\]]*\]", "", m[2]))))
        elif m := re.match(r"(\S+)\s+([a-z]+)((?:\s+\S+)*)$", line):
            found.append(Attached(m[1], m[2], _about(m[3])))
        else:
            raise PhoneError(f"`adb devices -l` says something unknown: '{telling_line(line)}'")
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
        usable = [a for a in mine if a.state == "device"]
        if len(usable) > 1:
            listed = "; ".join(f"--serial {a.serial}" + (f" ({a.model})" if a.model else "") for a in usable)
            raise PhoneUnavailable(f"{len(usable)} phones are attached; say which: {listed}")
        mine = usable or mine
    phone = mine[0]
    if phone.state != "device":
        what = STATES.get(phone.state, "is in a state that is not known here: plug it in again")
        raise PhoneUnavailable(f"phone {phone.serial} is '{phone.state}': it {what}")
    return phone


def telling_line(text: str) -> str:
    """The line of `text` that says what went wrong: adb's own complaint, else the last one; printable."""
    lines = [s for line in text.split("\n") if (s := line.strip()) and not s.startswith("* daemon")]
    own = [s for s in lines if s.startswith(("adb: ", "error: "))]
    return "".join(c if c.isprintable() else "?" for c in (own or lines[-1:] or [""])[0])[:200]
