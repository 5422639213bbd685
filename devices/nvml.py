"""NVML by ctypes: clocks and throttle reasons of one GPU. Reads only; never changes a clock.

Constants: NVIDIA Management Library reference, nvmlClockType_t and nvmlClocksEventReasons.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

CLOCK_SM, CLOCK_MEM = 1, 2
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
#: Those that pass: a batch timed under one is not what the GPU does otherwise. A power cap is how the board runs
#: this workload every time, so its times are kept and the cap is noted.
PASSING = 0x8 | 0x20 | 0x40 | 0x80


@dataclass(frozen=True)
class Clocks:
    """Clocks in MHz and the bit mask of reasons for which they are below their maximum."""

    sm_mhz: int
    memory_mhz: int
    reasons: int

    @property
    def throttled(self) -> bool:
        """Whether a passing slowdown is in force."""
        return bool(self.reasons & PASSING)

    @property
    def names(self) -> list[str]:
        """The reasons as text."""
        return [name for bit, name in REASONS.items() if self.reasons & bit]


class Nvml:
    """One GPU, by its UUID ("GPU-..."). Raises OSError where the library, the GPU or a reading is not to be had."""

    def __init__(self, uuid: str, library: ctypes.CDLL | None = None) -> None:
        self._library = library or ctypes.CDLL("libnvidia-ml.so.1")
        self._handle = ctypes.c_void_p()
        new, old = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
        self._reasons = new if hasattr(self._library, new) else old  # renamed in 2023, driver 535
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self._handle))

    def clocks(self) -> Clocks:
        """The state at this moment."""
        reasons = ctypes.c_ulonglong()
        self._call(self._reasons, self._handle, ctypes.byref(reasons))
        return Clocks(self._clock(CLOCK_SM), self._clock(CLOCK_MEM), reasons.value)

    def driver(self) -> str:
        """The driver's version."""
        text = ctypes.create_string_buffer(80)
        self._call("nvmlSystemGetDriverVersion", text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def _clock(self, kind: int) -> int:
        mhz = ctypes.c_uint()
        self._call("nvmlDeviceGetClockInfo", self._handle, ctypes.c_int(kind), ctypes.byref(mhz))
        return mhz.value

    def _call(self, name: str, *args: object) -> None:
        code = getattr(self._library, name)(*args)
        if code != 0:
            raise OSError(f"{name} returned {code}")
