"""What a target is: two small protocols. Knows nothing of ops, tables or search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from devices.errors import UserError

if TYPE_CHECKING:
    from torch import nn


FEWEST = 8  # workloads timed in one column of a round: with fewer there is no telling the column from the workload


class DeviceUnavailable(UserError):
    """The target cannot be reached or its runtime is not installed; the message says what was looked for."""


class DeviceError(UserError):
    """The target was reached, but failed at the work."""


@runtime_checkable
class Session(Protocol):
    """One module made ready to run on a device.

    A session may also have `node_times_s(loops) -> dict[str, float]`, seconds per inference by submodule, where the
    runtime can attribute them, or `kernels_s(loops) -> [(kind, seconds), ...]` in the order in which they run,
    where it tells kernels but not the submodules that they come from; `notes() -> dict`, facts that go into the
    table's provenance beside the times; and `cache_state`, "cold" or "warm" (the default), which labels its rows;
    `parts`, into how many calls of `time_s` the inferences of one sample may be split (1 where each call is long or
    costly, as a replay of a CUDA graph is).
    """

    def time_s(self, loops: int) -> float:
        """Wall seconds for `loops` inferences, run one after another. Raises DeviceError on failure."""
        ...

    def close(self) -> None:
        """Free what the session holds. Calling it twice is allowed."""
        ...


@runtime_checkable
class Device(Protocol):
    """A target that modules can be timed on.

    A device that converts models may also have `convert_ahead([(make, input_shape), ...], on_done)`, which does so
    side by side before `prepare` is called for each.
    """

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> Session:
        """Make `module` ready to run on an input of `input_shape` (batch, channels, height, width)."""
        ...

    def describe(self) -> dict[str, Any]:
        """The fingerprint: hardware, runtime and library versions, threads, ... Equal dicts: comparable times."""
        ...
