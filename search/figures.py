"""The figures of a report, each as an SVG text: matplotlib for curves, boxes by hand for the network."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from latency.ops import Concat, Conv2d, Identity, Linear, MBConv, Op, Pad, Pool, SepConv, Slice, Zero

Row = dict[str, Any]


def label(op: Op) -> str:
    """An op in a few letters: `MB6 7x7` is an MBConv of expansion 6 and kernel 7."""
    match op:
        case MBConv():
            return f"MB{op.mid_channels / op.in_channels:g} {op.kernel}x{op.kernel}" + (" SE" if op.se else "")
        case Conv2d():
            return f"Conv {op.kernel}x{op.kernel}"
        case SepConv():
            return f"Sep {op.kernel}x{op.kernel}" + (f" d{op.dilation}" if op.dilation > 1 else "")
        case Pool():
            return f"{op.pool} pool {op.kernel}x{op.kernel}"
        case Linear():
            return "Linear"
        case Zero():
            return "skip" if op.shortcut else "zero"
        case Identity():
            return "identity"
        case Slice():
            return f"channels {op.start}-{op.start + op.out_channels - 1}"
        case Pad():
            return f"pad to {op.out_channels}"
        case Concat():
            return "concat"
    return type(op).__name__


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "report", "font.size": 9})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    import matplotlib.pyplot as plt

    return plt


def latency_bars(bars: Sequence[tuple[str, float]], target_s: float) -> str:
    """Named latencies in seconds as bars, with the target as a line."""
    figure, axes = _pyplot().subplots(figsize=(7, 0.45 * len(bars) + 1))
    values = [seconds * 1e3 for _, seconds in bars]
    drawn = axes.barh([name for name, _ in bars], values, color="#4878a8")
    white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    axes.axvline(target_s * 1e3, color="#c04040", linestyle="--", label=f"target {target_s * 1e3:.3g} ms")
    axes.bar_label(drawn, labels=[f"{v:.3g}" for v in values], padding=5, bbox=white)
    axes.invert_yaxis()
    axes.set_xlabel("latency, ms")
    axes.set_xlim(0, max([*values, target_s * 1e3]) * 1.15)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
    return _svg(figure)


def agreement(pairs: dict[str, list[tuple[float, float]]], target_ms: float) -> str:
    """Measured over predicted latency in ms, by name, with the diagonal and the target."""
    figure, axes = _pyplot().subplots(figsize=(4.5, 4))
    values = [value for points in pairs.values() for pair in points for value in pair] + [target_ms]
    ends = [min(values) * 0.95, max(values) * 1.05]
    axes.plot(ends, ends, color="#b0b0b0", linewidth=1)
    axes.axvline(target_ms, color="#c04040", linestyle="--", label="target")
    for name, points in pairs.items():
        if points:
            axes.scatter([p for p, _ in points], [m for _, m in points], s=22, label=name)
    axes.set_xlabel("predicted, ms")
    axes.set_ylabel("measured, ms")
    axes.legend(loc="upper left")
    return _svg(figure)


def latency_curve(rows: Sequence[Row], target_s: float) -> str:
    """E[latency], the network of the moment, target and lambda over the search's weight steps."""
    figure, axes = _pyplot().subplots(figsize=(7, 2.8))
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["expected_s"] * 1e3 for row in rows], color="#4878a8", label="E[latency]")
    axes.axhline(target_s * 1e3, color="#c04040", linestyle="--", label="target")
    now = [(row["step"], row["now"]["predicted_s"] * 1e3) for row in rows if "now" in row]
    if now:
        axes.plot(*zip(*now, strict=True), "o", ms=3.5, color="#303030", label="network of the moment")
    axes.set_xlabel("weight step")
    axes.set_ylabel("ms")
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    right.plot(steps, [row["lambda"] for row in rows], color="#d08020", linewidth=1, label="lambda (right)")
    right.set_ylabel("lambda")
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], loc="upper center", bbox_to_anchor=(0.5, 1.22), ncol=4)
    return _svg(figure)


def search_path(runs: Mapping[str, Sequence[Row]], target_s: Mapping[str, float]) -> str:
    """The way of one or several searches through (latency, accuracy): the network of the moment, from pale to dark.

    A larger mark is where a search ended; dashed lines are the targets. Accuracy is that of shared weights on the same
    held-out images, so it compares moments of a run, not runs.
    """
    figure, axes = _pyplot().subplots(figsize=(7, 3.6))
    for (name, rows), colour in zip(runs.items(), _colours(len(runs)), strict=True):
        points = [(r["now"]["predicted_s"] * 1e3, r["now"]["accuracy"] * 100) for r in rows if "now" in r]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)
        shade = [0.25 + 0.75 * (i + 1) / len(x) for i in range(len(x))]
        axes.scatter(x, y, s=[*[22] * (len(x) - 1), 70], color=colour, alpha=shade)
        axes.axvline(target_s[name] * 1e3, color=colour, linestyle="--", linewidth=1)
        axes.plot([], [], "o", color=colour, label=f"{name}, target {target_s[name] * 1e3:.3g} ms")
    axes.set_xlabel("predicted latency of the network of the moment, ms")
    axes.set_ylabel("accuracy, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=3)
    return _svg(figure)


def entropy_map(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Entropy of every block (rows) over the search (columns), in nats: dark is undecided."""
    figure, axes = _pyplot().subplots(figsize=(7, min(9.0, 0.8 + 0.13 * len(names))))
    image = [[row["entropies"][block] for row in rows] for block in range(len(names))]
    shown = axes.imshow(image, aspect="auto", cmap="Purples", vmin=0, interpolation="nearest")
    every = max(1, len(names) // 60)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=6)
    marks = sorted({0, len(rows) // 2, len(rows) - 1})
    axes.set_xticks(marks, [rows[m]["step"] for m in marks])
    axes.set_xlabel("weight step")
    figure.colorbar(shown, ax=axes, label="nats")
    return _svg(figure)


def _colours(n: int) -> list[Any]:
    import matplotlib

    return [matplotlib.colormaps["tab10"](i % 10) for i in range(n)]


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str) -> str:
    """Named (steps, values) in one plot."""
    figure, axes = _pyplot().subplots(figsize=(7, 2.4))
    for name, (steps, values) in series.items():
        axes.plot(steps, values, label=name, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.legend(loc="best")
    return _svg(figure)


def probability_maps(
    rows: Sequence[Row], blocks: Sequence[Row], labels: Sequence[Sequence[str]], chosen: Sequence[int] | None
) -> str:
    """One small map a block: candidates (rows) over time (columns), darker is likelier; the chosen one is marked."""
    columns = 4
    lines = -(-len(blocks) // columns)
    most = max(map(len, labels))
    figure, axes = _pyplot().subplots(lines, columns, figsize=(11, lines * (0.16 * most + 0.55)), squeeze=False)
    for index, cell in enumerate(axes.flat):
        if index >= len(blocks):
            cell.set_axis_off()
            continue
        names = labels[index]
        image = [[row["probs"][index][k] for row in rows] for k in range(len(names))]
        cell.imshow(image, aspect="auto", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        cell.set_yticks(range(len(names)), names, fontsize=6)
        cell.set_xticks([])
        cell.set_title(str(blocks[index]["name"]), fontsize=7, pad=2)
        if chosen is not None:
            cell.get_yticklabels()[chosen[index]].set(fontweight="bold", color="#c04040")
    figure.tight_layout()
    return _svg(figure)


def cell_maps(rows: Sequence[Row], blocks: Sequence[Row], labels: Sequence[Sequence[str]]) -> str:
    """`probability_maps` for many blocks: one map a cell, which is the blocks named alike up to a `/`, averaged."""
    cells: dict[str, list[int]] = {}
    for index, block in enumerate(blocks):
        cells.setdefault(str(block["name"]).split("/")[0], []).append(index)
    merged = [
        {
            "probs": [
                [sum(row["probs"][i][k] for i in members) / len(members) for k in range(len(labels[members[0]]))]
                for members in cells.values()
            ]
        }
        for row in rows
    ]
    return probability_maps(merged, [{"name": n} for n in cells], [labels[m[0]] for m in cells.values()], None)


def network_diagram(ops: Sequence[Op], seconds: Sequence[float]) -> str:
    """The network from input to output: a box an op, with kernel and expansion, width, map size, share of latency.

    A box's colour deepens with its share; skipped blocks are outlines.
    """
    total = sum(seconds) or 1.0
    wide, high, gap, columns = 150, 58, 14, 6
    parts = []
    for index, (op, cost) in enumerate(zip(ops, seconds, strict=True)):
        line, place = divmod(index, columns)
        x, y = place * (wide + gap) + 2, line * (high + gap) + 2
        share, skipped = cost / total, op.is_free
        fill = "none" if skipped else f"hsl(210, 60%, {95 - min(30, 300 * share):.0f}%)"
        dash = ' stroke-dasharray="4 3"' if skipped else ""
        _, channels, height, width = op.output_shape
        texts = (
            label(op),
            f"{op.in_channels} → {channels}, {height}x{width}",
            "no cost" if skipped else f"{cost * 1e3:.2f} ms, {share:.1%}",
        )
        style = f'fill="{fill}" stroke="#406080"{dash}'
        parts.append(f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="5" {style}/>')
        parts += [
            f'<text x="{x + 8}" y="{y + 17 + 16 * i}"{weight}>{html.escape(text)}</text>'
            for i, (text, weight) in enumerate(zip(texts, (' font-weight="bold"', "", ""), strict=True))
        ]
        if index + 1 < len(ops):
            middle, turn = y + high / 2, y + high + gap / 2
            ends = f"{x + wide},{middle} {x + wide + gap},{middle}"
            if place + 1 == columns:
                ends = f"{x + wide / 2},{y + high} {x + wide / 2},{turn} {wide / 2},{turn} {wide / 2},{y + high + gap}"
            parts.append(f'<polyline points="{ends}" fill="none" stroke="#406080"/>')
    size = columns * (wide + gap), -(-len(ops) // columns) * (high + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        f'font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )
