"""What a phone says of itself, and the options of its device file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import devices
from devices.adb_states import PhoneError, PhoneUnavailable
from devices.benchmark_binary import elf_abi, find_binary
from devices.phone_options import check_model, check_options, fits_model, setup_mask
from devices.phone_state import (
    Battery,
    Cluster,
    Facts,
    Heat,
    cluster_mask,
    effective_mhz,
    parse_battery,
    parse_clusters,
    parse_free,
    parse_heat,
    parse_props,
    parse_time_in_state,
    read_facts,
)
from devices.spec import DeviceSpec, SpecError

# Clusters of the chips, from their makers' data sheets; masks as in the device files.
CHIPS = {
    "Snapdragon 821 (Pixel 1)": ("0 1|1593600|interactive\n2 3|2150400|interactive\n", "c"),
    "Snapdragon 835 (Pixel 2)": ("0-3|1900800|interactive\n4-7|2457600|interactive\n", "f0"),
    "Tensor (Pixel 6)": ("0 1 2 3|1803000|sched_pixel\n4 5|2253000|sched_pixel\n6 7|2802000|sched_pixel\n", "c0"),
    "Tensor G3 (Pixel 8)": ("0-3|1704000|sched_pixel\n4-7|2367000|sched_pixel\n8|2914000|sched_pixel\n", "100"),
}


@pytest.mark.parametrize("chip", CHIPS)
def test_the_fastest_cluster(chip):
    text, mask = CHIPS[chip]
    assert f"{cluster_mask(parse_clusters(text), 'fastest', 1):x}" == mask


def test_clusters_of_old_kernels_come_once_for_each_core():
    text = "".join(f"{'0 1' if i < 2 else '2 3'}|{1593600 if i < 2 else 2150400}|interactive\n" for i in range(4))
    assert parse_clusters(text) == (Cluster((0, 1), 1593600, "interactive"), Cluster((2, 3), 2150400, "interactive"))


def test_more_threads_than_cores():
    tensor = parse_clusters(CHIPS["Tensor (Pixel 6)"][0])
    assert cluster_mask(tensor, "middle", 2) == 0x30
    assert cluster_mask(tensor, "slowest", 4) == 0xF
    assert cluster_mask(tensor, "all", 8) is None
    with pytest.raises(PhoneError, match=r"threads = 3, but the fastest cluster has 2 cores \(4 cores of 1.80 GHz"):
        cluster_mask(tensor, "fastest", 3)
    with pytest.raises(PhoneError, match="cluster = 'big'; one of slowest, middle, fastest, all"):
        cluster_mask(tensor, "big", 1)


def test_heat_is_that_of_now_not_of_the_cache():
    text = (
        "IsStatusOverride: false\nThermal Status: 3\nCached temperatures:\n"
        "\tTemperature{mValue=99.5, mType=0, mName=CPU0, mStatus=0}\n"
        "Current temperatures from HAL:\n\tTemperature{mValue=25.6, mType=0, mName=AP, mStatus=0}\n"
        "\tTemperature{mValue=-2.0, mType=3, mName=skin, mStatus=0}\n"
    )
    assert parse_heat(text) == Heat(3, {"AP": 25.6, "skin": -2.0})
    assert parse_heat("Can't find service: thermalservice\n") == Heat(None)
    with pytest.raises(PhoneError, match=r"'9' is none of 0\.\.6"):
        parse_heat("Thermal Status: 9\n")


def test_battery_and_storage():
    text = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 87\n  temperature: 253\n"
    assert parse_battery(text) == Battery(87, 25.3, True)
    assert parse_battery("") == Battery()
    df = "Filesystem     1K-blocks     Used Available Use% Mounted on\n/dev/block/dm-4  53691372 20000000  33691372  38% /data\n"
    assert parse_free(df) == 33691372 * 1024
    assert parse_free("df: permission denied") is None


def test_the_clock_is_weighted_by_time():
    before = parse_time_in_state("300000 1000\n2457600 500\n")
    after = parse_time_in_state("300000 1010\n2457600 590\n")
    assert effective_mhz(before, after) == pytest.approx((300 * 10 + 2457.6 * 90) / 100)
    assert effective_mhz(before, before) is None
    assert effective_mhz(after, before) is None, "counters that ran backwards: a reboot"


def test_props():
    assert parse_props("[ro.product.model]: [Pixel 2]\n[a]: []\n[b]: [two\nlines]\n") == {
        "ro.product.model": "Pixel 2",
        "a": "",
    }


def test_facts_that_were_cut():
    with pytest.raises(PhoneError, match="cut: battery, storage, tools missing"):
        read_facts("@@props\n@@clusters\n@@thermal\n@@battery\nlevel: 3\n")


@given(
    st.text(st.characters(codec="utf-8"), max_size=120),
    st.sampled_from(["", "Thermal Status: ", "0 1|", "4-7|1|", "level: "]),
)
def test_any_text_is_an_answer_or_a_named_error(text, start):
    for reader in (parse_props, parse_clusters, parse_heat, parse_battery, parse_free, parse_time_in_state, read_facts):
        try:
            reader(start + text)
        except PhoneError as error:
            assert str(error).isprintable()  # noqa: PT017


def facts(**changed):
    clusters = parse_clusters(CHIPS["Snapdragon 835 (Pixel 2)"][0])
    return Facts(**{"props": {}, "clusters": clusters, "heat": Heat(0), "battery": Battery(), "free_bytes": None, "tools": frozenset({"taskset"})} | changed)  # fmt: skip


def test_the_mask_of_the_file_comes_first():
    spec = lambda **options: DeviceSpec("x", "android", "", options)  # noqa: E731
    assert setup_mask(spec(), facts()) == 0xF0
    assert setup_mask(spec(mask="3"), facts()) == 3
    assert setup_mask(spec(), facts(tools=frozenset())) is None, "no taskset on the phone"
    for asked, says in (({"mask": "3"}, "options.mask = '3'"), ({"cluster": "slowest"}, "options.cluster = 'slowest'")):
        with pytest.raises(SpecError, match=f"{says}, but the phone has no `taskset`"):
            setup_mask(spec(**asked), facts(tools=frozenset()))
    assert setup_mask(spec(cluster="all"), facts(tools=frozenset())) is None
    assert setup_mask(spec(), facts(clusters=())) is None
    assert setup_mask(spec(mask="f00"), facts(clusters=())) == 0xF00, "what the phone has is not told"
    with pytest.raises(SpecError, match="mask = f00 names cores that the phone does not have: its own are ff"):
        setup_mask(spec(mask="f00"), facts())
    with pytest.raises(SpecError, match="threads = 3, but mask 3 has 2 cores"):
        setup_mask(spec(mask="3", threads=3), facts())
    with pytest.raises(SpecError, match="threads = 5, but the fastest cluster has 4 cores"):
        setup_mask(spec(threads=5), facts())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"thread": 1}, "unknown option 'thread': did you mean 'threads'?"),
        ({"threads": 0}, "at least 1"),
        ({"delegate": "hexagon"}, "one of default, cpu, xnnpack, gpu, nnapi"),
        ({"mask": "0xf0"}, "no hex mask"),
        ({"mask": "00"}, "no hex mask"),
        ({"warmup_s": -1.0}, "from 0 to 60"),
        ({"thermal_limit": 0}, "from 1 to 6"),
        ({"serials": ["A", "A"]}, "given twice"),
        ({"models": [1]}, "list of texts"),
        ({"models": "Pixel"}, "must be of type list"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(SpecError) as error:
        check_options(DeviceSpec("mine", "android", "", options))
    assert says in str(error.value)
    assert "mine.toml" in str(error.value)


PHONES = [name for name in devices.names() if devices.find(name).runtime == "android"]


def test_the_phones_that_have_a_file():
    assert {*(f"pixel{i}" for i in range(1, 9)), "samsung-s-series", "android"} <= set(PHONES)


@pytest.mark.parametrize("name", PHONES)
def test_shipped_files_are_valid(name):
    check_options(devices.find(name))


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        ("Pixel", ["pixel1"]), ("Pixel XL", ["pixel1"]), ("Pixel 2", ["pixel2"]), ("Pixel 3a", []), ("Pixel 6 Pro", ["pixel6"]),
        ("Pixel 8", ["pixel8"]), ("SM-G991B", ["samsung-s-series"]), ("SM-S911U", ["samsung-s-series"]), ("SM-A515F", []),
    ],
)  # fmt: skip
def test_which_file_is_for_which_model(model, fits):
    assert [n for n in PHONES if n != "android" and fits_model(devices.find(n), model)] == fits
    assert fits_model(devices.find("android"), model)


def test_a_phone_of_another_model():
    with pytest.raises(
        PhoneUnavailable, match=r"phone S is a 'Pixel 6', device pixel1 is for Pixel, Pixel XL: use --device"
    ):
        check_model(devices.find("pixel1"), "Pixel 6", "S")


def elf(path, machine):
    path.write_bytes(
        b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(44)
    )
    return path


def test_the_binary_is_found_and_fits(tmp_path, monkeypatch):
    monkeypatch.setenv("METRONOME_CACHE", str(tmp_path))
    abis = ("arm64-v8a", "armeabi-v7a")
    with pytest.raises(devices.DeviceUnavailable) as error:
        find_binary("", abis, "pixel2")
    for text in (
        "device pixel2 needs",
        "arm64-v8a",
        str(tmp_path),
        "android_aarch64_benchmark_model",
        "--benchmark-model PATH",
    ):
        assert text in str(error.value)
    generic = elf(tmp_path / "benchmark_model", 0x28)
    assert find_binary("", abis, "pixel2") == generic
    best = elf(tmp_path / "android_aarch64_benchmark_model", 0xB7)
    assert find_binary("", abis, "pixel2") == best
    assert (elf_abi(best), elf_abi(generic)) == ("arm64-v8a", "armeabi-v7a")
    wrong = elf(tmp_path / "x86", 0x3E)
    with pytest.raises(devices.DeviceUnavailable, match="is built for x86_64, this phone runs arm64-v8a, armeabi-v7a"):
        find_binary(str(wrong), abis, "pixel2")
    with pytest.raises(devices.DeviceUnavailable, match="--benchmark-model nowhere: no such file"):
        find_binary("nowhere", abis, "pixel2")
