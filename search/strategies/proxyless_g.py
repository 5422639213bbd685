"""ProxylessNAS-G: the binarised-gate gradient on two sampled paths (arXiv 1812.00332, section 3.2.1)."""

from __future__ import annotations

import torch
from torch.nn import functional

from search import gates
from search.rng import generator
from search.state import SearchState
from search.supernet import only_alpha


class ProxylessG:
    """Two candidates a block are drawn and compared; every other candidate keeps its probability."""

    def step(self, state: SearchState, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,)).

        dL/dg_j = <o_j(x), dCE/dm> + sum_c dL/dE_c F_c(o_j) for the two of a block; the softmax over the two takes it
        to alpha, for the task and the budgets alike.
        """
        supernet, alpha_LK = state.supernet, state.supernet.alpha_LK
        pair_L2 = gates.sample_pair(supernet.logits(), generator(state.seed, "pair", state.step))
        gates_L2 = torch.tensor([[1.0, 0.0]]).repeat(len(pair_L2), 1).requires_grad_()
        images, labels = batch
        supernet.train()
        with only_alpha(supernet):
            loss = functional.cross_entropy(supernet.forward_pair(images, pair_L2, gates_L2), labels)
            if loss.requires_grad:  # not where no block has a choice
                loss.backward()  # type: ignore[no-untyped-call]
        pair_L2 = pair_L2.to(alpha_LK.device)
        old_L2 = alpha_LK.detach().gather(1, pair_L2)
        budget_L2 = state.budget_gradient(float(loss.detach())).gather(1, pair_L2)
        task_L2 = torch.zeros_like(old_L2) if gates_L2.grad is None else gates_L2.grad.to(old_L2)
        grad_L2 = gates.softmax_vjp(torch.softmax(old_L2, dim=1), task_L2 + budget_L2)

        alpha_LK.grad = torch.zeros_like(alpha_LK).scatter_(1, pair_L2, grad_L2)
        state.alpha_optimizer.step()
        alpha_LK.grad = None
        with torch.no_grad():
            new_L2 = alpha_LK.gather(1, pair_L2)
            alpha_LK.scatter_(1, pair_L2, gates.keep_mass(old_L2, new_L2))
        return {"valid_loss": float(loss.detach())}


def make() -> ProxylessG:
    """The strategy; it has no state of its own."""
    return ProxylessG()
