"""One module captured in a CUDA graph of many calls, and what is timed of it.

A small eager op measures the CPU that launches it (5 to 10 us a launch); a graph of N calls, replayed between events,
measures the GPU. The eager host time stands beside it in `notes`: an eager network takes about the larger of the sums.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError, DeviceUnavailable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from devices.cuda import CudaDevice
    from devices.nvml import Clocks

L2_TIMES = 4  # cold: this many times the L2 cache is read through before an input comes round again
GRAPH_S = 200e-6  # a graph lasts at least this long: events resolve 0.5 us
GRAPH_MAX_S = 50e-3
MAX_CALLS = 1024
WARM_CALLS = 3
PROBE_CALLS = 8  # of a first graph, which tells how many calls the second needs
HOST_CALLS = 20
TRIES = 5  # of a batch that was throttled
#: Seconds on the GPU between events around some work, told after it was waited for.
Span = Callable[[], float]


class CudaSession:
    """A module on the GPU of `device`. Raises DeviceError where the GPU refuses it."""

    parts = 1  # a graph is many calls already, and the host's other work does not interrupt it

    def __init__(self, device: CudaDevice, module: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.device, self._cuda = device, device.cuda
        self.cache_state = device.cache
        self._module: nn.Module | None = module
        with self._errors(), device.arithmetic():
            first = device.inputs(input_shape, 1)
            self._warm_up(first[0])
            # Asked of a graph, not of eager calls: those of a small op last as long as their launches do.
            probe = self._capture(first * PROBE_CALLS)
            once_s = max(self._between_events(probe.replay)() / PROBE_CALLS, 1e-7)
            self._inputs = device.inputs(input_shape, self._calls(input_shape, once_s))
            self._graph: Any = self._capture(self._inputs)
            self._host_s = self._host()
        # So many small inputs that they would push each other out of L2 do not fit into one graph: L2 is emptied before
        # every replay then, outside the events, and within a replay no input comes twice.
        read = len(self._inputs) * device.bytes_of(input_shape)
        self.flushes = device.cache == "cold" and read < L2_TIMES * device.l2_bytes
        self._seen: list[Clocks] = []
        self._retaken = 0

    def time_s(self, loops: int) -> float:
        """GPU seconds for `loops` inferences, from whole replays of the graph.

        A batch during which the GPU throttled is taken again when it has cooled. Raises DeviceError, and
        DeviceUnavailable where the GPU stays hot: that is no fault of this module.
        """
        if self._module is None:
            raise DeviceError("the session is closed")
        replays = math.ceil(loops / len(self._inputs))
        for _ in range(TRIES):
            with self._errors(), self.device.arithmetic():  # events of another device's stream would time nothing
                spans = self._replay(replays)
                seen = [self.device.clocks()]  # the GPU is at it
                seconds = sum(span() for span in spans)
            seen.append(self.device.clocks())  # and what set in meanwhile
            slow = next((clocks for clocks in seen if clocks is not None and clocks.throttled), None)
            if slow is None:
                self._seen += [clocks for clocks in seen[:1] if clocks is not None]
                return seconds / (replays * len(self._inputs)) * loops
            self._retaken += 1
            self.device.cool_down(slow)
        raise DeviceUnavailable(
            f"{self.device.name}: the GPU throttles within one batch, {TRIES} times running: {self.device.what_to_do}"
        )

    def _replay(self, replays: int) -> list[Span]:
        """Start `replays` replays; events around all of them, or around each where L2 is emptied between them."""
        if not self.flushes:
            return [self._between_events(lambda: [self._graph.replay() for _ in range(replays)])]
        spans = []
        for _ in range(replays):
            self.device.flush()
            spans.append(self._between_events(self._graph.replay))
        return spans

    def node_times_s(self, loops: int) -> dict[str, float]:
        """Seconds per inference by direct submodule, from events around each in eager runs: gaps between launches
        are counted in, so use them as shares."""
        if self._module is None:
            raise DeviceError("the session is closed")
        marks: list[tuple[str, Any, Any]] = []
        starts: dict[str, Any] = {}

        def before(name: str) -> Callable[..., None]:
            return lambda *_: starts.__setitem__(name, self._mark())

        def after(name: str) -> Callable[..., None]:
            return lambda *_: marks.append((name, starts.pop(name), self._mark()))

        hooks = []
        for name, part in self._module.named_children():
            hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
        try:
            with self._errors(), self.device.arithmetic():
                for i in range(loops):
                    self._call(self._inputs[i % len(self._inputs)])
                self._cuda.synchronize()
        finally:
            for hook in hooks:
                hook.remove()
        found: dict[str, float] = {}
        for name, start, end in marks:
            found[name] = found.get(name, 0.0) + start.elapsed_time(end) * 1e-3 / loops
        return found

    def notes(self) -> dict[str, Any]:
        """Facts beside the times: eager host seconds per inference, calls in the graph, whether L2 was emptied before
        each replay; over all batches that count, clocks and every reason for which they were below their maximum."""
        found = {"eager_host_s": self._host_s, "calls": len(self._inputs), "flushes": self.flushes}
        if not self._seen:
            return found
        reasons = 0
        for clocks in self._seen:
            reasons |= clocks.reasons
        return {
            **found,
            "sm_mhz_low_median_high": _spread([c.sm_mhz for c in self._seen]),
            "memory_mhz_low_median_high": _spread([c.memory_mhz for c in self._seen]),
            "clocks": replace(self._seen[-1], reasons=reasons).names,
            "throttled_batches": self._retaken,
        }

    def close(self) -> None:
        """Free the graph and the weights."""
        self._module = self._graph = None
        self._inputs = []

    def _calls(self, input_shape: tuple[int, ...], once_s: float) -> int:
        """How many inferences one graph holds."""
        enough = math.ceil(GRAPH_S / once_s)
        if self.device.cache == "cold":
            enough = max(enough, math.ceil(L2_TIMES * self.device.l2_bytes / self.device.bytes_of(input_shape)))
        return max(1, min(enough, MAX_CALLS, math.floor(GRAPH_MAX_S / once_s)))

    def _warm_up(self, x: torch.Tensor) -> None:
        """A few eager calls on the stream of the captures, as torch asks for: cuDNN chooses its algorithms here."""
        side = self.device.stream()
        side.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(side):
            for _ in range(WARM_CALLS):
                self._call(x)
        self._cuda.current_stream().wait_stream(side)

    def _capture(self, inputs: Sequence[torch.Tensor]) -> Any:
        def work() -> None:
            for x in inputs:
                self._call(x)

        graph = self.device.capture(work)
        graph.replay()
        self._cuda.synchronize()
        return graph

    def _host(self) -> float:
        """Host seconds to launch one eager inference. Each begins with an empty queue and is not waited for: a full
        queue (about a thousand launches) would make the host wait for the GPU."""
        found = []
        for i in range(HOST_CALLS):
            self._cuda.synchronize()
            start = time.perf_counter()
            self._call(self._inputs[i % len(self._inputs)])
            found.append(time.perf_counter() - start)
        self._cuda.synchronize()
        return statistics.median(found)

    def _between_events(self, work: Callable[[], object]) -> Span:
        start = self._mark()
        work()
        end = self._mark()

        def seconds() -> float:
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3

        return seconds

    def _mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def _call(self, x: torch.Tensor) -> None:
        import torch

        assert self._module is not None
        with torch.no_grad():
            self._module(x)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one too
            raise DeviceError(f"{self.device.name}: {' '.join(str(error).split())[:300]}") from error


def _spread(values: list[int]) -> list[int]:
    return [min(values), round(statistics.median(values)), max(values)]
