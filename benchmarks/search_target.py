"""`python -m benchmarks.search_target`: does one search meet its latency target, whatever the target is?

Full searches (warm-up, search, derivation; the final trainings are left out) with the default recipe on digits, for
five targets and three seeds on the Pixel 1 predictor. Beside each, the same seed, data and steps by the paper's own
rules (`--reference`: the released loss and the argmax of every block), and how far from its target that lands.

Expected: the derived network takes 0.97 to 1 times the target in every run, one run each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.worklog import WorkLog
from devices.errors import UserError
from latency.console import Ui, parser, run

HERE = Path(__file__).parent
RESULT, LOG = HERE / "results" / "search_target.json", HERE / "results" / "search_target.jsonl"
PREDICTOR = HERE.parent / "tables" / "pixel1.pkl"
TARGETS_MS = (45.0, 60.0, 80.0, 100.0, 130.0)


def search_once(log: WorkLog, target_s: float, seed: int, reference: bool) -> dict[str, Any]:
    """Latency of the network found over the target, and E[latency] over it at the end of the search."""
    from latency.predictor import load_predictor
    from latency.space import load_space
    from search.api import Options, search_data
    from search.data import load_data
    from search.recipe import for_data

    what = ["paper" if reference else "ours", target_s, seed]
    row = log.get(what)
    if row is None:
        began = time.perf_counter()
        data = load_data("digits", image_size=32, seed=seed)
        recipe = for_data(len(data.train) + len(data.validation), train_steps=0)
        result = search_data(
            load_space("proxyless"),
            load_predictor(PREDICTOR),
            data,
            target_s=target_s,
            recipe=recipe,
            options=Options(seed=seed, reference=reference),
        )
        row = log.add(
            what,
            found=result.predicted_s / target_s,
            expected=result.expected_s / target_s,
            seconds=time.perf_counter() - began,
            indices=list(result.architecture.indices),
        )
    return row


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from latency.files import write_json
    from latency.host import HostWatch

    if args.seeds < 1 or args.threads < 1 or not all(t > 0 for t in args.targets_ms):
        raise UserError("--seeds and --threads must be at least 1, and targets above 0")
    torch.set_num_threads(args.threads)
    log = WorkLog(Path(args.log))
    rows = []
    for target_ms in args.targets_ms:
        for seed in range(args.seeds):
            ours, paper = (search_once(log, target_ms * 1e-3, seed, reference) for reference in (False, True))
            rows.append({"target_ms": target_ms, "seed": seed, "ours": ours, "paper": paper})
            ui.say(f"{target_ms:g} ms, seed {seed}: {ours['found']:.4f} of the target, paper {paper['found']:.4f}")
    met = [0.97 <= row["ours"]["found"] <= 1 for row in rows]
    paper_met = [0.97 <= row["paper"]["found"] <= 1 for row in rows]
    misses = sorted(abs(row["paper"]["found"] - 1) for row in rows)
    ui.table(
        f"predicted latency / target: {sum(met)} of {len(rows)} runs within 0.97 to 1, the paper's {sum(paper_met)}",
        ["target", "ours", "expected", "paper", "expected"],
        [
            [
                f"{target:g} ms",
                *(
                    " ".join(f"{row[who][what]:.3f}" for row in rows if row["target_ms"] == target)
                    for who in ("ours", "paper")
                    for what in ("found", "expected")
                ),
            ]
            for target in args.targets_ms
        ],
    )
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "host": HostWatch().facts(),
        "expected": "0.97 <= ours.found <= 1 in every run",
        "met": all(met),
        "runs_met": sum(met),
        "runs": len(rows),
        "worst_expected": max(abs(row["ours"]["expected"] - 1) for row in rows),
        "paper_runs_met": sum(paper_met),
        "paper_miss_median": misses[len(misses) // 2],
        "paper_miss_worst": misses[-1],
        "rows": rows,
    }
    write_json(Path(args.out), result)
    ui.say(f"wrote {args.out}")
    return {k: v for k, v in result.items() if k != "rows"}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.search_target", "Searches at several latency targets, ours and by the paper's rules.")
    made.add_argument("--targets-ms", type=float, nargs="+", default=list(TARGETS_MS))
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--log", default=str(LOG), help="finished runs, kept between calls")
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
