"""A run's rows as TensorBoard event files, beside metrics.jsonl: `search.run --tensorboard`.

The files are made anew from metrics.jsonl whenever a run starts or resumes, so they never hold a step twice.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.files import read_json
from search import rundir
from search.rundir import RunDir

FOLDER = "tensorboard"
FLUSH_S = 10

#: field of a row -> (group, name, factor): one curve each
CURVES = {
    "loss": ("loss", "training", 1.0),
    "valid_loss": ("loss", "validation", 1.0),
    "expected_s": ("latency_ms", "expected", 1e3),
    "lambda": ("search", "lambda", 1.0),
    "entropy": ("search", "entropy", 1.0),
    "test_accuracy": ("accuracy", "test", 1.0),
}


class TensorboardError(UserError):
    """TensorBoard's package is not installed."""


def require() -> None:
    """Raise TensorboardError, which says what to install, where event files cannot be written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise TensorboardError("--tensorboard needs a package: pip install 'metronome-nas[tensorboard]'")


@contextmanager
def events(run: RunDir) -> Iterator[Path]:
    """While open, every row of `run` goes to event files in its folder `tensorboard`. Yields the folder."""
    require()
    folder = run.path / FOLDER
    written = _Events(run, folder)
    run.listeners.append(written.row)
    try:
        yield folder
    finally:
        run.listeners.remove(written.row)
        written.close()


class _Events:
    """The writer: opened by the first row, for which it first goes through the rows that are there."""

    def __init__(self, run: RunDir, folder: Path) -> None:
        self._run, self._folder = run, folder
        self._writer: Any = None  # torch's SummaryWriter has no types
        self._target_s = float(read_json(run.path / rundir.CONFIG, "the config of a run")["target_s"])
        self._blocks: list[dict[str, Any]] = []

    def row(self, row: dict[str, Any]) -> None:
        """Write what `row`, the last of metrics.jsonl, holds."""
        if self._writer is not None:
            self._add(row)
            return
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder), flush_secs=FLUSH_S)
        for old in self._run.rows():
            self._add(old)

    def _add(self, row: dict[str, Any]) -> None:
        phase, step = row["phase"], row.get("step")
        if phase == "space":
            self._blocks = row["blocks"]
        if phase == "derived":
            told = {k: v for k, v in row.items() if not isinstance(v, list)}
            self._text("derived", json.dumps(told, indent=1))
        if step is None:  # a row about the run, not about a step
            return
        for field, (group, name, factor) in CURVES.items():
            if isinstance(row.get(field), (int, float)):
                by_phase = f"/{phase}" if group in ("loss", "accuracy") else ""
                self._scalar(f"{group}/{name}{by_phase}", row[field] * factor, step)
        if "expected_s" in row:
            self._scalar("latency_ms/target", self._target_s * 1e3, step)
        if "now" in row:
            self._scalar("latency_ms/network_of_the_moment", row["now"]["predicted_s"] * 1e3, step)
            self._scalar("accuracy/network_of_the_moment", row["now"]["accuracy"], step)
        for block, entropy in zip(self._blocks, row.get("entropies", ()), strict=False):
            self._scalar(f"entropy/{block['name']}", entropy, step)

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def _text(self, name: str, text: str) -> None:
        self._writer.add_text(name, f"```\n{text}\n```")

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
