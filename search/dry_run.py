"""What `search.run --dry-run` prints: the memory of a run's steps, the largest batch, and the ways down."""

from __future__ import annotations

from typing import Any

import torch

from devices.errors import UserError
from latency.console import Ui
from search.estimate import OPTIMIZERS, PATHS, Estimator, Setting, ways_down
from search.memory import GIB

STEPS = {
    "one path": "weight step: one path",
    "two paths": "alpha step: one path, and the outputs of a second",
    "all paths": "all paths in the graph (one-shot, DARTS)",
}

ALL_PATHS = ("darts", "one_shot")  # the strategies that have all candidates in the graph


def budget_bytes(memory_gib: float | None, device: str) -> tuple[int, str]:
    """(bytes, what they are): as asked for, or all that the device has."""
    if memory_gib is not None:
        if not 0 < memory_gib < 2**20:
            raise UserError(f"--memory-gib {memory_gib}: a positive number of GiB is needed")
        return int(memory_gib * GIB), f"{memory_gib:g} GiB"
    if device.startswith("cuda"):
        total = torch.cuda.get_device_properties(torch.device(device)).total_memory
        return total, f"{total / GIB:.1f} GiB, what this GPU has"
    import psutil

    total = psutil.virtual_memory().total
    return total, f"{total / GIB:.1f} GiB, what this machine has"


def dry_run(
    ui: Ui, setting: Setting, batch: int, optimizer: str, strategy: str, memory_gib: float | None, device: str
) -> dict[str, Any]:
    """Print the tables; returns them for --json, sizes in bytes."""
    budget, what = budget_bytes(memory_gib, device)
    steps = ("all paths",) if strategy in ALL_PATHS else ("one path", "two paths")
    with ui.progress("counting bytes") as report:
        estimator = Estimator(setting, optimizer)
        needs, largest = {}, {}
        for i, paths in enumerate(PATHS):
            report(i, len(PATHS) + 1, STEPS[paths])
            needs[paths], largest[paths] = estimator.need(paths, batch), estimator.largest_batch(paths, budget)
        run_step = max(steps, key=lambda paths: needs[paths].total)
        report(len(PATHS), len(PATHS) + 1, "ways to need less")
        ways = ways_down(estimator, run_step, batch)
    size = "x".join(map(str, setting.shape))
    what_of = f"{setting.space.name}, {setting.classes} classes"
    title = f"{what_of}; a step on {batch} images of {size} in {setting.compute.precision}"
    ui.table(
        f"{title}: GiB",
        ["step", "parameters", "gradients", "optimiser", "activations", "in all", f"largest batch in {what}"],
        [
            [
                STEPS[paths],
                *(_gib(n) for n in (need.parameters, need.gradients, need.optimizer, need.activations, need.total)),
                str(largest[paths]) if largest[paths] else "none",
            ]
            for paths, need in needs.items()
        ],
    )
    kept = {name: copies * estimator.weights for name, copies in OPTIMIZERS.items()}
    ui.say("optimiser state, GiB: " + ", ".join(f"{name} {_gib(size)}" for name, size in kept.items()))
    ui.table(
        f"ways down from the {_gib(needs[run_step].total)} GiB of this run ({strategy}), each alone",
        ["way", "how", "in all, GiB"],
        [[way.name, way.how, "not for this space" if way.total is None else _gib(way.total)] for way in ways],
    )
    if needs[run_step].total > budget:
        ui.warn(f"this run does not fit: {_gib(needs[run_step].total)} GiB are needed, there are {what}")
    return {
        "space": setting.space.name,
        "batch_size": batch,
        "shape": list(setting.shape),
        "precision": setting.compute.precision,
        "budget_bytes": budget,
        "steps": {paths: vars(need) | {"largest_batch": largest[paths]} for paths, need in needs.items()},
        "optimizer_bytes": kept,
        "ways": [vars(way) for way in ways],
        "fits": needs[run_step].total <= budget,
    }


def _gib(n: int) -> str:
    return f"{n / GIB:.3f}" if n < 10 * GIB else f"{n / GIB:.1f}"
