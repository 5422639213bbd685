"""What a step of the search costs in time, beside a training step of the very network that it runs.

The full ImageNet space (21 blocks of up to 7 candidates) on small images, as the default run has it. In each round new
paths are drawn and the networks of these paths are built alone, by the same builder and trained with the same code;
then all steps are timed in random order, several times, and the fastest of each counts. A ratio is that of a step to
the plain step of its own network in the round; told are the median over rounds and its 95 % interval (by order
statistics).

Expected: weight step <= 1.10; alpha step with two gates <= 1.6, with full gates (up to 7 candidates) <= 4; the latency
term <= 1 % of a plain step. Run `python -m benchmarks.search_step` from the root of the repository, on an idle machine.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.common import about, save
from devices.errors import UserError
from latency.console import Ui, parser, run

RESULT = Path("benchmarks/results/search_step.json")
BARS = {"weight step": 1.10, "alpha step, two gates": 1.6, "alpha step, full gates": 4.0, "latency term": 0.01}


def timed(step: Any) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def one_round(steps: Any, number: int, repeats: int, rng: random.Random) -> dict[str, list[float]]:
    """Ratios of the steps of round `number` to the plain steps of the same networks, `repeats` of each."""
    from benchmarks.steps import of_name
    from search.alpha import latency_gradient

    steps.state.step = number  # decides what is drawn
    two, full = of_name("proxyless-g two"), of_name("proxyless-g full")
    paths = {"weight step": steps.drawn("path"), "alpha step, two gates": steps.pair(),
             "alpha step, full gates": steps.drawn("gates")}  # fmt: skip
    alpha = steps.state.supernet.alpha_LK.detach().clone()
    every = {"weight step": steps.weight(two), "alpha step, two gates": steps.alpha(two),
             "alpha step, full gates": steps.alpha(full)}  # fmt: skip
    plain = {name: steps.plain(path)[0] for name, path in paths.items()}
    seconds: dict[str, list[float]] = {}
    order = [(name, which) for name in every for which in ("ours", "plain")] + [("latency term", "ours")]
    for repeat in range(repeats + 1):  # the first warms up: caches, momentum
        rng.shuffle(order)
        for name, which in order:
            if name == "latency term":
                spent = timed(lambda: latency_gradient(steps.state, 2.3))
            else:
                spent = timed(every[name] if which == "ours" else plain[name])
                steps.state.supernet.alpha_LK.data.copy_(alpha)  # the next call draws the same
            if repeat:
                seconds.setdefault(f"{name} {which}", []).append(spent)
    best = {key: min(values) for key, values in seconds.items()}
    ratios = {name: best[f"{name} ours"] / best[f"{name} plain"] for name in every}
    ratios["latency term"] = best["latency term ours"] / best["weight step plain"]
    return ratios | {"plain_s": best["weight step plain"]}


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch

    from benchmarks.steps import Steps
    from latency.host import HostWatch
    from latency.space import load_space
    from latency.stats import median_ci

    if args.rounds < 6 or args.repeats < 1:
        raise UserError("--rounds must be at least 6, for an interval, and --repeats at least 1")
    torch.set_num_threads(args.threads)
    watch = HostWatch()
    steps, rng = Steps(load_space(args.space), args.batch, args.image_size), random.Random(args.seed)
    rounds = []
    with ui.progress("rounds") as report:
        for number in range(args.rounds):
            rounds.append(one_round(steps, number, args.repeats, rng))
            report(number + 1, args.rounds, "")
    found: dict[str, Any] = {}
    for name, bar in BARS.items():
        values = np.array([r[name] for r in rounds])
        low, high = median_ci(values)
        middle = float(np.median(values))
        found[name] = {"ratio": middle, "ci_low": float(low), "ci_high": float(high), "bar": bar, "met": middle <= bar}
    plain_s = float(np.median([r["plain_s"] for r in rounds]))
    setting = f"{args.space}, batch {args.batch} at {args.image_size} px, {args.threads} threads"
    ui.table(
        f"{setting}: against a plain step of the same network ({plain_s * 1e3:.0f} ms in the middle)",
        ["step", "ratio", "95 % interval", "bar", ""],
        [
            [name, f"{r['ratio']:.4g}", f"{r['ci_low']:.4g} .. {r['ci_high']:.4g}", f"{r['bar']:g}",
             "met" if r["met"] else "missed"]
            for name, r in found.items()
        ],
    )  # fmt: skip
    result = {**about(), "host": watch.facts(), "space": args.space, "batch": args.batch, "image_size": args.image_size,
              "threads": args.threads, "rounds": args.rounds, "plain_step_s": plain_s, "steps": found}  # fmt: skip
    save(args.out, result)
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.search_step", "Time of the search's steps against plain training.")
    made.add_argument("--space", default="proxyless")
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--image-size", type=int, default=32)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--rounds", type=int, default=25)
    made.add_argument("--repeats", type=int, default=3, help="of each step in a round; the fastest counts")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=RESULT)
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
