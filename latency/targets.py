"""`--device` and what goes with it, for every command that times something."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui

if TYPE_CHECKING:
    from devices.base import Device

SHIPPED = Path(__file__).resolve().parent.parent / "tables"


def add_device_arguments(made: argparse.ArgumentParser) -> None:
    """--device, --serial, --benchmark-model."""
    made.add_argument("--device", default="cpu", help="a device by name, or a device file FILE.toml")
    made.add_argument("--serial", action="append", help="which phone; given twice, the phones share the work")
    made.add_argument("--benchmark-model", help="the program benchmark_model for the phone's processor")


def device_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line adds to the options of the device file. Raises UserError where it does not apply."""
    import devices

    given: dict[str, Any] = {}
    if args.serial:
        given["serials"] = args.serial
    if args.benchmark_model:
        given["benchmark_model"] = args.benchmark_model
    if given and devices.find(args.device).runtime != "android":
        flag = "--serial" if args.serial else "--benchmark-model"
        raise UserError(f"{flag} goes with phones; device {args.device} is none")
    return given


@contextmanager
def target(args: argparse.Namespace, ui: Ui) -> Iterator[Device]:
    """The device of `args`, ready; closed at the end. Raises UserError, DeviceUnavailable."""
    import devices

    options = device_options(args)
    try:
        device = devices.load(args.device, **options)
    except devices.DeviceUnavailable as error:
        raise devices.DeviceUnavailable(f"{error}{shipped_hint(args.device)}") from None
    if hasattr(device, "tell"):
        device.tell = ui.say  # a line whenever it has to be waited for
    try:
        yield device
    finally:
        if hasattr(device, "close"):
            device.close()


def shipped_hint(device: str) -> str:
    """What can be done without the device: a predictor of it that ships, or that was fitted here before."""
    name = Path(device).stem
    for folder in (Path("tables"), SHIPPED):
        path = folder / f"{name}.pkl"
        if path.exists():
            return f". No need to measure: tables/{name}.pkl ships (python -m search.run --predictor tables/{name}.pkl)"
    return ""
