"""DeviceSpec: one specs/*.toml parsed and validated. A new device is one new file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.errors import UserError, did_you_mean

SPECS = Path(__file__).parent / "specs"


class SpecError(UserError):
    """A device file that does not exist or does not parse."""


@dataclass(frozen=True)
class DeviceSpec:
    """What a device file says: the runtime module in devices/ that drives it, and that runtime's options."""

    name: str
    runtime: str
    description: str
    options: dict[str, Any] = field(default_factory=dict)

    def option(self, name: str, default: int | float | str | bool) -> Any:
        """Option `name` with the type of `default`. Raises SpecError where the file holds another type."""
        value = self.options.get(name, default)
        if type(value) is not type(default):
            raise SpecError(f"{self.name}.toml: options.{name} = {value!r} must be of type {type(default).__name__}")
        return value

    def only(self, *known: str) -> None:
        """Raise SpecError for an option that the runtime does not know: nothing is ignored in silence."""
        for name in self.options:
            if name not in known:
                raise SpecError(
                    f"{self.name}.toml: unknown option '{name}': {did_you_mean(name, known)}"
                    f"runtime {self.runtime} has: {', '.join(known)}"
                )


def runtimes() -> list[str]:
    """The runtimes there are: the modules of devices/ with an `open_device`, found by file."""
    modules = Path(__file__).parent.glob("*.py")
    return sorted(p.stem for p in modules if "\ndef open_device(" in p.read_text(encoding="utf-8"))


def names() -> list[str]:
    """The devices that have a file in devices/specs/."""
    return sorted(p.stem for p in SPECS.glob("*.toml"))


def read(path: Path) -> DeviceSpec:
    """Parse one device file. Raises SpecError naming the file and the field."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, a number of thousands of digits
        raise SpecError(f"{path}: not TOML: {error}") from None
    for key in content:
        if key not in ("runtime", "description", "options"):
            raise SpecError(f"{path}: unknown field '{key}'; fields: runtime, description, options")
    runtime, description, options = content.get("runtime"), content.get("description", ""), content.get("options", {})
    if runtime not in runtimes():
        raise SpecError(f"{path}: runtime = {runtime!r}; one of {', '.join(runtimes())}")
    if not isinstance(options, dict) or not isinstance(description, str):
        raise SpecError(f"{path}: 'options' must be a table and 'description' a text")
    return DeviceSpec(path.stem, runtime, description, options)
