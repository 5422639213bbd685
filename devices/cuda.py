"""An NVIDIA GPU through torch: CUDA graphs of many calls between two events.

A small eager op measures the CPU that launches it (5 to 10 us a launch); a graph of N calls, replayed between events,
measures the GPU. The eager host time stands beside it in `notes`: an eager network takes about the larger of the sums.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError, DeviceUnavailable
from devices.nvml import Clocks, Nvml
from devices.spec import DeviceSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
CACHES = ("cold", "warm")
L2_TIMES = 4  # cold: this many times the L2 cache is read through before an input comes round again
GRAPH_S = 200e-6  # a graph lasts at least this long: events resolve 0.5 us
GRAPH_MAX_S = 50e-3
MAX_CALLS = 1024
ALIGN = 128  # elements: an input that begins off a boundary would be given other kernels
TRIES = 5  # of a batch that was throttled
COOL_S = 2.0


class CudaSession:
    """A module captured in a CUDA graph. `cuda` is torch.cuda, or what stands in for it in a test."""

    def __init__(self, device: CudaDevice, module: nn.Module, input_shape: tuple[int, ...]) -> None:
        self._device, self._cuda = device, device.cuda
        self.cache_state = device.cache
        self._module: nn.Module | None = module
        with self._errors(), device.arithmetic():
            eager_s = self._eager_s(device.inputs(input_shape, 1)[0])
            self._inputs = device.inputs(input_shape, self._calls(input_shape, eager_s))
            self._graph: Any = self._capture()
            self._host_s = self._host()

    def time_s(self, loops: int) -> float:
        """GPU seconds for `loops` inferences, from whole replays of the graph. Throttled batches are taken again."""
        if self._module is None:
            raise DeviceError("the session is closed")
        replays = math.ceil(loops / len(self._inputs))
        reasons: set[str] = set()
        for attempt in range(TRIES):
            if attempt:
                self._device.sleep(COOL_S)
            with self._errors():
                seconds = self._between_events(lambda: [self._graph.replay() for _ in range(replays)])
            clocks = self._device.clocks()
            if clocks is None or not clocks.throttled:
                return seconds / (replays * len(self._inputs)) * loops
            reasons.update(clocks.names)
        raise DeviceError(f"the GPU throttles ({', '.join(sorted(reasons))}) after {TRIES} tries: let it cool")

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
            with self._errors(), self._device.arithmetic():
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
        """Facts beside the times: eager host seconds per inference, calls in the graph, clocks at this moment."""
        clocks = self._device.clocks()
        seen = (
            {} if clocks is None else {"sm_mhz": clocks.sm_mhz, "memory_mhz": clocks.memory_mhz, "clocks": clocks.names}
        )
        return {"eager_host_s": self._host_s, "calls": len(self._inputs), **seen}

    def close(self) -> None:
        """Free the graph and the weights."""
        self._module = self._graph = None
        self._inputs = []

    def _calls(self, input_shape: tuple[int, ...], eager_s: float) -> int:
        """How many inferences one graph holds."""
        enough = math.ceil(GRAPH_S / eager_s) if eager_s < GRAPH_S else 1
        if self._device.cache == "cold":
            enough = max(enough, math.ceil(L2_TIMES * self._device.l2_bytes / self._device.bytes_of(input_shape)))
        return max(1, min(enough, MAX_CALLS, math.floor(GRAPH_MAX_S / eager_s)))

    def _eager_s(self, x: torch.Tensor) -> float:
        """GPU seconds of one eager inference, after cuDNN has chosen its algorithms."""
        side = self._cuda.Stream()
        side.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(side):  # torch: warm up on a side stream before a capture
            for _ in range(3):
                self._call(x)
        self._cuda.current_stream().wait_stream(side)
        return max(self._between_events(lambda: self._call(x)), 1e-7)

    def _capture(self) -> Any:
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph):
            for x in self._inputs:
                self._call(x)
        graph.replay()
        self._cuda.synchronize()
        return graph

    def _host(self, loops: int = 20) -> float:
        """Host seconds to launch one eager inference: the queue is empty at the start and not waited for."""
        self._cuda.synchronize()
        start = time.perf_counter()
        for i in range(loops):
            self._call(self._inputs[i % len(self._inputs)])
        seconds = (time.perf_counter() - start) / loops
        self._cuda.synchronize()
        return seconds

    def _between_events(self, work: Callable[[], object]) -> float:
        start = self._mark()
        work()
        end = self._mark()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

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
            raise DeviceError(f"{self._device.name}: {' '.join(str(error).split())[:300]}") from error


class CudaDevice:
    """The device `gpu`. The last three arguments are seams for tests."""

    def __init__(
        self,
        spec: DeviceSpec,
        cuda: Any = None,
        where: str | None = None,
        nvml: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import torch

        spec.only("index", "precision", "channels_last", "cache")
        self.name, self.sleep = spec.name, sleep
        self.index = spec.option("index", 0)
        self.precision = spec.option("precision", "fp32")
        self.channels_last = spec.option("channels_last", False)
        self.cache = spec.option("cache", "cold")
        for option, value, allowed in (("precision", self.precision, PRECISIONS), ("cache", self.cache, CACHES)):
            if value not in allowed:
                raise DeviceError(f"{spec.name}.toml: options.{option} = {value!r}; one of {', '.join(allowed)}")
        self.cuda = cuda or torch.cuda
        if not self.cuda.is_available():
            why = f"no GPU or no driver for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            raise DeviceUnavailable(
                f"device {spec.name} needs an NVIDIA GPU and a torch with CUDA; torch {torch.__version__}: {why}"
            )
        if not 0 <= self.index < self.cuda.device_count():
            raise DeviceUnavailable(
                f"{spec.name}.toml: options.index = {self.index}, but there are {self.cuda.device_count()} CUDA devices"
            )
        self._where = where or f"cuda:{self.index}"
        self._properties = self.cuda.get_device_properties(self.index)
        self.l2_bytes = int(self._properties.L2_cache_size)
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision, torch.float32)
        self._arena: torch.Tensor | None = None
        self._nvml = nvml or self._open_nvml()

    def _open_nvml(self) -> Nvml | None:
        try:
            return Nvml(f"GPU-{self._properties.uuid}")
        except (OSError, AttributeError):
            return None  # described as "not watched"

    def clocks(self) -> Clocks | None:
        """Clocks and throttle reasons at this moment; None where NVML is not to be had."""
        return None if self._nvml is None else self._nvml.clocks()

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Bytes of one input."""
        return math.prod(shape) * self._dtype.itemsize

    def inputs(self, shape: tuple[int, ...], count: int) -> list[torch.Tensor]:
        """`count` inputs: views of one arena of L2_TIMES x L2, shared by all sessions so that memory stays bounded.

        Warm: all the same view. Weights are not rotated: they stay in L2 as far as the inputs let them, as they do
        in a network that is run again and again.
        """
        import torch

        size = math.prod(shape)
        step = math.ceil(size / ALIGN) * ALIGN
        need = max(step, L2_TIMES * self.l2_bytes // self._dtype.itemsize)
        if self._arena is None or self._arena.numel() < need:
            self._arena = torch.randn(need, device=self._where, dtype=self._dtype)
        places = self._arena.numel() // step if self.cache == "cold" else 1
        views = [self._arena[(i % places) * step :][:size].view(shape) for i in range(count)]
        if self.channels_last and len(shape) == 4:
            n, c, h, w = shape
            return [v.view(n, h, w, c).permute(0, 3, 1, 2) for v in views]
        return views

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """This device current, TF32 as asked for, and cuDNN free to choose its algorithm."""
        import torch

        tf32, matmul = self.precision == "tf32", torch.backends.cuda.matmul
        before = matmul.allow_tf32
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32)
        with self.cuda.device(self.index), flags:
            matmul.allow_tf32 = tf32
            try:
                yield
            finally:
                matmul.allow_tf32 = before

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> CudaSession:
        """Copy `module` to the GPU and capture it. Raises DeviceError."""
        import torch

        try:
            moved = copy.deepcopy(module).eval().to(self._where, self._dtype)
        except RuntimeError as error:
            raise DeviceError(f"{self.name}: {' '.join(str(error).split())[:300]}") from error
        if self.channels_last:
            moved = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return CudaSession(self, moved, input_shape)

    def describe(self) -> dict[str, Any]:
        """The fingerprint of this GPU and runtime."""
        import torch

        p = self._properties
        return {
            "device": self.name,
            "runtime": f"torch {torch.__version__}",
            "gpu": p.name,
            "compute_capability": f"{p.major}.{p.minor}",
            "memory_gib": round(p.total_memory / 2**30, 1),
            "l2_mib": round(self.l2_bytes / 2**20, 1),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "driver": self._nvml.driver() if self._nvml is not None else "not known: no NVML",
            "throttling": "watched" if self._nvml is not None else "not watched: no NVML",
            "precision": self.precision,
            "channels_last": self.channels_last,
            "cache": self.cache,
        }


def open_device(spec: DeviceSpec) -> CudaDevice:
    """The device that `spec` describes."""
    return CudaDevice(spec)
