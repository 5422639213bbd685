"""kill -9 at random steps, resumed each time, against a run that nobody disturbs: equal bit for bit?

`search.run` in processes of their own, on digits, with a checkpoint every half second. A killed run gets SIGKILL once
a number of steps, drawn anew each time, has passed since it began or went on; then the same command with --resume. At
the end compared are architecture.json and random_architecture.json byte by byte, every row of metrics.jsonl, and every
tensor and number of the last checkpoint. Run `python -m benchmarks.kill_resume` from the root of the repository.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import about, save
from devices.errors import UserError
from latency.console import Ui, parser, run

RESULT = Path("benchmarks/results/kill_resume.json")
FILES = ("architecture.json", "random_architecture.json", "metrics.jsonl")
LIMIT_S = 900  # of one process


def command(args: argparse.Namespace, folder: Path, name: str, *more: str) -> list[str]:
    """The command line of a run."""
    options = ["--predictor", args.predictor, "--target-ms", str(args.target_ms), "--strategy", args.strategy]
    sizes = ["--steps", str(args.steps), "--train-steps", str(args.steps // 2), "--threads", "1", "--no-tflite"]
    where = ["--save-every-s", "0.5", "--runs", str(folder), "--name", name]
    return [sys.executable, "-m", "search.run", *options, *sizes, *where, *more]


def rows_of(path: Path) -> int:
    """Rows of metrics.jsonl so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(argv: list[str], metrics: Path, after: int) -> int:
    """Run until `after` rows are written beyond those there were, then kill -9. The rows there were at the kill; -1
    where the run ended first."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=told)
        start, deadline = None, time.monotonic() + LIMIT_S
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise UserError(f"no {after} steps within {LIMIT_S} s")
                rows = rows_of(metrics)
                start = rows if start is None else min(start, rows)  # a resumed run forgets rows after its checkpoint
                if rows >= start + after:
                    process.kill()
                    process.wait()
                    return rows
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            told.seek(0)
            raise UserError(f"a run failed: {told.read().decode(errors='replace').strip().splitlines()[-1]}")
    return -1


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of the tensors and numbers that are not equal to the bit."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [name]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{name}[{i}]")]
    return [] if a == b else [name]


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    from search import checkpoint

    rng, kills = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        done = subprocess.run(
            command(args, folder, "whole"), capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
        if done.returncode:
            raise UserError(f"the undisturbed run failed: {done.stderr.strip().splitlines()[-1]}")
        whole, broken = folder / "whole", folder / "broken"
        total = rows_of(whole / "metrics.jsonl")
        ui.say(f"the undisturbed run: {total} rows")
        while len(kills) < args.kills:
            after = rng.randint(2, max(3, 2 * total // (args.kills + 2)))
            resume = ["--resume"] if kills else []
            at = killed(command(args, folder, "broken", *resume), broken / "metrics.jsonl", after)
            if at < 0:
                break
            last = json.loads((broken / "metrics.jsonl").read_bytes().splitlines()[-1])
            kills.append({"after_rows": after, "at_row": at, "phase": last["phase"], "step": last.get("step")})
            ui.say(f"killed at row {at}: {last['phase']}, step {last.get('step')}")
        subprocess.run([*command(args, folder, "broken"), "--resume"], capture_output=True, check=True, timeout=LIMIT_S)
        unequal = [name for name in FILES if (whole / name).read_bytes() != (broken / name).read_bytes()]
        ends = [checkpoint.load(path / "checkpoint.pt") for path in (whole, broken)]
        unequal += differences(*ends, "checkpoint")
    met = not unequal and len(kills) == args.kills
    ui.say(f"{len(kills)} kills: " + ("equal bit for bit" if not unequal else f"unequal: {', '.join(unequal[:5])}"))
    result = {**about(), "strategy": args.strategy, "rows": total, "kills": kills, "unequal": unequal, "met": met}
    save(args.out, result)
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.kill_resume", "A run killed again and again against an undisturbed one.")
    made.add_argument("--predictor", default="tables/pixel1.pkl")
    made.add_argument("--target-ms", type=float, default=80.0)
    made.add_argument("--strategy", default="proxyless-g")
    made.add_argument("--steps", type=int, default=24)
    made.add_argument("--kills", type=int, default=5)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=RESULT)
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
