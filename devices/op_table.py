"""The per-op table of `benchmark_model --enable_op_profiling`: seconds of each op inside the whole network."""

from __future__ import annotations

import re
from dataclasses import dataclass

from devices.benchmark_lines import BenchmarkTextError, lines_of, printable

_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_SECTION = re.compile(r"^=+ (.+?) =+\s*$")
_OBSERVED = re.compile(r"^(\d{1,9}) nodes observed", re.A)


@dataclass(frozen=True)
class Node:
    """One row: `kind` is the node type, `seconds` per inference (average of a call x calls per inference)."""

    name: str
    kind: str
    seconds: float


def parse_table(text: str) -> tuple[Node, ...]:
    """The rows of the run-order table of the regular runs, in order. Raises BenchmarkTextError.

    The table is printed twice where initialisation is profiled too: the second one counts. Columns are found by the
    header's names, for generations differ (`[start]` up to 2.4). Names of delegate rows may repeat: " #2" is added.
    """
    lines = lines_of(text)
    raw = printable(text).split("\n")
    titles = [(i, m[1]) for i, line in enumerate(lines) if (m := _SECTION.match(line.strip()))]
    starts = [i for i, title in titles if title == "Run Order"]
    regular = next((i for i, line in enumerate(lines) if _REGULAR in line), None)
    if regular is not None:
        starts = [i for i in starts if i > regular]
    if not starts:
        raise BenchmarkTextError("no 'Run Order' table: was benchmark_model built with op profiling?")
    start = starts[0] if regular is not None else starts[-1]
    end = next((i for i, _ in titles if i > start), None)
    if end is None:
        raise BenchmarkTextError("cut output: the 'Run Order' table does not end")
    rows = [line for line in raw[start + 1 : end] if "\t" in line]
    if not rows:
        raise BenchmarkTextError("the 'Run Order' table is empty")
    header = [cell.strip().strip("[]") for cell in rows[0].split("\t")]
    found = [_row(header, row.split("\t")) for row in rows[1:]]
    _check_number(lines[end:], found)
    return _unique(found)


def parse_csv(text: str) -> tuple[Node, ...]:
    """The same from `--op_profiling_output_mode=csv`. Commas inside `node type` are not escaped: split from the right.

    Raises BenchmarkTextError.
    """
    lines = printable(text).split("\n")
    heads = [i for i, line in enumerate(lines) if line.lower().startswith("node type")]
    if not heads:
        raise BenchmarkTextError("no CSV op table: the header 'node type, first, avg_ms, ...' is missing")
    header = [cell.strip() for cell in lines[heads[-1]].split(",")]
    found = []
    for line in lines[heads[-1] + 1 :]:
        if not line.strip() or line.count(",") < len(header) - 1:
            break
        found.append(_row(header, line.rsplit(",", len(header) - 1)))
    if not found:
        raise BenchmarkTextError("the CSV op table is empty")
    return _unique(found)


def _row(header: list[str], cells: list[str]) -> Node:
    names = [re.sub(r"[ _]+", " ", name.lower()) for name in header]
    if len(cells) != len(names):
        raise BenchmarkTextError(f"op table: {len(cells)} fields instead of {len(names)} in '{' '.join(cells)[:120]}'")
    cell = {name: value.strip() for name, value in zip(names, cells, strict=True)}
    try:
        calls = float(cell.get("times called", "1"))
        ms = float(cell["avg ms"])
        # Old builds print 0 calls for what ran less than once an inference on average: never a silent 0 seconds.
        node = Node(cell["name"], cell["node type"], ms * 1e-3 * max(calls, 1.0))
    except KeyError as missing:
        raise BenchmarkTextError(f"op table: no column {missing} in {', '.join(header)[:160]}") from None
    except ValueError:
        raise BenchmarkTextError(f"op table: no number in '{' '.join(cells)[:120]}'") from None
    if not 0 <= node.seconds < 1e6 or not node.name:
        raise BenchmarkTextError(f"op table: impossible row '{' '.join(cells)[:120]}'")
    return node


def _check_number(tail: list[str], found: list[Node]) -> None:
    """The table says how many nodes it has: a row lost on the way is noticed."""
    for line in tail:
        m = _OBSERVED.match(line.strip())
        if m and int(m[1]) != len(found):
            raise BenchmarkTextError(f"op table: {len(found)} rows, but {m[1]} nodes observed: cut output")
        if m:
            return


def _unique(nodes: list[Node]) -> tuple[Node, ...]:
    seen: dict[str, int] = {}
    unique = []
    for node in nodes:
        seen[node.name] = seen.get(node.name, 0) + 1
        name = node.name if seen[node.name] == 1 else f"{node.name} #{seen[node.name]}"
        unique.append(Node(name, node.kind, node.seconds))
    return tuple(unique)
