"""Evolution under the budget: mutation and crossover of the networks that do best with shared weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from search.alpha import Batch
from search.controllers import children, new_random
from search.judging import compete, recall, rng_of, room_of
from search.paths import along_fair
from search.state import SearchState
from search.strategies import require


@dataclass(frozen=True)
class Evolution:
    """In every step `offspring` of the best `parents` challenge the `population` (as in SPOS, arXiv 1904.00420).

    Every network proposed lies within the budget. The weights train on uniform, strictly fair paths.
    """

    population: int = 8
    parents: int = 4
    offspring: int = 4
    mutation: float = 0.1
    crossover: float = 0.5

    def __post_init__(self) -> None:
        require(self.population >= 1, "population", self.population, "at least 1")
        require(1 <= self.parents <= self.population, "parents", self.parents, "from 1 to the population")
        require(self.offspring >= 1, "offspring", self.offspring, "at least 1")
        require(0 <= self.mutation <= 1, "mutation", self.mutation, "a chance from 0 to 1")
        require(0 <= self.crossover <= 1, "crossover", self.crossover, "a chance from 0 to 1")

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """A fair path."""
        return along_fair(state, x)

    def step(self, state: SearchState, batch: Batch) -> dict[str, float]:
        """Judge old and new on (images (n, C, H, W), labels (n,)); the best so far goes into alpha."""
        members, room, rng = recall(state), room_of(state), rng_of(state, "evolution")
        seen = {member.network for member in members}
        if len(members) < self.population:  # the first generation
            newcomers = new_random(room, self.offspring, seen, rng)
        else:
            best = [member.network for member in members[: self.parents]]
            newcomers = children(
                best, room, self.offspring, seen, rng, mutation=self.mutation, crossover=self.crossover
            )
        return compete(state, members, newcomers, self.population, batch)


STRATEGY = Evolution
