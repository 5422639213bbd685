"""What the search would find if it ended now: the network it would derive and that network's accuracy, now and then."""

from __future__ import annotations

from typing import Any

import torch

from search.alpha import Batch, evaluate
from search.derive import derive_top
from search.objective import entropies
from search.state import SearchState

GLANCES = 12  # how often in a search the network of the moment is judged; each costs about an alpha step
IMAGES = 128  # held-out images it is judged on, the same every time


def due(done: int, alpha_steps: int) -> bool:
    """Whether the network of the moment is to be judged after `done` of `alpha_steps` alpha steps."""
    return done % max(1, alpha_steps // GLANCES) == 0


def glance(state: SearchState, batch: Batch) -> dict[str, Any]:
    """The network that would be derived now: indices, predicted seconds, accuracy on `batch` with shared weights.

    Nothing that decides the search is touched: no weight, no alpha, no statistics of batch norm, no random state.
    """
    supernet = state.supernet
    with torch.no_grad():
        log_p_LK = torch.log_softmax(supernet.logits(), dim=1).cpu().numpy()
    indices = derive_top(log_p_LK, state.plan, state.floor, 1)[0].indices
    _, accuracy = evaluate(state, [indices], batch)
    return {
        "indices": list(indices),
        "predicted_s": state.plan.costs.network_s(indices),
        "accuracy": float(accuracy[0]),
    }


def snapshot(probs_LK: torch.Tensor) -> dict[str, Any]:
    """Probabilities and entropy of each block, rounded: what the report draws over time."""
    return {
        "probs": [[round(p, 4) for p in block] for block in probs_LK.tolist()],
        "entropies": [round(h, 4) for h in entropies(probs_LK).tolist()],
    }
