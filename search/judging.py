"""Strategies that rank networks instead of learning alpha: a few candidates compete on every validation batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.alpha import WITHOUT_MULTIPLIER, Batch, evaluate, put_in_force
from search.controllers import Member, Network, Room, judged, room_within
from search.rng import derive_seed
from search.state import SearchState

MEMBERS = "members"  # in state.memory: [[network, total, count], ...], best first


def room_of(state: SearchState) -> Room:
    """The networks that derivation would accept: within all budgets and, where there are such, above the floor."""
    return room_within(state.plan.costs, state.floor * state.target_s, state.target_s, state.plan.others)


def rng_of(state: SearchState, stream: str) -> np.random.Generator:
    """The draws of this step."""
    return np.random.default_rng(derive_seed(state.seed, stream, state.step))


def recall(state: SearchState) -> list[Member]:
    """The members of the step before, best first."""
    return [Member(tuple(network), total, count) for network, total, count in state.memory.get(MEMBERS, [])]


def compete(
    state: SearchState, members: Sequence[Member], newcomers: Sequence[Network], keep: int, batch: Batch
) -> dict[str, float]:
    """Judge `members` and `newcomers` by their accuracy on one batch; remember the best `keep`; put the first in force.

    Members are judged again in every step, since one batch says little and the shared weights move on. Writing the
    best into alpha lets everything after the search be the same for every strategy.
    """
    networks = list(dict.fromkeys([*(m.network for m in members), *newcomers]))
    loss_M, accuracy_M = evaluate(state, networks, batch)
    best = judged(members, networks, accuracy_M.tolist())[:keep]
    state.memory[MEMBERS] = [[list(m.network), m.total, m.count] for m in best]
    put_in_force(state, best[0].network)
    return {
        "valid_loss": float(loss_M.mean()),
        "reward": float(accuracy_M.mean()),
        "best_score": best[0].score,
        WITHOUT_MULTIPLIER: 1.0,
    }
