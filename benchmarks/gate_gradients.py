"""Gradients of alpha by sampled gates, against the exact gradient of E_{g ~ p}[CE] by enumeration.

A space of 4 x 5 x 5 = 100 networks on digits, its weights trained for a while on strictly fair paths, one fixed
validation batch. The exact gradient comes from the loss of every network; each estimator is drawn many times, by the
code that `search.run` runs. Three alphas: all alike (the start of a search), N(0, 1), and p = 0.9 in each block for the
candidates of a middling network.

bias      |mean of draws - exact| / |exact|; in brackets what an unbiased estimator would show with so few draws
scaled    the same after the best common factor, which Adam does not see anyway: sqrt(1 - cosine^2)
spread    sqrt(trace of the covariance) / |exact|, of one draw
cosine    of the mean of draws with the exact gradient; and the mean cosine of a single draw
cost      forward passes of one network that a draw takes, a backward counted as one (weights need no gradient)

Run `python -m benchmarks.gate_gradients` from the root of the repository.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.common import about, save
from latency.console import Ui, parser, run
from latency.ops import Conv2d, Linear, Zero, mbconv
from latency.space import Choice, SearchSpace
from search import gates
from search.alpha import Batch, evaluate
from search.controllers import reinforce_gradient
from search.costs import Costs
from search.data import Data, batch, load_data
from search.recipe import Recipe
from search.rng import generator
from search.state import SearchState, start
from search.strategies import load

RESULT = Path("benchmarks/results/gate_gradients.json")
SIZE = 8
Estimator = Callable[[SearchState, Batch], torch.Tensor]


def small_space() -> SearchSpace:
    """A block that halves the map, then two with a shortcut and Zero; candidates differ in kernel and width."""
    stem = (Conv2d(in_channels=3, out_channels=8, height=SIZE, width=SIZE, kernel=3),)
    kinds = [(3, 1), (3, 3), (5, 2), (7, 6)]
    half = SIZE // 2
    zero = Zero(in_channels=12, out_channels=12, height=half, width=half, shortcut=1)
    first = Choice("down", tuple(mbconv(8, 12, SIZE, kernel=k, stride=2, expand=e) for k, e in kinds))
    same = tuple(mbconv(12, 12, half, kernel=k, stride=1, expand=e) for k, e in kinds)
    head = (Linear(in_channels=12, out_channels=10, height=half, width=half),)
    return SearchSpace("small", stem, (first, Choice("a", (*same, zero)), Choice("b", (*same, zero))), head)


def trained(data: Data, steps: int, seed: int) -> SearchState:
    """A supernet after `steps` weight steps on fair paths."""
    space = small_space()
    valid_LK = torch.tensor([[True] * 4 + [False], [True] * 5, [True] * 5]).numpy()
    recipe = Recipe(64, warmup_steps=steps, search_steps=1, train_steps=0, warmup_lr=0.05)
    costs = Costs(0.0 * valid_LK, valid_LK, 1.0)
    state = start(space, costs, num_classes=len(data.classes), target_s=2.0, recipe=recipe, seed=seed)
    for group in state.weight_optimizer.param_groups:
        group["lr"] = recipe.warmup_lr
    state.supernet.train()
    for step in range(steps):
        x, y = batch(data.train, recipe.batch_size, seed, "weights", step, augment=False, flip=False)
        state.weight_optimizer.zero_grad(set_to_none=True)
        path = gates.fair_path(state.supernet.counts(), seed, step)
        functional.cross_entropy(state.supernet(x, path), y).backward()
        state.weight_optimizer.step()
    return state


def exact_gradient(state: SearchState, losses: dict[tuple[int, ...], float]) -> torch.Tensor:
    """d/dalpha of sum over networks of prod_l p_l,g(l) CE(g): (L, K)."""
    alpha_LK = state.supernet.alpha_LK.detach().clone().requires_grad_()
    p_LK = gates.probabilities(alpha_LK, state.supernet.valid_LK)
    blocks = torch.arange(len(alpha_LK))
    expected = sum(p_LK[blocks, torch.tensor(network)].prod() * loss for network, loss in losses.items())
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    assert alpha_LK.grad is not None
    return alpha_LK.grad


def of_strategy(name: str, **options: str) -> Estimator:
    """The estimator of a strategy."""
    strategy: Any = load(name, options)
    return lambda state, batch: strategy.task_gradient(state, batch)[1]


def rloo(samples: int) -> Estimator:
    """REINFORCE with the leave-one-out baseline; the reward is -CE, so that it estimates the same gradient."""

    def estimate(state: SearchState, batch: Batch) -> torch.Tensor:
        logits_LK = state.supernet.logits()
        draws = range(samples)
        networks = [gates.sample_path(logits_LK, generator(state.seed, "networks", state.step, i)) for i in draws]
        return reinforce_gradient(logits_LK, networks, -evaluate(state, networks, batch)[0])

    return estimate


# name -> (estimator, forward passes of one network that a draw takes, in a space of K candidates)
ESTIMATORS: dict[str, tuple[Estimator, Callable[[float], float]]] = {
    "two": (of_strategy("proxyless-g"), lambda k: 3),
    "two, ReinMax": (of_strategy("proxyless-g", estimator="reinmax"), lambda k: 3),
    "full": (of_strategy("proxyless-g", gates="full"), lambda k: k + 1),
    "full, ReinMax": (of_strategy("proxyless-g", gates="full", estimator="reinmax"), lambda k: k + 1),
    "Gumbel, tau 2": (of_strategy("gumbel", temperature="2", temperature_end="2"), lambda k: k + 1),
    "Gumbel, tau 0.5": (of_strategy("gumbel", temperature="0.5", temperature_end="0.5"), lambda k: k + 1),
    "RLOO, M = 2": (rloo(2), lambda k: 2),
    "RLOO, M = 8": (rloo(8), lambda k: 8),
    "mixture (DARTS)": (of_strategy("darts"), lambda k: 2 * k),
}


def judge(draws_NA: torch.Tensor, exact_A: torch.Tensor) -> dict[str, float]:
    """What the draws (N, A) of an estimator are worth; A alphas."""
    n, size = len(draws_NA), float(exact_A.norm())
    mean_A = draws_NA.mean(0)
    variance = float(draws_NA.var(0).sum()) if n > 1 else 0.0
    cosine = float(functional.cosine_similarity(mean_A, exact_A, dim=0))
    singles = functional.cosine_similarity(draws_NA, exact_A[None], dim=1)
    return {
        "bias": float((mean_A - exact_A).norm()) / size,
        "bias_of_an_unbiased_one": (variance / n) ** 0.5 / size,
        "scaled_bias": max(0.0, 1 - cosine**2) ** 0.5,
        "spread": variance**0.5 / size,
        "cosine_of_mean": cosine,
        "cosine_of_a_draw": float(singles.mean()),
        "norm_of_mean": float(mean_A.norm()) / size,
    }


def alphas(state: SearchState, best: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Where the estimators are compared: (L, K) each."""
    shape, valid_LK = state.supernet.alpha_LK.shape, state.supernet.valid_LK
    one_hot_LK = functional.one_hot(torch.tensor(best), shape[1]).double()
    others_L1 = (valid_LK.sum(1, keepdim=True) - 1).double()
    return {
        "uniform": torch.zeros(shape, dtype=torch.float64),
        "N(0, 1)": torch.randn(shape, generator=generator(state.seed, "alphas"), dtype=torch.float64),
        "p = 0.9": one_hot_LK * torch.log(9 * others_L1),
    }


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    data = load_data("digits", image_size=SIZE, channels=3, seed=args.seed)
    state = trained(data, args.steps, args.seed)
    shared = batch(data.validation, args.batch_size, args.seed, "alphas", 0, augment=False, flip=False)
    networks = list(itertools.product(*map(range, state.supernet.counts())))
    loss_M, accuracy_M = evaluate(state, networks, shared)
    losses = dict(zip(networks, loss_M.tolist(), strict=True))
    ui.say(
        f"{len(networks)} networks, CE {min(losses.values()):.3f} to {max(losses.values()):.3f}, accuracy "
        f"{float(accuracy_M.min()):.1%} to {float(accuracy_M.max()):.1%} on {args.batch_size} images"
    )
    valid_LK = state.supernet.valid_LK
    k = float(valid_LK.sum(1).double().mean())
    middling = sorted(losses, key=lambda network: losses[network])[len(losses) // 2]
    result: dict[str, Any] = {"networks": len(networks), "draws": args.draws, "seed": args.seed, "steps": args.steps}
    for where, alpha_LK in alphas(state, middling).items():
        with torch.no_grad():
            state.supernet.alpha_LK.copy_(alpha_LK)
        exact_A = exact_gradient(state, losses)[valid_LK]
        found: dict[str, dict[str, float]] = {}
        with ui.progress(f"alpha {where}") as report:
            for i, (name, (estimator, cost)) in enumerate(ESTIMATORS.items()):
                draws = []
                for step in range(1 if name.startswith("mixture") else args.draws):
                    state.step = step
                    draws.append(estimator(state, shared)[valid_LK])
                found[name] = judge(torch.stack(draws), exact_A) | {"cost": cost(k)}
                report(i + 1, len(ESTIMATORS), name)
        result[where] = {"exact_norm": float(exact_A.norm()), "estimators": found}
        ui.table(
            f"alpha {where}: |exact| = {float(exact_A.norm()):.4f}, {args.draws} draws",
            ["estimator", "bias", "scaled", "spread", "cosine of mean", "of a draw", "cost"],
            [
                [
                    name,
                    f"{r['bias']:.2f} ({r['bias_of_an_unbiased_one']:.2f})",
                    f"{r['scaled_bias']:.2f}",
                    f"{r['spread']:.2f}",
                    f"{r['cosine_of_mean']:+.3f}",
                    f"{r['cosine_of_a_draw']:+.3f}",
                    f"{r['cost']:.1f}",
                ]
                for name, r in found.items()
            ],
        )
    save(Path(args.out), result | about())
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.gate_gradients", "Bias and variance of gate gradients against the exact one.")
    made.add_argument("--draws", type=int, default=1000, help="of each estimator; at least 2")
    made.add_argument("--steps", type=int, default=300, help="weight steps before alpha is looked at")
    made.add_argument("--batch-size", type=int, default=128, help="validation images")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", default=str(RESULT), help="the JSON of results")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
