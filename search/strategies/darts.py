"""DARTS, first order: every candidate runs, mixed by softmax(alpha) (Liu et al. 2019, arXiv 1806.09055)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from search import distributed, gates
from search.alpha import Batch, descend, latency_gradient
from search.state import SearchState
from search.supernet import only_alpha


@dataclass(frozen=True)
class Darts:
    """m(x) = sum_k p_k o_k(x), in weight steps and alpha steps alike: the memory of all candidates at once."""

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """The mixture; no gradient to alpha."""
        return state.supernet.forward_mixture(x, state.supernet.probs().detach())

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,))."""
        loss, task_LK = self.task_gradient(state, batch)
        descend(state, task_LK + gates.softmax_vjp(state.supernet.probs().detach(), latency_gradient(state, loss)))
        return {"valid_loss": loss}

    def task_gradient(self, state: SearchState, batch: Batch) -> tuple[float, torch.Tensor]:
        """(CE of the mixture, its exact gradient (L, K)): exact for the mixture, not for networks drawn from p."""
        supernet, (images, labels) = state.supernet, batch
        supernet.train()
        probs_LK = supernet.probs().detach().requires_grad_()
        with only_alpha(supernet):
            loss = functional.cross_entropy(supernet.forward_mixture(images, probs_LK), labels)
            loss.backward()  # type: ignore[no-untyped-call]
        assert probs_LK.grad is not None
        task_LK = gates.softmax_vjp(probs_LK.detach(), distributed.mean(probs_LK.grad))
        return float(distributed.mean(loss.detach())), task_LK


STRATEGY = Darts
