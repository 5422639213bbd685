"""How much memory a step takes: counted on real tensors, or on fake ones that have sizes and no bytes.

The count follows every storage that an op allocates until it is freed, through forward and backward, so it knows the
activations that autograd keeps and the peak that the temporaries on top of them make. On fake tensors a step of any
size takes a fraction of a second and no memory. What kernels allocate inside themselves (workspaces of convolutions)
is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

GIB = 2**30


def saved_bytes(forward: Callable[[], object], module: nn.Module) -> int:
    """Bytes of activations that the graph of `forward()` keeps for backward; of a whole step, the sum of its graphs.

    Counted are distinct storages among the saved tensors; the parameters and buffers of `module` are left out, since
    they are there with or without a graph.
    """
    own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holding the storages keeps their addresses from being used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    return total


@dataclass(frozen=True)
class Step:
    """Bytes of one forward and backward pass beyond what stands before it (parameters, buffers, optimiser state).

    `activations`: alive after the forward pass, the input included. `gradients`: of the parameters, after backward.
    `alive`: after each op that allocated, in order; the same moments at any batch size, so each is linear in it.
    """

    activations: int
    gradients: int
    alive: tuple[int, ...]

    @property
    def peak(self) -> int:
        """The most alive at any moment."""
        return max(self.alive, default=0)


def count_step(make_input: Callable[[], Any], forward: Callable[[Any], torch.Tensor], module: nn.Module) -> Step:
    """Run `forward(make_input())`, a scalar loss, and its backward, and count. Gradients of `module` are dropped.

    The input is made inside, so that it is counted. Under FakeTensorMode nothing is allocated or computed.
    """
    module.zero_grad(set_to_none=True)
    with _Count(module) as count:
        loss = forward(make_input())
        activations = count.alive
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    gradients = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
    module.zero_grad(set_to_none=True)
    return Step(activations, gradients, tuple(count.told))


def peak_bytes(work: Callable[[], object], module: nn.Module) -> int:
    """The most bytes alive at any moment of `work()` that ops allocated in it."""
    count = _Count(module)
    with count:
        work()
    return max(count.told, default=0)


class _Count(TorchDispatchMode):
    """`alive`: bytes of the storages that ops made, by the end of each op; `told`: after each that made one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        self.told: list[int] = []
        self._known = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.told.append(self.alive)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def nbytes(module: nn.Module) -> tuple[int, int]:
    """Bytes of the parameters and of the buffers of `module`."""
    return sum(p.nbytes for p in module.parameters()), sum(b.nbytes for b in module.buffers())
