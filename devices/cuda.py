"""An NVIDIA GPU through torch: what its device file asks for, inputs and memory. Timing: devices/cuda_session.py."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError, DeviceUnavailable
from devices.cuda_session import L2_TIMES, CudaSession
from devices.nvml import Clocks, Nvml
from devices.spec import DeviceSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
CACHES = ("cold", "warm")
COOL_S, POLL_S = 900.0, 5.0  # how long a hot GPU is given, and between looks at it
ALIGN = 128  # elements: an input that begins off a boundary would be given other kernels


class CudaDevice:
    """The device `gpu`. The last three arguments are seams for tests.

    `tell` gets a line whenever the GPU has to be waited for, `waited_s` is how long that took.
    """

    what_to_do = (
        "see to its cooling and power, let other work on it end, and run the same command again (a profile keeps what "
        "it has)"
    )

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
        self.tell: Callable[[str], None] = lambda text: None
        self.waited_s = 0.0
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
        if self.cache == "cold" and self.l2_bytes <= 0:
            raise DeviceUnavailable(
                f"{self._properties.name} does not tell the size of its L2 cache, which cold times need: "
                'cache = "warm" in a device file of your own'
            )
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision, torch.float32)
        self._arena: torch.Tensor | None = None
        self._other: torch.Tensor | None = None
        self._stream: Any = None
        self._first_graph: Any = None
        self._nvml = nvml or self._open_nvml()

    def _open_nvml(self) -> Nvml | None:
        try:
            nvml = Nvml(f"GPU-{self._properties.uuid}")
            nvml.clocks()  # virtual GPUs and MIG slices have a handle, but tell no clocks
        except (OSError, AttributeError):
            return None  # described as "not watched"
        return nvml

    def clocks(self) -> Clocks | None:
        """Clocks and throttle reasons at this moment; None where NVML is not to be had. Raises DeviceError."""
        try:
            return None if self._nvml is None else self._nvml.clocks()
        except OSError as error:
            raise DeviceError(f"{self.name}: the GPU no longer tells its clocks ({error})") from error

    def cool_down(self, clocks: Clocks | None) -> None:
        """Wait until the GPU, last seen as `clocks`, no longer throttles. Raises DeviceUnavailable after COOL_S."""
        end_s = self.waited_s + COOL_S
        while clocks is not None and clocks.throttled:
            why = ", ".join(clocks.names)
            if self.waited_s >= end_s:
                raise DeviceUnavailable(
                    f"{self.name}: the GPU throttles ({why}) for {COOL_S:.0f} s on end: {self.what_to_do}"
                )
            self.tell(f"{self.name}: the GPU throttles ({why}): waiting for it to cool down")
            self.sleep(POLL_S)
            self.waited_s += POLL_S
            clocks = self.clocks()

    def flush(self) -> None:
        """Read through memory of L2_TIMES x L2 in which no input lies, so that none is left in L2.

        Read, not written as Triton's do_bench and NVBench do: the writing back of what was written would fall into what
        is timed next.
        """
        import torch

        if self._other is None:
            self._other = torch.ones(L2_TIMES * self.l2_bytes // 4, device=self._where)
        self._other.sum()

    def stream(self) -> Any:
        """The stream of all warm-ups and captures: graphs share memory only if captured on one stream."""
        self._stream = self._stream or self.cuda.Stream()
        return self._stream

    def capture(self, work: Callable[[], object]) -> Any:
        """A CUDA graph of `work`. All graphs share the memory pool of the first: they never run at the same time and
        none needs what another left, so that a hundred networks take the memory of the largest.

        The first graph is kept for as long as this device: a pool without a graph is gone.
        """
        graph = self.cuda.CUDAGraph()
        pool = None if self._first_graph is None else self._first_graph.pool()
        with self.cuda.graph(graph, pool=pool, stream=self.stream()):
            work()
        self._first_graph = self._first_graph or graph
        return graph

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
