"""`python -m latency.verify --arch runs/x/architecture.json --predictor tables/cpu.pkl --device cpu`.

Builds the network, times it on the device in rounds, interleaved with random networks of the same space and with its
own blocks, and says how far the prediction was off and why: another target, a constant scale, or certain blocks.
`--model model.onnx` instead of `--arch` does so for any network, by its kernels: latency/verify_model.py.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run
from latency.targets import add_device_arguments, device_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latency.disagree import Block, Gap, Verdict
    from latency.predictor import LatencyPredictor

MAX_SAID = 8  # blocks shown


def tell(
    ui: Ui,
    verdicts: Sequence[Verdict],
    blocks: list[Block],
    gap: Gap,
    differing: list[str],
    changed: Sequence[str] = (),
    parts: str = "blocks",
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
    ui.say(words(gap, parts))
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
    """What goes with what. Raises UserError naming the option."""
    if (args.arch is None) == (args.model is None):
        raise UserError("--arch architecture.json or --model model.onnx: one of the two, the network to be timed")
    for option, given in (("--arch", args.arch), ("--model", args.model)):
        if given is not None and not Path(given).name:
            raise UserError(f"{option} '{given}' names no file")
    if (args.random is not None and args.random < 0) or not args.budget_min > 0:
        raise UserError("--budget-min must be positive and --random at least 0")
    if args.model and args.space:
        raise UserError("--space goes with --arch; random networks beside an ONNX model are of the space 'kernels'")
    if args.arch and args.input_shape:
        raise UserError("--input-shape goes with --model; an architecture says its own")
    if args.out and not args.recalibrate:
        raise UserError("--out goes with --recalibrate: where the new predictor is written")
    if args.out and Path(args.out).suffix != ".pkl":
        raise UserError(f"--out {args.out}: a predictor is a .pkl file")
    if args.recalibrate and args.random is not None and args.random < 2:
        raise UserError("--recalibrate needs --random 2 or more: a scale is judged on at least 3 networks")


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency import verify_kernels, verify_model
    from latency.device_state import state_differences, states
    from latency.disagree import differences, judge, judge_blocks, shared_by
    from latency.files import check_writable, write_json
    from latency.host import HostWatch, advice, host_state
    from latency.measure import Policy
    from latency.predict import NOT_COVERED
    from latency.verify_network import of_architecture

    _check(args)
    if args.model:
        verify_model.require_runtime(args.device)
        device_options(args)
        out = Path(args.model).with_suffix(".verify.json")
    else:
        devices.find(args.device)
        out = Path(args.arch).with_name("verify.json")
    check_writable(out)
    policy = Policy(target=0.01, budget_s=args.budget_min * 60)
    before, watch = host_state(), HostWatch()
    found = (verify_model.of_model if args.model else of_architecture)(ui, args, policy)
    mine, predictor, fingerprint = found.mine, found.predictor, found.fingerprint
    gap, blocks = judge(found.judged), judge_blocks(found.blocks)
    differing = differences(predictor.provenance.get("fingerprint", {}), fingerprint)
    changed = state_differences(predictor.provenance.get("device_state", []), states(found.state))
    others = [v for v in found.judged if v is not mine]
    tell(ui, [mine, *others], blocks, gap, differing, changed, "kernels" if found.model else "blocks")
    governor, here = str(fingerprint.get("governor", "")), "cpu" in fingerprint
    unsure = advice([], policy.target, policy.budget_s, before, watch.facts(), None, governor, here)
    for line in unsure:
        ui.warn(line)
    result: dict[str, Any] = {
        "predicted_ms": mine.predicted_s * 1e3,
        "measured_ms": mine.measured_s * 1e3,
        "ci_ms": [s * 1e3 for s in mine.ci_s],
        "error": mine.error,
        "predicted_by": found.by,
        "gap": gap.kind,
        "scale": gap.scale,
        "scale_interval": list(gap.interval),
        "differences": [*differing, *changed],
        "advice": unsure,
    }
    kept: dict[str, Any] = {
        "device": fingerprint,
        "device_state": found.state,
        "predictor": str(args.predictor),
        "judged": asdict(gap),
        "random": [[v.predicted_s * 1e3, v.measured_s * 1e3] for v in others],
    }
    if found.model:
        verify_kernels.tell_kernels(ui, found.model)
        result |= verify_kernels.as_dict(found.model)
        kept["kernels"] = verify_kernels.kernel_lines(found.model)
    else:
        result |= {"blocks_off": [str(b.op) for b in blocks if b.far], "blocks_share": shared_by(blocks)}
        kept["blocks"] = [[str(b.op), b.predicted_s * 1e3, b.measured_s * 1e3, b.off] for b in blocks]
    write_json(out, {**result, **kept})
    ui.say(f"wrote {out}")
    if args.recalibrate:
        result |= _recalibrate(ui, args, predictor, gap, fingerprint, found.judged, states(found.state))
    if found.model and found.model.told.uncovered:
        ui.warn(
            f"{len(found.model.told.uncovered)} kernels are missing from what is predicted: exit code {NOT_COVERED}"
        )
        result["exit_code"] = NOT_COVERED
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("latency.verify", "Time a network on a device; say how far its predicted latency is off, and why.")
    made.add_argument("--arch", help="the network: architecture.json of a search")
    made.add_argument("--model", help="the network: an ONNX model, compared by its kernels")
    made.add_argument("--predictor", required=True, help="the predictor, tables/NAME.pkl")
    add_device_arguments(made)
    made.add_argument("--space", help="with --arch: space of the random networks (default: the architecture's own)")
    made.add_argument("--random", type=int, help="random networks timed in the same rounds (default: 8; --model: 9)")
    made.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=1,3,224,224",
        help="with --model: fix a dynamic input; repeatable",
    )  # fmt: skip
    made.add_argument(
        "--blocks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the network's own blocks (with --model its kernels, inside it) too, and say which are off",
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
