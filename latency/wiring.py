"""Networks that are not chains, written as chains: `Fork > a > Next > b > Add` is a(x) + b(x).

A network stays a flat tuple of ops, so its text form, its key in tables, its sum of F and its architecture.json are
what they are for a chain. `Fork` opens branches, `Next` begins the next one, `Add` or `Concat` closes them; they nest.
An empty branch is the identity. What takes time is an op with a cost: Add, Concat, Slice (a branch's share of the
channels) and Pad are timed and predicted like any other; Fork and Next start no kernel.

`residual` and `parallel` write such chains; `fold` is the one place that walks them, over shapes, tensors or anything
else. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from devices.errors import UserError
from latency.ops import Add, Concat, Fork, Linear, Next, Op, Slice

Step = Op | int  # an op, or the number of a choice: the slot of one of its candidates
Shape = tuple[int, int, int, int]
T = TypeVar("T")
FORK, NEXT = Fork(), Next()


class WiringError(UserError):
    """Branches that do not open and close, or maps that do not fit together."""


def parallel(*branches: Sequence[Step], close: Add | Concat) -> tuple[Step, ...]:
    """The same input through each of `branches`, then `close`."""
    if close.branches != len(branches):
        raise WiringError(f"{close} closes {close.branches} branches, got {len(branches)}")
    found: list[Step] = [FORK]
    for i, branch in enumerate(branches):
        found += [*([NEXT] if i else []), *branch]
    return (*found, close)


def split(op: Op, branches: int) -> list[Slice]:
    """One Slice for each of `branches`: equal shares of the channels that `op` puts out. Raises WiringError."""
    batch, channels, height, width = op.output_shape
    if channels % branches:
        raise WiringError(f"{channels} channels cannot be split into {branches} equal shares")
    share = channels // branches
    return [
        Slice(
            in_channels=channels,
            out_channels=share,
            start=i * share,
            height=height,
            width=width,
            batch=batch,
            dtype=op.dtype,
        )
        for i in range(branches)
    ]


def is_wired(steps: Sequence[Step]) -> bool:
    """Whether `steps` is more than a chain."""
    return any(isinstance(step, Op) and step.is_wiring for step in steps)


def fold(steps: Sequence[Step], x: T, apply: Callable[[int, T], T], merge: Callable[[Add | Concat, list[T]], T]) -> T:
    """Send `x` through `steps`: `apply(position, x)` for each that is no wiring, `merge(op, xs)` where branches close.

    `steps` must be well formed (`check`). A branch's map is kept until its Add or Concat, the fork's until the last
    branch has taken it.
    """
    forks: list[T] = []
    ends: list[list[T]] = []
    for position, step in enumerate(steps):
        match step:
            case Fork():
                forks.append(x)
                ends.append([])
            case Next():
                ends[-1].append(x)
                x = forks[-1]
            case Add() | Concat():
                forks.pop()
                x = merge(step, [*ends.pop(), x])
            case _:
                x = apply(position, x)
    return x


def check(steps: Sequence[Step], op_of: Callable[[int], Op], what: str) -> None:
    """Raise WiringError, saying `what` and where, unless every branch opens and closes and every map fits.

    `op_of(slot)` is a candidate of a choice: all of a choice have the same shapes.
    """
    _check_brackets(steps, what)
    ops = [step if isinstance(step, Op) else op_of(step) for step in steps]
    before: list[Op] = []

    def apply(position: int, shape: Shape | None) -> Shape:
        op = ops[position]
        if shape is not None and op.input_shape != shape:
            came = f"{before[-1]} gives {shape}" if before else f"the input is {shape}"
            raise WiringError(f"{what}: {came}, but {op} takes {op.input_shape}")
        before.append(op)
        return op.output_shape

    def merge(op: Add | Concat, shapes: list[Shape | None]) -> Shape:
        for shape in shapes:
            if shape is not None and shape != op.input_shape:
                raise WiringError(f"{what}: a branch gives {shape}, but {op} takes {op.input_shape}")
        before.append(op)
        return op.output_shape

    fold(ops, None, apply, merge)


def _check_brackets(steps: Sequence[Step], what: str) -> None:
    counts: list[int] = []
    for position, step in enumerate(steps):
        match step:
            case Fork():
                counts.append(1)
            case Next() | Add() | Concat() if not counts:
                raise WiringError(f"{what}: {step} at place {position} has no Fork before it")
            case Next():
                counts[-1] += 1
            case Add() | Concat():
                found = counts.pop()
                if found != step.branches:
                    raise WiringError(f"{what}: {step} at place {position} closes {found} branches")
            case _:
                pass
    if counts:
        raise WiringError(f"{what}: {len(counts)} Fork without an Add or Concat")


def scaled_sizes(steps: Sequence[Op], height: int, width: int) -> tuple[int, int]:
    """(height, width) that comes out where images of another size than the ops' own go in."""

    def apply(position: int, size: tuple[int, int]) -> tuple[int, int]:
        op = steps[position]
        stride = getattr(op, "stride", 1)
        return (1, 1) if isinstance(op, Linear) else (-(-size[0] // stride), -(-size[1] // stride))

    return fold(steps, (height, width), apply, lambda _, sizes: sizes[0])
