"""What a search is at any moment: the supernet, its optimisers, the multiplier and the step. Nothing else is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from latency.space import SearchSpace
from search.costs import Costs
from search.derive import FLOOR
from search.objective import LAMBDA2, DualLoss, LossForm, expected_costs, make_loss
from search.outset import outset
from search.recipe import Recipe
from search.rng import generator, seeded
from search.supernet import Supernet
from search.targets import Plan, one_target


@dataclass
class SearchState:
    """Mutable; `step` counts weight updates from the first of the warm-up, of which there are `warmup_steps`.

    `cost_CLK` and `fixed_C` are what candidates, and all networks, cost of each budget: float64, C budgets.
    `memory` is what the strategy remembers: tensors, numbers, texts and lists or dicts of them. `floor` is the share of
    the target that the derived network should at least use.
    """

    supernet: Supernet
    weight_optimizer: torch.optim.SGD
    alpha_optimizer: torch.optim.Adam
    loss: LossForm
    plan: Plan
    seed: int
    cost_CLK: torch.Tensor
    fixed_C: torch.Tensor
    step: int = 0
    warmup_steps: int = 0
    search_steps: int = 1
    floor: float = FLOOR
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def target_s(self) -> float:
        """The latency target."""
        return self.plan.target_s

    @property
    def progress(self) -> float:
        """The share of the search, warm-up left out, that is behind: 0 to 1."""
        return min(1.0, max(0.0, (self.step - self.warmup_steps) / self.search_steps))

    def expected_C(self) -> list[float]:
        """The expected cost of each budget under softmax(alpha); the first is E[latency] in seconds."""
        expected: list[float] = expected_costs(self.supernet.probs().detach(), self.cost_CLK, self.fixed_C).tolist()
        return expected

    def budget_gradient(self, task_loss: float) -> torch.Tensor:
        """dL/dp of the budgets' part of the loss in the coming alpha step, beside a gradient of dCE/dp: (L, K).

        E is linear in p, so this holds for any p of the block's candidates: `gates.softmax_vjp` takes it to alpha.
        `task_loss` is the cross-entropy of the step, on which some forms of the loss depend.
        """
        slopes_C = self.loss.slopes(task_loss, self.expected_C())
        gradient_LK: torch.Tensor = torch.einsum("c,clk->lk", self.cost_CLK.new_tensor(slopes_C), self.cost_CLK)
        return gradient_LK

    def multiplier(self, task_loss: float = 1.0) -> float:
        """The factor of (E/T - 1), for the target, in the loss of the coming alpha step."""
        return self.loss.slopes(task_loss, self.expected_C())[0] * self.target_s

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed search needs: tensors and numbers."""
        return {
            "step": self.step,
            "lambda": self.loss.values,
            "supernet": self.supernet.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "memory": dict(self.memory),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises KeyError or RuntimeError where it belongs to another space."""
        self.supernet.load_state_dict(state["supernet"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.loss = self.loss.with_values(state["lambda"])
        self.memory = dict(state.get("memory", {}))  # checkpoints of before there was one have none
        self.step = int(state["step"])


def start(
    space: SearchSpace,
    costs: Costs,
    *,
    num_classes: int,
    target_s: float,
    recipe: Recipe,
    seed: int,
    device: str = "cpu",
    floor: float = FLOOR,
    plan: Plan | None = None,
    loss: LossForm | None = None,
) -> SearchState:
    """A search at step 0; its weights and alphas are a function of `seed`.

    `plan` has all budgets where there are more than `target_s`; `loss` is dual ascent where it is not given, and with
    it alpha begins on the budgets (`search.outset`); with others, as in the paper, at no candidate in particular.
    """
    plan = plan or one_target(costs, target_s)
    loss = loss or loss_of(plan, recipe)
    with seeded(seed, "supernet weights"):
        supernet = Supernet(space, costs, num_classes, generator(seed, "alpha"))
    if isinstance(loss, DualLoss):
        with torch.no_grad():
            log_p_LK = torch.from_numpy(outset(plan))
            supernet.alpha_LK.add_(log_p_LK.masked_fill(~supernet.valid_LK, 0.0))
    supernet.to(device)
    alpha_optimizer = torch.optim.Adam([supernet.alpha_LK], lr=recipe.alpha_lr, betas=(0.0, 0.999), weight_decay=0.0)
    return SearchState(
        supernet,
        sgd(supernet, recipe, skip=("alpha_LK",)),
        alpha_optimizer,
        loss,
        plan,
        seed,
        torch.stack([torch.from_numpy(budget.costs.cost_LK.copy()) for budget in plan.budgets]).to(device),
        torch.tensor([budget.costs.fixed_s for budget in plan.budgets], dtype=torch.float64, device=device),
        warmup_steps=recipe.warmup_steps,
        search_steps=recipe.search_steps,
        floor=floor,
    )


def loss_of(plan: Plan, recipe: Recipe, kind: str = "dual", lambda2: float = LAMBDA2) -> LossForm:
    """The form of the loss that `--loss kind` asks for, under the budgets of `plan`."""
    limits = [budget.limit for budget in plan.budgets]
    return make_loss(kind, limits, plan.held, rate=recipe.dual_rate, damping=recipe.dual_damping, lambda2=lambda2)


def sgd(module: nn.Module, recipe: Recipe, skip: tuple[str, ...] = ()) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay only on what has more than one dimension: no batch norm, no bias."""
    named = [(name, p) for name, p in module.named_parameters() if name not in skip]
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.search_lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
