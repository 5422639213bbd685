"""Predictors from whole networks alone: FBNet, 5,000 networks on 12 devices. Parts of benchmarks.predictor_accuracy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.predictor_baselines import Fit, boosting, flops_line, forest, least_squares, mlp, ridge
from latency.frozen import work_terms
from latency.joint import Observation, fit_joint, latents_of
from latency.network_file import read_networks
from latency.predictor import LatencyPredictor, from_fit
from latency.space import load_space
from latency.stats import Floats, mape, spearman
from latency.transfer import fit_from, most_informative

TRAIN = 4000  # of the 5,000; the others are for testing
SEEDS = 5  # random draws of 10 networks in (t)
DRAWS = 10  # of the networks to fit, where they are few: what is said of one draw is luck in part


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
        self.train, self.test = order[:TRAIN], order[TRAIN:]
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
    """Whole networks only, `size` of them: the first of the 4,000, and DRAWS - 1 times others at random.

    A draw's ratio is to the baseline that does best on that draw and device.
    """
    picks = [fbnet.train[:size]]
    if size < len(fbnet.train):
        picks += [np.random.default_rng(s).choice(fbnet.train, size, replace=False) for s in range(1, DRAWS)]
    baselines: dict[str, tuple[Fit, Floats]] = {
        "flops_line": (flops_line, fbnet.macs),
        "lookup_least_squares": (least_squares, fbnet.counts),
        "ridge_one_hot": (ridge, fbnet.one_hot),
        "random_forest": (forest, fbnet.described),
        "gradient_boosting": (boosting, fbnet.described),
        "mlp": (mlp, fbnet.described),
    }
    te, devices = fbnet.test, {}
    for device in fbnet.devices:
        y = fbnet.seconds[device]
        errors: dict[str, list[float]] = {name: [] for name in ("this", *baselines)}
        ranks, covered = [], []
        for tr in picks:
            predictor = fit_networks(fbnet, device, tr)
            errors["this"].append(mape(fbnet.predict(predictor)[te], y[te]))
            for name, (fit, x) in baselines.items():
                errors[name].append(mape(fit(x[tr], y[tr], x[te]), y[te]))
            ranks.append(spearman(fbnet.predict(predictor)[te], y[te]))
            covered.append(fbnet.coverage(predictor, device))
        each = np.array([errors[name] for name in baselines])
        means = {name: float(np.mean(e)) for name, e in errors.items()}
        devices[device] = {
            "mape": means,
            "best_baseline": min(baselines, key=lambda name: means[name]),
            "ratio": (np.array(errors["this"]) / each.min(axis=0)).tolist(),
            "ratio_to_ridge": (np.array(errors["this"]) / np.array(errors["ridge_one_hot"])).tolist(),
            "spearman": float(np.mean(ranks)),
            "coverage_90": covered,
        }
        print(f"  {device:16s}", "  ".join(f"{k} {v:.3%}" for k, v in means.items()), flush=True)
    return {"devices": devices, "draws": len(picks)} | _over_devices(devices, size)


def _over_devices(devices: dict[str, Any], size: int) -> dict[str, Any]:
    """The median device's ratio in each draw, and what the bars ask."""
    by_draw = np.median([v["ratio"] for v in devices.values()], axis=0)
    worst = max(max(v["ratio_to_ridge"]) for v in devices.values())
    held = {d: float(np.mean(v["coverage_90"])) for d, v in devices.items()}
    return {
        "median_ratio_to_best_baseline": float(by_draw.mean()),
        "median_ratio_std_error": float(by_draw.std(ddof=1) / np.sqrt(len(by_draw))) if len(by_draw) > 1 else None,
        "median_ratio_by_draw": by_draw.tolist(),
        "worst_ratio_to_ridge_one_hot": worst,
        "coverage_90": held,
        "devices_with_85_to_95": sum(0.85 <= c <= 0.95 for c in held.values()),
        "met": bool(worst <= 1.0 if size == TRAIN else by_draw.mean() <= 0.75),
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
