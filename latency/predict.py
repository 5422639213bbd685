"""`python -m latency.predict model.onnx --predictor tables/cpu.pkl`: how long any network takes, without running it."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from latency.onnx_graph import KernelNode
    from latency.onnx_parts import Rules
    from latency.ops import Op
    from latency.predictor import LatencyPredictor

DISAGREE = 0.1  # mean disagreement about a network's kernels beyond which its prediction is said to be unsure
NOT_COVERED = 3  # exit code where a part of the network is missing from the sum


@dataclass(frozen=True)
class NodePrediction:
    """One kernel of the network. Seconds in the network; None where the predictor does not cover it."""

    name: str
    op: str
    macs: int
    nodes: int
    seconds: float | None
    std_s: float | None
    why: str = ""  # it is not covered
    outside: tuple[str, ...] = ()  # features beyond what was measured
    disagreement: float | None = None  # of the models whose mean it is; None where the predictor cannot tell


@dataclass(frozen=True)
class NetworkPrediction:
    """A network's latency; `seconds` is that of the nodes covered, which is all of them where `uncovered` is empty."""

    device: str
    seconds: float
    std_s: float
    nodes: tuple[NodePrediction, ...]

    @property
    def uncovered(self) -> tuple[NodePrediction, ...]:
        """The kernels that are missing from `seconds`."""
        return tuple(n for n in self.nodes if n.seconds is None)

    @property
    def covered_nodes(self) -> float:
        """Share of the ONNX nodes that run as kernels covered."""
        return _share([n.nodes for n in self.nodes], [n.nodes for n in self.nodes if n.seconds is not None])

    @property
    def covered_macs(self) -> float:
        """Share of the multiply-accumulates; those of a kernel that the vocabulary lacks are not known and count 0."""
        return _share([n.macs for n in self.nodes], [n.macs for n in self.nodes if n.seconds is not None])

    @property
    def outside(self) -> dict[str, int]:
        """Feature -> number of kernels that lie beyond what was measured in it."""
        found: dict[str, int] = {}
        for node in self.nodes:
            for name in node.outside:
                found[name] = found.get(name, 0) + 1
        return found

    @property
    def disagreement(self) -> float | None:
        """How far the models of the kernels part (0.1: by 10 %), by the kernels' time; None: no such predictor."""
        each = [(n.seconds, n.disagreement) for n in self.nodes if n.seconds is not None and n.disagreement is not None]
        total = sum(s for s, _ in each)
        return sum(s * u for s, u in each) / total if total > 0 else None


def _share(every: Sequence[int], covered: Sequence[int]) -> float:
    return sum(covered) / sum(every) if sum(every) else 1.0


def rules_of(predictor: LatencyPredictor) -> Rules:
    """What the runtime of the predictor's device fuses."""
    from latency.onnx_parts import rules_for

    return rules_for(str(predictor.provenance.get("fingerprint", {}).get("runtime", "")))


def predict_kernels(kernels: Sequence[KernelNode], predictor: LatencyPredictor) -> NetworkPrediction:
    """The latency of a network by its kernels. What the predictor does not cover is listed, never counted as zero."""
    from latency import kernel_std

    covered = [k for k in kernels if k.op is not None and predictor.covers_kind(k.op)]
    ops = [k.op for k in covered if k.op is not None]
    seconds, std = predictor.network_s(ops) if ops else (0.0, 0.0)
    each, each_std = predictor.predict_s(ops, return_std=True)
    far: list[float | None] = [None] * len(ops)
    if "apart" in predictor.uncertainty:
        far = [None if math.isnan(d) else float(d) for d in kernel_std.disagreements(predictor.kinds, ops)]
    away = {id(k): d for k, d in zip(covered, far, strict=True)}
    found = {
        id(k): (float(f) * predictor.scale, float(s) * predictor.scale)
        for k, f, s in zip(covered, each, each_std, strict=True)
    }
    nodes = []
    for k in kernels:
        at = found.get(id(k))
        why = "" if at else k.why or predictor.why_not(k.op)
        outside = tuple(predictor.outside(k.op)) if at and k.op is not None else ()
        text = str(k.op) if k.op is not None else k.op_type
        own_s, own_std = at or (None, None)
        apart = away.get(id(k))
        nodes.append(NodePrediction(k.name, text, k.macs, len(k.nodes), own_s, own_std, why, outside, apart))
    return NetworkPrediction(predictor.device, seconds, std, tuple(nodes))


def predict_onnx(
    source: Path | bytes, predictor: LatencyPredictor, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> NetworkPrediction:
    """The latency of an ONNX model in a file or in memory. Raises OnnxError where it cannot be read."""
    from latency.onnx_graph import kernels_of

    return predict_kernels(kernels_of(source, rules_of(predictor), input_shapes), predictor)


def predict_module(module: nn.Module, input_shape: tuple[int, ...], predictor: LatencyPredictor) -> NetworkPrediction:
    """The latency of a torch module on an input of `input_shape`. Raises DeviceError where it cannot be exported."""
    from devices.onnx_cpu import export_onnx

    return predict_onnx(export_onnx(module, input_shape), predictor)


def predict_architecture(path: Path, predictor: LatencyPredictor) -> NetworkPrediction:
    """The latency of architecture.json: by its blocks where the predictor knows them, else by their kernels."""
    from latency.onnx_graph import KernelNode
    from latency.space import load_architecture

    ops = load_architecture(path).kernel_ops
    if all(predictor.covers_kind(op) for op in ops):
        named = [KernelNode(f"block{i}", type(op).__name__, op, (str(i),)) for i, op in enumerate(ops)]
        return predict_kernels(named, predictor)
    return _by_kernels(ops, predictor)


def _by_kernels(ops: Sequence[Op], predictor: LatencyPredictor) -> NetworkPrediction:
    from latency.modules import build_network
    from latency.space import without_identities

    ops = without_identities(tuple(ops))
    return predict_module(build_network(ops), ops[0].input_shape, predictor)


def predict_networks(
    networks: Mapping[str, Sequence[Op]], predictor: LatencyPredictor
) -> tuple[dict[str, tuple[float, float]], bool]:
    """({name: (seconds, standard error)}, whether by their blocks) of networks of blocks, name -> ops.

    By kernels, all of them, where the predictor was fitted on kernels. Raises UnsupportedOp where a network is covered
    neither by its blocks nor whole by its kernels.
    """
    from latency.predictor import UnsupportedOp

    if all(predictor.covers_kind(op) for ops in networks.values() for op in ops):
        return {name: predictor.network_s(ops) for name, ops in networks.items()}, True
    found: dict[str, tuple[float, float]] = {}
    for name, ops in networks.items():
        one = _by_kernels(ops, predictor)
        if len(one.uncovered) == len(one.nodes):
            predictor.predict_s([op for of in networks.values() for op in of])  # raises: it is one of other blocks
        if one.uncovered:
            raise UnsupportedOp(
                f"{name}: {len(one.uncovered)} of its {len(one.nodes)} kernels are not covered: {one.uncovered[0].why}"
            )
        found[name] = (one.seconds, one.std_s)
    return found, False


def tell(ui: Ui, found: NetworkPrediction, top: int) -> None:
    """The sum, the costliest kernels, what is missing and what was never measured like it."""
    from latency.accuracy import Z90

    covered = sorted((n for n in found.nodes if n.seconds is not None), key=lambda n: -(n.seconds or 0.0))
    total = sum(n.seconds or 0.0 for n in covered) or 1.0
    ui.table(
        f"{min(top, len(covered))} costliest of {len(found.nodes)} kernels on {found.device}",
        ["kernel", "time", "std. error", "share", "MMACs", "op"],
        [
            [n.name[-40:], ms(n.seconds or 0.0), ms(n.std_s or 0.0), f"{(n.seconds or 0.0) / total:.1%}",
             f"{n.macs / 1e6:.1f}", n.op]
            for n in covered[:top]
        ],
    )  # fmt: skip
    for n in found.uncovered:
        ui.say(f"NOT COVERED: {n.name} ({n.nodes} nodes, {n.macs / 1e6:.1f} MMACs): {n.why}")
    for name, count in sorted(found.outside.items(), key=lambda item: -item[1]):
        ui.warn(f"{name}: {count} of {len(found.nodes)} kernels lie outside what was measured")
    if found.disagreement is not None and found.disagreement >= DISAGREE:
        ui.warn(
            f"its kernels are unlike those measured: the models that F is the mean of part by {found.disagreement:.0%} "
            "about them, and the interval is as wide (docs/any-network.md)"
        )
    ui.say(
        f"covered: {found.covered_nodes:.1%} of the nodes, {found.covered_macs:.1%} of "
        f"{sum(n.macs for n in found.nodes) / 1e6:.0f} MMACs"
    )
    ui.say(
        f"{'predicted' if not found.uncovered else 'at least'} {ms(found.seconds)}, standard error {ms(found.std_s)} "
        f"(90 % interval {ms(max(0.0, found.seconds - Z90 * found.std_s))} .. {ms(found.seconds + Z90 * found.std_s)})"
        + ("" if not found.uncovered else f"; {len(found.uncovered)} kernels are not in it")
    )


def as_dict(found: NetworkPrediction, top: int) -> dict[str, Any]:
    """The keys of --json."""
    covered = sorted((n for n in found.nodes if n.seconds is not None), key=lambda n: -(n.seconds or 0.0))
    return {
        "device": found.device,
        "predicted_ms": found.seconds * 1e3,
        "std_ms": found.std_s * 1e3,
        "kernels": len(found.nodes),
        "covered_nodes": found.covered_nodes,
        "covered_macs": found.covered_macs,
        "macs": sum(n.macs for n in found.nodes),
        "uncovered": [{"name": n.name, "op": n.op, "why": n.why} for n in found.uncovered],
        "outside": found.outside,
        "disagreement": found.disagreement,
        "costliest": [{"name": n.name, "op": n.op, "ms": (n.seconds or 0.0) * 1e3} for n in covered[:top]],
    }


def parse_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1,3,224,224` texts by name. Raises UserError."""
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(s) for s in sizes.split(","))
        except ValueError:
            shape = ()
        if not equals or not name or not shape or min(shape) < 1:
            raise UserError(f"--input-shape {text}: expected NAME=1,3,224,224")
        found[name] = shape
    return found


def caution(ui: Ui, predictor: LatencyPredictor) -> None:
    """Say what a predictor of before is to be read with, where it is one."""
    if "caution" in predictor.provenance:
        ui.warn(predictor.provenance["caution"])


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    from latency.predictor import load_predictor

    if args.top < 0:
        raise UserError(f"--top {args.top} must be at least 0")
    shapes = parse_shapes(args.input_shape)
    predictor = load_predictor(args.predictor)
    path = Path(args.model)
    if path.suffix == ".json":
        if shapes:
            raise UserError("--input-shape goes with ONNX models; an architecture says its own")
        found = predict_architecture(path, predictor)
    else:
        found = predict_onnx(path, predictor, shapes)
    caution(ui, predictor)
    tell(ui, found, args.top)
    if len(found.uncovered) == len(found.nodes):
        ui.say(
            f"nothing is covered: {args.predictor} was fitted on {', '.join(predictor.kinds)}; "
            f"python -m latency.profile --device {predictor.device} --space kernels measures what networks are made of"
        )
    result = as_dict(found, args.top)
    if found.uncovered and not args.allow_partial:
        ui.warn(
            f"{len(found.uncovered)} kernels are missing from the sum: exit code {NOT_COVERED} (--allow-partial: 0)"
        )
        result["exit_code"] = NOT_COVERED
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("latency.predict", "Say how long a network takes on a device, by its kernels, without running it.")
    made.add_argument("model", help="an ONNX model (its weights are not read), or architecture.json of a search")
    made.add_argument("--predictor", required=True, help="the predictor, tables/NAME.pkl")
    made.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=1,3,224,224", help="fix a dynamic input; repeatable"
    )
    made.add_argument("--allow-partial", action="store_true", help="exit 0 although kernels are missing from the sum")
    made.add_argument("--top", type=int, default=10, help="how many of the costliest kernels to list")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
