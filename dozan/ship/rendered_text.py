"""Renderings compared, as a person reads them: in a terminal, and as one page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rich.console import Console
from rich.text import Text

from dozan.chat.render_diff import Place
from dozan.chat.render_targets import RUNTIMES, SOURCES
from dozan.check.visible import isolate_arabic, visible
from dozan.html.page import marked_up, page
from dozan.ship.rendered import Rendering, RowRendered, summary

_SPACES = str.maketrans({"\n": "⏎", " ": "·", "\t": "→"})
_LONGEST = 240
_STYLE = """
.row { border-top: 1px solid var(--rule); margin-top: 2rem; } .place { margin: .5rem 0 1rem; }
.place code { display: block; padding: .1rem .4rem; white-space: pre-wrap; }
.gone { background: color-mix(in srgb, var(--bad) 16%, transparent); }
.come { background: color-mix(in srgb, var(--c1) 18%, transparent); }
td.say, thead th { text-align: left; } .same { color: var(--c1); } .place p { font-size: 14px; }
""".strip()


def print_rows(rows: Sequence[RowRendered], most: int, console: Console) -> None:
    """A summary for each runtime over all rows, then the places of the first row in which one differs."""
    for row in rows:
        if row.refused:
            console.print(Text(f"{row.row}: cannot be rendered: {row.refused}", "bold red"), soft_wrap=True)
    for name in RUNTIMES:
        said = summary(rows, name)
        first, *rest = _lines(said)
        line = Text.assemble((f"{name:13}", "bold"), (first, "green" if said.startswith("same bytes") else "yellow"))
        console.print(line, soft_wrap=True)
        for more in rest:
            console.print(f"{'':13}{more}", soft_wrap=True, markup=False)
        console.print(Text(f"{'':13}{SOURCES[name].writer}; {SOURCES[name].checked}", "dim"), soft_wrap=True)
    shown = next((row for row in rows if any(not found.same for found in row.renderings)), None)
    if shown is None or not most:
        return
    console.print(Text(f"\nrow {shown.row}", "bold"), soft_wrap=True)
    for found in shown.renderings:
        _print_places(found, most, console)


def _lines(said: str) -> list[str]:
    """A summary with each reason on a line of its own."""
    head, colon, why = said.partition(": ")
    if not colon or head.startswith("refused"):
        return [said]
    return [f"{head}:", *(f"  {part}" for part in why.split("; "))]


def _print_places(found: Rendering, most: int, console: Console) -> None:
    if found.same:
        return
    console.print(Text(f"\n{found.runtime}" + (f": {found.refused}" if found.refused else ""), "bold"), soft_wrap=True)
    for place in found.places[:most]:
        console.print(Text(f"  byte {place.at}: {place.why}", "dim"), soft_wrap=True)
        for sign, text, style in (("-", place.trained, "red"), ("+", place.theirs, "green")):
            around = (_seen(place.before, end=True), _seen(text), _seen(place.after))
            line = Text.assemble(f"  {sign} …", around[0], (around[1] or "∅", f"bold {style}"), around[2], "…")
            console.print(line, soft_wrap=True)
    if len(found.places) > most:
        console.print(f"  and {len(found.places) - most} more (--list)", style="dim")


def _seen(text: str, end: bool = False) -> str:
    """Text with its white space drawn, invisible characters named, Arabic isolated, cut to what fits."""
    cut = text if len(text) <= _LONGEST else f"…{text[-_LONGEST:]}" if end else f"{text[:_LONGEST]}…"
    return isolate_arabic(visible(cut.replace("\n", "⏎").replace("\t", "→"))) if cut.strip() else cut.translate(_SPACES)


def rows_page(rows: Sequence[RowRendered], title: str) -> str:
    """All rows with all their places as one document."""
    body = [f"<h1>{escape(title)}</h1>", "<p>What each runtime writes, beside the bytes that were trained.</p>"]
    body.append('<table><thead><tr><th>runtime</th><th class="name">bytes</th><th>how it is known</th></tr></thead>')
    for name in RUNTIMES:
        said = summary(rows, name)
        kind = " same" if said.startswith("same bytes") else ""
        lines = "<br>".join(map(escape, _lines(said)))
        body.append(f'<tr><td class="name">{name}</td><td class="say{kind}">{lines}</td>'
                    f'<td class="say"><small>{escape(SOURCES[name].writer)}; {escape(SOURCES[name].checked)}</small>'
                    "</td></tr>")  # fmt: skip
    body.append("</table>")
    for row in rows:
        body.append(f'<div class="row"><h2>{escape(row.row)}</h2>')
        body.append(f"<p>cannot be rendered: {escape(row.refused)}</p>" if row.refused else "")
        body += [_rendering(found) for found in row.renderings if not found.same]
        alike = [found.runtime for found in row.renderings if found.same]
        body.append(f"<p class='soft'>same bytes: {escape(', '.join(alike))}</p>" if alike else "")
        body.append("</div>")
    return page(title, "\n".join(body), _STYLE)


def _rendering(found: Rendering) -> str:
    places = "".join(_place(place) for place in found.places)
    refused = f"<p>{escape(found.refused)}</p>" if found.refused else ""
    return f"<h3>{found.runtime}</h3>{refused}{places}"


def _place(place: Place) -> str:
    lines = "".join(
        f'<code dir="ltr">{sign} {_marked(place.before)}<span class="{kind}">{_marked(text) or "∅"}</span>'
        f"{_marked(place.after)}</code>"
        for sign, kind, text in (("−", "gone", place.trained), ("+", "come", place.theirs))
    )
    return f'<div class="place"><p class="soft">byte {place.at}: {escape(place.why)}</p>{lines}</div>'


def _marked(text: str) -> str:
    """Text with its line breaks drawn and Arabic in its own direction."""
    inner = marked_up(visible(text.replace("\n", "⏎") if text.strip() else text.translate(_SPACES)))
    return inner.removeprefix('<code dir="ltr">').removesuffix("</code>")
