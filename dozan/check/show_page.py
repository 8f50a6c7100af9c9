"""Rows as the model sees them, as one self-contained page: hovering over a token gives its id and weight."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from dozan.check.show import Numbered, Piece, Shown, Turn, lines_of
from dozan.check.show_text import describe
from dozan.check.visible import visible
from dozan.html.page import RIGHT_TO_LEFT, isolated, page

STYLE = """
main { max-width: 64rem; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; font: 13px/1.6 system-ui, "Noto Sans", sans-serif; }
.row { border-top: 1.5px solid var(--ink); margin: 2.6rem 0 0; padding-top: .8rem; }
.row h2 { margin: 0; font-size: 1.15rem; } .row > p { margin: .1rem 0 .9rem; max-width: none; }
.turn { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr); border-top: 1px solid var(--rule); }
.turn > .role, summary { font: 600 13px/1.9 system-ui, "Noto Sans", sans-serif; color: var(--soft); padding: .5rem 0; }
.turn > .role { padding: .55rem .8rem .5rem 0; } details { border-top: 1px solid var(--rule); } details .turn { border: 0; }
summary { cursor: pointer; } summary small { font-weight: 400; margin-inline-start: .6rem; }
.lines { padding: .5rem 0; font: 15px/1.9 system-ui, "Noto Sans", "Noto Sans Arabic", sans-serif; min-width: 0; }
.lines > div { white-space: pre-wrap; overflow-wrap: anywhere; }
.lines bdi.short { white-space: pre; } .t { border-radius: 2px; } .t:hover { outline: 1.5px solid var(--c1); outline-offset: 1px; }
.k { font: 11px/1 ui-monospace, "SF Mono", Menlo, "Noto Sans Mono", monospace; opacity: .62; unicode-bidi: isolate; white-space: nowrap; }
.trained { background: color-mix(in srgb, var(--c1) 22%, transparent); } .trained.k { opacity: 1; color: var(--c1); padding-block: .3em; }
.masked { background: color-mix(in srgb, var(--c2) 24%, transparent); }
.shared { color: color-mix(in srgb, var(--ink) 55%, var(--paper)); }
.stop { background: var(--c1); color: var(--paper) !important; padding: .15em .4em; border-radius: 3px; white-space: nowrap; }
.stop::before { content: "■ "; } .nl { color: var(--soft); opacity: .6; font-size: 11px; unicode-bidi: isolate; }
.marked { position: relative; border-left: 2px solid var(--c3); } .marked.rtl { border-width: 0 2px 0 0; }
.marked::before { content: attr(data-rows); position: absolute; left: 0; top: -1.15em;
  font: 600 10px/1 system-ui, sans-serif; color: var(--c3); white-space: nowrap; direction: ltr; }
.refused { color: var(--bad); }
""".strip()  # noqa: E501

_SHORT = 48


def write_page(path: str | Path, title: str, rows: Sequence[Shown]) -> None:
    """Writes the page of these rows."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(show_page(title, rows), encoding="utf-8")
    staging.replace(path)


def show_page(title: str, rows: Sequence[Shown]) -> str:
    """The page as text. Where there are several rows, a turn that other rows have word for word is folded away."""
    body = [f"<h1>{isolated(title)}</h1>", _LEGEND]
    body += [_row(shown, fold=len(rows) > 1) for shown in rows]
    return page(title, "\n".join(body), STYLE)


_LEGEND = (
    '<p class="legend"><span><span class="trained">trained</span>: the loss sees it</span>'
    "<span>context: given to the model</span>"
    '<span><span class="masked">masked</span>: in the model’s turn, not trained</span>'
    '<span><span class="k trained stop">stop</span> the model stops here</span>'
    '<span><span class="shared">shared</span>: other rows begin so too, '
    '<span style="color:var(--c3)"><b>n</b> ▏</span>as many as stand where it ends</span>'
    "<span>Hover over a token for its id and weight.</span></p>"
)


def _row(shown: Shown, fold: bool) -> str:
    head = f"<h2>{isolated(visible(shown.row))} <span class='soft'>{isolated(visible(shown.place))}</span></h2>"
    if shown.refused:
        why = isolated(visible(shown.refused), 2000)
        return f'<section class="row">{head}<p class="refused">cannot be rendered: {why}</p></section>'
    repairs = "".join(f"<p>repaired: {isolated(visible(repair), 2000)}</p>" for repair in shown.repairs)
    marks, numbered = shown.marks(), iter(enumerate(shown.pieces))
    turns = []
    for turn in shown.turns:
        pieces = [next(numbered) for _ in turn.pieces]
        whole = _turn(turn, pieces, marks)
        turns.append(_folded(turn, whole) if fold else whole)
    return f'<section class="row">{head}<p class="soft">{describe(shown)}</p>{repairs}{"".join(turns)}</section>'


def _folded(turn: Turn, whole: str) -> str:
    """A turn that other rows have word for word, behind its name."""
    rows = turn.pieces[-1].shared
    if not rows:
        return whole
    count = sum(len(piece.ids) for piece in turn.pieces)
    words = f"{escape(turn.role)}<small>{count:,} tokens, the same in {rows:,} other row{'s' * (rows != 1)}</small>"
    return f"<details><summary>{words}</summary>{whole}</details>"


def _turn(turn: Turn, pieces: Sequence[Numbered], marks: dict[int, int]) -> str:
    lines = "".join(_line(line, marks) for line in lines_of(pieces))
    return (
        f'<div class="turn"><div class="role">{escape(turn.role or "text")}</div><div class="lines">{lines}</div></div>'
    )


def _line(line: Sequence[Numbered], marks: dict[int, int]) -> str:
    """A line in its own direction, or of several isolated stretches between control tokens, left to right."""
    stretches = [(control, list(some)) for control, some in groupby(line, key=lambda item: item[1].control)]
    texts = [some for control, some in stretches if not control and any(p.text.strip() for _, p in some)]
    alone = len(texts) == 1 and not any(p.begins_line for _, p in line)
    parts = []
    for control, some in stretches:
        drawn = "".join(_token(piece, marks.get(number)) for number, piece in some)
        short = sum(len(piece.text) for _, piece in some) <= _SHORT
        parts.append(
            drawn if control or alone else f"<bdi class='short'>{drawn}</bdi>" if short else f"<bdi>{drawn}</bdi>"
        )
    return f'<div dir="{"auto" if alone else "ltr"}">{"".join(parts)}</div>'


def _token(piece: Piece, ended: int | None) -> str:
    """A token; `ended`: how many rows share what comes before it and not the token."""
    names = ["t", piece.part] + ["k"] * piece.control + ["stop"] * piece.stop + ["shared"] * (piece.shared > 0)
    names += ["marked"] * bool(ended) + ["rtl"] * (RIGHT_TO_LEFT.search(piece.text) is not None)
    ids = " ".join(map(str, piece.ids))
    about = f"id {ids} · weight {piece.weight:g} · {piece.part}{' · stop' if piece.stop else ''}"
    about += f" · shared with {piece.shared:,} rows" if piece.shared else ""
    text = escape(visible(piece.text)).replace("\n", '<span class="nl">↵</span>')
    attributes = ' dir="ltr"' if piece.control else ""
    attributes += f' data-rows="{ended:,}"' if ended else ""
    return f'<span class="{" ".join(names)}"{attributes} title="{about}">{text}</span>'
