"""The latency term: E[latency], the loss, and the multiplier that makes one search meet its target. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def expected_latency_s(probs_LK: torch.Tensor, cost_LK: torch.Tensor, fixed_s: float | torch.Tensor) -> torch.Tensor:
    """E[latency] = fixed + sum_l sum_k p_lk F(o_lk), seconds; scalar, differentiable (arXiv 1812.00332, eq. 6).

    `cost_LK` must be finite everywhere; candidates that do not exist have p = 0.
    """
    expected_s: torch.Tensor = torch.einsum("lk,lk->", probs_LK, cost_LK) + fixed_s
    return expected_s


def latency_loss(expected_s: torch.Tensor, target_s: float, multiplier: float) -> torch.Tensor:
    """multiplier * (E/T - 1): the term added to the cross-entropy. A ratio, so the unit does not matter."""
    return multiplier * (expected_s / target_s - 1)


def entropies(probs_LK: torch.Tensor) -> torch.Tensor:
    """Entropy of each block's distribution in nats: (L,)."""
    each: torch.Tensor = -torch.special.xlogy(probs_LK, probs_LK).sum(1)
    return each


def entropy(probs_LK: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the blocks' distributions in nats; scalar."""
    return entropies(probs_LK).mean()


@dataclass(frozen=True)
class DualAscent:
    """lambda for the equality E = T: gradient ascent on the Lagrangian (LightNAS, Luo et al. 2022).

    The loss is CE + lambda v + damping/2 v^2 with v = E/T - 1, so the force on E is `multiplier` = lambda + damping v;
    the quadratic term (MDMM, Platt and Barr 1987) keeps lambda and E from chasing each other in circles. lambda
    goes below zero where the network would otherwise come out faster than it needs to be. Where `binding` is False,
    because even the slowest network meets the target, there is nothing to enforce and lambda stays 0.
    """

    rate: float
    damping: float
    binding: bool = True
    value: float = 0.0

    def multiplier(self, expected_s: float, target_s: float) -> float:
        """The factor of (E/T - 1) whose gradient is that of lambda v + damping/2 v^2 at the present E."""
        return self.value + self.damping * (expected_s / target_s - 1) if self.binding else 0.0

    def step(self, expected_s: float, target_s: float) -> DualAscent:
        """lambda += rate * (E/T - 1)."""
        value = self.value + self.rate * (expected_s / target_s - 1) if self.binding else 0.0
        return DualAscent(self.rate, self.damping, self.binding, value)


def power_reward(accuracy: torch.Tensor, latency_s: torch.Tensor, target_s: float, power: float) -> torch.Tensor:
    """acc (T / LAT)^power of each network (arXiv 1812.00332, section 3.3, after MnasNet)."""
    return accuracy * (target_s / latency_s) ** power


def absolute_reward(accuracy: torch.Tensor, latency_s: torch.Tensor, target_s: float, beta: float) -> torch.Tensor:
    """acc + beta |LAT/T - 1| of each network, beta below 0 (TuNAS, arXiv 2008.06120, eq. 1)."""
    return accuracy + beta * (latency_s / target_s - 1).abs()
