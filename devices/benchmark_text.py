"""What `benchmark_model` prints -> seconds. Two programs of that name, and all generations of the older one's text.

Sources: tensorflow/lite/tools/benchmark (classic), LiteRT's benchmark_litert_model.h and its Python port in the
ai-edge-litert wheel. The dialect is told by what is printed, never by a version number. What is not understood raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from devices.benchmark_delegates import delegates_in, demand
from devices.benchmark_lines import BenchmarkTextError, lines_of, microseconds, printable

#: The LiteRT summary rounds to 0.01 ms: half a step may be at most this share of what it tells.
COARSE = 0.01


class UnknownFlags(BenchmarkTextError):
    """The binary ignored a flag. What it measured is not what was asked for."""


@dataclass(frozen=True)
class Outcome:
    """One invocation. All times in seconds per inference; `median_s` is None where the generation prints none."""

    dialect: str  # "classic" or "litert"
    runs: int
    median_s: float | None
    mean_s: float
    min_s: float | None
    max_s: float | None
    init_s: float | None
    delegates: tuple[tuple[str, str], ...] = ()  # (name, "complete" | "partial" | "none"), in order of appearance

    @property
    def seconds(self) -> float:
        """The median where it is printed, else the mean."""
        return self.mean_s if self.median_s is None else self.median_s

    @property
    def statistic(self) -> str:
        """Which of the two `seconds` is."""
        return "mean" if self.median_s is None else "median"


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_COUNT = re.compile(r"count=(\d{1,9})(?:\s|$)", re.A)
_FIELD = re.compile(rf"\b(first|curr|min|max|avg|std|p5|median|p95)=({_NUMBER})(?=\s|$|\()")
_NEW_END = re.compile(rf"Inference timings in us: Init: ({_NUMBER}), .*Inference \(avg\): ({_NUMBER})\s*$")
_OLD_END = re.compile(
    rf"Average inference timings in us: Warmup: ({_NUMBER}), Init: ({_NUMBER}), (?:no stats|Inference): ({_NUMBER})\s*$"
)
_SUMMARY = re.compile(rf"(Model initialization|Inference \([\w|]+\)):\s+({_NUMBER})(?:\s*,\s*({_NUMBER}))? ?(.*)$")
_FLAGS = re.compile(r"Unconsumed cmdline flags:\s*(.*\S)")
_FAILURES = (
    "Failed to load model",
    "Failed to apply",
    "Failed to allocate tensors",
    "Failed to parse flag",
    "Failed to initialize",
    "Benchmarking failed",
    "Please specify the name of your TF Lite input file",
)


def parse(text: str, *, runs: int | None = None, delegate: str | None = None) -> Outcome:
    """The outcome of one invocation from all it printed, stdout and stderr one after the other.

    `runs`: how many timed inferences were asked for. `delegate`: "GPU", "NNAPI", ... where one was asked for, which
    then has to have run the whole model; None where the CPU was. Raises BenchmarkTextError.
    """
    lines = lines_of(text)
    for line in lines:
        if found := _FLAGS.search(line):
            raise UnknownFlags(
                f"this benchmark_model does not know {found[1]} and would measure something else; "
                "change the device file, or use another build of benchmark_model"
            )
    for line in lines:
        if line.startswith(_FAILURES):
            raise BenchmarkTextError(f"benchmark_model says: {line.strip()[:200]}{_errors(text, line)}")
    delegates = delegates_in(lines)
    if delegate is not None:
        demand(delegate, delegates, lines)
    outcome = _classic(lines, delegates) or _litert(lines, delegates)
    if outcome is None:
        raise BenchmarkTextError(f"no result in what benchmark_model printed: {_excerpt(text)}")
    if runs is not None and outcome.runs != runs:
        raise BenchmarkTextError(
            f"benchmark_model made {outcome.runs} runs where {runs} were asked for (max_secs reached, or cut output)"
        )
    return outcome


def dialect(text: str) -> str | None:
    """ "litert" or "classic" by what is printed, None where neither shows."""
    if "benchmark_litert_model" in text or re.search(r"^\W*BENCHMARK RESULTS", "\n".join(lines_of(text)), re.M):
        return "litert"
    return "classic" if re.search(r"nference timings in us:|\bcount=\d+ ", text) else None


def _classic(lines: list[str], delegates: tuple[tuple[str, str], ...]) -> Outcome | None:
    """From the `count=` line of the timed runs (the first such line is the warm-up's) and the closing line."""
    counts = [line for line in lines if line.startswith("count=")]
    ends = [m for line in lines if (m := _NEW_END.search(line) or _OLD_END.search(line))]
    which = dialect("\n".join(lines)) or "classic"
    if not ends and (which == "classic" or not counts):
        if counts:
            raise BenchmarkTextError("cut output: the closing line 'Inference timings in us' is missing")
        return None
    if not counts:
        if len(ends) == 1 and which == "classic":
            raise BenchmarkTextError("cut output: the 'count=' lines are missing")
        return None
    if len(ends) > 1:
        raise BenchmarkTextError("the output of several invocations is mixed up: two closing lines")
    started = sum(line.startswith("Running benchmark for") for line in lines)
    if started > len(counts):
        raise BenchmarkTextError(f"cut output: {started} phases were started, {len(counts)} reported")
    runs, values = _count_line(counts[-1])
    if not ends:  # LiteRT's own summary follows instead
        summary = _litert(lines, delegates)
        if summary is None:
            raise BenchmarkTextError("cut output: the summary is missing")
        init_s, closing_us = summary.init_s, summary.mean_s * 1e6
        tolerance = 0.02 * closing_us + 6.0  # two decimals of a ms
    else:
        end = ends[0]
        init_us, closing_us = map(microseconds, end.group(1, 2) if end.re is _NEW_END else end.group(2, 3))
        init_s, tolerance = init_us * 1e-6, 1e-4 * closing_us + 1.0  # 6 significant digits, or an integer
    if abs(values["avg"] - closing_us) > tolerance:
        raise BenchmarkTextError(
            f"the timed runs' line says avg={values['avg']:g} us, the closing line {closing_us:g} us: garbled output"
        )
    if not values["min"] <= values.get("median", values["avg"]) <= values["max"] or values["min"] <= 0:
        raise BenchmarkTextError(f"impossible numbers in '{counts[-1][:120]}'")
    median = values.get("median")
    return Outcome(
        which,
        runs,
        None if median is None else median * 1e-6,
        values["avg"] * 1e-6,
        values["min"] * 1e-6,
        values["max"] * 1e-6,
        init_s,
        delegates,
    )


def _count_line(line: str) -> tuple[int, dict[str, float]]:
    """(n, statistics in microseconds) of a `count=` line; `count=N curr=X(all same)` or a single run give one value."""
    head = _COUNT.match(line)
    values = {name: microseconds(number) for name, number in _FIELD.findall(line)}
    if head is None or int(head[1]) < 1 or "curr" not in values:
        raise BenchmarkTextError(f"cut or garbled line '{line[:120]}'")
    runs = int(head[1])
    if "avg" not in values:
        if "min" in values or not (runs == 1 or "(all same)" in line):
            raise BenchmarkTextError(f"cut or garbled line '{line[:120]}'")
        values |= dict.fromkeys(("min", "max", "avg", "median"), values["curr"])
    elif not {"first", "min", "max", "std"} <= set(values):
        raise BenchmarkTextError(f"cut or garbled line '{line[:120]}'")
    return runs, values


def _litert(lines: list[str], delegates: tuple[tuple[str, str], ...]) -> Outcome | None:
    """From the summary block of LiteRT 2.x or of its Python port: milliseconds with two decimals."""
    start = next((i for i, line in enumerate(lines) if "BENCHMARK RESULTS" in line), None)
    if start is None:
        return None
    found: dict[str, tuple[float, float | None, str]] = {}
    for line in lines[start:]:
        if m := _SUMMARY.match(line.strip()):
            if m[1] in found:
                raise BenchmarkTextError("the output of several invocations is mixed up: two summaries")
            found[m[1]] = (microseconds(m[2]) * 1e-3, None if m[3] is None else microseconds(m[3]) * 1e-3, m[4])
    if "Inference (avg)" not in found or "Inference (std)" not in found:
        raise BenchmarkTextError("cut output: the summary lacks 'Inference (avg)' or 'Inference (std)'")
    mean_s, _, rest = found["Inference (avg)"]
    runs = re.fullmatch(r"ms \((\d{1,9}) runs\)\s*", rest, re.A)
    if runs is None or int(runs[1]) < 1:
        raise BenchmarkTextError("garbled line 'Inference (avg)' in the summary")
    median = found.get("Inference (median)")
    seconds = mean_s if median is None else median[0]
    if not any(line.startswith("count=") for line in lines) and COARSE * seconds < 0.5e-5:
        raise BenchmarkTextError(
            f"the summary tells {seconds * 1e3:.2f} ms in steps of 0.01 ms: too coarse for so small an op, and this "
            "build prints no 'count=' line; use the classic benchmark_model"
        )
    if min(mean_s, seconds) <= 0:
        raise BenchmarkTextError("impossible numbers in the summary: a time of 0")
    low = found.get("Inference (min|max)") or found.get("Inference (min)")
    high = found.get("Inference (max)")
    init = found.get("Model initialization")
    return Outcome(
        "litert",
        int(runs[1]),
        None if median is None else median[0],
        mean_s,
        None if low is None else low[0],
        high[0] if high is not None else None if low is None else low[1],
        None if init is None else init[0],
        delegates,
    )


def _errors(text: str, but: str) -> str:
    """The first ERROR line that is not `but`, as an addition to a message."""
    for line in printable(text).split("\n"):
        if line.startswith("ERROR: ") and but not in line:
            return f" ({line.strip()[:200]})"
    return ""


def _excerpt(text: str) -> str:
    words = " ".join(printable(text).split())
    return f"'{words[-160:]}'" if words else "it printed nothing"
