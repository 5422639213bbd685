"""Command-line options that `search.run`, `search.train` and `search.export` share. Needs no torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from devices.errors import UserError

if TYPE_CHECKING:
    from latency.console import Ui
    from search.compute import Compute
    from search.data import Data

TRAINING: dict[str, tuple[type, str]] = {
    "train_steps": (int, "steps that a final network is trained for"),
    "batch_size": (int, "images a step; learning rates not given scale with it"),
    "train_lr": (float, "learning rate of the final training, cosine to 0"),
    "momentum": (float, "SGD's, Nesterov"),
    "weight_decay": (float, "of weights; none on batch norm and bias"),
    "label_smoothing": (float, "share of the label spread over all classes"),
    "clip_norm": (float, "largest norm of a step's gradients; 0 for no limit"),
    "dropout": (float, "before the classifier, in the final training"),
    "cutout": (float, "side of the square cut out, as a share of the image's, in the final training"),
    "ema": (float, "decay of the averaged weights that are kept, in the final training; 0 for none"),
}
SEARCHING: dict[str, tuple[type, str]] = {
    "warmup_steps": (int, "weight steps on uniform paths before alpha learns"),
    "search_steps": (int, "weight steps of the search; the other two phases scale with it"),
    "alpha_every": (int, "weight steps to one alpha step"),
    "warmup_lr": (float, "learning rate of the warm-up, cosine to 0"),
    "search_lr": (float, "learning rate of weights in the search, cosine to 0"),
    "alpha_lr": (float, "Adam's rate for alpha"),
}


def refuse_ignored(
    *,
    loss: str,
    lambda2: float | None,
    reference: bool,
    strategy_options: Collection[str],
    top_k: int | None,
    floor: float | None,
) -> None:
    """Raise UserError where an option is given that nothing would read; None and no options: not given."""
    if lambda2 is not None and loss != "add":
        raise UserError(f"--lambda2 {lambda2}: only with --loss add")
    if not reference:
        return
    if strategy_options:
        raise UserError("--strategy-option: only without --reference, whose alpha step has no options")
    for name, value in (("--top-k", top_k), ("--floor", floor)):
        if value is not None:
            raise UserError(f"{name} {value}: only without --reference, whose network is the argmax of every block")


def add_recipe(made: argparse.ArgumentParser, options: dict[str, tuple[type, str]]) -> None:
    """Numbers of the recipe; those not given come from `search.recipe.for_data`."""
    group = made.add_argument_group("recipe (by default chosen by the size of the data, and printed)")
    for name, (kind, text) in options.items():
        aliases = {"search_steps": ["--steps"], "train_steps": [] if "search_steps" in options else ["--steps"]}
        group.add_argument(
            f"--{name.replace('_', '-')}", *aliases.get(name, []), type=kind, default=argparse.SUPPRESS, help=text
        )
    group.add_argument(
        "--no-augment", dest="augment", action="store_false", default=argparse.SUPPRESS, help="images as they are"
    )


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the recipe."""
    values = vars(args)
    return {name: values[name] for name in (*SEARCHING, *TRAINING, "augment") if name in values}


def add_compute(made: argparse.ArgumentParser) -> None:
    """How torch computes."""
    group = made.add_argument_group("computing (see docs/train.md)")
    group.add_argument("--torch-device", default="cpu", help="where torch computes: cpu or cuda")
    group.add_argument("--threads", type=int, help="torch's threads; on a CPU results repeat bit for bit at equal ones")
    group.add_argument("--precision", default="fp32", help="fp32, or bf16 or fp16 by autocast")
    group.add_argument("--channels-last", action="store_true", help="memory format NHWC")
    group.add_argument(
        "--checkpoint-activations", action="store_true", help="keep only each op's input, and compute the op twice"
    )
    group.add_argument("--compile", action="store_true", help="compile ops with inductor (some seconds an op, once)")


def compute_of(args: argparse.Namespace) -> Compute:
    """`Compute` as asked for, torch's threads set. Raises ComputeError, UserError."""
    import torch

    from search.compute import Compute

    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f"--threads {args.threads}: at least 1")
        torch.set_num_threads(args.threads)
    check_device(args.torch_device)
    return Compute(args.precision, args.channels_last, args.checkpoint_activations, args.compile)


def check_device(name: str) -> None:
    """Raise UserError where torch cannot compute on `name`."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--torch-device {name}: cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--torch-device {name}: torch sees no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--torch-device {name}: torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0")


def slow_precision(compute: Compute, device: str) -> list[str]:
    """A warning where this precision costs time instead of saving it."""
    if compute.precision == "fp16" and device == "cpu":
        return ["--precision fp16 on a CPU is emulated, some 15 times slower than fp32 where measured; bf16 is not"]
    return []


def add_data(made: argparse.ArgumentParser, default: str | None = "digits", sized: bool = True) -> None:
    """Which images, and how they are read. `sized`: with --image-size."""
    group = made.add_argument_group("data (see docs/train.md)")
    group.add_argument("--data", default=default, help="digits, parquet:DIR or imagefolder:DIR")
    if sized:
        group.add_argument("--image-size", type=int, default=32, help="of training; latency is for the space's own")
    group.add_argument("--augmentation", help="pad-crop or resized-crop; by default the latter above 64 pixels")
    group.add_argument("--validation-images", type=int, help="held out for alpha; by default a tenth to a fifth")
    group.add_argument("--stream", action="store_true", help="keep no images in memory, copy no parquet file")
    group.add_argument("--workers", type=int, help="threads that decode images; by default one a core, at most 16")
    group.add_argument("--max-corrupt", type=int, default=10, help="images that may fail to decode; they are left out")


def data_of(args: argparse.Namespace, ui: Ui, *, channels: int, seed: int) -> Data:
    """The data as asked for; corrupt images are told as they are met. Raises DataError."""
    from search.data import Reading, load_data

    workers = min(16, os.cpu_count() or 1) if args.workers is None else args.workers
    warn = partial(type(ui).warn, ui)  # in every process of several: each reads its part, and an image is told once
    reading = Reading(args.augmentation, args.validation_images, workers, args.max_corrupt, args.stream or None, warn)
    return load_data(args.data, image_size=args.image_size, channels=channels, seed=seed, reading=reading)


def data_line(data: Data, training: bool = False) -> str:
    """What was found, for people; a training takes the images for alpha too."""
    used = f"{len(data.train)} images for weights, {len(data.validation)} for alpha"
    return (
        f"data: {data.name}, {len(data.classes)} classes, {'x'.join(map(str, data.image_shape))}, {data.augmentation}; "
        f"{len(data.train) + len(data.validation) if training else used}"
        f"{' images to train on' if training else ''}, {len(data.test)} for the test"
    )
