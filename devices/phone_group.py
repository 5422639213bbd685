"""Several phones of one model as one device: they share the workloads of each round.

Every round deals the workloads out anew, at random, and the samples of each phone are a column of their own. The factor
of a column (latency/measure.py: what hits all workloads of a round at once) then also holds how much faster or slower
that phone is than the others: dividing it out calibrates them against each other. A factor takes `FEWEST` workloads in
a column; where there are fewer to each phone, every phone times every workload, and none is compared across phones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.adb_states import PhoneUnavailable
from devices.android import AndroidDevice, AndroidSession
from devices.base import FEWEST, DeviceError
from devices.phone_runner import quietly

if TYPE_CHECKING:
    from torch import nn


class GroupSession:
    """One model on every phone of a group."""

    def __init__(self, device: PhoneGroup, parts: list[AndroidSession]) -> None:
        self.device, self.parts = device, parts

    def time_s(self, loops: int) -> float:
        """On the phone whose turn it is."""
        return self.parts[self.device.turn()].time_s(loops)

    def close(self) -> None:
        """Close it on every phone."""
        for part in self.parts:
            part.close()


class PhoneGroup:
    """Phones of one model and build. Raises PhoneUnavailable where they differ in more than the serial."""

    sample_s = AndroidDevice.sample_s

    def __init__(self, phones: Sequence[AndroidDevice], seed: int = 0) -> None:
        self.phones, self.name = list(phones), phones[0].name
        self.width = len(self.phones)
        self._rng, self._turn = random.Random(seed), -1
        self.tell: Callable[[str], None] = quietly
        first = self.phones[0].describe()
        for phone in self.phones:
            phone.tell = lambda text: self.tell(text)
            other = phone.describe()
            different = [f"{k}: {first[k]!r} and {other[k]!r}" for k in first if first[k] != other[k]]
            if different:
                raise PhoneUnavailable(
                    f"phones {self.phones[0].adb.serial} and {phone.adb.serial} differ ({'; '.join(different)}): "
                    "only phones of one model and build share a table"
                )

    def convert_ahead(
        self, jobs: Sequence[tuple[Callable[[], nn.Module], tuple[int, ...]]], on_done: Callable[[int], None]
    ) -> None:
        """Convert once for all."""
        self.phones[0].convert_ahead(jobs, on_done)

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> GroupSession:
        """Convert once, push to all."""
        from devices.convert import to_tflite

        return self.session(to_tflite(module, input_shape, self.phones[0].describe()["quantization"]))

    def session(self, model: Path) -> GroupSession:
        """A session for a .tflite file."""
        return GroupSession(self, [phone.session(model) for phone in self.phones])

    def time_round(
        self, sessions: Sequence[GroupSession], loops: Sequence[int]
    ) -> list[list[tuple[int, float | DeviceError]]]:
        """One column a phone: (index of the session, seconds of its `loops` inferences or why there are none).

        Every session is timed once, by the phone that it falls to in this round, or, where that leaves a phone fewer
        than FEWEST, once by each phone. The phones work at the same time.
        """
        order = list(range(len(sessions)))
        self._rng.shuffle(order)
        start, n = self.turn(), len(self.phones)  # who gets the odd one
        shared = len(order) >= FEWEST * n
        dealt = [order[(i + start) % n :: n] if shared else order for i in range(n)]

        def work(number: int) -> list[tuple[int, float | DeviceError]]:
            mine = sorted(dealt[number], key=order.index)
            parts = [sessions[i].parts[number] for i in mine]
            return list(zip(mine, self.phones[number].time_many(parts, [loops[i] for i in mine]), strict=True))

        with ThreadPoolExecutor(len(self.phones)) as pool:
            return [column for column in pool.map(work, range(len(self.phones))) if column]

    def turn(self) -> int:
        """The number of the phone whose turn it is."""
        self._turn = (self._turn + 1) % len(self.phones)
        return self._turn

    @property
    def waited_s(self) -> float:
        """Seconds waited for the phone that had to be waited for longest."""
        return max(phone.waited_s for phone in self.phones)

    def describe(self) -> dict[str, Any]:
        """The fingerprint of each of them: it is the same."""
        return self.phones[0].describe()

    def state(self) -> dict[str, Any]:
        """The state of each phone by serial."""
        return {str(phone.adb.serial): phone.state() for phone in self.phones}

    def close(self) -> None:
        """Put the settings of all phones back."""
        for phone in self.phones:
            phone.close()
