"""`python -m benchmarks.any_network`: networks of 93 families, predicted from a table of kernels, against this CPU.

Question: is the latency of a network that the fit has never seen, of whatever family, predicted within 10 % for 90 % of
them and within 20 % for all? The predictor is fitted on the table of `latency.profile --space kernels` alone. Beside
it, from the same table: a line on FLOPs through its networks, and a random forest per kind of kernel, as nn-Meter uses
it, with constant and scale fitted on its networks.

Five sets: `known`, 14 families (benchmarks/any_network_models.py), `blind`, 21 others
(benchmarks/any_network_blind.py), and `fresh`, 20 more (benchmarks/any_network_fresh.py), with whose errors in view
the model was developed, the latter two after a first prediction; `third`, 22 more (benchmarks/any_network_third.py);
and `fourth`, 16 more (benchmarks/any_network_fourth.py). All but the first were committed before any prediction of
them was made. All are timed together, in rounds, in the same run; `--measured FILE ...` takes the means of earlier runs
instead (`--only-measure` before the profile and after it), and `--sets known` looks at the first alone.

Errors are told as measured, and at the pace of the table: 50 of its own networks are timed in the same rounds
(benchmarks/any_network_pace.py).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.any_network_pace import Measured, mean_of, pace, table_networks
from devices.errors import UserError
from latency.console import Ui, ms, parser, run

if TYPE_CHECKING:
    from torch import nn

    from latency.onnx_graph import KernelNode
    from latency.predictor import LatencyPredictor

RESULT = Path(__file__).parent / "results" / "any_network.json"
WITHIN_10, WITHIN_20 = 0.9, 1.0
SETS = ("known", "blind", "fresh", "third", "fourth")


@dataclass(frozen=True)
class Case:
    """A network to predict."""

    name: str
    family: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def cases(which: str) -> list[Case]:
    """The networks of a set."""
    from benchmarks import any_network_models

    if which == "known":
        return [
            Case(f"{family}_{width}_{size}", family, partial(make, width), (1, 3, size, size))
            for family, (make, rows) in any_network_models.FAMILIES.items()
            for width, size in rows
        ]
    families = _module(which).FAMILIES
    return [
        Case(f"{family}_{width}_{shape[-2]}", family, partial(sized, width, shape[-1]), shape)
        for family, (sized, rows) in families.items()
        for width, shape in rows
    ]


def _module(which: str) -> Any:
    """The module of a set other than `known`."""
    from importlib import import_module

    return import_module(f"benchmarks.any_network_{which}")


def measure(device: Any, found: Sequence[Case], seconds: float, seed: int, ui: Ui) -> Measured:
    """(median seconds, half width of its 95 % interval) of every network, by name, and of 50 of a table's."""
    import torch

    from latency.measure import Policy, Progress, Workload, prepare, run_rounds

    torch.manual_seed(0)
    todo = [Workload(c.name, "network", c.make, c.shape) for c in found]
    with ui.progress("drawing"):
        todo += table_networks(str(device.describe().get("runtime", "")))
    with ui.progress("preparing") as report:
        sessions, failed = prepare(device, todo, report)
    if failed:
        raise UserError(f"{next(iter(failed.items()))}")
    with ui.progress("timing") as report:
        timed = run_rounds(
            sessions, todo, Policy(target=0.005, budget_s=seconds), random.Random(seed), Progress(), report=report,
            on_round=lambda *_: None, on_done=lambda _: None, on_failed=lambda key, error: ui.warn(f"{key}: {error}"),
        )  # fmt: skip
    return {m.key: (m.median_s, m.half_width * m.median_s) for m in timed}


def networks(found: Sequence[Case], runtime: str) -> dict[str, tuple[KernelNode, ...]]:
    """The kernels of every network, by name."""
    from devices.onnx_cpu import export_onnx
    from latency.onnx_graph import kernels_of
    from latency.onnx_parts import rules_for

    return {c.name: kernels_of(export_onnx(c.make(), c.shape), rules_for(runtime)) for c in found}


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


def judge_set(
    ui: Ui, which: str, predictor: LatencyPredictor, measured: Measured, table: Path, now: float | None
) -> tuple[dict[str, Any], bool]:
    """What the result says of one set, and whether it meets the bar; `now`: the host's pace over the table's."""
    from latency.predict import predict_kernels, rules_of

    found = [c for c in cases(which) if c.name in measured]
    kernels = networks(found, rules_of(predictor).name)
    told = {name: predict_kernels(ks, predictor) for name, ks in kernels.items()}
    mine = {name: measured[name] for name in told}
    uncovered = {n: [str(u.op) for u in f.uncovered] for n, f in told.items() if f.uncovered}
    methods = {"this": {n: f.seconds for n, f in told.items()}, **baselines(table, kernels)}
    scores = {name: judge(p, mine) for name, p in methods.items()}
    inside = [abs(f.seconds - mine[n][0]) <= 1.645 * f.std_s for n, f in told.items()]
    ui.table(
        f"{which}: {len(mine)} networks",
        ["network", "measured", "predicted", "error", "FLOPs line", "forest"],
        [
            [n, ms(s), f"{ms(told[n].seconds)} +- {ms(told[n].std_s)}",
             *(f"{methods[m][n] / s - 1:+.1%}" for m in ("this", "flops_line", "random_forest"))]
            for n, (s, _) in mine.items()
        ],
    )  # fmt: skip
    ui.table(
        f"{which}: all of them",
        ["method", "MAPE", "within 10 %", "within 20 %", "worst", "Spearman"],
        [
            [m.replace("_", " "), f"{s['mape']:.1%}", f"{s['within_10']:.0%}", f"{s['within_20']:.0%}",
             f"{s['worst']:+.0%}", f"{s['spearman']:.3f}"]
            for m, s in scores.items()
        ],
    )  # fmt: skip
    met = scores["this"]["within_10"] >= WITHIN_10 and scores["this"]["within_20"] >= WITHIN_20 and not uncovered
    coverage = sum(inside) / len(inside)
    at_pace = judge(methods["this"], {n: (s / now, half / now) for n, (s, half) in mine.items()}) if now else None
    ui.say(f"{which}: nominal 90 % intervals hold {coverage:.0%}; {'met' if met else 'NOT met'}")
    if at_pace:
        shares = f"within 10 % {at_pace['within_10']:.0%}, within 20 % {at_pace['within_20']:.0%}"
        ui.say(f"{which}: at the table's pace MAPE {at_pace['mape']:.1%}, {shares}")
    result: dict[str, Any] = {
        "met": met, "scores": scores, "at_pace": at_pace, "coverage_90": coverage, "uncovered": uncovered,
        "measured_s": {k: list(v) for k, v in mine.items()}, "predicted_s": methods["this"],
        "std_s": {n: f.std_s for n, f in told.items()},
        "disagreement": {n: f.disagreement for n, f in told.items()},
    }  # fmt: skip
    if which != "known":
        related = {c.name for c in found if c.family in _module(which).RELATED}
        for name, names in (("related", related), ("unrelated", mine.keys() - related)) if related else ():
            result[name] = judge(methods["this"], {n: mine[n] for n in mine if n in names})
    return result, met


def _times(content: Mapping[str, Any], path: str) -> Measured:
    """What a file of `--only-measure`, or of results, measured. Raises UserError."""
    parts = [content[which] for which in SETS if which in content] or [content]
    if any("measured_s" not in part for part in parts):
        raise UserError(f"{path}: no 'measured_s' in it; --only-measure writes such a file")
    return {k: (v[0], v[1]) for part in parts for k, v in part["measured_s"].items()}


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.files import read_json, write_json
    from latency.host import HostWatch
    from latency.predictor import load_predictor

    device, watch = devices.load(args.device), HostWatch()
    sets = [which for which in SETS if which in args.sets.split(",")]
    if unknown := set(args.sets.split(",")) - set(SETS):
        raise UserError(f"--sets {args.sets}: no set {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    if args.measured:
        runs = [read_json(Path(path), "times of this benchmark") for path in args.measured]
        measured = mean_of([_times(run, path) for run, path in zip(runs, args.measured, strict=True)])
        sets = [which for which in sets if any(c.name in measured for c in cases(which))]
        if not sets:
            raise UserError(f"{args.measured[0]}: no network of {args.sets} in it; give the --sets it was measured on")
        host = runs[-1]["host"]
    else:
        measured = measure(device, [c for which in sets for c in cases(which)], args.seconds, args.seed, ui)
        host = watch.facts()
    if args.only_measure:
        write_json(Path(args.out), {"measured_s": {k: list(v) for k, v in measured.items()}, "host": host})
        return {"networks": len(measured)}
    predictor = load_predictor(args.predictor) if args.predictor else fitted(Path(args.table), ui)
    now = pace(measured, Path(args.table))
    told = {which: judge_set(ui, which, predictor, measured, Path(args.table), now.get("median")) for which in sets}
    if now:
        ui.say(f"{now['networks']:.0f} of the table's own networks take {now['median']:.3f} of its seconds")
    errors = predictor.provenance["errors"]
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": device.describe(),
        "host": host,
        "pace": now,
        "table": {
            "table_sha256": predictor.provenance.get("table_sha256"),
            "drawn_networks": {**errors["network"], "n": errors["networks_test"]},
        },
        "expected": "within_10 >= 0.9 and within_20 = 1",
        **{which: found for which, (found, _) in told.items()},
    }
    write_json(Path(args.out), result)
    ui.say(f"wrote {args.out}")
    return {which: {"met": met, **found["scores"]["this"]} for which, (found, met) in told.items()}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.any_network", "Networks of many families, predicted from a table of kernels.")
    made.add_argument("--device", default="cpu", help="a device by name, or a device file FILE.toml")
    made.add_argument("--table", default="tables/cpu-kernels.csv", help="the table of latency.profile --space kernels")
    made.add_argument("--predictor", help="the predictor of that table, where it is fitted already")
    made.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}: which, by commas")
    made.add_argument("--seconds", type=float, default=120.0, help="of timing")
    made.add_argument("--measured", nargs="+", help="the mean of these files of --only-measure instead of timing")
    made.add_argument("--only-measure", action="store_true", help="time and write, fit nothing")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
