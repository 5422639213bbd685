"""Fixtures: a private adb server, and test phones attached to it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.adb import Adb, find_adb
from devices.adb_states import PhoneUnavailable
from devices.android import AndroidDevice
from devices.spec import DeviceSpec
from tests.devices.phone import Phone, Processor


@pytest.fixture(scope="session")
def adb_server(adb_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adb]:
    """The real adb with a server on a port of its own, ended afterwards. Skips where there is no adb."""
    try:
        binary = find_adb()
    except PhoneUnavailable as reason:
        pytest.skip(str(reason))
    home = {"HOME": str(tmp_path_factory.mktemp("adb_home"))}  # the server makes a key there on its first start
    subprocess.run([binary, "start-server"], env={**os.environ, **home}, check=True, capture_output=True)
    yield Adb(binary)
    subprocess.run([binary, "kill-server"], capture_output=True, timeout=20)


@pytest.fixture(scope="session")
def processor() -> Iterator[Callable[[], Processor]]:
    """Starts the processor of the test phones on first use, and again should it have crashed."""
    started: list[Processor] = []

    def get() -> Processor:
        if importlib.util.find_spec("ai_edge_litert") is None:
            pytest.skip("ai-edge-litert is not installed: the test phone cannot run models")
        if not started or started[-1].process.poll() is not None:
            started.append(Processor())
        return started[-1]

    yield get
    for one in started:
        one.close()


@pytest.fixture
def make_phone(adb_server: Adb, processor: Callable[[], Processor]) -> Iterator[Callable[..., Phone]]:
    """`make_phone(bench=True, model=...)`: a phone attached to the server; all are detached afterwards."""
    phones: list[Phone] = []

    def make(bench: bool = True, connect: bool = True, **names: str) -> Phone:
        phone = Phone(processor().socket if bench else "", **names)
        phones.append(phone)
        if connect:
            adb_server.call("connect", phone.serial, to_phone=False)
        return phone

    yield make
    for phone in phones:
        phone.close()
    adb_server.call("disconnect", to_phone=False)


@pytest.fixture
def phone(make_phone: Callable[..., Phone]) -> Phone:
    """One phone with a processor."""
    return make_phone()


@pytest.fixture
def open_phone(adb_server: Adb) -> Iterator[Callable[..., AndroidDevice]]:
    """`open_phone(phone, threads=2, ...)`: the device behind a phone, with times short enough for tests."""
    opened: list[AndroidDevice] = []

    def make(phone: Phone, **options: object) -> AndroidDevice:
        options = {"benchmark_model": str(phone.binary), "warmup_s": 0.0, **options}
        device = AndroidDevice(DeviceSpec("test", "android", "", options), Adb(adb_server.binary, phone.serial))
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four small .tflite files of different lengths of work, really converted where the converter is there."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    from tests.devices.tflite_files import convolution

    folder = tmp_path_factory.mktemp("models")
    return [convolution(folder / f"{size}.tflite", size) for size in (16, 24, 32, 48)]
