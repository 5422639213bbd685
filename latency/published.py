"""Readers of published look-up tables: the ProxylessNAS / Once-for-All YAML keys.

    expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0:      expand: ratio
    expanded_conv-input:10x10x136-output:5x5x192-expand:408-kernel:3-stride:2-idskip:0-se:1-hs:1:   expand: width
    Conv-input:224x224x3-output:112x112x32:   Conv_1-...   Logits-input:7x7x1280-output:1000:   AvgPool2D-...

Values: mean in ms, `var` (ms^2) or `std` (ms), count. The two files differ in what "expand" counts; a value above
16 can only be a width.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.ops import Conv2d, Linear, MBConv, Op, OpError, Pool

_WIDEST_RATIO = 16
_SIZE = re.compile(r"(\d+)x(\d+)x(\d+)", re.ASCII)


class PublishedError(UserError):
    """A published table that cannot be read."""


@dataclass(frozen=True)
class PublishedOp:
    """One entry: the op, its mean seconds, the standard error of that mean."""

    op: Op
    mean_s: float
    stderr_s: float
    count: int


def parse_key(key: str) -> Op:
    """The op of a published key. Raises PublishedError saying which part is wrong."""
    name, _, rest = key.strip().rstrip(":").partition("-")
    fields: dict[str, str] = {}
    for part in filter(None, rest.split("-")):
        field, found, value = part.partition(":")
        if not found or field in fields:
            raise PublishedError(f"key '{key}': '{part}' is not one field:value")
        fields[field] = value
    try:
        return _op_of(name, fields)
    except KeyError as error:
        raise PublishedError(f"key '{key}': field {error} is missing") from None
    except OpError as error:
        raise PublishedError(f"key '{key}': {error}") from None
    except ValueError as error:
        raise PublishedError(f"key '{key}': {error}") from None


def _op_of(name: str, fields: dict[str, str]) -> Op:
    height, width, c_in = _size(fields["input"])
    if name == "Logits":
        return Linear(in_channels=c_in, out_channels=_whole(fields["output"]), height=height, width=width)
    out_height, _, c_out = _size(fields["output"])
    stride = -(-height // out_height)
    if name in ("Conv", "Conv_1", "Conv_2"):
        kernel = 3 if name == "Conv" else 1
        return Conv2d(in_channels=c_in, out_channels=c_out, height=height, width=width, kernel=kernel, stride=stride)
    if name == "AvgPool2D":
        kernel = height + 1 - height % 2  # global: any odd kernel that covers the map
        return Pool(in_channels=c_in, out_channels=c_out, height=height, width=width, kernel=kernel, stride=height)
    if name != "expanded_conv":
        raise PublishedError(f"unknown op '{name}'; known: expanded_conv, Conv, Conv_1, Conv_2, AvgPool2D, Logits")
    expand = _whole(fields["expand"])
    return MBConv(
        in_channels=c_in,
        out_channels=c_out,
        height=height,
        width=width,
        kernel=_whole(fields["kernel"]),
        stride=_whole(fields["stride"]),
        mid_channels=expand if expand > _WIDEST_RATIO else expand * c_in,
        shortcut=_whole(fields["idskip"]),
        se=_whole(fields.get("se", "0")),
        act="hswish" if _whole(fields.get("hs", "0")) else "relu6",
    )


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise PublishedError(f"'{text}' is not a whole number")
    return int(text)


def _size(text: str) -> tuple[int, int, int]:
    match = _SIZE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise PublishedError(f"'{text}' is not a size HEIGHTxWIDTHxCHANNELS")
    height, width, channels = map(int, match.groups())
    return height, width, channels


def read_published(path: Path) -> list[PublishedOp]:
    """Every entry of a published YAML table. Raises PublishedError naming the file and the key."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PublishedError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict) or not content:
        raise PublishedError(f"{path}: not a look-up table: expected keys with mean and count")
    try:
        entries = [_entry(str(key), value) for key, value in content.items()]
    except PublishedError as error:
        raise PublishedError(f"{path}: {error}") from None
    seen: dict[Op, int] = {}
    for i, entry in enumerate(entries):
        if entry.op in seen:
            raise PublishedError(f"{path}: two keys mean {entry.op}")
        seen[entry.op] = i
    return entries


def _entry(key: str, value: Any) -> PublishedOp:
    if not isinstance(value, dict) or not {"mean", "count"} <= set(value):
        raise PublishedError(f"key '{key}': needs mean and count")
    numbers = {k: v for k, v in value.items() if k in ("mean", "count", "var", "std")}
    for name, number in numbers.items():
        if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number) or number < 0:
            raise PublishedError(f"key '{key}': {name} = {number!r} is not a number of at least 0")
    if numbers["mean"] == 0 or numbers["count"] < 1:
        raise PublishedError(f"key '{key}': mean and count must be positive")
    std_ms = numbers.get("std", math.sqrt(numbers.get("var", 0.0)))
    return PublishedOp(
        parse_key(key), numbers["mean"] / 1e3, std_ms / 1e3 / math.sqrt(numbers["count"]), int(numbers["count"])
    )
