"""Controllers without a supernet: they propose networks and learn from their rewards. Pure functions.

Strategies use them on shared weights, benchmarks/controllers.py on a table of trained networks. A network is a tuple of
L candidate indices. Rewards are better when greater.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Network = tuple[int, ...]


def reinforce_gradient(
    logits_LK: torch.Tensor, networks: Sequence[Sequence[int]], reward_M: torch.Tensor
) -> torch.Tensor:
    """d(-E[R])/d logits, estimated from M >= 2 networks drawn from softmax(logits): (L, K), float64.

    -1/M sum_i (R_i - b_i) (onehot(g_i) - p), with b_i the mean of the other rewards (RLOO, Kool et al. 2019): unbiased,
    since b_i does not depend on g_i, and the part of p drops out, since the R_i - b_i add up to 0. So it is unbiased
    also for networks drawn from p *given that they fit a budget*, without knowing how probable that is.
    """
    m = len(networks)
    assert m >= 2, "leave-one-out needs two networks"
    advantage_M = (reward_M - reward_M.mean()) * m / (m - 1)  # R_i - mean of the others
    grad_LK = torch.zeros(logits_LK.shape, dtype=torch.float64)
    for network, advantage in zip(networks, advantage_M.tolist(), strict=True):
        grad_LK[torch.arange(len(network)), torch.tensor(network)] -= advantage / m
    return grad_LK
