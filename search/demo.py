"""`make demo`: profile this machine's CPU, fit, search on digits, check the found network on the CPU, report.

Each step is a command that a user can type; this prints it, runs it, and ends with one table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.console import Ui, parser, run

TABLE = Path("tables/demo.csv")
RUN = Path("runs/demo")


def step(ui: Ui, *command: str) -> dict[str, Any]:
    """Run `python -m COMMAND --json`, its human text passing through. Returns its JSON. Raises UserError."""
    ui.say(f"\n$ python -m {shlex.join(command)}")
    done = subprocess.run([sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt("make demo again goes on from what was measured")
    if done.returncode != 0:
        raise UserError(f"python -m {command[0]} ended with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    began, predictor, architecture = time.monotonic(), str(TABLE.with_suffix(".pkl")), str(RUN / "architecture.json")
    step(ui, "latency.profile", "--device", "cpu", "--networks", "25", "--budget-min", "0.6", "--out", str(TABLE))
    fitted = step(ui, "latency.fit", str(TABLE))
    found = step(
        ui, "search.run", "--predictor", predictor, "--data", "digits", "--steps", str(args.steps), "--name", RUN.name,
        "--overwrite", "--channels-last", "--no-tflite",
    )  # fmt: skip
    checked = step(
        ui, "latency.verify", "--arch", architecture, "--predictor", predictor, "--device", "cpu",
        "--budget-min", "0.25", "--random", "5",
    )  # fmt: skip
    step(ui, "search.report", str(RUN))
    low, high = checked["ci_ms"]
    ui.table(
        "make demo",
        ["target", "predicted", "measured (95 % interval)", "error", "accuracy found / random"],
        [
            [
                f"{found['target_ms']:.2f} ms",
                f"{checked['predicted_ms']:.2f} ms",
                f"{checked['measured_ms']:.2f} ms ({low:.2f} .. {high:.2f})",
                f"{checked['error']:+.1%}",
                f"{found['test_accuracy']:.1%} / {found['random_test_accuracy']:.1%}",
            ]
        ],
    )
    ui.say(
        f"F errs by {fitted['network_mape']:.1%} on networks it never saw (noise floor {fitted['noise_floor']:.1%}); "
        f"{time.monotonic() - began:.0f} s in all; look at {RUN / 'report.html'}"
    )
    return {**checked, "target_ms": found["target_ms"], "test_accuracy": found["test_accuracy"],
            "random_test_accuracy": found["random_test_accuracy"], "seconds": time.monotonic() - began}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("search.demo", "The whole path on this machine's CPU in a few minutes.")
    made.add_argument("--steps", type=int, default=150, help="weight steps of the search")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
