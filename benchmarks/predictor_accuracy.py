"""How accurate predictors are, beside what others would use, on the same networks in the same run.

    (a) a table of this host (--table tables/cpu.csv): networks never used in a fit
    (b) Pixel 1, published per-op latencies: each MBConv left out in turn, hyper-parameters fitted anew each time
    (c) Note 10, published per-op latencies: fitted on input resolutions 160, 176, 192; predicted at 208
    (d) FBNet, 12 devices: fitted on 4,000, 200 and 50 whole networks; the same 1,000 others predicted
    (t) FBNet, each device in turn as new: 10 of its networks and the other devices' predictors; the same 1,000

Run `python -m benchmarks.predictor_accuracy --data ../shared/data` from the root of the repository. `--parts` runs
some of them; each part writes its own section of benchmarks/results/predictor_accuracy.json, with machine and date.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from latency.accuracy import scores
from latency.estimators import CANDIDATES, fit_gp
from latency.features import feature_matrix
from latency.fitting import fit_detailed, split_networks
from latency.frozen import predict, work_terms
from latency.joint import Observation, fit_joint, latents_of
from latency.network_file import read_networks
from latency.ops import MBConv
from latency.predictor import LatencyPredictor, from_fit
from latency.published import read_published
from latency.space import load_space
from latency.stats import Floats, mape, spearman
from latency.transfer import fit_from, most_informative

RESULTS = Path("benchmarks/results/predictor_accuracy.json")
SIZES = (4000, 200, 50)
SEEDS = 5  # random draws of 10 networks in (t)
Fit = Callable[[Floats, Floats, Floats], Floats]  # (train x, train y, test x) -> predicted


def flops_line(x: Floats, y: Floats, test: Floats) -> Floats:
    """Seconds as a line in MACs."""
    return np.polyval(np.polyfit(x[:, 0], y, 1), test[:, 0])


def least_squares(x: Floats, y: Floats, test: Floats) -> Floats:
    """A look-up table filled from networks: one entry an op, least squares of smallest norm."""
    one = np.ones((len(x), 1))
    entries = np.linalg.lstsq(np.hstack([x, one]), y, rcond=None)[0]
    return np.hstack([test, np.ones((len(test), 1))]) @ entries


def ridge(x: Floats, y: Floats, test: Floats) -> Floats:
    """Ridge regression, its penalty by leave-one-out."""
    return RidgeCV(np.logspace(-3, 3, 13)).fit(x, y).predict(test)


def forest(x: Floats, y: Floats, test: Floats) -> Floats:
    """Random forest, as nn-Meter uses it."""
    share = 1.0 if len(x) < 1000 else 0.33  # of features a split looks at
    return RandomForestRegressor(100, max_features=share, random_state=0).fit(x, y).predict(test)


def boosting(x: Floats, y: Floats, test: Floats) -> Floats:
    """Gradient boosting."""
    made = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, max_depth=4, subsample=0.8, random_state=0)
    return made.fit(x, y).predict(test)


def mlp(x: Floats, y: Floats, test: Floats) -> Floats:
    """A multilayer perceptron, two layers of 64, on standardised features."""
    scaler, mean, std = StandardScaler().fit(x), y.mean(), y.std() or 1.0
    epochs = 500 if len(x) < 1000 else 60
    made = MLPRegressor(hidden_layer_sizes=(64, 64), alpha=1e-2, max_iter=epochs, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(scaler.transform(x), (y - mean) / std).predict(scaler.transform(test)) * std + mean


def op_baselines(x: Floats, seconds: Floats, train: Any, test: Any) -> dict[str, Floats]:
    """Seconds of the ops `test` by models fitted on the ops `train`, in log seconds but for the lines."""
    macs = work_terms(x)[:, 1:3].sum(axis=1, keepdims=True)
    log_s, zero = np.log(seconds), np.zeros(len(seconds))
    found = {"flops_line": flops_line(macs[train], seconds[train], macs[test])}
    for name in ("ridge", "random_forest", "gradient_boosting"):
        found[name] = np.exp(predict(CANDIDATES[name](x[train], log_s[train], zero[train]), x[test])[0])
    found["mlp"] = np.exp(mlp(np.log1p(x[train]), log_s[train], np.log1p(x[test])))
    nearest = np.abs(_scaled(x)[test][:, None] - _scaled(x)[train][None]).sum(axis=-1).argmin(axis=1)
    found["lookup_nearest"] = seconds[train][nearest]
    return found


def _scaled(x: Floats) -> Floats:
    """Columns on one scale; logs of what the op does, so that a nearest op is near in ratio."""
    logs = np.log1p(x)
    return logs / np.where(logs.std(axis=0) > 0, logs.std(axis=0), 1.0)


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
        "met": bool(figures["this"]["mape"] <= max(0.01, 1.5 * floor)),
    }


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
    """Note 10: 160, 176, 192 -> 208."""
    tables = {r: read_published(data / "note10" / f"{r}_lookup_table.yaml") for r in (160, 176, 192, 208)}
    known = [e for r in (160, 176, 192) for e in tables[r]]
    fit = fit_joint([Observation((e.op,), e.mean_s, e.stderr_s) for e in known])
    predictor = from_fit("note10", fit)
    asked = [e for e in tables[208] if predictor.covers_kind(e.op)]
    mean, std = predictor.predict_s([e.op for e in asked], return_std=True)
    y = np.array([e.mean_s for e in asked])
    both = [*known, *asked]
    x, seconds = feature_matrix([e.op for e in both]), np.array([e.mean_s for e in both])
    train, test = np.arange(len(known)), np.arange(len(known), len(both))
    found = op_baselines(x, seconds, train, test)
    methods = {"this": mape(mean, y)} | {k: mape(v, y) for k, v in found.items()}
    refused = [str(e.op) for e in tables[208] if e not in asked]
    return {
        "ops": len(asked),
        "refused": refused,
        "methods": methods,
        "this": scores(mean, y, np.hypot(std, [e.stderr_s for e in asked])),
        "mean_error": float(np.mean(mean / y - 1)),
        "met": methods["this"] <= 0.03,
    }


class FBNet:
    """The file of 5,000 networks on 12 devices; 1,000 of them, drawn once, are for testing."""

    def __init__(self, data: Path) -> None:
        path = data / "fbnet" / "latency.csv"
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.devices = [c for c in rows[0] if c.endswith("_ms")]
        space = load_space("fbnet")
        self.chains = [o.ops for o in read_networks(path, space, self.devices[0])]
        self.seconds = {d: np.array([float(r[d]) for r in rows]) / 1e3 for d in self.devices}
        order = np.random.default_rng(0).permutation(len(rows))
        self.train, self.test = order[:4000], order[4000:]
        digits = np.array([[int(c) for c in r["arch"]] for r in rows])
        self.one_hot = (digits[:, :, None] == np.arange(9)).reshape(len(rows), -1).astype(float)
        self.latents, sums = latents_of([Observation(c, 1.0, 0.0) for c in self.chains])
        self.counts = sums.counts
        totals = self.counts @ work_terms(self.latents.features_ND)
        self.macs = totals[:, 1:3].sum(axis=1, keepdims=True)
        self.described = np.hstack([self.one_hot, self.macs, totals[:, [3, 4]]])

    def observations(self, device: str, which: Any) -> list[Observation]:
        """The networks `which` as measured on `device`; the file states no intervals."""
        return [Observation(self.chains[i], float(self.seconds[device][i]), 0.0) for i in which]

    def predict(self, predictor: LatencyPredictor) -> Floats:
        """(5000,) seconds of every network; what network_s says, in one product."""
        f = predictor.predict_s(self.latents.ops)
        found = predictor.constant_s + predictor.scale * self.counts @ f
        assert np.isclose(found[0], predictor.network_s(self.chains[0])[0])
        return found

    def coverage(self, predictor: LatencyPredictor, device: str) -> float:
        """Share of the test networks inside nominal 90 % intervals."""
        both = np.array([predictor.network_s(self.chains[i]) for i in self.test])
        y = self.seconds[device][self.test]
        return float(np.mean(np.abs(both[:, 0] - y) <= 1.645 * both[:, 1]))


def fit_networks(fbnet: FBNet, device: str, which: Any) -> LatencyPredictor:
    """The evidence model on whole networks only."""
    fit = fit_joint(fbnet.observations(device, which))
    return from_fit(device, fit)


def part_d(fbnet: FBNet, size: int) -> dict[str, Any]:
    """Whole networks only, `size` of them."""
    tr, te = fbnet.train[:size], fbnet.test
    baselines: dict[str, tuple[Fit, Floats]] = {
        "flops_line": (flops_line, fbnet.macs),
        "lookup_least_squares": (least_squares, fbnet.counts),
        "ridge_one_hot": (ridge, fbnet.one_hot),
        "random_forest": (forest, fbnet.described),
        "gradient_boosting": (boosting, fbnet.described),
        "mlp": (mlp, fbnet.described),
    }
    devices: dict[str, Any] = {}
    for device in fbnet.devices:
        y = fbnet.seconds[device]
        predictor = fit_networks(fbnet, device, tr)
        methods = {"this": mape(fbnet.predict(predictor)[te], y[te])}
        methods |= {name: mape(fit(x[tr], y[tr], x[te]), y[te]) for name, (fit, x) in baselines.items()}
        best = min((k for k in methods if k != "this"), key=lambda k: methods[k])
        devices[device] = {
            "mape": methods,
            "best_baseline": best,
            "ratio": methods["this"] / methods[best],
            "ratio_to_ridge": methods["this"] / methods["ridge_one_hot"],
            "spearman": spearman(fbnet.predict(predictor)[te], y[te]),
            "coverage_90": fbnet.coverage(predictor, device),
        }
        print(f"  {device:16s}", "  ".join(f"{k} {v:.3%}" for k, v in methods.items()), flush=True)
    ratios = {d: v["ratio"] for d, v in devices.items()}
    worst = max(v["ratio_to_ridge"] for v in devices.values())
    return {
        "devices": devices,
        "median_ratio_to_best_baseline": float(np.median(list(ratios.values()))),
        "worst_ratio_to_ridge_one_hot": worst,
        "coverage_90": {d: v["coverage_90"] for d, v in devices.items()},
        "met": bool(worst <= 1.0 if size == 4000 else np.median(list(ratios.values())) <= 0.75),
    }


def part_t(fbnet: FBNet) -> dict[str, Any]:
    """Each device as new: 10 networks, chosen by variance reduction or at random."""
    known = {d: fit_networks(fbnet, d, fbnet.train) for d in fbnet.devices}
    devices: dict[str, Any] = {}
    for device in fbnet.devices:
        sources = [known[d] for d in fbnet.devices if d != device]
        pool = fbnet.train[:500]
        picks = [pool[most_informative([fbnet.chains[i] for i in pool], 10, sources)]]
        picks += [np.random.default_rng(s).choice(fbnet.train, 10, replace=False) for s in range(SEEDS)]
        ranks, errors, covered = [], [], []
        for pick in picks:
            fit = fit_from(sources, fbnet.observations(device, pick))
            new = from_fit(device, fit)
            covered.append(fbnet.coverage(new, device))
            found, y = fbnet.predict(new)[fbnet.test], fbnet.seconds[device][fbnet.test]
            ranks.append(spearman(found, y))
            errors.append(mape(found, y))
        ceiling = spearman(fbnet.predict(known[device])[fbnet.test], fbnet.seconds[device][fbnet.test])
        devices[device] = {
            "chosen": {"spearman": ranks[0], "mape": errors[0], "coverage_90": covered[0]},
            "random": {
                "spearman": float(np.mean(ranks[1:])),
                "mape": float(np.mean(errors[1:])),
                "coverage_90": float(np.mean(covered[1:])),
            },
            "fitted_on_4000": ceiling,
        }
        print(f"  {device:16s} chosen {ranks[0]:.3f}, random {np.mean(ranks[1:]):.3f}, 4,000 {ceiling:.3f}", flush=True)
    mean = {k: float(np.mean([v[k]["spearman"] for v in devices.values()])) for k in ("chosen", "random")}
    held = {k: float(np.mean([v[k]["coverage_90"] for v in devices.values()])) for k in ("chosen", "random")}
    return {"devices": devices, "mean_spearman": mean, "mean_coverage_90": held, "met": mean["chosen"] >= 0.93}


def main() -> None:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--table", type=Path, default=Path("tables/cpu.csv"), help="a table of this host, for (a)")
    made.add_argument("--parts", nargs="+", default=["a", "b", "c", *(f"d{n}" for n in SIZES), "t"])
    args = made.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    fbnet = FBNet(args.data) if any(p[0] in "dt" for p in args.parts) else None
    for part in args.parts:
        began = time.monotonic()
        print(f"({part})", flush=True)
        if part == "a":
            found = part_a(args.table)
        elif part in ("b", "c"):
            found = {"b": part_b, "c": part_c}[part](args.data)
        elif part == "t":
            found = part_t(fbnet)
        else:
            found = part_d(fbnet, int(part[1:]))
        about = {
            "machine": f"{platform.machine()}, {_cpu()}",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seconds": round(time.monotonic() - began, 1),
        }
        results[part] = found | about
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(json.dumps({k: v for k, v in results[part].items() if k != "devices"}), flush=True)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
