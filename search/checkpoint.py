"""Checkpoints: whole or not at all, two kept, at intervals and when asked to stop."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from devices.errors import UserError

SCHEMA = 1
ONE_REQUEST_S = 1.0  # signals this near each other are one: torchrun passes on the Ctrl-C that its processes also get


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or belongs to something else."""


class Damaged(CheckpointError):
    """A file that is there but holds no whole checkpoint."""


def before(path: Path) -> Path:
    """Where the checkpoint that `path` replaced is kept."""
    return path.with_name(f"{path.stem}_before{path.suffix}")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write beside `path`, flush to disk, rename: a kill at any moment leaves the old checkpoint or the new one.

    What lay at `path` is kept as `before(path)`. Raises CheckpointError where the disk is full or cannot be written;
    both old checkpoints then stand.
    """
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            torch.save({"schema": SCHEMA, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _keep(path)
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = _system_error(error)
        if cause is None:
            raise
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        stands = f"{path} as it was stands" if path.exists() else "nothing was saved before it"
        raise CheckpointError(
            f"cannot write {path} ({_n_bytes(content) / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free): "
            f"{cause.strerror or cause}; {stands}: make room, then run the same command with --resume"
        ) from error


def _keep(path: Path) -> None:
    """Give `path` its second name, so that it never lacks the first."""
    link = path.with_name(path.name + ".link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment only `before(path)` is there, which load takes
        path.replace(before(path))
    else:
        link.replace(before(path))


def _sync_folder(folder: Path) -> None:
    """Make the renames last through a power failure, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _system_error(error: BaseException | None) -> OSError | None:
    """The OSError at the root: torch.save reports a full disk as a RuntimeError of its own while handling it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _n_bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(_n_bytes, parts))


def not_finite(content: Any, name: str = "") -> str | None:
    """The name of the first tensor in `content` that holds a NaN or an infinity, else None."""
    if isinstance(content, torch.Tensor):
        return None if not content.is_floating_point() or bool(content.isfinite().all()) else name
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return next((bad for k, v in items if (bad := not_finite(v, f"{name}.{k}".lstrip("."))) is not None), None)


def exists(path: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return path.is_file() or before(path).is_file()


def load(path: Path) -> dict[str, Any]:
    """The content of `path`: tensors and plain values only, so a hostile file runs nothing. Raises CheckpointError."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums that it writes
            wrong = archive.testzip()
        if wrong is not None:
            raise zipfile.BadZipFile(f"the check sum of {wrong} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # torch raises classes of pickle, zipfile and its own for a damaged file
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Damaged(f"{path} is damaged ({first[:120]}); start again with --overwrite") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise Damaged(f"{path} is not a checkpoint of schema {SCHEMA}; start again with --overwrite")
    return content


def load_newest(path: Path) -> tuple[dict[str, Any], str | None]:
    """The content of `path`, or of the checkpoint before it where `path` is damaged or gone, with a warning.

    The damaged file is then replaced by the one before: the next `save` must not keep it in place of the good one.
    Raises CheckpointError where neither can be read.
    """
    older = before(path)
    try:
        return load(path), None
    except CheckpointError as error:
        if not older.is_file() or not (isinstance(error, Damaged) or not path.exists()):
            raise
        try:
            content = load(older)
        except CheckpointError:
            raise error from None
        what = str(error).split("; start again")[0]
        older.replace(path)
        return content, f"{what}: going on from the checkpoint before it"


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
    asked: int = 0  # the signal that came
    _last: float = field(default_factory=time.monotonic)
    _asked_at: float = 0.0

    def tick(self) -> None:
        """Save where it is time. Raises KeyboardInterrupt or Terminated, after saving, where a stop was asked for."""
        if self.asked or time.monotonic() - self._last >= self.interval_s:
            self.write()
            self._last = time.monotonic()
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt(self.advice)
        if self.asked == signal.SIGTERM:
            raise Terminated(self.advice)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM until the end of the block (in the main thread; elsewhere signals do not arrive)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if not self.asked:
                self.asked, self._asked_at = number, time.monotonic()
            elif time.monotonic() - self._asked_at > ONE_REQUEST_S:
                raise KeyboardInterrupt("stopped at once; the last checkpoint stands")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
