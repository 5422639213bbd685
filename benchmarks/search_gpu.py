"""Peak memory and time of every strategy's steps on a GPU, at full size, beside plain training and what was foretold.

The full ImageNet space, batch 256 at 224 pixels, fp32 and bf16, random images. For each precision: a training step of
one network alone, as torch has it, then the weight step and the alpha step of every strategy. Peak is the allocator's
(`max_memory_allocated`) over the step, parameters and optimiser included; time is the median of synchronised steps.
What does not fit is told as such, beside what `search.run --dry-run` says it needs. Each strategy runs in a process of
its own, so that one that fails leaves nothing behind.

Run `python -m benchmarks.search_gpu` on a machine with a CUDA device, unattended; exit code 2 without one. With
`--device cpu` and small sizes the same code runs, to see that it does; memory is then counted (search/memory.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import about, save
from devices.errors import UserError
from latency.console import Ui, parser, run

RESULT = Path("benchmarks/results/search_gpu.json")
PLAIN = "plain training"
STRATEGIES = (
    "proxyless-g two", "proxyless-g full", "proxyless-r", "gumbel", "darts", "one-shot", "random", "evolution",
)  # fmt: skip
WARM_UP = 3


def measure(name: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """{step: {median_s, peak_bytes} or {"does_not_fit": bytes needed}} of one strategy, or of plain training."""
    import torch

    from benchmarks.steps import Steps, of_name
    from latency.space import load_space
    from search.compute import Compute

    compute = Compute(precision, channels_last=args.device.startswith("cuda"))
    try:
        steps = Steps(load_space(args.space), args.batch, args.image_size, args.classes, args.device, compute)
        if name == PLAIN:
            step, module = steps.plain(steps.drawn("path"))
            del steps.state  # the supernet's own memory is not plain training's
            work = {"training step": (step, module)}
        else:
            strategy = of_name(name)
            work = {
                "weight step": (steps.weight(strategy), steps.state.supernet),
                "alpha step": (steps.alpha(strategy), steps.state.supernet),
            }
    except torch.cuda.OutOfMemoryError:
        return {"set-up": {"does_not_fit": None}}
    found: dict[str, Any] = {}
    for title, (step, module) in work.items():
        try:
            found[title] = _timed(step, module, args)
        except torch.cuda.OutOfMemoryError:
            module.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            found[title] = {"does_not_fit": True}
    return found


def _timed(step: Any, module: Any, args: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import torch

    from search.memory import nbytes, peak_bytes

    on_gpu = args.device.startswith("cuda")
    for _ in range(WARM_UP):
        step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(args.repeats):
        begun = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
    else:
        parameters, buffers = nbytes(module)
        peak = 2 * parameters + buffers + peak_bytes(step, module)
    return {"median_s": float(np.median(seconds)), "peak_bytes": peak}


def foretold(precision: str, args: argparse.Namespace) -> dict[str, int]:
    """Bytes in all by `search.run --dry-run`, of the heaviest path."""
    from latency.space import load_space
    from search.compute import Compute
    from search.estimate import PATHS, Estimator, Setting

    space = load_space(args.space)
    shape = (space.input_shape[1], args.image_size, args.image_size)
    estimator = Estimator(Setting(space, args.classes, shape, Compute(precision)))
    return {paths: estimator.need(paths, args.batch).total for paths in PATHS}


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    if args.one is not None:
        return {"found": measure(args.one, args.precision, args)}
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("this benchmark needs a CUDA device, and torch sees none; --device cpu only tries the code")
    gpu = torch.cuda.get_device_name() if args.device.startswith("cuda") else "none: the code tried on a CPU"
    table: dict[str, Any] = {}
    for precision in args.precisions.split(","):
        told = foretold(precision, args)
        names = [PLAIN, *(args.strategies.split(",") if args.strategies else STRATEGIES)]
        rows = []
        for name in names:
            found = _in_process(name, precision, args)
            table[f"{precision}, {name}"] = found
            for title, values in found.items():
                fits = "median_s" in values
                rows.append(
                    [name, title, f"{values['median_s'] * 1e3:.0f}" if fits else "-",
                     f"{values['peak_bytes'] / 2**30:.3g}" if fits else values.get("failed", "does not fit")]
                )  # fmt: skip
        table[f"{precision}, foretold_bytes"] = told
        title = f"{precision}, batch {args.batch} at {args.image_size} px on {gpu}"
        ui.table(title, ["", "step", "ms", "peak GiB"], rows)
        ui.say(f"foretold, GiB: {', '.join(f'{k} {v / 2**30:.3g}' for k, v in told.items())}")
    result = {**about(), "gpu": gpu, "torch": torch.__version__, "space": args.space, "batch": args.batch,
              "image_size": args.image_size, "classes": args.classes, "steps": table}  # fmt: skip
    save(args.out, result)
    return result


def _in_process(name: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    same = [f"--{k.replace('_', '-')}={getattr(args, k)}" for k in SHARED]
    argv = [sys.executable, "-m", "benchmarks.search_gpu", "--json", f"--one={name}", f"--precision={precision}", *same]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"both steps": {"failed": lines[-1][:200]}}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["found"]
    return found


SHARED = ("space", "batch", "image_size", "classes", "device", "repeats")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.search_gpu", "Peak memory and time of the search's steps on a GPU, at full size.")
    made.add_argument("--space", default="proxyless")
    made.add_argument("--batch", type=int, default=256)
    made.add_argument("--image-size", type=int, default=224)
    made.add_argument("--classes", type=int, default=1000)
    made.add_argument("--device", default="cuda")
    made.add_argument("--precisions", default="fp32,bf16")
    made.add_argument("--strategies", default="", help="names, with commas between; by default all")
    made.add_argument("--repeats", type=int, default=10)
    made.add_argument("--one", help="measure this one alone and print JSON; used by the benchmark itself")
    made.add_argument("--precision", default="fp32", help="with --one")
    made.add_argument("--out", type=Path, default=RESULT)
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
