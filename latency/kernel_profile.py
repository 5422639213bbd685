"""`python -m latency.profile --space kernels`: random networks, and each of their kernels timed inside them.

Networks are drawn in lots. Of the first lot all are taken; of a later one, out of POOL times as many, those with the
most time in kernels that are predicted badly: a model is fitted to what is measured so far, each kernel's error is that
of the measured kernels most like it, each left out of its fit. Test networks play no part: they are not known here.

A kernel's time is its share of its network's: what the runtime's profile says of it, plus what passes between two
kernels, scaled to the network's time without the profile, less what a call takes besides. So they sum to it.
Where a runtime tells no kernels apart, lone kernels are timed instead, and the evidence model does the rest.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from devices.errors import UserError
from latency.console import Ui
from latency.kernel_draws import Draw
from latency.kernel_space import draw
from latency.kernel_times import DRAWING, kernel_row, kernel_seconds, require_drawing
from latency.measure import Policy, Progress, Workload, prepare, run_rounds
from latency.onnx_parts import rules_for
from latency.op_base import Op
from latency.ops import network_text
from latency.stats import Floats

if TYPE_CHECKING:
    from torch import nn

    from devices.base import Device
    from devices.onnx_profile import KernelRun
    from latency.onnx_graph import KernelNode
    from latency.profile import ProfileResult
    from latency.table import LatencyTable, Row

NAME = "kernels"
LOT = 50  # networks drawn, measured and learnt from at a time
POOL = 2.5  # candidates drawn for each network of a later lot
MAX_MACS = 4e9  # of a network drawn: one of ten times as many takes the time of ten
LONE = 150  # kernels of a lot timed alone, where the runtime does not tell them apart
KERNEL_SHARE = 0.55  # of the budget that goes to the time of kernels inside networks


@dataclass(frozen=True)
class Network:
    """A drawn network and its kernels on the device."""

    draw: Draw
    kernels: tuple[KernelNode, ...]

    @property
    def ops(self) -> tuple[Op, ...]:
        """The kernels' ops; `network_text` of them is the network's key."""
        return tuple(k.op for k in self.kernels if k.op is not None)

    def make(self) -> nn.Module:
        """The module; the same weights every time."""
        import torch

        from latency.kernel_networks import build_draw

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_draw(self.draw)[0]

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, channels, height, width)."""
        return self.draw.input_shape

    def workload(self) -> Workload:
        """The network as something to time."""
        return Workload(network_text(self.ops), "network", self.make, self.input_shape)


def drawn_networks(n: int, rng: random.Random, runtime: str, known: set[str]) -> list[Network]:
    """`n` random networks whose kernels the vocabulary has, none with a key in `known`; their keys are added to it."""
    from devices.base import DeviceError
    from devices.onnx_cpu import export_onnx
    from latency.onnx_graph import kernels_of

    found: list[Network] = []
    while len(found) < n:
        network = Network(draw(rng), ())
        try:
            made = kernels_of(export_onnx(network.make(), network.input_shape), rules_for(runtime))
        except (DeviceError, RuntimeError):  # now and then the exporter fails at a combination of blocks
            continue
        network = replace(network, kernels=made)
        key = network_text(network.ops)
        small = sum(k.macs for k in made) <= MAX_MACS
        if small and all(k.op is not None for k in made) and key not in known:
            known.add(key)
            found.append(network)
    return found


def profile_kernels(
    device: Device, table: LatencyTable, policy: Policy, *, networks: int, seed: int, ui: Ui
) -> ProfileResult:
    """Measure `networks` random networks and their kernels into `table`, going on from what it holds.

    Raises TableError where the table is of another device, or of networks drawn by another version.
    """
    from latency.kernel_refine import most_uncertain
    from latency.profile import profile

    if table.path.exists() and table.json_path.exists():
        require_drawing(table.path, table.provenance()["sessions"])
    began, runtime = time.monotonic(), str(device.describe().get("runtime", ""))
    results: list[ProfileResult] = []
    lots = [min(LOT, networks - done) for done in range(0, networks, LOT)]
    known: set[str] = set()
    for i, size in enumerate(lots):
        rng = random.Random(f"{seed}/{i}")
        share = replace(policy, budget_s=policy.budget_s * size / networks)
        with ui.progress(f"drawing lot {i + 1} of {len(lots)}"):
            pool = drawn_networks(size if i == 0 else round(POOL * size), rng, runtime, known)
            lot = pool if i == 0 else most_uncertain(pool, size, _rows_before(table, i))
        known -= {network_text(n.ops) for n in pool} - {network_text(n.ops) for n in lot}
        apart = hasattr(device, "prepare_profiled")
        timing = replace(share, budget_s=share.budget_s * (1 - KERNEL_SHARE)) if apart else share
        only = [n.workload() for n in lot] + ([] if apart else lone_workloads(lot, rng))
        results.append(profile(device, _Named(), table, timing, seed=seed, ui=ui, only=only))  # type: ignore[arg-type]
        if apart and not _measured(table, i):
            kernel_policy = replace(share, budget_s=share.budget_s * KERNEL_SHARE)
            facts = measure_kernels(device, lot, table, kernel_policy, rng, ui)
            table.update_session(kernel_lot=i, drawing=DRAWING, **facts)
    rows = table.rows()
    last = results[-1]
    return replace(
        last,
        rows=len(rows),
        networks=sum(r.kind == "network" for r in rows),
        seconds=time.monotonic() - began,
        noisy=sum("noisy" in r.flags for r in rows),
        failed=sum(r.failed for r in results),
    )


def profile_command(ui: Ui, args: argparse.Namespace, table: LatencyTable, policy: Policy) -> ProfileResult:
    """`profile_kernels` as the command line asks for it. Raises UserError for what does not go."""
    from latency.targets import target

    if args.networks < 1:
        raise UserError("--networks must be at least 1: kernels are timed inside networks")
    with target(args, ui) as device:
        if args.overwrite:
            table.remove()
        ui.say(
            f"profiling the kernels of {args.networks} random networks on {args.device}, "
            f"at most {args.budget_min:g} min of timing, into {table.path}"
        )
        return profile_kernels(device, table, policy, networks=args.networks, seed=args.seed, ui=ui)


class _Named:
    """What `profile` needs of a space where it is told what to measure."""

    name = NAME


def _rows_before(table: LatencyTable, lot: int) -> list[Row]:
    """The kernels of earlier lots: the same, whether this lot is begun or gone on with."""
    sessions = [i for i, s in enumerate(table.provenance()["sessions"], 1) if s.get("kernel_lot", lot) < lot]
    return [r for r in table.rows() if r.session in sessions]


def _measured(table: LatencyTable, lot: int) -> bool:
    return any(s.get("kernel_lot") == lot for s in table.provenance()["sessions"])


def lone_workloads(lot: Sequence[Network], rng: random.Random) -> list[Workload]:
    """Some of the kernels of `lot`, each by itself."""
    from latency.modules import build

    ops = sorted({op for n in lot for op in n.ops if not op.is_free}, key=str)
    chosen = rng.sample(ops, min(LONE, len(ops)))
    return [Workload(str(op), "op", lambda op=op: build(op), op.input_shape) for op in chosen]  # type: ignore[misc]


def measure_kernels(
    device: Device, lot: Sequence[Network], table: LatencyTable, policy: Policy, rng: random.Random, ui: Ui
) -> dict[str, Any]:
    """Time the kernels of `lot` inside their networks, in rounds, and append a row for each that the table lacks.

    Returns facts for the provenance: how many kernels the profile named, and the share of time it named.
    """
    from latency.kernel_match import match

    known = {r.op: r for r in table.rows()}
    session = len(table.provenance()["sessions"])
    todo = [n.workload() for n in lot if network_text(n.ops) in known]
    networks = {network_text(n.ops): n for n in lot}
    runs = profiled_runs(_Profiled(device), todo, policy, rng, ui)
    walls = {key: known[key].median_s for key in runs}
    seconds, call_s = kernel_seconds([[r.seconds for r in runs[k]] for k in runs], list(walls.values()))
    samples: dict[Op, list[Floats]] = {}
    pairs, named = 0, []
    for key, of_network in zip(runs, seconds, strict=True):
        place = {id(r): i for i, r in enumerate(runs[key])}
        found = match(networks[key].kernels, runs[key])
        for kernel, run in found:
            assert kernel.op is not None
            samples.setdefault(kernel.op, []).append(of_network[place[id(run)]])
        pairs += len(found)
        named.append(sum(float(of_network[place[id(run)]].mean()) for _, run in found) / walls[key])
    for op, found_s in samples.items():
        if str(op) not in known:
            table.append(kernel_row(op, found_s, session))
    asked = sum(len(networks[key].kernels) for key in runs)
    facts = {"kernels": asked, "kernels_named": pairs, "time_named": round(float(np.mean(named)), 4)}
    return {**facts, "call_s": round(call_s, 8)}


def profiled_runs(
    device: Device, todo: Sequence[Workload], policy: Policy, rng: random.Random, ui: Ui
) -> dict[str, list[KernelRun]]:
    """The kernels of each network, timed in rounds on a device whose sessions are profiled; by the networks' keys.

    What cannot be opened or profiled is left out. Raises DeviceError where a profile cannot be read.
    """
    with ui.progress("preparing kernels") as report:
        profiled, _ = prepare(device, todo, report)
    try:
        with ui.progress("timing kernels") as report:
            run_rounds(
                profiled, todo, replace(policy, sample_s=0.0, target=0.0), rng, Progress(), report=report,
                on_round=lambda *_: None, on_done=lambda _: None, on_failed=lambda *_: None,
            )  # fmt: skip
        return {key: opened.kernel_runs() for key, opened in profiled.items()}  # type: ignore[attr-defined]
    finally:
        for opened in profiled.values():
            opened.close()


class _Profiled:
    """The device whose sessions are profiled."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> Any:
        """A profiled session."""
        return self._device.prepare_profiled(module, input_shape)

    def describe(self) -> dict[str, Any]:
        """The device's own."""
        return dict(self._device.describe())
