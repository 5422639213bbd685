"""The two loops of a run: searching with a supernet, and training one network from scratch.

Both are phases with the same face: `advance()` makes one step, `state_dict()` is all that a resumed run needs,
because every draw is a function of (seed, stream, step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from latency.modules import build_network
from latency.ops import Op
from latency.space import for_classes
from search import distributed, watch
from search.alpha import WITHOUT_MULTIPLIER, Batch
from search.compute import PLAIN, Compute, Engine
from search.data import Data, Indices, Split
from search.divergence import lower, require_finite
from search.gates import fair_path
from search.loader import Loader
from search.objective import entropy
from search.recipe import Recipe, check_batch, cosine
from search.regularise import Dropout, average_of
from search.rng import seeded
from search.state import SearchState, sgd
from search.strategies import Strategy

SNAPSHOTS = 100  # how often probabilities are written down in one search


def weight_step(
    forward: Callable[[], torch.Tensor],
    labels: torch.Tensor,
    optimizer: torch.optim.SGD,
    rate: float,
    recipe: Recipe,
    where: str,
    advice: str,
    engine: Engine,
) -> float:
    """One SGD update on cross-entropy; returns the loss. Parameters off the path have no gradient and stay."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(forward(), labels, label_smoothing=recipe.label_smoothing)
    value = float(distributed.mean(loss.detach()))
    require_finite(value, where, advice)
    engine.backward(loss)
    distributed.mean_gradients(p for group in optimizer.param_groups for p in group["params"])
    engine.update(optimizer, recipe.clip_norm)
    return value


@dataclass
class SearchPhase:
    """Warm-up (weights, fair paths), then weight steps and alpha steps on held-out images, both the strategy's."""

    state: SearchState
    strategy: Strategy
    data: Data
    recipe: Recipe
    candidates: list[int]
    compute: Compute = PLAIN
    _engine: Engine = field(init=False)
    _loaders: dict[str, Loader] = field(init=False, default_factory=dict)
    _snapshot_every: int = field(init=False)
    _judged_on: Batch | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._engine = Engine(self.state.supernet, self.compute)
        self._snapshot_every = max(1, self.recipe.alpha_steps // SNAPSHOTS)

    @property
    def step(self) -> int:
        """Weight steps made, the warm-up's included."""
        return self.state.step

    @property
    def total(self) -> int:
        """Weight steps of warm-up and search."""
        return self.recipe.warmup_steps + self.recipe.search_steps

    @property
    def advice(self) -> str:
        """What to do where the loss is no number."""
        return lower(self.recipe, "warmup_lr" if self.state.step < self.recipe.warmup_steps else "search_lr")

    @property
    def module(self) -> nn.Module:
        """The supernet."""
        return self.state.supernet

    def advance(self) -> dict[str, Any]:
        """One weight step, and the alpha step that is due after it."""
        state, recipe = self.state, self.recipe
        searching = state.step - recipe.warmup_steps
        if searching < 0:
            rate, name = cosine(recipe.warmup_lr, state.step, recipe.warmup_steps), "warmup"
        else:
            rate, name = cosine(recipe.search_lr, searching, recipe.search_steps), "search"
        x, y = self._batch(self.data.train, "weights", state.step, augment=recipe.augment)
        state.supernet.train()
        loss = weight_step(
            lambda: self._forward(x, warmup=searching < 0),
            y,
            state.weight_optimizer,
            rate,
            recipe,
            f"step {state.step} of {name}",
            self.advice,
            self._engine,
        )
        row: dict[str, Any] = {"phase": name, "step": state.step, "loss": loss}
        if searching >= 0 and recipe.is_alpha_step(searching):
            row |= self._alpha_step()
        state.step += 1
        return row

    def _forward(self, x: torch.Tensor, *, warmup: bool) -> torch.Tensor:
        state = self.state
        if warmup:
            logits: torch.Tensor = state.supernet(x, fair_path(self.candidates, state.seed, state.step))
            return logits
        return self.strategy.forward(state, x)

    def _alpha_step(self) -> dict[str, Any]:
        state = self.state
        state.weight_optimizer.zero_grad(set_to_none=True)  # the weight step's gradients are no longer of use
        batch = self._batch(self.data.validation, "alphas", state.step, augment=False)
        with self._engine.unscaled():
            row: dict[str, Any] = dict(self.strategy.step(state, batch))
        require_finite(row["valid_loss"], f"step {state.step} of search (alpha)", lower(self.recipe, "alpha_lr"))
        probs_LK = state.supernet.probs().detach()
        expected_C = state.expected_C()
        if not row.pop(WITHOUT_MULTIPLIER, 0):
            state.loss = state.loss.step(expected_C)
        row |= {"expected_s": expected_C[0], "lambda": [*state.loss.values, state.multiplier(row["valid_loss"])][0]}
        row["entropy"] = float(entropy(probs_LK))
        if len(expected_C) > 1:
            row |= {"expected": expected_C, "lambdas": state.loss.values}
        done = (state.step - self.recipe.warmup_steps + 1) // self.recipe.alpha_every
        if done % self._snapshot_every == 0:
            row |= watch.snapshot(probs_LK)
        if watch.due(done, self.recipe.alpha_steps):
            if self._judged_on is None:
                loader = self._engine.loader(self.data.validation, watch.IMAGES, state.seed, "watch", None)
                self._judged_on = loader.batch(0)
            row["now"] = watch.glance(state, self._judged_on)
        return row

    def _batch(self, split: Split, stream: str, step: int, *, augment: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if stream not in self._loaders:
            how = self.data.augmentation_of() if augment else None
            self._loaders[stream] = self._engine.loader(split, self.recipe.batch_size, self.state.seed, stream, how)
        return self._loaders[stream].batch(step)

    def state_dict(self) -> dict[str, Any]:
        """The search state's, and the loss scaler's."""
        return self.state.state_dict() | {"scaler": self._engine.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the rate of alpha stays the recipe's, which a resumed run may have lowered."""
        self.state.load_state_dict(state)
        self._engine.load_state_dict(state["scaler"])
        for group in self.state.alpha_optimizer.param_groups:
            group["lr"] = self.recipe.alpha_lr


class TrainPhase:
    """One network, trained from scratch on all images that are not test images."""

    def __init__(
        self,
        name: str,
        ops: tuple[Op, ...],
        data_: Data,
        recipe: Recipe,
        seed: int,
        device: str = "cpu",
        compute: Compute = PLAIN,
    ) -> None:
        """Weights, data order, augmentation and dropout are functions of `seed`, alike for every network of a run."""
        self.name, self.data, self.recipe, self.seed, self.step = name, data_, recipe, seed, 0
        with seeded(seed, "network weights"):
            self.network: nn.Module = build_network(for_classes(ops, len(data_.classes))).to(device)
        self.average = average_of(self.network, recipe.ema) if recipe.ema else None  # before the engine: a plain copy
        self._dropout = Dropout(self.network, recipe.dropout, seed)
        self._engine = Engine(self.network, compute)
        self.optimizer = sgd(self.network, recipe)
        train, held = data_.train, data_.validation
        assert train.dataset is held.dataset
        self.split = Split(
            train.dataset, *(_joined(a, b) for a, b in ((train.indices, held.indices), (train.labels, held.labels)))
        )
        check_batch(recipe, len(self.split))
        how = data_.augmentation_of(recipe.cutout) if recipe.augment else None
        self._loader = self._engine.loader(self.split, recipe.batch_size, seed, "train", how)

    @property
    def total(self) -> int:
        """Weight steps."""
        return self.recipe.train_steps

    @property
    def trained(self) -> nn.Module:
        """The network to evaluate and export: the average of its weights where one is kept."""
        return self.network if self.average is None else self.average.module

    @property
    def advice(self) -> str:
        """What to do where the loss is no number."""
        return lower(self.recipe, "train_lr")

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.network

    def advance(self) -> dict[str, Any]:
        """One weight step."""
        x, y = self._loader.batch(self.step)
        self.network.train()
        self._dropout.step = self.step
        loss = weight_step(
            lambda: self.network(x),
            y,
            self.optimizer,
            cosine(self.recipe.train_lr, self.step, self.total),
            self.recipe,
            f"step {self.step} of {self.name}",
            self.advice,
            self._engine,
        )
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step += 1
        return {"phase": self.name, "step": self.step - 1, "loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser, step, and the average of weights where one is kept."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._engine.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._engine.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step = int(state["step"])


def _joined(a: Indices, b: Indices) -> Indices:
    import numpy as np

    return np.concatenate([a, b])


def accuracy(network: nn.Module, split: Split, device: str = "cpu", batch_size: int = 128) -> float:
    """Share of `split` that `network` gets right, in eval mode: batch norm by its running statistics, which stay.

    Images that cannot be decoded count neither way.
    """
    was_training = network.training
    network.eval()
    right_seen, mine = torch.zeros(2), distributed.share(range(len(split)))
    with torch.no_grad():
        for first in range(0, len(mine), batch_size):
            x, y = split.fetch(mine[first : first + batch_size])
            if len(y):
                right = (network(x.to(device)).argmax(1).cpu() == y).sum()
                right_seen += torch.stack([right, torch.tensor(len(y))])
    network.train(was_training)
    right_seen = distributed.total(right_seen)
    return int(right_seen[0]) / max(int(right_seen[1]), 1)
