"""`python -m latency.verify --arch runs/x/architecture.json --predictor tables/cpu.pkl --device cpu`.

Builds the network, times it on the device in rounds, interleaved with random networks of the same space, and says how
far the prediction was off. The random networks show whether a gap is this network's or the device's.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Report, Ui, ms, parser, run
from latency.targets import add_device_arguments, target

if TYPE_CHECKING:
    from devices.base import Device
    from latency.measure import Measurement, Policy
    from latency.ops import Op
    from latency.predictor import LatencyPredictor


@dataclass(frozen=True)
class Verdict:
    """Predicted and measured seconds of one network; `error` is predicted / measured - 1."""

    name: str
    predicted_s: float
    predicted_std_s: float
    measured_s: float
    ci_s: tuple[float, float]
    flags: tuple[str, ...]

    @property
    def error(self) -> float:
        """Signed, as a fraction of the measured time."""
        return self.predicted_s / self.measured_s - 1


def verify(
    networks: dict[str, tuple[Op, ...]],
    predictor: LatencyPredictor,
    device: Device,
    policy: Policy,
    ui: Ui,
    seed: int = 0,
) -> list[Verdict]:
    """Measure `networks` (name -> ops) together, in rounds. Raises UnsupportedOp before anything is timed."""
    predicted = {name: predictor.network_s(ops) for name, ops in networks.items()}
    found = measure_networks(networks, device, policy, ui.progress, seed)
    return [Verdict(n, *predicted[n], found[n].median_s, found[n].ci_s, found[n].flags) for n in networks if n in found]


def measure_networks(
    networks: dict[str, tuple[Op, ...]],
    device: Device,
    policy: Policy,
    progress: Callable[[str], AbstractContextManager[Report]],
    seed: int = 0,
) -> dict[str, Measurement]:
    """Time `networks` (name -> ops) together, in rounds. `progress(title)` gives what is told how far it is.

    Raises UserError naming the network that cannot be built or timed.
    """
    from latency.measure import Progress, Workload, prepare, run_rounds
    from latency.modules import build_network
    from latency.space import without_identities

    todo = [
        Workload(
            name,
            "network",
            lambda ops=ops: build_network(without_identities(ops)),  # type: ignore[misc]
            ops[0].input_shape,
        )
        for name, ops in networks.items()
    ]
    found: dict[str, Measurement] = {}
    with progress("preparing") as report:
        sessions, failed = prepare(device, todo, report)
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(f"{name}: {why}")

    def on_failed(key: str, error: Exception) -> None:
        raise UserError(f"{key}: {error}")

    try:
        with progress("timing") as report:
            run_rounds(
                sessions,
                todo,
                policy,
                random.Random(seed),
                Progress(),
                report=report,
                on_round=lambda *_: None,
                on_done=lambda m: found.update({m.key: m}),
                on_failed=on_failed,
            )
    finally:
        for session in sessions.values():
            session.close()
    return found


def tell(ui: Ui, verdicts: list[Verdict], predictor: LatencyPredictor, device: Device) -> None:
    """The table of verdicts, and what differs between the predictor's device and this one."""
    from latency.table import fingerprint_difference

    def row(v: Verdict) -> list[str]:
        return [
            v.name,
            f"{ms(v.predicted_s)} +- {ms(v.predicted_std_s)}",
            ms(v.measured_s),
            f"{ms(v.ci_s[0])} .. {ms(v.ci_s[1])}",
            f"{v.error:+.1%}",
        ]

    ui.table(
        "predicted against measured",
        ["network", "predicted", "measured", "95 % interval", "error"],
        [row(v) for v in verdicts],
    )
    differences = fingerprint_difference(predictor.provenance.get("fingerprint", {}), device.describe())
    if differences:
        ui.say("the predictor was fitted on another target: " + "; ".join(differences))
    others = sorted(v.error for v in verdicts if v.name.startswith("random"))
    if len(others) >= 3:
        middle = others[len(others) // 2]
        ui.say(
            f"random networks of the space are off by {middle:+.1%} in the middle, {others[0]:+.1%} to "
            f"{others[-1]:+.1%}" + (": the gap is the device's state, not this network's" if abs(middle) > 0.02 else "")
        )


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.files import write_json
    from latency.measure import Policy
    from latency.predictor import load_predictor
    from latency.space import load_architecture, load_space, space_names

    if not args.budget_min > 0 or args.random < 0:
        raise UserError("--budget-min must be positive and --random at least 0")
    devices.find(args.device)
    architecture = load_architecture(args.arch)
    predictor = load_predictor(args.predictor)
    networks: dict[str, tuple[Op, ...]] = {"found": architecture.ops}
    space_name = args.space or architecture.space
    if args.space or space_name in space_names():
        space, rng = load_space(space_name), random.Random(args.seed)
        networks |= {f"random {i + 1}": space.random(rng).ops for i in range(args.random)}
    policy = Policy(target=0.01, budget_s=args.budget_min * 60)
    with target(args, ui) as device:
        verdicts = verify(networks, predictor, device, policy, ui, args.seed)
        tell(ui, verdicts, predictor, device)
        fingerprint = device.describe()
    mine = next(v for v in verdicts if v.name == "found")
    result = {
        "predicted_ms": mine.predicted_s * 1e3,
        "measured_ms": mine.measured_s * 1e3,
        "ci_ms": [s * 1e3 for s in mine.ci_s],
        "error": mine.error,
    }
    out = Path(args.arch).with_name("verify.json")
    write_json(
        out,
        {
            **result,
            "device": fingerprint,
            "predictor": str(args.predictor),
            "random": [[v.predicted_s * 1e3, v.measured_s * 1e3] for v in verdicts if v is not mine],
        },
    )
    ui.say(f"wrote {out}")
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("latency.verify", "Time a found network on a device and say how far its predicted latency was off.")
    made.add_argument("--arch", required=True, help="architecture.json of a search")
    made.add_argument("--predictor", required=True, help="the predictor, tables/NAME.pkl")
    add_device_arguments(made)
    made.add_argument("--space", help="space of the random networks (default: the architecture's own)")
    made.add_argument("--random", type=int, default=8, help="random networks timed in the same rounds")
    made.add_argument("--budget-min", type=float, default=0.5, help="minutes of timing at most")
    made.add_argument("--seed", type=int, default=0, help="of the random networks and the order of visits")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
