"""The budgets' part of the loss: E[latency], the forms of the loss, and the multipliers that make one search meet its
target. Pure functions and frozen values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch

LOSSES = ("dual", "add", "mul-log")
LAMBDA2 = 0.1  # released code of arXiv 1812.00332, add#linear
LOG_BETA, LOG_REFERENCE = 0.3, 80.0  # its mul#log: exponent, and the target in ms that it was tuned for
MIN_BASE = 0.05


def expected_latency_s(probs_LK: torch.Tensor, cost_LK: torch.Tensor, fixed_s: float | torch.Tensor) -> torch.Tensor:
    """E[latency] = fixed + sum_l sum_k p_lk F(o_lk), seconds; scalar, differentiable (arXiv 1812.00332, eq. 6).

    `cost_LK` must be finite everywhere; candidates that do not exist have p = 0.
    """
    expected_s: torch.Tensor = torch.einsum("lk,lk->", probs_LK, cost_LK) + fixed_s
    return expected_s


def expected_costs(probs_LK: torch.Tensor, cost_CLK: torch.Tensor, fixed_C: torch.Tensor) -> torch.Tensor:
    """The same of C budgets at once: (C,), each in its own unit."""
    expected_C: torch.Tensor = torch.einsum("lk,clk->c", probs_LK, cost_CLK) + fixed_C
    return expected_C


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
    goes below zero where the network would otherwise come out faster than it needs to be. Where `equality` is False
    the constraint is E <= T: neither lambda nor the force is ever below zero, and both are zero where E stays below T.
    """

    rate: float
    damping: float
    equality: bool = True
    value: float = 0.0

    def multiplier(self, expected: float, limit: float) -> float:
        """The factor of (E/T - 1) whose gradient is that of lambda v + damping/2 v^2 at the present E."""
        return self._signed(self.value + self.damping * (expected / limit - 1))

    def step(self, expected: float, limit: float) -> DualAscent:
        """lambda += rate * (E/T - 1)."""
        return replace(self, value=self._signed(self.value + self.rate * (expected / limit - 1)))

    def _signed(self, force: float) -> float:
        return force if self.equality else max(0.0, force)


class LossForm(Protocol):
    """How budgets enter the loss of alpha: a loss L(CE, E_1 .. E_C) of the cross-entropy and the expected costs.

    A strategy needs one thing of it: the derivatives dL/dE_c in units of dL/dCE. The common factor that this leaves
    out changes nothing where Adam scales the gradient.
    """

    def slopes(self, task_loss: float, expected_C: Sequence[float]) -> list[float]:
        """(dL/dE_c) / (dL/dCE) at the present cross-entropy and expected costs."""
        ...

    def step(self, expected_C: Sequence[float]) -> LossForm:
        """After an alpha step: multipliers follow the expected costs that it led to."""
        ...

    @property
    def values(self) -> list[float]:
        """The multipliers that are learned; empty where there are none."""
        ...

    def with_values(self, values: Sequence[float]) -> LossForm:
        """With the multipliers of a checkpoint."""
        ...


@dataclass(frozen=True)
class DualLoss:
    """CE + sum_c lambda_c (E_c/T_c - 1) + damping/2 (.)^2, one multiplier a budget, each moved by its own error."""

    limits_C: tuple[float, ...]
    duals_C: tuple[DualAscent, ...]

    def slopes(self, task_loss: float, expected_C: Sequence[float]) -> list[float]:
        """multiplier_c / T_c; does not depend on the cross-entropy."""
        return [d.multiplier(e, t) / t for d, e, t in zip(self.duals_C, expected_C, self.limits_C, strict=True)]

    def step(self, expected_C: Sequence[float]) -> DualLoss:
        """Gradient ascent in every lambda."""
        moved = (d.step(e, t) for d, e, t in zip(self.duals_C, expected_C, self.limits_C, strict=True))
        return replace(self, duals_C=tuple(moved))

    @property
    def values(self) -> list[float]:
        """The lambdas."""
        return [dual.value for dual in self.duals_C]

    def with_values(self, values: Sequence[float]) -> DualLoss:
        """With these lambdas."""
        pairs = zip(self.duals_C, values, strict=True)
        return replace(self, duals_C=tuple(replace(dual, value=float(value)) for dual, value in pairs))


class WithoutMultipliers:
    """What a loss form is where nothing is learned from step to step."""

    def step(self, expected_C: Sequence[float]) -> Self:
        """Nothing is learned."""
        return self

    @property
    def values(self) -> list[float]:
        """None."""
        return []

    def with_values(self, values: Sequence[float]) -> Self:
        """Nothing to restore."""
        return self


@dataclass(frozen=True)
class FixedLoss(WithoutMultipliers):
    """A loss without multipliers: what a network of T costs follows from its coefficient, and misses T as it may.

    `add`: CE + lambda2 sum_c E_c/T_c, the paper's loss with E in units of the limit.
    `mul-log`: CE prod_c (1 + ln(E_c/T_c) / ln 80)^0.3. The released code's 0.2 CE (ln E / ln T)^0.3 in milliseconds
    equals it, but for the factor 0.2, at the T = 80 ms it was made for, since ln E / ln T = 1 + ln(E/T) / ln T; here
    80 is a constant, so that no unit enters. Below T/80, where the base is no longer positive, it counts as MIN_BASE.
    """

    kind: Literal["add", "mul-log"]
    limits_C: tuple[float, ...]
    lambda2: float = LAMBDA2

    def slopes(self, task_loss: float, expected_C: Sequence[float]) -> list[float]:
        """`add`: lambda2/T. `mul-log`: CE beta / (ln 80 (1 + ln(E/T) / ln 80) E), the logarithmic derivative."""
        pairs = zip(expected_C, self.limits_C, strict=True)
        if self.kind == "add":
            return [self.lambda2 / limit for _, limit in pairs]
        span = math.log(LOG_REFERENCE)
        bases = [max(MIN_BASE, 1 + math.log(max(e / t, 1e-300)) / span) for e, t in pairs]
        return [task_loss * LOG_BETA / (span * b * max(e, 1e-300)) for b, e in zip(bases, expected_C, strict=True)]


def make_loss(
    kind: str, limits_C: Sequence[float], held: int | None, *, rate: float, damping: float, lambda2: float = LAMBDA2
) -> LossForm:
    """The loss of `--loss kind` for budgets of these limits. `held`: the one that is to be met with equality."""
    limits = tuple(limits_C)
    if kind == "dual":
        return DualLoss(limits, tuple(DualAscent(rate, damping, c == held) for c in range(len(limits))))
    assert kind in ("add", "mul-log"), kind
    return FixedLoss(kind, limits, lambda2)  # type: ignore[arg-type]


def power_reward(accuracy: torch.Tensor, latency_s: torch.Tensor, target_s: float, power: float) -> torch.Tensor:
    """acc (T / LAT)^power of each network (arXiv 1812.00332, section 3.3, after MnasNet)."""
    return accuracy * (target_s / latency_s) ** power


def absolute_reward(accuracy: torch.Tensor, latency_s: torch.Tensor, target_s: float, beta: float) -> torch.Tensor:
    """acc + beta |LAT/T - 1| of each network, beta below 0 (TuNAS, arXiv 2008.06120, eq. 1)."""
    return accuracy + beta * (latency_s / target_s - 1).abs()
