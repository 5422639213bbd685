"""How long and how fast: every number of a run that is not data, space or target."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from devices.errors import UserError

SMALL_DATA = 10_000  # training images below which the paper's schedule, counted in epochs, would be a few hundred steps
LARGE_DATA = 500_000  # from here on ImageNet's numbers; between the two, CIFAR-10's
DROPOUTS = {"proxyless_cpu": 0.2, "proxyless_gpu": 0.3}  # arXiv 1812.00332, released nets; the mobile one has 0.1


BATCH = 256
BELOW_ONE = ("dropout", "cutout", "ema", "label_smoothing")


class RecipeError(UserError):
    """A number that no run can use."""


@dataclass(frozen=True)
class Recipe:
    """Steps are weight updates on one batch. Defaults are the paper's where a number does not depend on the data.

    `clip_norm`: the norm gradients are cut to, 0 for never. Of the final training alone: `dropout` before the
    classifier, `cutout`, the side of the square cut out of each image as a share of the image's, and `ema`, the decay
    of the average of weights that is evaluated and exported (0: the last weights are).
    """

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
    clip_norm: float = 0.0
    dropout: float = 0.0
    cutout: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 2 if field.name == "batch_size" else 1 if field.name in ("search_steps", "alpha_every") else 0
            if not math.isfinite(value) or value < least:
                raise RecipeError(f"--{field.name.replace('_', '-')} {value}: at least {least} is needed")
            if field.name.endswith("_lr") and value == 0:
                raise RecipeError(f"--{field.name.replace('_', '-')} 0: nothing would be learned")
            if field.name in BELOW_ONE and value >= 1:
                raise RecipeError(f"--{field.name.replace('_', '-')} {value}: below 1 is needed")

    def regularisation(self, search: bool = True) -> str:
        """Rates (of all phases, or of the final training alone) and what keeps it from overfitting, for people."""
        rates = f"lr {self.warmup_lr:.3g}, {self.search_lr:.3g}, {self.train_lr:.3g}"
        rates = rates if search else f"lr {self.train_lr:.3g}"
        names = ("weight_decay", "label_smoothing", "clip_norm", "dropout", "cutout", "ema")
        used = [f"{name.replace('_', ' ')} {getattr(self, name):g}" for name in names if getattr(self, name)]
        return ", ".join([rates, *used, *([] if self.augment else ["no augmentation"])])

    @property
    def alpha_steps(self) -> int:
        """How many alpha steps the search has."""
        return sum(self.is_alpha_step(step) for step in range(self.search_steps))

    def is_alpha_step(self, step: int) -> bool:
        """Whether an alpha step follows weight step `step` (from 0) of the search."""
        return step >= self.alpha_from_step and (step + 1) % self.alpha_every == 0


def for_data(n_train: int, *, space: str = "", strategy: str = "", device: str = "cpu", **chosen: Any) -> Recipe:
    """The recipe for `n_train` training images; `chosen` fields that are not None replace its own.

    From 500,000 images on, ImageNet's (arXiv 1812.00332, released code): 40 epochs of warm-up, 120 of search, batch
    256, alpha every 5 weight steps and not in the first epoch, and 300 epochs of training with dropout. From 10,000
    on, CIFAR-10's: cutout in the training, the same epochs on a GPU, a tenth of them on a CPU, where they would take
    days. Below, a few minutes on two cores.

    A given `batch_size` scales the learning rates in proportion (lr = base * batch / base batch; for the paper's,
    base * batch / 256; Goyal et al., arXiv 1706.02677). A given `search_steps` scales the other two phases with it.
    The rates of alpha and of the multiplier follow from the number of alpha steps: see `alpha_rate` and `dual_rate`.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in given:
        if name not in known:
            raise RecipeError(f"a recipe has no '{name}'; it has {', '.join(known)}")
    base = _small() if n_train < SMALL_DATA else _by_epochs(n_train, space, device, given.get("batch_size"))
    if base.alpha_from_step:
        base = dataclasses.replace(
            base, alpha_from_step=min(base.alpha_from_step, int(given.get("search_steps", base.search_steps)) // 10)
        )
    scale = max(given.get("batch_size", base.batch_size), 1) / base.batch_size
    factor = given.get("search_steps", base.search_steps) / base.search_steps
    base = dataclasses.replace(
        base,
        warmup_steps=round(base.warmup_steps * factor),
        train_steps=round(base.train_steps * factor),
        **{name: getattr(base, name) * scale for name in ("warmup_lr", "search_lr", "train_lr")},
    )
    recipe = dataclasses.replace(base, **given)
    rate = alpha_rate(recipe.alpha_steps)
    if strategy.replace("-", "_") == "proxyless_r":  # arXiv 1812.00332, CIFAR-10: 0.01 by REINFORCE, 0.006 by gates
        rate = min(0.1, rate * 0.01 / 0.006)
    rates = {"alpha_lr": rate, "dual_rate": dual_rate(recipe.alpha_steps)}
    return dataclasses.replace(recipe, **(rates | given))


def check_batch(recipe: Recipe, available: int) -> None:
    """Raise RecipeError where a batch has more images than there are: rates that scale with it would be too high."""
    if recipe.batch_size > available:
        raise RecipeError(
            f"--batch-size {recipe.batch_size}: there are only {available} images to train on; "
            f"at most {available} is possible"
        )


def _small() -> Recipe:
    return Recipe(
        batch_size=32,
        warmup_steps=84,
        search_steps=150,
        train_steps=110,
        alpha_every=2,
        warmup_lr=0.01,
        search_lr=0.01,
        train_lr=0.02,
    )


def _by_epochs(n_train: int, space: str, device: str, batch_size: float | None) -> Recipe:
    """The paper's schedule; steps are of `batch_size` images, rates still of the base batch of 256."""
    epoch = max(1, n_train // max(int(batch_size or BATCH), 1))
    large = n_train >= LARGE_DATA
    share = 1.0 if large or device != "cpu" else 0.1
    return Recipe(
        batch_size=BATCH,
        warmup_steps=round(40 * epoch * share),
        search_steps=round(120 * epoch * share),
        train_steps=round(300 * epoch * share),
        alpha_from_step=round(epoch * share),
        dropout=DROPOUTS.get(space, 0.1) if large else 0.0,
        cutout=0.0 if large else 0.5,  # 16 of CIFAR-10's 32 pixels (DeVries and Taylor, arXiv 1708.04552)
    )


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
