"""Workloads timed together on a device in rounds: what every command that times a handful of networks shares."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from devices.errors import UserError
from latency.console import Report

if TYPE_CHECKING:
    from devices.base import Device, Session
    from latency.measure import Measurement, Policy, Workload
    from latency.ops import Op

Progress = Callable[[str], AbstractContextManager[Report]]  # title -> what is told how far the work is


def network_workloads(networks: Mapping[str, Sequence[Op]]) -> list[Workload]:
    """A workload for each network (name -> ops), its identities left out."""
    from latency.measure import Workload
    from latency.modules import build_network
    from latency.space import without_identities

    return [
        Workload(
            name,
            "network",
            lambda ops=ops: build_network(without_identities(tuple(ops))),  # type: ignore[misc]
            ops[0].input_shape,
        )
        for name, ops in networks.items()
    ]


def measure_networks(
    networks: Mapping[str, Sequence[Op]], device: Device, policy: Policy, progress: Progress, seed: int = 0
) -> dict[str, Measurement]:
    """Time `networks` (name -> ops) together. Raises UserError naming the one that cannot be built or timed."""

    def on_failed(key: str, error: Exception | str) -> None:
        raise UserError(f"{key}: {error}")

    return time_together(network_workloads(networks), device, policy, progress, seed, on_failed)


def time_together(
    todo: Sequence[Workload],
    device: Device,
    policy: Policy,
    progress: Progress,
    seed: int,
    on_failed: Callable[[str, Exception | str], None],
    then: Callable[[Mapping[str, Session]], None] | None = None,
) -> dict[str, Measurement]:
    """Measurements by key, in random-order rounds; `then` gets the sessions before they are closed.

    `on_failed(key, why)` is told of what cannot be prepared or timed, and may raise.
    """
    from latency import measure

    with progress("preparing") as report:
        sessions, failed = measure.prepare(device, todo, report)
    try:
        for key, why in failed.items():
            on_failed(key, why)
        with progress("timing") as report:
            found = measure.run_rounds(
                sessions,
                [w for w in todo if w.key in sessions],
                policy,
                random.Random(seed),
                measure.Progress(),
                report=report,
                on_round=lambda *_: None,
                on_done=lambda _: None,
                on_failed=on_failed,
            )
        if then is not None:
            then(sessions)
    finally:
        for session in sessions.values():
            session.close()
    return {m.key: m for m in found}
