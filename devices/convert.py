"""torch -> .tflite by litert-torch: NHWC input, in worker processes, cached on disk by content.

The converter takes seconds for an op and tens of seconds for a network, leaks memory, prints, and on a bad day
aborts: so it runs in processes of its own (`devices/convert_worker.py`), and what it made is kept under
`$METRONOME_CACHE/tflite` (default `~/.cache/metronome/tflite`). A file there is whole or absent.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pickle
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from devices.base import DeviceError, DeviceUnavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

QUANTIZATIONS = ("fp32", "fp16", "dynamic", "int8")
FORMAT = 1  # raised when the same module would be converted differently
WORKERS = 2
LIMIT_S = 900.0  # of one conversion; the slowest network seen took 60 s on a busy two-core host


def cache_folder() -> Path:
    """Where converted models are kept: $METRONOME_CACHE/tflite, else ~/.cache/metronome/tflite."""
    base = os.environ.get("METRONOME_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "metronome") / "tflite"


def to_tflite(
    module: nn.Module,
    input_shape: tuple[int, ...],
    quantization: str = "fp32",
    calibration: npt.NDArray[np.float32] | None = None,
) -> Path:
    """The .tflite file of `module` in eval mode for a fixed `input_shape` (batch, channels, height, width).

    Input and 4-d outputs of the model are NHWC. `quantization`: fp32; fp16 (weights stored as halves); dynamic
    (int8 weights, activations quantised at run time); int8 (weights and activations, calibrated on `calibration`,
    inputs (n, batch, channels, height, width); without it on random ones: right for timing, not for accuracy).
    Raises DeviceError where the module cannot be converted, DeviceUnavailable where litert-torch is not installed.
    """
    (result,) = to_tflite_many([(module, input_shape)], quantization, calibration=calibration)
    if isinstance(result, Exception):
        raise result
    return result


def to_tflite_many(
    jobs: Iterable[tuple[nn.Module, tuple[int, ...]]],
    quantization: str = "fp32",
    on_done: Callable[[int], None] = lambda done: None,
    calibration: npt.NDArray[np.float32] | None = None,
) -> list[Path | DeviceError]:
    """Convert `jobs` in WORKERS processes. Returns a file or the error for each, in order; `on_done(how many)`.

    Modules are drawn from `jobs` as workers come free. Raises DeviceUnavailable where litert-torch is absent.
    """
    if quantization not in QUANTIZATIONS:
        raise DeviceError(f"quantization = {quantization!r}; one of {', '.join(QUANTIZATIONS)}")
    results: list[Path | DeviceError | None] = []
    busy: dict[_Worker, int] = {}

    def keep(index: int, result: Path | DeviceError) -> None:
        results[index] = result
        on_done(sum(r is not None for r in results))

    def collect() -> None:
        for worker in _answered(list(busy)):
            index = busy.pop(worker)
            keep(index, worker.result())

    with _ONE_CALLER:
        try:
            for index, (module, shape) in enumerate(jobs):
                results.append(None)
                path = cache_folder() / f"{content_hash(module, shape, quantization, calibration)}.tflite"
                if path.exists():
                    keep(index, path)
                    continue
                check_installed()
                while len(busy) >= WORKERS:
                    collect()
                worker = next((w for w in _WORKERS if w not in busy), None) or _Worker()
                try:
                    worker.start(_frozen(module), shape, quantization, path, calibration)
                    busy[worker] = index
                except DeviceError as error:
                    keep(index, error)
            while busy:
                collect()
        finally:
            for worker in busy:  # an error or Ctrl-C: what they are at is given up
                worker.end()
    return [result for result in results if result is not None]


def release() -> None:
    """End the worker processes; a later conversion starts new ones. Called at exit, and before timing on this host."""
    while _WORKERS:
        _WORKERS[-1].end()


def content_hash(
    module: nn.Module,
    input_shape: tuple[int, ...],
    quantization: str,
    calibration: npt.NDArray[np.float32] | None = None,
) -> str:
    """sha256 over all that decides the file: the tree of classes and their settings, code of classes that are not
    torch's own, weights and buffers, input shape, quantisation and its inputs, versions of torch and of the converters.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update("\0".join(map(str, parts)).encode() + b"\n")

    add(FORMAT, tuple(input_shape), quantization, version("torch"), version("litert-torch"))
    for name, part in module.named_modules():
        kind = type(part)
        settings = {k: v for k, v in vars(part).items() if k[0] != "_" and k not in ("key", "training")}
        add(name, kind.__module__, kind.__qualname__, sorted((k, repr(v)) for k, v in settings.items()), _code(kind))
    if quantization != "fp32":
        add(version("ai-edge-quantizer"))
    saved = module.state_dict()
    passing = {name: value for name, value in module.named_buffers() if name not in saved}  # persistent=False
    for name, value in (saved | passing).items():
        add(name, value.dtype, tuple(value.shape))
        digest.update(value.detach().cpu().contiguous().flatten().numpy().tobytes())
    if calibration is not None:
        add("calibration", calibration.shape)
        digest.update(calibration.tobytes())
    return digest.hexdigest()


def _code(kind: type) -> str:
    if kind.__module__.startswith("torch."):
        return ""  # its version is in the hash
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def version(distribution: str, otherwise: str = "absent") -> str:
    """Of what is installed; `otherwise` where it is not, or not as a distribution of this name."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return otherwise


def versions(quantization: str) -> str:
    """What makes the files, for the fingerprint of a device: another version may make other kernels of the same op."""
    names = ["litert-torch", *(["ai-edge-quantizer"] if quantization != "fp32" else [])]
    return ", ".join(f"{name} {version(name)}" for name in names)


def check_installed() -> str:
    """The converter and its version. Raises DeviceUnavailable where it is not installed."""
    if importlib.util.find_spec("litert_torch") is None:
        raise DeviceUnavailable(
            "litert-torch, which makes .tflite files of torch modules, is not installed: "
            "pip install 'metronome-nas[tflite]'"
        )
    return f"litert-torch {version('litert-torch')}"


def _frozen(module: nn.Module) -> bytes:
    """`module` as bytes for another process. Plain pickle copies the weights; torch's own queue would share memory."""
    try:
        return pickle.dumps(module)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        name = getattr(module, "key", type(module).__name__)
        raise DeviceError(f"{name}: cannot be sent to the converter ({error}); define its classes in a file") from None


class _Worker:
    """One converter process; jobs go in on its stdin as pickles, one JSON line comes back for each."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        # A session of its own: Ctrl-C reaches this process only, which then ends the worker.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "devices.convert_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self.answers = self._process.stdin, self._process.stdout
        self._path, self.deadline_s = Path(), 0.0
        _WORKERS.append(self)

    def start(
        self,
        module: bytes,
        shape: tuple[int, ...],
        quantization: str,
        path: Path,
        calibration: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Hand over a job; its answer makes `answers` readable."""
        self._path, self.deadline_s = path, time.monotonic() + LIMIT_S
        try:
            pickle.dump((module, shape, quantization, str(path), calibration), self._jobs)
            self._jobs.flush()
        except BrokenPipeError:
            pass  # it is dead: `result` reads the end of `answers` and says so

    def result(self) -> Path | DeviceError:
        """The file, or why there is none. A worker that died or overran is ended."""
        line = self.answers.readline() if time.monotonic() < self.deadline_s else b""
        if line:
            error = json.loads(line)["error"]
            return DeviceError(f"conversion to .tflite failed: {error}") if error else self._path
        late = self._process.poll() is None and time.monotonic() >= self.deadline_s
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        if not late:
            self._process.wait(10)
        self.end()
        why = f"took longer than {LIMIT_S:g} s" if late else f"ended with exit status {self._process.returncode}"
        return DeviceError(f"the converter to .tflite {why}: {' '.join(said) or 'no message'}")

    def end(self) -> None:
        """Kill the process, whatever it is at; what it has not finished is not in the cache."""
        if self in _WORKERS:
            _WORKERS.remove(self)
        self._process.kill()
        self._process.wait()
        for stream in (self._jobs, self.answers, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _answered(workers: list[_Worker]) -> list[_Worker]:
    """Wait for at least one of `workers` to have answered, died, or passed its deadline."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.answers, selectors.EVENT_READ, worker)
        while True:
            left_s = min(w.deadline_s for w in workers) - time.monotonic()
            ready = [key.data for key, _ in selector.select(max(left_s, 0))]
            if found := ready or [w for w in workers if time.monotonic() >= w.deadline_s]:
                return found


_WORKERS: list[_Worker] = []
_ONE_CALLER = threading.Lock()
atexit.register(release)
