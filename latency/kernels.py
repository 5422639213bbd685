"""Kernels: the ops that networks are made of once a runtime has fused what it fuses. Part of the vocabulary (ops.py).

Where an op of a search space is a block (MBConv), a kernel is what the runtime starts. Tensors of other ranks than 4
are read as (batch, channels, height, width) so that the last axis of (batch, tokens, width) is `channels`:
`height` = tokens, `width` = 1. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from latency.op_base import Op, OpError


@dataclass(frozen=True, kw_only=True)
class KernelOp(Op):
    """What every kernel has besides. `network_kib`: what the network around it reads (latency/kernel_context.py), on
    which depends from how far its code, its weights and its maps come; 0 by itself."""

    network_kib: int = 0


@dataclass(frozen=True, kw_only=True)
class Windowed(KernelOp):
    """A kernel that slides a window. The padding is what gives the output its size; see `padding`.

    `kernel_width`, `stride_width` 0: as `kernel`, `stride`. `out_height`, `out_width` 0: the size divided by the
    stride, rounded up.
    """

    kernel: int
    stride: int = 1
    kernel_width: int = 0
    stride_width: int = 0
    dilation: int = 1
    out_height: int = 0
    out_width: int = 0
    pads_freely: ClassVar[bool] = True
    smooth: ClassVar[tuple[str, ...]] = ("kernel", "stride", "dilation", "groups")

    def __post_init__(self) -> None:
        super().__post_init__()
        _plain(self, "kernel_width", self.kernel)
        _plain(self, "stride_width", self.stride)
        _plain(self, "out_height", -(-self.height // self.stride))
        _plain(self, "out_width", -(-self.width // self.strides[1]))
        self.padding  # noqa: B018  # raises where no padding gives this output

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of the window."""
        return (self.kernel, self.kernel_width or self.kernel)

    @property
    def strides(self) -> tuple[int, int]:
        """(down, across)."""
        return (self.stride, self.stride_width or self.stride)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, height, width) of the output."""
        down, across = self.strides
        height, width = self.out_height or -(-self.height // down), self.out_width or -(-self.width // across)
        return (self.batch, self.out_channels, height, width)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) zeros; the larger half comes last, as in TensorFlow's SAME.

        Raises OpError where no padding, however large, gives the output size.
        """
        found = []
        for size, out, kernel, stride in zip(
            (self.width, self.height), self.output_shape[:1:-1], self.window[::-1], self.strides[::-1], strict=True
        ):
            reach = self.dilation * (kernel - 1) + 1
            pad = max((out - 1) * stride + reach - size, 0)
            if (size + pad - reach) // stride + 1 != out or pad > 2 * (reach + stride):
                raise OpError(
                    f"{type(self).__name__}: no padding gives {out} out of {size} by window {kernel}/{stride}"
                )
            found += [pad // 2, pad - pad // 2]
        return (found[0], found[1], found[2], found[3])


def _plain(op: Op, field: str, default: int) -> None:
    """A field that says what holds anyway is refused, so that every op has one text."""
    if getattr(op, field) == default:
        raise OpError(f"{type(op).__name__}: {field}={default} is what holds without it: leave it out")


@dataclass(frozen=True, kw_only=True)
class DenseConv(Windowed):
    """Convolution over all channels with a window above 1 x 1; bias or folded batch norm, activation.

    `add`: the runtime adds a residual of the output's shape in the same kernel, before the activation.
    """

    act: str = "none"
    add: int = 0


@dataclass(frozen=True, kw_only=True)
class Pointwise(DenseConv):
    """Convolution with a window of 1 x 1."""

    kernel: int = 1


@dataclass(frozen=True, kw_only=True)
class Depthwise(DenseConv):
    """Convolution of every channel by itself."""

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class GroupedConv(DenseConv):
    """Convolution in `groups` groups of channels, neither one nor as many as channels."""

    groups: int


@dataclass(frozen=True, kw_only=True)
class TransposedConv(KernelOp):
    """Transposed convolution; `stride` times larger where `out_height`, `out_width` do not say otherwise."""

    kernel: int
    stride: int = 1
    groups: int = 1
    out_height: int = 0
    out_width: int = 0
    pads_freely: ClassVar[bool] = True
    smooth: ClassVar[tuple[str, ...]] = ("kernel", "stride", "groups")

    def __post_init__(self) -> None:
        super().__post_init__()
        _plain(self, "out_height", self.height * self.stride)
        _plain(self, "out_width", self.width * self.stride)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, height, width) of the output."""
        height, width = self.out_height or self.height * self.stride, self.out_width or self.width * self.stride
        return (self.batch, self.out_channels, height, width)


@dataclass(frozen=True, kw_only=True)
class Pooling(Windowed):
    """Average or maximum over a window."""

    pool: str = "max"

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class GlobalPool(KernelOp):
    """Average or maximum over the whole map."""

    pool: str = "avg"

    keeps_channels: ClassVar[bool] = True

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, 1, 1)."""
        return (self.batch, self.out_channels, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Gemm(KernelOp):
    """batch * height * width rows of `in_channels` times a constant matrix, plus bias: linear layers, classifiers."""

    act: str = "none"


@dataclass(frozen=True, kw_only=True)
class MatMul(KernelOp):
    """`batch` products of two computed matrices, (height x in_channels) (in_channels x out_channels): attention."""


@dataclass(frozen=True, kw_only=True)
class Activation(KernelOp):
    """An activation, or a function of one tensor, by itself."""

    act: str

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Elementwise(KernelOp):
    """A function of two tensors, the second spread over the first by `broadcast`."""

    fn: str = "add"
    broadcast: str = "none"

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class BatchNorm(KernelOp):
    """Batch norm that no convolution takes up (before one, or after a concatenation), with its activation."""

    act: str = "none"

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Join(KernelOp):
    """`parts` tensors copied into one of `out_channels` channels."""

    parts: int = 2
    smooth: ClassVar[tuple[str, ...]] = ("parts",)

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Copy(KernelOp):
    """Data moved, not computed: transposed, cut, padded, shuffled, or brought into the layout of the next kernel.

    The shape is that of what is written.
    """

    copy: str

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class View(KernelOp):
    """A reshape that moves nothing, on a runtime that starts a kernel for it all the same. Sizes do not matter."""

    in_channels: int = 1
    out_channels: int = 1
    height: int = 1
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Resize(KernelOp):
    """The map brought to `out_height` x `out_width`; `blocked`: in the layout of convolutions, by another kernel."""

    out_height: int
    out_width: int
    resize: str = "nearest"
    blocked: int = 0
    keeps_channels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out_height or not self.out_width:
            raise OpError("Resize: out_height and out_width must be at least 1")

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, out_height, out_width)."""
        return (self.batch, self.out_channels, self.out_height, self.out_width)


@dataclass(frozen=True, kw_only=True)
class Softmax(KernelOp):
    """Softmax over `in_channels`, in batch * height * width rows; values of a row lie `width` apart."""

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Norm(KernelOp):
    """Mean and variance taken from the data: layer norm (also with a residual added), instance norm, RMS norm."""

    norm: str = "layer"

    keeps_channels: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Reduce(KernelOp):
    """`in_channels` values reduced to each of batch * height * width; those reduced to one lie `width` apart."""

    reduction: str = "mean"
    out_channels: int = 1


KERNELS: tuple[type[KernelOp], ...] = (
    DenseConv, Pointwise, Depthwise, GroupedConv, TransposedConv, Pooling, GlobalPool, Gemm, MatMul, Activation,
    Elementwise, BatchNorm, Join, Copy, View, Resize, Softmax, Norm, Reduce,
)  # fmt: skip


def windowed(kind: type[Windowed], *, out: tuple[int, int], window: tuple[int, int], strides: tuple[int, int],
             height: int, width: int, **more: Any) -> Windowed:  # fmt: skip
    """`kind` with what goes without saying left out. Raises OpError."""
    fields: dict[str, Any] = {"kernel": window[0], "stride": strides[0], "height": height, "width": width, **more}
    if window[1] != window[0]:
        fields["kernel_width"] = window[1]
    if strides[1] != strides[0]:
        fields["stride_width"] = strides[1]
    sizes = zip(("out_height", "out_width"), (height, width), out, strides, strict=True)
    fields |= {name: given for name, size, given, stride in sizes if given != -(-size // stride)}
    return kind(**fields)


def conv(in_channels: int, out_channels: int, *, groups: int = 1, window: tuple[int, int], **more: Any) -> Windowed:
    """The convolution kernel of the kind that fits: pointwise, dense, depthwise or grouped. Raises OpError."""
    shape = {"in_channels": in_channels, "out_channels": out_channels, "window": window, **more}
    if groups == 1:
        return windowed(Pointwise if window == (1, 1) else DenseConv, **shape)
    if groups == in_channels == out_channels:
        return windowed(Depthwise, **shape)
    return windowed(GroupedConv, groups=groups, **shape)
