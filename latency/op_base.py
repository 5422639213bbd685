"""What every op has, and what makes one valid. The vocabulary itself: latency/ops.py. Standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from devices.errors import UserError

#: "none", then what a convolution may carry along; from "prelu" on, functions that only stand alone.
ACTIVATIONS = (
    "none", "relu", "relu6", "hswish", "silu", "gelu", "sigmoid", "hsigmoid", "tanh", "leaky", "elu", "softplus",
    "mish", "prelu", "erf", "exp", "log", "sqrt", "reciprocal", "abs", "neg", "clip",
)  # fmt: skip
DTYPES = ("fp32", "fp16", "bf16", "int8")
POOLS = ("avg", "max")
FUNCTIONS = ("add", "mul", "sub", "div", "max", "min", "pow")
#: How the second operand is spread over the first: not, the same for every row, one number per row, one number.
BROADCASTS = ("none", "inner", "outer", "scalar")
COPIES = ("transpose", "slice", "pad", "expand", "gather", "shuffle", "reorder_in", "reorder_out", "cast", "permute")
NORMS = ("layer", "skip_layer", "instance", "rms")
REDUCTIONS = ("mean", "sum", "max", "min", "prod", "argmax", "norm")
RESIZES = ("nearest", "linear", "cubic")


class OpError(UserError):
    """An op that cannot exist, or a text that is not an op."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """What every op has: an input of (batch, in_channels, height, width) and the channels it puts out."""

    in_channels: int
    out_channels: int
    height: int
    width: int
    batch: int = 1
    dtype: str = "fp32"

    #: True where the op starts no kernel: its latency is zero by definition, not by ignorance.
    is_free: ClassVar[bool] = False
    #: True where the op opens, parts or closes branches instead of turning one map into another: see latency.wiring.
    is_wiring: ClassVar[bool] = False
    #: True where the padding is whatever gives the output's size, not kernel // 2: even kernels are fine then.
    pads_freely: ClassVar[bool] = False
    #: True where as many channels go out as come in.
    keeps_channels: ClassVar[bool] = False
    #: Fields that a predictor may interpolate in, although other kinds know them as choices of few values.
    smooth: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                if not isinstance(value, int) or isinstance(value, bool):
                    raise OpError(f"{type(self).__name__}: {field.name}={value!r} is not a whole number")
                if value < (0 if field.name in _MAY_BE_ZERO else 1):
                    raise OpError(f"{type(self).__name__}: {field.name}={value} is too small")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name, allowed[0])
            if value not in allowed:
                raise OpError(f"{type(self).__name__}: {name}={value!r}; one of {', '.join(map(str, allowed))}")
        if self.keeps_channels and self.in_channels != self.out_channels:
            raise OpError(
                f"{type(self).__name__}: out_channels={self.out_channels} differs from in_channels={self.in_channels}"
            )
        kernel = getattr(self, "kernel", 1)
        if kernel % 2 == 0 and not self.pads_freely:
            raise OpError(f"{type(self).__name__}: kernel={kernel} is even; padding keeps sizes only for odd kernels")
        groups = getattr(self, "groups", 1)
        if self.in_channels % groups or self.out_channels % groups:
            raise OpError(
                f"{type(self).__name__}: groups={groups} divides not {self.in_channels} -> {self.out_channels}"
            )
        if getattr(self, "shortcut", 0) and (self.in_channels, self.output_shape[2:]) != (
            self.out_channels,
            (self.height, self.width),
        ):
            raise OpError(f"{type(self).__name__}: a shortcut needs stride 1 and as many channels out as in")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, in_channels, height, width)."""
        return (self.batch, self.in_channels, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, height, width) of the output; padding is kernel // 2, so sizes divide by stride."""
        stride = getattr(self, "stride", 1)
        return (self.batch, self.out_channels, -(-self.height // stride), -(-self.width // stride))

    def __str__(self) -> str:
        return f"{type(self).__name__}({','.join(f'{k}={v}' for k, v in _text_fields(self))})"


_MAY_BE_ZERO = (
    "shortcut", "se", "expand_conv", "start", "add", "blocked",
    "kernel_width", "stride_width", "out_height", "out_width", "network_kib",
)  # fmt: skip
_CHOICES: dict[str, tuple[Any, ...]] = {
    "act": ACTIVATIONS,
    "dtype": DTYPES,
    "pool": POOLS,
    "shortcut": (0, 1),
    "se": (0, 1),
    "expand_conv": (0, 1),
    "add": (0, 1),
    "fn": FUNCTIONS,
    "broadcast": BROADCASTS,
    "copy": COPIES,
    "norm": NORMS,
    "reduction": REDUCTIONS,
    "resize": RESIZES,
}


def ordered_fields(kind: type[Op]) -> tuple[dataclasses.Field[Any], ...]:
    """Required fields first, then optional ones, each in order of declaration."""
    fields = dataclasses.fields(kind)
    return tuple(sorted(fields, key=lambda f: f.default is not dataclasses.MISSING))


def _text_fields(op: Op) -> list[tuple[str, Any]]:
    return [(f.name, getattr(op, f.name)) for f in ordered_fields(type(op)) if getattr(op, f.name) != f.default]
