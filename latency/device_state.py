"""What changes from session to session on one device (heat, clocks): kept with the fit, compared by latency.verify.

A state is what `device.state()` gives: `heat` ("thermal status 0, CPU 31 C"), `mhz_low_median_high`, ...; of a group of
phones, the states by serial number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

#: What a difference in a state does.
MEANING = {
    "temperature": "a warm chip clocks lower: mostly a constant scale; let it cool, or warm up, and verify again",
    "thermal status": "a phone that throttles is slower by a factor that changes with time: let it cool",
    "clock": "mostly a constant scale",
}
UNIT = {"temperature": " C", "thermal status": "", "clock": " MHz"}
SAME = {"temperature": (5.0, 0.0), "thermal status": (0.0, 0.0), "clock": (0.0, 0.03)}  # as close: absolute, relative


def states(*told: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The state of each phone of each session, without serial numbers: a predictor is passed on, a serial is not."""
    found = []
    for state in told:
        if state and all(isinstance(v, Mapping) for v in state.values()):
            found += states(*state.values())
        elif state:
            found.append({k: v for k, v in state.items() if k != "serial"})
    return found


def state_differences(table: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> list[str]:
    """`temperature: table at 31 C, here 44 C (what it means)`: a line for each quantity told by both that differs.

    A quantity differs where a value of `here` lies outside the range of `table` by more than what counts as the same.
    """
    lines = []
    for name, meaning in MEANING.items():
        before, now = ([v for v in (_value(name, s) for s in side) if v is not None] for side in (table, here))
        if not before or not now:
            continue
        absolute, relative = SAME[name]
        low, high = min(before), max(before)
        if min(now) < low - absolute - relative * low or max(now) > high + absolute + relative * high:
            lines.append(f"{name}: table at {_range(before)}{UNIT[name]}, here {_range(now)}{UNIT[name]} ({meaning})")
    return lines


def _value(name: str, state: Mapping[str, Any]) -> float | None:
    if name == "clock":
        mhz = state.get("mhz_low_median_high")
        return float(mhz[1]) if isinstance(mhz, Sequence) and len(mhz) == 3 else None
    pattern = r"(-?\d+(?:\.\d+)?) C$" if name == "temperature" else r"^thermal status (\d+)"
    found = re.search(pattern, str(state.get("heat", "")))
    return float(found[1]) if found else None


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"
