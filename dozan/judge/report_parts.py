"""Small pieces that every part of a report is made of: shares with intervals, keys to the colours, a row as a case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from dozan.html.page import RIGHT_TO_LEFT, isolated, marked_up, show_calls
from dozan.judge.compare import Figure
from dozan.judge.summary import RowScore, Scores
from dozan.rows.example import Json

Runs = Mapping[str, Scores]

COLOURS = 5
_LONGEST = 160
"""Characters of a malformed answer: what is wrong with it is said beside it."""

MEANING = {
    "parse_failure": "the answer is malformed", "missed_call": "a call is missing", "false_call": "a call too many",
    "wrong_name": "another tool was called", "off_schema_key": "an argument the tool does not have",
    "missing_required": "a required argument is missing", "type_error": "a value of another type",
    "ungrounded": "a value that stands nowhere in the conversation", "wrong_language": "a value in another script",
    "wrong_year": "the right day of another year", "digits": "the same value in other digits",
    "wrong_value": "another value", "missing_optional": "an optional argument is missing",
    "extra_argument": "an optional argument too many", "surface_form": "the same value, written otherwise",
}  # fmt: skip


def per_cent(share: float | None) -> str:
    """`83.8 %`; a dash for nothing."""
    return "–" if share is None else f"{100 * share:.1f}\u202f%"


def span(low: float | None, high: float | None) -> str:
    """`79.8–87.1`, in per cent; "" without an interval."""
    return "" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"


def figure(part: Mapping[str, Json], key: str) -> Figure:
    """A proportion of a part of `Scores.summary()`."""
    interval = part["intervals"][key]
    return Figure(part[key], interval["n"], interval["low"], interval["high"])


def counted(part: Mapping[str, Json], key: str) -> str:
    """`34 of 41 (82.9 %, 68.7–91.5)` of a proportion over at least one."""
    interval = part["intervals"][key]
    bounds = span(interval["low"], interval["high"])
    return f"{interval['right']:,} of {interval['n']:,} ({unbroken(f'{per_cent(part[key])}, {bounds}')})"


def unbroken(text: str) -> str:
    """HTML that stays on one line."""
    return f'<span class="nb">{text}</span>'


def number(count: int, one: str, many: str = "") -> str:
    """`1 row`, `1,200 rows`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def cell(found: Figure) -> str:
    """A table's cell: the share, its interval beneath."""
    interval = span(found.low, found.high)
    return f"<td>{per_cent(found.value)}{f'<small>{interval}</small>' if interval else ''}</td>"


def key_mark(i: int) -> str:
    """The colour of the i-th model."""
    return f'<span class="key"><i class="fill{i % COLOURS}"></i></span>'


def key(names: Iterable[tuple[str, int]]) -> str:
    """What the colours stand for."""
    marks = "".join(f'<span><i class="fill{colour}"></i>{isolated(name)}</span>' for name, colour in names)
    return f'<p class="key">{marks}</p>'


def label(kind: str) -> str:
    """A fault's name in words."""
    return kind.replace("_", " ")


def case(row: RowScore, tag: str, before: Mapping[str, RowScore] | None = None) -> str:
    """A row: what was said, what was expected and what was answered, where this differs marked.

    `tag` is HTML; `before` has other models' answers to the row, by name, when they are to be shown.
    """
    about = " · ".join(isolated(part) for part in (row.dialect, row.place or row.id) if part)
    direction = "rtl" if RIGHT_TO_LEFT.search(row.query) else "ltr"
    lines = [("expected", show_calls(row.gold, row.gold_text))]
    lines += [(isolated(name), _answer(other)) for name, other in (before or {}).items()]
    lines.append(("answered", _answer(row)))
    if row.problems:
        lines.append(("problem", isolated("; ".join(row.problems))))
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in lines)
    return (
        f'<div class="case"><p class="query" dir="{direction}">{isolated(row.query)}</p>'
        f'<p class="about">{tag} <span class="soft">{about}</span></p><dl>{listed}</dl></div>'
    )


def _answer(row: RowScore) -> str:
    """Its calls, or its text; a malformed answer as it stands."""
    if row.problems and not row.calls and row.prediction.strip():
        return marked_up(row.prediction, _LONGEST)
    return show_calls(row.calls, row.prediction, row.gold)


def particular(detail: str) -> str:
    """A fault's detail; in `gold → made` each side keeps its own direction, and the two their order."""
    sides = [isolated(side, 80) for side in detail.split(" → ")]
    return sides[0] if len(sides) == 1 else f'<bdi dir="ltr">{" → ".join(sides)}</bdi>'


def details(row: RowScore) -> str:
    """The particulars of a row's gravest fault."""
    return escape(", ").join(particular(fault.detail) for fault in row.faults if fault.kind == row.error)
