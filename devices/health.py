"""Whether a device is ready, point by point: what `python -m latency.profile --doctor DEVICE` prints."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devices import find, open_spec
from devices.base import DeviceUnavailable
from devices.spec import DeviceSpec

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Check:
    """One point. `ok` None: it works, but times will be worse for it; False: it has to be mended first."""

    name: str
    ok: bool | None
    text: str


def checks(name: str, **options: Any) -> Iterator[Check]:
    """The points of device `name`, in the order in which they can be mended. Raises UserError for an unknown name.

    A runtime module may have a `checks(spec)` of its own; else the device is opened, and this host looked at.
    """
    spec = find(name)
    spec = replace(spec, options={**spec.options, **options})
    own = getattr(importlib.import_module(f"devices.{spec.runtime}"), "checks", None)
    yield from own(spec) if own is not None else _generic(spec)


def _generic(spec: DeviceSpec) -> Iterator[Check]:
    try:
        device = open_spec(spec)
    except DeviceUnavailable as error:
        yield Check("runtime", False, str(error))
        return
    about = device.describe()
    yield Check(
        "runtime", True, ", ".join(f"{k} {v}" for k, v in about.items() if k in ("runtime", "threads", "dtype"))
    )
    if hasattr(device, "convert_ahead"):
        yield converter()
    if "cpu" in about:
        yield from _host()


def converter() -> Check:
    """What makes .tflite files, for devices that take them."""
    from devices.convert import check_installed

    try:
        return Check("converter", True, check_installed())
    except DeviceUnavailable as error:
        return Check("converter", False, str(error))


def _host() -> Iterator[Check]:
    """This machine, where it is the target itself."""
    cores = os.cpu_count() or 1
    load_1min = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    yield Check(
        "load",
        True if load_1min < 0.5 * cores else None,
        f"load average {load_1min:.1f} on {cores} cores"
        + ("" if load_1min < 0.5 * cores else ": end what else runs, or expect wide intervals"),
    )
    try:
        governor = GOVERNOR.read_text(encoding="utf-8").strip()
    except OSError:
        yield Check("governor", None, "not exposed (a virtual machine?): clocks may change unseen")
        return
    good = governor == "performance"
    yield Check("governor", True if good else None, governor + ("" if good else ": 'performance' gives steadier times"))
