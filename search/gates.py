"""Gates: which candidate of each block runs, and what the loss says about alpha.

arXiv 1812.00332, section 3.2. Shapes: L blocks, K candidates (the most of any block); `valid_LK` is False where a
block has fewer. Everything here is a pure function of its arguments; logits are float64, so that a step leaves the
probabilities of unsampled candidates as they were to 1e-15.
"""

from __future__ import annotations

from typing import Any

import torch


def masked_logits(alpha_LK: torch.Tensor, valid_LK: torch.Tensor) -> torch.Tensor:
    """`alpha_LK` with -inf where there is no candidate."""
    return alpha_LK.masked_fill(~valid_LK, float("-inf"))


def probabilities(alpha_LK: torch.Tensor, valid_LK: torch.Tensor) -> torch.Tensor:
    """p = softmax(alpha) over the candidates of each block (L, K); 0 where there is none.  # eq. 2"""
    return torch.softmax(masked_logits(alpha_LK, valid_LK), dim=1)


def _gumbel_scores(logits_LK: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    uniform = torch.rand(logits_LK.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return logits_LK.detach().cpu().double() - torch.log(-torch.log(uniform))


def sample_path(logits_LK: torch.Tensor, generator: torch.Generator) -> list[int]:
    """One candidate a block, drawn from softmax(logits): L indices (Gumbel-max).  # eq. 2, one-hot gate g"""
    path: list[int] = _gumbel_scores(logits_LK, generator).argmax(dim=1).tolist()
    return path


def sample_pair(logits_LK: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Two candidates a block, drawn from softmax(logits) without replacement; (L, 2), the active one first.

    The active one is then drawn from the softmax over the two (section 3.2.1). The two largest Gumbel scores are
    such a draw. A block with a single candidate has it twice.
    """
    scores_LK = _gumbel_scores(logits_LK, generator)
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


def keep_mass(alpha_old_L2: torch.Tensor, alpha_new_L2: torch.Tensor) -> torch.Tensor:
    """`alpha_new_L2` shifted, both alike, so that exp(a) + exp(b) is what it was: (L, 2).

    The softmax's denominator is then unchanged, and with it every probability outside the pair (section 3.2.1).
    """
    shift_L1 = torch.logsumexp(alpha_old_L2, 1, keepdim=True) - torch.logsumexp(alpha_new_L2, 1, keepdim=True)
    return alpha_new_L2 + shift_L1


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
        grad_gates_2 = torch.stack([(active * grad).sum(), (inactive * grad).sum()]).to(dtype=dtype, device=device)
        return grad if ctx.needs_input_grad[0] else None, None, grad_gates_2


def pair_gate(active: torch.Tensor, inactive: torch.Tensor, gates_2: torch.Tensor) -> torch.Tensor:
    """`active` (any shape) as the block's output m; backward gives `gates_2.grad[j] = <o_j, dL/dm>`."""
    result: torch.Tensor = _PairGate.apply(active, inactive, gates_2)  # type: ignore[no-untyped-call]
    return result
