"""Controllers without a supernet: they propose networks and learn from their rewards. Pure functions.

Strategies use them on shared weights, benchmarks/controllers.py on a table of trained networks. A network is a tuple of
L candidate indices. Rewards are better when greater.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from latency.console import ms
from search.costs import Costs
from search.derive import EXACT, BudgetError, knapsack, tilted
from search.knapsack import Bound

Network = tuple[int, ...]
TRIES = 50  # of a proposal to land within the budget and be new, before something else is proposed
RETENTION = 0.9  # of what a member's old scores count at each further one: the weights that gave them have moved on
DOUBT = 1.0  # scores of 0 that a member starts with: one lucky batch does not make a winner


def reinforce_gradient(
    logits_LK: torch.Tensor, networks: Sequence[Sequence[int]], reward_M: torch.Tensor
) -> torch.Tensor:
    """d(-E[R])/d logits, estimated from M >= 2 networks drawn from softmax(logits): (L, K), float64.

    -1/M sum_i (R_i - b_i) (onehot(g_i) - p), with b_i the mean of the other rewards (RLOO, Kool et al. 2019): unbiased,
    since b_i does not depend on g_i, and the part of p drops out, since the R_i - b_i add up to 0. So it is unbiased
    also for networks drawn from p *given that they fit a budget*, without knowing how probable that is.
    """
    m = len(networks)
    assert m >= 2, "leave-one-out needs two networks"
    advantage_M = (reward_M - reward_M.mean()) * m / (m - 1)  # R_i - mean of the others
    grad_LK = torch.zeros(logits_LK.shape, dtype=torch.float64)
    for network, advantage in zip(networks, advantage_M.tolist(), strict=True):
        grad_LK[torch.arange(len(network)), torch.tensor(network)] -= advantage / m
    return grad_LK


@dataclass(frozen=True)
class Room:
    """The networks a controller may propose: block l has `counts[l]` candidates; `fits` is the budget.

    `draw` gives a random one that fits. It must always find one.
    """

    counts: tuple[int, ...]
    fits: Callable[[Network], bool]
    draw: Callable[[np.random.Generator], Network]


def room_within(costs: Costs, low_s: float, high_s: float, others: Sequence[Bound] = ()) -> Room:
    """The networks of low_s <= latency <= high_s within `others`; of latency <= high_s where there are none.

    Draws come from `tilted`, without favour among networks of the same latency. Where the bounds leave so few that
    they are not hit, the knapsack with random scores finds one of them. Raises BudgetError where there is no network.
    """
    limit_s = high_s * (1 - EXACT)
    if costs.network_s(costs.fastest) > limit_s:
        raise BudgetError(f"no network runs in {ms(high_s)}: the fastest takes {ms(costs.network_s(costs.fastest))}")
    if knapsack(np.zeros_like(costs.cost_LK), costs, low_s, limit_s, others=others) is None:
        low_s = 0.0
    margin_s = (high_s - low_s) / 4
    mean_s = min(max(costs.expected_s(costs.uniform_LK), low_s + margin_s), high_s - margin_s)
    p_LK = tilted(costs, mean_s)

    def fits(network: Network) -> bool:
        return low_s <= costs.network_s(network) <= limit_s and all(bound.holds(network) for bound in others)

    def draw(rng: np.random.Generator) -> Network:
        for _ in range(TRIES):
            network = draw_one(p_LK, rng)
            if fits(network):
                return network
        found = knapsack(rng.gumbel(size=p_LK.shape), costs, low_s, limit_s, others=others)
        assert found is not None, "there was one when the room was made"
        return found

    return Room(tuple(int(n) for n in costs.valid_LK.sum(1)), fits, draw)


def draw_one(p_LK: np.ndarray, rng: np.random.Generator) -> Network:
    """A network of independent blocks."""
    below_LK = rng.random((len(p_LK), 1)) >= p_LK.cumsum(1)
    return tuple(int(i) for i in np.minimum(below_LK.sum(1), (p_LK > 0).cumsum(1).argmax(1)))


@dataclass(frozen=True)
class Member:
    """A network that was judged: the sum of its scores and how many they count as."""

    network: Network
    total: float
    count: float

    @property
    def score(self) -> float:
        """The mean score, `DOUBT` scores of 0 included."""
        return self.total / (self.count + DOUBT)


def judged(members: Iterable[Member], networks: Sequence[Network], reward_M: Sequence[float]) -> list[Member]:
    """`members` with what one shared batch says of `networks`, best first. Networks that are not members join them.

    A score is the reward less the mean of this batch: batches differ in how hard they are, networks are compared.
    """
    known = {member.network: member for member in members}
    mean = math.fsum(reward_M) / len(reward_M)
    for network, reward in zip(networks, reward_M, strict=True):
        old = known.get(network, Member(network, 0.0, 0.0))
        known[network] = Member(network, RETENTION * old.total + reward - mean, RETENTION * old.count + 1)
    return best_first(known.values())


def best_first(members: Iterable[Member]) -> list[Member]:
    """By score; equal ones in the order of their indices."""
    return sorted(members, key=lambda m: (-m.score, m.network))


def new_random(room: Room, n: int, seen: Collection[Network], rng: np.random.Generator) -> list[Network]:
    """`n` networks that fit, none of `seen` and none twice as long as the tries find such; then any that fits."""
    made: list[Network] = []
    for _ in range(n):
        draws = (room.draw(rng) for _ in range(TRIES))
        network = next((d for d in draws if d not in seen and d not in made), None)
        made.append(room.draw(rng) if network is None else network)
    return made


def children(
    parents: Sequence[Network],
    room: Room,
    n: int,
    seen: Collection[Network],
    rng: np.random.Generator,
    *,
    mutation: float,
    crossover: float,
) -> list[Network]:
    """`n` offspring of `parents` that fit and are new; random ones where none is found within the tries.

    Each is one parent, or with the chance `crossover` a mix of two, block by block; then a block is drawn anew with
    the chance `mutation`, and at least one of a single parent's.
    """
    made: list[Network] = []
    for _ in range(n):
        tries = (_child(parents, room, rng, mutation, crossover) for _ in range(TRIES))
        child = next((c for c in tries if c not in seen and c not in made and room.fits(c)), None)
        made.append(new_random(room, 1, {*seen, *made}, rng)[0] if child is None else child)
    return made


def _child(
    parents: Sequence[Network], room: Room, rng: np.random.Generator, mutation: float, crossover: float
) -> Network:
    first = parents[int(rng.integers(len(parents)))]
    crossed = len(parents) > 1 and rng.random() < crossover
    second = parents[int(rng.integers(len(parents)))] if crossed else first
    length = len(room.counts)
    child = [a if take else b for a, b, take in zip(first, second, rng.random(length) < 0.5, strict=True)]
    changed = np.flatnonzero(rng.random(length) < mutation).tolist()
    for block in changed if changed or crossed else [int(rng.integers(length))]:
        others = [k for k in range(room.counts[block]) if k != child[block]]
        child[block] = others[rng.integers(len(others))] if others else child[block]
    return tuple(child)
