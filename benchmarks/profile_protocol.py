"""`python -m benchmarks.profile_protocol`: ops timed back to back, as other tools do, against random-order rounds.

Question: at equal wall time, are sums of ops timed in rounds at least 3 x nearer to the networks' times?

In each of several repeats both protocols time the same ops and the same random networks on the same device for as many
seconds, and take turns in going first. In back-to-back timing each workload gets one series, with the share of
time that it has in the rounds: seconds a series, kinder than what peers do. That is timed too: 30 runs each, then the
next ("series of 30"). Each series and each visit begins with an untimed inference; the median counts.

Each protocol is judged by its own networks, as its user would judge it, and by a common reference, the networks in all
rounds of the run. And on four levels: the plain sum of ops; then judged on half of the networks, after the other half
has taught a line ("line"), F as `latency.fit` makes it ("F"), or a line with the bytes of weights and of activations
beside the sum ("bytes": ops timed alone keep their weights in the cache, and have their layout converted).

`--disturb` adds what a shared host does: two processes that read and write memory, each busy about half of the time, in
stretches of 0.2 to 5 s at random. A run says in the results which it was, and how busy the machine was in it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, parser, run

if TYPE_CHECKING:
    from devices.base import Session
    from latency.measure import Measurement, Workload

RESULT = Path(__file__).parent / "results" / "profile_protocol.json"
PEER_RUNS = 30
LEVELS = ("sum", "line", "F", "bytes")
PROTOCOLS = ("rounds", "back to back", f"series of {PEER_RUNS}")
DISTURBANCE = """
import random, sys, time
import numpy as np
rng, a = random.Random(int(sys.argv[1])), np.ones(4_000_000)
while True:
    end = time.monotonic() + rng.uniform(0.2, 5.0)
    while time.monotonic() < end:
        a += 1.0
    time.sleep(rng.uniform(0.2, 5.0))
"""


@dataclass(frozen=True)
class Timed:
    """Medians in seconds and their standard errors, by workload."""

    seconds: dict[str, float]
    stderr_s: dict[str, float]


@contextlib.contextmanager
def disturbance(processes: int, seed: int) -> Iterator[None]:
    """`processes` other programs at work, now and then; ended afterwards."""
    running = [
        subprocess.Popen([sys.executable, "-c", DISTURBANCE, str(seed + i)], stderr=subprocess.DEVNULL)
        for i in range(processes)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def back_to_back(
    sessions: Mapping[str, Session], workloads: Sequence[Workload], share_s: Mapping[str, float] | None
) -> Timed:
    """Each workload in one series: for its share of seconds, or PEER_RUNS runs where `share_s` is None."""
    import numpy as np

    from latency.measure import Measurement

    found = []
    for workload in workloads:
        session = sessions[workload.key]
        samples: list[float] = []
        end = time.perf_counter() + (0.0 if share_s is None else share_s[workload.key])
        session.time_s(1)
        while time.perf_counter() < end or (len(samples) < PEER_RUNS if share_s is None else not samples):
            samples.append(session.time_s(1))
        found.append(Measurement(workload.key, workload.kind, np.array(samples), np.ones(len(samples))))
    return _timed(found)


def in_rounds(
    sessions: Mapping[str, Session], workloads: Sequence[Workload], seconds: float, seed: int
) -> tuple[list[Measurement], int]:
    """(every workload measured, rounds) by latency.measure; no workload stops early."""
    from latency.measure import Policy, Progress, run_rounds

    progress = Progress()

    def failed(key: str, error: Exception) -> None:
        raise UserError(f"{key}: {error}")

    found = run_rounds(
        sessions,
        workloads,
        Policy(target=0.0, budget_s=seconds),
        random.Random(seed),
        progress,
        on_round=lambda *_: None,
        on_done=lambda _: None,
        on_failed=failed,
        report=lambda *_: None,
    )
    return found, progress.next_round


def judge(timed: Timed, chains: Sequence[str], reference_s: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """By level: error and rank correlation of the networks `chains`, as made from `timed`, against `reference_s`."""
    import numpy as np

    from latency.flops import bytes_moved, params
    from latency.joint import fit_joint
    from latency.ops import parse_network
    from latency.predictor import from_fit
    from latency.stats import Floats, mape, spearman

    fit, test = chains[::2], chains[1::2]
    sums = {chain: sum(timed.seconds[op] for op in chain.split(" > ")) for chain in chains}
    weights = {c: 4e-9 * sum(params(op) for op in parse_network(c)) for c in chains}  # GB: numbers near 1
    moved = {c: 1e-9 * sum(bytes_moved(op) for op in parse_network(c)) for c in chains}
    typical_s = statistics.median(timed.seconds[c] for c in fit)

    def linear(columns: int) -> Floats:
        """The chains of `test` by least relative squares through `fit`, on the first so many columns."""
        table = {c: [sums[c], typical_s, weights[c], moved[c]][:columns] for c in chains}
        measured = np.array([timed.seconds[c] for c in fit])
        rows = np.array([table[c] for c in fit]) / measured[:, None]
        coefficients, *_ = np.linalg.lstsq(rows, np.ones(len(fit)), rcond=None)
        predicted: Floats = np.array([table[c] for c in test]) @ coefficients
        return predicted

    observed = {key: _observation(key, timed) for key in timed.seconds}
    joint = fit_joint([observed[key] for key in timed.seconds if key not in set(test)])
    f = from_fit("", joint)

    def scores(predicted: Floats, of: Sequence[str]) -> dict[str, float]:
        measured = np.array([reference_s[c] for c in of])
        return {
            "mape": mape(predicted, measured),
            "bias": float(np.mean(predicted / measured - 1)),
            "spearman": spearman(predicted, measured),
        }

    return {
        "sum": scores(np.array([sums[c] for c in chains]), chains),
        "line": scores(linear(2), test),
        "bytes": scores(linear(4), test),
        "F": scores(np.array([f.network_s(observed[c].ops)[0] for c in test]), test),
    }


def _observation(key: str, timed: Timed) -> Any:
    from latency.joint import Observation
    from latency.ops import parse_network

    return Observation(parse_network(key), timed.seconds[key], timed.stderr_s[key])


def _timed(found: Sequence[Measurement]) -> Timed:
    import math

    error = {m.key: m.half_width * m.median_s / 1.96 for m in found}
    return Timed(
        {m.key: m.median_s for m in found},
        {m.key: error[m.key] if math.isfinite(error[m.key]) else 0.1 * m.median_s for m in found},
    )


def measure(
    ui: Ui, sessions: Mapping[str, Session], todo: Sequence[Workload], args: argparse.Namespace
) -> dict[str, Any]:
    """All repeats: by protocol and judgement the list of `judge`'s answers; rounds, noise, and wall seconds."""
    import numpy as np

    from latency.measure import Policy, warm_up

    chains = [w.key for w in todo if w.kind == "network"]
    visit_s = {key: (warm_up(s, Policy().sample_s) + 1) * s.time_s(1) for key, s in sessions.items()}
    timed: dict[str, list[Timed]] = {p: [] for p in PROTOCOLS}
    wall_s: dict[str, list[float]] = {p: [] for p in PROTOCOLS}
    pooled: dict[str, list[Any]] = {c: [] for c in chains}
    rounds, noise = [], []
    for repeat in range(args.repeats):
        order = PROTOCOLS if repeat % 2 == 0 else PROTOCOLS[::-1]
        for protocol in order:
            began = time.perf_counter()
            if protocol == "rounds":
                found, n = in_rounds(sessions, todo, args.seconds, args.seed + repeat)
                rounds.append(n)
                noise.append(statistics.fmean(abs(m.drift) for m in found if m.kind == "network"))
                for m in found:
                    if m.kind == "network":
                        pooled[m.key].append(m.corrected_s)
                timed[protocol].append(_timed(found))
            else:  # as long as the rounds took, their warm-up included
                scale = wall_s["rounds"][-1] / sum(visit_s.values())
                share_s = {key: seconds * scale for key, seconds in visit_s.items()}
                timed[protocol].append(back_to_back(sessions, todo, share_s if protocol == PROTOCOLS[1] else None))
            wall_s[protocol].append(round(time.perf_counter() - began, 1))
        ui.say(f"repeat {repeat + 1} of {args.repeats}: {rounds[-1]} rounds, {wall_s['rounds'][-1]:.0f} s each")
    common = {c: float(np.median(np.concatenate(pooled[c]))) for c in chains}
    return {
        "rounds": rounds,
        "half_to_half": [round(x, 5) for x in noise],
        "wall_s": wall_s,
        "own_networks": {p: [judge(t, chains, t.seconds) for t in timed[p]] for p in PROTOCOLS},
        "common_reference": {p: [judge(t, chains, common) for t in timed[p]] for p in PROTOCOLS},
    }


def _show(ui: Ui, result: dict[str, Any]) -> dict[str, float]:
    """Print the table; returns the ratios of the median errors, back to back over rounds."""
    rows, ratios = [], {}
    for judgement in ("own_networks", "common_reference"):
        for level in LEVELS:
            middle = {}
            for protocol in PROTOCOLS:
                found = [j[level] for j in result[judgement][protocol]]
                errors = [f["mape"] for f in found]
                middle[protocol] = statistics.median(errors)
                rows.append(
                    [
                        f"{judgement.replace('_', ' ')}, {level}: {protocol}",
                        f"{middle[protocol]:.2%}",
                        f"{min(errors):.2%} .. {max(errors):.2%}",
                        f"{statistics.median(f['bias'] for f in found):+.1%}",
                        f"{statistics.median(f['spearman'] for f in found):.3f}",
                    ]
                )
            for protocol in PROTOCOLS[1:]:
                ratios[f"{judgement}, {level}, {protocol}"] = round(middle[protocol] / middle["rounds"], 2)
    ui.table("networks from ops", ["judged by, level: protocol", "MAPE", "of the repeats", "bias", "Spearman"], rows)
    for name, ratio in ratios.items():
        ui.say(f"error / error of rounds ({name}): {ratio:.1f}")
    return ratios


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.files import read_json, write_json
    from latency.host import HostWatch
    from latency.measure import prepare
    from latency.space import load_space
    from latency.workloads import workloads

    if args.networks < 10 or not args.seconds > 0 or args.repeats < 1:
        raise UserError("--networks must be at least 10, --repeats at least 1, and --seconds above 0")
    device = devices.load(args.device)
    todo = workloads(load_space(args.space), args.networks, args.seed)
    with ui.progress("preparing") as report:
        sessions, failed = prepare(device, todo, report)
    if failed:
        raise UserError(f"{next(iter(failed.items()))}")
    ui.say(f"{len(todo) - args.networks} ops, {args.networks} networks, {args.repeats} x {args.seconds:g} s a protocol")
    watch = HostWatch()
    with disturbance(2 if args.disturb else 0, args.seed):
        found = measure(ui, sessions, todo, args)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": device.describe(),
        "disturbed": args.disturb,
        "host": watch.facts(),
        "space": args.space,
        "ops": len(todo) - args.networks,
        "networks": args.networks,
        **found,
    }
    result["error_ratio"] = _show(ui, result)
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
    made.add_argument("--seconds", type=float, default=30.0, help="of timing for each protocol in each repeat")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--disturb", action="store_true", help="have other processes at work, now and then")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
