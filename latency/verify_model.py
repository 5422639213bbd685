"""`python -m latency.verify --model model.onnx`: any network on a device, beside what is predicted of its kernels.

The model is timed in rounds with random networks of the `kernels` space, which it was not fitted on: they tell whether
all networks are off by one factor. Then all of them are run once more with onnxruntime's profiler on, and each kernel
of the model has its time inside it, as `latency.profile --space kernels` measures kernels (latency/kernel_profile.py).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.base import DeviceError
from devices.errors import UserError
from devices.onnx_model import OnnxModel
from latency.console import Ui
from latency.disagree import Verdict
from latency.kernel_match import match
from latency.kernel_profile import Network, drawn_networks, profiled_runs
from latency.kernel_times import MIN_NETWORKS, kernel_seconds
from latency.measure import Policy, Workload
from latency.onnx_file import runnable_onnx
from latency.onnx_graph import kernels_of
from latency.onnx_parts import rules_for
from latency.predict import NetworkPrediction, caution, parse_shapes, predict_kernels, rules_of
from latency.predictor import LatencyPredictor, UnsupportedOp, load_predictor
from latency.targets import target
from latency.timing import time_together
from latency.verify_kernels import ModelCheck, compare
from latency.verify_network import Outcome, state_of

if TYPE_CHECKING:
    from devices.base import Device
    from latency.measure import Measurement

RUNTIMES = ("onnx_cpu",)  # of devices that run ONNX files
KERNEL_SHARE = 0.5  # of the budget that goes to the time of kernels inside the networks
LEAST_NAMED = 0.5  # of the model's time that the profile's kernels must have found a name for
TRIES = 5  # random networks drawn for each that the predictor covers whole


def require_runtime(name: str) -> None:
    """Raises UserError for a device that runs no ONNX files, naming those that do."""
    import devices

    spec = devices.find(name)
    if spec.runtime not in RUNTIMES:
        able = ", ".join(n for n in devices.names() if devices.find(n).runtime in RUNTIMES)
        raise UserError(
            f"device {name} (runtime {spec.runtime}) does not run ONNX files: --model goes with {able}; on {name} "
            "verify a network of a search (--arch), and predict an ONNX file with python -m latency.predict"
        )


def read_model(path: Path, shapes: Mapping[str, tuple[int, ...]], predictor: LatencyPredictor) -> NetworkPrediction:
    """What the predictor says of the model. Raises OnnxError, and UnsupportedOp where it covers none of its kernels."""
    told = predict_kernels(kernels_of(path, rules_of(predictor), shapes), predictor)
    if len(told.uncovered) == len(told.nodes):
        raise UnsupportedOp(
            f"{path}: none of its {len(told.nodes)} kernels is covered: {predictor.path} was fitted on "
            f"{', '.join(predictor.kinds)}; python -m latency.profile --space kernels measures "
            "what networks are made of"
        )
    return told


def random_networks(n: int, predictor: LatencyPredictor, seed: int) -> list[tuple[Network, NetworkPrediction]]:
    """`n` networks of the `kernels` space that the predictor covers whole, with what it says. Raises UserError."""
    rng, known, runtime = random.Random(f"verify/{seed}"), set[str](), rules_of(predictor).name
    found: list[tuple[Network, NetworkPrediction]] = []
    for _ in range(TRIES * n):
        if len(found) == n:
            break
        (network,) = drawn_networks(1, rng, runtime, known)
        told = predict_kernels(network.kernels, predictor)
        if not told.uncovered:
            found.append((network, told))
    if len(found) < n:
        raise UserError(
            f"{predictor.path} covers only {len(found)} of {TRIES * n} random networks whole, {n} are asked for: "
            + (f"--random {len(found)}, or " if found else "")
            + "profile more networks (python -m latency.profile --space kernels)"
        )
    return found


class _TakesFiles:
    """The device, which also takes an OnnxModel for a module; `profiled`: in sessions that tell kernels apart."""

    def __init__(self, device: Any, profiled: bool = False) -> None:
        self._device, self._profiled = device, profiled

    def prepare(self, made: Any, input_shape: tuple[int, ...]) -> Any:
        """A session."""
        if isinstance(made, OnnxModel):
            return self._device.prepare_model(made, self._profiled)
        return (self._device.prepare_profiled if self._profiled else self._device.prepare)(made, input_shape)

    def describe(self) -> dict[str, Any]:
        """The device's own."""
        return dict(self._device.describe())


def of_model(ui: Ui, args: argparse.Namespace, policy: Policy) -> Outcome:
    """Time the ONNX model of --model, and random networks of the `kernels` space."""
    shapes, path, predictor = parse_shapes(args.input_shape), Path(args.model), load_predictor(args.predictor)
    caution(ui, predictor)
    count = MIN_NETWORKS - 1 if args.random is None else args.random  # with the model enough to tell a call's own time
    told = read_model(path, shapes, predictor)
    if told.uncovered and not count:
        raise UserError(
            f"{path}: {len(told.uncovered)} of its {len(told.nodes)} kernels are not covered "
            f"({told.uncovered[0].why}): its own gap tells nothing; --random 8 times networks that are covered whole"
        )
    with ui.progress("drawing random networks"):
        others = random_networks(count, predictor, args.seed)
    with target(args, ui) as device:
        done = check_model(
            path, shapes, told, others, predictor, device, policy, ui, seed=args.seed, kernels=args.blocks
        )
        judged = done.others if told.uncovered else [done.mine, *done.others]
        return Outcome(predictor, done.mine, judged, device.describe(), state_of(device), by="kernels", model=done)


def check_model(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    told: NetworkPrediction,
    others: Sequence[tuple[Network, NetworkPrediction]],
    predictor: LatencyPredictor,
    device: Device,
    policy: Policy,
    ui: Ui,
    *,
    seed: int = 0,
    kernels: bool = True,
) -> ModelCheck:
    """Time the model and `others` in rounds, then, with `kernels`, the kernels inside them. Raises UserError."""
    rules = rules_of(predictor)
    if kernels and rules != rules_for(str(device.describe().get("runtime", ""))):
        ui.warn(f"kernels are not compared: the predictor is of {rules.name}, which joins other nodes than this device")
        kernels = False
    model, mine = OnnxModel(runnable_onnx(path, shapes), path.absolute().parent), path.name
    todo = [Workload(mine, "network", lambda: model, ())]  # type: ignore[arg-type,return-value]
    todo += [replace(n.workload(), key=f"random {i + 1}") for i, (n, _) in enumerate(others)]

    def on_failed(key: str, error: Exception | str) -> None:
        raise UserError(f"{path if key == mine else key}: {error}")

    share = 1 - KERNEL_SHARE if kernels else 1.0
    timing = replace(policy, budget_s=policy.budget_s * share)
    found = time_together(todo, _TakesFiles(device), timing, ui.progress, seed, on_failed)
    if any(w.key not in found or not math.isfinite(found[w.key].ci_s[0]) for w in todo):
        raise UserError(f"{policy.budget_s / 60:g} min are too few rounds for a 95 % interval: raise --budget-min")
    predicted = dict(zip([w.key for w in todo], [told, *(t for _, t in others)], strict=True))
    verdicts = [_verdict(w.key, predicted[w.key], found[w.key]) for w in todo]
    check = ModelCheck(verdicts[0], verdicts[1:], told, [], {}, 0.0)
    if not kernels:
        return check
    nodes = kernels_of(path, rules, shapes)
    try:
        timing = replace(policy, budget_s=policy.budget_s * KERNEL_SHARE)
        runs = profiled_runs(_TakesFiles(device, profiled=True), todo, timing, random.Random(seed), ui)
        if mine not in runs:
            raise DeviceError("the model cannot be profiled")
    except DeviceError as error:
        ui.warn(f"kernels are not compared: {error}")
        return check
    walls = [found[key].median_s for key in runs]
    of_kernels, _ = kernel_seconds([[r.seconds for r in runs[k]] for k in runs], walls)
    seconds = dict(zip(runs, of_kernels, strict=True))
    place = {id(r): i for i, r in enumerate(runs[mine])}
    times = [(node, seconds[mine][place[id(run)]]) for node, run in match(nodes, runs[mine])]
    named = sum(float(t.mean()) for _, t in times) / found[mine].median_s
    if named < LEAST_NAMED:
        ui.warn(
            f"kernels are not compared: the device runs others than the file has, {named:.0%} of the time has a name"
        )
        return check
    uncovered = {n.name for n in told.uncovered}
    return replace(
        check,
        kernels=compare(times, predictor, check.others),
        uncovered_s={node.name: float(t.mean()) for node, t in times if node.name in uncovered},
        named=named,
    )


def _verdict(name: str, told: NetworkPrediction, m: Measurement) -> Verdict:
    return Verdict(name, told.seconds, told.std_s, m.median_s, m.ci_s, m.flags, m.half_width, m.scale)
