"""A search space is data: fixed ops, then choice blocks of candidate ops, then fixed ops.

By default the choices follow one another. A `layout` sets them into a fixed wiring of branches, merges and shortcuts
(latency.wiring): a space of trees, cells or parallel paths.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.errors import UserError, did_you_mean
from latency.ops import Identity, Linear, Op, OpError, Zero, network_text, parse_op
from latency.wiring import Step, WiringError, check

SCHEMA = 1


class SpaceError(UserError):
    """A space or architecture that does not exist or does not fit together."""


@dataclass(frozen=True)
class Choice:
    """One block: exactly one of `candidates` is in the network. All take and give the same shapes."""

    name: str
    candidates: tuple[Op, ...]

    def __post_init__(self) -> None:
        if not self.candidates:
            raise SpaceError(f"choice '{self.name}' has no candidates")
        for op in self.candidates[1:]:
            if (op.input_shape, op.output_shape) != (self.candidates[0].input_shape, self.candidates[0].output_shape):
                raise SpaceError(f"choice '{self.name}': {op} and {self.candidates[0]} differ in their shapes")
        if len(set(self.candidates)) < len(self.candidates):
            raise SpaceError(f"choice '{self.name}' lists a candidate twice")


@dataclass(frozen=True)
class SearchSpace:
    """Networks stem -> one candidate of each choice -> head, at the size they are deployed at.

    `layout` is what lies between stem and head: ops, wiring among them, and the numbers of the choices, each once and
    in order. Left empty it is the choices in a chain.
    """

    name: str
    stem: tuple[Op, ...]
    choices: tuple[Choice, ...]
    head: tuple[Op, ...]
    layout: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not self.choices:
            raise SpaceError(f"space '{self.name}' has no choices")
        slots = [step for step in self.steps if isinstance(step, int)]
        if slots != list(range(len(self.choices))):
            raise SpaceError(
                f"space '{self.name}': the layout must name the choices 0 to {len(self.choices) - 1}, each once and in "
                f"order; it names {slots[:20]}"
            )
        try:
            check((*self.stem, *self.steps, *self.head), self._any_op, f"space '{self.name}'")
        except WiringError as error:
            raise SpaceError(str(error)) from None

    def _any_op(self, slot: int) -> Op:
        return self.choices[slot].candidates[0]

    @property
    def steps(self) -> tuple[Step, ...]:
        """What lies between stem and head: `layout`, or the choices in a chain."""
        return self.layout or tuple(range(len(self.choices)))

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width) of the deployed networks."""
        return (self.stem[0] if self.stem else self.choices[0].candidates[0]).input_shape

    @property
    def n_networks(self) -> int:
        """How many networks the space holds."""
        return math.prod(len(c.candidates) for c in self.choices)

    @property
    def fixed_ops(self) -> tuple[Op, ...]:
        """Stem, the layout's own ops, and head: in every network."""
        return (*self.stem, *(step for step in self.layout if isinstance(step, Op)), *self.head)

    def unique_ops(self) -> tuple[Op, ...]:
        """Every distinct op of the space that takes time, in order of first appearance."""
        inner = (self.choices[s].candidates if isinstance(s, int) else (s,) for s in self.steps)
        every = [*self.stem, *itertools.chain.from_iterable(inner), *self.head]
        return tuple(op for op in dict.fromkeys(every) if not op.is_free)

    def architecture(self, indices: Sequence[int]) -> Architecture:
        """The network that takes candidate `indices[l]` in choice l. Raises SpaceError where there is none."""
        if len(indices) != len(self.choices):
            raise SpaceError(f"space '{self.name}' has {len(self.choices)} choices, got {len(indices)} indices")
        for choice, index in zip(self.choices, indices, strict=True):
            if not 0 <= index < len(choice.candidates):
                raise SpaceError(f"choice '{choice.name}' has {len(choice.candidates)} candidates, got index {index}")
        chosen = (self.choices[s].candidates[indices[s]] if isinstance(s, int) else s for s in self.steps)
        return Architecture(self.name, tuple(int(i) for i in indices), (*self.stem, *chosen, *self.head))

    def random(self, rng: random.Random) -> Architecture:
        """A uniformly random network."""
        return self.architecture([rng.randrange(len(c.candidates)) for c in self.choices])


@dataclass(frozen=True)
class Architecture:
    """One network: its ops in order, and where it came from. `ops` alone is enough to build and predict it.

    Where the network has branches, `ops` holds their wiring too (latency.wiring).
    """

    space: str
    indices: tuple[int, ...]
    ops: tuple[Op, ...]

    @property
    def key(self) -> str:
        """The text form in tables."""
        return network_text(self.ops)

    @property
    def kernel_ops(self) -> tuple[Op, ...]:
        """The ops that take time, and the wiring: what is the identity is left out. The same function as `ops`."""
        return without_identities(self.ops)

    def to_json(self) -> str:
        """The content of architecture.json: sorted keys, so equal architectures give equal bytes."""
        content = {
            "schema": SCHEMA,
            "space": self.space,
            "indices": list(self.indices),
            "ops": list(map(str, self.ops)),
        }
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def load_architecture(path: Path | str) -> Architecture:
    """Read architecture.json. Raises SpaceError naming the file and the field."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpaceError(f"{path}: {error.strerror or error}; search.run writes one to runs/NAME/") from None
    except ValueError as error:
        raise SpaceError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise SpaceError(f"{path}: not an architecture of schema {SCHEMA}")
    ops, indices, space = content.get("ops"), content.get("indices"), content.get("space")
    if not isinstance(ops, list) or not ops or not all(isinstance(o, str) for o in ops):
        raise SpaceError(f"{path}: field 'ops' must be a list of op texts")
    if not isinstance(indices, list) or not all(isinstance(i, int) for i in indices) or not isinstance(space, str):
        raise SpaceError(f"{path}: fields 'indices' (whole numbers) and 'space' (text) are needed")
    parsed: list[Op] = []
    for i, text in enumerate(ops):
        try:
            parsed.append(parse_op(text))
        except OpError as error:
            raise SpaceError(f"{path}: ops[{i}]: {error}") from None
    try:
        check(parsed, parsed.__getitem__, f"{path}: field 'ops'")
    except WiringError as error:
        raise SpaceError(str(error)) from None
    return Architecture(space, tuple(indices), tuple(parsed))


def without_identities(ops: Sequence[Op]) -> tuple[Op, ...]:
    """`ops` without Identity and without Zero that has a shortcut: they compute nothing and start no kernel."""
    return tuple(op for op in ops if not (isinstance(op, Identity) or (isinstance(op, Zero) and op.shortcut)))


def space_names() -> list[str]:
    """The names of the spaces that ship, found by file in latency/spaces/."""
    return sorted(name for module in _modules() for name in module.SPACES)


def load_space(name: str) -> SearchSpace:
    """A shipped space by name, or a user's own by `file.py:variable`. Raises SpaceError."""
    if ":" in name or name.endswith(".py"):
        return _from_file(*name.rsplit(":", 1)) if ":" in name else _from_file(name, "space")
    for module in _modules():
        if name in module.SPACES:
            space: SearchSpace = module.SPACES[name]
            return space
    known = space_names()
    raise SpaceError(f"unknown space '{name}': {did_you_mean(name, known)}known: {', '.join(known)}, or FILE.py:NAME")


def _modules() -> list:  # type: ignore[type-arg]
    folder = Path(__file__).parent / "spaces"
    names = sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
    return [importlib.import_module(f"latency.spaces.{n}") for n in names]


def _from_file(file: str, variable: str) -> SearchSpace:
    path = Path(file)
    if not path.is_file():
        raise SpaceError(f"{file}: no such file; a space of your own is given as FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"_user_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: whatever it raises is told in one line
        raise SpaceError(f"{file}: {type(error).__name__}: {error}") from error
    space = getattr(module, variable, None)
    if not isinstance(space, SearchSpace):
        have = [k for k, v in vars(module).items() if isinstance(v, SearchSpace)]
        raise SpaceError(f"{file}: '{variable}' is not a SearchSpace; the file has: {', '.join(have) or 'none'}")
    return space


def for_classes(ops: Sequence[Op], num_classes: int) -> tuple[Op, ...]:
    """`ops` with the last Linear's outputs set to `num_classes`: the network as trained on other data."""
    import dataclasses

    last = ops[-1]
    if not isinstance(last, Linear):
        raise SpaceError(f"the network ends in {last}, not in a Linear: its classes cannot be changed")
    return (*ops[:-1], dataclasses.replace(last, out_channels=num_classes))
