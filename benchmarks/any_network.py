"""`python -m benchmarks.any_network`: networks of 14 families, predicted from a table of kernels, against this CPU.

Question: is the latency of a network that the fit has never seen, of whatever family, predicted within 10 % for 90 % of
them and within 20 % for all? The predictor is fitted on the table of `latency.profile --space kernels` alone. Beside
it, from the same table: a line on FLOPs through its networks, and a random forest per kind of kernel, as nn-Meter uses
it, with constant and scale fitted on its networks.

The networks (benchmarks/any_network_models.py) are timed together, in rounds, in the same run; `--measured FILE` takes
the times of an earlier run instead, to look at another fit.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run

if TYPE_CHECKING:
    from latency.onnx_graph import KernelNode
    from latency.predictor import LatencyPredictor

RESULT = Path(__file__).parent / "results" / "any_network.json"
WITHIN_10, WITHIN_20 = 0.9, 1.0


def measure(device: Any, seconds: float, seed: int, ui: Ui) -> dict[str, tuple[float, float]]:
    """(median seconds, half width of its 95 % interval) of every network, by name."""
    import torch

    from benchmarks.any_network_models import FAMILIES
    from latency.measure import Policy, Progress, Workload, prepare, run_rounds

    torch.manual_seed(0)
    todo = [
        Workload(f"{name}_{width}_{size}", "network", lambda make=make, width=width: make(width), (1, 3, size, size))  # type: ignore[misc]
        for name, (make, rows) in FAMILIES.items()
        for width, size in rows
    ]
    with ui.progress("preparing") as report:
        sessions, failed = prepare(device, todo, report)
    if failed:
        raise UserError(f"{next(iter(failed.items()))}")
    with ui.progress("timing") as report:
        found = run_rounds(
            sessions, todo, Policy(target=0.005, budget_s=seconds), random.Random(seed), Progress(), report=report,
            on_round=lambda *_: None, on_done=lambda _: None, on_failed=lambda key, error: ui.warn(f"{key}: {error}"),
        )  # fmt: skip
    return {m.key: (m.median_s, m.half_width * m.median_s) for m in found}


def networks(runtime: str) -> dict[str, tuple[KernelNode, ...]]:
    """The kernels of every network, by name."""
    from benchmarks.any_network_models import FAMILIES
    from devices.onnx_cpu import export_onnx
    from latency.onnx_graph import kernels_of
    from latency.onnx_parts import rules_for

    return {
        f"{name}_{width}_{size}": kernels_of(export_onnx(make(width), (1, 3, size, size)), rules_for(runtime))
        for name, (make, rows) in FAMILIES.items()
        for width, size in rows
    }


def baselines(table: Path, kernels: Mapping[str, tuple[KernelNode, ...]]) -> dict[str, dict[str, float]]:
    """Seconds by a line on FLOPs and by a forest per kind, both fitted on the table."""
    import numpy as np

    from latency.estimators import CANDIDATES
    from latency.fit_errors import fit_network_level
    from latency.fit_sources import observations
    from latency.flops import macs
    from latency.op_fit import fit_ops
    from latency.predictor import LatencyPredictor
    from latency.table import LatencyTable

    rows = observations(LatencyTable(table))
    ops, nets = [o for o in rows if len(o.ops) == 1], [o for o in rows if len(o.ops) > 1]
    y = np.array([o.seconds for o in nets])
    line = np.polyfit([float(sum(map(macs, o.ops))) for o in nets], y, 1, w=1 / y)
    forest = LatencyPredictor("forest", fit_ops(ops, 2, {"random_forest": CANDIDATES["random_forest"]}).kinds)
    sums = np.array([forest.predict_s(o.ops).sum() for o in nets])
    constant, scale = fit_network_level(sums, y, np.array([o.stderr_s for o in nets]))
    found: dict[str, dict[str, float]] = {"flops_line": {}, "random_forest": {}}
    for name, ks in kernels.items():
        its = [k.op for k in ks if k.op is not None]
        found["flops_line"][name] = float(np.polyval(line, sum(k.macs for k in ks)))
        found["random_forest"][name] = constant + scale * float(
            forest.predict_s([op for op in its if forest.covers_kind(op)]).sum()
        )
    return found


def judge(predicted: Mapping[str, float], measured: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """MAPE, share within 10 % and 20 %, the worst."""
    import numpy as np

    from latency.stats import mape, spearman

    p, m = np.array([predicted[k] for k in measured]), np.array([s for s, _ in measured.values()])
    off = p / m - 1
    return {
        "mape": mape(p, m),
        "bias": float(np.mean(off)),
        "within_5": float(np.mean(np.abs(off) <= 0.05)),
        "within_10": float(np.mean(np.abs(off) <= 0.1)),
        "within_20": float(np.mean(np.abs(off) <= 0.2)),
        "worst": float(off[np.argmax(np.abs(off))]),
        "spearman": spearman(p, m),
    }


def fitted(table: Path, ui: Ui) -> LatencyPredictor:
    """The predictor of the table, as `python -m latency.fit` makes it."""
    from latency.fit_sources import fit_table

    return fit_table(table, 5, ui)[0]


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.files import read_json, write_json
    from latency.host import HostWatch
    from latency.predict import predict_kernels, rules_of
    from latency.predictor import load_predictor

    device, watch = devices.load(args.device), HostWatch()
    if args.measured:
        measured = {
            k: tuple(v) for k, v in read_json(Path(args.measured), "results of this benchmark")["measured_s"].items()
        }
    else:
        measured = measure(device, args.seconds, args.seed, ui)
    host = watch.facts()
    if args.only_measure:
        write_json(Path(args.out), {"measured_s": {k: list(v) for k, v in measured.items()}, "host": host})
        return {"networks": len(measured)}
    predictor = load_predictor(args.predictor) if args.predictor else fitted(Path(args.table), ui)
    kernels = networks(rules_of(predictor).name)
    found = {name: predict_kernels(ks, predictor) for name, ks in kernels.items()}
    uncovered = {n: [str(u.op) for u in f.uncovered] for n, f in found.items() if f.uncovered}
    predicted = {n: f.seconds for n, f in found.items()}
    inside = [abs(f.seconds - measured[n][0]) <= 1.645 * f.std_s for n, f in found.items()]
    methods = {"this": predicted, **baselines(Path(args.table), kernels)}
    scores = {name: judge(p, measured) for name, p in methods.items()}
    ui.table(
        f"{len(measured)} networks",
        ["network", "measured", "predicted", "error", "FLOPs line", "forest"],
        [
            [n, ms(s), f"{ms(predicted[n])} +- {ms(found[n].std_s)}",
             *(f"{methods[m][n] / s - 1:+.1%}" for m in ("this", "flops_line", "random_forest"))]
            for n, (s, _) in measured.items()
        ],
    )  # fmt: skip
    ui.table(
        "all of them",
        ["method", "MAPE", "within 10 %", "within 20 %", "worst", "Spearman"],
        [
            [m.replace("_", " "), f"{s['mape']:.1%}", f"{s['within_10']:.0%}", f"{s['within_20']:.0%}",
             f"{s['worst']:+.0%}", f"{s['spearman']:.3f}"]
            for m, s in scores.items()
        ],
    )  # fmt: skip
    met = scores["this"]["within_10"] >= WITHIN_10 and scores["this"]["within_20"] >= WITHIN_20 and not uncovered
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": device.describe(),
        "host": host,
        "table": {k: predictor.provenance.get(k) for k in ("table_sha256", "errors") if k == "table_sha256"},
        "expected": "within_10 >= 0.9 and within_20 = 1",
        "met": met,
        "scores": scores,
        "coverage_90": sum(inside) / len(inside),
        "uncovered": uncovered,
        "measured_s": {k: list(v) for k, v in measured.items()},
        "predicted_s": predicted,
    }
    write_json(Path(args.out), result)
    ui.say(f"nominal 90 % intervals hold {result['coverage_90']:.0%}; {'met' if met else 'NOT met'}; wrote {args.out}")
    return {"met": met, **scores["this"]}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.any_network", "Networks of many families, predicted from a table of kernels.")
    made.add_argument("--device", default="cpu", help="a device by name, or a device file FILE.toml")
    made.add_argument("--table", default="tables/cpu-kernels.csv", help="the table of latency.profile --space kernels")
    made.add_argument("--predictor", help="the predictor of that table, where it is fitted already")
    made.add_argument("--seconds", type=float, default=60.0, help="of timing")
    made.add_argument("--measured", help="take the times from these results instead of timing")
    made.add_argument("--only-measure", action="store_true", help="time and write, fit nothing")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
