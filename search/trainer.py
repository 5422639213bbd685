"""The two loops of a run: searching with a supernet, and training one network from scratch.

Both are phases with the same face: `advance()` makes one step, `state_dict()` is all that a resumed run needs,
because every draw is a function of (seed, stream, step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from latency.console import Report
from latency.modules import build_network
from latency.ops import Op
from latency.space import for_classes
from search import data, distributed
from search.alpha import WITHOUT_MULTIPLIER
from search.data import Data, Split
from search.divergence import lower, require_finite
from search.gates import fair_path
from search.objective import entropy
from search.recipe import Recipe, cosine
from search.rng import seeded
from search.state import SearchState, sgd
from search.strategies import Strategy

SNAPSHOTS = 100  # how often probabilities are written down in one search


class Phase(Protocol):
    """A loop that can stop between any two steps and go on."""

    @property
    def step(self) -> int:
        """Steps made."""
        ...

    @property
    def total(self) -> int:
        """Steps in all."""
        ...

    @property
    def advice(self) -> str:
        """What to do where the loss is no number."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    def advance(self) -> dict[str, Any]:
        """Make one step; returns its row for metrics.jsonl. Raises Diverged."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers to go on from."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        ...


def run_phase(phase: Phase, write: Callable[[dict[str, Any]], None], tick: Callable[[], None], report: Report) -> None:
    """Advance to the end: `write` each row, then `tick`, which may save or raise to stop."""
    while phase.step < phase.total:
        row = phase.advance()
        write(row)
        report(phase.step, phase.total, f"{row['phase']} loss {row['loss']:.3f}")
        tick()


def weight_step(
    forward: Callable[[], torch.Tensor],
    labels: torch.Tensor,
    optimizer: torch.optim.SGD,
    rate: float,
    smoothing: float,
    where: str,
    advice: str = "lower the learning rate",
) -> float:
    """One SGD update on cross-entropy; returns the loss. Parameters off the path have no gradient and stay."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(forward(), labels, label_smoothing=smoothing)
    value = float(distributed.mean(loss.detach()))
    require_finite(value, where, advice)
    loss.backward()  # type: ignore[no-untyped-call]
    distributed.mean_gradients(p for group in optimizer.param_groups for p in group["params"])
    optimizer.step()
    return value


@dataclass
class SearchPhase:
    """Warm-up (weights, fair paths), then weight steps and alpha steps on held-out images, both the strategy's."""

    state: SearchState
    strategy: Strategy
    data: Data
    recipe: Recipe
    candidates: list[int]
    _snapshot_every: int = field(init=False)

    def __post_init__(self) -> None:
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
            recipe.label_smoothing,
            f"step {state.step} of {name}",
            self.advice,
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
        row: dict[str, Any] = dict(
            self.strategy.step(state, self._batch(self.data.validation, "alphas", state.step, augment=False))
        )
        require_finite(row["valid_loss"], f"step {state.step} of search (alpha)", lower(self.recipe, "alpha_lr"))
        probs_LK = state.supernet.probs().detach()
        expected_s = float(state.supernet.expected_s().detach())
        if not row.pop(WITHOUT_MULTIPLIER, 0):
            state.dual = state.dual.step(expected_s, state.target_s)
        row |= {"expected_s": expected_s, "lambda": state.dual.value, "entropy": float(entropy(probs_LK))}
        done = (state.step - self.recipe.warmup_steps + 1) // self.recipe.alpha_every
        if done % self._snapshot_every == 0:
            row["probs"] = [[round(p, 4) for p in block] for block in probs_LK.tolist()]
        return row

    def _batch(self, split: Split, stream: str, step: int, *, augment: bool) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = data.batch(
            split, self.recipe.batch_size, self.state.seed, stream, step, augment=augment, flip=self.data.flip
        )
        x, y = distributed.part(x, y)
        device = self.state.supernet.alpha_LK.device
        return x.to(device), y.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The search state's."""
        return self.state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The search state's; the rate of alpha stays the recipe's, which a resumed run may have lowered."""
        self.state.load_state_dict(state)
        for group in self.state.alpha_optimizer.param_groups:
            group["lr"] = self.recipe.alpha_lr


class TrainPhase:
    """One network, trained from scratch on all images that are not test images."""

    def __init__(
        self, name: str, ops: tuple[Op, ...], data_: Data, recipe: Recipe, seed: int, device: str = "cpu"
    ) -> None:
        """Weights, data order and augmentation are functions of `seed`, the same for every network of a run."""
        self.name, self.data, self.recipe, self.seed, self.step = name, data_, recipe, seed, 0
        with seeded(seed, "network weights"):
            self.network: nn.Module = build_network(for_classes(ops, len(data_.classes))).to(device)
        self.optimizer = sgd(self.network, recipe)
        self.device = device
        train, held = data_.train, data_.validation
        assert train.dataset is held.dataset
        self.split = Split(
            train.dataset, *(_joined(a, b) for a, b in ((train.indices, held.indices), (train.labels, held.labels)))
        )

    @property
    def total(self) -> int:
        """Weight steps."""
        return self.recipe.train_steps

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
        x, y = data.batch(
            self.split,
            self.recipe.batch_size,
            self.seed,
            "train",
            self.step,
            augment=self.recipe.augment,
            flip=self.data.flip,
        )
        x, y = distributed.part(x, y)
        x, y = x.to(self.device), y.to(self.device)
        self.network.train()
        loss = weight_step(
            lambda: self.network(x),
            y,
            self.optimizer,
            cosine(self.recipe.train_lr, self.step, self.total),
            self.recipe.label_smoothing,
            f"step {self.step} of {self.name}",
            self.advice,
        )
        self.step += 1
        return {"phase": self.name, "step": self.step - 1, "loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser, step."""
        return {"step": self.step, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def _joined(a: data.Indices, b: data.Indices) -> data.Indices:
    import numpy as np

    return np.concatenate([a, b])


def accuracy(network: nn.Module, split: Split, device: str = "cpu", batch_size: int = 128) -> float:
    """Share of `split` that `network` gets right, in eval mode: batch norm by its running statistics, which stay."""
    was_training = network.training
    network.eval()
    right, mine = torch.zeros(()), distributed.share(range(len(split)))
    with torch.no_grad():
        for first in range(0, len(mine), batch_size):
            x, y = split.fetch(mine[first : first + batch_size])
            right += (network(x.to(device)).argmax(1).cpu() == y).sum()
    network.train(was_training)
    return int(distributed.total(right)) / len(split)
