"""runs/NAME/: the files of one run, and whether a run may start, go on, or must not touch them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.files import read_json, write_atomically, write_json
from latency.space import SearchSpace
from search.costs import Costs

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.pt"
BEFORE = "checkpoint_before.pt"
ARCHITECTURE, NETWORK, REPORT = "architecture.json", "network.onnx", "report.html"
TFLITE, WEIGHTS, RESULT = "network.tflite", "model.safetensors", "result.json"
RANDOM_ARCHITECTURE, VERIFY = "random_architecture.json", "verify.json"
NETWORKS = (NETWORK, TFLITE, WEIGHTS)
OURS = (CONFIG, METRICS, CHECKPOINT, BEFORE, ARCHITECTURE, RANDOM_ARCHITECTURE, *NETWORKS, REPORT, VERIFY, RESULT)
#: What a resumed run may change: the advice after a loss that is no number is to go on with a lower rate.
RATES = ("recipe.warmup_lr", "recipe.search_lr", "recipe.train_lr", "recipe.alpha_lr")
#: And, until a network is chosen: a device that fails must not lock in the search that went before.
VERIFY_ON = ("verify_on",)


class RunError(UserError):
    """A run folder that is not what the command needs it to be."""


class RunDir:
    """One run's folder. `config` holds what decides the result; "machine" in it is told but not compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[dict[str, Any]], None]] = []  # told of each row that `append` has written

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies."""
        return self.path / CHECKPOINT

    def begin(self, config: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> list[str]:
        """Make the folder ready. Returns differences worth a warning. Raises RunError where it may not.

        A folder in use is refused without `resume` or `overwrite`; with `resume` the config must be the same but for
        the machine, the learning rates and, until a network is chosen, the device of `--verify-on`, whose change is
        written down.
        """
        if resume and overwrite:
            raise RunError("--resume and --overwrite exclude each other")
        exists = (self.path / CONFIG).is_file()
        if resume:
            return self._resume(config, exists)
        if exists and not overwrite:
            old = read_json(self.path / CONFIG, "the config of a run")
            changed = differences(old, config)
            if self.finished() is not None:
                raise RunError(f"{self.path} holds a finished run; add --overwrite to replace it, or another --name")
            if not changed:
                raise RunError(f"{self.path} holds this very run, unfinished; add --resume to go on, or --overwrite")
            raise RunError(
                f"{self.path} holds an unfinished run with another config ({changed[0]}); "
                "choose another --name, or add --overwrite"
            )
        if not exists and self.path.is_dir() and any(self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and not a run; choose another --name")
        for name in OURS:
            (self.path / name).unlink(missing_ok=True)
        write_json(self.path / CONFIG, config)
        return []

    def _resume(self, config: dict[str, Any], exists: bool) -> list[str]:
        if not exists:
            raise RunError(f"nothing to resume: {self.path} has no {CONFIG}; leave --resume out to start")
        old = read_json(self.path / CONFIG, "the config of a run")
        changed = differences(old, config)
        other_device = any(difference.startswith(VERIFY_ON) for difference in changed)
        may_change = RATES + VERIFY_ON if other_device and not self.chosen() else RATES
        allowed = [difference for difference in changed if difference.startswith(may_change)]
        if len(changed) > len(allowed):
            others = [difference for difference in changed if difference not in allowed]
            raise RunError(
                f"{self.path} was started with another config: {'; '.join(others[:3])}; "
                "give the same options, or choose another --name"
            )
        if allowed:
            before = old.pop("before", [])
            write_json(self.path / CONFIG, {**config, "before": [*before, old]})
        machines = {"machine": old.get("machine")}, {"machine": config.get("machine")}
        return allowed + differences(*machines, compare_machine=True)

    def truncate_metrics(self, n_bytes: int) -> bool:
        """Forget rows written after the checkpoint, a torn last line included. False where rows before it lack."""
        path = self.path / METRICS
        content = path.read_bytes()[:n_bytes] if path.exists() else b""
        write_atomically(path, content)
        return len(content) == n_bytes

    def sync_metrics(self) -> None:
        """Have the rows on disk: a checkpoint must not outlive them in a power failure."""
        try:
            with (self.path / METRICS).open("ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path / METRICS}: {error.strerror or error}") from error

    def append(self, row: dict[str, Any]) -> int:
        """Add one row to metrics.jsonl and flush it. Returns the file's size. Numbers that JSON lacks become null."""
        line = json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()})
        try:
            with (self.path / METRICS).open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                size = file.tell()
        except OSError as error:
            raise RunError(f"cannot write {self.path / METRICS}: {error.strerror or error}") from error
        for listener in self.listeners:
            listener(row)
        return size

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of metrics.jsonl; a torn last line is left out. Raises RunError for a damaged line before it."""
        path = self.path / METRICS
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                if number == len(lines):
                    return
                raise RunError(f"{path}:{number}: not JSON; the file is damaged") from None
            yield row

    def chosen(self) -> bool:
        """Whether the search has ended with a network."""
        return any(row.get("phase") == "derived" for row in self.rows())

    def finished(self) -> dict[str, Any] | None:
        """The row of results that ends a finished run, else None."""
        last: dict[str, Any] | None = None
        for row in self.rows():
            last = row
        return last if last is not None and last.get("phase") == "done" else None


def differences(old: dict[str, Any], new: dict[str, Any], *, compare_machine: bool = False) -> list[str]:
    """Fields in which two configs differ, as `recipe.batch_size: 32 there, 64 here`."""
    flat_old, flat_new = dict(_flat(old)), dict(_flat(new))
    skipped = ("before",) if compare_machine else ("before", "machine")
    names = [name for name in flat_old | flat_new if not name.startswith(skipped)]
    return [
        f"{name}: {flat_old.get(name, 'absent')} there, {flat_new.get(name, 'absent')} here"
        for name in names
        if flat_old.get(name) != flat_new.get(name)
    ]


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def space_row(space: SearchSpace, costs: Costs) -> dict[str, Any]:
    """The first row of metrics.jsonl: what there is to choose from and what it costs."""
    blocks = [
        {"name": c.name, "candidates": list(map(str, c.candidates)), "cost_s": costs_K[: len(c.candidates)]}
        for c, costs_K in zip(space.choices, costs.cost_LK.tolist(), strict=True)
    ]
    row = {
        "phase": "space",
        "blocks": blocks,
        "fixed_s": costs.fixed_s,
        "uniform_s": costs.expected_s(costs.uniform_LK),
    }
    return row | ({"layout": [s if isinstance(s, int) else str(s) for s in space.layout]} if space.layout else {})
