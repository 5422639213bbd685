"""`python -m search.train`: train a found architecture from scratch; write weights, ONNX, .tflite. See --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from devices.errors import UserError, did_you_mean
from latency.console import Ui, parser, run
from search import options

FORMATS = ("onnx", "tflite")


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 2 for a user's error, 130 on Ctrl-C; exits with 143 on SIGTERM."""
    try:
        return run(_work, _parser().parse_args(argv))
    except SystemExit as stop:
        if getattr(stop, "advice", ""):
            print(f"terminated: {stop.advice}", file=sys.stderr)  # type: ignore[attr-defined]
        raise


def _parser() -> argparse.ArgumentParser:
    made = parser("search.train", "Train one architecture from scratch and write model.safetensors and network files.")
    made.add_argument("--arch", type=Path, required=True, help="architecture.json, from python -m search.run")
    made.add_argument("--out", type=Path, help="folder of this training; by default `trained` beside the architecture")
    made.add_argument("--seed", type=int, default=0, help="same seed, same machine (on a CPU): same weights")
    made.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    made.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    made.add_argument("--save-every-s", type=float, default=60.0, help="seconds between checkpoints")
    made.add_argument("--formats", default="onnx,tflite", help="network files to write besides the weights, or 'none'")
    options.add_data(made)
    options.add_recipe(made, options.TRAINING)
    options.add_compute(made)
    return made


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0")
    if processes > 1:  # all would write into the same folder
        if rank != "0":
            return {"exit_code": 2}  # one line is enough
        raise UserError(
            f"search.train trains in one process, and {processes} were started (WORLD_SIZE): run it without torchrun; "
            "search.run can share a run"
        )
    formats = _formats(args.formats)
    if not args.save_every_s > 0:
        raise UserError(f"--save-every-s {args.save_every_s}: a positive number of seconds is needed")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as in search.run
    from latency.space import load_architecture
    from search.recipe import for_data
    from search.training import Training

    architecture = load_architecture(args.arch)
    compute = options.compute_of(args)
    data = options.data_of(args, ui, channels=architecture.ops[0].input_shape[1], seed=args.seed)
    n_train = len(data.train) + len(data.validation)
    recipe = for_data(n_train, space=architecture.space, device=args.torch_device, **options.recipe_of(args))
    ui.say(options.data_line(data, training=True))
    ui.say(f"recipe: {recipe.train_steps} steps of {recipe.batch_size} images; {recipe.regularisation(search=False)}")
    for warning in options.slow_precision(compute, args.torch_device):
        ui.warn(warning)
    training = Training(
        architecture,
        data,
        recipe,
        args.out or args.arch.parent / "trained",
        seed=args.seed,
        device=args.torch_device,
        compute=compute,
        formats=formats,
        save_every_s=args.save_every_s,
        ui=ui,
    )
    return training.run_all(resume=args.resume, overwrite=args.overwrite)


def _formats(text: str) -> tuple[str, ...]:
    chosen = () if text == "none" else tuple(part.strip() for part in text.split(","))
    for kind in chosen:
        if kind not in FORMATS:
            raise UserError(f"--formats {kind}: {did_you_mean(kind, FORMATS)}one of {', '.join(FORMATS)}, or none")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
