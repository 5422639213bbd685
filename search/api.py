"""Search from Python: `search(space, predictor, train, test, target_s=0.08)`. `search.run` is a thin shell of it."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency.console import Ui
from latency.space import SearchSpace
from search import distributed, rundir, strategies, tensorboard
from search.compute import PLAIN, Compute
from search.costs import Costs, Predictor, make_costs
from search.data import Data, ImageDataset, from_datasets
from search.derive import FLOOR
from search.images import check_images
from search.pipeline import Pipeline, Result
from search.recipe import Recipe, RecipeError, for_data
from search.rundir import RunDir
from search.targets import choose_target

__all__ = ["Options", "Result", "search", "search_data"]


@dataclass(frozen=True)
class Options:
    """How to search, beside the recipe's numbers. `device` is where torch computes, not the target.

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
    sync_bn: bool = True

    def __post_init__(self) -> None:
        if self.tensorboard:
            tensorboard.require()
        if not 0 <= self.floor <= 1:
            raise RecipeError(f"--floor {self.floor}: a share of the target between 0 and 1")
        if not self.save_every_s > 0:
            raise RecipeError(f"--save-every-s {self.save_every_s}: a positive number of seconds is needed")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RecipeError(f"--torch-device {self.device}: torch sees no CUDA device")


def search(
    space: SearchSpace,
    predictor: Predictor,
    train_dataset: ImageDataset,
    test_dataset: ImageDataset,
    *,
    target_s: float | None = None,
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
    `search.recipe.for_data`. With `run_dir` the files of a run are kept there, and `resume` goes on from them.
    Raises UserError: unusable data, target, recipe or folder; UnsupportedOp from the predictor.
    """
    options = options or Options()
    data = from_datasets(train_dataset, test_dataset, seed=options.seed)
    return search_data(
        space,
        predictor,
        data,
        target_s=target_s,
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
    recipe: Recipe | None = None,
    options: Options | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ui: Ui | None = None,
) -> Result:
    """`search` on data already split.

    Under torchrun all processes call this alike (after `distributed.begin`); process 0 alone touches `run_dir`.
    """
    options = options or Options()
    costs = make_costs(space, predictor)
    target_s, _, _ = choose_target(costs, target_s)
    strategy = strategies.load(options.strategy, options.strategy_options)
    recipe = recipe or for_data(
        len(data.train) + len(data.validation), space=space.name, strategy=options.strategy, device=options.device
    )
    for what, split in (("training", data.train), ("search-validation", data.validation)):
        distributed.check_batch(recipe.batch_size, len(split), what)
    chain = space.architecture([0] * len(space.choices)).ops
    check_images(chain, data.image_shape, f"space '{space.name}'")
    with tempfile.TemporaryDirectory() as scratch:
        keep = run_dir is not None and distributed.rank() == 0
        run = RunDir(Path(run_dir) if run_dir is not None and keep else Path(scratch))
        config = make_config(space, costs, data, target_s, recipe, options)
        differing, resume = distributed.first(lambda: _begin(run, config, resume, overwrite))
        if differing and ui is not None:
            ui.warn(f"resumed under other conditions, so not bit for bit: {'; '.join(differing)}")
        pipeline = Pipeline(
            space,
            costs,
            data,
            target_s,
            recipe,
            strategy,
            run,
            seed=options.seed,
            floor=options.floor,
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


def make_config(
    space: SearchSpace, costs: Costs, data: Data, target_s: float, recipe: Recipe, options: Options
) -> dict[str, Any]:
    """What decides a run's result (config.json). Predictor and space enter by a digest of all candidates and costs."""
    digest = hashlib.sha256(np.ascontiguousarray(costs.cost_LK).tobytes() + repr(costs.fixed_s).encode())
    for op in (*space.fixed_ops, *(op for c in space.choices for op in c.candidates)):
        digest.update(str(op).encode())
    if space.layout:  # a chain's order is that of its ops
        digest.update("|".join(map(str, space.layout)).encode())
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": platform.machine(),
        "device": options.device,
        "processes": distributed.world(),
    }
    apart = {} if options.sync_bn else {"batch_norms_apart_in": distributed.world()}
    changed = options.compute.changed()
    return {
        "schema": 1,
        "space": space.name,
        "costs_digest": digest.hexdigest(),
        "target_s": target_s,
        "seed": options.seed,
        "strategy": strategies.canonical(options.strategy),
        "strategy_options": strategies.chosen(strategies.load(options.strategy, options.strategy_options)),
        "floor": options.floor,
        "data": data.summary(),
        "recipe": dataclasses.asdict(recipe),
        "machine": machine,
        **apart,
        **({"compute": changed} if changed else {}),
    }
