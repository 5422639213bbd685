"""A pickle that holds only builtins and numpy arrays, read by an unpickler that admits nothing else."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.files import write_atomically

# What numpy arrays and scalars need to come back; the module moved between numpy 1 and 2.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}
_PLAIN = (type(None), bool, int, float, str)
MAX_DEPTH = 64  # of containers in containers: a predictor transferred from a transferred one adds 3 levels each time


class PickleError(UserError):
    """A file that is not one of ours: damaged, or holding more than data."""


class _DataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise PickleError(
                f"it asks for {module}.{name}, which a file of plain data never does; nothing was run. "
                "Do not trust where it came from"
            )
        return super().find_class(module, name)


def dump(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically. Raises TypeError for anything but builtins and numeric arrays, or nested too deep."""
    _check(content)
    write_atomically(path, pickle.dumps(content, protocol=4))


def load(path: Path) -> dict[str, Any]:
    """Read what `dump` wrote. Raises PickleError naming the file; runs nothing that the file asks for."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PickleError(f"{path}: {error.strerror or error}") from None
    try:
        content = _DataOnly(io.BytesIO(raw)).load()
    except PickleError as error:
        raise PickleError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise PickleError(f"{path}: damaged or cut short ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict):
        raise PickleError(f"{path}: not a file of this project")
    try:
        _check(content)
    except TypeError as error:
        raise PickleError(f"{path}: {error}") from None
    return content


def depth(value: Any) -> int:
    """How many containers stand around the innermost value; 0 for a plain value or an array."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list | tuple) else 0


def _check(value: Any, depth: int = 0) -> None:
    import numpy as np

    if depth > MAX_DEPTH:
        raise TypeError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"an array of {value.dtype} is not numeric data")
    elif not isinstance(value, _PLAIN):
        raise TypeError(f"{type(value).__name__} is not plain data")
