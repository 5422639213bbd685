"""How long and how fast: every number of a run that is not data, space or target."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from devices.errors import UserError

SMALL_DATA = 10_000  # training images below which the paper's schedule, counted in epochs, would be a few hundred steps


class RecipeError(UserError):
    """A number that no run can use."""


@dataclass(frozen=True)
class Recipe:
    """Steps are weight updates on one batch. Defaults are the paper's where a number does not depend on the data."""

    batch_size: int
    warmup_steps: int
    search_steps: int
    train_steps: int
    alpha_every: int = 5
    alpha_from_step: int = 0
    warmup_lr: float = 0.05
    search_lr: float = 0.025
    train_lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    alpha_lr: float = 1e-3
    dual_rate: float = 0.01
    dual_damping: float = 60.0
    augment: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 2 if field.name == "batch_size" else 1 if field.name in ("search_steps", "alpha_every") else 0
            if not math.isfinite(value) or value < least:
                raise RecipeError(f"--{field.name.replace('_', '-')} {value}: at least {least} is needed")
            if field.name.endswith("_lr") and value == 0:
                raise RecipeError(f"--{field.name.replace('_', '-')} 0: nothing would be learned")

    @property
    def alpha_steps(self) -> int:
        """How many alpha steps the search has."""
        return sum(self.is_alpha_step(step) for step in range(self.search_steps))

    def is_alpha_step(self, step: int) -> bool:
        """Whether an alpha step follows weight step `step` (from 0) of the search."""
        return step >= self.alpha_from_step and (step + 1) % self.alpha_every == 0


def for_data(n_train: int, **chosen: float | None) -> Recipe:
    """The recipe for `n_train` training images; `chosen` fields that are not None replace its own.

    From 10,000 images on, the paper's: 40 epochs of warm-up, 120 of search, batch 256, alpha every 5 weight steps and
    not in the first epoch (arXiv 1812.00332, released code), and 300 epochs of training. Below, a few minutes on two
    cores. A given `search_steps` scales the other two phases with it. The rates of alpha and of the multiplier follow
    from the number of alpha steps there are: see `alpha_rate` and `dual_rate`.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in given:
        if name not in known:
            raise RecipeError(f"a recipe has no '{name}'; it has {', '.join(known)}")
    if n_train < SMALL_DATA:
        base = Recipe(
            batch_size=32,
            warmup_steps=84,
            search_steps=150,
            train_steps=110,
            alpha_every=2,
            warmup_lr=0.01,
            search_lr=0.01,
            train_lr=0.02,
        )
    else:
        batch_size = int(given.get("batch_size", 256))
        epoch = max(1, n_train // max(batch_size, 1))
        base = Recipe(
            batch_size=batch_size,
            warmup_steps=40 * epoch,
            search_steps=120 * epoch,
            train_steps=300 * epoch,
            alpha_from_step=min(epoch, int(given.get("search_steps", 120 * epoch)) // 10),
        )
    factor = given.get("search_steps", base.search_steps) / base.search_steps
    base = dataclasses.replace(
        base, warmup_steps=round(base.warmup_steps * factor), train_steps=round(base.train_steps * factor)
    )
    recipe = dataclasses.replace(base, **given)  # type: ignore[arg-type]
    rates = {"alpha_lr": alpha_rate(recipe.alpha_steps), "dual_rate": dual_rate(recipe.alpha_steps)}
    return dataclasses.replace(recipe, **(rates | given))  # type: ignore[arg-type]


def alpha_rate(alpha_steps: int) -> float:
    """Adam's rate for alpha. A step moves an alpha by about this much, so it sets how far alphas can get in all.

    ImageNet's schedule (110,000 steps) gives the paper's 1e-3, CIFAR-10's (4,200) its 6e-3; never above 0.1, where
    single noisy batches would decide.
    """
    return min(0.1, max(1e-3, 25 / max(alpha_steps, 1)))


def dual_rate(alpha_steps: int) -> float:
    """Step of the multiplier: an error of 1 % in latency, kept up for a whole search, raises it by 1.5.

    Simulated on the Pixel 1 costs with 75, 500 and 4,200 alpha steps, targets from 0.4 to 1.15 times a random network
    and task gradients from a fiftieth of the latency's to its equal, from `search.outset`: E ends within 2 % of T but
    for the strongest; a tenth of this rate leaves it up to 7 % off, and nothing is gained by more damping.
    """
    return 150 / max(alpha_steps, 1)


def cosine(rate: float, step: int, steps: int) -> float:
    """Cosine from `rate` at step 0 to 0 at `steps`."""
    return 0.5 * rate * (1 + math.cos(math.pi * step / max(steps, 1)))
