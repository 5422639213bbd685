"""Gates: which candidate of each block runs, and what the loss says about alpha.

arXiv 1812.00332, section 3.2. Shapes: L blocks, K candidates (the most of any block); `valid_LK` is False where a
block has fewer. Everything here is a pure function of its arguments; logits are float64, so that a step leaves the
probabilities of unsampled candidates as they were to 1e-15.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from search.rng import generator as make_generator


def masked_logits(alpha_LK: torch.Tensor, valid_LK: torch.Tensor) -> torch.Tensor:
    """`alpha_LK` with -inf where there is no candidate."""
    return alpha_LK.masked_fill(~valid_LK, float("-inf"))


def probabilities(alpha_LK: torch.Tensor, valid_LK: torch.Tensor) -> torch.Tensor:
    """p = softmax(alpha) over the candidates of each block (L, K); 0 where there is none.  # eq. 2"""
    return torch.softmax(masked_logits(alpha_LK, valid_LK), dim=1)


def gumbel_scores(logits_LK: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """logits + Gumbel noise, (L, K) float64 on the CPU: its argmax is a draw from softmax(logits)."""
    uniform = torch.rand(logits_LK.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return logits_LK.detach().cpu().double() - torch.log(-torch.log(uniform))


def sample_path(logits_LK: torch.Tensor, generator: torch.Generator) -> list[int]:
    """One candidate a block, drawn from softmax(logits): L indices (Gumbel-max).  # eq. 2, one-hot gate g"""
    path: list[int] = gumbel_scores(logits_LK, generator).argmax(dim=1).tolist()
    return path


def fair_path(candidates: Sequence[int], seed: int, step: int) -> list[int]:
    """Uniform paths without repetition: in every K steps each of a block's K candidates is trained once.

    Strict fairness (FairNAS, arXiv 1907.01845): no candidate enters the search better trained by luck of the draw.
    """
    path = []
    for block, count in enumerate(candidates):
        cycle, position = divmod(step, count)
        order = torch.randperm(count, generator=make_generator(seed, "fair", block, cycle))
        path.append(int(order[position]))
    return path


def sample_pair(logits_LK: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Two candidates a block, drawn from softmax(logits) without replacement; (L, 2), the active one first.

    The active one is then drawn from the softmax over the two (section 3.2.1). The two largest Gumbel scores are
    such a draw. A block with a single candidate has it twice.
    """
    scores_LK = gumbel_scores(logits_LK, generator)
    if logits_LK.shape[1] == 1:
        return torch.zeros(len(logits_LK), 2, dtype=torch.long)
    top_L2 = scores_LK.topk(2, dim=1)
    pair_L2 = torch.where(top_L2.values.isneginf(), top_L2.indices[:, :1], top_L2.indices)
    probs_L2 = torch.softmax(logits_LK.detach().cpu().double().gather(1, pair_L2), dim=1)
    second_L1 = torch.rand(len(pair_L2), 1, generator=generator, dtype=torch.float64) >= probs_L2[:, :1]
    return torch.where(second_L1, pair_L2.flip(1), pair_L2)


def softmax_vjp(probs: torch.Tensor, grad_gates: torch.Tensor) -> torch.Tensor:
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) = p_i (d_i - sum_j p_j d_j), along the last axis.  # eq. 4

    Adding a constant to every dL/dg_j of a block changes nothing: what all candidates share, such as the shortcut's
    <x, dL/dm>, drops out. Zero has d = <0, dL/dm> = 0 and takes part like any other candidate.
    """
    return probs * (grad_gates - (probs * grad_gates).sum(dim=-1, keepdim=True))


def reinmax_vjp(probs: torch.Tensor, sampled: torch.Tensor, grad_gates: torch.Tensor) -> torch.Tensor:
    """2 J(pi_1) g - 1/2 J(pi_0) g, with pi_0 = probs, pi_1 = (pi_0 + D) / 2, D = `sampled` (one-hot), g = dL/dg.

    The second-order straight-through estimator (ReinMax, Liu et al. 2023, arXiv 2304.08612, algorithm 2): exact to the
    second order of L where `softmax_vjp`, which is straight-through, is to the first. J is `softmax_vjp`'s.
    """
    middle = (probs + sampled) / 2
    return 2 * softmax_vjp(middle, grad_gates) - softmax_vjp(probs, grad_gates) / 2


def keep_mass(alpha_old_L2: torch.Tensor, alpha_new_L2: torch.Tensor) -> torch.Tensor:
    """`alpha_new_L2` shifted, both alike, so that exp(a) + exp(b) is what it was: (L, 2).

    The softmax's denominator is then unchanged, and with it every probability outside the pair (section 3.2.1).
    """
    shift_L1 = torch.logsumexp(alpha_old_L2, 1, keepdim=True) - torch.logsumexp(alpha_new_L2, 1, keepdim=True)
    return alpha_new_L2 + shift_L1


def _dot(output: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """<o, dL/dm>, added up in at least float32 also where autocast made o and dL/dm half as wide."""
    return torch.sum(output * grad, dtype=torch.promote_types(grad.dtype, torch.float32))


class _PairGate(torch.autograd.Function):
    """m = g_0 o_active + g_1 o_inactive at g = (1, 0), without computing the sum.

    The output shares storage with `active`, so the graph holds only `inactive` beyond what the path alone holds.
    """

    @staticmethod
    def forward(ctx: Any, active: torch.Tensor, inactive: torch.Tensor, gates_2: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(active, inactive)
        ctx.gates_like = gates_2.dtype, gates_2.device
        return active.view_as(active)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor]:
        (grad,) = grads
        active, inactive = ctx.saved_tensors
        dtype, device = ctx.gates_like
        # dL/dg_j = <o_j(x), dL/dm>
        grad_gates_2 = torch.stack([_dot(active, grad), _dot(inactive, grad)]).to(dtype=dtype, device=device)
        return grad if ctx.needs_input_grad[0] else None, None, grad_gates_2


def pair_gate(active: torch.Tensor, inactive: torch.Tensor, gates_2: torch.Tensor) -> torch.Tensor:
    """`active` (any shape) as the block's output m; backward gives `gates_2.grad[j] = <o_j, dL/dm>`."""
    result: torch.Tensor = _PairGate.apply(active, inactive, gates_2)  # type: ignore[no-untyped-call]
    return result


def _autocast_like_now(device: str) -> AbstractContextManager[Any]:
    """The autocast of this moment, to be entered later: backward runs outside of it."""
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, torch.get_autocast_dtype(device) if on else None, enabled=on)


class _FullGate(torch.autograd.Function):
    """m = sum_k g_k o_k(x) at g = one-hot(active), computing the others only in backward, one at a time.

    Saved are `active` and `x`, which the path's own layers keep anyway: about one path of activations whatever K
    (released code of arXiv 1812.00332, `full_v2`).
    """

    @staticmethod
    def forward(
        ctx: Any, active: torch.Tensor, x: torch.Tensor, gates_K: torch.Tensor, candidates: nn.ModuleList, index: int
    ) -> torch.Tensor:
        ctx.save_for_backward(active, x)
        ctx.gates_like = gates_K.shape, gates_K.dtype, gates_K.device
        ctx.candidates, ctx.index = candidates, index
        ctx.autocast = _autocast_like_now(x.device.type)
        return active.view_as(active)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor, None, None]:
        (grad,) = grads
        active, x = ctx.saved_tensors
        shape, dtype, device = ctx.gates_like
        grad_gates_K = torch.zeros(shape, dtype=dtype, device=device)
        with torch.no_grad(), ctx.autocast:
            for k, candidate in enumerate(ctx.candidates):
                grad_gates_K[k] = _dot(active if k == ctx.index else candidate(x), grad)  # dL/dg_k = <o_k(x), dL/dm>
        return grad if ctx.needs_input_grad[0] else None, None, grad_gates_K, None, None


def full_gate(
    active: torch.Tensor, x: torch.Tensor, gates_K: torch.Tensor, candidates: nn.ModuleList, index: int
) -> torch.Tensor:
    """`active` = candidates[index](x) as the block's output m; backward gives `gates_K.grad[k] = <o_k(x), dL/dm>`.

    Backward runs every other candidate on `x`, so whatever must hold while they run (batch norm that leaves its
    statistics alone) must hold around `backward()` too. Where there are fewer candidates than gates the rest get 0.
    """
    result: torch.Tensor = _FullGate.apply(active, x, gates_K, candidates, index)  # type: ignore[no-untyped-call]
    return result
