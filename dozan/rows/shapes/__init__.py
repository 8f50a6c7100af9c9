"""Shapes of rows by name, in the order in which they are tried; one module a family."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.shapes.benchmarks import BFCL, XLAM
from dozan.rows.shapes.chat import CANONICAL, OPENAI
from dozan.rows.shapes.oasst import OASST, OASST_TREES
from dozan.rows.shapes.pairs import PAIR_SHAPES, TALK, TEXT_SHAPES
from dozan.rows.shapes.shape import Detected, Options, Shape, ShapeError
from dozan.rows.shapes.sharegpt import GLAIVE, SHAREGPT

__all__ = ["SHAPES", "Detected", "Options", "Shape", "ShapeError", "detect_shape", "shape_named"]

_ORDER = (CANONICAL, OPENAI, SHAREGPT, GLAIVE, XLAM, BFCL, OASST, OASST_TREES, TALK, *PAIR_SHAPES, *TEXT_SHAPES)
SHAPES: dict[str, Shape] = {shape.name: shape for shape in _ORDER}


def shape_named(name: str) -> Shape:
    """The shape of that name; InputError with the nearest and all names when there is none."""
    if name in SHAPES:
        return SHAPES[name]
    near = difflib.get_close_matches(name, SHAPES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"shape {name!r}: {hint}known are {', '.join(SHAPES)}")


def detect_shape(values: Sequence[Json]) -> Detected | None:
    """The shape that most of the first rows fit, the more specific of equals, and why; None when none fits any."""
    rows = [value for value in values if isinstance(value, dict)]
    counts = {name: sum(map(shape.detect, rows)) for name, shape in SHAPES.items()}
    name = max(counts, key=lambda name: counts[name], default="")
    if not rows or counts[name] == 0:
        return None
    shape = SHAPES[name]
    which = "the row has" if len(values) == 1 else f"{counts[name]} of the first {len(values)} rows have"
    others = [other for other, count in counts.items() if count == counts[name] and other != name]
    also = f"; they would fit {', '.join(others)} too" if others else ""
    return Detected(name, f"{which} {shape.fields}{also}")
