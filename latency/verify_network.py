"""What `latency.verify` times for a network of a search: it, random networks of its space, and its own blocks."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError, DeviceUnavailable
from devices.errors import UserError
from latency.console import Ui
from latency.disagree import Block, Verdict
from latency.in_context import node_seconds, shares_s
from latency.measure import Policy, Workload
from latency.predict import caution, predict_networks
from latency.predictor import LatencyPredictor, load_predictor
from latency.space import load_architecture, load_space, space_names, without_identities
from latency.targets import target
from latency.timing import network_workloads, time_together

if TYPE_CHECKING:
    from devices.base import Device, Session
    from latency.ops import Op
    from latency.verify_kernels import ModelCheck

NODE_LOOPS = 50
RANDOM = 8  # random networks, where it is not said how many


@dataclass(frozen=True)
class Outcome:
    """What was timed. `mine` is the network in question; `judged` are those that decide on the gap."""

    predictor: LatencyPredictor
    mine: Verdict
    judged: list[Verdict]
    fingerprint: dict[str, Any]
    state: dict[str, Any] | None
    blocks: list[Block] = field(default_factory=list)
    by: str = "blocks"
    model: ModelCheck | None = None


def of_architecture(ui: Ui, args: argparse.Namespace, policy: Policy) -> Outcome:
    """Time the network of --arch, and random networks of its space."""
    architecture = load_architecture(args.arch)
    predictor = load_predictor(args.predictor)
    caution(ui, predictor)
    networks: dict[str, tuple[Op, ...]] = {"found": architecture.ops}
    space_name = args.space or architecture.space
    if args.space or space_name in space_names():
        space, rng = load_space(space_name), random.Random(args.seed)
        count = RANDOM if args.random is None else args.random
        networks |= {f"random {i + 1}": space.random(rng).ops for i in range(count)}
    elif args.recalibrate or args.random:
        flag = "--recalibrate needs" if args.recalibrate else f"--random {args.random} asks for"
        raise UserError(f"{flag} random networks: name the space of '{space_name}' with --space FILE.py:NAME")
    predicted, by_blocks = predict_networks(networks, predictor)
    if not by_blocks:
        ui.say(f"{args.predictor} knows kernels, not these blocks: networks are predicted by their kernels, "
               "blocks are not compared")  # fmt: skip
    with target(args, ui) as device:
        blocks_of = "found" if args.blocks and by_blocks else None
        verdicts, blocks = time_network(networks, predictor, device, policy, ui, args.seed, blocks_of, predicted)
        return Outcome(
            predictor,
            next(v for v in verdicts if v.name == "found"), verdicts, device.describe(), state_of(device), blocks,
            "blocks" if by_blocks else "kernels",
        )  # fmt: skip


def state_of(device: Device) -> dict[str, Any] | None:
    """Heat and clocks, where the device tells them."""
    return device.state() if hasattr(device, "state") else None


def time_network(
    networks: dict[str, tuple[Op, ...]],
    predictor: LatencyPredictor,
    device: Device,
    policy: Policy,
    ui: Ui,
    seed: int = 0,
    blocks_of: str | None = None,
    predicted: dict[str, tuple[float, float]] | None = None,
) -> tuple[list[Verdict], list[Block]]:
    """Measure `networks` (name -> ops), and the ops of the network `blocks_of`, together in rounds.

    `predicted` are (seconds, standard error) by name, where they are not the predictor's by its blocks. The blocks'
    times are those inside the network where the device attributes them (latency/in_context.py), else alone. Raises
    UnsupportedOp before anything is timed.
    """
    from latency.modules import build

    predicted = predicted or {name: predictor.network_s(ops) for name, ops in networks.items()}
    alone = list(dict.fromkeys(o for o in networks[blocks_of] if not o.is_free)) if blocks_of else []
    todo = network_workloads(networks)
    todo += [Workload(str(op), "op", lambda op=op: build(op), op.input_shape) for op in alone]  # type: ignore[misc]
    chain = without_identities(networks[blocks_of]) if blocks_of else ()
    nodes: dict[str, float] = {}

    def on_failed(key: str, error: Exception | str) -> None:
        if key in networks:
            raise UserError(f"{key}: {error}")
        ui.warn(f"{key} could not be timed alone: {error}")

    def attribute(sessions: Mapping[str, Session]) -> None:
        """The last thing that is done: where it fails, what was timed is kept."""
        if not blocks_of:
            return
        lone = {op: sessions[str(op)] for op in alone if str(op) in sessions}
        try:
            nodes.update(node_seconds(chain, sessions[blocks_of], lone, NODE_LOOPS))
        except (DeviceError, DeviceUnavailable) as error:
            ui.warn(f"blocks are compared by their times alone, not inside the network: {error}")

    found = time_together(todo, device, policy, ui.progress, seed, on_failed, attribute)
    if any(n not in found or not math.isfinite(found[n].ci_s[0]) for n in networks):
        raise UserError(f"{policy.budget_s / 60:g} min are too few rounds for a 95 % interval: raise --budget-min")
    verdicts = [
        Verdict(n, *predicted[n], m.median_s, m.ci_s, m.flags, m.half_width, m.scale)
        for n, m in ((n, found[n]) for n in networks)
    ]
    blocks = []
    inside = shares_s(chain, nodes, found[blocks_of].median_s) if blocks_of else {}
    f_s, f_std_s = predictor.predict_s(alone, return_std=True) if inside else predictor.alone_s(alone)
    for op, seconds, std_s in zip(alone, f_s, f_std_s, strict=True):
        if inside:
            blocks.append(Block(op, float(seconds), float(std_s), inside[op], 0.0))
        elif str(op) in found:
            taken = found[str(op)]
            own_s = taken.median_s * taken.half_width / 1.96
            blocks.append(Block(op, float(seconds), float(std_s), taken.median_s, own_s))
    return verdicts, blocks
