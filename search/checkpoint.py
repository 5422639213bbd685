"""Checkpoints: whole or not at all, at intervals and when asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from devices.errors import UserError

SCHEMA = 1


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or belongs to something else."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write beside `path`, flush to disk, rename: a kill at any moment leaves the old checkpoint or the new one."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            torch.save({"schema": SCHEMA, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def load(path: Path) -> dict[str, Any]:
    """The content of `path`: tensors and plain values only, so a hostile file runs nothing. Raises CheckpointError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # torch raises classes of pickle, zipfile and its own for a damaged file
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is damaged ({first[:120]}); start again with --overwrite") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise CheckpointError(f"{path} is not a checkpoint of schema {SCHEMA}; start again with --overwrite")
    return content


class Terminated(SystemExit):
    """SIGTERM came; the run is saved. Exit code 143."""

    def __init__(self, advice: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.advice = advice


@dataclass
class Saver:
    """Calls `write` every `interval_s`, and once more where a stop was asked for. `tick` runs between steps.

    A signal only sets a flag: a step is never cut in two. A second Ctrl-C does not wait.
    """

    write: Callable[[], None]
    interval_s: float
    advice: str = ""
    _last: float = field(default_factory=time.monotonic)
    _asked: int = 0

    def tick(self) -> None:
        """Save where it is time. Raises KeyboardInterrupt or Terminated, after saving, where a stop was asked for."""
        if self._asked or time.monotonic() - self._last >= self.interval_s:
            self.write()
            self._last = time.monotonic()
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt(self.advice)
        if self._asked == signal.SIGTERM:
            raise Terminated(self.advice)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM until the end of the block (in the main thread; elsewhere signals do not arrive)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt("stopped at once; the last checkpoint stands")
            self._asked = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
