"""LatencyTable: a CSV of measured workloads, beside a JSON of provenance and a CSV of raw samples.

    NAME.csv          one row per finished workload, flushed as it finishes; rows of earlier sessions never change
    NAME.json         what device, which space, which sessions
    NAME.samples.csv  every sample of every round, so that a killed run goes on where it stopped

A torn last line (a kill in the middle of a write) is dropped on reading; any other bad line is an error.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.files import read_json, write_atomically, write_json
from latency.ops import Op, OpError, parse_network

SCHEMA = 1
COLUMNS = ("op", "kind", "n", "median_s", "ci_low_s", "ci_high_s", "p10_s", "min_s", "drift", "flags", "session")
SAMPLE_COLUMNS = ("session", "round", "workload", "seconds")
KINDS = ("op", "network")


class TableError(UserError):
    """A table that cannot be read, or that was measured on something else."""


@dataclass(frozen=True)
class Row:
    """One measured workload. Seconds per inference; `ops` has one op for kind "op", a chain for "network"."""

    op: str
    kind: str
    n: int
    median_s: float
    ci_low_s: float
    ci_high_s: float
    p10_s: float
    min_s: float
    drift: float
    flags: tuple[str, ...]
    session: int

    @property
    def ops(self) -> tuple[Op, ...]:
        """The parsed ops."""
        return parse_network(self.op)

    def own_half_s(self, scale: float) -> float:
        """Half the interval without what all rows of the session have in common, which is known within +-`scale`.

        It is what tells ops apart: a common error moves no rank, and a fit takes it for the speed of the host.
        """
        if "in_context" in self.flags:  # a share of a network's time, whose interval it does not have
            scale = 0.0
        low, high = (
            math.sqrt(max(math.log(end / self.median_s) ** 2 - scale**2, 0.0)) if end else math.inf
            for end in (self.ci_low_s, self.ci_high_s)
        )
        return self.median_s * (math.exp(high) - math.exp(-low)) / 2

    def cells(self) -> list[str]:
        """The CSV cells, in order of COLUMNS."""
        values = [getattr(self, name) for name in COLUMNS]
        return [repr(v) if isinstance(v, float) else "+".join(v) if isinstance(v, tuple) else str(v) for v in values]


def _number(text: str, name: str, minimum: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise TableError(f"{name} = {text!r} is not a number") from None
    if not math.isfinite(value):
        raise TableError(f"{name} = {text} is not finite")
    if value < minimum:
        raise TableError(f"{name} = {text} is below {minimum:g}")
    return value


def parse_row(cells: Sequence[str]) -> Row:
    """The row in CSV `cells`. Raises TableError naming the field."""
    if len(cells) != len(COLUMNS):
        raise TableError(f"{len(cells)} fields instead of {len(COLUMNS)}")
    cell = dict(zip(COLUMNS, cells, strict=True))
    if cell["kind"] not in KINDS:
        raise TableError(f"kind = {cell['kind']!r}; one of {', '.join(KINDS)}")
    try:
        ops = parse_network(cell["op"])
    except OpError as error:
        raise TableError(f"op: {error}") from None
    if cell["kind"] == "op" and len(ops) != 1:
        raise TableError(f"kind = op, but the text holds {len(ops)} ops")
    numbers = {name: _number(cell[name], name) for name in ("median_s", "ci_low_s", "ci_high_s", "p10_s", "min_s")}
    if numbers["median_s"] == 0:
        raise TableError("median_s = 0: nothing takes no time")
    if not numbers["ci_low_s"] <= numbers["median_s"] <= numbers["ci_high_s"]:
        raise TableError("median_s lies outside ci_low_s .. ci_high_s")
    return Row(
        op=cell["op"],
        kind=cell["kind"],
        n=int(_number(cell["n"], "n", 1)),
        **numbers,
        drift=_number(cell["drift"], "drift", -1.0),
        flags=tuple(filter(None, cell["flags"].split("+"))),
        session=int(_number(cell["session"], "session", 1)),
    )


class LatencyTable:
    """The three files of table `path` (NAME.csv). Opening reads nothing; see `rows`, `samples`, `provenance`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.json_path = path.with_suffix(".json")
        self.samples_path = path.with_suffix(".samples.csv")

    def rows(self) -> list[Row]:
        """Every row. Raises TableError naming the file and the line; a torn last line is dropped."""
        rows: list[Row] = []
        seen: dict[str, int] = {}
        for number, cells in _lines(self.path, COLUMNS, "python -m latency.profile writes one"):
            try:
                row = parse_row(cells)
            except TableError as error:
                raise TableError(f"{self.path} line {number}: {error}") from None
            if row.op in seen:
                raise TableError(f"{self.path} line {number}: measured already in line {seen[row.op]}: {row.op[:80]}")
            seen[row.op] = number
            rows.append(row)
        return rows

    def samples(self) -> list[tuple[int, int, str, float]]:
        """(session, round, workload id, seconds) of every sample kept. Raises TableError."""
        found = []
        for number, cells in _lines(self.samples_path, SAMPLE_COLUMNS, "it is written beside the table"):
            try:
                session, round_, workload, seconds = cells
                found.append((int(session), int(round_), workload, _number(seconds, "seconds")))
            except (ValueError, TableError) as error:
                raise TableError(f"{self.samples_path} line {number}: {error}") from None
        return found

    def provenance(self) -> dict[str, Any]:
        """The content of NAME.json. Raises UserError where it is absent or of another schema."""
        content = read_json(self.json_path, "the provenance of a latency table")
        if content.get("schema") != SCHEMA:
            raise TableError(f"{self.json_path}: schema {content.get('schema')!r}; this version reads schema {SCHEMA}")
        if not isinstance(content.get("fingerprint"), dict) or not isinstance(content.get("sessions"), list):
            raise TableError(f"{self.json_path}: fields 'fingerprint' and 'sessions' are needed")
        return content

    def scales(self) -> dict[int, float]:
        """Session -> half the 95 % interval, as a fraction, of the host's speed in it; none where unknown."""
        sessions = self.provenance()["sessions"] if self.json_path.exists() else []
        return {i: float(s["scale"]) for i, s in enumerate(sessions, 1) if "scale" in s}

    def digest(self) -> str:
        """sha256 of NAME.csv."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def start(self, fingerprint: dict[str, Any], about: dict[str, Any]) -> int:
        """Begin a session: make the files or check that they are of this device. Returns the session's number.

        Raises TableError, showing the difference, where the table was measured under another fingerprint.
        """
        if self.path.exists() and self.json_path.exists():
            content = self.provenance()
            difference = fingerprint_difference(content["fingerprint"], fingerprint)
            if difference:
                raise TableError(
                    f"{self.path} was measured on another device or version ({'; '.join(difference)}); "
                    "write to another file with --out, or begin anew with --overwrite"
                )
        elif self.path.exists() and self.path.stat().st_size > 0:
            raise TableError(
                f"{self.path} has no provenance {self.json_path}: what it was measured on is unknown; "
                "write to another file with --out, or begin anew with --overwrite"
            )
        else:
            content = {"schema": SCHEMA, "fingerprint": fingerprint, "sessions": []}
        content["sessions"].append(about)
        for path, columns in ((self.path, COLUMNS), (self.samples_path, SAMPLE_COLUMNS)):
            _mend(path, columns)
        write_json(self.json_path, content)
        return len(content["sessions"])

    def update_session(self, **facts: Any) -> None:
        """Add facts (rounds, seconds, ...) to the session under way."""
        content = self.provenance()
        content["sessions"][-1].update(facts)
        write_json(self.json_path, content)

    def append(self, row: Row) -> None:
        """Add one row; it is on disk when this returns."""
        _append(self.path, [row.cells()])

    def settle(self, rows: Sequence[Row]) -> None:
        """Put `rows` in the place of those of the same op and session, all at once; every other line stays as it is."""
        with self.path.open("rb") as file:
            lines = file.read().decode("utf-8").split("\n")
        new = {(row.op, str(row.session)): row for row in rows}
        for i, line in enumerate(lines[1:], 1):
            cells = next(csv.reader([line]), [])
            row = new.get((cells[0], cells[-1])) if len(cells) == len(COLUMNS) else None
            if row is not None:
                lines[i] = _csv([row.cells()]).rstrip("\n")
        write_atomically(self.path, "\n".join(lines).encode())

    def append_samples(self, session: int, round_: int, samples: Sequence[tuple[str, float]]) -> None:
        """Add the samples of one round: (workload id, seconds)."""
        _append(self.samples_path, [[str(session), str(round_), w, repr(s)] for w, s in samples])

    def remove(self) -> None:
        """Delete the three files."""
        for path in (self.path, self.json_path, self.samples_path):
            path.unlink(missing_ok=True)


def workload_id(key: str) -> str:
    """A short name for a workload in NAME.samples.csv."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def fingerprint_difference(table: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """`field: table has A, here B` for every field that differs."""
    return [
        f"{k}: table has {table.get(k)!r}, here {here.get(k)!r}"
        for k in sorted({*table, *here})
        if table.get(k) != here.get(k)
    ]


def _lines(path: Path, columns: tuple[str, ...], hint: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of the data lines; what follows the last newline is torn and dropped."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TableError(f"{path}: {error.strerror or error}; {hint}") from None
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not a text file ({error})") from None
    whole, _, _torn = text.rpartition("\n")
    lines = whole.split("\n") if whole else []
    if not lines:
        raise TableError(f"{path}: empty; {hint}")
    if lines[0].rstrip("\r") != ",".join(columns):
        raise TableError(f"{path} line 1: the header must be {','.join(columns)}")
    return [(n, next(csv.reader([line.rstrip("\r")], strict=False))) for n, line in enumerate(lines[1:], 2) if line]


def _mend(path: Path, columns: tuple[str, ...]) -> None:
    """Make the file with its header, or cut a torn last line so that the next one starts clean."""
    if not path.exists() or path.stat().st_size == 0:
        _append(path, [list(columns)])
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
    if path.stat().st_size == 0:
        _append(path, [list(columns)])


def _csv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _append(path: Path, rows: Sequence[Sequence[str]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(_csv(rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise TableError(f"cannot write {path}: {error.strerror or error}") from error
