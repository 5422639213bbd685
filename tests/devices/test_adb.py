"""The real adb against the test phone: every state, every failure of the connection, and the text of `adb devices`."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.adb import Adb, exit_meaning, find_adb
from devices.adb_states import STATES, Attached, PhoneError, PhoneLost, PhoneUnavailable, choose, parse_devices
from devices.phone_options import fits_listed
from devices.spec import DeviceSpec
from latency import profile

LISTING = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
HT6930201234           device usb:1-1 product:sailfish model:Pixel device:sailfish transport_id:3
emulator-5554          offline transport_id:1
192.168.1.7:5555       unauthorized transport_id:4
0123456789ABCDEF       no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/tools/device.html] usb:3-2 transport_id:9
FA6AB0301234           recovery usb:1-2 product:marlin model:Pixel_XL device:marlin transport_id:5
"""


def test_listing_is_read():
    found = parse_devices(LISTING)
    assert [(a.serial, a.state) for a in found] == [
        ("HT6930201234", "device"),
        ("emulator-5554", "offline"),
        ("192.168.1.7:5555", "unauthorized"),
        ("0123456789ABCDEF", "no permissions"),
        ("FA6AB0301234", "recovery"),
    ]
    assert found[4].model == "Pixel XL"
    assert found[3].about == {"usb": "3-2", "transport_id": "9"}
    assert parse_devices("List of devices attached\n\n") == []


def test_serials_with_spaces_and_lines_that_are_none():
    """Phones over Wi-Fi that were paired twice, and phones without a serial; adb's own words."""
    listing = (
        "List of devices attached\n"
        "adb-14141FDF600081-uUH9Bn (2)._adb-tls-connect._tcp device product:oriole model:Pixel_6 device:oriole transport_id:3\n"
        "(no serial number)    device usb:1-1 product:x model:Y device:z transport_id:4\n"
        "my phone\toffline\n"
        "????????????           no permissions (user in plugdev group; are your udev rules wrong?); see [http://x] usb:3-2\n"
        "S9                     hibernating transport_id:7\n"
    )
    found = parse_devices(listing)
    assert [(a.serial, a.state) for a in found] == [
        ("adb-14141FDF600081-uUH9Bn (2)._adb-tls-connect._tcp", "device"),
        ("(no serial number)", "device"),
        ("my phone", "offline"),
        ("????????????", "no permissions"),
        ("S9", "hibernating"),
    ]
    assert (found[0].model, found[1].about["device"]) == ("Pixel 6", "z")
    assert choose(found) is found[0], "the nameless one cannot be addressed"
    with pytest.raises(PhoneUnavailable, match="tells no serial number"):
        choose([found[1]])
    with pytest.warns(UserWarning, match=r"passed over in `adb devices -l`, unreadable: 'what is this\?\?\?'"):
        assert parse_devices("what is this\x1b?\u202e\n" + listing) == found


@pytest.mark.parametrize(
    ("listed", "patterns", "fits"),
    [
        ("SM_G973F", ["SM-G97*"], True),
        ("SM_G973F", ["SM-G98*"], False),
        ("SM_G973F", ["SM-G9[678]3?"], True),
        ("Pixel_2", ["Pixel 2"], True),
        ("Pixel_2_XL", ["Pixel 2"], False),
        ("moto_g_2nd__Gen_", ["moto g(2nd) Gen."], True),
        ("moto_g_2nd__Gen_", ["moto g(2nd) [Gg]en."], True),
        ("caf__", ["café"], True),
        ("", ["Pixel 2"], False),
        ("", [], True),
    ],
)
def test_models_are_compared_as_adb_writes_them(listed, patterns, fits):
    spec = DeviceSpec("test", "android", "", {"models": patterns})
    assert fits_listed(spec, Attached("S", "device", {"model": listed})) is fits


@pytest.mark.filterwarnings("ignore:passed over")
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_listing_is_read(text):
    for phone in parse_devices(text):
        assert phone.serial
        assert f"{phone.serial}{phone.state}".replace("\t", " ").isprintable()


@pytest.mark.parametrize("state", [*STATES, "hibernating"])
def test_every_state_has_its_own_message(state):
    with pytest.raises(PhoneUnavailable) as error:
        choose([Attached("S1", state, {})])
    assert f"phone S1 is '{state}': it " in str(error.value)
    messages = list(STATES.values())
    assert len(set(messages)) == len(messages)


def test_choosing():
    ready, other = Attached("A", "device", {"model": "Pixel_2"}), Attached("B", "device", {})
    assert choose([ready, Attached("C", "offline", {})]) is ready, "one that works is taken without asking"
    assert choose([ready, other], "B") is other
    with pytest.raises(
        PhoneUnavailable, match=r"2 phones are attached; say which: --serial A \(Pixel 2\); --serial B$"
    ):
        choose([ready, other])
    with pytest.raises(PhoneUnavailable, match=r"no phone with serial X; attached: A \(device\)"):
        choose([ready], "X")
    with pytest.raises(PhoneUnavailable, match=r"no phone: .* USB debugging"):
        choose([])


def test_adbutils_without_an_adb_is_no_traceback(monkeypatch, capsys):
    adbutils = pytest.importorskip("adbutils", reason="adbutils is not installed")

    def absent():
        raise adbutils.AdbError("No adb exe could be found. Install adb on your system")

    monkeypatch.setattr(adbutils, "adb_path", absent)
    for name in ("PATH", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.setenv(name, "")
    with pytest.raises(PhoneUnavailable, match="adbutils is not installed or brings none for this platform"):
        find_adb()
    assert profile.main(["--list"]) == 0
    assert "phones: no adb" in capsys.readouterr().out


def test_where_adb_is_looked_for(tmp_path, monkeypatch):
    tools = tmp_path / "sdk" / "platform-tools"
    tools.mkdir(parents=True)
    binary = tools / "adb"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    assert find_adb({"PATH": str(tools)}) == binary
    assert find_adb({"PATH": "", "ANDROID_HOME": str(tmp_path / "sdk")}) == binary
    monkeypatch.setitem(__import__("sys").modules, "adbutils", None)
    with pytest.raises(PhoneUnavailable, match=r"not on PATH, not in ANDROID_HOME/platform-tools, and adbutils"):
        find_adb({"PATH": ""})


def test_exit_codes_both_streams_and_the_limit(make_phone, adb_server):
    phone = make_phone(bench=False)
    adb = Adb(adb_server.binary, phone.serial)
    answer = adb.shell("echo out; echo err >&2; exit 7")
    assert (answer.code, answer.stdout, answer.stderr) == (7, "out\n", "err\n")
    assert adb.shell("printf 'no newline'").stdout == "no newline"
    assert adb.shell("echo 'a b' \"c'd\"").stdout == "a b c'd\n"
    assert adb.shell("kill -SEGV $$").code == 139
    with pytest.raises(PhoneError, match="failed with 127: not found on the phone"):
        adb.check("no_such_command")
    assert adb.look_for_timeout()
    start = time.monotonic()
    assert adb.shell("sleep 60", 1.0).code == 124, "the phone itself ends what takes too long"
    assert time.monotonic() - start < 15
    assert exit_meaning(137).startswith("137: killed")


def test_no_answer_within_the_wall_clock_limit(make_phone, adb_server):
    """A host-side limit on adb itself, for a phone without `timeout`, or one that hangs."""
    phone = make_phone(bench=False)
    adb = Adb(adb_server.binary, phone.serial)
    with pytest.raises(PhoneLost, match="`adb shell` gave no answer within 1 s"):
        adb._run(("shell", "sleep 30"), 1.0, True)


def test_push_by_the_real_sync_protocol(make_phone, adb_server, tmp_path):
    phone = make_phone(bench=False)
    adb = Adb(adb_server.binary, phone.serial)
    content = os.urandom(300_000)
    (tmp_path / "x.bin").write_bytes(content)
    adb.push(tmp_path / "x.bin", "/data/local/tmp/x.bin")
    assert (phone.root / "data/local/tmp/x.bin").read_bytes() == content
    adb.call("pull", "/data/local/tmp/x.bin", str(tmp_path / "back.bin"))
    assert (tmp_path / "back.bin").read_bytes() == content
    with pytest.raises(PhoneError, match="does not exist"):
        adb.call("pull", "/data/local/tmp/none", str(tmp_path / "none"))


def test_unauthorized_until_it_is_allowed(make_phone, adb_server):
    phone = make_phone(bench=False, connect=False)
    phone.adbd.authorized = False
    adb_server.call("connect", phone.serial, to_phone=False)
    with pytest.raises(PhoneUnavailable, match="is 'unauthorized': it has not allowed this computer: unlock it"):
        choose(adb_server.devices(), phone.serial)
    with pytest.raises(PhoneLost, match="unauthorized"):
        Adb(adb_server.binary, phone.serial).shell("true")
    phone.adbd.allow()
    Adb(adb_server.binary, phone.serial).wait(10)
    assert choose(adb_server.devices(), phone.serial).state == "device"


@pytest.mark.parametrize("kind", ["recovery", "sideload", "bootloader"])
def test_states_that_a_phone_announces(make_phone, adb_server, kind):
    phone = make_phone(bench=False, connect=False)
    phone.adbd.kind = kind
    adb_server.call("connect", phone.serial, to_phone=False)
    with pytest.raises(PhoneUnavailable, match=f"is '{kind}': it (is|waits)"):
        choose(adb_server.devices(), phone.serial)


def test_offline_then_back(make_phone, adb_server):
    phone = make_phone(bench=False)
    adb = Adb(adb_server.binary, phone.serial)
    phone.adbd.drop()
    for _ in range(100):
        if [a.state for a in adb_server.devices()] == ["offline"]:
            break
        time.sleep(0.02)
    with pytest.raises(PhoneUnavailable, match="is 'offline': it does not answer"):
        choose(adb_server.devices(), phone.serial)
    with pytest.raises(PhoneLost, match="offline"):
        adb.shell("true")
    with pytest.raises(PhoneUnavailable, match=r"\(waited 0 s\); what was measured is kept"):
        adb.wait(0.3)
    told: list[str] = []
    threading.Timer(0.3, phone.adbd.plug).start()
    adb.wait(30, told.append)
    assert adb.shell("echo here").stdout == "here\n"
    assert len(told) == 1
    assert "waiting up to 30 s" in told[0]


def test_what_came_before_the_drop_is_not_lost(make_phone, adb_server):
    phone = make_phone(bench=False)
    adb = Adb(adb_server.binary, phone.serial)
    threading.Timer(0.5, phone.adbd.drop).start()
    with pytest.raises(PhoneLost) as lost:
        adb.shell("echo first; sleep 20; echo second")
    assert lost.value.partial == "first\n"


def test_adb_server_killed(make_phone, adb_server, monkeypatch, tmp_path):
    """The next command starts a server, which has forgotten the phone; it is connected again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    phone = make_phone(bench=False)
    adb = Adb(adb_server.binary, phone.serial)
    adb_server.call("kill-server", to_phone=False)
    with pytest.raises(PhoneLost, match="not found"):
        adb.shell("true")
    adb.wait(30)
    assert adb.shell("echo again").stdout == "again\n"


def test_two_phones_without_a_serial(make_phone, adb_server):
    phones = sorted(make_phone(bench=False).serial for _ in range(2))
    with pytest.raises(PhoneUnavailable) as error:
        choose(adb_server.devices())
    assert str(error.value).startswith("2 phones are attached; say which: --serial 127.0.0.1:")
    assert all(f"--serial {serial} (Pixel 2)" in str(error.value) for serial in phones)
