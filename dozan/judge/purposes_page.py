"""Purposes as pages and tables: the figures, and every answer beside the reference for a reader to judge."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dozan.html.page import isolated, page
from dozan.judge.purposes import PurposeRow, PurposeScores, guard_note

_TEXT = 1500
_MARKS = {None: "", True: '<span class="tag won">right</span> ', False: '<span class="tag">wrong</span> '}


def table(runs: Mapping[str, PurposeScores]) -> Table:
    """One line a model: right answers with their interval, loss with its, each measure, wrong answers by reason."""
    first = next(iter(runs.values())).summary()
    measures = list(first["measures"])
    shown = Table("", "right", "loss", *(name.replace("_", " ") for name in measures), "wrong by",
                  title=f"{first['purpose']}: {first['n']} rows", title_justify="left", box=SIMPLE_HEAD,
                  pad_edge=False)  # fmt: skip
    for column in shown.columns[1:-1]:
        column.justify = "right"
    for name, scores in runs.items():
        found = scores.summary()
        reasons = ", ".join(f"{reason} {count}" for reason, count in found["reasons"].items())
        means = (f"{found['measures'][key]:.2f}" for key in measures)
        shown.add_row(name, _share(scores), _loss(scores), *means, reasons)
    return shown


def html(runs: Mapping[str, PurposeScores], most: int = 50) -> str:
    """The page of one purpose: figures, then answers side by side, at most `most` rows."""
    purpose = next(iter(runs.values())).purpose
    title = f"{purpose.capitalize()}: {', '.join(runs)}"
    body = "".join(
        f'<tr><td class="name">{isolated(name)}</td><td>{_share(scores)}</td><td>{_loss(scores)}</td></tr>'
        for name, scores in runs.items()
    )
    head = "<thead><tr><th></th><th>right</th><th>loss, nats a token</th></tr></thead>"
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in map(guard_note, runs.values()) if note)
    figures = f"<table>{head}<tbody>{body}</tbody></table>{notes}"
    return page(title, f"<h1>{isolated(title)}</h1>{figures}<h2>Side by side</h2>{side_by_side(runs, most)}")


def side_by_side(runs: Mapping[str, PurposeScores], most: int) -> str:
    """Rows with what was asked, the reference and each model's answer; those where the last model is worst first."""
    columns = list(runs.values())
    order = sorted(range(len(columns[0].rows)), key=lambda i: _badness(columns[0].rows[i], columns[-1].rows[i]))[:most]
    cases = "".join(_case({name: scores.rows[i] for name, scores in runs.items()}) for i in order)
    left = len(columns[0].rows) - len(order)
    return cases + (f'<p class="soft">and {left:,} more rows.</p>' if left else "")


def _badness(first: PurposeRow, last: PurposeRow) -> tuple[bool, float]:
    """Sorts rows that were lost first, then by how much the loss rose."""
    lost = bool(first.right) and last.right is False
    return not lost, (first.loss or 0.0) - (last.loss or 0.0)


def _case(rows: Mapping[str, PurposeRow]) -> str:
    any_row = next(iter(rows.values()))
    parts = [f"<dt>reference</dt><dd>{_text(any_row.reference)}</dd>"]
    for name, row in rows.items():
        mark = _MARKS[row.right]
        loss = "" if row.loss is None else f'<span class="soft">loss {row.loss:.3f}</span> '
        why = f' <span class="soft">{isolated(row.why)}</span>' if row.why else ""
        parts.append(f"<dt>{isolated(name)}</dt><dd>{mark}{loss}{_text(row.answer) if row.answer else ''}{why}</dd>")
    place = escape(any_row.place or any_row.id)
    return (f'<div class="case"><p class="query">{_text(any_row.question)}</p><span class="soft">{place}</span>'
            f"<dl>{''.join(parts)}</dl></div>")  # fmt: skip


def _text(text: str) -> str:
    """A text with its lines, each paragraph in its own direction."""
    return "<br>".join(isolated(line, _TEXT) for line in text[:_TEXT].splitlines())


def _share(scores: PurposeScores) -> str:
    found = scores.summary()
    if found["share"] is None:
        return "–"
    return f"{100 * found['share']:.1f} % ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _loss(scores: PurposeScores) -> str:
    found = scores.summary()
    return "–" if found["loss"] is None else f"{found['loss']:.3f} ({found['loss_low']:.3f}–{found['loss_high']:.3f})"
