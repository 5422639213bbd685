"""Which delegate ran a model, by what `benchmark_model` says: a silent fallback to the CPU exits with 0."""

from __future__ import annotations

import re
from collections.abc import Sequence

from devices.benchmark_lines import BenchmarkTextError


class DelegateFallback(BenchmarkTextError):
    """The delegate that was asked for did not run the whole model: the time is not that of the delegate."""


#: Delegates of the CPU: for what they do not take, its own kernels are what a user's app would run too. That they took
#: nothing at all is a fallback; old and LiteRT builds say nothing of them.
CPU = ("xnnpack",)

_APPLIED = re.compile(
    r"Explicitly applied (.+?) delegate, and the model graph will be (completely|partially) executed by the delegate"
)
_NOT_APPLIED = re.compile(
    r"Though (.+?) delegate is explicitly applied, the model graph will not be executed by the delegate"
)
_REPLACING = re.compile(r"Replacing (\d{1,9}) out of (\d{1,9}) node\(s\) with delegate \((\w+)\)", re.A)


def delegates_in(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(name, "complete" | "partial" | "none") of each delegate that `lines` tell of, in order."""
    found = []
    for line in lines:
        if m := _APPLIED.search(line):
            found.append((m[1], "complete" if m[2] == "completely" else "partial"))
        elif m := _NOT_APPLIED.search(line):
            found.append((m[1], "none"))
    return tuple(found)


def demand(delegate: str, delegates: Sequence[tuple[str, str]], lines: Sequence[str]) -> None:
    """Raise DelegateFallback unless the output says that `delegate` runs the whole model.

    For a delegate of the CPU only where it says that it runs nothing.
    """
    said = [how for name, how in delegates if name.lower() == delegate.lower()]
    if not said:  # LiteRT 2.x says it only in its verbose line
        for line in lines:
            m = _REPLACING.search(line)
            if m and delegate.lower() in m[3].lower():
                said.append("none" if int(m[1]) == 0 else "complete" if m[1] == m[2] else "partial")
    if said[-1:] == ["complete"] or (delegate.lower() in CPU and said[-1:] != ["none"]):
        return
    why = (
        f"nothing in the output says that the {delegate} delegate ran the model"
        if not said
        else f"the {delegate} delegate runs only part of the model, the CPU the rest"
        if said[-1] == "partial"
        else f"the {delegate} delegate runs nothing of the model: silent fallback to the CPU"
        if delegate.lower() not in CPU
        else f"the {delegate} delegate runs nothing of the model: it would be timed on the reference kernels"
    )
    raise DelegateFallback(f"{why}; the time would not be the {delegate}'s (delegate in the device file)")
