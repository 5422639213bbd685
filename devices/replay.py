"""A scripted device: recorded seconds, injected noise, drift and faults, on a virtual clock.

The test double for everything above the Device protocol: no hardware, no waiting, and the truth is known.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError
from devices.spec import DeviceSpec

if TYPE_CHECKING:
    from torch import nn

NO_KERNEL = ("Zero(", "Identity(", "Fork(", "Next(")  # of a chain of keys: what takes no time on any device


@dataclass(frozen=True)
class Script:
    """What is injected on top of the recorded seconds."""

    noise_cv: float = 0.0  # coefficient of variation of the log-normal factor of one sample (median 1)
    drift: float = 0.0  # amplitude of a sinusoidal factor 1 + drift * sin(2 pi t / drift_period_s)
    drift_period_s: float = 60.0
    slow_start_s: float = 0.0  # the first virtual seconds run at half speed
    outlier_share: float = 0.0  # share of samples that take outlier_factor times as long
    outlier_factor: float = 10.0
    faults: Mapping[int, Exception] = field(default_factory=dict)  # number of the time_s call -> what it raises


class ReplaySession:
    """Answers `seconds` per inference, as the script bends them."""

    def __init__(self, device: ReplayDevice, seconds: float) -> None:
        self._device, self._seconds, self._open = device, seconds, True

    def time_s(self, loops: int) -> float:
        """Scripted wall seconds for `loops` inferences; advances the device's virtual clock by them."""
        if not self._open:
            raise DeviceError("the session is closed")
        return self._device._sample(self._seconds * loops)

    def close(self) -> None:
        """Nothing to free."""
        self._open = False


class ReplayDevice:
    """Plays `seconds_of(key)` for a module whose attribute `key` names it."""

    def __init__(
        self,
        seconds_of: Callable[[str], float],
        script: Script | None = None,
        seed: int = 0,
        name: str = "replay",
        threads: int = 1,
    ) -> None:
        self.name, self._seconds_of, self._script = name, seconds_of, script or Script()
        self._threads = threads  # only told
        self._rng = random.Random(seed)
        self._sigma = math.sqrt(math.log1p(self._script.noise_cv**2))
        self.now_s = 0.0
        self.calls = 0

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> ReplaySession:
        """A session for the module's key; nothing is built or run."""
        return ReplaySession(self, self._seconds_of(str(module.key)))

    def describe(self) -> dict[str, Any]:
        """The fingerprint."""
        about = {"device": self.name, "runtime": "replay", "noise_cv": self._script.noise_cv}
        return about | ({"threads": self._threads} if self._threads != 1 else {})

    def _sample(self, seconds: float) -> float:
        script, self.calls = self._script, self.calls + 1
        if self.calls in script.faults:
            raise script.faults[self.calls]
        factor = math.exp(self._rng.gauss(0.0, self._sigma)) if self._sigma else 1.0
        factor *= 1.0 + script.drift * math.sin(2 * math.pi * self.now_s / script.drift_period_s)
        if self.now_s < script.slow_start_s:
            factor *= 2.0
        if script.outlier_share and self._rng.random() < script.outlier_share:
            factor *= script.outlier_factor
        self.now_s += seconds * factor
        return seconds * factor


def read_recording(path: Path) -> dict[str, float]:
    """A recording: a JSON object, key -> seconds. Raises DeviceError naming the file and the key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}; a recording is a JSON object, op text -> seconds") from None
    except ValueError as error:
        raise DeviceError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DeviceError(f"{path}: a recording is a JSON object, op text -> seconds")
    for key, value in content.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise DeviceError(f"{path}: {key}: {value!r} is not a positive number of seconds")
    return content


def _recorded(recording: Mapping[str, float], path: str) -> Callable[[str], float]:
    """Seconds by key; a chain of keys (" > ") that was not recorded whole is the sum of its parts."""

    def seconds_of(key: str) -> float:
        if key in recording:
            return recording[key]
        parts = key.split(" > ")
        missing = [p for p in parts if p not in recording and not p.startswith(NO_KERNEL)]
        if missing:
            raise DeviceError(f"{path}: no recorded seconds for {missing[0]}")
        return sum(recording.get(p, 0.0) for p in parts)

    return seconds_of


def _by_length(key: str) -> float:
    """Seconds for dry runs without a recording: some fixed function of the key, the sum of its parts for a chain."""
    return sum(1e-4 * (1 + sum(map(ord, part)) % 97) for part in key.split(" > "))


def open_device(spec: DeviceSpec) -> ReplayDevice:
    """The device that `spec` describes."""
    spec.only("recording", "noise_cv", "seed", "threads")
    path = spec.option("recording", "")
    seconds_of = _recorded(read_recording(Path(path)), path) if path else _by_length
    script = Script(noise_cv=spec.option("noise_cv", 0.0))
    return ReplayDevice(seconds_of, script, spec.option("seed", 0), spec.name, spec.option("threads", 1))
