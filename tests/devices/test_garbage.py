"""Whatever a phone, a kernel or a file says: an answer or an error with a name. The text of one benchmark_model run is
in test_benchmark_text.py, that of one phone in test_phone_text.py; here is what lies around them."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devices.adb_states import PhoneError, choose, parse_devices
from devices.base import DeviceError, DeviceUnavailable
from devices.benchmark_binary import elf_abi
from devices.benchmark_lines import BenchmarkTextError
from devices.benchmark_text import Outcome, parse
from devices.errors import UserError
from devices.onnx_cpu import parse_cpuinfo
from devices.op_table import parse_csv, parse_table
from devices.phone_batch import Job, clock_mhz, read_batch
from devices.phone_options import check_options
from devices.phone_state import (
    parse_battery,
    parse_clusters,
    parse_free,
    parse_heat,
    parse_props,
    parse_time_in_state,
    read_facts,
)
from devices.spec import read
from tests.devices.texts import Run, render

JOBS = [Job("a.tflite", 5, 60.0), Job("b.tflite", 5, 60.0)]
RUN = Run([41000, 31000], [21000, 22500, 20100, 20900, 25000])
CLOCKS = "300000 1000\n1900800 {}\n"
BATCH = "@@before\n" + CLOCKS.format(500)
for job in JOBS:
    BATCH += f"\n@@job {job.file}\n{render('classic', RUN)}\n@@stderr\nINFO: x\n\n@@end {job.file} 0\n"
BATCH += "@@after\n" + CLOCKS.format(900) + "@@done\n"
HUGE = "9" * 5000  # int() refuses more than 4300 digits
anything = st.text(st.characters(codec="utf-8"), max_size=120)


def test_a_whole_batch_is_read():
    found = read_batch(BATCH, JOBS, "xnnpack")
    assert {k: v.seconds for k, v in found.items()} == {j.file: pytest.approx(0.021) for j in JOBS}
    assert clock_mhz(BATCH) == pytest.approx(1900.8)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_garbled_batch_tells_no_wrong_seconds(data):
    """Pieces cut out, repeated, overwritten: each model has its seconds, an error, or is absent and runs again."""
    text = BATCH
    for _ in range(data.draw(st.integers(1, 3))):
        i, j = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        j = min(j, i + 300)
        how = data.draw(st.sampled_from(["cut", "repeat", "junk"]))
        junk = data.draw(anything) if how == "junk" else ""
        text = text[:i] + (text[i:j] * 2 if how == "repeat" else junk) + text[j:]
    found = read_batch(text, JOBS, "xnnpack")
    assert set(found) <= {j.file for j in JOBS}
    for outcome in found.values():
        if isinstance(outcome, Outcome):
            assert 0 < outcome.seconds < math.inf
        else:
            assert isinstance(outcome, DeviceError)
            assert str(outcome).isprintable()
    mhz = clock_mhz(text)
    assert mhz is None or 0 < mhz < math.inf


@given(anything)
def test_a_batch_of_anything(text):
    assert read_batch(text, JOBS, "gpu") == {}
    clock_mhz(text)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda b: b"\x7fELF" + b)))
def test_a_binary_of_anything(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "binary"
    path.write_bytes(content)
    abi = elf_abi(path)
    assert abi is None or abi.isprintable()


@given(st.one_of(st.binary(max_size=80), anything.map(lambda s: f"runtime = 'android'\n[options]\n{s}".encode())))
@example(b"runtime = 'android'\n[options]\nthreads = " + HUGE.encode())
@example(b"runtime = " + b"[" * 3000)
@example(b"runtime = ['android']")
@example(b"runtime = 'android'\noptions = 3")
@settings(deadline=None)
def test_a_device_file_of_anything(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    try:
        check_options(read(path))
    except UserError as error:
        assert "any.toml" in str(error)  # noqa: PT017


@pytest.mark.filterwarnings("ignore:passed over")
@given(anything)
@example("\x1b a")
def test_any_listing_can_be_chosen_from_or_is_an_error(text):
    try:
        choose(parse_devices(text))
    except (PhoneError, DeviceUnavailable) as error:
        assert str(error).isprintable()  # noqa: PT017


@given(st.one_of(anything, anything.map(lambda s: f"processor : 0\nmodel name\t: {s}\nflags : x\n")))
def test_any_cpuinfo_has_a_name_or_none(text):
    assert "\n" not in parse_cpuinfo(text)


def test_the_name_in_cpuinfo():
    assert parse_cpuinfo("processor\t: 0\nmodel name\t: AMD  EPYC\nmodel name\t: other\n") == "AMD EPYC"
    assert parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 38.40\n") == ""


@pytest.mark.filterwarnings("ignore:passed over")
@pytest.mark.parametrize(
    "text",
    [
        f"count={HUGE} curr=5(all same)\nInference timings in us: Init: 1, Inference (avg): 5\n",
        f"count=5 curr={HUGE}(all same)\nInference timings in us: Init: 1, Inference (avg): {HUGE}\n",
        f"BENCHMARK RESULTS\nInference (avg):  1.00 ms ({HUGE} runs)\nInference (std): 1\n",
        f"0 1|{HUGE}|x\n",
        f"{HUGE}|1000|x\n",
        f"0-{HUGE}|1000|x\n",
        f"Thermal Status: {HUGE}\n",
        f"level: {HUGE}\ntemperature: {HUGE}\n",
        f"a b c {HUGE} e f\n",
        f"{HUGE} {HUGE}\n",
        f"[ro.build.version.sdk]: [{HUGE}]\n",
        f"@@job a.tflite\n@@stderr\n@@end a.tflite {HUGE}\n",
    ],
)
def test_numbers_of_thousands_of_digits(text):
    """Python's int() raises a ValueError of its own there."""
    for reader in (
        parse, parse_table, parse_csv, parse_devices, parse_props, parse_clusters, parse_heat, parse_battery,
        parse_free, parse_time_in_state, read_facts, clock_mhz, lambda t: read_batch(t, JOBS, "cpu"),
    ):  # fmt: skip
        try:
            reader(text)
        except (BenchmarkTextError, PhoneError) as error:
            assert str(error).isprintable()  # noqa: PT017
