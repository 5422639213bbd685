"""The op vocabulary: what can be timed, predicted and searched.

An op is a frozen dataclass that fully determines its shapes. Its text form, e.g.
`MBConv(in_channels=24,out_channels=24,height=56,width=56,kernel=3,stride=1,mid_channels=72,shortcut=1)`,
is the key in every table: fields in order of declaration, those at their default left out, so that a
field added later leaves old keys as they are. Blocks of search spaces are here, kernels of any network in
latency/kernels.py. Standard library only.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from devices.errors import did_you_mean
from latency.kernels import KERNELS
from latency.op_base import ACTIVATIONS, DTYPES, POOLS, Op, OpError

__all__ = [
    "ACTIVATIONS", "DTYPES", "KINDS", "POOLS", "Add", "Concat", "Conv2d", "Fork", "Identity", "Linear", "MBConv",
    "Next", "Op", "OpError", "Pad", "Pool", "SepConv", "Slice", "Zero", "mbconv", "network_text", "parse_network",
    "parse_op", "squeeze_width",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conv2d(Op):
    """Convolution, batch norm, activation."""

    kernel: int
    stride: int = 1
    groups: int = 1
    act: str = "relu6"


@dataclass(frozen=True, kw_only=True)
class MBConv(Op):
    """Inverted residual: 1x1 conv to `mid_channels`, depthwise conv, 1x1 conv.

    Where mid = in there is no first conv, as in MobileNetV2, unless `expand_conv` says so, as in FBNet. `groups` splits
    both 1x1 convs and shuffles channels after the first; `se` adds squeeze-excite after the depthwise conv; `shortcut`
    adds the input.
    """

    kernel: int
    stride: int
    mid_channels: int
    shortcut: int = 0
    se: int = 0
    act: str = "relu6"
    groups: int = 1
    expand_conv: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expand_conv and self.mid_channels != self.in_channels:
            raise OpError("MBConv: expand_conv=1 is said only where mid_channels = in_channels: else the conv is there")

    @property
    def expands(self) -> bool:
        """Whether there is a first 1x1 conv."""
        return self.mid_channels != self.in_channels or bool(self.expand_conv)


@dataclass(frozen=True, kw_only=True)
class SepConv(Op):
    """ReLU, depthwise conv (dilated where dilation > 1), 1x1 conv, batch norm: the CIFAR space's op."""

    kernel: int
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True, kw_only=True)
class Pool(Op):
    """Average or maximum over kernel x kernel."""

    kernel: int
    stride: int = 1
    pool: str = "avg"
    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Linear(Op):
    """Global average pool over height x width (none where both are 1), then a fully connected layer."""

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, 1, 1)."""
        return (self.batch, self.out_channels, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Zero(Op):
    """Outputs zeros; with a shortcut the whole block is then the identity, which is how depth is searched."""

    stride: int = 1
    shortcut: int = 0
    is_free: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Identity(Op):
    """Passes its input on."""

    shortcut: int = 0
    is_free: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Slice(Op):
    """The channels `start` to `start + out_channels` of its input: a branch's share where channels are split."""

    start: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start + self.out_channels > self.in_channels:
            raise OpError(f"Slice: channels {self.start} + {self.out_channels} of {self.in_channels}")


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """Appends channels of zeros: PyramidNet's shortcut where a block is wider than its input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out_channels <= self.in_channels:
            raise OpError(f"Pad: out_channels={self.out_channels} is not above in_channels={self.in_channels}")


@dataclass(frozen=True, kw_only=True)
class _Wire(Op):
    """A sign in a chain of ops. It has no shape of its own, so its sizes stay at 1 and its text is short."""

    in_channels: int = 1
    out_channels: int = 1
    height: int = 1
    width: int = 1
    is_free: ClassVar[bool] = True
    is_wiring: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if any(getattr(self, field.name) != field.default for field in dataclasses.fields(self)):
            raise OpError(f"{type(self).__name__} takes no fields: it passes on what it is given")


@dataclass(frozen=True, kw_only=True)
class Fork(_Wire):
    """Opens parallel branches, each of which takes the map that came in."""


@dataclass(frozen=True, kw_only=True)
class Next(_Wire):
    """Ends a branch and begins the next one of the same Fork."""


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """Closes `branches` branches: the sum of their maps, each of `in_channels`."""

    branches: int = 2
    is_wiring: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Closes `branches` branches: their maps, each of `in_channels`, behind each other."""

    branches: int = 2
    is_wiring: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels * self.branches != self.out_channels:
            raise OpError(f"Concat: {self.branches} x {self.in_channels} channels are not {self.out_channels}")


BLOCKS: tuple[type[Op], ...] = (
    Conv2d, MBConv, SepConv, Pool, Linear, Zero, Identity, Slice, Pad, Fork, Next, Add, Concat,
)  # fmt: skip
KINDS: dict[str, type[Op]] = {kind.__name__: kind for kind in (*BLOCKS, *KERNELS)}
_TEXT = re.compile(r"(\w+)\(([^()]*)\)")


def parse_op(text: str) -> Op:
    """The op whose text form is `text`; `parse_op(str(op)) == op`. Raises OpError, which says what is wrong."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise OpError(f"'{text[:80]}' is not an op: expected Kind(field=value,...)")
    name, body = match.groups()
    if name not in KINDS:
        raise OpError(f"unknown op kind '{name}': {did_you_mean(name, KINDS)}known: {', '.join(KINDS)}")
    fields = {f.name: f for f in dataclasses.fields(KINDS[name])}
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in body.split(","))):
        key, _, raw = part.partition("=")
        if key not in fields:
            raise OpError(f"{name} has no field '{key}': {did_you_mean(key, fields)}fields: {', '.join(fields)}")
        if key in values:
            raise OpError(f"{name}: field '{key}' is given twice")
        if fields[key].type == "int":
            if not re.fullmatch(r"\d{1,9}", raw, re.ASCII):
                raise OpError(f"{name}: {key}={raw!r} is not a whole number")
            values[key] = int(raw)
        else:
            values[key] = raw
    missing = [f.name for f in fields.values() if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise OpError(f"{name}: missing {', '.join(missing)}")
    return KINDS[name](**values)


NETWORK_SEPARATOR = " > "


def network_text(ops: tuple[Op, ...]) -> str:
    """The text form of a chain of ops, wiring included: the key of a whole network in a table."""
    return NETWORK_SEPARATOR.join(map(str, ops))


def parse_network(text: str) -> tuple[Op, ...]:
    """The chain of ops whose text form is `text`. Raises OpError."""
    return tuple(parse_op(part) for part in text.split(NETWORK_SEPARATOR))


def squeeze_width(channels: int) -> int:
    """Width of the squeeze-excite bottleneck: a quarter, to a multiple of 8 (MobileNetV3, arXiv 1905.02244)."""
    return max(8, (channels // 4 + 4) // 8 * 8)


def mbconv(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    kernel: int,
    stride: int,
    expand: int,
    batch: int = 1,
    dtype: str = "fp32",
    **more: Any,
) -> MBConv:
    """MBConv on a square map by its expansion ratio; the shortcut is there whenever shapes allow it."""
    return MBConv(
        in_channels=in_channels,
        out_channels=out_channels,
        height=size,
        width=size,
        kernel=kernel,
        stride=stride,
        mid_channels=in_channels * expand,
        shortcut=int(stride == 1 and in_channels == out_channels),
        batch=batch,
        dtype=dtype,
        **more,
    )
