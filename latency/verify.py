"""`python -m latency.verify --arch runs/x/architecture.json --predictor tables/cpu.pkl --device cpu`.

Builds the network, times it on the device in rounds, interleaved with random networks of the same space and with its
own blocks, and says how far the prediction was off and why: another target, a constant scale, or certain blocks.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run
from latency.targets import add_device_arguments, target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from devices.base import Device, Session
    from latency.disagree import Block, Gap, Verdict
    from latency.measure import Policy
    from latency.ops import Op
    from latency.predictor import LatencyPredictor

MAX_SAID = 8  # blocks shown
NODE_LOOPS = 50


def verify(
    networks: dict[str, tuple[Op, ...]],
    predictor: LatencyPredictor,
    device: Device,
    policy: Policy,
    ui: Ui,
    seed: int = 0,
    blocks_of: str | None = None,
    predicted: dict[str, tuple[float, float]] | None = None,
) -> tuple[list[Verdict], list[Block]]:
    """Measure `networks` (name -> ops), and the ops of the network `blocks_of`, together in rounds.

    `predicted` are (seconds, standard error) by name, where they are not the predictor's by its blocks. The blocks'
    times are those inside the network where the device attributes them (latency/in_context.py), else alone. Raises
    UnsupportedOp before anything is timed.
    """
    from devices.base import DeviceError, DeviceUnavailable
    from latency.disagree import Block, Verdict
    from latency.in_context import node_seconds, shares_s
    from latency.measure import Workload
    from latency.modules import build
    from latency.space import without_identities
    from latency.timing import network_workloads, time_together

    predicted = predicted or {name: predictor.network_s(ops) for name, ops in networks.items()}
    alone = list(dict.fromkeys(o for o in networks[blocks_of] if not o.is_free)) if blocks_of else []
    todo = network_workloads(networks)
    todo += [Workload(str(op), "op", lambda op=op: build(op), op.input_shape) for op in alone]  # type: ignore[misc]
    chain = without_identities(networks[blocks_of]) if blocks_of else ()
    nodes: dict[str, float] = {}

    def on_failed(key: str, error: Exception | str) -> None:
        if key in networks:
            raise UserError(f"{key}: {error}")
        ui.warn(f"{key} could not be timed alone: {error}")

    def attribute(sessions: Mapping[str, Session]) -> None:
        """The last thing that is done: where it fails, what was timed is kept."""
        if not blocks_of:
            return
        lone = {op: sessions[str(op)] for op in alone if str(op) in sessions}
        try:
            nodes.update(node_seconds(chain, sessions[blocks_of], lone, NODE_LOOPS))
        except (DeviceError, DeviceUnavailable) as error:
            ui.warn(f"blocks are compared by their times alone, not inside the network: {error}")

    found = time_together(todo, device, policy, ui.progress, seed, on_failed, attribute)
    if any(n not in found or not math.isfinite(found[n].ci_s[0]) for n in networks):
        raise UserError(f"{policy.budget_s / 60:g} min are too few rounds for a 95 % interval: raise --budget-min")
    verdicts = [
        Verdict(n, *predicted[n], m.median_s, m.ci_s, m.flags, m.half_width, m.scale)
        for n, m in ((n, found[n]) for n in networks)
    ]
    blocks = []
    inside = shares_s(chain, nodes, found[blocks_of].median_s) if blocks_of else {}
    f_s, f_std_s = predictor.predict_s(alone, return_std=True) if inside else predictor.alone_s(alone)
    for op, seconds, std_s in zip(alone, f_s, f_std_s, strict=True):
        if inside:
            blocks.append(Block(op, float(seconds), float(std_s), inside[op], 0.0))
        elif str(op) in found:
            taken = found[str(op)]
            own_s = taken.median_s * taken.half_width / 1.96
            blocks.append(Block(op, float(seconds), float(std_s), taken.median_s, own_s))
    return verdicts, blocks


def tell(
    ui: Ui, verdicts: list[Verdict], blocks: list[Block], gap: Gap, differing: list[str], changed: Sequence[str] = ()
) -> None:
    """The table of verdicts, and why they are as they are: `differing` fingerprints, `changed` heat and clocks."""
    from latency.disagree import shared_by, words

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
    ui.say(words(gap))
    for line in differing:
        ui.say(f"the predictor was fitted on another target: {line}")
    for line in changed:
        ui.say(f"the device is in another state than when it was profiled: {line}")
    far = [b for b in blocks if b.far]
    if far:
        ui.table(
            f"blocks that are off, of {len(blocks)}, beside the middle block",
            ["block", "predicted", "measured", "off"],
            [[str(b.op), ms(b.predicted_s), ms(b.measured_s), f"{b.off:+.1%}"] for b in far[:MAX_SAID]],
        )
        shared = shared_by(blocks)
        if shared:
            ui.say(f"all of them have, and no other block has: {', '.join(shared)}")
    elif blocks:
        ui.say(f"no block is off: the {len(blocks)} agree with each other within their intervals and 5 %")


def _recalibrate(
    ui: Ui,
    args: argparse.Namespace,
    predictor: LatencyPredictor,
    gap: Gap,
    here: dict[str, Any],
    of: list[Verdict],
    now: list[dict[str, Any]],
) -> dict[str, Any]:
    from latency.disagree import recalibrated

    if gap.kind != "scale":
        ui.warn("nothing was recalibrated: the gap is not a constant scale that differs from 1 (see above)")
        return {"recalibrated": None, "exit_code": 0 if gap.kind == "none" else 3}
    source = Path(args.predictor)
    out = Path(args.out or source.with_name(f"{source.stem}-recalibrated.pkl"))
    made = recalibrated(predictor, gap, here, of, now)
    made.save(out)
    done = made.provenance["recalibrated"][-1]
    ui.say(
        f"wrote {out}: {source.name} x {gap.scale:.3f}; on these {gap.networks} networks its MAPE is "
        f"{done['mape_after']:.2%} (it was {done['mape_before']:.2%})"
    )
    return {"recalibrated": str(out)}


def _check(args: argparse.Namespace) -> None:
    if not args.budget_min > 0 or args.random < 0:
        raise UserError("--budget-min must be positive and --random at least 0")
    if args.out and not args.recalibrate:
        raise UserError("--out goes with --recalibrate: where the new predictor is written")
    if args.out and Path(args.out).suffix != ".pkl":
        raise UserError(f"--out {args.out}: a predictor is a .pkl file")
    if args.recalibrate and args.random < 2:
        raise UserError("--recalibrate needs --random 2 or more: a scale is judged on at least 3 networks")


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.device_state import state_differences, states
    from latency.disagree import differences, judge, judge_blocks, shared_by
    from latency.files import write_json
    from latency.host import HostWatch, advice, host_state
    from latency.measure import Policy
    from latency.predict import predict_networks
    from latency.predictor import load_predictor
    from latency.space import load_architecture, load_space, space_names

    _check(args)
    devices.find(args.device)
    architecture = load_architecture(args.arch)
    predictor = load_predictor(args.predictor)
    networks: dict[str, tuple[Op, ...]] = {"found": architecture.ops}
    space_name = args.space or architecture.space
    if args.space or space_name in space_names():
        space, rng = load_space(space_name), random.Random(args.seed)
        networks |= {f"random {i + 1}": space.random(rng).ops for i in range(args.random)}
    elif args.recalibrate:
        raise UserError(
            f"--recalibrate needs random networks: name the space of '{space_name}' with --space FILE.py:NAME"
        )
    predicted, by_blocks = predict_networks(networks, predictor)
    if not by_blocks:
        ui.say(f"{args.predictor} knows kernels, not these blocks: networks are predicted by their kernels, "
               "blocks are not compared")  # fmt: skip
    policy = Policy(target=0.01, budget_s=args.budget_min * 60)
    before, watch = host_state(), HostWatch()
    with target(args, ui) as device:
        blocks_of = "found" if args.blocks and by_blocks else None
        verdicts, blocks = verify(networks, predictor, device, policy, ui, args.seed, blocks_of, predicted)
        fingerprint = device.describe()
        state = device.state() if hasattr(device, "state") else None
    gap, blocks = judge(verdicts), judge_blocks(blocks)
    differing = differences(predictor.provenance.get("fingerprint", {}), fingerprint)
    changed = state_differences(predictor.provenance.get("device_state", []), states(state))
    tell(ui, verdicts, blocks, gap, differing, changed)
    governor, here = str(fingerprint.get("governor", "")), "cpu" in fingerprint
    unsure = advice([], policy.target, policy.budget_s, before, watch.facts(), None, governor, here)
    for line in unsure:
        ui.warn(line)
    mine = next(v for v in verdicts if v.name == "found")
    result = {
        "predicted_ms": mine.predicted_s * 1e3,
        "measured_ms": mine.measured_s * 1e3,
        "ci_ms": [s * 1e3 for s in mine.ci_s],
        "error": mine.error,
        "predicted_by": "blocks" if by_blocks else "kernels",
        "gap": gap.kind,
        "scale": gap.scale,
        "scale_interval": list(gap.interval),
        "differences": [*differing, *changed],
        "blocks_off": [str(b.op) for b in blocks if b.far],
        "blocks_share": shared_by(blocks),
        "advice": unsure,
    }
    out = Path(args.arch).with_name("verify.json")
    write_json(
        out,
        {
            **result,
            "device": fingerprint,
            "device_state": state,
            "predictor": str(args.predictor),
            "judged": asdict(gap),
            "random": [[v.predicted_s * 1e3, v.measured_s * 1e3] for v in verdicts if v is not mine],
            "blocks": [[str(b.op), b.predicted_s * 1e3, b.measured_s * 1e3, b.off] for b in blocks],
        },
    )
    ui.say(f"wrote {out}")
    if args.recalibrate:
        result |= _recalibrate(ui, args, predictor, gap, fingerprint, verdicts, states(state))
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "latency.verify", "Time a found network on a device; say how far its predicted latency is off, and why."
    )
    made.add_argument("--arch", required=True, help="architecture.json of a search")
    made.add_argument("--predictor", required=True, help="the predictor, tables/NAME.pkl")
    add_device_arguments(made)
    made.add_argument("--space", help="space of the random networks (default: the architecture's own)")
    made.add_argument("--random", type=int, default=8, help="random networks timed in the same rounds")
    made.add_argument(
        "--blocks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the network's own blocks in the same rounds, and say which are off",
    )
    made.add_argument(
        "--recalibrate", action="store_true", help="where the gap is a constant scale, write a predictor that has it"
    )
    made.add_argument(
        "--out", help="with --recalibrate: the new predictor (default NAME-recalibrated.pkl beside the old)"
    )
    made.add_argument("--budget-min", type=float, default=0.5, help="minutes of timing at most")
    made.add_argument("--seed", type=int, default=0, help="of the random networks and the order of visits")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
