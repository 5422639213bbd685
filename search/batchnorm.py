"""Batch norm over the images of all processes: a run's result does not depend on how many processes share a batch.

torch's SyncBatchNorm needs CUDA; this one also runs on the CPU (gloo).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from search import distributed


class _Together(torch.autograd.Function):
    """y = (x - m) / sqrt(v + eps) w + b with m, v over the images of all processes, which hold equally many.

    Gradients are those of the sum of all processes' losses; of w and b only this process's part, like any weight's.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        exact = x if x.dtype == torch.float64 else x.float()
        var_C, mean_C = torch.var_mean(exact, (0, 2, 3), correction=0)
        stats_R2C = torch.stack(distributed.gather(torch.stack([mean_C, var_C]).double()))
        mean = stats_R2C[:, 0].mean(0)
        var = (stats_R2C[:, 1] + (stats_R2C[:, 0] - mean).square()).mean(0)
        mean_C, var_C = mean.to(weight.dtype), var.to(weight.dtype)
        ctx.save_for_backward(x, weight, mean_C, var_C)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean_C, var_C)
        return functional.batch_norm(x, mean_C, var_C, weight, bias, False, 0.0, eps), mean_C, var_C

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean_C, var_C = ctx.saved_tensors
        # as if m and v were constants: dx = g w / s, dw = sum g xhat, db = sum g, with s = sqrt(v + eps)
        fixed, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            grads[0].contiguous(), x, weight, mean_C, var_C, None, None, False, ctx.eps, [True, True, True]
        )
        # and through m and v: dx -= w / s (mean g + xhat mean g xhat), means over all images of all processes
        count = x.numel() // x.shape[1]
        mean_gxhat_C, mean_g_C = distributed.mean(torch.stack([dweight, dbias]).double() / count)
        inverse_C = (var_C.double() + ctx.eps).rsqrt()
        slope_C = -weight.double() * inverse_C * inverse_C * mean_gxhat_C
        shift_C = -weight.double() * inverse_C * mean_g_C - slope_C * mean_C.double()
        dx = torch.addcmul(
            fixed + shift_C.to(fixed.dtype)[:, None, None], x.to(fixed.dtype), slope_C.to(fixed.dtype)[:, None, None]
        )
        needs = ctx.needs_input_grad
        return dx, dweight if needs[1] else None, dbias if needs[2] else None, None


class BatchNormTogether(nn.BatchNorm2d):
    """nn.BatchNorm2d whose batch, in training, is that of all processes, or with `apart` its own."""

    apart = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(n, C, H, W) in and out; n must be the same in all processes."""
        if not self.training or self.apart or distributed.world() == 1:
            return super().forward(input)
        y, mean_C, var_C = _Together.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            count = input.numel() // input.shape[1] * distributed.world()
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean_C, share)
                self.running_var.lerp_(var_C * (count / (count - 1)), share)
        result: torch.Tensor = y
        return result


def together(module: nn.Module) -> None:
    """Let every batch norm of `module` see the images of all processes, in place; nothing to do for one process.

    Parameters and buffers stay the same objects, under the same names.
    """
    if distributed.world() == 1:
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                norm = BatchNormTogether(child.num_features, child.eps, child.momentum)
                norm._parameters, norm._buffers = child._parameters, child._buffers
                norm.train(child.training)
                setattr(parent, name, norm)


@contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """Batch norms of `module` see this process's images only: for work that differs between processes."""
    norms = [m for m in module.modules() if isinstance(m, BatchNormTogether)]
    before = [m.apart for m in norms]
    for m in norms:
        m.apart = True
    try:
        yield
    finally:
        for m, flag in zip(norms, before, strict=True):
            m.apart = flag


def in_step(module: nn.Module, asked: int, where: str, sync_bn: bool = True) -> int:
    """After each step: `distributed.agree` on alphas, or on the last weights of a module that has none.

    Batch norms that saw their own images only (`sync_bn` False) have their running statistics averaged.
    """
    if distributed.world() == 1:
        return asked
    if not sync_bn:
        distributed.mean_in_place(statistics(module))
    *_, last = module.parameters()
    return distributed.agree(getattr(module, "alpha_LK", last), asked, where)


def statistics(module: nn.Module) -> list[torch.Tensor]:
    """The running means and variances of all batch norms of `module`."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    return [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
