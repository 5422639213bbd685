"""`python -m latency.profile --list` and `--doctor DEVICE`: which devices there are, and whether one is ready."""

from __future__ import annotations

import argparse
from typing import Any

from devices.errors import UserError
from latency.console import Ui
from latency.targets import device_options, shipped_hint

MARKS = {True: "ok", None: "note", False: "NOT OK"}


def list_devices(ui: Ui) -> dict[str, Any]:
    """Every device file with what is attached for it. Nothing is opened but adb, and that once."""
    import devices

    phones, problem = _phones()
    rows, result = [], []
    for name in devices.names():
        spec = devices.find(name)
        here = _here(spec, phones)
        rows.append((name, here, spec.description))
        result.append({"device": name, "runtime": spec.runtime, "here": here, "description": spec.description})
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    ui.say("devices (--device NAME, or FILE.toml of your own), and whether they are here:")
    for name, here, description in rows:
        ui.say(f"  {name:{wide[0]}}  {here:{wide[1]}}  {description}")
    if problem:
        ui.say(f"phones: {problem}")
    for phone in phones:
        ui.say(f"attached: {phone.serial} {phone.state} {phone.model}".rstrip())
    ui.say("ready or not, and why: python -m latency.profile --doctor DEVICE")
    return {"devices": result, "phones": [{"serial": p.serial, "state": p.state, "model": p.model} for p in phones]}


def _phones() -> tuple[list[Any], str]:
    from devices.adb import Adb, find_adb

    try:
        found = Adb(find_adb()).devices()
    except UserError as error:
        return [], str(error)
    return found, "" if found else "none attached (`adb devices -l` lists none)"


def _here(spec: Any, phones: list[Any]) -> str:
    if spec.runtime == "android":
        from devices.phone_options import fits_listed

        fits = [p for p in phones if p.model and fits_listed(spec, p)]
        return ", ".join(p.serial for p in fits if p.state == "device") or "-"
    if spec.runtime == "cuda":
        import importlib.util

        return "see --doctor" if importlib.util.find_spec("torch") else "-"
    return "yes"


def doctor(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    """Print the points of a device; exit 0 where it is ready, 1 where something has to be mended first."""
    from devices.health import checks

    args.device = args.doctor
    found = []
    for check in checks(args.doctor, **device_options(args)):
        found.append(check)
        ui.say(f"{MARKS[check.ok]:>6}  {check.name}: {check.text}")
    ready = all(check.ok is not False for check in found)
    ui.say(f"{args.doctor} is {'ready' if ready else 'not ready'}{'' if ready else shipped_hint(args.doctor)}")
    return {
        "device": args.doctor,
        "ready": ready,
        "checks": [{"name": c.name, "ok": c.ok, "text": c.text} for c in found],
        "exit_code": 0 if ready else 1,
    }
