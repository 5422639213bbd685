"""What a profile times: every op of a space and random networks of it, or the few networks that tell most."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from devices.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from latency.measure import Workload
    from latency.ops import Op
    from latency.predictor import LatencyPredictor
    from latency.space import SearchSpace

FEW_POOL = 500  # random networks that --few chooses from


def workloads(space: SearchSpace, networks: int, seed: int) -> list[Workload]:
    """Every op of `space` that takes time, and `networks` random networks. A larger number keeps the smaller's."""
    from latency.measure import Workload
    from latency.modules import build, build_network
    from latency.ops import network_text

    found = [
        Workload(str(op), "op", lambda op=op: _seeded(build, op), op.input_shape)  # type: ignore[misc]
        for op in space.unique_ops()
    ]
    if space.n_networks < 2 * networks:
        raise UserError(
            f"space '{space.name}' holds only {space.n_networks} networks: --networks {networks} is too many"
        )
    rng = random.Random(seed)
    chains: dict[tuple[Op, ...], None] = {}
    while len(chains) < networks:
        chains[space.random(rng).kernel_ops] = None
    found += [
        Workload(network_text(ops), "network", lambda ops=ops: _seeded(build_network, ops), space.input_shape)  # type: ignore[misc]
        for ops in chains
    ]
    return found


def _seeded(make: Callable[[Any], nn.Module], what: Any) -> nn.Module:
    """`make(what)` with the same weights every time: a device that converts models finds them in its cache."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(what)


def few_workloads(space: SearchSpace, few: int, seed: int, prior: Sequence[LatencyPredictor]) -> list[Workload]:
    """The `few` of FEW_POOL random networks that tell most of the others; no ops. See latency.transfer."""
    from latency.measure import Workload
    from latency.modules import build_network
    from latency.ops import network_text
    from latency.transfer import most_informative

    rng = random.Random(seed)
    pool = list(dict.fromkeys(space.random(rng).kernel_ops for _ in range(FEW_POOL)))
    chosen = [pool[i] for i in most_informative(pool, few, prior)]
    return [
        Workload(network_text(ops), "network", lambda ops=ops: _seeded(build_network, ops), space.input_shape)  # type: ignore[misc]
        for ops in chosen
    ]
