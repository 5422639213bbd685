"""The options that limit what a network may cost: --predictor, --target-ms, --max-macs, --max-params."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import UserError
from latency.console import Ui

if TYPE_CHECKING:
    from latency.predictor import LatencyPredictor
    from latency.space import SearchSpace
    from search.targets import Plan


def add_budget_arguments(made: argparse.ArgumentParser) -> None:
    """The options."""
    made.add_argument(
        "--predictor",
        action="append",
        default=[],
        metavar="PKL[:LIMIT]",
        help="tables/NAME.pkl, from python -m latency.fit; with its latency limit, like a.pkl:80ms; given again, a "
        "limit on another device. Needed but for --dry-run",
    )
    made.add_argument("--target-ms", type=float, help="latency not to exceed; without it 0.8 times a random network's")
    made.add_argument("--max-macs", metavar="N", help="multiply-adds not to exceed, like 300M (papers call them FLOPs)")
    made.add_argument("--max-params", metavar="N", help="parameters not to exceed, like 5M")


def make_run_plan(
    ui: Ui, args: argparse.Namespace, space: SearchSpace
) -> tuple[Plan, list[tuple[str, LatencyPredictor]]]:
    """(the plan, the predictors by path), checked: what cannot be met is told before anything is computed.

    Raises UserError: bad options, PickleError, UnsupportedOp, BudgetError.
    """
    from latency.predictor import load_predictor
    from search import budgets
    from search.costs import make_costs
    from search.targets import make_plan

    if not args.predictor:
        raise UserError("--predictor is needed: tables/pixel1.pkl, or one of your device by python -m latency.fit")
    parsed = [(text, *budgets.split_predictor(text)) for text in args.predictor]
    (first_text, first_path, target_s), *more = parsed
    if target_s is not None and args.target_ms is not None:
        raise UserError(f"--target-ms {args.target_ms:g} and --predictor {first_text} both set the target: give one")
    asked = "" if target_s is None else f"--predictor {first_text}"
    if target_s is None and args.target_ms is not None:
        target_s = args.target_ms / 1e3
    for text, path, limit_s in more:
        if limit_s is None:
            raise UserError(f"--predictor {text}: a second predictor needs its limit, like {path}:80ms")
    predictors = [(path, load_predictor(Path(path))) for _, path, _ in parsed]
    others = [
        budgets.latency_budget(space, predictor, limit_s or 0.0, Path(path).stem, f"--predictor {text}")
        for (text, path, limit_s), (_, predictor) in zip(more, predictors[1:], strict=True)
    ]
    if args.max_macs is not None:
        limit = budgets.parse_count(args.max_macs, "--max-macs")
        others.append(budgets.macs_budget(space, limit, f"--max-macs {args.max_macs}"))
    if args.max_params is not None:
        limit = budgets.parse_count(args.max_params, "--max-params")
        others.append(budgets.params_budget(space, limit, f"--max-params {args.max_params}"))
    name = Path(first_path).stem
    first = predictors[0][1]
    plan, notes, warnings = make_plan(
        make_costs(space, first), target_s, others, name=name, asked=asked, device=first.device
    )
    for note in notes:
        ui.say(note)
    for warning in warnings:
        ui.warn(warning)
    return plan, predictors


def default_name(plan: Plan, space: str) -> str:
    """A run's folder: predictor, space and target, and what other budgets there are."""
    from search.budgets import short_count

    first, *others = plan.budgets
    name = f"{first.name}-{space}-{first.limit * 1e3:.4g}ms"
    for budget in others:
        limit = f"{budget.limit * 1e3:.4g}ms" if budget.unit == "s" else short_count(budget.limit)
        name += f"-{budget.name}-{limit}"
    return name
