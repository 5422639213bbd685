"""Whose time a kernel is: a runtime that lists the kernels of a network, but not the blocks that they come from.

A phone's op table is such a list: `CONV_2D, DEPTHWISE_CONV_2D, ...`, or XNNPACK's own kernels, in the order in which
they run. Each block's kernels are known from the same program's table of the block alone: the network's list has to be
theirs one after another, but for changes of layout or type that only a block alone makes at its border (a Linear of a
channels-last map is transposed first, inside a network it is not). Where it is not, nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devices.base import DeviceError
from latency.ops import Op
from latency.wiring import is_wired

KIND_LOOPS = 3  # of a block alone: only what it runs is asked for
#: Kinds by their first word: `TRANSPOSE`, XNNPACK's `Convert (NC, F32, QS8)`.
BORDER = ("transpose", "copy", "convert", "quantize", "dequantize")


class NotAttributed(DeviceError):
    """The kernels of a network do not tell which block they belong to; the message says why."""


def node_seconds(chain: Sequence[Op], network: Any, alone: Mapping[Op, Any], loops: int) -> dict[str, float]:
    """Seconds of each block inside the network, by its place in `chain` ("0", "1", ...); empty where nothing tells.

    `network` is the session of the whole, `alone` those of its blocks by op. What `node_times_s` says is taken as it
    is; the list of `kernels_s` is dealt out. Raises NotAttributed, and what the sessions raise.
    """
    if hasattr(network, "node_times_s"):
        return dict(network.node_times_s(loops))
    if not hasattr(network, "kernels_s"):
        return {}
    if is_wired(chain):
        raise NotAttributed("the network has branches, whose order the runtime chooses")
    for op in chain:
        if op not in alone:
            raise NotAttributed(f"{op} was not run alone, so its kernels are not known")
    kinds = {op: [kind for kind, _ in alone[op].kernels_s(KIND_LOOPS)] for op in dict.fromkeys(chain)}
    return deal(chain, network.kernels_s(loops), kinds)


def shares_s(chain: Sequence[Op], nodes: Mapping[str, float], network_s: float) -> dict[Op, float]:
    """Seconds of each distinct op inside the network, the nodes' times taken as shares; empty where they do not map."""
    if len(chain) < 2 or set(nodes) != {str(i) for i in range(len(chain))}:
        return {}
    total = sum(nodes.values())
    by_op: dict[Op, list[float]] = {}
    for i, op in enumerate(chain):
        by_op.setdefault(op, []).append(nodes[str(i)] / total * network_s)
    return {op: sum(v) / len(v) for op, v in by_op.items()}


def deal(
    chain: Sequence[Op], kernels: Sequence[tuple[str, float]], kinds: Mapping[Op, Sequence[str]]
) -> dict[str, float]:
    """`kernels` of the network, (kind, seconds) in order, summed by block. Raises NotAttributed where they differ."""
    found: dict[str, float] = {}
    at = 0
    for i, op in enumerate(chain):
        here = [kind for kind, _ in kernels[at : at + len(kinds[op])]]
        mine = next((m for m in _shorter(list(kinds[op])) if m == here[: len(m)]), None)
        if mine is None:
            raise NotAttributed(
                f"block {i + 1}, {op}, runs {_said(kinds[op])} alone, but inside the network {_said(here)}"
            )
        found[str(i)] = sum(seconds for _, seconds in kernels[at : at + len(mine)])
        at += len(mine)
    if at != len(kernels):
        raise NotAttributed(f"the network runs {len(kernels)} kernels, its {len(chain)} blocks together {at}")
    return found


def _shorter(kinds: list[str]) -> list[list[str]]:
    """`kinds` without more and more of its border: whole, then less of the beginning, of the end, of both."""
    found = [kinds]
    for cut in (slice(1, None), slice(None, -1)):
        for shorter in found:  # grows while it is walked
            lost = shorter[:1] if cut.start else shorter[-1:]
            if len(shorter) > 1 and lost[0].split()[0].lower() in BORDER and shorter[cut] not in found:
                found.append(shorter[cut])
    return sorted(found, key=len, reverse=True)


def _said(kinds: Sequence[str]) -> str:
    return ", ".join(kinds) or "nothing"
