"""The steps that benchmarks of the search measure, each as `search.run` makes it: weight, alpha, plain training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from latency.modules import build_network
from latency.space import SearchSpace, for_classes
from search import gates, strategies
from search.compute import PLAIN, Compute, Engine
from search.costs import Costs, make_costs
from search.lean import lean
from search.recipe import Recipe
from search.rng import generator
from search.state import SearchState, sgd, start
from search.trainer import weight_step

RECIPE = Recipe(batch_size=32, warmup_steps=0, search_steps=10_000, train_steps=1)
Step = Callable[[], object]


@dataclass
class Steps:
    """One supernet and random images (n, 3, size, size) on one device; labels are drawn too, nothing is learned.

    `state.step` decides what is drawn: paths, pairs, gates.
    """

    space: SearchSpace
    batch: int
    size: int
    classes: int = 10
    device: str = "cpu"
    compute: Compute = PLAIN
    seed: int = 0
    state: SearchState = field(init=False)

    def __post_init__(self) -> None:
        costs = make_costs(self.space, ByWork())
        target_s = (costs.expected_s(costs.uniform_LK) + costs.network_s(costs.fastest)) / 2
        self.state = start(
            self.space, costs, num_classes=self.classes, target_s=target_s, recipe=RECIPE, seed=self.seed,
            device=self.device, floor=0.97,
        )  # fmt: skip
        lean(self.state.supernet)
        self._engine = Engine(self.state.supernet, self.compute)
        draws = generator(self.seed, "images")
        images = torch.rand(self.batch, self.space.input_shape[1], self.size, self.size, generator=draws)
        labels = torch.randint(0, self.classes, (self.batch,), generator=draws)
        self.images, self.labels = self._engine.to_device(images, labels)

    def weight(self, strategy: Any) -> Step:
        """A weight step of `strategy`."""
        state = self.state

        def step() -> float:
            state.supernet.train()
            return weight_step(
                lambda: strategy.forward(state, self.images), self.labels, state.weight_optimizer, 1e-4, RECIPE,
                "a weight step", "", self._engine,
            )  # fmt: skip

        return step

    def alpha(self, strategy: Any) -> Step:
        """An alpha step of `strategy`, after which the optimiser's gradients are as before it: none."""

        def step() -> Mapping[str, float]:
            self.state.weight_optimizer.zero_grad(set_to_none=True)
            with self._engine.unscaled():
                found: Mapping[str, float] = strategy.step(self.state, (self.images, self.labels))
            return found

        return step

    def plain(self, path: list[int], *, with_lean: bool = False) -> tuple[Step, torch.nn.Module]:
        """A training step of one network alone, as torch has it, and the network."""
        ops = for_classes(self.space.architecture(path).ops, self.classes)
        network = build_network(ops).to(self.device).train()
        if with_lean:
            lean(network)
        engine, optimizer = Engine(network, self.compute), sgd(network, RECIPE)

        def step() -> float:
            return weight_step(
                lambda: network(self.images), self.labels, optimizer, 1e-4, RECIPE, "a plain step", "", engine
            )

        return step, network

    def drawn(self, what: str) -> list[int]:
        """The path that the present step draws for weights ("path"), or full gates ("gates")."""
        return gates.sample_path(self.state.supernet.logits(), generator(self.seed, what, self.state.step))

    def pair(self) -> list[int]:
        """The active path that the present step draws for a pair."""
        drawn: list[int] = gates.sample_pair(
            self.state.supernet.logits(), generator(self.seed, "pair", self.state.step)
        )[:, 0].tolist()
        return drawn


class ByWork:
    """A predictor for benchmarks that are not about latency: 1 ns per 10 multiply-adds."""

    device, scale, constant_s = "none", 1.0, 1e-3

    def predict_s(self, ops: Any) -> Any:
        """Seconds (n,)."""
        import numpy as np

        from latency.flops import macs

        return np.array([macs(op) * 1e-10 for op in ops])

    def network_s(self, ops: Any) -> tuple[float, float]:
        """Seconds of a network, and no error."""
        return self.constant_s + float(self.predict_s(ops).sum()), 0.0

    def covers(self, op: Any) -> bool:
        """Everything."""
        return True


def of_name(name: str) -> Any:
    """ "proxyless-g full" -> the strategy with gates=full; other names as they are."""
    kind, _, option = name.partition(" ")
    return strategies.load(kind, {"gates": option} if option else {})


__all__ = ["ByWork", "Costs", "Steps", "of_name"]
