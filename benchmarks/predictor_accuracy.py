"""How accurate predictors are, beside what others would use, on the same networks in the same run.

    (a) tables of this host (--table tables/cpu.csv ...): networks never used in a fit; the same for ten other splits
    (b) Pixel 1, published per-op latencies: each MBConv left out in turn, hyper-parameters fitted anew each time
    (c) Note 10, published per-op latencies: fitted on input resolutions 160, 176, 192; predicted at 208
    (d) FBNet, 12 devices: fitted on 4,000, 200 and 50 whole networks; the same 1,000 others predicted
    (t) FBNet, each device in turn as new: 10 of its networks and the other devices' predictors; the same 1,000

Run `python -m benchmarks.predictor_accuracy --data ../shared/data` from the root of the repository. `--parts` runs
some of them; each part writes its own section of benchmarks/results/predictor_accuracy.json, with machine and date.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import about, save
from benchmarks.predictor_baselines import boosting, mlp, op_baselines, ridge
from benchmarks.predictor_networks import FBNet, part_d, part_t
from latency.accuracy import Z90, scores
from latency.estimators import fit_gp
from latency.features import feature_matrix
from latency.fitting import TEST_SHARE, fit_detailed, split_networks
from latency.frozen import predict
from latency.joint import Observation, fit_joint, latents_of
from latency.new_sizes import with_drift
from latency.ops import MBConv
from latency.predictor import LatencyPredictor, from_fit
from latency.published import PublishedOp, read_published
from latency.space import load_space
from latency.stats import Floats, mape, spearman

SPLITS = 10  # of a table's networks into those fitted and those held out, beside the fit's own
RESULTS = Path("benchmarks/results/predictor_accuracy.json")
SIZES = (4000, 200, 50)
SUMS = 200  # random networks of each resolution left out in (c)


def part_a(table: Path) -> dict[str, Any]:
    """Networks of this host's table never used in a fit."""
    from latency.fit_sources import observations
    from latency.table import LatencyTable

    rows = observations(LatencyTable(table))
    predictor, details = fit_detailed("cpu", rows, provenance={})
    errors = predictor.provenance["errors"]
    fit_nets, test_nets = split_networks([r for r in rows if len(r.ops) > 1])
    nets = [*fit_nets, *test_nets]
    _, sums = latents_of(nets)
    n, y = len(fit_nets), np.array([o.seconds for o in nets])
    counts = sums.counts
    found = {"this": details.test_predicted_s} | {
        "ridge_one_hot": ridge(counts[:n], y[:n], counts[n:]),
        "gradient_boosting": boosting(counts[:n], y[:n], counts[n:]),
        "mlp": mlp(counts[:n], y[:n], counts[n:]),
    }
    figures = {k: {"mape": mape(v, y[n:]), "spearman": spearman(v, y[n:])} for k, v in found.items()}
    floor = errors["noise_floor"]
    return {
        "table_networks": len(nets),
        "fit": n,
        "test": len(nets) - n,
        "noise_floor": floor,
        "methods": figures | errors["baselines"],
        "network": errors["network"],
        "op": errors["op"],
        "splits": _other_splits(rows),
        "met": bool(figures["this"]["mape"] <= max(0.01, 1.5 * floor)),
    }


def _other_splits(rows: list[Observation]) -> dict[str, Any]:
    """Error and coverage of nominal 90 % intervals where other networks are held out, as many as in the fit's own."""
    ops, nets = [r for r in rows if len(r.ops) == 1], [r for r in rows if len(r.ops) > 1]
    test = math.ceil(TEST_SHARE * len(nets))
    errors, covered = [], []
    for s in range(SPLITS):
        order = np.random.default_rng(100 + s).permutation(len(nets))
        predictor = from_fit("cpu", fit_joint([*ops, *(nets[i] for i in order[test:])]))
        found = np.array([predictor.network_s(nets[i].ops) for i in order[:test]])
        y = np.array([nets[i].seconds for i in order[:test]])
        errors.append(mape(found[:, 0], y))
        covered.append(float(np.mean(np.abs(found[:, 0] - y) <= Z90 * found[:, 1])))
    return {"n": SPLITS, "mape": float(np.mean(errors)), "coverage_90": float(np.mean(covered)), "each": covered}


def part_b(data: Path) -> dict[str, Any]:
    """Pixel 1, leave one out."""
    rows = [e for e in read_published(data / "pixel1" / "mobile_trim.yaml") if isinstance(e.op, MBConv)]
    x, y = feature_matrix([e.op for e in rows]), np.array([e.mean_s for e in rows])
    log_var = np.array([(e.stderr_s / e.mean_s) ** 2 for e in rows])
    every, mean, std = np.arange(len(y)), np.empty(len(y)), np.empty(len(y))
    found: dict[str, Floats] = {}
    for i in every:
        rest = np.delete(every, i)
        log_s, log_std = predict(fit_gp(x[rest], np.log(y[rest]), log_var[rest]), x[[i]])
        mean[i], std[i] = np.exp(log_s[0]), np.exp(log_s[0]) * np.hypot(log_std[0], np.sqrt(log_var[i]))
        for name, value in op_baselines(x, y, rest, every[[i]]).items():
            found.setdefault(name, np.empty(len(y)))[i] = value[0]
    methods = {"this": mape(mean, y)} | {k: mape(v, y) for k, v in found.items()}
    return {"ops": len(y), "methods": methods, "this": scores(mean, y, std), "met": methods["this"] <= 0.008}


def part_c(data: Path) -> dict[str, Any]:
    """Note 10: 160, 176, 192 -> 208; then each resolution in turn from the other three."""
    tables = {r: read_published(data / "note10" / f"{r}_lookup_table.yaml") for r in (160, 176, 192, 208)}
    in_turn = {str(out): _left_out(tables, out) for out in tables}
    asked, mean = _from_others(tables, 208)[1:3]
    y = np.array([e.mean_s for e in asked])
    both = [*(e for r in (160, 176, 192) for e in tables[r]), *asked]
    x, seconds = feature_matrix([e.op for e in both]), np.array([e.mean_s for e in both])
    train, test = np.arange(len(both) - len(asked)), np.arange(len(both) - len(asked), len(both))
    found = op_baselines(x, seconds, train, test)
    methods = {"this": mape(mean, y)} | {k: mape(v, y) for k, v in found.items()}
    return {
        "ops": len(asked),
        "refused": [str(e.op) for e in tables[208] if e not in asked],
        "methods": methods,
        "this": in_turn["208"],
        "in_turn": in_turn,
        "met": methods["this"] <= 0.03,
    }


def _from_others(
    tables: dict[int, list[PublishedOp]], out: int
) -> tuple[LatencyPredictor, list[PublishedOp], Floats, Floats]:
    """(a fit of all resolutions but `out`, ops of that which it answers for, seconds, standard errors of measuring)."""
    known = [e for r in tables if r != out for e in tables[r]]
    predictor = from_fit("note10", fit_joint([Observation((e.op,), e.mean_s, e.stderr_s) for e in known]))
    asked = [e for e in tables[out] if predictor.covers_kind(e.op)]
    mean, std = predictor.predict_s([e.op for e in asked], return_std=True)
    return predictor, asked, mean, np.hypot(std, [e.stderr_s for e in asked])


def _left_out(tables: dict[int, list[PublishedOp]], out: int) -> dict[str, Any]:
    """How the resolution `out` is predicted from the others: ops, and networks as sums of their ops.

    Beside each, what it would be without the drift that ops at sizes never measured share. Nobody timed the networks:
    intervals of their sums leave out what a fit of lone ops doubts of the scale.
    """
    predictor, asked, mean, std = _from_others(tables, out)
    y = np.array([e.mean_s for e in asked])
    kinds = with_drift(predictor.kinds, 0.0, predictor.kinds)
    plain = np.hypot(
        replace(predictor, kinds=kinds).predict_s([e.op for e in asked], return_std=True)[1],
        [e.stderr_s for e in asked],
    )
    sure = replace(predictor, uncertainty={**predictor.uncertainty, "scale_var": 0.0})
    took, rng = {e.op: e.mean_s for e in asked}, random.Random(0)
    space = load_space(f"ofa_mbv3_{out}")
    nets = [space.random(rng).ops for _ in range(SUMS)]
    nets = [[op for op in ops if op in took] for ops in nets]
    sums = np.array([sum(took[op] for op in ops) for ops in nets])
    found = np.array([[*sure.network_s(ops), replace(sure, kinds=kinds).network_s(ops)[1]] for ops in nets])
    learnt = predictor.uncertainty["new_sizes"]
    return scores(mean, y, std) | {
        "mean_error": float(np.mean(mean / y - 1)),
        "width_90": _width(mean, std),
        "coverage_90_without_drift": _held(mean, y, plain),
        "width_90_without_drift": _width(mean, plain),
        "drift": learnt["drift"],
        "left_out_of_the_fit": dict(zip(map(str, learnt["resolutions"]), learnt["error"].tolist(), strict=True)),
        "sums": {
            "n": len(sums),
            "mape": mape(found[:, 0], sums),
            "mean_error": float(np.mean(found[:, 0] / sums - 1)),
            "coverage_90": _held(found[:, 0], sums, found[:, 1]),
            "width_90": _width(found[:, 0], found[:, 1]),
            "coverage_90_without_drift": _held(found[:, 0], sums, found[:, 2]),
            "width_90_without_drift": _width(found[:, 0], found[:, 2]),
        },
    }


def _held(predicted_s: Floats, measured_s: Floats, std_s: Floats) -> float:
    """Share of those measured inside nominal 90 % intervals."""
    return float(np.mean(np.abs(predicted_s - measured_s) <= Z90 * std_s))


def _width(predicted_s: Floats, std_s: Floats) -> float:
    """Mean width of nominal 90 % intervals, of what is predicted."""
    return float(np.mean(2 * Z90 * std_s / predicted_s))


def main() -> None:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--table", type=Path, nargs="+", default=[Path("tables/cpu.csv")], help="of this host, for (a)")
    made.add_argument("--parts", nargs="+", default=["a", "b", "c", *(f"d{n}" for n in SIZES), "t"])
    args = made.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    fbnet = FBNet(args.data) if any(p[0] in "dt" for p in args.parts) else None
    for part in args.parts:
        began = time.monotonic()
        print(f"({part})", flush=True)
        if part == "a":
            found = {"tables": {table.stem: part_a(table) for table in args.table}}
        elif part in ("b", "c"):
            found = {"b": part_b, "c": part_c}[part](args.data)
        elif part == "t":
            found = part_t(fbnet)
        else:
            found = part_d(fbnet, int(part[1:]))
        results[part] = found | about() | {"seconds": round(time.monotonic() - began, 1)}
        save(RESULTS, results)
        print(json.dumps({k: v for k, v in results[part].items() if k != "devices"}), flush=True)


if __name__ == "__main__":
    main()
