"""Several runs beside each other in one HTML file: what was found for each device, and what it takes on the others."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency.console import ms
from latency.files import read_json, write_atomically
from search import diagram, figures, rundir
from search.report import ReportError, page


@dataclass(frozen=True)
class Run:
    """A run that has found a network."""

    name: str
    config: dict[str, Any]
    space: dict[str, Any]
    derived: dict[str, Any]
    done: dict[str, Any] | None
    alpha: list[dict[str, Any]]

    @property
    def candidates(self) -> list[list[str]]:
        """The ops of every block."""
        return [block["candidates"] for block in self.space["blocks"]]

    def seconds_of(self, other: Run) -> float | None:
        """What the network of `other` takes by this run's predictor; None where the two searched other spaces."""
        if self.candidates != other.candidates or self.space.get("layout") != other.space.get("layout"):
            return None
        costs = (b["cost_s"][i] for b, i in zip(self.space["blocks"], other.derived["indices"], strict=True))
        return float(self.space["fixed_s"] + sum(costs))


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises ReportError where there is none, or where it has found nothing yet."""
    if not (folder / rundir.CONFIG).is_file():
        raise ReportError(f"{folder} is not a run: it has no {rundir.CONFIG}; python -m search.run makes one")
    config = read_json(folder / rundir.CONFIG, "the config of a run")
    rows = list(rundir.RunDir(folder).rows())
    last = {row["phase"]: row for row in rows}
    if "derived" not in last or "space" not in last:
        raise ReportError(f"{folder} has found no network yet: its search is unfinished; go on with --resume")
    alpha = [row for row in rows if row["phase"] == "search" and "expected_s" in row]
    return Run(folder.resolve().name, config, last["space"], last["derived"], last.get("done"), alpha)


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write the runs in `folders` side by side to `path`. Raises ReportError, RunError."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ReportError(f"two runs have one name ({', '.join(names)}): give folders of different names")
    try:
        body = page(" / ".join(names), _sections(runs))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ReportError(f"the files of these runs do not fit together: {type(error).__name__} {error}") from error
    write_atomically(path, body.encode())
    return path


def _sections(runs: Sequence[Run]) -> list[str]:
    parts = [f"<h1>{html.escape(' / '.join(r.name for r in runs))}</h1>", _results(runs), *_crossed(runs)]
    watched = {run.name: run.alpha for run in runs if any("now" in row for row in run.alpha)}
    if watched:
        targets = {run.name: run.config["target_s"] for run in runs}
        parts += [
            "<h2>The searches</h2><p class=c>The network of the moment, from pale to dark; the large mark is the last. "
            "Accuracy is that of shared weights.</p>",
            figures.search_path(watched, targets),
        ]
    return [*parts, "<h2>The networks</h2>", _blocks(runs)]


def _results(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        accuracy = [f"{run.done[f'train_{n}_accuracy']:.1%}" if run.done else "-" for n in ("found", "random")]
        cells = [
            run.name,
            str(run.config["space"]),
            ms(run.config["target_s"]),
            ms(run.derived["predicted_s"]),
            accuracy[0],
            accuracy[1],
        ]
        rows.append(cells)
    return _table(["run", "space", "target", "predicted", "test accuracy", "of a random equal"], rows)


def _crossed(runs: Sequence[Run]) -> list[str]:
    def cell(by: Run, of: Run) -> str:
        seconds = by.seconds_of(of)
        if seconds is None:
            return "-"
        over = seconds / by.config["target_s"] - 1
        return ms(seconds) + (f" ({over:+.0%})" if over > 0 else "")

    rows = [[f"network of {of.name}", *(cell(by, of) for by in runs)] for of in runs]
    return [
        "<h2>Each network by each run's predictor</h2>",
        "<p class=c>In brackets: by how much it misses that run's target. A dash: another space.</p>",
        _table(["", *(f"predictor of {run.name}" for run in runs)], rows),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td class=n>{html.escape(text)}</td>" for text in others)
        lines.append(f"<tr><th>{html.escape(first)}</th>{cells}</tr>")
    return f"<table><tr>{top}</tr>{''.join(lines)}</table>"


def _blocks(runs: Sequence[Run]) -> str:
    """A row a block (a cell, where the space has branches), a column a run; shading is the share of its latency."""
    networks = [diagram.cells(run.space, run.derived["indices"]) for run in runs]
    totals = [sum(cell.seconds for cell in network) or 1.0 for network in networks]
    longest = max(map(len, networks))
    most = max(c.seconds / total for network, total in zip(networks, totals, strict=True) for c in network) or 1.0
    lines = []
    for place in range(longest):
        cells = []
        for network, total in zip(networks, totals, strict=True):
            cells.append(_cell(network[place], total, most) if place < len(network) else "<td></td>")
        names = dict.fromkeys(network[place].name for network in networks if place < len(network))
        lines.append(f"<tr><th>{html.escape(' / '.join(names))}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(run.name)}</th>" for run in runs)
    return f"<table class=b><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _cell(cell: diagram.Cell, total: float, most: float) -> str:
    share = cell.seconds / total
    text = "<br>".join(html.escape(line).replace("  ", "&ensp;") for line in diagram.lines(cell.nodes))
    width = 100 * share / most
    chosen = [leaf for leaf in cell.leaves if leaf.block is not None]
    if chosen and all(leaf.op.is_free for leaf in chosen):
        return f"<td class=s>{text}</td>"
    bar = f"background:linear-gradient(90deg,#cfe0f2 {width:.1f}%,transparent {width:.1f}%)"
    return f'<td style="{bar}">{text}<span>{cell.seconds * 1e3:.3g} ms</span></td>'
