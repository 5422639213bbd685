"""What a search is at any moment: the supernet, its optimisers, the multiplier and the step. Nothing else is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from latency.space import SearchSpace
from search.costs import Costs
from search.derive import FLOOR
from search.objective import DualAscent
from search.recipe import Recipe
from search.rng import generator, seeded
from search.supernet import Supernet


@dataclass
class SearchState:
    """Mutable; `step` counts weight updates from the first of the warm-up, of which there are `warmup_steps`.

    `memory` is what the strategy remembers: tensors, numbers, texts and lists or dicts of them. `floor` is the share of
    the target that the derived network should at least use.
    """

    supernet: Supernet
    weight_optimizer: torch.optim.SGD
    alpha_optimizer: torch.optim.Adam
    dual: DualAscent
    target_s: float
    seed: int
    step: int = 0
    warmup_steps: int = 0
    search_steps: int = 1
    floor: float = FLOOR
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """The share of the search, warm-up left out, that is behind: 0 to 1."""
        return min(1.0, max(0.0, (self.step - self.warmup_steps) / self.search_steps))

    def multiplier(self) -> float:
        """The factor of (E/T - 1) in the loss of the coming alpha step."""
        return self.dual.multiplier(float(self.supernet.expected_s().detach()), self.target_s)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed search needs: tensors and numbers."""
        return {
            "step": self.step,
            "lambda": self.dual.value,
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
        self.dual = DualAscent(self.dual.rate, self.dual.damping, self.dual.binding, float(state["lambda"]))
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
) -> SearchState:
    """A search at step 0; its weights and alphas are a function of `seed`."""
    with seeded(seed, "supernet weights"):
        supernet = Supernet(space, costs, num_classes, generator(seed, "alpha"))
    supernet.to(device)
    binding = target_s < costs.network_s(costs.slowest)
    alpha_optimizer = torch.optim.Adam([supernet.alpha_LK], lr=recipe.alpha_lr, betas=(0.0, 0.999), weight_decay=0.0)
    return SearchState(
        supernet,
        sgd(supernet, recipe, skip=("alpha_LK",)),
        alpha_optimizer,
        DualAscent(recipe.dual_rate, recipe.dual_damping, binding),
        target_s,
        seed,
        warmup_steps=recipe.warmup_steps,
        search_steps=recipe.search_steps,
        floor=floor,
    )


def sgd(module: nn.Module, recipe: Recipe, skip: tuple[str, ...] = ()) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay only on what has more than one dimension: no batch norm, no bias."""
    named = [(name, p) for name, p in module.named_parameters() if name not in skip]
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.search_lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
