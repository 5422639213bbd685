"""Going on from what a run saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search import checkpoint
from search.rundir import METRICS, RunDir


def load_run(run: RunDir, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest whole checkpoint of `run`, rows of metrics.jsonl after it forgotten; None where nothing was saved.

    Raises CheckpointError where there are checkpoints, but none that can be used.
    """
    if not checkpoint.exists(run.checkpoint):
        return None
    saved, warning = checkpoint.load_newest(run.checkpoint)
    if warning is not None:
        warn(warning)
    for field, kind in (("results", dict), ("metrics_bytes", int), ("phase", str), ("state", dict)):
        if not isinstance(saved.get(field), kind):
            raise checkpoint.CheckpointError(f"{run.checkpoint} lacks '{field}'; start again with --overwrite")
    saved.setdefault("found_weights", None)
    if not run.truncate_metrics(saved["metrics_bytes"]):
        warn(f"{run.path / METRICS} lacks rows from before the checkpoint: the report will too")
        saved["metrics_bytes"] = (run.path / METRICS).stat().st_size
    return saved
