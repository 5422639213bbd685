"""The text of `benchmark_model` as lines: log prefixes off, nothing unprintable, numbers that are times."""

from __future__ import annotations

import math
import re

from devices.base import DeviceError


class BenchmarkTextError(DeviceError):
    """The output of benchmark_model is not one complete, honest measurement; the message says why."""


# "07-14 13:14:52.115 22838 22838 I tflite  : ", "INFO: ", "[benchmark_litert_model.h:88] ": each may be there.
_PREFIX = re.compile(
    r"^\s*(?:\d\d-\d\d [\d:.]+\s+\d+\s+\d+ [VDIWEF] [\w.-]+\s*: )?"
    r"(?:(?:VERBOSE|INFO|WARN|WARNING|ERROR|FATAL): )?(?:\[[\w.]+:\d+\] ?)?"
)


def lines_of(text: str) -> list[str]:
    """The lines of `text` without log prefixes (`INFO: `, logcat's, source positions)."""
    return [_PREFIX.sub("", line) for line in printable(text).split("\n")]


def printable(text: str) -> str:
    """`text` with what is neither printable nor a line's end or a tab replaced: it goes into messages."""
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text.replace("\r", ""))


def microseconds(text: str) -> float:
    """A number that may be a time. Raises BenchmarkTextError."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise BenchmarkTextError(f"'{text}' is no time")
    return value
