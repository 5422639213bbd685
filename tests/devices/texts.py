"""`benchmark_model`'s text, generation by generation, from numbers. The test phone prints with it, the parsers' tests
read it back. Formats: tensorflow/lite/tools/benchmark (classic), LiteRT's benchmark_litert_model.h ("litert") and the
Python port in the ai-edge-litert wheel ("litert_python")."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

#: Oldest first. "classic_start" has the `[start]` column (<= 2.4), "classic" is 2.9+ with p5/median/p95.
GENERATIONS = ("oldest", "classic_start", "delta", "info", "classic", "litert", "litert_python")
WITH_MEDIAN = ("classic", "litert", "litert_python")


@dataclass(frozen=True)
class Run:
    """What one invocation measured, in microseconds: `warmup_us` and `runs_us` one number an inference."""

    warmup_us: list[int]
    runs_us: list[int]
    init_us: int = 16772
    nodes: list[tuple[str, str, float]] = field(default_factory=list)  # (type, name, microseconds)


def six(value: float) -> str:
    """As C++ streams print a double: 6 significant digits, exponent where it is shorter."""
    return f"{value:.6g}"


def count_line(values: list[int], quantiles: bool) -> str:
    """The line of tensorflow's Stat::OutputToStream."""
    n = len(values)
    if n == 0:
        return "count=0"
    if n == 1:
        line = f"count=1 curr={values[-1]}"
    elif min(values) == max(values):
        line = f"count={n} curr={values[-1]}(all same)"
    else:
        mean = sum(values) / n
        std = int(math.sqrt(sum((v - mean) ** 2 for v in values) / n))
        line = (
            f"count={n} first={values[0]} curr={values[-1]} min={min(values)} max={max(values)} "
            f"avg={six(mean)} std={std}"
        )
    if quantiles and (n == 1 or min(values) != max(values)):
        ordered = sorted(values)
        line += "".join(f" {name}={ordered[n * p // 100]}" for name, p in (("p5", 5), ("median", 50), ("p95", 95)))
    return line


def table(run: Run, with_start: bool) -> list[str]:
    """The run-order table and what follows it."""
    columns = ["[node type]", *(["[start]"] if with_start else []), "[first]", "[avg ms]", "[%]", "[cdf%]", "[mem KB]"]
    lines = ["=" * 30 + " Run Order " + "=" * 30, "\t" + "\t".join([*columns, "[times called]", "[Name]"])]
    total, start = sum(us for *_, us in run.nodes) or 1.0, 0.0
    for kind, name, us in run.nodes:
        ms = us * 1e-3
        cells = [kind, *([f"{start:.3f}"] if with_start else []), f"{ms:.3f}", f"{ms:.3f}"]
        start += ms
        cells += [f"{us / total:.3%}", f"{start * 1e3 / total:.3%}", "0.000", "1", name]
        lines.append("\t" + "\t".join(cells))
    lines += ["", "=" * 30 + " Top by Computation Time " + "=" * 30, lines[1], ""]
    lines += [f"Number of nodes executed: {len(run.nodes)}", "=" * 30 + " Summary by node type " + "=" * 30, ""]
    lines += [f"Timings (microseconds): count={len(run.runs_us)} first=1 curr=1 min=1 max=1 avg=1 std=0"]
    return [*lines, "Memory (bytes): count=0", f"{len(run.nodes)} nodes observed", ""]


def render(generation: str, run: Run, said: list[str] | None = None, profile: bool = False) -> str:
    """All that one invocation prints on stdout. `said`: lines about delegates, printed before the session's line."""
    if generation not in GENERATIONS:
        raise ValueError(generation)
    if generation == "litert_python":
        return _litert_python(run)
    quantiles = generation in WITH_MEDIAN
    mean, warm = sum(run.runs_us) / len(run.runs_us), sum(run.warmup_us) / len(run.warmup_us)
    lines = ["STARTING!", *(said or []), f"Initialized session in {run.init_us / 1e3:g}ms."]
    limit = " but terminate if exceeding 150 seconds." if generation != "oldest" else ""
    lines += [
        f"Running benchmark for at least 1 iterations and at least 0.5 seconds{limit}",
        count_line(run.warmup_us, quantiles),
        "",
        f"Running benchmark for at least {len(run.runs_us)} iterations and at least 0 seconds{limit}",
        count_line(run.runs_us, quantiles),
        "",
    ]
    if generation == "oldest":
        lines.append(
            f"Average inference timings in us: Warmup: {six(warm)}, Init: {run.init_us}, no stats: {six(mean)}"
        )
    elif generation != "litert":
        lines.append(
            f"Inference timings in us: Init: {run.init_us}, First inference: {run.warmup_us[0]}, "
            f"Warmup (avg): {six(warm)}, Inference (avg): {six(mean)}"
        )
    if generation == "classic_start":
        lines.append("Peak memory footprint (MB): init=6.36328 overall=109.832")
    elif generation in ("delta", "info", "classic"):
        lines.append("Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832")
    if profile:
        first = Run([1], [1], nodes=[("ModifyGraphWithDelegate", "ModifyGraphWithDelegate/0", 1.0)])
        lines += ["Profiling Info for Benchmark Initialization:", *table(first, generation == "classic_start")]
        lines += [
            "Operator-wise Profiling Info for Regular Benchmark Runs:",
            *table(run, generation == "classic_start"),
        ]
    text = "\n".join(lines) + "\n"
    if generation in ("info", "classic", "litert"):
        text = "".join(
            f"INFO: {line}\n" if line and not line.startswith(("\t", "=")) else f"{line}\n" for line in lines
        )
    return text + (_litert(run) if generation == "litert" else "")


def _litert(run: Run) -> str:
    ms = [us / 1e3 for us in run.runs_us]
    warm = [us / 1e3 for us in run.warmup_us]
    mean = sum(ms) / len(ms)
    std = math.sqrt(sum((v - mean) ** 2 for v in ms) / len(ms))
    lines = [
        "",
        "========== BENCHMARK RESULTS ==========",
        f"Model initialization: {run.init_us / 1e3:.2f} ms",
        f"Warmup (first):       {warm[0]:.2f} ms",
        f"Warmup (avg):         {sum(warm) / len(warm):.2f} ms ({len(warm)} runs)",
        f"Inference (avg):      {mean:.2f} ms ({len(ms)} runs)",
        f"Inference (min|max):  {min(ms):.2f}, {max(ms):.2f} ms",
        f"Inference (std):      {std:.2f}",
        "Throughput:           1.23 MB/s",
        "Peak memory:          42.00 MB",
        "======================================",
    ]
    return "".join(f"INFO: [benchmark_litert_model.h:{80 + i}] {line}\n" for i, line in enumerate(lines))


def _litert_python(run: Run) -> str:
    ms = sorted(us / 1e3 for us in run.runs_us)
    mean = sum(ms) / len(ms)
    std = math.sqrt(sum((v - mean) ** 2 for v in ms) / len(ms))
    lines = [
        "",
        "=" * 40,
        " BENCHMARK RESULTS",
        "=" * 40,
        f"Model initialization:  {run.init_us / 1e3:.2f} ms",
        f"Warmup (first):        {run.warmup_us[0] / 1e3:.2f} ms",
        f"Warmup (avg):          {sum(run.warmup_us) / len(run.warmup_us) / 1e3:.2f} ms ({len(run.warmup_us)} runs)",
        f"Inference (avg):       {mean:.2f} ms ({len(ms)} runs)",
        f"Inference (min):       {ms[0]:.2f} ms",
        f"Inference (max):       {ms[-1]:.2f} ms",
        f"Inference (median):    {ms[len(ms) // 2]:.2f} ms",
        f"Inference (std):       {std:.2f} ms",
        f"Inference (p5):        {ms[0]:.2f} ms",
        f"Inference (p95):       {ms[-1]:.2f} ms",
        "Fully accelerated:     True",
        "=" * 40,
    ]
    return "\n".join(lines) + "\n"
