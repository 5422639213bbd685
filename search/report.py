"""One self-contained HTML file about a run, made from the files in its folder: `python -m search.report RUN_DIR`."""

from __future__ import annotations

import argparse
import html
import sys
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run
from latency.files import read_json, write_atomically

STYLE = """body{font:15px/1.5 sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.25em .9em;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right}svg{max-width:100%;height:auto}h2{margin-top:1.8em}p.c{color:#555}
table.b td{min-width:11em;border-left:1px solid #ddd;font-size:13px}table.b span{float:right;color:#555}
td.s{color:#999;font-style:italic}"""


MOST_MAPS = 48  # blocks that get a map of their own; beyond, one map for all edges of a cell
Phases = dict[str, list[dict[str, Any]]]  # rows of metrics.jsonl by their "phase"


class ReportError(UserError):
    """A run folder that there is nothing to report about."""


def write_report(run_dir: Path | str) -> Path:
    """Write `run_dir`/report.html from what lies in the folder, finished or not. Raises ReportError, RunError.

    Called again after `latency.verify` has put verify.json there, it shows the measured latency beside the predicted.
    """
    from search import rundir

    folder = rundir.RunDir(Path(run_dir))
    if not (folder.path / rundir.CONFIG).is_file():
        raise ReportError(f"{folder.path} is not a run: it has no {rundir.CONFIG}; python -m search.run makes one")
    config = read_json(folder.path / rundir.CONFIG, "the config of a run")
    rows = list(folder.rows())
    verify = folder.path / rundir.VERIFY
    measured = read_json(verify, "what latency.verify wrote") if verify.is_file() else None
    try:
        body = _body(folder.path.resolve().name, config, rows, measured)
    except (KeyError, IndexError, TypeError) as error:
        raise ReportError(f"{folder.path}: its files do not fit together: {type(error).__name__} {error}") from error
    path = folder.path / rundir.REPORT
    write_atomically(path, body.encode())
    return path


def _body(name: str, config: dict[str, Any], rows: list[dict[str, Any]], measured: dict[str, Any] | None) -> str:
    by_phase: Phases = {}
    for row in rows:
        by_phase.setdefault(row["phase"], []).append(row)
    derived = by_phase.get("derived", [None])[-1]
    done = by_phase.get("done", [None])[-1]
    sections = [f"<h1>{html.escape(name)}</h1>", _summary(config, derived, done, measured)]
    if derived is not None:
        sections += _latency(config, by_phase, derived, measured)
    sections += _search(config, by_phase, derived)
    if derived is not None:
        sections += _network(by_phase["space"][0], derived)
    sections += _training(by_phase)
    return page(name, sections)


def page(title: str, sections: list[str]) -> str:
    """One self-contained HTML text."""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>\n{''.join(sections)}</html>\n"
    )


def _summary(
    config: dict[str, Any], derived: dict[str, Any] | None, done: dict[str, Any] | None, measured: dict[str, Any] | None
) -> str:
    data, recipe = config["data"], config["recipe"]
    lines = [
        ("space", config["space"]),
        ("target", ms(config["target_s"])),
        ("seed", config["seed"]),
        (
            "data",
            f"{data['name']}: {data['classes']} classes; {data['train']} images for weights, "
            f"{data['validation']} for alpha, {data['test']} for the test",
        ),
        (
            "recipe",
            f"{recipe['warmup_steps']} steps of warm-up, {recipe['search_steps']} of search, "
            f"{recipe['train_steps']} of training; batch {recipe['batch_size']}",
        ),
    ]
    if derived is not None:
        random_s = derived["random_predicted_s"]
        lines.append(("predicted latency", f"found {ms(derived['predicted_s'])}, random {ms(random_s)}"))
    if measured is not None and _measured_s(measured) is not None:
        device = measured.get("device")
        name = device.get("device", "") if isinstance(device, dict) else device or ""
        lines.append(("measured latency", f"{ms(_measured_s(measured) or 0.0)} on {name or 'the device'}"))
    if done is not None:
        lines.append(
            (
                "test accuracy",
                f"found {done['train_found_accuracy']:.1%}, "
                f"random of equal latency {done['train_random_accuracy']:.1%}",
            )
        )
    else:
        lines.append(("state", "unfinished"))
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in lines)
    return f"<table>{cells}</table>"


def _measured_s(measured: dict[str, Any] | None) -> float | None:
    value = (measured or {}).get("measured_ms")
    return value / 1e3 if isinstance(value, (int, float)) else None


def _latency(
    config: dict[str, Any], by_phase: Phases, derived: dict[str, Any], measured: dict[str, Any] | None
) -> list[str]:
    from search import figures

    bars = [("found, predicted", derived["predicted_s"])]
    if measured is not None and _measured_s(measured) is not None:
        bars.append(("found, measured", _measured_s(measured) or 0.0))
    bars += [
        ("E[latency] at the end", derived["expected_s"]),
        ("random of equal latency", derived["random_predicted_s"]),
        ("uniformly random, mean", by_phase["space"][0]["uniform_s"]),
    ]
    parts = ["<h2>Latency against the target</h2>", figures.latency_bars(bars, config["target_s"])]
    if measured is not None and _measured_s(measured) is not None:
        pairs = {
            "found": [(derived["predicted_s"] * 1e3, measured["measured_ms"])],
            "random networks": [(p, m) for p, m in measured.get("random", [])],
        }
        parts.append(figures.agreement(pairs, config["target_s"] * 1e3))
    return parts


def _search(config: dict[str, Any], by_phase: Phases, derived: dict[str, Any] | None) -> list[str]:
    from latency.ops import parse_op
    from search import figures

    alpha = [row for row in by_phase.get("search", []) if "expected_s" in row]
    if not alpha:
        return ["<p>No alpha step has been made yet.</p>"]
    steps = [row["step"] for row in alpha]
    parts = ["<h2>The search</h2>", figures.latency_curve(alpha, config["target_s"])]
    if any("now" in row for row in alpha):
        parts += [
            "<p class=c>The network that would be found at that moment: its latency, and its accuracy with shared "
            "weights on the same held-out images. From pale to dark; the large mark is the last.</p>",
            figures.search_path({"this run": alpha}, {"this run": config["target_s"]}),
        ]
    blocks = by_phase["space"][0]["blocks"]
    undecided = [row for row in alpha if "entropies" in row]
    parts += [
        figures.curves({"entropy, mean of blocks": (steps, [row["entropy"] for row in alpha])}, "nats"),
        figures.entropy_map(undecided, [block["name"] for block in blocks]) if undecided else "",
    ]
    weights = [*by_phase.get("warmup", []), *by_phase.get("search", [])]
    parts.append(
        figures.curves(
            {
                "training loss": ([row["step"] for row in weights], [row["loss"] for row in weights]),
                "validation loss (alpha steps)": (steps, [row["valid_loss"] for row in alpha]),
            },
            "cross-entropy",
        )
    )
    snapshots = [row for row in alpha if "probs" in row]
    if snapshots:
        labels = [[figures.label(parse_op(text)) for text in block["candidates"]] for block in blocks]
        parts += [
            "<h2>Probabilities</h2><p class=c>Candidates over time; darker is likelier, bold is taken.</p>",
            figures.probability_maps(snapshots, blocks, labels, derived["indices"] if derived else None)
            if len(blocks) <= MOST_MAPS
            else "<p class=c>Means over the edges of each cell.</p>" + figures.cell_maps(snapshots, blocks, labels),
        ]
    return parts


def _network(space: dict[str, Any], derived: dict[str, Any]) -> list[str]:
    from search import diagram, figures

    network = diagram.cells(space, derived["indices"])
    blocks_s = sum(cell.seconds for cell in network)
    rest = f"of the blocks' {ms(blocks_s)}; what is fixed and what belongs to no op take {ms(space['fixed_s'])} more."
    if space.get("layout"):
        return [
            "<h2>The network found</h2>",
            f"<p class=c>Its {len(network)} cells in order, each line a branch (+ added, | joined), with their share "
            f"{rest}</p>",
            diagram.cell_diagram(network),
        ]
    chosen = [leaf for cell in network for leaf in cell.leaves]
    return [
        "<h2>The network found</h2>",
        f"<p class=c>Its {len(chosen)} blocks in order, with their share {rest}</p>",
        figures.network_diagram([leaf.op for leaf in chosen], [leaf.seconds or 0.0 for leaf in chosen]),
    ]


def _training(by_phase: Phases) -> list[str]:
    from search import figures

    series = {}
    for phase, name in (("train_found", "found"), ("train_random", "random of equal latency")):
        rows = [row for row in by_phase.get(phase, []) if "loss" in row]
        if rows:
            series[name] = [row["step"] for row in rows], [row["loss"] for row in rows]
    return ["<h2>Training from scratch</h2>", figures.curves(series, "training loss")] if series else []


def main(argv: list[str] | None = None) -> int:
    """Write the report of a run folder anew, or of several beside each other. Returns the exit code."""
    made = parser(
        "search.report", "Write RUN_DIR/report.html anew from the files in it; several runs are drawn side by side."
    )
    made.add_argument("run_dir", type=Path, nargs="+", help="runs/NAME, once or more")
    made.add_argument("--out", type=Path, help="with several runs: the file to write (default: compare.html)")
    return run(_work, made.parse_args(argv))


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    if len(args.run_dir) == 1 and args.out is not None:
        raise ReportError(f"--out {args.out}: it goes with several runs; the report of one lies in its folder")
    if len(args.run_dir) == 1:
        path = write_report(args.run_dir[0])
    else:
        from search.compare import write_comparison

        path = write_comparison(args.run_dir, args.out or Path("compare.html"))
    ui.say(str(path))
    return {"report": str(path)}


if __name__ == "__main__":
    sys.exit(main())
