"""ReLU6 that keeps its output for the backward pass instead of its input: the same numbers in a third less memory.

torch's ReLU6 keeps its input, the output of a batch norm, which nobody else needs; its output is kept in any case, as
the input of the next convolution. A layer of conv, norm and activation thus keeps two maps instead of three. In place,
torch keeps a copy of the input, so that does not help (torch 2.13; ReLU, in contrast, keeps its output already).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.jit._trace import is_tracing
from torch.nn import functional


class _FromOutput(torch.autograd.Function):
    """y = min(max(x, 0), 6). The gradient passes where 0 < x < 6, which is where 0 < y < 6."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        grad: torch.Tensor = torch.ops.aten.hardtanh_backward(grads[0], y, 0.0, 6.0)
        return grad


class LeanReLU6(nn.ReLU6):
    """ReLU6 to the bit, forward and backward. Without a graph, and in an export, it is torch's own op."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Any shape in, the same shape out."""
        if not (torch.is_grad_enabled() and input.requires_grad) or is_tracing():  # type: ignore[no-untyped-call]
            return functional.relu6(input)
        y: torch.Tensor = _FromOutput.apply(input)  # type: ignore[no-untyped-call]
        return y


def lean(module: nn.Module, on: bool = True) -> nn.Module:
    """Make every ReLU6 in `module` lean, or, with `on` False, torch's again; in place. Names of parameters stay."""
    there, made = (nn.ReLU6, LeanReLU6) if on else (LeanReLU6, nn.ReLU6)
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is there:
                setattr(parent, name, made())
    return module
