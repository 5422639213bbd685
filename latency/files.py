"""Files that survive a kill: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from devices.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename. Raises UserError naming the file."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: Path) -> None:
    """Raises UserError where `path` cannot be written: said before long work, not after it. Touches nothing."""
    folder = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: no permission to write in {folder}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """`content` as indented JSON with sorted keys, atomically."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises UserError naming the file; `what` says what it should be."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; expected {what}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected {what}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected {what}, a JSON object")
    return content
