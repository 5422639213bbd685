"""Whether a phone is ready, point by point: connection, model, binary, cores, heat, battery, storage, settings."""

from __future__ import annotations

import os
from collections.abc import Iterator

from devices.adb import Adb, find_adb
from devices.adb_states import PhoneUnavailable, choose
from devices.android import attached_for
from devices.base import DeviceError, DeviceUnavailable
from devices.benchmark_binary import find_binary
from devices.health import Check, converter
from devices.phone_options import check_model, check_options, option, setup_mask
from devices.phone_runner import HOT_BATTERY_C, heat_text
from devices.phone_settings import SettingsKeeper
from devices.phone_state import FACTS, Facts, read_facts
from devices.phone_store import FOLDER
from devices.spec import DeviceSpec, SpecError

FREE_BYTES = 500e6  # models of a profile come to some hundred MB
STEADY = ("performance", "schedutil", "sched_pixel", "interactive", "walt")


def checks(spec: DeviceSpec) -> Iterator[Check]:
    """The points, up to the first that keeps the others from being looked at. Changes nothing on the phone."""
    check_options(spec)
    try:
        binary = find_adb()
        yield Check("adb", True, str(binary))
        yield converter()
        attached = Adb(binary).devices()
    except (PhoneUnavailable, DeviceError) as error:
        yield Check("adb", False, str(error))
        return
    wanted = option(spec, "serials") or list(filter(None, [os.environ.get("ANDROID_SERIAL")])) or [None]
    for serial in wanted:
        try:
            phone = Adb(binary, choose(attached if serial else attached_for(spec, attached), serial).serial)
            yield Check("connection", True, f"phone {phone.serial} answers")
            phone.look_for_timeout()
            facts = read_facts(phone.check(FACTS))
        except (PhoneUnavailable, DeviceError) as error:
            yield Check("connection", False, str(error))
            continue
        yield from _phone(spec, phone, facts)


def _phone(spec: DeviceSpec, phone: Adb, facts: Facts) -> Iterator[Check]:
    yield _model(spec, phone, facts)
    try:
        yield Check("benchmark_model", True, str(find_binary(option(spec, "benchmark_model"), facts.abis, spec.name)))
    except DeviceUnavailable as error:
        yield Check("benchmark_model", False, str(error))
    yield _cores(spec, facts)
    governors = sorted({c.governor for c in facts.clusters})
    yield Check(
        "governor",
        True if governors and set(governors) <= set(STEADY) else None,
        ", ".join(governors) or "not readable: clocks may be lowered unseen",
    )
    yield _heat(spec, facts)
    yield _battery(facts)
    free = facts.free_bytes
    yield Check(
        "storage",
        None if free is None else free >= FREE_BYTES,
        "free space not told"
        if free is None
        else f"{free / 1e9:.1f} GB free" + ("" if free >= FREE_BYTES else ": free at least 0.5 GB on the phone"),
    )
    left = SettingsKeeper(phone, FOLDER).left_behind()
    yield Check(
        "settings",
        None if left else True,
        "an earlier run left settings changed (or a run is under way): the next profile puts them back first"
        if left
        else "as the user has them",
    )


def _model(spec: DeviceSpec, phone: Adb, facts: Facts) -> Check:
    about = (
        f"{facts.model}, Android {facts.props.get('ro.build.version.release', '?')}, {', '.join(facts.abis) or 'ABI ?'}"
    )
    try:
        check_model(spec, facts.model, str(phone.serial))
    except PhoneUnavailable as error:
        return Check("model", False, str(error))
    return Check("model", True, about)


def _cores(spec: DeviceSpec, facts: Facts) -> Check:
    try:
        mask = setup_mask(spec, facts)
    except SpecError as error:
        return Check("cores", False, str(error))
    known = ", ".join(f"{len(c.cpus)} x {c.max_khz / 1e6:.2f} GHz" for c in facts.clusters) or "clusters not readable"
    if mask is None:
        return Check("cores", None, f"{known}: threads are not bound to cores, expect wide intervals")
    return Check("cores", True, f"{known}; {option(spec, 'threads')} thread(s) on mask {mask:x}")


def _heat(spec: DeviceSpec, facts: Facts) -> Check:
    heat, limit = facts.heat, option(spec, "thermal_limit")
    if heat.status is None:
        celsius = facts.battery.celsius
        hot = celsius is not None and celsius >= HOT_BATTERY_C
        return Check(
            "heat", None if not hot else False, "thermal status not told: the battery's temperature is watched"
        )
    cool = heat.status < limit
    return Check("heat", cool, heat_text(heat) + ("" if cool else ": let it cool down; a profile would wait"))


def _battery(facts: Facts) -> Check:
    battery = facts.battery
    if battery.percent is None:
        return Check("battery", None, "level not told")
    text = f"{battery.percent} %" + (
        "" if battery.charging is None else ", charging" if battery.charging else ", on battery"
    )
    if battery.percent < 15:
        return Check("battery", False, f"{text}: power saving lowers clocks; charge it first")
    low = battery.percent < 30 and not battery.charging
    return Check(
        "battery", None if low else True, text + (": charge it, or it will go flat or slow down" if low else "")
    )
