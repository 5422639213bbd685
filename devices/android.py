"""A phone over adb: models converted to .tflite, pushed once, and timed by benchmark_model, many to a shell call."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.adb import Adb, find_adb
from devices.adb_states import Attached, PhoneError, PhoneLost, PhoneUnavailable, choose
from devices.base import DeviceError
from devices.benchmark_binary import digest, find_binary
from devices.benchmark_text import Outcome
from devices.phone_batch import Setup
from devices.phone_options import check_model, check_options, fits_listed, option, setup_mask
from devices.phone_runner import PhoneRunner, heat_text, quietly
from devices.phone_settings import SettingsKeeper
from devices.phone_state import FACTS, Facts, read_facts
from devices.phone_store import FOLDER, PhoneStore
from devices.spec import DeviceSpec

if TYPE_CHECKING:
    from torch import nn

    from devices.health import Check
    from devices.phone_group import PhoneGroup


class AndroidSession:
    """One model on one phone."""

    def __init__(self, device: AndroidDevice, file: str) -> None:
        self.device, self.file, self._open = device, file, True

    def time_s(self, loops: int) -> float:
        """`loops` x the median inference of one invocation with `loops` timed runs. Raises DeviceError."""
        (result,) = self.device.time_many([self], [loops])
        if isinstance(result, DeviceError):
            raise result
        return result

    def kernels_s(self, loops: int) -> list[tuple[str, float]]:
        """(node type, seconds per inference) of each row of the op table, in the order in which they run.

        Raises DeviceError: above all where the program has no op table, or was built without op profiling.
        """
        self.check_open()
        return [(node.kind, node.seconds) for node in self.device.ready().op_table(self.file, loops)]

    def check_open(self) -> None:
        """Raise DeviceError where the session is closed."""
        if not self._open:
            raise DeviceError("the session is closed")

    def close(self) -> None:
        """The file stays on the phone: the next run finds it there."""
        self._open = False


class AndroidDevice:
    """One phone."""

    sample_s = 0.03  # a sample is one invocation; its timed runs last about this long
    width = 1

    def __init__(self, spec: DeviceSpec, adb: Adb) -> None:
        self.name, self.adb, self._spec = spec.name, adb, spec
        adb.look_for_timeout()
        self.facts = read_facts(adb.check(FACTS))
        check_model(spec, self.facts.model, str(adb.serial))
        setup_mask(spec, self.facts)  # what is wrong with the device file is said before the binary is asked for
        self.binary = find_binary(option(spec, "benchmark_model"), self.facts.abis, spec.name)
        self._store = PhoneStore(adb, "sha256sum" in self.facts.tools)
        self._keeper = SettingsKeeper(adb, FOLDER)
        self._runner: PhoneRunner | None = None
        self._changed: dict[str, str] = {}
        self._text = ""
        self.tell: Callable[[str], None] = quietly

    def convert_ahead(
        self, jobs: Sequence[tuple[Callable[[], nn.Module], tuple[int, ...]]], on_done: Callable[[int], None]
    ) -> None:
        """Convert (make, input_shape) jobs side by side into the cache, so that `prepare` finds them there.

        A module that cannot be converted raises in `prepare`, not here.
        """
        from devices import convert

        convert.to_tflite_many(((make(), shape) for make, shape in jobs), option(self._spec, "quantization"), on_done)
        convert.release()

    def prepare(self, module: nn.Module, input_shape: tuple[int, ...]) -> AndroidSession:
        """Convert `module` and push it, unless a file of that content is on the phone.

        Raises DeviceError (this module), DeviceUnavailable (this phone, or no converter).
        """
        from devices.convert import to_tflite

        return self.session(to_tflite(module, input_shape, option(self._spec, "quantization")))

    def session(self, model: Path) -> AndroidSession:
        """A session for a .tflite file."""
        name = self.ready().patiently(lambda: self._store.put(model, "m/", ".tflite"))
        return AndroidSession(self, name.removeprefix("m/"))

    def time_many(self, sessions: Sequence[AndroidSession], loops: Sequence[int]) -> list[float | DeviceError]:
        """For each session the seconds of its `loops` inferences, or why there are none; one shell call for many.

        Waits while the phone is hot, and for a phone that drops: what it had finished is kept, the rest runs again.
        Raises PhoneUnavailable where it stays away, stays hot, or cannot run the binary.
        """
        for session in sessions:
            session.check_open()
        outcomes = self.ready().run([s.file for s in sessions], loops)
        told = next((o for o in outcomes if isinstance(o, Outcome)), None)
        if told is not None:
            self._text = f"{told.dialect}, {told.statistic}"
        return [o.seconds * n if isinstance(o, Outcome) else o for o, n in zip(outcomes, loops, strict=True)]

    def time_round(
        self, sessions: Sequence[AndroidSession], loops: Sequence[int]
    ) -> list[list[tuple[int, float | DeviceError]]]:
        """`time_many` as one column of (index of the session, seconds): see PhoneGroup for several."""
        return [list(enumerate(self.time_many(sessions, loops)))]

    def ready(self) -> PhoneRunner:
        """The runner. On first use the binary is pushed and settings are changed; they are put back at the end."""
        if self._runner is None:
            mask = setup_mask(self._spec, self.facts)
            runner = PhoneRunner(
                self.adb, _setup(self._spec, self.adb, self.facts, mask), option(self._spec, "thermal_limit")
            )
            runner.tell = lambda text: self.tell(text)
            name = runner.patiently(lambda: self._store.put(self.binary, "benchmark_model-", executable=True))
            runner.setup = _setup(self._spec, self.adb, self.facts, mask, name)
            weakref.finalize(self, _restore, self._keeper)  # at exit too, and after Ctrl-C
            fixed = bool(option(self._spec, "fixed_performance"))
            self._changed = runner.patiently(lambda: self._keeper.apply(fixed))
            self._runner = runner
            if mask is None and option(self._spec, "cluster") != "all":
                self.tell(f"phone {self.adb.serial}: threads are not bound to cores, expect wide intervals")
        return self._runner

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the phone to cool down or to come back."""
        return self._runner.waited_s if self._runner else 0.0

    def describe(self) -> dict[str, Any]:
        """The fingerprint. Not in it: the serial. Phones of one model and build give comparable times."""
        from devices.convert import versions

        props, mask = self.facts.props, setup_mask(self._spec, self.facts)
        return {
            "device": self.name,
            "runtime": f"benchmark_model sha256 {digest(self.binary)[:16]}",
            "model": self.facts.model,
            "manufacturer": props.get("ro.product.manufacturer", "unknown"),
            "soc": props.get("ro.soc.model") or props.get("ro.board.platform", "unknown"),
            "abi": self.facts.abis[0] if self.facts.abis else "unknown",
            "android": props.get("ro.build.version.release", "unknown"),
            "build": props.get("ro.build.fingerprint", "unknown"),
            "mask": "none" if mask is None else f"{mask:x}",
            "converter": versions(option(self._spec, "quantization")),
            "governor": "+".join(sorted({c.governor for c in self.facts.clusters})) or "not readable",
            **{
                k: option(self._spec, k)
                for k in ("threads", "delegate", "quantization", "warmup_s", "fixed_performance")
            },
        }

    def state(self) -> dict[str, Any]:
        """What changes from session to session: which phone, its clocks and heat; for a table's provenance."""
        mhz = sorted(self._runner.mhz) if self._runner else []
        return {
            "serial": self.adb.serial,
            "text": self._text,
            "heat": heat_text(self._runner.heat if self._runner else self.facts.heat),
            "mhz_low_median_high": [round(mhz[i]) for i in (0, len(mhz) // 2, -1)] if mhz else None,
            "settings_changed": self._changed,
        }

    def close(self) -> None:
        """Put the phone's settings back. A device that is used again changes them again."""
        if self._runner is not None:
            _restore(self._keeper)
            self._runner = None


def open_device(spec: DeviceSpec) -> AndroidDevice | PhoneGroup:
    """The phone that `spec` describes, or a group where it names several. Raises PhoneUnavailable, SpecError."""
    check_options(spec)
    binary = find_adb()
    wanted = option(spec, "serials") or list(filter(None, [os.environ.get("ANDROID_SERIAL")]))
    attached = Adb(binary).devices()
    try:
        chosen = [choose(attached, serial) for serial in wanted] or [choose(attached_for(spec, attached))]
    except PhoneUnavailable as error:
        models = ", ".join(option(spec, "models")) or "any Android phone"
        raise PhoneUnavailable(f"device {spec.name} is a phone ({models}), looked for with {binary}: {error}") from None
    phones = [AndroidDevice(spec, Adb(binary, phone.serial)) for phone in chosen]
    if len(phones) == 1:
        return phones[0]
    from devices.phone_group import PhoneGroup

    return PhoneGroup(phones)


def attached_for(spec: DeviceSpec, attached: list[Attached]) -> list[Attached]:
    """Those of `attached` that work and are of the file's model; all of them where there is none such."""
    return [a for a in attached if a.state == "device" and fits_listed(spec, a)] or attached


def _setup(spec: DeviceSpec, adb: Adb, facts: Facts, mask: int | None, binary: str = "") -> Setup:
    watched = next((c.cpus[0] for c in facts.clusters if mask is not None and c.mask & mask), None)
    return Setup(
        FOLDER,
        binary,
        option(spec, "threads"),
        option(spec, "delegate"),
        "" if mask is None else f"{mask:x}",
        option(spec, "warmup_s"),
        adb.has_timeout,
        watched,
    )


def _restore(keeper: SettingsKeeper) -> None:
    """At the end. A phone that is gone keeps the way back on it, and the next session takes it."""
    with contextlib.suppress(PhoneLost, PhoneError, PhoneUnavailable):
        keeper.restore()


def checks(spec: DeviceSpec) -> Iterator[Check]:
    """For `--doctor`: see devices/phone_checks.py."""
    from devices.phone_checks import checks as phone_checks

    return phone_checks(spec)
