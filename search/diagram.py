"""A network with branches as boxes: one a cell, its tree written in lines, with its share of the latency."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from latency.ops import Add, Concat, Fork, Next, Op, parse_op
from search.figures import label

WIDE, GAP, COLUMNS = 278, 12, 4
LINE, TOP = 14, 42
LETTERS = 44  # of a line in a box


@dataclass(frozen=True)
class Leaf:
    """An op of the network; `seconds` and the name of its choice where it was chosen, None where it is fixed."""

    op: Op
    seconds: float | None = None
    block: str | None = None


@dataclass(frozen=True)
class Branches:
    """Parallel parts and what closes them."""

    parts: tuple[tuple[Leaf | Branches, ...], ...]
    close: Add | Concat


Node = Leaf | Branches


@dataclass(frozen=True)
class Cell:
    """A piece of a network between two places that everything passes through."""

    name: str
    nodes: tuple[Node, ...]

    @property
    def leaves(self) -> list[Leaf]:
        """Its ops in order."""
        return list(_leaves(self.nodes))

    @property
    def seconds(self) -> float:
        """What its chosen ops take."""
        return sum(leaf.seconds or 0.0 for leaf in self.leaves)


def cells(space: dict[str, Any], indices: Sequence[int]) -> list[Cell]:
    """The network that takes `indices` as cells; `space` is the row of metrics.jsonl that describes the space."""
    blocks = space["blocks"]
    steps: list[Op | Leaf] = []
    for step in space.get("layout") or range(len(blocks)):
        if isinstance(step, int):
            block, k = blocks[step], indices[step]
            steps.append(Leaf(parse_op(block["candidates"][k]), block["cost_s"][k], block["name"]))
        else:
            steps.append(parse_op(step))
    return [Cell(_name(node, i), (node,)) for i, node in enumerate(_nest(steps), 1)]


def _nest(steps: Sequence[Op | Leaf]) -> tuple[Node, ...]:
    open_: list[list[list[Node]]] = [[[]]]
    for step in steps:
        match step:
            case Leaf():
                open_[-1][-1].append(step)
            case Fork():
                open_.append([[]])
            case Next():
                open_[-1].append([])
            case Add() | Concat():
                parts = tuple(map(tuple, open_.pop()))
                open_[-1][-1].append(Branches(parts, step))
            case _:
                open_[-1][-1].append(Leaf(step))
    return tuple(open_[0][0])


def _leaves(nodes: Sequence[Node]) -> Iterator[Leaf]:
    for node in nodes:
        if isinstance(node, Leaf):
            yield node
        else:
            for part in node.parts:
                yield from _leaves(part)


def _name(node: Node, number: int) -> str:
    names = [leaf.block for leaf in _leaves((node,)) if leaf.block is not None]
    return names[0].split("/")[0] if names else f"part {number}"


def lines(nodes: Sequence[Node]) -> list[str]:
    """The nodes as text; branches that do not fit into a line get a line each: + (added) or | (joined)."""
    inline = _inline(nodes)
    if len(inline) <= LETTERS and not any(isinstance(n, Branches) and _deep(n) for n in nodes):
        return [inline]
    found: list[str] = []
    run: list[Node] = []
    for node in nodes:
        if isinstance(node, Leaf) or (len(_inline([node])) <= LETTERS and not _deep(node)):
            run.append(node)
            continue
        if run:
            found.append(_inline(run))
            run = []
        for part in node.parts:
            inner = lines(part) if part else ["(input)"]
            mark = "+" if isinstance(node.close, Add) else "|"
            found += [f"{' ' if i else mark} {text}" for i, text in enumerate(inner)]
    if run:
        found.append(_inline(run))
    return found


def _deep(node: Branches) -> bool:
    return any(isinstance(inner, Branches) for part in node.parts for inner in part)


def _inline(nodes: Sequence[Node]) -> str:
    texts = []
    for node in nodes:
        if isinstance(node, Leaf):
            texts.append(label(node.op))
        else:
            mark = " + " if isinstance(node.close, Add) else " | "
            texts.append(f"({mark.join(_inline(part) or 'input' for part in node.parts)})")
    return " → ".join(texts)


def cell_diagram(network: Sequence[Cell]) -> str:
    """The cells from input to output, as an SVG text. A box's colour deepens with its share of the blocks' latency."""
    total = sum(cell.seconds for cell in network) or 1.0
    texts = [lines(cell.nodes) for cell in network]
    parts, y = [], 2.0
    for first in range(0, len(network), COLUMNS):
        row = range(first, min(first + COLUMNS, len(network)))
        high = TOP + LINE * max(len(texts[i]) for i in row) + 4
        for place, i in enumerate(row):
            parts.append(_box(network[i], texts[i], total, place * (WIDE + GAP) + 2, y, high))
            if i + 1 < len(network) and place + 1 < COLUMNS:
                x, middle = place * (WIDE + GAP) + 2 + WIDE, y + 20
                parts.append(f'<path d="M{x} {middle}h{GAP}" stroke="#406080"/>')
        y += high + GAP
    size = COLUMNS * (WIDE + GAP) + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {y:g}" width="{size}" '
        f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _box(cell: Cell, texts: Sequence[str], total: float, x: float, y: float, high: float) -> str:
    share, leaves = cell.seconds / total, cell.leaves
    _, channels, height, width = leaves[-1].op.output_shape
    closing = cell.nodes[-1]
    if isinstance(closing, Branches):
        _, channels, height, width = closing.close.output_shape
    fill = f"hsl(210, 60%, {96 - min(26, 300 * share):.0f}%)"
    size = f"{leaves[0].op.in_channels} → {channels}, {height}x{width}"
    cost = f"{cell.seconds * 1e3:.3g} ms, {share:.1%}" if any(leaf.block for leaf in leaves) else "fixed"
    drawn = [
        f'<rect x="{x}" y="{y:g}" width="{WIDE}" height="{high:g}" rx="5" fill="{fill}" stroke="#406080"/>',
        f'<text x="{x + 8}" y="{y + 16:g}" font-weight="bold">{html.escape(cell.name)}</text>',
        f'<text x="{x + WIDE - 8}" y="{y + 16:g}" text-anchor="end">{html.escape(cost)}</text>',
        f'<text x="{x + 8}" y="{y + 31:g}" fill="#445">{html.escape(size)}</text>',
    ]
    for i, text in enumerate(texts):
        indent = len(text) - len(text.lstrip(" "))
        place = x + 8 + 7 * indent
        drawn.append(f'<text x="{place}" y="{y + TOP + LINE * i + 6:g}">{html.escape(text.lstrip(" "))}</text>')
    return "".join(drawn)
