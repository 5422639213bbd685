"""How alpha learns: one file each, found by name. docs/strategies.md compares them.

A strategy is a frozen dataclass whose fields are its options. It remembers nothing itself: what must survive between
steps lies in `state.memory` and is saved with the search's state.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from devices.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch

    from search.state import SearchState

DEFAULT = "proxyless_g"


class StrategyError(UserError):
    """A strategy or an option of one that does not exist, or a value it cannot take."""


class Strategy(Protocol):
    """One way to update alpha, and what the network looks like while it does. The warm-up is not its concern."""

    def forward(self, state: SearchState, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of a weight step of the search on images (n, C, H, W); no gradient reaches alpha.

        Most take a sampled path (`sampled_path`); some the mixture of all.
        """
        ...

    def step(self, state: SearchState, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """Update `state.supernet.alpha_LK` from validation images (n, C, H, W) and labels (n,); return metrics.

        Weights, batch-norm statistics and the multiplier are left as they are; `state.memory` is the strategy's own.
        Metrics have at least `valid_loss`; `search.alpha.WITHOUT_MULTIPLIER` is 1 where the multiplier had no part.
        """
        ...


def names() -> list[str]:
    """The strategies there are: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def canonical(name: str) -> str:
    """`name` with '-' as '_'. Raises StrategyError listing the names where there is no such file."""
    known = names()
    if name.replace("-", "_") in known:
        return name.replace("-", "_")
    shown = [n.replace("_", "-") for n in known]
    raise StrategyError(
        f"unknown strategy '{name}': {did_you_mean(name.replace('_', '-'), shown)}known: {', '.join(shown)}"
    )


def load(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of search/strategies/NAME.py: its `STRATEGY`, with `options` (texts are parsed) for its fields.

    Raises StrategyError naming what there is: strategies, options, values.
    """
    made = importlib.import_module(f"search.strategies.{canonical(name)}").STRATEGY
    shown, hints = name.replace("_", "-"), typing.get_type_hints(made)
    fields = [field.name for field in dataclasses.fields(made)]
    values: dict[str, Any] = {}
    for option, value in (options or {}).items():
        field = option.replace("-", "_")
        if field not in fields:
            known = f"it has {_described(made)}" if fields else "it has none"
            raise StrategyError(f"strategy {shown} has no option '{option}': {did_you_mean(field, fields)}{known}")
        values[field] = _parsed(value, hints[field], f"option {option}={value} of strategy {shown}")
    strategy: Strategy = made(**values)
    return strategy


def chosen(strategy: Strategy) -> dict[str, Any]:
    """The options that are not the default: what config.json says of them."""
    made: Any = strategy
    fields = dataclasses.fields(made)
    return {f.name: getattr(made, f.name) for f in fields if getattr(made, f.name) != f.default}


def parse_options(texts: list[str]) -> dict[str, str]:
    """`["gates=full"]` -> {"gates": "full"}. Raises StrategyError for what is not NAME=VALUE, or said twice."""
    options: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise StrategyError(f"--strategy-option '{text}': NAME=VALUE is needed, such as gates=full")
        if name in options:
            raise StrategyError(f"--strategy-option {name} is given twice")
        options[name] = value
    return options


def _described(made: type) -> str:
    hints = typing.get_type_hints(made)
    return ", ".join(f"{f.name} ({_kind(hints[f.name])}; default {f.default})" for f in dataclasses.fields(made))


def _kind(hint: Any) -> str:
    choices = typing.get_args(hint)
    return " or ".join(choices) if choices else {int: "a whole number", float: "a number"}[hint]


def _parsed(value: Any, hint: Any, what: str) -> Any:
    choices = typing.get_args(hint)
    if choices:
        if value not in choices:
            raise StrategyError(f"{what}: {did_you_mean(str(value), choices)}{' or '.join(choices)} is needed")
        return value
    try:
        number = hint(str(value))  # as text, so that 4.7 networks are refused and not cut to 4
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StrategyError(f"{what}: {_kind(hint)} is needed")
    return number


def require(condition: bool, option: str, value: object, needed: str) -> None:
    """Raise StrategyError where `condition` on an option's value does not hold."""
    if not condition:
        raise StrategyError(f"strategy option {option}={value}: {needed}")
