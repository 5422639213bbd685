"""The GPU's logic on a fake torch.cuda with a virtual clock; the real thing behind the marker `gpu`."""

from __future__ import annotations

import contextlib
import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import devices
from devices.base import DeviceError, DeviceUnavailable
from devices.cuda import POLL_S, CudaDevice
from devices.cuda_session import HOST_CALLS, MAX_CALLS, PROBE_CALLS, TRIES, WARM_CALLS
from devices.nvml import Clocks, Nvml
from devices.spec import DeviceSpec
from latency import profile
from latency.batches import waited_s
from latency.measure import Policy, Progress, Workload, prepare, run_rounds
from latency.modules import build, build_network
from latency.ops import Conv2d, Linear, mbconv

SHAPE = (1, 4, 16, 16)
BYTES = 4 * 16 * 16 * 4


class FakeCuda:
    """Work done while a graph is being captured is recorded, and passes when the graph is replayed.

    Each GPU has a clock of its own; an event tells that of the GPU which is current when it is recorded.
    """

    def __init__(self, l2_bytes=64 * BYTES, devices=1):
        self.clocks_s, self.current, self.recording = [0.0] * devices, 0, None
        self.properties = SimpleNamespace(
            name="Fake", L2_cache_size=l2_bytes, total_memory=2**30, major=8, minor=0, uuid="0"
        )
        self.devices, self.graphs = devices, []
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at_s = fake.clocks_s[fake.current]

            def synchronize(self):
                pass

            def elapsed_time(self, other):
                return (other.at_s - self.at_s) * 1e3

        class CUDAGraph:
            def __init__(self):
                self.work, self.of, self.captured = [], fake.current, ()
                fake.graphs.append(self)

            def replay(self):
                fake.clocks_s[self.of] += sum(self.work)

            def pool(self):
                assert self.captured, "a graph has a pool once it was captured"
                return self.captured[0] or self

        class Stream:
            def wait_stream(self, other):
                pass

        self.Event, self.CUDAGraph, self.Stream = Event, CUDAGraph, Stream

    def work(self, seconds):
        if self.recording is None:
            self.clocks_s[self.current] += seconds
        else:
            self.recording.work.append(seconds)

    def is_available(self):
        return True

    def device_count(self):
        return self.devices

    def get_device_properties(self, index):
        return self.properties

    def current_stream(self):
        return self.Stream()

    def synchronize(self):
        pass

    @contextlib.contextmanager
    def stream(self, stream):
        yield

    @contextlib.contextmanager
    def device(self, index):
        before, self.current = self.current, index
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        self.recording, graph.captured = graph, (pool, stream)
        yield
        self.recording = None


class Busy(nn.Module):
    """Takes `seconds` of the fake GPU and remembers where its inputs lay."""

    def __init__(self, cuda, seconds):
        super().__init__()
        self.cuda, self.seconds, self.seen = cuda, seconds, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.cuda.work(self.seconds)
        self.seen.append((x.data_ptr(), x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        return x


def opened(cuda, nvml=None, **options):
    sleeps: list[float] = []
    device = CudaDevice(DeviceSpec("gpu", "cuda", "", options), cuda, "cpu", nvml, sleeps.append)
    device.sleeps = sleeps
    return device


def test_seconds_are_those_of_the_graph_whatever_the_loops():
    cuda = FakeCuda()
    session = opened(cuda).prepare(Busy(cuda, 3e-6), SHAPE)
    for loops in (1, 7, 1000):
        assert session.time_s(loops) == pytest.approx(3e-6 * loops)
    assert session.node_times_s(2) == {}
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.time_s(1)


def test_cold_inputs_rotate_over_four_times_the_l2_and_warm_ones_stay():
    for cache, distinct in (("cold", 4 * 64), ("warm", 1)):
        cuda = FakeCuda()
        module = Busy(cuda, 1e-5)
        session = opened(cuda, cache=cache).prepare(module, SHAPE)
        begin = WARM_CALLS + PROBE_CALLS
        graph = module.seen[begin : begin + session.notes()["calls"]]
        assert len(module.seen) == begin + len(graph) + HOST_CALLS
        assert len({place for place, _, _ in graph}) == min(distinct, len(graph))
        assert sum(cuda.graphs[1].work) >= 200e-6
        if cache == "cold":
            assert len(graph) * BYTES >= 4 * cuda.properties.L2_cache_size
        assert session.cache_state == cache
        assert not session.flushes


@pytest.mark.parametrize("channels", [4, 16])
def test_inputs_too_small_to_push_each_other_out_of_l2_find_it_emptied(channels, monkeypatch):
    """1024 calls of 4 KB do not fill an L2 of 2 MB: before every replay other memory is read, outside the events."""
    cuda, log = FakeCuda(l2_bytes=2 * 2**20), []
    device, module, shape = opened(cuda), Busy(cuda, 1e-6), (1, channels, 16, 16)
    session = device.prepare(module, shape)
    graph = module.seen[WARM_CALLS + PROBE_CALLS :][: session.notes()["calls"]]
    flush, record, replay = CudaDevice.flush, cuda.Event.record, cuda.CUDAGraph.replay
    for cls, name, old in (
        (CudaDevice, "flush", flush),
        (cuda.Event, "record", record),
        (cuda.CUDAGraph, "replay", replay),
    ):
        monkeypatch.setattr(cls, name, lambda self, name=name, old=old: log.append(name) or old(self))
    loops = 2 * len(graph) + 1
    assert session.time_s(loops) == pytest.approx(1e-6 * loops)
    small = channels == 4
    assert session.flushes is session.notes()["flushes"] is small
    once = ["flush", "record", "replay", "record"]
    assert log == (once * 3 if small else ["record", *["replay"] * 3, "record"])
    if small:
        assert len({place for place, _, _ in graph}) == len(graph), "no input comes twice between two"
        other = device._other
        assert other.numel() * other.element_size() >= 4 * cuda.properties.L2_cache_size
        assert other.data_ptr() != device._arena.data_ptr()


def test_a_graph_is_neither_endless_nor_slow():
    cuda = FakeCuda(l2_bytes=10**9 // 64)
    assert opened(cuda).prepare(Busy(cuda, 1e-6), SHAPE).notes()["calls"] == MAX_CALLS
    slow = opened(FakeCuda()).cuda
    assert opened(slow).prepare(Busy(slow, 0.02), SHAPE).notes()["calls"] == 2


def test_an_op_that_takes_longer_to_launch_than_to_run_fills_its_graph_all_the_same():
    """Eager calls last as long as their launches: only a graph tells how many calls make 200 us."""
    cuda = FakeCuda()

    class Launched(Busy):
        def forward(self, x):
            cuda.work(self.seconds if cuda.recording is not None else 50e-6)
            return x

    opened(cuda, cache="warm").prepare(Launched(cuda, 2e-6), SHAPE)
    assert sum(cuda.graphs[1].work) == pytest.approx(200e-6)


def test_a_second_gpu_is_timed_by_events_of_its_own():
    cuda = FakeCuda(devices=2)
    session = opened(cuda, index=1).prepare(Busy(cuda, 3e-6), SHAPE)
    assert session.time_s(10) == pytest.approx(3e-5)
    assert cuda.current == 0
    assert cuda.clocks_s[0] == 0


def test_all_graphs_share_the_memory_of_the_first():
    """torch: graphs share a pool while one of them lives, and only if they were captured on one stream."""
    cuda = FakeCuda()
    device = opened(cuda)
    device.prepare(Busy(cuda, 1e-5), SHAPE).close()
    device.prepare(Busy(cuda, 1e-5), SHAPE)
    pools, streams = zip(*[g.captured for g in cuda.graphs], strict=True)
    assert pools[0] is None
    assert set(pools[1:]) == {cuda.graphs[0]}
    assert len(set(streams)) == 1


def test_sessions_share_one_arena():
    cuda = FakeCuda()
    device, one, two = opened(cuda), Busy(cuda, 1e-5), Busy(cuda, 1e-5)
    device.prepare(one, SHAPE)
    device.prepare(two, SHAPE)
    assert {p for p, _, _ in one.seen} == {p for p, _, _ in two.seen}


@pytest.mark.parametrize(
    ("options", "dtype", "channels_last"),
    [
        ({"precision": "fp16"}, torch.float16, False),
        ({"precision": "bf16", "channels_last": True}, torch.bfloat16, True),
        ({"precision": "tf32"}, torch.float32, False),
    ],
)
def test_precision_and_layout_reach_the_module(options, dtype, channels_last):
    cuda = FakeCuda()
    module = Busy(cuda, 1e-5)
    opened(cuda, **options).prepare(module, SHAPE)
    assert {(d, c) for _, d, c in module.seen} == {(dtype, channels_last)}


def test_tf32_is_set_while_running_and_put_back():
    cuda, seen = FakeCuda(), []

    class Asks(Busy):
        def forward(self, x):
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return super().forward(x)

    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    opened(cuda, precision="tf32").prepare(Asks(cuda, 1e-5), SHAPE)
    assert set(seen) == {(True, True)}
    seen.clear()
    opened(cuda).prepare(Asks(cuda, 1e-5), SHAPE)
    assert set(seen) == {(False, False)}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


class FakeNvml:
    def __init__(self, *reasons):
        self.reasons = list(reasons)

    mhz = itertools.repeat(1000)

    def clocks(self):
        return Clocks(next(self.mhz), 800, self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0])

    def driver(self):
        return "1"


def test_throttled_batches_are_taken_again_when_it_has_cooled():
    cuda = FakeCuda()
    device = opened(cuda, FakeNvml(0x0, 0x20, 0x40, 0x0))
    told: list[str] = []
    device.tell = told.append
    session = device.prepare(Busy(cuda, 1e-5), SHAPE)
    assert session.time_s(10) == pytest.approx(1e-4)
    assert device.sleeps == [POLL_S, POLL_S]
    assert device.waited_s == 2 * POLL_S
    assert told == [
        f"gpu: the GPU throttles (thermal slowdown ({kind})): waiting for it to cool down"
        for kind in ("software", "hardware")
    ]
    assert session.notes()["throttled_batches"] == 1
    assert device.describe()["throttling"] == "watched"


def test_a_gpu_that_does_not_cool_is_unavailable_and_a_power_cap_is_no_heat():
    cuda = FakeCuda()
    device = opened(cuda, FakeNvml(0x20))
    with pytest.raises(
        DeviceUnavailable, match=r"thermal slowdown \(software\)\) for 900 s on end: see to its cooling"
    ):
        device.prepare(Busy(cuda, 1e-5), SHAPE).time_s(10)
    flutters = opened(cuda, FakeNvml(*[0x20, 0x20, 0x0] * TRIES))
    with pytest.raises(DeviceUnavailable, match=rf"throttles within one batch, {TRIES} times running"):
        flutters.prepare(Busy(cuda, 1e-5), SHAPE).time_s(10)
    capped = opened(cuda, FakeNvml(0x4)).prepare(Busy(cuda, 1e-5), SHAPE)
    assert capped.time_s(1) > 0
    assert capped.notes()["clocks"] == ["power cap"]


def test_clocks_are_those_of_the_batches_not_of_the_idle_gpu_afterwards():
    cuda = FakeCuda()
    nvml = FakeNvml(0x4, 0x0, 0x2, 0x0, 0x0, 0x0, 0x1)
    nvml.mhz = iter([1400, 1, 1200, 1, 1300, 1, 210])
    session = opened(cuda, nvml).prepare(Busy(cuda, 1e-5), SHAPE)
    assert "clocks" not in session.notes()
    for _ in range(3):
        session.time_s(3)
    nvml.mhz = iter([210])
    notes = session.notes()
    assert notes["sm_mhz_low_median_high"] == [1200, 1300, 1400]
    assert notes["memory_mhz_low_median_high"] == [800] * 3
    assert notes["clocks"] == ["application clocks", "power cap"]


def test_heat_costs_neither_workloads_nor_budget():
    """The GPU is hot every now and then: all are measured, and the waiting is not taken from the budget."""
    cuda = FakeCuda()
    device = opened(cuda, FakeNvml(*[*[0x0] * 40, 0x20, 0x20] * 400, 0x0))
    todo = [Workload(f"w{i}", "op", lambda i=i: Busy(cuda, 1e-5 * (i + 1)), SHAPE) for i in range(3)]
    sessions, _ = prepare(device, todo, lambda *_: None)
    done: list[str] = []
    failed: list[str] = []
    run_rounds(
        sessions, todo, Policy(max_rounds=30), random.Random(0), Progress(), report=lambda *_: None,
        on_round=lambda *_: None, on_done=lambda m: done.append(m.key), on_failed=lambda key, _: failed.append(key),
    )  # fmt: skip
    assert sorted(done) == ["w0", "w1", "w2"]
    assert failed == []
    assert device.waited_s > 0
    assert waited_s(sessions) == device.waited_s


def test_a_gpu_that_stops_telling_its_clocks_is_a_device_error():
    class Lost(FakeNvml):
        def clocks(self):
            raise OSError("nvmlDeviceGetClockInfo returned 15")

    cuda = FakeCuda()
    with pytest.raises(DeviceError, match=r"no longer tells its clocks .*returned 15"):
        opened(cuda, Lost()).prepare(Busy(cuda, 1e-5), SHAPE).time_s(1)


def test_node_times_are_those_of_the_submodules():
    cuda = FakeCuda()
    net = nn.Sequential(Busy(cuda, 1e-5), Busy(cuda, 3e-5))
    found = opened(cuda).prepare(net, SHAPE).node_times_s(4)
    assert found == {"0": pytest.approx(1e-5), "1": pytest.approx(3e-5)}
    assert not net[0]._forward_hooks


def test_what_the_gpu_refuses_is_a_device_error():
    cuda = FakeCuda()

    class Big(Busy):
        def forward(self, x):
            raise torch.cuda.OutOfMemoryError("out of\nmemory")

    with pytest.raises(DeviceError, match="gpu: out of memory"):
        opened(cuda).prepare(Big(cuda, 1.0), SHAPE)


def test_options_are_checked():
    for options, says in (
        ({"precision": "int4"}, "one of fp32, tf32, fp16, bf16"),
        ({"cache": "hot"}, "one of cold, warm"),
        ({"index": 3}, "there are 1 CUDA devices"),
        ({"streams": 2}, "unknown option 'streams'"),
    ):
        with pytest.raises(devices.UserError, match=says):
            opened(FakeCuda(), **options)
    with pytest.raises(DeviceUnavailable, match=r'does not tell the size of its L2 cache.*cache = "warm"'):
        opened(FakeCuda(l2_bytes=0))
    assert opened(FakeCuda(l2_bytes=0), cache="warm").l2_bytes == 0


@pytest.mark.parametrize(
    "reading", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_nvml_reads_and_names_failures(reading):
    """Drivers of before 2023 have the second name only; it is deprecated in the others."""

    class Library:
        def __getattr__(self, name):
            def call(*args):
                if name == "nvmlDeviceGetClockInfo":
                    args[-1]._obj.value = 1500 if args[1].value == 1 else 900
                if name == reading:
                    args[-1]._obj.value = 0x44
                return 0

            if name.startswith("nvmlDeviceGetCurrentClocks") and name != reading:
                raise AttributeError(name)

            return call

    clocks = Nvml("GPU-0", Library()).clocks()
    assert clocks == Clocks(1500, 900, 0x44)
    assert clocks.throttled
    assert clocks.names == ["power cap", "thermal slowdown (hardware)"]

    class Broken:
        def __getattr__(self, name):
            return lambda *args: 9

    with pytest.raises(OSError, match="nvmlInit_v2 returned 9"):
        Nvml("GPU-0", Broken())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_profile_says_why_and_exits_with_2(tmp_path, capsys):
    assert profile.main(["--device", "gpu", "--out", str(tmp_path / "gpu.csv")]) == 2
    said = capsys.readouterr()
    assert "needs an NVIDIA GPU and a torch with CUDA" in said.err
    assert len(said.err.strip().splitlines()) == 1


@pytest.fixture
def gpu():
    try:
        return devices.load("gpu")
    except DeviceUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.gpu
def test_real_gpu(gpu):
    """Larger ops take longer, a chain takes longer than its parts, and its parts are told apart."""
    small, large = (mbconv(c, c, 56, kernel=3, stride=1, expand=6) for c in (16, 96))
    times = {op: gpu.prepare(build(op), op.input_shape).time_s(200) / 200 for op in (small, large)}
    assert 0 < times[small] < times[large]
    chain = [
        Conv2d(in_channels=3, out_channels=16, height=112, width=112, kernel=3, stride=2),
        small,
        Linear(in_channels=16, out_channels=10, height=56, width=56),
    ]
    session = gpu.prepare(build_network(chain), chain[0].input_shape)
    whole = session.time_s(200) / 200
    assert whole > times[small]
    assert set(session.node_times_s(5)) == {"0", "1", "2"}
    assert session.notes()["eager_host_s"] > 0
