"""Phones through the real adb: models pushed and timed on the test phone, and every fault that a phone can show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from devices import convert
from devices.adb import Adb
from devices.adb_states import PhoneUnavailable
from devices.base import Device, DeviceError, Session
from devices.benchmark_delegates import DelegateFallback
from devices.phone_group import PhoneGroup
from tests.conftest import ROOT
from tests.devices.texts import GENERATIONS

SETTINGS = {"global.low_power": "1", "global.stay_on_while_plugged_in": "", "deviceidle": "1"}


def settings_of(phone):
    return {name: phone.read(name) for name in SETTINGS}


def test_contract(phone, open_phone, models):
    device = open_phone(phone)
    assert isinstance(device, Device)
    fingerprint = device.describe()
    assert fingerprint == device.describe()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert (fingerprint["model"], fingerprint["mask"], fingerprint["governor"]) == ("Pixel 2", "f0", "interactive")
    assert fingerprint["converter"] == convert.versions("fp32")
    assert phone.serial not in json.dumps(fingerprint), "phones of one model and build share a table"
    session = device.session(models[0])
    assert isinstance(session, Session)
    assert session.time_s(1) > 0
    assert session.time_s(5) > 0
    flags = phone.invocations()[-1]
    for flag in ("--num_runs=5", "--min_secs=0", "--num_threads=1", "--use_xnnpack=true", "--warmup_runs=1"):
        assert flag in flags
    assert set(phone.read("taskset.log").split()) == {"f0"}, "toybox's taskset takes hex without 0x"
    assert device.state()["serial"] == phone.serial
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.time_s(1)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_of_the_binary(phone, open_phone, models, generation):
    phone.set(generation=generation)
    if generation == "litert_python":
        phone.set(slow=50.0)  # two decimals of a ms
    device = open_phone(phone)
    assert device.session(models[3]).time_s(4) > 0
    assert device.state()["text"].startswith("litert" if "litert" in generation else "classic")


def test_many_models_in_one_shell_call_and_nothing_pushed_twice(phone, open_phone, models):
    device = open_phone(phone)
    sessions = [device.session(m) for m in models] + [device.session(models[0])]
    assert len(list((phone.root / "data/local/tmp/metronome/m").iterdir())) == len(models)
    device.time_many(sessions, [2] * 5)
    before = len(phone.adbd.opened)
    times = device.time_many(sessions, [3] * 5)
    assert all(isinstance(t, float) and t > 0 for t in times)
    opened = phone.adbd.opened[before:]
    assert sum("benchmark_model" in name for name in opened) == 1, "all models in one call"
    assert len(opened) == 3, "beside it: heat before and after"
    device.close()
    again = open_phone(phone)
    before = len(phone.adbd.opened)
    for model in models:
        again.session(model)
    assert "sync:" not in phone.adbd.opened[before:], "what is there is not pushed again"
    broken = next((phone.root / "data/local/tmp/metronome/m").iterdir())
    broken.unlink()  # not in place: the processor has it mapped
    broken.write_bytes(b"half")
    third = open_phone(phone)
    assert all(third.session(m).time_s(1) > 0 for m in models), "a file that is not what its name says is replaced"


def test_larger_models_take_longer(phone, open_phone, models):
    device = open_phone(phone)
    small, large = device.session(models[0]), device.session(models[3])
    assert min(large.time_s(20) for _ in range(3)) > min(small.time_s(20) for _ in range(3))


def test_op_table_of_a_model(phone, open_phone, models):
    device = open_phone(phone)
    times = device.session(models[0]).kernels_s(3)
    assert [kind for kind, _ in times] == ["CONV_2D"]
    assert all(s > 0 for _, s in times)
    phone.set(generation="litert_python", slow=500.0)
    with pytest.raises(DeviceError, match="no 'Run Order' table"):
        device.session(models[0]).kernels_s(3)
    phone.set(generation="classic", unknown=["enable_op_profiling"])
    with pytest.raises(DeviceError, match="does not know --enable_op_profiling=true"):
        device.session(models[0]).kernels_s(3)


def test_a_phone_that_drops_in_the_middle_comes_back(phone, open_phone, models):
    device = open_phone(phone)
    sessions = [device.session(m) for m in models]
    device.time_many(sessions, [2] * 4)
    told: list[str] = []
    device.tell = told.append
    before = len(phone.invocations())
    phone.set(faults={"*": {"sleep": 0.15}})
    cut = phone.when(3, lambda: phone.drop_for(0.5))
    times = device.time_many(sessions, [2] * 4)
    cut.join()
    assert all(isinstance(t, float) and t > 0 for t in times), "nothing is lost"
    run = phone.invocations()[before:]
    names = [line.split("m/")[1].split("'")[0] for line in run]
    assert len(run) == 5, "only the model that was cut off runs again"
    assert names[0] not in names[1:]
    assert any("going on when it is back" in line for line in told)


def test_a_phone_that_stays_away_ends_the_run_with_what_to_do(phone, open_phone, models, monkeypatch):
    monkeypatch.setattr(Adb.wait, "__defaults__", (1.0, lambda text: None))
    device = open_phone(phone)
    session = device.session(models[0])
    phone.set(faults={"*": {"sleep": 0.3}})
    phone.when(1, phone.adbd.drop)
    with pytest.raises(PhoneUnavailable, match="what was measured is kept"):
        session.time_s(2)


def test_adb_server_killed_in_the_middle(phone, open_phone, models, adb_server, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # the server that is started anew makes its key there
    device = open_phone(phone)
    sessions = [device.session(m) for m in models[:2]]
    device.time_many(sessions, [2, 2])
    phone.set(faults={"*": {"sleep": 0.2}})
    kill = phone.when(1, lambda: adb_server.call("kill-server", to_phone=False))
    times = device.time_many(sessions, [2, 2])
    kill.join()
    assert all(isinstance(t, float) for t in times)


def test_a_model_that_crashes_fails_alone(phone, open_phone, models):
    device = open_phone(phone)
    sessions = [device.session(m) for m in models]
    phone.set(faults={sessions[1].file: {"signal": signal.SIGSEGV}})
    times = device.time_many(sessions, [2] * 4)
    assert isinstance(times[1], DeviceError)
    assert "139: segmentation fault" in str(times[1])
    assert [isinstance(t, float) for t in times] == [True, False, True, True]
    assert sum(sessions[1].file in line for line in phone.invocations()) == 2, "it is tried once more"


def test_out_of_memory(phone, open_phone, models):
    device = open_phone(phone)
    session = device.session(models[0])
    phone.set(faults={"*": {"signal": signal.SIGKILL}})
    with pytest.raises(DeviceError, match="137: killed, most often out of memory"):
        session.time_s(1)


def test_a_binary_for_another_processor(make_phone, open_phone, models, tmp_path):
    phone = make_phone(bench=False)
    binary = tmp_path / "benchmark_model"
    # says aarch64, as the phone does, so that the check before the push lets it through; this host cannot run it
    binary.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00\x01\x00\x00\x00" + bytes(100))
    device = open_phone(phone, benchmark_model=str(binary))
    session = device.session(models[0])
    with pytest.raises(PhoneUnavailable, match=r"does not run on this phone \(126: not executable, .* \(ABI\)\)"):
        session.time_s(1)


def test_storage_full(phone, open_phone, models):
    device = open_phone(phone)
    device.session(models[0])
    phone.adbd.space = phone.adbd.used() + 100
    with pytest.raises(PhoneUnavailable, match=r"no space left for .* free some storage on the phone and run the same"):
        device.session(models[1])
    assert not (phone.root / "data/local/tmp/metronome/part").exists(), "the half file does not stay"
    phone.adbd.space = 1 << 40
    assert device.session(models[1]).time_s(1) > 0


@pytest.mark.parametrize("fault", [{"garbage": True}, {"cut": 0.5}, {"cut": 0.0}])
def test_garbage_and_half_cut_output(phone, open_phone, models, fault):
    device = open_phone(phone)
    sessions = [device.session(m) for m in models[:2]]
    phone.set(faults={sessions[0].file: fault})
    times = device.time_many(sessions, [3, 3])
    assert isinstance(times[0], DeviceError)
    assert str(times[0]).isprintable()
    assert isinstance(times[1], float)
    phone.set(faults={sessions[1].file: {**fault, "times": 1}})
    assert isinstance(device.time_many(sessions[1:], [3])[0], float), "once is a hiccup: it is tried again"


def test_fallback_to_the_cpu_is_refused(phone, open_phone, models):
    device = open_phone(phone, delegate="gpu")
    session = device.session(models[0])
    assert session.time_s(1) > 0
    phone.set(fallback=True)
    with pytest.raises(DeviceError, match="the GPU delegate runs nothing of the model: silent fallback to the CPU"):
        session.time_s(1)


def test_xnnpack_that_takes_nothing_is_refused(phone, open_phone, models):
    """The program goes on with the reference kernels and exits with 0."""
    phone.set(fallback=True)
    with pytest.raises(DelegateFallback, match=r"the XNNPACK delegate runs nothing of the model: .*reference kernels"):
        open_phone(phone).session(models[0]).time_s(1)
    assert open_phone(phone, delegate="cpu").session(models[0]).time_s(1) > 0
    phone.set(generation="litert", slow=500.0)
    with pytest.raises(DelegateFallback, match="XNNPACK"):
        open_phone(phone).session(models[0]).time_s(1)


def test_threads_that_are_not_bound_are_told_of(phone, open_phone, models):
    for file in (phone.root / "sys/devices/system/cpu/cpufreq").glob("*/cpuinfo_max_freq"):
        file.unlink()
    told: list[str] = []
    for options in ({}, {"cluster": "all"}):
        device = open_phone(phone, **options)
        device.tell = told.append
        device.session(models[0])
    assert told == [f"phone {phone.serial}: threads are not bound to cores, expect wide intervals"], (
        "not where asked for"
    )


@pytest.mark.parametrize("old", [False, True])
def test_the_clock_that_the_cores_had(phone, open_phone, models, old):
    if old:
        phone.age()
    device = open_phone(phone)
    assert [c.mask for c in device.facts.clusters] == [0xF, 0xF0]
    assert device.state()["mhz_low_median_high"] is None
    session = device.session(models[0])
    for _ in range(2):
        session.time_s(2)
    assert device.state()["mhz_low_median_high"] == [2458] * 3


def test_a_flag_that_the_binary_ignores_is_refused(phone, open_phone, models):
    phone.set(unknown=["use_xnnpack"])
    device = open_phone(phone)
    with pytest.raises(PhoneUnavailable, match="does not know --use_xnnpack=true and would measure something else"):
        device.session(models[0]).time_s(1)
    assert open_phone(phone, delegate="default").session(models[0]).time_s(1) > 0


def test_throttling_waits_until_it_is_cool(phone, open_phone, models):
    device = open_phone(phone)
    session = device.session(models[0])
    runner = device.ready()
    runner.poll_s = 0.01
    told: list[str] = []
    device.tell = told.append
    phone.write(thermal="3 3 3 0")
    assert session.time_s(2) > 0
    assert told == [f"phone {phone.serial} is hot (thermal status 3, AP 26 C): waiting for it to cool down"] * 3
    before = len(phone.invocations())
    phone.write(thermal="0 3 3 0")  # hot when the batch ends: it is taken again
    assert session.time_s(2) > 0
    assert len(phone.invocations()) == before + 2
    phone.write(thermal="4")
    runner.cool_s = 0.05
    with pytest.raises(PhoneUnavailable, match=r"stays hot \(thermal status 4, AP 26 C\).*take it out of its case"):
        session.time_s(2)


def test_without_a_thermal_service_the_battery_tells(phone, open_phone, models):
    phone.write(no_thermalservice="", battery="470")
    device = open_phone(phone)
    session = device.session(models[0])
    device.ready().cool_s, device.ready().poll_s = 0.05, 0.01
    with pytest.raises(PhoneUnavailable, match="stays hot"):
        session.time_s(1)
    phone.write(battery="300")
    assert session.time_s(1) > 0


def test_settings_are_put_back(phone, open_phone, models):
    assert settings_of(phone) == SETTINGS
    device = open_phone(phone, fixed_performance=True)
    device.session(models[0]).time_s(1)
    assert settings_of(phone) == {"global.low_power": "0", "global.stay_on_while_plugged_in": "7", "deviceidle": "0"}
    assert phone.read("fixed") == "true"
    device.close()
    assert settings_of(phone) == SETTINGS
    assert phone.read("fixed") == "false"
    assert device.session(models[0]).time_s(1) > 0, "it may be used again"


def test_settings_are_put_back_after_a_crash(phone, open_phone, models):
    """The first session never gets to its end; the next one finds the way back on the phone, and takes it first."""
    crashed = open_phone(phone)
    crashed.session(models[0]).time_s(1)
    assert settings_of(phone) != SETTINGS
    assert (phone.root / "data/local/tmp/metronome/restore.sh").read_text().count("\n") == 3
    crashed._runner, crashed._keeper = None, None
    device = open_phone(phone)
    device.session(models[0]).time_s(1)
    device.close()
    assert settings_of(phone) == SETTINGS, "not the values that the crash left behind"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_settings_are_put_back_when_the_process_ends(phone, open_phone, models, adb_server, how):
    """In the middle of timing, in a process of its own: Ctrl-C, and a kill that leaves it to the next session."""
    code = (
        "import sys, pathlib, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "from devices.adb import Adb\nfrom devices.android import AndroidDevice\nfrom devices.spec import DeviceSpec\n"
        f"spec = DeviceSpec('test', 'android', '', {{'benchmark_model': {str(phone.binary)!r}, 'warmup_s': 0.0}})\n"
        f"device = AndroidDevice(spec, Adb(pathlib.Path({str(adb_server.binary)!r}), {phone.serial!r}))\n"
        f"session = device.session(pathlib.Path({str(models[0])!r}))\n"
        "while True: session.time_s(2)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, env=dict(os.environ))
    phone.when(2, lambda: running.send_signal(how)).join()
    running.wait(30)
    assert len(phone.invocations()) >= 2
    if how == signal.SIGKILL:
        assert settings_of(phone) != SETTINGS
        device = open_phone(phone)
        assert device.session(models[0]).time_s(1) > 0
        device.close()
    assert settings_of(phone) == SETTINGS


def test_no_fixed_performance_mode(phone, open_phone, models):
    phone.write(no_fixed="")
    with pytest.raises(DeviceError, match="fixed_performance = false"):
        open_phone(phone, fixed_performance=True).session(models[0])


def test_a_phone_of_another_model_is_refused(make_phone, open_phone):
    phone = make_phone(bench=False, model="Pixel 6")
    with pytest.raises(PhoneUnavailable, match="is a 'Pixel 6', device test is for Pixel 2"):
        open_phone(phone, models=["Pixel 2"])


def test_two_phones_share_the_work(make_phone, open_phone, models):
    phones = [make_phone(), make_phone()]
    group = PhoneGroup([open_phone(p) for p in phones])
    sessions = [group.session(m) for m in models] * 4
    seen = set()
    for _ in range(3):
        columns = group.time_round(sessions, [2] * 16)
        assert sorted(i for column in columns for i, _ in column) == [*range(16)], "each workload once a round"
        assert len(columns) == 2
        seen |= {(n, i) for n, column in enumerate(columns) for i, _ in column}
    assert len(seen) > 17, "dealt out anew every round"
    few = group.time_round(sessions[:4], [2] * 4)
    assert [sorted(i for i, _ in column) for column in few] == [[0, 1, 2, 3]] * 2, "too few to tell the phones apart"
    assert all(p.invocations() for p in phones)
    assert set(group.state()) == {p.serial for p in phones}
    assert isinstance(group, Device)
    sessions[0].close()
    with pytest.raises(DeviceError, match="closed"):
        sessions[0].time_s(1)


def test_phones_that_differ_do_not_share_a_table(make_phone, open_phone):
    one, other = make_phone(bench=False), make_phone(bench=False, model="Pixel 2 XL")
    with pytest.raises(PhoneUnavailable, match=r"differ .*model: 'Pixel 2' and 'Pixel 2 XL'"):
        PhoneGroup([open_phone(one), open_phone(other)])
