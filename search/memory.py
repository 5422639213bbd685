"""How much autograd keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def saved_bytes(forward: Callable[[], torch.Tensor], module: nn.Module) -> int:
    """Bytes of activations that the graph of `forward()` keeps for backward.

    Counted are distinct storages among the saved tensors; the parameters and buffers of `module` are left out, since
    they are there with or without a graph.
    """
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holding the storages keeps their addresses from being used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    return total
