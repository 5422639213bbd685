"""`search.run --dry-run`: what a run will need of memory, before it runs, and the ways to need less.

The supernet is built and stepped on fake tensors (torch's FakeTensorMode: sizes without bytes), so the full space at
any batch takes no memory, and what is counted is the code that will run. A count takes a second for 21 blocks and some
for 648; every moment of a step is linear in the batch, so two counts tell all batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from devices.errors import UserError
from latency.ops import Linear, Op
from latency.space import Choice, SearchSpace
from search.compute import PLAIN, Compute, Engine, ops_of
from search.costs import Costs
from search.lean import LeanReLU6, lean
from search.memory import GIB, Step, count_step, nbytes, saved_bytes
from search.supernet import Supernet, only_alpha

OPTIMIZERS = {"sgd": 0, "momentum": 1, "adam": 2}  # copies of the parameters that each keeps
PATHS = ("one path", "two paths", "all paths")
NARROW = 0.75
MAX_BATCH = 2**20


@dataclass(frozen=True)
class Setting:
    """`shape` is (channels, height, width) of a training image. `lean`: as runs are; False shows what that saves."""

    space: SearchSpace
    classes: int
    shape: tuple[int, int, int]
    compute: Compute = PLAIN
    lean: bool = True


@dataclass(frozen=True)
class Need:
    """Bytes of one kind of step. `total` is the peak: what stands before the step and the most alive within it."""

    parameters: int
    buffers: int
    optimizer: int
    gradients: int
    activations: int
    total: int


class Estimator:
    """Steps of one setting at any batch size, on the heaviest path: that is the one that must fit."""

    def __init__(self, setting: Setting, optimizer: str = "momentum") -> None:
        """Build the supernet of fakes. Raises UserError where the images do not go through it."""
        self.optimizer = optimizer
        self._counted: dict[tuple[Compute, bool, str], dict[int, Step]] = {}
        self._mode = FakeTensorMode()  # and not the meta device: it is no faster, and autocast does not know it
        with self._mode:
            self.supernet = Supernet(setting.space, _no_costs(setting.space), setting.classes)
            self.setting = setting
            self.order = self._by_weight()
        self.use(setting)

    def use(self, setting: Setting) -> Estimator:
        """Compute as `setting` says, whose space, classes and shape must be those it was built for."""
        self.setting = setting
        lean(self.supernet, setting.lean)
        self._leaner = setting.lean and any(isinstance(m, LeanReLU6) for m in self.supernet.modules())
        for op in ops_of(self.supernet):
            op.__dict__.pop("forward", None)
        with self._mode:
            Engine(self.supernet, dataclasses.replace(setting.compute, compile=False))
        return self

    @property
    def weights(self) -> int:
        """Bytes of the parameters."""
        return nbytes(self.supernet)[0]

    def need(self, paths: str, batch: int) -> Need:
        """What a step of `paths` (one of PATHS) needs at `batch` images; counted, or told by two counts before."""
        step = self._step(paths, batch)
        parameters, buffers = nbytes(self.supernet)
        optimizer = OPTIMIZERS[self.optimizer] * parameters
        during = max(step.peak, 2 * step.gradients)  # the update makes one temporary of the gradients' size
        total = parameters + buffers + optimizer + during
        return Need(parameters, buffers, optimizer, step.gradients, step.activations, total)

    def largest_batch(self, paths: str, budget: int) -> int:
        """The most images a step that needs no more than `budget` bytes; 0 where not even 2 fit.

        The need is the most of several lines in the batch, one for each moment that may be the peak: a convex function.
        So it lies above the line through two of its points outside of them, and below it between them.
        """
        total: dict[int, int] = {}

        def fits(batch: int) -> bool:
            total[batch] = self.need(paths, batch).total
            return total[batch] <= budget

        def crossing(a: int, b: int) -> int:
            return a + (budget - total[a]) * (b - a) // max(total[b] - total[a], 1)

        if not fits(2):
            return 0
        low, high = (64, MAX_BATCH + 1) if fits(64) else (2, 64)
        guess = crossing(2, 64)
        while high - low > 1:
            guess = min(max(guess, low + 1), high - 1)
            if fits(guess):
                high = min(high, max(crossing(low, guess), guess) + 1)
                low = guess
            else:
                high = guess
            guess = crossing(low, high) if high in total else high - 1
        return low

    def _step(self, paths: str, batch: int) -> Step:
        counted = self._counted.setdefault((self.setting.compute, self._leaner, paths), {})
        if batch not in counted:
            step = linear(counted, batch) if len(counted) > 1 else None
            if step is not None:
                return step
            pairs = torch.tensor([[o[0], o[min(1, len(o) - 1)]] for o in self.order])  # no fake: its numbers are read
            with self._mode:
                counted[batch] = self._count(paths, batch, pairs)
        return counted[batch]

    def _count(self, paths: str, batch: int, pairs: torch.Tensor) -> Step:
        supernet, shape = self.supernet, self.setting.shape

        def images() -> tuple[torch.Tensor, torch.Tensor]:
            return torch.empty(batch, *shape), torch.zeros(batch, dtype=torch.long)

        def step(forward: Callable[[torch.Tensor], torch.Tensor]) -> Step:
            return count_step(images, lambda xy: functional.cross_entropy(forward(xy[0]), xy[1]), supernet)

        if paths == "one path":
            heaviest = [order[0] for order in self.order]
            return step(lambda x: supernet(x, heaviest))
        if paths == "two paths":
            gates_L2 = torch.ones(pairs.shape, requires_grad=True)
            with only_alpha(supernet):
                return step(lambda x: supernet.forward_pair(x, pairs, gates_L2))
        assert paths == "all paths", paths
        weights_LK = torch.ones(supernet.alpha_LK.shape, requires_grad=True)
        return step(lambda x: _all_paths(supernet, x, weights_LK))

    def _by_weight(self) -> list[list[int]]:
        """Of each block, its candidates by what they keep for backward, the most first."""
        shape, order = self.setting.shape, []
        known: dict[tuple[Op, torch.Size], int] = {}  # spaces repeat their ops

        def kept_by(op: Op, module: nn.Module, x: torch.Tensor) -> int:
            key = op, x.shape
            if key not in known:
                known[key] = saved_bytes(lambda: module(x), module)
            return known[key]

        def mix(block: int, candidates: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                ops = self.setting.space.choices[block].candidates
                kept = [kept_by(op, module, x) for op, module in zip(ops, candidates, strict=True)]
            order.append(sorted(range(len(kept)), key=lambda i: (-kept[i], i)))
            y: torch.Tensor = candidates[0](x)
            return y

        try:
            with torch.no_grad():
                self.supernet.run(torch.empty(2, *shape), mix)
        except RuntimeError as error:
            size = "x".join(map(str, shape))
            raise UserError(f"images of {size} do not go through the space: {error}") from error
        return order


def linear(counted: Mapping[int, Step], batch: int) -> Step | None:
    """The step at `batch` images by two that were counted; None where their moments are not the same ones."""
    (n0, a), (n1, b) = list(counted.items())[:2]
    if len(a.alive) != len(b.alive) or a.gradients != b.gradients:
        return None

    def at(y0: int, y1: int) -> int:
        return y0 + (y1 - y0) * (batch - n0) // (n1 - n0)

    return Step(at(a.activations, b.activations), a.gradients, tuple(map(at, a.alive, b.alive)))


def _all_paths(supernet: Supernet, x: torch.Tensor, weights_LK: torch.Tensor) -> torch.Tensor:
    """`Supernet.forward_mixture` without a look at the weights, which are fakes."""

    def mix(block: int, candidates: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        weights = weights_LK[block].unbind()
        return torch.stack([w * op(x) for w, op in zip(weights, candidates, strict=False)]).sum(0)

    return supernet.run(x, mix)


def _no_costs(space: SearchSpace) -> Costs:
    import numpy as np

    shape = len(space.choices), max(len(c.candidates) for c in space.choices)
    valid_LK = np.zeros(shape, dtype=np.bool_)
    for block, choice in enumerate(space.choices):
        valid_LK[block, : len(choice.candidates)] = True
    return Costs(np.zeros(shape), valid_LK, 0.0)


def narrower(space: SearchSpace, factor: float = NARROW) -> SearchSpace:
    """`space` with about `factor` times its channels, multiples of 8, images and classes as they are.

    Raises UserError where its ops do not allow it.
    """
    images = space.input_shape[1]

    def scaled(channels: int) -> int:
        return channels if channels == images else max(8, int(channels * factor + 4) // 8 * 8)

    def narrow(op: Op) -> Op:
        changed: dict[str, int] = {"in_channels": scaled(op.in_channels)}
        changed["out_channels"] = op.out_channels if isinstance(op, Linear) else scaled(op.out_channels)
        mid = getattr(op, "mid_channels", None)
        if mid is not None:
            expand, rest = divmod(mid, op.in_channels)
            changed["mid_channels"] = scaled(mid) if rest else expand * changed["in_channels"]
        return dataclasses.replace(op, **changed)  # type: ignore[arg-type]

    choices = tuple(Choice(c.name, tuple(dict.fromkeys(map(narrow, c.candidates)))) for c in space.choices)
    return SearchSpace(
        f"{space.name} x {factor:g}", tuple(map(narrow, space.stem)), choices, tuple(map(narrow, space.head))
    )


@dataclass(frozen=True)
class Way:
    """One way to need less: what it is, what to type, and bytes in all; None where it cannot be."""

    name: str
    how: str
    total: int | None


def ways_down(estimator: Estimator, paths: str, batch: int) -> list[Way]:
    """The ways down from a step of `paths` at `batch` images, each alone."""
    setting = estimator.setting

    def total(**changed: Any) -> int:
        need = estimator.use(dataclasses.replace(setting, **changed)).need(paths, batch)
        estimator.use(setting)
        return need.total

    try:
        narrow = dataclasses.replace(setting, space=narrower(setting.space))
        small: int | None = Estimator(narrow, estimator.optimizer).need(paths, batch).total
    except UserError:
        small = None
    half = max(2, batch // 2)
    found = [
        Way("smaller model", f"--space with {NARROW:g} times the channels", small),
        Way("smaller batch", f"--batch-size {half}", estimator.need(paths, half).total),
    ]
    if setting.compute.precision == "fp32":
        half_precision = dataclasses.replace(setting.compute, precision="bf16")
        found.append(Way("mixed precision", "--precision bf16", total(compute=half_precision)))
    if not setting.compute.checkpoint_activations:
        again = dataclasses.replace(setting.compute, checkpoint_activations=True)
        found.append(Way("checkpointing", "--checkpoint-activations: each op is computed twice", total(compute=again)))
    without = f"as it is: ReLU6 keeps its output alone; else it were {total(lean=False) / GIB:.3g} GiB"
    return [*found, Way("in place", without, estimator.need(paths, batch).total)]
