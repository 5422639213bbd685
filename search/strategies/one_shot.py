"""One-shot: all paths together with path dropout, then networks ranked by the shared weights (Bender et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from search.alpha import Batch
from search.controllers import new_random
from search.judging import compete, recall, rng_of, room_of
from search.rng import generator
from search.state import SearchState
from search.strategies import require


@dataclass(frozen=True)
class OneShot:
    """Weight steps sum all candidates but those that path dropout takes out; alpha is not learned, as in random search.

    A candidate is dropped with the chance drop^(1/K), so that `drop` is the chance that a block would lose all K; it
    grows from 0 to that over the search. The sum is divided by the number kept: a block's output has the scale that
    it has in a network of one candidate. Memory is that of all candidates kept: at first of all.
    """

    drop: float = 0.05
    keep: int = 4
    draws: int = 4

    def __post_init__(self) -> None:
        require(0 <= self.drop < 1, "drop", self.drop, "a chance from 0 to below 1")
        require(self.keep >= 1, "keep", self.keep, "at least 1")
        require(self.draws >= 1, "draws", self.draws, "at least 1")

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """The mean of the candidates kept in this step."""
        return state.supernet.forward_mixture(x, self.weights(state))

    def weights(self, state: SearchState) -> torch.Tensor:
        """1/n of the n candidates kept in a block, 0 of the others: (L, K). At least one is kept."""
        valid_LK = state.supernet.valid_LK.cpu()
        chance_L1 = (self.drop * state.progress) ** (1 / valid_LK.sum(1, keepdim=True).double())
        luck_LK = torch.rand(valid_LK.shape, generator=generator(state.seed, "drop", state.step), dtype=torch.float64)
        luck_LK = luck_LK.masked_fill(~valid_LK, -1.0)
        kept_LK = (luck_LK >= chance_L1) | (luck_LK == luck_LK.max(1, keepdim=True).values)
        weights_LK: torch.Tensor = kept_LK / kept_LK.sum(1, keepdim=True)
        return weights_LK.to(state.supernet.alpha_LK.device)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """Judge old and new networks on (images (n, C, H, W), labels (n,)); the best so far goes into alpha."""
        members = recall(state)
        seen = {member.network for member in members}
        newcomers = new_random(room_of(state), self.draws, seen, rng_of(state, "one-shot"))
        return compete(state, members, newcomers, self.keep, batch)


STRATEGY = OneShot
