"""Gumbel straight-through: the path of a relaxed sample, the gradient of its softmax (SNAS, GDAS, FBNet)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from search import gates
from search.alpha import Batch, descend, latency_gradient
from search.paths import along_sampled
from search.rng import generator
from search.state import SearchState
from search.strategies import require
from search.strategies.proxyless_g import full_gate_gradient


@dataclass(frozen=True)
class Gumbel:
    """g~ = softmax((alpha + G) / temperature), G Gumbel noise; forward takes its largest, backward all of it.

    The temperature goes from `temperature` to `temperature_end` in equal ratios over the search: low ones are near to
    the one-hot gates and noisy, high ones are smooth and further away (Jang et al. 2017, arXiv 1611.01144). Unlike
    GDAS, candidates off the path are computed for their gradient, one at a time in backward: one path of activations.
    """

    temperature: float = 2.0
    temperature_end: float = 0.5

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "a number above 0")
        require(self.temperature_end > 0, "temperature_end", self.temperature_end, "a number above 0")

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A path sampled from alpha: the largest of alpha + G is such a draw."""
        return along_sampled(state, x)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,)); the latency's gradient is that of E[latency]."""
        loss, task_LK = self.task_gradient(state, batch)
        descend(state, task_LK + gates.softmax_vjp(state.supernet.probs().detach(), latency_gradient(state, loss)))
        return {"valid_loss": loss, "temperature": self.tau(state)}

    def tau(self, state: SearchState) -> float:
        """The temperature now."""
        return self.temperature * math.exp(state.progress * math.log(self.temperature_end / self.temperature))

    def task_gradient(self, state: SearchState, batch: Batch) -> tuple[float, torch.Tensor]:
        """(CE, dCE/dalpha (L, K)): the softmax of the scores / temperature takes dL/dg to alpha."""
        state.supernet.train()
        scores_LK = gates.gumbel_scores(state.supernet.logits(), generator(state.seed, "gumbel", state.step))
        loss, task_LK = full_gate_gradient(state, scores_LK.argmax(1).tolist(), batch)
        relaxed_LK = torch.softmax(scores_LK.to(task_LK) / self.tau(state), 1)
        return loss, gates.softmax_vjp(relaxed_LK, task_LK) / self.tau(state)


STRATEGY = Gumbel
