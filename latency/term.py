"""F inside a torch loss: `cost = LatencyTerm(predictor, space)`, then `loss = ce + weight * cost(probs)`.

For search code that is not ours: nothing here knows of supernets or strategies. `LatencyModel` is the same for code
without a SearchSpace: it takes ops, or lists of candidate ops with their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from latency.ops import Op
from latency.predictor import LatencyPredictor
from latency.space import SearchSpace

Probabilities = torch.Tensor | Sequence[torch.Tensor]


class LatencyTerm(nn.Module):
    """E[latency] in seconds of the networks drawn from `probs`, differentiable in them (arXiv 1812.00332, section 3.3).

    F is evaluated once, here, for every candidate: `cost_LK` (L choices, K = the most candidates of a choice, zeros
    where a choice has fewer). No predictor call is made in the loop, and the buffers move with `.to(device)`.
    Raises UnsupportedOp for an op that the predictor was not fitted on.
    """

    cost_LK: torch.Tensor
    fixed_s: torch.Tensor

    def __init__(self, predictor: LatencyPredictor, space: SearchSpace) -> None:
        super().__init__()
        self.sizes = tuple(len(c.candidates) for c in space.choices)
        cost = np.zeros((len(self.sizes), max(self.sizes)))
        for row, choice in zip(cost, space.choices, strict=True):
            row[: len(choice.candidates)] = predictor.scale * predictor.predict_s(choice.candidates)
        fixed_s = predictor.constant_s + predictor.scale * float(predictor.predict_s(space.fixed_ops).sum())
        self.register_buffer("cost_LK", torch.tensor(cost, dtype=torch.get_default_dtype()))
        self.register_buffer("fixed_s", torch.tensor(fixed_s, dtype=torch.get_default_dtype()))

    def forward(self, probs: Probabilities) -> torch.Tensor:
        """() expected seconds. `probs`: (L, K), or L tensors of each choice's own number of candidates.

        Rows are meant to sum to 1: gates and relaxed one-hot samples give that sample's latency. Raises ValueError for
        other shapes.
        """
        if isinstance(probs, torch.Tensor):
            if probs.shape != self.cost_LK.shape:
                raise ValueError(
                    f"probabilities of shape {tuple(probs.shape)}; {tuple(self.cost_LK.shape)} is expected"
                )
            return self.fixed_s + (probs * self.cost_LK).sum()
        if tuple(p.numel() for p in probs) != self.sizes:
            raise ValueError(
                f"{[p.numel() for p in probs]} probabilities; the choices have {list(self.sizes)} candidates"
            )
        return (
            self.fixed_s
            + torch.stack([(p * row[: p.numel()]).sum() for p, row in zip(probs, self.cost_LK, strict=True)]).sum()
        )


class LatencyModel(nn.Module):
    """A predictor as a torch module, for code that has ops and no SearchSpace."""

    def __init__(self, predictor: LatencyPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, ops: Sequence[Op]) -> torch.Tensor:
        """(n,) seconds of each op in a network; their sum plus constant_s is the network's. Raises UnsupportedOp."""
        return torch.tensor(self.predictor.scale * self.predictor.predict_s(ops), dtype=torch.get_default_dtype())

    def expected_s(self, blocks: Sequence[Sequence[Op]], probs: Sequence[torch.Tensor]) -> torch.Tensor:
        """() expected seconds of a network whose block l is `blocks[l][k]` with probability `probs[l][k]`.

        A block with one op and probability 1 is fixed. Raises UnsupportedOp; ValueError where lengths differ.
        """
        if [len(b) for b in blocks] != [p.numel() for p in probs]:
            raise ValueError("every block needs one probability per candidate")
        parts = [(p * self(block).to(p)).sum() for block, p in zip(blocks, probs, strict=True)]
        return torch.stack(parts).sum() + self.predictor.constant_s
