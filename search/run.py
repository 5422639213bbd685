"""`python -m search.run`: search a network under a latency budget, train it, and report. See --help."""

from __future__ import annotations

import argparse
import math
import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run
from search import options, strategies
from search.budget_options import add_budget_arguments, default_name, make_run_plan

if TYPE_CHECKING:
    from latency.space import SearchSpace
    from search.targets import Plan

DRY_SIZE = 8  # pixels: of the data a dry run wants to know how many images and classes there are


@dataclass(frozen=True)
class RunConfig:
    """The command line."""

    predictor: list[str]
    target_ms: float | None
    max_macs: str | None
    max_params: str | None
    loss: str
    lambda2: float | None
    top_k: int | None
    verify_on: str | None
    reference: bool
    space: str
    seed: int
    name: str | None
    runs: Path
    resume: bool
    overwrite: bool
    strategy: str
    strategy_option: list[str]
    floor: float | None
    save_every_s: float
    torch_device: str
    sync_bn: bool
    dry_run: bool
    memory_gib: float | None


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 2 for a user's error, 130 on Ctrl-C; exits with 143 on SIGTERM."""
    args = _parser().parse_args(argv)
    try:
        return run(_work_together if int(os.environ.get("WORLD_SIZE", "1")) > 1 else _work, args)
    except SystemExit as stop:
        if getattr(stop, "advice", ""):
            print(f"terminated: {stop.advice}", file=sys.stderr)  # type: ignore[attr-defined]
        raise


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "search.run",
        "Search a network whose predicted latency meets a target, train it beside a random one "
        "of equal latency, and write architecture.json, network.onnx and report.html.",
    )
    add_budget_arguments(made)
    made.add_argument("--space", default="proxyless", help="a shipped space, or FILE.py:NAME")
    made.add_argument("--seed", type=int, default=0, help="same seed, same machine (on a CPU): same network")
    made.add_argument("--name", help="folder under --runs; by default made of predictor, space and target")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    made.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run")
    made.add_argument("--overwrite", action="store_true", help="replace the run of this name")
    made.add_argument("--strategy", default="proxyless-g", help="how alpha learns: a file of search/strategies")
    made.add_argument(
        "--strategy-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one of its options; may be repeated",
    )
    made.add_argument("--loss", default="dual", help="how budgets enter the loss: dual (meets them), add or mul-log")
    made.add_argument(
        "--lambda2", type=float, help="with --loss add: CE + lambda2 * E/T, 0.1; with --reference E in ms"
    )
    made.add_argument("--reference", action="store_true", help="search by the paper's rules, which may miss the target")
    made.add_argument("--top-k", type=int, help="most probable networks to rank by validation accuracy; 5 by default")
    made.add_argument(
        "--verify-on", metavar="DEVICE", help="time them there; keep the best that truly meets the target"
    )
    made.add_argument(
        "--floor", type=float, help="share of the target the network should at least use; 0.97 by default"
    )
    made.add_argument("--save-every-s", type=float, default=60.0, help="seconds between checkpoints")
    made.add_argument("--tensorboard", action="store_true", help="write event files to runs/NAME/tensorboard too")
    made.add_argument("--no-tflite", action="store_true", help="leave network.tflite out (some seconds)")
    made.add_argument(
        "--sync-bn", action=argparse.BooleanOptionalAction, default=True,
        help="under torchrun: batch norms over the images of all processes, so that their number does not matter",
    )  # fmt: skip
    made.add_argument("--dry-run", action="store_true", help="only tell what the run needs of memory, and ways to less")
    made.add_argument("--memory-gib", type=float, help="with --dry-run: what there is; by default all of the device's")
    options.add_data(made)
    options.add_recipe(made, options.SEARCHING | options.TRAINING)
    options.add_compute(made)
    return made


def _work_together(ui: Ui, args: argparse.Namespace) -> dict[str, Any] | None:
    """`_work` in each of the processes that torchrun started. Process 0 speaks; the others say what fails in them."""
    from search import distributed

    args.torch_device = distributed.begin(args.torch_device)
    speaking = distributed.rank() == 0
    try:
        if speaking:
            return _work(ui, args)
        args.json = False
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            ui.console.file = nowhere
            ui.warn = lambda text: None  # type: ignore[method-assign]
            _work(ui, args)
        return None
    except distributed.Elsewhere:
        return {"exit_code": 2}
    except RuntimeError:
        if distributed.stopped():  # another process told a user's error and left in mid-step
            return {"exit_code": 2}
        raise
    except UserError as error:
        if not distributed.stopping():
            return {"exit_code": 2}
        raise UserError(f"process {distributed.rank()}: {error}") from error
    except KeyboardInterrupt:
        if speaking:
            raise
        return {"exit_code": 130}
    except SystemExit as stop:
        if speaking:
            raise
        raise SystemExit(stop.code) from None
    finally:
        distributed.end()


def _config(args: argparse.Namespace) -> RunConfig:
    values = vars(args)
    return RunConfig(**{name: values[name] for name in RunConfig.__dataclass_fields__})


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    config = _config(args)
    _check(config)
    # Before torch loads OpenMP: waiting threads spin for 20 us, not 1 ms, then sleep. As fast on an idle machine; with
    # one other busy process on two cores, a step of 32 images takes 0.3 s, not 1 to 10 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    from latency.space import load_space

    space = load_space(config.space)
    if config.dry_run and not config.predictor:  # memory is the same whatever the latency
        return _search(ui, args, config, space, None)
    plan, predictors = make_run_plan(ui, args, space)
    for path, predictor in predictors:
        outside = [op for op in space.unique_ops() if not predictor.covers(op)]
        if outside:
            ui.warn(
                f"{len(outside)} ops of the space lie outside what {path} was measured on: "
                f"their latency is extrapolated; e.g. {outside[0]}"
            )
    return _search(ui, args, config, space, plan)


def _check(config: RunConfig) -> None:
    if config.target_ms is not None and not (math.isfinite(config.target_ms) and config.target_ms > 0):
        raise UserError(f"--target-ms {config.target_ms}: a positive number of milliseconds is needed")
    strategies.canonical(config.strategy)
    options.refuse_ignored(
        loss=config.loss,
        lambda2=config.lambda2,
        reference=config.reference,
        strategy_options=strategies.parse_options(config.strategy_option),
        top_k=config.top_k,
        floor=config.floor,
    )
    if config.memory_gib is not None and not config.dry_run:
        raise UserError(f"--memory-gib {config.memory_gib:g}: only with --dry-run")
    if config.name is not None and (not config.name or Path(config.name).name != config.name):
        raise UserError(f"--name '{config.name}': a plain folder name is needed; --runs says where it goes")


def _search(
    ui: Ui, args: argparse.Namespace, config: RunConfig, space: SearchSpace, plan: Plan | None
) -> dict[str, Any]:
    from search import rundir
    from search.api import Options, search_plan
    from search.recipe import for_data

    compute = options.compute_of(args)
    given = {"floor": config.floor, "top_k": config.top_k, "lambda2": config.lambda2}
    chosen = Options(
        config.seed,
        config.strategy,
        device=config.torch_device,
        save_every_s=config.save_every_s,
        strategy_options=strategies.parse_options(config.strategy_option),
        compute=compute,
        tflite=not args.no_tflite,
        tensorboard=args.tensorboard,
        loss=config.loss,
        verify_on=config.verify_on,
        reference=config.reference,
        sync_bn=config.sync_bn,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    strategies.load(chosen.strategy, chosen.strategy_options)  # before the data: a wrong option is told at once
    image_size = args.image_size
    if config.dry_run:
        args.image_size = min(image_size, DRY_SIZE)
    data = options.data_of(args, ui, channels=space.input_shape[1], seed=config.seed)
    recipe = for_data(
        len(data.train) + len(data.validation),
        space=space.name,
        strategy=config.strategy,
        device=config.torch_device,
        **options.recipe_of(args),
    )
    if plan is None or config.dry_run:
        from search.dry_run import dry_run
        from search.estimate import Setting

        setting = Setting(space, len(data.classes), (space.input_shape[1], image_size, image_size), compute)
        optimizer = "momentum" if recipe.momentum else "sgd"
        strategy = strategies.canonical(config.strategy)
        return dry_run(ui, setting, recipe.batch_size, optimizer, strategy, config.memory_gib, config.torch_device)
    run_dir = config.runs / (config.name or default_name(plan, space.name))
    ui.say(options.data_line(data))
    ui.say(
        f"recipe: {recipe.warmup_steps} steps of warm-up, {recipe.search_steps} of search with {recipe.alpha_steps} "
        f"alpha steps at rate {recipe.alpha_lr:.3g}, then {recipe.train_steps} of training for each of two networks; "
        f"batch {recipe.batch_size}; {recipe.regularisation()}"
    )
    for warning in options.slow_precision(compute, config.torch_device):
        ui.warn(warning)
    result = search_plan(
        space,
        plan,
        data,
        recipe=recipe,
        options=chosen,
        run_dir=run_dir,
        resume=config.resume,
        overwrite=config.overwrite,
        ui=ui,
    )
    timed = "" if result.measured_s is None else f", measured {ms(result.measured_s)} on {config.verify_on}"
    ui.table(
        f"{run_dir}: target {ms(plan.target_s)}",
        ["network", "predicted", "test accuracy"],
        [
            ["found", ms(result.predicted_s) + timed, f"{result.test_accuracy:.1%}"],
            ["random, equal latency", ms(result.random_predicted_s), f"{result.random_test_accuracy:.1%}"],
        ],
    )
    return {
        "target_ms": plan.target_s * 1e3,
        "predicted_ms": result.predicted_s * 1e3,
        "test_accuracy": result.test_accuracy,
        "random_test_accuracy": result.random_test_accuracy,
        "random_predicted_ms": result.random_predicted_s * 1e3,
        "measured_ms": None if result.measured_s is None else result.measured_s * 1e3,
        "expected_ms": result.expected_s * 1e3,
        "budgets": result.budgets,
        "architecture": str(run_dir / rundir.ARCHITECTURE),
        "report": str(run_dir / rundir.REPORT),
    }


if __name__ == "__main__":
    sys.exit(main())
