"""What benchmark_model prints: an answer that is right, or an error that has a name."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.benchmark_delegates import DelegateFallback
from devices.benchmark_lines import BenchmarkTextError
from devices.benchmark_text import Outcome, UnknownFlags, dialect, parse
from devices.op_table import parse_csv, parse_table
from tests.devices.texts import GENERATIONS, WITH_MEDIAN, Run, render

# A log of the classic program, as in TensorFlow's documentation and issue threads.
GOLDEN = """STARTING!
Initialized session in 16.772ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602
Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 median=1239807 p95=1247415
Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, Inference (avg): 1.24027e+06
Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
"""
NODES = [
    ("Convolution (NHWC, QU8) IGEMM", "Delegate/Convolution (NHWC, QU8) IGEMM:0", 278.0),
    ("Convolution (NHWC, QU8) IGEMM", "Delegate/Convolution (NHWC, QU8) IGEMM:0", 100.0),
    ("QUANTIZE", "[tfl.quantize]:0", 203.0),
]
RUN = Run([41000, 31000], [21000, 22500, 20100, 20900, 25000], nodes=NODES)
GPU = "Explicitly applied GPU delegate, and the model graph will be {} by the delegate{}"
times = st.lists(st.integers(600, 5_000_000), min_size=1, max_size=60)


def test_golden():
    outcome = parse(GOLDEN, runs=50)
    assert (outcome.dialect, outcome.runs, outcome.statistic, outcome.delegates) == ("classic", 50, "median", ())
    got = (outcome.seconds, outcome.mean_s, outcome.min_s, outcome.max_s, outcome.init_s)
    assert got == pytest.approx((1.239807, 1.24027, 1.238588, 1.252566, 0.005579))


@pytest.mark.parametrize("generation", GENERATIONS)
@given(warmup=times, runs=times)
@settings(max_examples=30, deadline=None)
def test_every_generation_is_read(generation, warmup, runs):
    text = render(generation, Run(warmup, runs))
    if generation == "litert_python" and float(text.split("(median):")[1].split()[0]) < 0.5:
        with pytest.raises(BenchmarkTextError, match="too coarse"):
            parse(text)
        return
    outcome = parse(text, runs=len(runs))
    upper_middle = sorted(runs)[len(runs) // 2]
    same = len(set(runs)) == 1
    expected = upper_middle if generation in WITH_MEDIAN or same else sum(runs) / len(runs)
    assert outcome.statistic == ("median" if generation in WITH_MEDIAN or same else "mean")
    coarse = 0.5e-5 if generation == "litert_python" else 0.0
    assert outcome.seconds == pytest.approx(expected * 1e-6, rel=1e-5, abs=coarse * 1.001)
    assert outcome.min_s == pytest.approx(min(runs) * 1e-6, abs=coarse * 1.001)
    assert outcome.dialect == ("litert" if "litert" in generation else "classic")
    assert dialect(render(generation, Run(warmup, runs))) == outcome.dialect


def test_all_the_same():
    text = render("classic", Run([5, 9], [40, 40, 40]))
    assert "count=3 curr=40(all same)" in text
    assert parse(text).median_s == pytest.approx(40e-6)


def test_logcat_prefixes():
    text = "".join(f"07-14 13:14:52.115 22838 22838 I tflite  : {line}\n" for line in GOLDEN.splitlines())
    assert parse(text, runs=50) == parse(GOLDEN)


def test_litert_prefers_its_count_line_and_refuses_a_summary_too_coarse():
    small = Run([300], [211, 215, 213, 212])
    text = render("litert", small)
    assert parse(text).seconds == pytest.approx(213e-6)
    only_summary = text[text.index("INFO: [benchmark_litert_model") :]
    with pytest.raises(BenchmarkTextError, match=r"too coarse .* use the classic benchmark_model"):
        parse(only_summary)
    large = render("litert", RUN)
    outcome = parse(large[large.index("INFO: [benchmark_litert_model") :])
    assert (outcome.statistic, outcome.runs) == ("mean", 5)
    assert outcome.seconds == pytest.approx(21.9e-3)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("line", ["WARN: Unconsumed cmdline flags: --use_xnnpak=true", "Unconsumed cmdline flags: --x"])
def test_an_ignored_flag_is_an_error(generation, line):
    with pytest.raises(UnknownFlags, match="does not know --"):
        parse(line + "\n" + render(generation, RUN))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([], "nothing in the output says that the GPU delegate ran"),
        (
            ["Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate."],
            "silent",
        ),
        ([GPU.format("partially executed", " w/ 3 delegate kernels.")], "only part of the model"),
        (
            ["Replacing 54 out of 559 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 3 partitions"],
            "only part",
        ),
        ([GPU.format("completely executed", ".").replace("GPU", "XNNPACK")], "nothing in the output"),
    ],
)
@pytest.mark.parametrize("generation", ["delta", "classic", "litert"])
def test_fallback_to_the_cpu_is_refused(generation, said, why):
    with pytest.raises(DelegateFallback, match=why):
        parse(render(generation, RUN, said), delegate="GPU")
    assert parse(render(generation, RUN, said)).runs == 5, "who asked for the CPU gets its time"


@pytest.mark.parametrize("generation", [g for g in GENERATIONS if g != "litert_python"])  # it says nothing of delegates
def test_xnnpack_may_take_a_part_or_be_silent_but_not_take_nothing(generation):
    part = "Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 2 delegate kernels."
    for said in ([], [part], ["Replacing 3 out of 4 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2"]):
        assert parse(render(generation, RUN, said), delegate="XNNPACK").runs == 5
    for said in (
        "Though XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.",
        "Replacing 0 out of 4 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions",
    ):
        with pytest.raises(DelegateFallback, match="runs nothing of the model: it would be timed on the reference"):
            parse(render(generation, RUN, [said]), delegate="XNNPACK")


@pytest.mark.parametrize(
    "said",
    [
        GPU.format("completely executed", "."),
        "Replacing 31 out of 31 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 1 partitions",
    ],
)
def test_a_delegate_that_ran_it_all_is_taken(said):
    assert parse(render("classic", RUN, [said]), delegate="GPU").runs == 5


@pytest.mark.parametrize(
    "text",
    [
        "ERROR: Could not open 'x.tflite'.\nERROR: Failed to load model x.tflite\n",
        "INFO: Created\nERROR: Failed to apply GPU delegate.\nBenchmarking failed.\n",
        "ERROR: Failed to allocate tensors!\nERROR: Benchmarking failed.\n",
        "Segmentation fault\n",
        "",
    ],
)
def test_failures_have_names(text):
    with pytest.raises(BenchmarkTextError, match=r"benchmark_model says|no result in|printed nothing"):
        parse(text)


def test_fewer_runs_than_asked_for():
    with pytest.raises(BenchmarkTextError, match="5 runs where 9 were asked for"):
        parse(render("classic", RUN), runs=9)


def same(a: Outcome, b: Outcome) -> bool:
    return a.seconds == b.seconds and a.runs == b.runs


@pytest.mark.parametrize("generation", GENERATIONS)
def test_no_prefix_of_an_output_gives_another_answer(generation):
    """A half-cut output is the whole answer or an error, at every place it can be cut."""
    text = render(generation, RUN)
    whole = parse(text)
    for end in range(len(text)):
        with contextlib.suppress(BenchmarkTextError):
            assert same(parse(text[:end]), whole), text[:end]
    with pytest.raises(BenchmarkTextError):
        parse(text[: text.rindex("std") - 40])


@pytest.mark.parametrize("generation", GENERATIONS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_garbled_output_is_an_answer_or_a_named_error(generation, data):
    """Pieces cut out, repeated, overwritten: positive finite seconds, or BenchmarkTextError; nothing else."""
    text = render(generation, RUN, profile=generation == "classic")
    for _ in range(data.draw(st.integers(1, 3))):
        i, j = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        j = min(j, i + 400)
        how = data.draw(st.sampled_from(["cut", "repeat", "junk"]))
        junk = data.draw(st.text(max_size=20)) if how == "junk" else ""
        text = text[:i] + (text[i:j] * 2 if how == "repeat" else junk) + text[j:]
    for reader in (parse, parse_table, parse_csv):
        try:
            answer = reader(text)
        except BenchmarkTextError as error:
            assert str(error).isprintable()  # noqa: PT017
            continue
        seconds = [answer.seconds] if isinstance(answer, Outcome) else [n.seconds for n in answer]
        assert all(math.isfinite(s) and s >= 0 for s in seconds)
        assert not isinstance(answer, Outcome) or answer.seconds > 0


@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
@settings(max_examples=150, deadline=None)
def test_garbage(text):
    for reader in (parse, parse_table, parse_csv):
        with pytest.raises(BenchmarkTextError):
            reader(text)


@pytest.mark.parametrize("generation", ["classic_start", "delta", "classic"])
def test_op_table_columns_are_found_by_name(generation):
    nodes = parse_table(render(generation, RUN, profile=True))
    assert [n.kind for n in nodes] == [kind for kind, *_ in NODES]
    assert [n.seconds for n in nodes] == pytest.approx([us * 1e-6 for *_, us in NODES])
    assert nodes[1].name == "Delegate/Convolution (NHWC, QU8) IGEMM:0 #2", "names are made unique"
    assert len({n.name for n in nodes}) == 3


def test_op_table_times_called_and_lost_rows():
    text = render("classic", RUN, profile=True)
    assert parse_table(text.replace("\t1\t[tfl.quantize]:0", "\t4\t[tfl.quantize]:0"))[2].seconds == pytest.approx(
        812e-6
    )
    lines = text.splitlines()
    regular = next(i for i, line in enumerate(lines) if "Regular Benchmark Runs" in line)
    lost = next(i for i, line in enumerate(lines) if i > regular and "[tfl.quantize]" in line)
    with pytest.raises(BenchmarkTextError, match="2 rows, but 3 nodes observed"):
        parse_table("\n".join(lines[:lost] + lines[lost + 1 :]))
    with pytest.raises(BenchmarkTextError, match="does not end"):
        parse_table("\n".join(lines[: regular + 3]))
    with pytest.raises(BenchmarkTextError, match="op profiling"):
        parse_table(render("classic", RUN))


def test_op_table_as_csv_with_commas_in_the_type():
    text = (
        "node type, first, avg_ms, %, cdf%, mem KB, times called, name\n"
        "Convolution (NHWC, QU8) IGEMM, 0.267, 0.278, 3.783%, 3.783%, 0, 1, Delegate/Convolution IGEMM:0\n"
        "QUANTIZE, 0.199, 0.203, 1.328%, 1.328%, 0, 2, [tfl.quantize]:0\n"
    )
    nodes = parse_csv(text)
    assert [n.kind for n in nodes] == ["Convolution (NHWC, QU8) IGEMM", "QUANTIZE"]
    assert [n.seconds for n in nodes] == pytest.approx([278e-6, 406e-6])
