"""Random search under the budget: no alpha is learned; networks drawn at random compete on supernet accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from search.alpha import Batch
from search.controllers import new_random
from search.judging import compete, recall, rng_of, room_of
from search.paths import along_fair
from search.state import SearchState
from search.strategies import require


@dataclass(frozen=True)
class RandomSearch:
    """In every step `draws` new networks within the budget challenge the best `keep` (Li and Talwalkar 2019).

    The weights train on uniform, strictly fair paths.
    """

    keep: int = 4
    draws: int = 4

    def __post_init__(self) -> None:
        require(self.keep >= 1, "keep", self.keep, "at least 1")
        require(self.draws >= 1, "draws", self.draws, "at least 1")

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A fair path."""
        return along_fair(state, x)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """Judge old and new on (images (n, C, H, W), labels (n,)); the best so far goes into alpha."""
        members = recall(state)
        seen = {member.network for member in members}
        newcomers = new_random(room_of(state), self.draws, seen, rng_of(state, "random"))
        return compete(state, members, newcomers, self.keep, batch)


STRATEGY = RandomSearch
