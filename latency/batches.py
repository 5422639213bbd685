"""Sessions of a device that times many of them in one go (a phone: a connection costs more than an inference).

Such a device has `time_round(sessions, loops)`, which answers columns of (index of the session, seconds or error). A
column is what was sampled under one condition: with several phones, what one of them did. Each column counts as a
round of its own, so that the round factor also calibrates the phones against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from devices.base import DeviceError, Session

#: (key, seconds per inference or why there are none)
Column = list[tuple[str, float | DeviceError]]

FEWEST_LOOPS, MOST_LOOPS = 3, 50  # timed inferences of one invocation: the sample is their median


@runtime_checkable
class Batcher(Protocol):
    """What a device has that times many sessions at once."""

    sample_s: float  # how long the timed inferences of a sample should last
    width: int  # columns a round: how many phones

    def time_round(
        self, sessions: Sequence[Session], loops: Sequence[int]
    ) -> list[list[tuple[int, float | DeviceError]]]:
        """Every session timed once, or once in each column; seconds are those of its `loops` inferences together."""
        ...


def batcher_of(sessions: Mapping[str, Session]) -> Batcher | None:
    """The device behind all `sessions`, where it times many at once."""
    devices = {id(d): d for s in sessions.values() if isinstance(d := getattr(s, "device", None), Batcher)}
    return next(iter(devices.values())) if len(devices) == 1 else None


def first_loops(
    sessions: Mapping[str, Session], keys: Sequence[str], sample_s: float, warm_up: Callable[[Session, float], int]
) -> dict[str, int | DeviceError]:
    """Inferences that make a sample, by key; or why a session fails at once."""
    found: dict[str, int | DeviceError] = {}
    batcher = batcher_of(sessions)
    if batcher is None:
        for key in keys:
            try:
                found[key] = warm_up(sessions[key], sample_s)
            except DeviceError as error:
                found[key] = error
        return found
    for column in columns(sessions, keys, dict.fromkeys(keys, FEWEST_LOOPS), lambda s, n: s.time_s(n)):
        for key, once in column:
            if isinstance(once, DeviceError):
                found[key] = once
            else:
                found[key] = min(MOST_LOOPS, max(FEWEST_LOOPS, math.ceil(batcher.sample_s / once)))
    return found


def columns(
    sessions: Mapping[str, Session],
    keys: Sequence[str],
    loops: Mapping[str, int],
    visit: Callable[[Session, int], float],
) -> Iterator[Column]:
    """Time `keys`, in this order: one column by `visit(session, loops)`, or those of the device that batches."""
    batcher = batcher_of(sessions)
    if batcher is not None:
        for column in batcher.time_round([sessions[k] for k in keys], [loops[k] for k in keys]):
            yield [(keys[i], s if isinstance(s, DeviceError) else s / loops[keys[i]]) for i, s in column]
        return
    found: Column = []
    for key in keys:
        try:
            found.append((key, visit(sessions[key], loops[key])))
        except DeviceError as error:
            found.append((key, error))
    yield found


def waited_s(sessions: Mapping[str, Session]) -> float:
    """Seconds that the device had to be waited for (heat, a cable): they are not taken from the budget."""
    devices = {id(d): d for s in sessions.values() if (d := getattr(s, "device", None)) is not None}
    return float(sum(getattr(d, "waited_s", 0.0) for d in devices.values()))
