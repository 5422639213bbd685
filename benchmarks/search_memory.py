"""What autograd keeps for the backward pass, as the number of candidates of a block grows.

One space of 6 blocks whose N candidates differ in their kernel only, so that every path keeps equally much. Measured
are the steps that `search.run` makes, on real tensors: distinct storages among the saved tensors (`saved`), and the
most bytes alive at once, temporaries included (`peak`). Everything is told as multiples of one network trained alone
with the same ReLU6 (search/lean.py); "plain, torch's ReLU6" is the same network without it.

Expected: weight steps of the path strategies within 1.05 of one network whatever N; DARTS and one-shot about N times.
Run `python -m benchmarks.search_memory` from the root of the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import about, save
from latency.console import Ui, parser, run

RESULT = Path("benchmarks/results/search_memory.json")
STRATEGIES = ("one-shot", "darts", "proxyless-g two", "proxyless-g full", "proxyless-r")
BAR = 1.05


def space_of(n: int, size: int = 32) -> Any:
    """Blocks with `n` candidates of one shape: depthwise kernels 3, 5, 7, ..."""
    from latency.ops import Conv2d, Linear, mbconv
    from latency.space import Choice, SearchSpace

    kernels = range(3, 3 + 2 * n, 2)
    stem = (Conv2d(in_channels=3, out_channels=16, height=size, width=size, kernel=3, stride=2),)
    half = size // 2
    choices = tuple(
        Choice(f"block{i}", tuple(mbconv(16, 16, half, kernel=k, stride=1, expand=4) for k in kernels))
        for i in range(6)
    )
    head = (Linear(in_channels=16, out_channels=10, height=half, width=half),)
    return SearchSpace(f"{n} kernels", stem, choices, head)


def measure(n: int, batch: int) -> dict[str, dict[str, int]]:
    """Bytes of every step with `n` candidates a block: {step: {saved, peak}}."""
    from benchmarks.steps import Steps, of_name
    from search.memory import peak_bytes, saved_bytes

    found: dict[str, dict[str, int]] = {}

    def add(name: str, step: Any, module: Any) -> None:
        step()  # momentum is there from the second step on
        saved = saved_bytes(step, module)
        module.zero_grad(set_to_none=True)
        found[name] = {"saved": saved, "peak": peak_bytes(step, module)}
        module.zero_grad(set_to_none=True)

    for with_lean, name in ((True, "plain network"), (False, "plain, torch's ReLU6")):
        step, network = Steps(space_of(n), batch, 32).plain([0] * 6, with_lean=with_lean)
        add(name, step, network)
    for name in STRATEGIES:
        steps, strategy = Steps(space_of(n), batch, 32), of_name(name)
        add(f"{name}, weights", steps.weight(strategy), steps.state.supernet)
        add(f"{name}, alpha", steps.alpha(strategy), steps.state.supernet)
    return found


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    counts = list(range(2, args.most + 1, args.every))
    found = {n: measure(n, args.batch) for n in counts}
    one = {kind: found[counts[0]]["plain network"][kind] for kind in ("saved", "peak")}
    names = list(found[counts[0]])
    for kind in one:
        rows = [[name, *(f"{found[n][name][kind] / one[kind]:.2f}" for n in counts)] for name in names]
        title = f"{kind} bytes, in multiples of one network's {one[kind] / 2**20:.1f} MiB"
        ui.table(title, ["step \\ N", *map(str, counts)], rows)
    ours = [name for name in names if name.startswith("proxyless") and name.endswith("weights")]
    worst = max(found[n][name]["saved"] / one["saved"] for n in counts for name in ours)
    most = counts[-1]
    growth = {name: found[most][f"{name}, weights"]["saved"] / one["saved"] / most for name in ("one-shot", "darts")}
    met = worst <= BAR
    ui.say(f"weight steps of ours keep at most {worst:.3f} of one network (bar {BAR}): {'met' if met else 'missed'}")
    ui.say(f"all paths at N = {most}: " + ", ".join(f"{name} {share:.2f} x N" for name, share in growth.items()))
    result = {
        **about(),
        "batch": args.batch,
        "bytes": {str(n): f for n, f in found.items()},
        "worst_weight_step": worst,
        "bar": BAR,
        "met": met,
        "all_paths_over_n": growth,
    }
    save(args.out, result)
    return result


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("benchmarks.search_memory", "Bytes kept for backward as the number of candidates grows.")
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--most", type=int, default=12, help="the largest N")
    made.add_argument("--every", type=int, default=1, help="N = 2, 2 + this, ...")
    made.add_argument("--out", type=Path, default=RESULT)
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
