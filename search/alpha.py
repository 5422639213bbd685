"""What alpha steps have in common: the budgets' part of the gradient, the descent, networks judged on one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from search import distributed
from search.batchnorm import apart
from search.state import SearchState
from search.supernet import only_alpha

Batch = tuple[torch.Tensor, torch.Tensor]
PEAK = 10.0  # alpha of the network in force over the others': p = 0.9997 of 7 candidates

# A strategy's metric, 1 where a step did not use the multiplier, which then must not be moved on: it would wind up.
WITHOUT_MULTIPLIER = "without_multiplier"


def latency_gradient(state: SearchState, task_loss: float) -> torch.Tensor:
    """d(the loss's part of latency and all other budgets)/dp at the present probabilities: (L, K).

    Exact; `gates.softmax_vjp` takes it to alpha. `task_loss` is the cross-entropy of this step, for forms of the loss
    in which the two are multiplied.
    """
    return state.budget_gradient(task_loss)


def descend(state: SearchState, grad_LK: torch.Tensor) -> None:
    """One step of the alpha optimiser along `grad_LK`, the gradient of the whole loss."""
    alpha_LK = state.supernet.alpha_LK
    alpha_LK.grad = grad_LK.to(alpha_LK)
    state.alpha_optimizer.step()
    alpha_LK.grad = None


def evaluate(state: SearchState, networks: Sequence[Sequence[int]], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(cross-entropy (M,), accuracy (M,)) of `networks`, with shared weights, on one and the same batch.

    Batch norm normalises by the batch and leaves its statistics alone: those of the supernet are a mix of all paths.
    Of several processes, each judges its share of the networks on the whole batch.
    """
    images, labels = distributed.whole(*batch)
    judged_M2 = torch.zeros(len(networks), 2, dtype=torch.float64)
    state.supernet.train()
    with torch.no_grad(), only_alpha(state.supernet), apart(state.supernet):
        for index in distributed.share(range(len(networks))):
            logits = state.supernet(images, networks[index])
            judged_M2[index, 0] = functional.cross_entropy(logits, labels)
            judged_M2[index, 1] = (logits.argmax(1) == labels).double().mean()
    judged_M2 = distributed.total(judged_M2)
    return judged_M2[:, 0], judged_M2[:, 1]


def put_in_force(state: SearchState, network: Sequence[int]) -> None:
    """Write alpha so that `network` is by far the most probable: E[latency] is its latency, and derivation finds it."""
    with torch.no_grad():
        index_L1 = torch.tensor(network, device=state.supernet.alpha_LK.device)[:, None]
        state.supernet.alpha_LK.zero_().scatter_(1, index_L1, PEAK)
