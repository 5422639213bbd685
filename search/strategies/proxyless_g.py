"""ProxylessNAS-G: the binarised-gate gradient (arXiv 1812.00332, sections 3.1 and 3.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from search import distributed, gates
from search.alpha import Batch, descend, latency_gradient
from search.paths import along_sampled
from search.rng import generator
from search.state import SearchState
from search.supernet import only_alpha


@dataclass(frozen=True)
class ProxylessG:
    """`gates=two`: two candidates a block are drawn and compared; every other one keeps its probability.

    `gates=full`: the sampled path runs, and in backward every other candidate, one at a time, without a graph: one
    path of activations, K forward passes of time, and a gradient for all candidates at once.
    `estimator`: plain straight-through, or ReinMax, of second order, from the same dL/dg.
    """

    gates: Literal["two", "full"] = "two"
    estimator: Literal["plain", "reinmax"] = "plain"

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A path sampled from alpha."""
        return along_sampled(state, x)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """One alpha step on (images (n, C, H, W), labels (n,))."""
        loss, task_LK = self.task_gradient(state, batch)
        supernet, alpha_LK = state.supernet, state.supernet.alpha_LK
        if self.gates == "full":
            descend(state, task_LK + gates.softmax_vjp(supernet.probs().detach(), latency_gradient(state, loss)))
            return {"valid_loss": loss}
        pair_L2 = self._pair(state).to(alpha_LK.device)
        old_L2 = alpha_LK.detach().gather(1, pair_L2)
        latency_L2 = gates.softmax_vjp(torch.softmax(old_L2, 1), latency_gradient(state, loss).gather(1, pair_L2))
        descend(state, task_LK + torch.zeros_like(task_LK).scatter_(1, pair_L2, latency_L2))
        with torch.no_grad():
            alpha_LK.scatter_(1, pair_L2, gates.keep_mass(old_L2, alpha_LK.gather(1, pair_L2)))
        return {"valid_loss": loss}

    def task_gradient(self, state: SearchState, batch: Batch) -> tuple[float, torch.Tensor]:
        """(CE, dCE/dalpha (L, K)): dL/dg_j = <o_j(x), dCE/dm>, taken to alpha by the softmax over two or over all."""
        state.supernet.train()
        return self._two(state, batch) if self.gates == "two" else self._full(state, batch)

    def _pair(self, state: SearchState) -> torch.Tensor:
        return gates.sample_pair(state.supernet.logits(), generator(state.seed, "pair", state.step))

    def _two(self, state: SearchState, batch: Batch) -> tuple[float, torch.Tensor]:
        supernet, alpha_LK, (images, labels) = state.supernet, state.supernet.alpha_LK, batch
        pair_L2 = self._pair(state)
        gates_L2 = torch.tensor([[1.0, 0.0]]).repeat(len(pair_L2), 1).requires_grad_()
        with only_alpha(supernet):
            loss = functional.cross_entropy(supernet.forward_pair(images, pair_L2, gates_L2), labels)
            _backward(loss)
        pair_L2 = pair_L2.to(alpha_LK.device)
        probs_L2 = torch.softmax(alpha_LK.detach().gather(1, pair_L2), dim=1)
        task_L2 = self._to_alpha(probs_L2, gates_L2.detach().to(probs_L2), _grad(gates_L2).to(probs_L2))
        return float(distributed.mean(loss.detach())), torch.zeros_like(alpha_LK).scatter_(1, pair_L2, task_L2)

    def _full(self, state: SearchState, batch: Batch) -> tuple[float, torch.Tensor]:
        supernet = state.supernet
        path = gates.sample_path(supernet.logits(), generator(state.seed, "gates", state.step))
        loss, task_LK = full_gate_gradient(state, path, batch)
        probs_LK = supernet.probs().detach()
        one_hot_LK = torch.zeros_like(probs_LK).scatter_(1, torch.tensor(path, device=probs_LK.device)[:, None], 1.0)
        return loss, self._to_alpha(probs_LK, one_hot_LK, task_LK)

    def _to_alpha(self, probs: torch.Tensor, sampled: torch.Tensor, grad_gates: torch.Tensor) -> torch.Tensor:
        """The task's gradient only: the latency is linear in p, and its gradient needs no estimator."""
        if self.estimator == "reinmax":
            return gates.reinmax_vjp(probs, sampled, grad_gates)
        return gates.softmax_vjp(probs, grad_gates)


def full_gate_gradient(state: SearchState, path: list[int], batch: Batch) -> tuple[float, torch.Tensor]:
    """(CE of `path`, dCE/dg (L, K) float64 on alpha's device), at one path of activations."""
    images, labels = batch
    gates_LK = torch.zeros(state.supernet.alpha_LK.shape).requires_grad_()
    with only_alpha(state.supernet):  # backward runs candidates too
        loss = functional.cross_entropy(state.supernet.forward_full(images, path, gates_LK), labels)
        _backward(loss)
    return float(distributed.mean(loss.detach())), _grad(gates_LK).to(state.supernet.alpha_LK)


def _backward(loss: torch.Tensor) -> None:
    if loss.requires_grad:  # not where no block has a choice
        loss.backward()  # type: ignore[no-untyped-call]


def _grad(leaf: torch.Tensor) -> torch.Tensor:
    """The gradient over the batch of all processes."""
    return distributed.mean(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)


STRATEGY = ProxylessG
