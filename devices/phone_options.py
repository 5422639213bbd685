"""The options of a device file for phones: their defaults, their checks, and the mask of cores they come to."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from devices.adb_states import Attached, PhoneError, PhoneUnavailable
from devices.phone_batch import DELEGATES
from devices.phone_state import Facts, cluster_mask
from devices.spec import DeviceSpec, SpecError

DEFAULTS: dict[str, Any] = {
    "models": [],
    "threads": 1,
    "delegate": "xnnpack",
    "quantization": "fp32",
    "cluster": "fastest",
    "mask": "",
    "warmup_s": 0.05,
    "thermal_limit": 2,
    "fixed_performance": False,
    "benchmark_model": "",
    "serials": [],
}


def option(spec: DeviceSpec, name: str) -> Any:
    """Option `name`, with its default. Raises SpecError for another type."""
    value = spec.option(name, DEFAULTS[name])
    return float(value) if name == "warmup_s" else value


def check_options(spec: DeviceSpec) -> None:
    """Raise SpecError for an option that does not exist or a value that it cannot have."""
    spec.only(*DEFAULTS)

    def bad(name: str, what: str) -> SpecError:
        return SpecError(f"{spec.name}.toml: options.{name} = {option(spec, name)!r}: {what}")

    for name in ("models", "serials"):
        if not all(isinstance(text, str) for text in option(spec, name)):
            raise bad(name, "must be a list of texts")
    if len(set(option(spec, "serials"))) != len(option(spec, "serials")):
        raise bad("serials", "one is given twice")
    if option(spec, "threads") < 1:
        raise bad("threads", "at least 1")
    if option(spec, "delegate") not in DELEGATES:
        raise bad("delegate", f"one of {', '.join(DELEGATES)}")
    mask = option(spec, "mask")
    if mask and (not re.fullmatch(r"[0-9a-fA-F]{1,8}", mask) or int(mask, 16) == 0):
        raise bad("mask", "no hex mask of cores, such as f0")
    if not 0 <= option(spec, "warmup_s") <= 60:
        raise bad("warmup_s", "from 0 to 60 seconds")
    if not 1 <= option(spec, "thermal_limit") <= 6:
        raise bad("thermal_limit", "from 1 to 6")


def fits_model(spec: DeviceSpec, model: str) -> bool:
    """Whether the file is for phones of this model."""
    patterns = option(spec, "models")
    return not patterns or any(fnmatch.fnmatchcase(model, pattern) for pattern in patterns)


def fits_listed(spec: DeviceSpec, attached: Attached) -> bool:
    """Whether the file is for a phone of the model in `adb devices -l`.

    adb writes `_` for all that is no letter or digit (transport.cpp, append_transport_info): so are the patterns read.
    """
    patterns, model = option(spec, "models"), attached.about.get("model", "")
    return not patterns or any(fnmatch.fnmatchcase(_as_listed(model), _as_listed(p, "*?")) for p in patterns)


def _as_listed(text: str, but: str = "") -> str:
    """`text` as adb lists it. Sets of characters (`[789]`) stay as they are where `but` says that it is a pattern."""
    parts = re.split(r"(\[[^\]]+\])", text) if but else [text]
    return "".join(
        part if i % 2 else re.sub(rf"[^a-zA-Z0-9{but}]", lambda m: "_" * len(m[0].encode()), part)
        for i, part in enumerate(parts)
    )


def check_model(spec: DeviceSpec, model: str, serial: str) -> None:
    """Raise PhoneUnavailable where the phone is another model than the file is for."""
    if not fits_model(spec, model):
        raise PhoneUnavailable(
            f"phone {serial} is a '{model}', device {spec.name} is for {', '.join(option(spec, 'models'))}: "
            "use --device android, or the file of that model"
        )


def setup_mask(spec: DeviceSpec, facts: Facts) -> int | None:
    """The mask of cores: the file's, else that of its cluster; None where threads are not to be bound, or cannot be.

    Raises SpecError where the file asks for cores, and the phone has no `taskset` or not these cores.
    """
    threads, text = option(spec, "threads"), option(spec, "mask")

    def bad(what: str) -> SpecError:
        return SpecError(f"{spec.name}.toml: {what}")

    if "taskset" not in facts.tools:
        asked = "mask" if text else "cluster" if spec.options.get("cluster", "all") != "all" else ""
        if asked:
            raise bad(
                f"options.{asked} = '{option(spec, asked)}', but the phone has no `taskset` to bind threads with: "
                'cluster = "all" and no mask in a device file of your own'
            )
        return None
    try:
        mask = int(text, 16) if text else cluster_mask(facts.clusters, option(spec, "cluster"), threads)
    except PhoneError as error:
        raise bad(str(error)) from None
    if mask is not None and mask.bit_count() < threads:
        raise bad(f"threads = {threads}, but mask {mask:x} has {mask.bit_count()} cores")
    there = sum({cluster.mask for cluster in facts.clusters})
    if mask is not None and there and mask & ~there:
        raise bad(f"mask = {mask:x} names cores that the phone does not have: its own are {there:x}")
    return mask
