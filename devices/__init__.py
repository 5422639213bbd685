"""Targets that modules can be timed on: `load(name) -> Device`, `names()`."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from devices.base import Device, DeviceError, DeviceUnavailable, Session
from devices.errors import UserError, did_you_mean
from devices.spec import SPECS, DeviceSpec, names, read

__all__ = [
    "Device",
    "DeviceError",
    "DeviceSpec",
    "DeviceUnavailable",
    "Session",
    "UserError",
    "find",
    "load",
    "names",
    "open_spec",
]


def find(name: str) -> DeviceSpec:
    """The spec of a shipped device by name, or of a device file of the user's own by path (`my.toml`).

    Raises UserError, naming the known devices, where there is none.
    """
    if name.endswith(".toml"):
        return read(Path(name))
    if name not in names():
        raise UserError(
            f"unknown device '{name}': {did_you_mean(name, names())}known: {', '.join(names())}, or FILE.toml"
        )
    return read(SPECS / f"{name}.toml")


def load(name: str, **options: Any) -> Device:
    """The device `name`, ready for `prepare`; `options` override those of its file.

    Raises UserError, DeviceUnavailable.
    """
    spec = find(name)
    return open_spec(replace(spec, options={**spec.options, **options}))


def open_spec(spec: DeviceSpec) -> Device:
    """The device that `spec` describes, ready for `prepare`. Raises UserError, DeviceUnavailable."""
    device: Device = importlib.import_module(f"devices.{spec.runtime}").open_device(spec)
    return device
