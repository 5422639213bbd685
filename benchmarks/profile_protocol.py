"""`python -m benchmarks.profile_protocol`: ops timed back to back, as other tools do, against random-order rounds.

Question: at equal wall time, are sums of ops timed in rounds at least 3 x nearer to the networks' times? Every run is
kept in the file of results, with how busy the machine was: one run on a shared host proves little.

Both protocols time the same ops and the same random networks on the same device within the same number of seconds,
one after the other. Both get the same share of time for each workload, one untimed inference before each series, and
the median. They are judged twice: against a common reference (the networks in the rounds), and each against the
networks as it timed them itself, so that the reference favours neither.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, parser, run

if TYPE_CHECKING:
    from devices.base import Session
    from latency.measure import Workload

RESULT = Path(__file__).parent / "results" / "profile_protocol.json"


def back_to_back(
    sessions: Mapping[str, Session], workloads: Sequence[Workload], share_s: Mapping[str, float]
) -> dict[str, float]:
    """Median seconds of each workload, timed one after another: a warm-up run, then runs until its share is spent."""
    import numpy as np

    medians: dict[str, float] = {}
    for workload in workloads:
        session = sessions[workload.key]
        samples: list[float] = []
        end = time.perf_counter() + share_s[workload.key]
        session.time_s(1)
        while not samples or time.perf_counter() < end:
            samples.append(session.time_s(1))
        medians[workload.key] = float(np.median(samples))
    return medians


def in_rounds(
    sessions: Mapping[str, Session], workloads: Sequence[Workload], seconds: float, seed: int
) -> tuple[dict[str, float], int, float]:
    """(median seconds of each workload, rounds, wall seconds), by latency.measure; no workload stops early."""
    from latency.measure import Measurement, Policy, Progress, run_rounds

    found: list[Measurement] = []
    progress = Progress()

    def failed(key: str, error: Exception) -> None:
        raise UserError(f"{key}: {error}")

    began = time.perf_counter()
    run_rounds(
        sessions,
        workloads,
        Policy(target=0.0, budget_s=seconds),
        random.Random(seed),
        progress,
        on_round=lambda *_: None,
        on_done=found.append,
        on_failed=failed,
        report=lambda *_: None,
    )
    return {m.key: m.median_s for m in found}, progress.next_round, time.perf_counter() - began


def judge(ops_s: Mapping[str, float], networks: Sequence[Workload], networks_s: Mapping[str, float]) -> dict[str, Any]:
    """MAPE and rank correlation of sums of ops against networks; `calibrated` after a line through half of them."""
    import numpy as np

    from latency.stats import mape, spearman

    sums = np.array([sum(ops_s[op] for op in n.key.split(" > ")) for n in networks])
    measured = np.array([networks_s[n.key] for n in networks])
    line = np.polyfit(sums[::2], measured[::2], 1)
    return {
        "mape": mape(sums, measured),
        "bias": float(np.mean(sums / measured - 1)),
        "spearman": spearman(sums, measured),
        "mape_calibrated": mape(np.polyval(line, sums[1::2]), measured[1::2]),
    }


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.files import read_json, write_json
    from latency.host import HostWatch
    from latency.measure import prepare, warm_up
    from latency.profile import workloads
    from latency.space import load_space

    if args.networks < 4 or args.seconds <= 0:
        raise UserError("--networks must be at least 4 and --seconds above 0")
    device = devices.load(args.device)
    todo = workloads(load_space(args.space), args.networks, args.seed)
    networks = [w for w in todo if w.kind == "network"]
    with ui.progress("preparing") as report:
        sessions, failed = prepare(device, todo, report)
    if failed:
        raise UserError(f"{next(iter(failed.items()))}")
    watch = HostWatch()
    # A visit in the rounds is one untimed inference and a batch of `loops`: the share of time of each workload.
    visit_s = {key: (warm_up(s, 2e-3) + 1) * s.time_s(1) for key, s in sessions.items()}
    ui.say(f"{len(todo) - len(networks)} ops, {len(networks)} networks; rounds first, {args.seconds:g} s")
    rounds_s, rounds, wall_s = in_rounds(sessions, todo, args.seconds, args.seed)
    scale = wall_s / sum(visit_s.values())
    ui.say(f"{rounds} rounds in {wall_s:.0f} s; now back to back, as long")
    began = time.perf_counter()
    series_s = back_to_back(sessions, todo, {key: seconds * scale for key, seconds in visit_s.items()})
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": device.describe(),
        "host": watch.facts(),
        "space": args.space,
        "ops": len(todo) - len(networks),
        "networks": len(networks),
        "rounds": rounds,
        "wall_s": {"rounds": round(wall_s, 1), "back_to_back": round(time.perf_counter() - began, 1)},
        "common_reference": {
            "back_to_back": judge(series_s, networks, rounds_s),
            "rounds": judge(rounds_s, networks, rounds_s),
        },
        "own_networks": {"back_to_back": judge(series_s, networks, series_s)},
    }
    common = result["common_reference"]
    own = result["own_networks"]["back_to_back"]
    result["error_ratio"] = common["back_to_back"]["mape"] / common["rounds"]["mape"]
    result["error_ratio_own_networks"] = own["mape"] / common["rounds"]["mape"]
    rows = [("back to back", common["back_to_back"]), ("rounds", common["rounds"])]
    rows.append(("back to back, against its own networks", own))
    ui.table(
        f"sums of ops against {len(networks)} networks, {wall_s:.0f} s each",
        ["protocol", "MAPE", "bias", "Spearman", "MAPE after a line"],
        [
            [name, f"{r['mape']:.1%}", f"{r['bias']:+.1%}", f"{r['spearman']:.3f}", f"{r['mape_calibrated']:.1%}"]
            for name, r in rows
        ],
    )
    ui.say(
        f"error of back to back / error of rounds: {result['error_ratio']:.1f} against the same networks, "
        f"{result['error_ratio_own_networks']:.1f} where each is judged by its own"
    )
    out = Path(args.out)
    before = read_json(out, "the results of this benchmark")["runs"] if out.exists() else []
    write_json(out, {"expected": "error_ratio >= 3", "runs": [*before, result]})
    ui.say(f"run {len(before) + 1} added to {out}")
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.profile_protocol", "Timing ops back to back against timing them in rounds.")
    made.add_argument("--device", default="cpu", help="a device by name, or a device file FILE.toml")
    made.add_argument("--space", default="proxyless", help="a search space by name, or FILE.py:NAME")
    made.add_argument("--networks", type=int, default=40, help="random whole networks that the sums are compared with")
    made.add_argument("--seconds", type=float, default=90.0, help="of timing for each protocol")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
