"""Controllers alone, without a supernet: how near they get to the best network under a latency budget.

NAS-Bench-201 has all 15,625 networks of its space trained on CIFAR-10, and their latencies on six devices. The reward
is the validation accuracy; a network over the budget is never proposed, since its latency is known before it is
trained. An evaluation is a network trained: one already trained costs nothing to look up again, for any of the three.
The code that proposes and learns is search/controllers.py, as in `search.run --strategy random|evolution|proxyless-r`.

Regret: validation accuracy of the best network under the budget, less that of the best one evaluated so far, in points.

Run `python -m benchmarks.controllers --data ../shared/data` from the root of the repository.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import about, save
from devices.errors import UserError
from latency.console import Ui, parser, run
from search.controllers import (
    TRIES,
    Member,
    Network,
    Room,
    best_first,
    children,
    draw_one,
    new_random,
    reinforce_gradient,
)

RESULT = Path("benchmarks/results/controllers.json")
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = 6
SHARES = (0.3, 0.5, 0.8)  # of the networks that fit a budget
CHECKPOINTS = (100, 500)  # evaluations
MAX_UPDATES = 300  # of REINFORCE, which may have nothing new to propose any more

# Evolution's were not tuned. REINFORCE's were, on other seeds than those reported (from 1000) but on 12 of the same 18
# budgets: nine settings, seven with this reward, one with raw accuracy (hardly better than random), one with ranks.
POPULATION, PARENTS, OFFSPRING, MUTATION, CROSSOVER = 20, 10, 5, 0.2, 0.5
SAMPLES, RATE = 10, 0.15


@dataclass(frozen=True)
class Table:
    """Every cell: validation accuracy in percent and seconds on each device."""

    accuracy: dict[Network, float]
    seconds: dict[str, dict[Network, float]]


def read_table(path: Path) -> Table:
    """cifar10.csv. Raises UserError naming the line."""
    if not path.is_file():
        raise UserError(f"{path}: not there; --data is the folder that holds nasbench201/cifar10.csv")
    accuracy: dict[Network, float] = {}
    seconds: dict[str, dict[Network, float]] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            names = re.findall(r"([a-z0-9_]+)~\d", row["arch"])
            if len(names) != EDGES or not set(names) <= set(OPS):
                raise UserError(f"{path}:{number}: '{row['arch']}' is not a cell of six known ops")
            network = tuple(OPS.index(name) for name in names)
            accuracy[network] = float(row["cifar10_val_acc"])
            for column, text in row.items():
                if column.endswith("_ms"):
                    seconds.setdefault(column.removesuffix("_ms"), {})[network] = float(text) / 1e3
    if len(accuracy) != len(OPS) ** EDGES:
        raise UserError(f"{path}: {len(accuracy)} cells, {len(OPS) ** EDGES} are needed")
    return Table(accuracy, seconds)


def room_of(seconds: dict[Network, float], budget_s: float) -> Room:
    """The networks within the budget, all equally likely to be drawn."""
    fitting = sorted(network for network, s in seconds.items() if s <= budget_s)
    return Room(
        (len(OPS),) * EDGES,
        lambda network: seconds[network] <= budget_s,
        lambda rng: fitting[int(rng.integers(len(fitting)))],
    )


Proposals = Iterator[list[Network]]  # batches, each judged before the next is asked for
Controller = Callable[[Room, Callable[[Network], float], np.random.Generator], Proposals]


def random_search(room: Room, reward: Callable[[Network], float], rng: np.random.Generator) -> Proposals:
    """Networks at random, none twice."""
    seen: set[Network] = set()
    while True:
        networks = new_random(room, 1, seen, rng)
        seen.update(networks)
        yield networks


def evolution(room: Room, reward: Callable[[Network], float], rng: np.random.Generator) -> Proposals:
    """Mutation and crossover of the best so far."""
    networks = new_random(room, POPULATION, set(), rng)
    seen = set(networks)
    members: list[Member] = []
    while True:
        yield networks
        members = best_first([*members, *(Member(n, reward(n), 1.0) for n in networks)])[:POPULATION]
        parents = [m.network for m in members[:PARENTS]]
        networks = children(parents, room, OFFSPRING, seen, rng, mutation=MUTATION, crossover=CROSSOVER)
        seen.update(networks)


def reinforce(room: Room, reward: Callable[[Network], float], rng: np.random.Generator) -> Proposals:
    """RLOO on softmax(alpha), drawn until a network fits; Adam as the search has it.

    It learns from -log(1 - accuracy), which ranks networks as accuracy does: by accuracy itself, the cells that learned
    nothing (10 %) would decide every step, where the good ones differ by a point.
    """
    alpha_LK = torch.zeros(EDGES, len(OPS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([alpha_LK], lr=RATE, betas=(0.0, 0.999))
    for _ in range(MAX_UPDATES):
        p_LK = torch.softmax(alpha_LK.detach(), 1).numpy()
        networks = [draw_fitting(p_LK, room, rng) for _ in range(SAMPLES)]
        yield networks
        accuracy_M = torch.tensor([reward(n) for n in networks], dtype=torch.float64) / 100
        alpha_LK.grad = reinforce_gradient(alpha_LK, networks, -torch.log(1 - accuracy_M))
        optimizer.step()


def draw_fitting(p_LK: np.ndarray, room: Room, rng: np.random.Generator) -> Network:
    """A draw from p given that it fits; any that fits where p hardly allows one."""
    draws = (draw_one(p_LK, rng) for _ in range(TRIES))
    found = next((network for network in draws if room.fits(network)), None)
    return room.draw(rng) if found is None else found


CONTROLLERS: dict[str, Controller] = {"random": random_search, "evolution": evolution, "reinforce": reinforce}


def regrets(controller: Controller, room: Room, accuracy: dict[Network, float], best: float, seed: int) -> list[float]:
    """Regret at each of CHECKPOINTS."""
    evaluated: list[float] = []
    seen: set[Network] = set()
    for networks in controller(room, accuracy.__getitem__, np.random.default_rng(seed)):
        for network in networks:
            assert room.fits(network)
            if network not in seen:
                seen.add(network)
                evaluated.append(accuracy[network])
        if len(evaluated) >= CHECKPOINTS[-1]:
            break
    return [best - max(evaluated[:n]) for n in CHECKPOINTS]


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    table = read_table(Path(args.data) / "nasbench201" / "cifar10.csv")
    settings = list(itertools.product(table.seconds, SHARES))
    found: dict[str, dict[str, Any]] = {}
    every: dict[str, list[list[list[float]]]] = {name: [] for name in CONTROLLERS}  # settings x seeds x checkpoints
    with ui.progress("controllers") as report:
        for i, (device, share) in enumerate(settings):
            seconds = table.seconds[device]
            budget_s = float(np.quantile(list(seconds.values()), share))
            room = room_of(seconds, budget_s)
            best = max(table.accuracy[network] for network, s in seconds.items() if s <= budget_s)
            entry: dict[str, Any] = {"budget_s": budget_s, "best_accuracy": best}
            for name, controller in CONTROLLERS.items():
                seeds = range(args.seed_from, args.seed_from + args.seeds)
                runs = [regrets(controller, room, table.accuracy, best, seed) for seed in seeds]
                every[name].append(runs)
                entry[name] = {f"at_{n}": _mean_se(np.array(runs)[:, c]) for c, n in enumerate(CHECKPOINTS)}
            found[f"{device}, {share:.0%} fit"] = entry
            report(i + 1, len(settings), device)
    # Settings share their seeds and networks: the error is that of the means over settings, from seed to seed.
    overall = {
        name: {f"at_{n}": _mean_se(np.array(runs)[:, :, c].mean(0)) for c, n in enumerate(CHECKPOINTS)}
        for name, runs in every.items()
    }
    met = {
        name: all(overall[name][f"at_{n}"]["mean"] < overall["random"][f"at_{n}"]["mean"] for n in CHECKPOINTS)
        for name in ("evolution", "reinforce")
    }
    rows = [
        [name, *(_cell(entry[c][f"at_{n}"]) for n in CHECKPOINTS for c in CONTROLLERS)] for name, entry in found.items()
    ]
    rows.append(["all", *(_cell(overall[c][f"at_{n}"]) for n in CHECKPOINTS for c in CONTROLLERS)])
    header = ["budget", *(f"{c} {n}" for n in CHECKPOINTS for c in CONTROLLERS)]
    ui.table(f"regret in points of validation accuracy, {args.seeds} seeds, mean +- standard error", header, rows)
    ui.say("below random's regret: " + ", ".join(f"{name} {'yes' if ok else 'NO'}" for name, ok in met.items()))
    result = {"overall": overall, "settings": found, "met": met, "seeds": args.seeds, "seed_from": args.seed_from}
    if args.out:
        save(Path(args.out), result | about())
    return result


def _mean_se(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "se": float(values.std(ddof=1) / np.sqrt(len(values)))}


def _cell(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} +- {value['se']:.2f}"


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.controllers", "Regret of REINFORCE, evolution and random search on NAS-Bench-201.")
    made.add_argument("--data", default="../shared/data", help="the folder that holds nasbench201/cifar10.csv")
    made.add_argument("--seeds", type=int, default=20, help="runs of each controller under each budget; at least 2")
    made.add_argument("--seed-from", type=int, default=0, help="the first seed")
    made.add_argument("--out", default=str(RESULT), help="the JSON of results; empty: none is written")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
