"""A loss that is no number stops the run, and says which step, and which learning rate to go on with."""

from __future__ import annotations

import math

from devices.errors import UserError
from search.recipe import Recipe


class Diverged(UserError):
    """The loss, or a weight, is no longer a number."""


def require_finite(loss: float, where: str, advice: str) -> None:
    """Raise Diverged where `loss` is a NaN or infinite, before a step is made from it."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at {where}: {advice}")


def lower(recipe: Recipe, name: str) -> str:
    """What to do where training at the rate `name` of `recipe` went wrong."""
    rate = getattr(recipe, name)
    option = f"--{name.replace('_', '-')} {rate / 3:.2g}"
    return (
        f"try a lower learning rate, {option} (a third of {rate:.3g}): with --resume from the last good checkpoint, "
        "or with --overwrite from the start"
    )
