"""ProxylessNAS-R: REINFORCE (arXiv 1812.00332, section 3.3), with the leave-one-out baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from search import gates
from search.alpha import WITHOUT_MULTIPLIER, Batch, descend, evaluate, latency_gradient
from search.controllers import reinforce_gradient
from search.objective import absolute_reward, power_reward
from search.paths import along_sampled, sampled_path
from search.rng import generator
from search.state import SearchState
from search.strategies import require


@dataclass(frozen=True)
class ProxylessR:
    """`samples` networks are drawn from alpha and judged, by their accuracy, on one shared validation batch.

    `latency`: how the target enters. `gradient`: by the exact gradient of E[latency] and the multiplier, like in the
    other strategies; the reward is the accuracy alone. `power`: the paper's acc (T/LAT)^w, `power` being w.
    `absolute`: TuNAS's acc + beta |LAT/T - 1|, `beta` being below 0 (Bender et al. 2020, arXiv 2008.06120).
    `controller_warmup`: the share of the search in which alpha rests (TuNAS: a quarter) while the weights get trained.
    """

    samples: int = 8
    latency: Literal["gradient", "power", "absolute"] = "gradient"
    power: float = 0.1
    beta: float = -0.1
    controller_warmup: float = 0.25

    def __post_init__(self) -> None:
        require(self.samples >= 2, "samples", self.samples, "at least 2, so that each has others to be compared with")
        require(self.power > 0, "power", self.power, "a number above 0")
        require(self.beta < 0, "beta", self.beta, "a number below 0")
        require(
            0 <= self.controller_warmup < 1, "controller_warmup", self.controller_warmup, "a share from 0 to below 1"
        )

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A path sampled from alpha."""
        return along_sampled(state, x)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,))."""
        if state.progress < self.controller_warmup:
            loss_M, _ = evaluate(state, [sampled_path(state)], batch)
            return {"valid_loss": float(loss_M.mean()), WITHOUT_MULTIPLIER: 1.0}
        supernet = state.supernet
        logits_LK = supernet.logits()
        draws = range(self.samples)
        networks = [gates.sample_path(logits_LK, generator(state.seed, "networks", state.step, i)) for i in draws]
        loss_M, accuracy_M = evaluate(state, networks, batch)
        loss = float(loss_M.mean())
        reward_M = self._reward(state, networks, accuracy_M)
        grad_LK = reinforce_gradient(logits_LK.cpu(), networks, reward_M).to(supernet.alpha_LK)
        if self.latency == "gradient":
            grad_LK = grad_LK + gates.softmax_vjp(supernet.probs().detach(), latency_gradient(state, loss))
        descend(state, grad_LK)
        return {
            "valid_loss": loss,
            "reward": float(reward_M.mean()),
            WITHOUT_MULTIPLIER: float(self.latency != "gradient"),
        }

    def _reward(self, state: SearchState, networks: list[list[int]], accuracy_M: torch.Tensor) -> torch.Tensor:
        costs = state.supernet.costs()
        latency_s = torch.tensor([costs.network_s(network) for network in networks], dtype=torch.float64)
        if self.latency == "power":
            return power_reward(accuracy_M, latency_s, state.target_s, self.power)
        if self.latency == "absolute":
            return absolute_reward(accuracy_M, latency_s, state.target_s, self.beta)
        return accuracy_M


STRATEGY = ProxylessR
