"""Other people's scores from the same predictions, by name: `mobile-actions`, `aisa`, `bfcl`, `metga97`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dozan.errors import InputError
from dozan.judge.compare import Figure, show_figure
from dozan.judge.measured import Measured, PresetScores
from dozan.judge.preset_aisa import score_aisa
from dozan.judge.preset_bfcl import answered, score_bfcl
from dozan.judge.preset_metga97 import score_metga97
from dozan.judge.preset_mobile import score_mobile_actions
from dozan.judge.summary import RowScore, Scores
from dozan.rows.example import Example

Preset = Callable[[Sequence[RowScore], Sequence[Example]], PresetScores]

PRESETS: Mapping[str, Preset] = {
    "mobile-actions": score_mobile_actions, "aisa": score_aisa, "bfcl": score_bfcl, "metga97": score_metga97,
}  # fmt: skip


def check_preset(name: str) -> None:
    """Raises InputError with the nearest and all names when there is no preset of that name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"preset {name!r}: {hint}known are {', '.join(PRESETS)}")


def rows_for(name: str, examples: Sequence[Example]) -> list[Example]:
    """The rows as a preset reads them: in BFCL's, a row without an answer asks for no call."""
    check_preset(name)
    return answered(examples) if name == "bfcl" else list(examples)


def apply_preset(name: str, scores: Scores, examples: Sequence[Example]) -> PresetScores:
    """A preset's figures for scored rows; `examples` are the rows that were scored.

    Raises InputError for an unknown preset, for other rows, and for rows that the preset cannot judge.
    """
    check_preset(name)
    if [row.id for row in scores.rows] != [example.id for example in examples]:
        raise InputError(f"preset {name}: the scores are of other rows; give the rows that were scored, in their order")
    return PRESETS[name](scores.rows, examples)


def print_preset(found: PresetScores, console: Console | None = None) -> None:
    """Prints whose rules they are, the figures, and those of each group."""
    console = console or Console()
    console.print(found.rules, highlight=False)
    table = Table("", "", "n", box=SIMPLE_HEAD, pad_edge=False)
    for title, figure in found.figures.items():
        table.add_row(title, _shown(figure), f"{figure.n:,}")
    console.print(table)
    if found.groups:
        titles = next(iter(found.groups.values()))
        parts = Table("", "n", *titles, box=SIMPLE_HEAD, pad_edge=False)
        for name, group in found.groups.items():
            most = max(figure.n for figure in group.values())
            parts.add_row(escape(name), f"{most:,}", *(_shown(group[title]) for title in titles))
        console.print(parts)


def _shown(figure: Measured) -> str:
    return show_figure(Figure(figure.value, figure.n, figure.low, figure.high))
