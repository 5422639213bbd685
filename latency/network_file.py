"""Whole networks measured by others: a CSV with a column of architectures and one column of latencies per device."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

from devices.errors import UserError, did_you_mean
from latency.joint import Observation
from latency.space import SearchSpace, SpaceError

UNITS = {"_ms": 1e-3, "_us": 1e-6, "_s": 1.0}


class NetworkFileError(UserError):
    """A file of networks that cannot be read."""


def parse_arch(text: str, space: SearchSpace) -> tuple[int, ...]:
    """The candidate of each choice: one digit each (`7818...`), or numbers separated by `-`, `,` or spaces.

    Raises SpaceError where `text` is not a network of `space`.
    """
    parts = re.split(r"[-,\s]+", text.strip()) if re.search(r"[-,\s]", text.strip()) else list(text.strip())
    if not all(re.fullmatch(r"\d{1,4}", part, re.ASCII) for part in parts):
        raise SpaceError(f"'{text[:60]}' is not a list of candidate numbers")
    indices = tuple(map(int, parts))
    space.architecture(indices)
    return indices


def unit_of(column: str) -> float:
    """Seconds per unit of a latency column, from its name: NAME_ms, NAME_us or NAME_s. Raises NetworkFileError."""
    for ending, unit in UNITS.items():
        if column.endswith(ending):
            return unit
    raise NetworkFileError(f"column '{column}' does not tell its unit: rename it to {column}_ms, {column}_us or _s")


def read_networks(
    path: Path, space: SearchSpace, column: str, arch_column: str = "arch", rel_std: float = 0.0
) -> list[Observation]:
    """Every network of the file as an observation; `rel_std` is the relative standard error of a measurement, if known.

    Networks that the file holds more than once are separate observations. Raises NetworkFileError naming the file,
    the line and the field.
    """
    unit = unit_of(column)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NetworkFileError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise NetworkFileError(f"{path}: not a text file ({error})") from None
    reader = csv.DictReader(text.splitlines())
    columns = list(reader.fieldnames or [])
    for wanted in (arch_column, column):
        if wanted not in columns:
            have = ", ".join(columns) or "none"
            raise NetworkFileError(f"{path}: no column '{wanted}': {did_you_mean(wanted, columns)}the file has {have}")
    found = []
    for number, row in enumerate(reader, 2):
        try:
            seconds = _seconds(row[column], column, unit)
            ops = space.architecture(parse_arch(row[arch_column] or "", space)).ops
        except (NetworkFileError, SpaceError) as error:
            raise NetworkFileError(f"{path} line {number}: {error}") from None
        found.append(Observation(ops, seconds, rel_std * seconds))
    if not found:
        raise NetworkFileError(f"{path}: no networks in it")
    return found


def _seconds(text: str | None, column: str, unit: float) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise NetworkFileError(f"{column} = {text!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise NetworkFileError(f"{column} = {text} is not a positive time")
    return value * unit
