"""Controllers: what they propose fits the budget and is new, and they end, however small the room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.controllers import Member, Network, Room, children, draw_one, judged, new_random, room_within
from search.costs import Costs
from search.derive import BudgetError
from search.knapsack import Bound
from search.strategies import load


def costs_of(seed: int, blocks: int = 4) -> Costs:
    """Ragged random costs."""
    rng = np.random.default_rng(seed)
    valid = np.ones((blocks, 4), dtype=np.bool_)
    valid[1, 3:] = valid[2, 1:] = False
    return Costs(np.where(valid, rng.random((blocks, 4)), 0.0), valid, 0.5)


def every_network(costs: Costs) -> list[Network]:
    return list(itertools.product(*(range(int(n)) for n in costs.valid_LK.sum(1))))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1), width=st.floats(0, 0.3), mutation=st.floats(0, 1))
def test_every_proposal_fits(seed: int, share: float, width: float, mutation: float) -> None:
    costs, rng = costs_of(seed), np.random.default_rng(seed)
    seconds = sorted(costs.network_s(n) for n in every_network(costs))
    high_s = seconds[round(share * (len(seconds) - 1))] * (1 + 1e-8)
    room = room_within(costs, (1 - width) * high_s, high_s)
    start = new_random(room, 6, set(), rng)
    more = children(start[:3], room, 6, set(start), rng, mutation=mutation, crossover=0.5)
    for network in (*start, *more):
        assert room.fits(network)
        assert costs.network_s(network) <= high_s
        assert network in every_network(costs)


def test_the_floor_is_kept_where_there_is_such_a_network() -> None:
    costs, rng = costs_of(3), np.random.default_rng(0)
    seconds = sorted(costs.network_s(n) for n in every_network(costs))
    low_s, high_s = seconds[20], seconds[30] * (1 + 1e-8)
    room = room_within(costs, low_s, high_s)
    assert all(low_s <= costs.network_s(n) <= high_s for n in new_random(room, 20, set(), rng))
    between = (seconds[30] + seconds[31]) / 2
    gap = room_within(costs, between * (1 - 1e-9), between)  # nothing in so narrow a window: below the budget then
    assert all(costs.network_s(n) <= between for n in new_random(gap, 20, set(), rng))
    with pytest.raises(BudgetError, match="the fastest takes"):
        room_within(costs, 0.0, seconds[0] * 0.99)


def test_proposals_are_new_until_nothing_new_is_left() -> None:
    costs, rng = costs_of(5), np.random.default_rng(1)
    limit_s = sorted(costs.network_s(n) for n in every_network(costs))[20]
    room = room_within(costs, 0.0, limit_s * (1 + 1e-8))
    feasible = {n for n in every_network(costs) if costs.network_s(n) <= limit_s}
    found: list[Network] = []
    for _ in range(len(feasible) // 2):
        found += new_random(room, 1, set(found), rng)
    assert len(set(found)) == len(found)
    everything = new_random(room, 3, feasible, rng)  # nothing new is left: it ends, and still fits
    assert set(everything) <= feasible
    assert set(children(found[:2], room, 3, feasible, rng, mutation=0.5, crossover=0.5)) <= feasible


def test_a_room_of_one_network_gives_it() -> None:
    costs, rng = costs_of(7), np.random.default_rng(0)
    room = room_within(costs, 0.0, costs.network_s(costs.fastest) * (1 + 1e-8))
    fastest = tuple(costs.fastest)
    assert new_random(room, 2, {fastest}, rng) == [fastest] * 2
    assert children([fastest], room, 2, {fastest}, rng, mutation=1.0, crossover=0.0) == [fastest] * 2


def test_offspring_are_mutants_or_mixes() -> None:
    anything = Room((4,) * 6, lambda network: True, lambda rng: (0,) * 6)
    rng = np.random.default_rng(0)
    a, b = (1, 1, 1, 1, 1, 1), (2, 2, 2, 2, 2, 2)
    mixes = children([a, b], anything, 20, set(), rng, mutation=0.0, crossover=1.0)
    assert all(set(n) <= {1, 2} for n in mixes)
    assert any(set(n) == {1, 2} for n in mixes)
    mutants = children([a], anything, 12, set(), rng, mutation=0.0, crossover=0.0)
    assert all(sum(k != 1 for k in n) == 1 for n in mutants)


def test_draws_follow_the_probabilities() -> None:
    p_LK = np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])
    rng, counts = np.random.default_rng(0), np.zeros((2, 3))
    for _ in range(4000):
        counts[[0, 1], draw_one(p_LK, rng)] += 1
    assert counts / 4000 == pytest.approx(p_LK, abs=0.03)
    assert counts[1, 2] == 0


def test_a_member_is_judged_against_the_others_of_its_batch() -> None:
    """An easy batch raises nobody; a better network rises; one lucky batch does not beat a record."""
    a, b, c = (0,), (1,), (2,)
    members: list[Member] = []
    for level in (0.3, 0.9, 0.5):
        members = judged(members, [a, b], [level + 0.1, level - 0.1])
    assert [m.network for m in members] == [a, b]
    assert members[0].score == pytest.approx(-members[1].score)
    members = judged(members, [a, b, c], [0.5, 0.3, 0.52])
    assert members[0].network == a
    assert {m.network: m.count for m in members}[c] == 1


def test_evolution_and_random_are_options_of_the_same_competition() -> None:
    assert load("evolution", {"population": "2", "parents": "1"}).population == 2
    for wrong in ({"parents": "9"}, {"mutation": "1.5"}, {"offspring": "0"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            load("evolution", wrong)


def test_a_room_keeps_every_budget() -> None:
    rng = np.random.default_rng(3)
    first, second = (Costs(rng.uniform(0, 1, (8, 4)), np.ones((8, 4), bool), 0.0) for _ in range(2))
    other = Bound(second, 0.0, second.network_s(second.fastest) * 1.3)
    high_s = first.expected_s(first.uniform_LK)
    room = room_within(first, 0.5 * high_s, high_s, [other])
    drawn = [room.draw(rng) for _ in range(20)]
    assert len(set(drawn)) > 5
    assert all(other.holds(network) and first.network_s(network) <= high_s for network in drawn)
    assert not room.fits(tuple(first.slowest))
    assert not room.fits(tuple(second.slowest))
