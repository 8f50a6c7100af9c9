"""What a sweep chooses from: ranges and choices of recipe settings, written as `key=low..high` or `key=a,b,c`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from dozan.errors import InputError
from dozan.recipe import Recipe, override

_EXAMPLE = "write train.learning_rate=1e-4..1e-2 or adapter.rank=8,16,32"
Value = float | int | str | bool
_WIDE = 10.0


@dataclass(frozen=True)
class Range:
    """A number between two bounds, which it may be; drawn by its logarithm when they are ten times apart or more."""

    low: float
    high: float

    @property
    def log(self) -> bool:
        return self.low > 0 and self.high / self.low >= _WIDE


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]


Space = Mapping[str, Range | Choice]


def parse_space(texts: Sequence[str], recipe: Recipe) -> Space:
    """The space that `texts` name, else one around the recipe's rate, rank, alpha and epochs.

    Raises InputError for what cannot be read, and for a setting that the recipe does not take at a bound or a choice.
    """
    space = dict(map(_parse, texts)) if texts else around(recipe)
    if recipe.train.max_steps is not None and "train.epochs" in space:
        raise InputError("train.epochs is in the space, but the recipe's train.max_steps replaces it; set it to null")
    for key, part in space.items():
        for value in (part.low, part.high) if isinstance(part, Range) else part.values:
            with_values(recipe, {key: value})
    return space


def around(recipe: Recipe) -> Space:
    """A space around a recipe: its rate within a factor of five, rank, alpha and epochs halved and doubled."""
    train, adapter = recipe.train, recipe.adapter
    found: dict[str, Range | Choice] = {"train.learning_rate": Range(train.learning_rate / 5, train.learning_rate * 5)}
    if train.weights == "adapter":
        found["adapter.rank"] = Choice(tuple(sorted({max(1, adapter.rank // 2), adapter.rank, 2 * adapter.rank})))
        found["adapter.alpha"] = Choice((adapter.alpha / 2, adapter.alpha, 2 * adapter.alpha))
    if train.max_steps is None:
        found["train.epochs"] = Choice((train.epochs / 2, train.epochs))
    return found


def with_values(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with the values of a trial."""
    return override(recipe, [f"{key}={_plain(value)}" for key, value in values.items()])


def own_values(recipe: Recipe, space: Space) -> dict[str, Value] | None:
    """What the recipe itself has at the space's keys, None where that lies outside of the space."""
    found: dict[str, Value] = {}
    for key, part in space.items():
        value: object = recipe
        for name in key.split("."):
            value = getattr(value, name)
        inside = part.low <= value <= part.high if isinstance(part, Range) and isinstance(value, int | float) else (
            isinstance(part, Choice) and value in part.values)  # fmt: skip
        if not inside or not isinstance(value, float | int | str):
            return None
        found[key] = value
    return found


def shown(value: Value) -> str:
    """A value for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Value) -> str:
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _parse(text: str) -> tuple[str, Range | Choice]:
    key, equals, rest = text.partition("=")
    if not equals or not key.strip() or not rest.strip():
        raise InputError(f"--set-space {text!r}: expected a key and its values; {_EXAMPLE}")
    low, dots, high = rest.partition("..")
    if not dots:
        return key.strip(), Choice(tuple(_value(part, text) for part in rest.split(",")))
    bounds = [_value(part, text) for part in (low, high)]
    numbers = [float(bound) for bound in bounds if isinstance(bound, float | int) and not isinstance(bound, bool)]
    if len(numbers) < 2 or not math.isfinite(numbers[1]) or not numbers[0] < numbers[1]:
        raise InputError(f"--set-space {text!r}: the bounds must be two numbers, the lower one first; {_EXAMPLE}")
    return key.strip(), Range(*numbers)


def _value(text: str, whole: str) -> Value:
    plain = text.strip()
    try:
        return float(plain) if not plain.lstrip("+-").isdigit() else int(plain)
    except ValueError:
        value = yaml.safe_load(plain) if plain else None
    if not isinstance(value, bool | str):
        raise InputError(f"--set-space {whole!r}: {text!r} is no value; {_EXAMPLE}")
    return value
