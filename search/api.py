"""Search from Python: `search(space, predictor, train, test, target_s=0.08)`. `search.run` is a thin shell of it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from devices.errors import did_you_mean
from latency.console import Ui
from latency.space import SearchSpace
from search import distributed, rundir, strategies, tensorboard
from search.budgets import Budget
from search.candidates import budget_on, open_device
from search.compute import PLAIN, Compute
from search.costs import Costs, Predictor, make_costs
from search.data import Data, ImageDataset, from_datasets
from search.derive import FLOOR
from search.images import check_images
from search.objective import LAMBDA2, LOSSES, LossForm
from search.options import refuse_ignored
from search.pipeline import Pipeline
from search.recipe import Recipe, RecipeError, check_batch, for_data
from search.reference import papers
from search.result import Result
from search.rundir import RunDir
from search.state import loss_of
from search.strategies import Strategy
from search.targets import Plan, make_plan

REWARDED = "proxyless_r"
TOP_K = 5  # of the most probable networks, ranked
__all__ = ["Options", "Result", "search", "search_data"]


@dataclass(frozen=True)
class Options:
    """How to search, beside the recipe's numbers. `device` is where torch computes, not the target.

    `loss`, one of `search.objective.LOSSES`, with `lambda2` for "add" (None: 0.1); `top_k` most probable networks are
    ranked, and timed on the device named `verify_on`; `reference` is the paper as released (search.reference).
    `tflite`: write network.tflite too, where the extra `tflite` is installed; `tensorboard`: event files, likewise.
    `sync_bn`: batch norms see the images of all processes (torchrun), so that their number does not matter.
    `strategy_options` are fields of the strategy's dataclass, such as {"gates": "full"}; texts are parsed.
    """

    seed: int = 0
    strategy: str = strategies.DEFAULT
    floor: float = FLOOR
    device: str = "cpu"
    save_every_s: float = 60.0
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    compute: Compute = PLAIN
    tflite: bool = False
    tensorboard: bool = False
    loss: str = "dual"
    lambda2: float | None = None
    top_k: int = TOP_K
    verify_on: str | None = None
    reference: bool = False
    sync_bn: bool = True

    @property
    def coefficient(self) -> float:
        """`lambda2`, or the default where it was not given."""
        return LAMBDA2 if self.lambda2 is None else self.lambda2

    def __post_init__(self) -> None:
        if self.tensorboard:
            tensorboard.require()
        if not 0 <= self.floor <= 1:
            raise RecipeError(f"--floor {self.floor}: a share of the target between 0 and 1")
        if self.top_k < 1:
            raise RecipeError(f"--top-k {self.top_k}: at least 1 is needed")
        if self.reference:
            _check_reference(strategies.canonical(self.strategy), self.loss, self.lambda2)
        refuse_ignored(
            loss=self.loss,
            lambda2=self.lambda2,
            reference=self.reference,
            strategy_options=self.strategy_options,
            top_k=None if self.top_k == TOP_K else self.top_k,
            floor=None if self.floor == FLOOR else self.floor,
        )
        if self.loss not in LOSSES:
            raise RecipeError(f"--loss {self.loss}: {did_you_mean(self.loss, LOSSES)}known: {', '.join(LOSSES)}")
        if self.lambda2 is not None and not (math.isfinite(self.lambda2) and self.lambda2 >= 0):
            raise RecipeError(f"--lambda2 {self.lambda2}: a number of at least 0 is needed")
        if not self.save_every_s > 0:
            raise RecipeError(f"--save-every-s {self.save_every_s}: a positive number of seconds is needed")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RecipeError(f"--torch-device {self.device}: torch sees no CUDA device")


def _check_reference(strategy: str, loss: str, lambda2: float | None) -> None:
    if (strategy, loss) not in ((strategies.DEFAULT, "dual"), (strategies.DEFAULT, "add"), (REWARDED, "dual")):
        raise RecipeError(
            "--reference has strategies and losses of its own: leave --strategy and --loss out, or give one of "
            "--loss add and --strategy proxyless-r"
        )
    if loss == "add" and lambda2 is None:
        raise RecipeError("--reference --loss add: CE + lambda2 E needs --lambda2, per millisecond of E")


def search(
    space: SearchSpace,
    predictor: Predictor,
    train_dataset: ImageDataset,
    test_dataset: ImageDataset,
    *,
    target_s: float | None = None,
    budgets: Sequence[Budget] = (),
    recipe: Recipe | None = None,
    options: Options | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ui: Ui | None = None,
) -> Result:
    """Find, in one run, the network of `space` that learns best within `target_s`; train it and a random equal.

    Datasets give (image (C, H, W) float tensor, label from 0) and are indexed, not iterated; a fifth of
    `train_dataset` is held out for alpha. Without `target_s`: 0.8 times the average random network. Without `recipe`:
    `search.recipe.for_data`. `budgets` are kept beside the target: `search.budgets.latency_budget` of another device,
    `macs_budget`, `params_budget`. With `run_dir` the files of a run are kept there, and `resume` goes on from them.
    Raises UserError: unusable data, target, recipe or folder; UnsupportedOp from the predictor.
    """
    options = options or Options()
    data = from_datasets(train_dataset, test_dataset, seed=options.seed)
    return search_data(
        space,
        predictor,
        data,
        target_s=target_s,
        budgets=budgets,
        recipe=recipe,
        options=options,
        run_dir=run_dir,
        resume=resume,
        overwrite=overwrite,
        ui=ui,
    )


def search_data(
    space: SearchSpace,
    predictor: Predictor,
    data: Data,
    *,
    target_s: float | None = None,
    budgets: Sequence[Budget] = (),
    recipe: Recipe | None = None,
    options: Options | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ui: Ui | None = None,
) -> Result:
    """`search` on data already split."""
    plan, _, _ = make_plan(make_costs(space, predictor), target_s, budgets, device=predictor.device)
    return search_plan(
        space,
        plan,
        data,
        recipe=recipe,
        options=options,
        run_dir=run_dir,
        resume=resume,
        overwrite=overwrite,
        ui=ui,
    )


def search_plan(
    space: SearchSpace,
    plan: Plan,
    data: Data,
    *,
    recipe: Recipe | None = None,
    options: Options | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ui: Ui | None = None,
) -> Result:
    """`search_data` under budgets already made and checked: `search.targets.make_plan`.

    Under torchrun all processes call this alike (after `distributed.begin`); process 0 alone touches `run_dir`.
    """
    options = options or Options()
    strategy: Strategy = strategies.load(options.strategy, options.strategy_options)
    recipe = recipe or for_data(
        len(data.train) + len(data.validation), space=space.name, strategy=options.strategy, device=options.device
    )
    check_batch(recipe, len(data.train))
    if len(data.validation) < recipe.batch_size and ui is not None:
        ui.say(f"an alpha step takes all {len(data.validation)} images held out for it, less than the batch")
    for what, split in (("training", data.train), ("search-validation", data.validation)):
        distributed.check_batch(recipe.batch_size, len(split), what)
    loss: LossForm = loss_of(plan, recipe, options.loss, options.coefficient)
    if options.reference:
        by_reward = strategies.canonical(options.strategy) == REWARDED
        strategy, loss = papers(space, plan, by_reward, options.lambda2)
    if options.verify_on is not None:
        budget_on(options.verify_on, plan)
        if distributed.rank() == 0:
            with open_device(options.verify_on):
                pass  # there, before the search is paid for
    chain = space.architecture([0] * len(space.choices)).ops
    check_images(chain, data.image_shape, f"space '{space.name}'")
    with tempfile.TemporaryDirectory() as scratch:
        keep = run_dir is not None and distributed.rank() == 0
        run = RunDir(Path(run_dir) if run_dir is not None and keep else Path(scratch))
        config = make_config(space, plan, data, recipe, options)
        differing, resume = distributed.first(lambda: _begin(run, config, resume, overwrite))
        if differing and ui is not None:
            ui.warn(f"resumed under other conditions, so not bit for bit: {'; '.join(differing)}")
        pipeline = Pipeline(
            space,
            plan,
            data,
            recipe,
            strategy,
            run,
            seed=options.seed,
            loss=loss,
            floor=options.floor,
            top_k=options.top_k,
            verify_on=options.verify_on,
            reference=options.reference,
            device=options.device,
            compute=options.compute,
            tflite=options.tflite,
            save_every_s=options.save_every_s,
            keep=keep,
            ui=ui,
            sync_bn=options.sync_bn,
        )
        with tensorboard.events(run) if options.tensorboard and distributed.rank() == 0 else nullcontext():
            return pipeline.run_all(resume)


def _begin(run: RunDir, config: dict[str, Any], resume: bool, overwrite: bool) -> tuple[list[str], bool]:
    """(differences worth a warning, whether the run goes on). Processes that torchrun restarted go on, whatever was
    asked of them at first."""
    if distributed.restarted() and (run.path / rundir.CONFIG).is_file():
        resume, overwrite = True, False
    return run.begin(config, resume=resume, overwrite=overwrite), resume


def make_config(space: SearchSpace, plan: Plan, data: Data, recipe: Recipe, options: Options) -> dict[str, Any]:
    """What decides a run's result (config.json). Predictors and space enter by digests of all candidates and costs.

    What is at its default and was not there in earlier versions is left out, so that their runs resume.
    """
    digest = _digest(plan.costs)
    for op in (*space.fixed_ops, *(op for c in space.choices for op in c.candidates)):
        digest.update(str(op).encode())
    if space.layout:  # a chain's order is that of its ops
        digest.update("|".join(map(str, space.layout)).encode())
    others = [
        {"name": b.name, "unit": b.unit, "limit": b.limit, "costs_digest": _digest(b.costs).hexdigest()}
        for b in plan.budgets[1:]
    ]
    more: dict[str, Any] = {"budgets": others} if others else {}
    if options.loss != "dual":
        more["loss"] = {"kind": options.loss, "lambda2": options.coefficient}
    if options.reference:
        more["reference"] = True
    if options.verify_on is not None:
        more["verify_on"] = options.verify_on
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": platform.machine(),
        "device": options.device,
        **({"processes": distributed.world()} if distributed.world() > 1 else {}),
    }
    apart = {} if options.sync_bn else {"batch_norms_apart_in": distributed.world()}
    changed = options.compute.changed()
    return {
        "schema": 1,
        "space": space.name,
        "costs_digest": digest.hexdigest(),
        "target_s": plan.target_s,
        "seed": options.seed,
        "strategy": strategies.canonical(options.strategy),
        "strategy_options": strategies.chosen(strategies.load(options.strategy, options.strategy_options)),
        "floor": options.floor,
        "top_k": options.top_k,
        "data": data.summary(),
        "recipe": dataclasses.asdict(recipe),
        **more,
        "machine": machine,
        **apart,
        **({"compute": changed} if changed else {}),
    }


def _digest(costs: Costs) -> hashlib._Hash:
    return hashlib.sha256(np.ascontiguousarray(costs.cost_LK).tobytes() + repr(costs.fixed_s).encode())
