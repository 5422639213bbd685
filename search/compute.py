"""How torch computes a step: precision, memory format, recomputed activations, compiled ops, loss scaling.

None of it is seen by supernets, strategies or loops: each op that `latency.modules.build` made gets a `forward` of its
own (names of parameters stay), so whatever runs an op, one path or all of them, runs it this way.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from devices.errors import UserError, did_you_mean
from search.augment import Augmentation
from search.data import Split
from search.loader import Loader

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class ComputeError(UserError):
    """A way of computing that this machine does not have."""


@dataclass(frozen=True)
class Compute:
    """`precision` of convolutions and products (weights, sums and losses stay fp32); `checkpoint_activations`: keep
    each op's input only and compute the op again in the backward pass; `compile`: ops through inductor."""

    precision: str = "fp32"
    channels_last: bool = False
    checkpoint_activations: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ComputeError(
                f"--precision {self.precision}: {did_you_mean(self.precision, PRECISIONS)}one of {known}"
            )
        if self.compile:
            _check_compiler()

    def changed(self) -> dict[str, Any]:
        """What is not as by default: part of a run's config, since it changes the result's last digits."""
        return {name: value for name, value in vars(self).items() if value != getattr(PLAIN, name)}


def _check_compiler() -> None:
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        raise ComputeError(f"--compile needs torch 2.13 or newer; this is {torch.__version__}")
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ComputeError(f"--compile needs a C++ compiler: there is no {compiler}; install it, or name one in CXX")


PLAIN = Compute()
COMPILE: dict[str, Any] = {"dynamic": False, "isolate_recompiles": True}


class Engine:
    """`compute` applied to one module, in place, and the backward pass and update that go with it."""

    def __init__(self, module: nn.Module, compute: Compute = PLAIN) -> None:
        """Give every op of `module` its way to run. Do so once a module, after it lies on its device."""
        self.compute = compute
        self.device = next(module.parameters()).device
        self._casting = _Casting(self.device.type, PRECISIONS[compute.precision])
        self.scaler = torch.amp.GradScaler(self.device.type) if compute.precision == "fp16" else None
        if compute.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compute != PLAIN:
            for op in ops_of(module):
                op.forward = _OpForward(op, compute, self._casting)

    def to_device(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both on the module's device; from pinned memory the copy runs beside the host's work."""
        x = images.to(self.device, non_blocking=True)
        if self.compute.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, labels.to(self.device, non_blocking=True)

    def loader(self, split: Split, size: int, seed: int, stream: str, how: Augmentation | None) -> Loader:
        """Batches of `split` for this module: on its device, in its memory format."""
        return Loader(split, size, seed, stream, how, self.device, self.to_device)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of `loss`, scaled where the scaler wants them so that fp16 does not lose the small ones."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def update(self, optimizer: torch.optim.Optimizer, clip_norm: float = 0.0) -> None:
        """One step on the gradients there are, their norm cut to `clip_norm` (0: as they are).

        With a scaler, gradients are divided by the scale first, and a step whose gradients overflowed is left out.
        """
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if clip_norm > 0:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.step(optimizer)
        self.scaler.update()

    def unscaled(self) -> AbstractContextManager[None]:
        """For gradients that no scaler looks after (alpha's): under fp16, ops run in fp32 until the block ends."""
        return self._casting.off() if self.scaler is not None else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The scaler's; empty without one."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state)


def ops_of(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that compute one op and have weights; an op inside an op goes with the outer one."""
    for child in module.children():
        if hasattr(child, "key"):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from ops_of(child)


class _Casting:
    """Which precision ops run in; one object for all ops of a module."""

    def __init__(self, device_type: str, dtype: torch.dtype | None) -> None:
        self._device_type, self._dtype = device_type, dtype

    def __call__(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self._device_type, dtype=self._dtype)

    @contextmanager
    def off(self) -> Iterator[None]:
        kept, self._dtype = self._dtype, None
        try:
            yield
        finally:
            self._dtype = kept


class _OpForward:
    """`forward` of one op. Logits leave as float32, whatever they were computed in: the loss is taken of them."""

    def __init__(self, op: nn.Module, compute: Compute, casting: _Casting) -> None:
        self._op, self._casting, self._again = op, casting, compute.checkpoint_activations
        self._plain = op.forward
        # A cache of its own for each op: all ops of a kind share one code object, whose 8 shapes would soon be used up.
        self._compiled = (
            torch.compile(self._plain, **COMPILE)
            if compute.compile and not any(isinstance(part, nn.Linear) for part in op.modules())
            else None
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not (self._again and torch.is_grad_enabled()):
            return self._run(x)
        y: torch.Tensor = checkpoint(
            self._run,
            x,
            use_reentrant=False,
            preserve_rng_state=False,  # ops draw nothing
            context_fn=lambda: (nullcontext(), _scratch_statistics(self._op)),
        )
        return y

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        with self._casting():
            compiled = self._compiled is not None and self._op.training  # evaluation has batches of other sizes
            y: torch.Tensor = (self._compile_or_say if compiled else self._plain)(x)
        return y.float() if y.ndim == 2 else y

    def _compile_or_say(self, x: torch.Tensor) -> torch.Tensor:
        assert self._compiled is not None
        try:
            y: torch.Tensor = self._compiled(x)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise ComputeError(f"--compile: inductor fails here ({str(error)[:300]}); leave --compile out") from error
        return y


@contextmanager
def _scratch_statistics(op: nn.Module) -> Iterator[None]:
    """While an op is computed again, batch norms update copies: their statistics have seen this batch already."""
    kept = []
    for norm in op.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
            kept.append((norm, dict(norm._buffers)))
            norm._buffers.update({name: b if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
