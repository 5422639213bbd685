"""ProxylessNAS as released, for comparison: `--reference`. Nothing here is used by any other run.

arXiv 1812.00332 and the authors' search code, with its default loss and its rules where they differ from ours:

- the loss is 0.2 CE (ln E / ln T)^0.3 with E and T in milliseconds ("mul#log"), or with `--loss add` that of the
  paper's equation 7, CE + lambda2 E, E in milliseconds; E is over the two sampled candidates;
- a block whose active candidate is Zero learns nothing in that step, from the task or from the latency;
- the network is the argmax of every block, whatever it takes.

The two paths of section 3.2.1 are used; the schedule and the rates are those of the run, so that a comparison shows
the rules alone. mul#log depends on the unit, hence the limits in `require_milliseconds`. `--strategy proxyless-r`:
search.reference_r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from devices.errors import UserError
from latency.console import ms
from latency.ops import Zero
from latency.space import SearchSpace
from search import distributed, gates
from search.alpha import descend
from search.objective import LossForm, WithoutMultipliers, expected_latency_s
from search.paths import along_sampled
from search.reference_r import ReferenceR
from search.rng import generator
from search.state import SearchState
from search.strategies import Strategy
from search.supernet import only_alpha
from search.targets import Plan

ALPHA, BETA = 0.2, 0.3  # --grad_reg_loss_alpha, --grad_reg_loss_beta


@dataclass(frozen=True)
class PaperLoss(WithoutMultipliers):
    """0.2 CE (ln E / ln T)^0.3, E and T in milliseconds."""

    target_s: float

    def factor(self, expected_s: float) -> float:
        """dL/dCE = 0.2 (ln E / ln T)^0.3."""
        return float(ALPHA * (math.log(expected_s * 1e3) / math.log(self.target_s * 1e3)) ** BETA)

    def slopes(self, task_loss: float, expected_C: Sequence[float]) -> list[float]:
        """(dL/dE) / (dL/dCE) = CE 0.3 / (E ln E), E in ms inside the logarithm and in seconds outside."""
        (expected_s,) = expected_C
        return [task_loss * BETA / (expected_s * math.log(expected_s * 1e3))]


@dataclass(frozen=True)
class PaperSum(WithoutMultipliers):
    """CE + lambda2 E, E in milliseconds (equation 7; its lambda1 |w|^2 is the weight decay of the weight steps)."""

    lambda2: float

    def factor(self, expected_s: float) -> float:
        """dL/dCE."""
        return 1.0

    def slopes(self, task_loss: float, expected_C: Sequence[float]) -> list[float]:
        """(dL/dE) / (dL/dCE): lambda2 a millisecond, told per second."""
        return [self.lambda2 * 1e3]


class Reference:
    """The alpha step of the released code with `grad_binary_mode = two`."""

    def __init__(self, space: SearchSpace) -> None:
        self.zeros = [[isinstance(op, Zero) for op in choice.candidates] for choice in space.choices]

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A path sampled from alpha."""
        return along_sampled(state, x)

    def step(self, state: SearchState, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,))."""
        supernet, alpha_LK, loss_form = state.supernet, state.supernet.alpha_LK, state.loss
        assert isinstance(loss_form, (PaperLoss, PaperSum))
        pair_L2 = gates.sample_pair(supernet.logits(), generator(state.seed, "pair", state.step))
        gates_L2 = torch.tensor([[1.0, 0.0]]).repeat(len(pair_L2), 1).requires_grad_()
        images, labels = batch
        supernet.train()
        with only_alpha(supernet):
            loss = functional.cross_entropy(supernet.forward_pair(images, pair_L2, gates_L2), labels)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        value = float(distributed.mean(loss.detach()))
        learns_L1 = torch.tensor([[not self.zeros[block][i]] for block, i in enumerate(pair_L2[:, 0].tolist())])
        pair_L2, learns_L1 = pair_L2.to(alpha_LK.device), learns_L1.to(alpha_LK.device)
        old_L2 = alpha_LK.detach().gather(1, pair_L2)
        probs_L2, cost_L2 = torch.softmax(old_L2, dim=1), state.cost_CLK[0].gather(1, pair_L2)
        single_L1 = pair_L2[:, :1] == pair_L2[:, 1:]  # a block without a choice: its one candidate counts once
        expected_s = float(expected_latency_s(torch.where(single_L1, 0.5, probs_L2), cost_L2, state.fixed_C[0]))
        factor = loss_form.factor(expected_s)
        slope = factor * loss_form.slopes(value, [expected_s])[0]
        task_L2 = torch.zeros_like(old_L2) if gates_L2.grad is None else distributed.mean(gates_L2.grad).to(old_L2)
        grad_L2 = gates.softmax_vjp(probs_L2, factor * task_L2 + slope * cost_L2) * learns_L1

        descend(state, torch.zeros_like(alpha_LK).scatter_(1, pair_L2, grad_L2))
        with torch.no_grad():
            new_L2 = alpha_LK.gather(1, pair_L2)
            alpha_LK.scatter_(1, pair_L2, torch.where(learns_L1, gates.keep_mass(old_L2, new_L2), new_L2))
        return {"valid_loss": value}


def papers(space: SearchSpace, plan: Plan, by_reward: bool, lambda2: float | None) -> tuple[Strategy, LossForm]:
    """The paper's alpha step and loss: REINFORCE if `by_reward`, else CE + lambda2 E where there is one, else mul#log.

    Raises UserError where the loss is not a number, or there are budgets it knows nothing of.
    """
    if len(plan.budgets) > 1:
        raise UserError("--reference: the paper's loss has one latency target; leave the other budgets out")
    if by_reward:
        return ReferenceR(), PaperSum(0.0)  # a loss that is only told: the latency is in the reward
    if lambda2 is not None:
        return Reference(space), PaperSum(lambda2)
    require_milliseconds(plan)
    return Reference(space), PaperLoss(plan.target_s)


def require_milliseconds(plan: Plan) -> None:
    """Raise UserError where the paper's loss is not a number: it takes logarithms of milliseconds."""
    fastest_s = plan.costs.network_s(plan.costs.fastest)
    if min(fastest_s, plan.target_s) <= 1e-3:
        raise UserError(
            f"--reference: the paper's loss takes the logarithm of milliseconds, which must be above 1; the target is "
            f"{ms(plan.target_s)}, the fastest network takes {ms(fastest_s)}. --loss mul-log is free of units"
        )
