"""ProxylessNAS-R as released, for comparison: `--reference --strategy proxyless-r`. Nothing here is used by other runs.

arXiv 1812.00332, section 3.3, and the authors' `rl_gradient_step` with its defaults: ten networks on one validation
batch, the reward acc (T/LAT)^0.1, and a baseline that all steps share.
"""

from __future__ import annotations

import torch

from search import gates
from search.alpha import WITHOUT_MULTIPLIER, Batch, descend, evaluate
from search.objective import power_reward
from search.paths import along_sampled
from search.rng import generator
from search.state import SearchState

SAMPLES, POWER = 10, 0.1  # --rl_batch_size, --rl_tradeoff_ratio
DECAY = 0.99  # --rl_baseline_decay_weight
BASELINE = "baseline"  # in state.memory


def moved_baseline(before: float | None, mean_reward: float) -> float:
    """The baseline after a step: b += 0.99 (mean reward - b), the first mean reward at first.

    As in the code, where it is moved before it is used: nearly the mean of the very networks it is subtracted from.
    """
    return mean_reward if before is None else before + DECAY * (mean_reward - before)


class ReferenceR:
    """REINFORCE with the released code's reward and baseline; latency enters by the reward alone."""

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A path sampled from alpha."""
        return along_sampled(state, x)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,)): along 1/M sum_i (R_i - b) d(-log p(g_i))/d alpha."""
        logits_LK, costs = state.supernet.logits(), state.supernet.costs()
        draws = (generator(state.seed, "networks", state.step, i) for i in range(SAMPLES))
        networks = [gates.sample_path(logits_LK, draw) for draw in draws]
        loss_M, accuracy_M = evaluate(state, networks, batch)
        latency_M = torch.tensor([costs.network_s(network) for network in networks], dtype=torch.float64)
        reward_M = power_reward(accuracy_M, latency_M, state.target_s, POWER)
        baseline = state.memory[BASELINE] = moved_baseline(state.memory.get(BASELINE), float(reward_M.mean()))
        probs_LK = state.supernet.probs().detach().cpu()
        grad_LK = torch.zeros_like(probs_LK)
        for network, advantage in zip(networks, (reward_M - baseline).tolist(), strict=True):
            drawn_L1 = torch.tensor(network)[:, None]
            grad_LK += advantage / SAMPLES * (probs_LK - torch.zeros_like(probs_LK).scatter_(1, drawn_L1, 1.0))
        descend(state, grad_LK)
        return {
            "valid_loss": float(loss_M.mean()),
            "reward": float(reward_M.mean()),
            BASELINE: baseline,
            WITHOUT_MULTIPLIER: 1.0,
        }
