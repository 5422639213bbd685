"""`python -m benchmarks.search_quality`: is a network found better than random networks of the same latency?

CIFAR-10 at 32x32 and the space of benchmarks/cifar_space.py (200,704 small networks, latencies fitted on a CPU). For
each seed: one search, then the network found and random networks of the same latency are trained from scratch the same
way (same steps, same order of images, same augmentation) on all 50,000 training images and judged on the test images.
The random networks are drawn without favour among those within 1 % of the target; the network found may use 98 to
100 % of it, so the latency that is left gives them, if anyone, the advantage.

Expected: found - mean random >= 2 standard errors. Every finished search and training is a line of the log, so a
second run goes on where the first ended.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.worklog import WorkLog
from latency.console import Ui, parser, run

if TYPE_CHECKING:
    from latency.space import SearchSpace
    from search.costs import Costs
    from search.data import Data

HERE = Path(__file__).parent
RESULT, LOG = HERE / "results" / "search_quality.json", HERE / "results" / "search_quality.jsonl"
SPACE, PREDICTOR = f"{HERE / 'cifar_space.py'}:space", HERE / "predictors" / "cifar_small_cpu.pkl"
DATA = HERE.parent.parent / "shared" / "data" / "cifar10"
FLOOR, SHARE = 0.98, 0.8  # of the target; of the average random network
SEARCHING = {"batch_size": 128, "warmup_lr": 0.05, "search_lr": 0.025}
TRAINING = {"batch_size": 128, "train_steps": 1000, "train_lr": 0.1}


def random_networks(costs: Costs, target_s: float, seed: int, count: int) -> list[tuple[int, ...]]:
    """`count` different networks within 1 % of the slowest one that keeps the target."""
    import numpy as np

    from search.derive import knapsack, random_of_equal_latency

    slowest = knapsack(costs.cost_LK / target_s, costs, 0.0, target_s)
    assert slowest is not None
    rng, found = np.random.default_rng([seed, 1]), dict[tuple[int, ...], None]()
    while len(found) < count:
        found[random_of_equal_latency(costs, slowest, target_s, rng)] = None
    return list(found)


def train(log: WorkLog, space: SearchSpace, data: Data, indices: tuple[int, ...], seed: int) -> float:
    """Test accuracy of a network trained from scratch."""
    from search.recipe import Recipe
    from search.trainer import TrainPhase, accuracy

    what = ["train", seed, list(indices), TRAINING]
    row = log.get(what)
    if row is None:
        began = time.perf_counter()
        recipe = Recipe(warmup_steps=0, search_steps=1, **TRAINING)  # type: ignore[arg-type]
        phase = TrainPhase("train", space.architecture(indices).ops, data, recipe, seed)
        while phase.step < phase.total:
            phase.advance()
        found = accuracy(phase.network, data.test)
        row = log.add(what, accuracy=found, seconds=time.perf_counter() - began)
    return float(row["accuracy"])


def find(
    log: WorkLog, space: SearchSpace, data: Data, target_s: float, seed: int, steps: dict[str, int]
) -> tuple[tuple[int, ...], float]:
    """(the network that a search finds, seconds it took)."""
    from latency.predictor import load_predictor
    from search.api import Options, search_data
    from search.recipe import for_data

    what = ["search", seed, target_s, steps]
    row = log.get(what)
    if row is None:
        began = time.perf_counter()
        recipe = for_data(len(data.train) + len(data.validation), train_steps=0, **SEARCHING, **steps)
        options = Options(seed, floor=FLOOR)
        result = search_data(space, load_predictor(PREDICTOR), data, target_s=target_s, recipe=recipe, options=options)
        row = log.add(
            what,
            indices=list(result.architecture.indices),
            seconds=time.perf_counter() - began,
            expected_s=result.expected_s,
            probs=[[round(p, 4) for p in block] for block in result.probs_LK.tolist()],
        )
    return tuple(row["indices"]), float(row["seconds"])


def judge(found: list[float], randoms: list[list[float]]) -> dict[str, Any]:
    """Found minus mean random, with its standard error: for each seed, and over all."""
    import numpy as np

    seeds = []
    for mine, others in zip(found, randoms, strict=True):
        error = float(np.std(others, ddof=1) / np.sqrt(len(others)))
        gain = mine - float(np.mean(others))
        better = sum(mine > other for other in others)
        seeds.append({"found": mine, "random_mean": float(np.mean(others)), "random_std": float(np.std(others, ddof=1)),
                      "random_best": max(others), "gain": gain, "stderr": error, "better_than": better})  # fmt: skip
    gains = np.array([seed["gain"] for seed in seeds])
    # Of the mean gain: the spread of the random means, and of the networks found, which only the seeds show.
    within = float(np.sqrt(np.sum([seed["stderr"] ** 2 for seed in seeds])) / len(seeds))
    between = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
    return {"seeds": seeds, "gain": float(gains.mean()), "stderr": max(within, between), "stderr_randoms": within,
            "stderr_seeds": between}  # fmt: skip


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from latency.files import write_json
    from latency.host import HostWatch
    from latency.predictor import load_predictor
    from latency.space import load_space
    from search.costs import make_costs
    from search.data import load_data

    torch.set_num_threads(args.threads)
    space, log = load_space(SPACE), WorkLog(Path(args.log))
    costs = make_costs(space, load_predictor(PREDICTOR))
    target_s = round(SHARE * costs.expected_s(costs.uniform_LK), 7)
    data = load_data(f"parquet:{args.data}", image_size=32)
    seeds = range(args.seeds)
    low_s, high_s = costs.network_s(costs.fastest), costs.network_s(costs.slowest)
    ui.say(f"{space.n_networks} networks of {low_s * 1e6:.1f} to {high_s * 1e6:.1f} us; target {target_s * 1e6:.1f} us")
    networks = {seed: random_networks(costs, target_s, seed, args.randoms) for seed in seeds}
    randoms = []
    for seed in seeds:
        randoms.append([train(log, space, data, indices, seed) for indices in networks[seed]])
        ui.say(f"seed {seed}, random: {' '.join(f'{a:.3f}' for a in randoms[-1])}")
    steps = {"warmup_steps": args.warmup_steps, "search_steps": args.search_steps, "alpha_every": args.alpha_every}
    finds = [find(log, space, data, target_s, seed, steps) for seed in seeds]
    found = [train(log, space, data, indices, seed) for seed, (indices, _) in zip(seeds, finds, strict=True)]
    judged = judge(found, randoms)
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "host": HostWatch().facts(),
        "expected": "gain >= 2 stderr",
        "space": space.name,
        "target_us": target_s * 1e6,
        "training": TRAINING,
        "search": SEARCHING | steps,
        "networks_found": [{"indices": list(i), "us": costs.network_s(i) * 1e6, "search_s": s} for i, s in finds],
        "random_us": [[costs.network_s(i) * 1e6 for i in networks[seed]] for seed in seeds],
        "random_accuracies": randoms,
        **judged,
        "met": judged["gain"] >= 2 * judged["stderr"],
    }
    rows = [
        [str(seed), f"{s['found']:.2%}", f"{s['random_mean']:.2%} +- {s['random_std']:.2%}", f"{s['random_best']:.2%}",
         f"{s['gain']:+.2%} +- {s['stderr']:.2%}", f"{s['better_than']} of {args.randoms}"]
        for seed, s in zip(seeds, judged["seeds"], strict=True)
    ]  # fmt: skip
    rows.append(["all", "", "", "", f"{judged['gain']:+.2%} +- {judged['stderr']:.2%}", ""])
    ui.table(
        f"CIFAR-10 test accuracy at {target_s * 1e6:.0f} us; {TRAINING['train_steps']} steps of training",
        ["seed", "found", "random", "best random", "gain", "better than"],
        rows,
    )
    write_json(Path(args.out), result)
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.search_quality", "Networks found against random networks of the same latency.")
    made.add_argument("--data", default=str(DATA), help="folder of CIFAR-10 as train.parquet and test.parquet")
    made.add_argument("--seeds", type=int, default=3, help="searches, and trainings of everything")
    made.add_argument("--randoms", type=int, default=10, help="random networks for each seed")
    made.add_argument("--warmup-steps", type=int, default=600)
    made.add_argument("--search-steps", type=int, default=1500)
    made.add_argument("--alpha-every", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--log", default=str(LOG), help="finished work, kept between runs")
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
