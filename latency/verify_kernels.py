"""The kernels of a model inside it: what each takes, beside what the predictor says, and how that is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latency.console import Ui, ms
from latency.disagree import FAR, MIN_NETWORKS, Z95, Block, Verdict, judge_blocks
from latency.kernel_times import kernel_row
from latency.onnx_graph import KernelNode
from latency.predict import NetworkPrediction
from latency.stats import Floats

if TYPE_CHECKING:
    from latency.op_base import Op
    from latency.predictor import LatencyPredictor

LEAST_SHARE = 0.01  # of the time of all kernels: those that take less do not decide what the middle is
SAID_LOST = 0.02  # of the time of all kernels: one that adds as much is shown although its prediction was that unsure
MAX_SAID = 10  # kernels shown
LEAST_LOST = 0.003  # of the time of all kernels: one that adds less is not called off, however far it is


@dataclass(frozen=True)
class KernelTime:
    """The places of one op in the model: what one takes, as predicted and as measured inside the network."""

    block: Block
    names: tuple[str, ...]  # of the kernels

    @property
    def errors(self) -> float:
        """How many standard errors, of prediction and measurement together, it is off by."""
        b = self.block
        return abs(math.log1p(b.off)) / math.hypot(b.measured_std_s / b.measured_s, b.predicted_std_s / b.predicted_s)

    @property
    def lost_s(self) -> float:
        """Seconds of the model beyond what the predictor says, the factor that all networks share left out."""
        return self.block.measured_s * (1 - 1 / (1 + self.block.off)) * len(self.names)


@dataclass(frozen=True)
class ModelCheck:
    """`mine` and `others`: the model and random networks, predicted against measured."""

    mine: Verdict
    others: list[Verdict]
    told: NetworkPrediction  # of the model
    kernels: list[KernelTime]  # those that cost most beyond what the predictor says first
    uncovered_s: dict[str, float]  # name -> measured seconds of kernels that the predictor does not cover
    named: float  # share of the model's time whose kernel is known; 0 where kernels were not compared


def compare(
    times: Sequence[tuple[KernelNode, Floats]], predictor: LatencyPredictor, others: Sequence[Verdict]
) -> list[KernelTime]:
    """Kernels of equal ops together, (n,) seconds of each in `times`, beside the predictor's; costliest gaps first.

    What the `others`, random networks, are off by is no kernel's fault; of fewer than 3, what the middle kernel is.
    """
    by_op: dict[Op, list[tuple[str, Floats]]] = {}
    for node, seconds in times:
        if node.op is not None and not node.op.is_free and predictor.covers_kind(node.op):
            by_op.setdefault(node.op, []).append((node.name, seconds))
    ops = list(by_op)
    mean, std = (predictor.scale * v for v in predictor.predict_s(ops, return_std=True))
    blocks = []
    for op, f_s, f_std_s in zip(ops, mean, std, strict=True):
        row = kernel_row(op, [seconds for _, seconds in by_op[op]], 0)
        own_s = (row.ci_high_s - row.ci_low_s) / 2 / Z95
        blocks.append(Block(op, float(f_s), float(f_std_s), row.median_s, own_s))
    spent = np.array([b.measured_s * len(by_op[b.op]) for b in blocks])
    large = [b for b, s in zip(blocks, spent, strict=True) if s >= LEAST_SHARE * spent.sum()]
    if len(others) >= MIN_NETWORKS:
        middle = float(np.median([v.log_gap[0] for v in others]))
    else:
        middle = float(np.median([np.log(b.measured_s / b.predicted_s) for b in large or blocks])) if blocks else 0.0
    judged = [KernelTime(b, tuple(n for n, _ in by_op[b.op])) for b in judge_blocks(blocks, middle)]
    least_s = LEAST_LOST * float(spent.sum())
    judged = [k if abs(k.lost_s) >= least_s else replace(k, block=replace(k.block, far=False)) for k in judged]
    return sorted(judged, key=lambda k: -abs(k.lost_s))


def tell_kernels(ui: Ui, check: ModelCheck) -> None:
    """What the model's kernels take beside what is predicted, by kind and one by one; what is not covered."""
    for n in check.told.uncovered:
        at = f", takes {ms(check.uncovered_s[n.name])} here" if n.name in check.uncovered_s else ""
        ui.say(f"NOT COVERED: {n.name} ({n.nodes} nodes, {n.macs / 1e6:.1f} MMACs{at}): {n.why}")
    for name, count in sorted(check.told.outside.items(), key=lambda item: -item[1]):
        ui.warn(f"{name}: {count} of {len(check.told.nodes)} kernels lie outside what was measured")
    if not check.kernels:
        return
    beside = "the random networks" if len(check.others) >= MIN_NETWORKS else "the middle kernel"
    kinds: dict[str, list[KernelTime]] = {}
    for k in check.kernels:
        kinds.setdefault(type(k.block.op).__name__, []).append(k)

    def row(kind: str, of: list[KernelTime]) -> list[str]:
        predicted = sum(k.block.predicted_s * len(k.names) for k in of)
        measured = sum(k.block.measured_s * len(k.names) for k in of)
        lost = sum(k.lost_s for k in of)
        count = sum(len(k.names) for k in of)
        return [kind, f"{count}", ms(predicted), ms(measured), f"{lost / (measured - lost):+.1%}", _signed(lost)]

    ordered = sorted(kinds.items(), key=lambda item: -abs(sum(k.lost_s for k in item[1])))
    ui.table(
        f"kernels of {check.mine.name} by kind, inside the network; off beside {beside}",
        ["kind", "kernels", "predicted", "measured", "off", "adds"],
        [row(kind, of) for kind, of in ordered],
    )
    least_s = SAID_LOST * sum(k.block.measured_s * len(k.names) for k in check.kernels)
    far = [k for k in check.kernels if k.block.far or abs(k.lost_s) >= least_s]
    if far:
        ui.table(
            f"kernels that are off or add {SAID_LOST:.0%} of the time, of {len(check.kernels)} different ones",
            ["kernel", "kind", "places", "one predicted", "measured", "off", "std. errors", "adds"],
            [
                [k.names[0][-40:], type(k.block.op).__name__, f"{len(k.names)}", ms(k.block.predicted_s),
                 ms(k.block.measured_s), f"{k.block.off:+.1%}", f"{k.errors:.1f}", _signed(k.lost_s)]
                for k in far[:MAX_SAID]
            ],
        )  # fmt: skip
    if not any(k.block.far for k in check.kernels):
        ui.say(f"no kernel is off by more than {FAR:g} standard errors, of {len(check.kernels)} different ones")
    ui.say(f"the profile names {check.named:.0%} of the time of {check.mine.name}")


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{ms(abs(seconds))}"


def as_dict(check: ModelCheck) -> dict[str, Any]:
    """What --json has beside what every verification has."""
    return {
        "kernels_off": [k.names[0] for k in check.kernels if k.block.far],
        "kernels_named": check.named,
        "uncovered": [{"name": n.name, "op": n.op, "why": n.why} for n in check.told.uncovered],
        "covered_nodes": check.told.covered_nodes,
        "covered_macs": check.told.covered_macs,
    }


def kernel_lines(check: ModelCheck) -> list[list[Any]]:
    """What verify.json has of each kernel: names, op, predicted and measured ms of one, off, ms added, whether off."""
    return [
        [list(k.names), str(k.block.op), k.block.predicted_s * 1e3, k.block.measured_s * 1e3, k.block.off,
         k.lost_s * 1e3, k.block.far]
        for k in check.kernels
    ]  # fmt: skip
