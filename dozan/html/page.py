"""A page around its sections: style for light, dark and paper, and small pieces of HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from dozan.chat.format import Call
from dozan.rows.example import Json

RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_ARABIC = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_QUOTES = re.compile(
    f"(?<!\\w)'(?P<quoted>[^']*[{_ARABIC}][^']*)'(?!\\w)|(?P<bare>[{_ARABIC}](?:[{_ARABIC}\\s0-9،؛.:-]*[{_ARABIC}])?)"
)
_CODE = re.compile("`([^`]+)`")
_LONGEST = 400

STYLE = """
:root { color-scheme: light dark; --paper: #fffefb; --ink: #1d1c1a; --soft: #6b6760; --rule: #dedad1; --wash: #f5f2ea;
  --bad: #a8321f; --c0: #98938a; --c1: #0b6e6e; --c2: #b97a12; --c3: #6a4c93; --c4: #a8432f; }
@media (prefers-color-scheme: dark) { :root { --paper: #16171a; --ink: #e8e5de; --soft: #9c978d; --rule: #34353a;
  --wash: #1f2125; --bad: #f08a75; --c0: #807c75; --c1: #4fc0bb; --c2: #e2ab4c; --c3: #b59ae0; --c4: #ea8a75; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --wash: #f4f4f4;
  --bad: #8c2414; --c0: #8c8880; --c1: #0b6e6e; --c2: #b97a12; --c3: #6a4c93; --c4: #a8432f; }
  main { max-width: none; padding: 0; } section, figure, tr, .case { break-inside: avoid; } details { display: block; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-print-color-adjust: exact;
  print-color-adjust: exact; font: 17px/1.55 "Iowan Old Style", "Palatino Linotype", Palatino, "Noto Serif", Georgia, serif; }
main { max-width: 54rem; margin: 0 auto; padding: 4rem 1.5rem 6rem; }
h1 { font-size: 2.3rem; line-height: 1.15; font-weight: 600; letter-spacing: -.015em; margin: 0 0 1rem; text-wrap: balance; }
h2 { font-size: 1.3rem; font-weight: 600; margin: 3.2rem 0 .6rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.8rem 0 .4rem; }
p { margin: .5rem 0; max-width: 42rem; } .soft, figcaption, caption { color: var(--soft); }
.verdict { font-size: 1.25rem; line-height: 1.5; border-left: 3px solid var(--c1); padding-left: 1.1rem; margin: 1.4rem 0 0; }
table { border-collapse: collapse; width: 100%; font: 14px/1.45 system-ui, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); margin: .8rem 0; }
caption { caption-side: bottom; text-align: left; font-size: 13px; padding-top: .5rem; }
th { font-weight: 600; text-align: right; } thead th { border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th, td { padding: .38rem .6rem; } td { text-align: right; } th:first-child, td.name { text-align: left; font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid var(--rule); } td small { display: block; color: var(--soft); font-size: 12px; }
.scroll { overflow-x: auto; } .groups { table-layout: fixed; }
.groups th:nth-child(1) { width: 27%; } .groups th:nth-child(2) { width: 4.5rem; } .groups th:nth-child(4) { width: 5.5rem; }
.groups td.name { overflow-wrap: anywhere; } td.bars { padding-block: .3rem; } td.bars svg { display: block; }
td.shares span { display: block; line-height: 15px; font-size: 12.5px; white-space: nowrap; }
.bar { width: 100%; height: 13px; margin: 1px 0; } .track { fill: var(--wash); }
.whisker { stroke: var(--ink); stroke-width: 1.4; vector-effect: non-scaling-stroke; opacity: .75; }
figure { margin: 1.2rem 0; } figcaption, .key { font: 13px/1.5 system-ui, "Noto Sans", sans-serif; }
.chart { width: 100%; height: auto; display: block; } .chart text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.key span { margin-right: 1.2rem; white-space: nowrap; } .key i { display: inline-block; width: .75em; height: .75em;
  border-radius: 2px; margin-right: .4em; } .stroke0 { stroke: var(--c0); } .stroke1 { stroke: var(--c1); }
.stroke2 { stroke: var(--c2); } .stroke3 { stroke: var(--c3); } .stroke4 { stroke: var(--c4); }
.fill0 { fill: var(--c0); background: var(--c0); } .fill1 { fill: var(--c1); background: var(--c1); }
.fill2 { fill: var(--c2); background: var(--c2); } .fill3 { fill: var(--c3); background: var(--c3); }
.fill4 { fill: var(--c4); background: var(--c4); }
.case { border-top: 1px solid var(--rule); padding: .8rem 0; font: 14px/1.6 system-ui, "Noto Sans", sans-serif; }
.case .query { font-size: 1.1rem; text-align: start; margin: 0 0 .3rem; max-width: none; }
dl { display: grid; grid-template-columns: 6.5rem 1fr; gap: .1rem .8rem; margin: 0; } dt { color: var(--soft); } dd { margin: 0; }
.facts dl { grid-template-columns: minmax(9rem, 14rem) 1fr; font: 13.5px/1.6 system-ui, "Noto Sans", sans-serif; }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "Noto Sans Mono", monospace; overflow-wrap: anywhere; }
code bdi[dir=rtl] { font-family: system-ui, "Noto Sans Arabic", "Noto Naskh Arabic", sans-serif; font-size: 1.05em; }
mark { color: inherit; background: color-mix(in srgb, var(--bad) 20%, transparent); border-radius: 2px; padding: 0 .1em; }
.tag { font-size: 12px; color: var(--bad); } .tag.won { color: var(--c1); } bdi { unicode-bidi: isolate; }
""".strip()  # noqa: E501


def page(title: str, body: str, style: str = "") -> str:
    """The whole document; it loads nothing and runs nothing. `style` is added to the common one."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def isolated(text: str, longest: int = _LONGEST) -> str:
    """Text that keeps its own direction, escaped and cut at `longest` characters."""
    direction = "rtl" if RIGHT_TO_LEFT.search(text) else "ltr"
    cut = text if len(text) <= longest else text[:longest] + "…"
    return f'<bdi dir="{direction}">{escape(cut)}</bdi>'


def arabic_stretches(text: str) -> Iterator[tuple[str, bool]]:
    """A sentence of ours in parts, and whether each is Arabic that it quotes: what `'...'` holds, or a bare stretch."""
    at = 0
    for found in _QUOTES.finditer(text):
        start, end = found.span(found.lastgroup or 0)
        yield text[at:start], False
        yield text[start:end], True
        at = end
    yield text[at:], False


def prose(text: str, longest: int = 2 * _LONGEST) -> str:
    """A sentence of ours that quotes rows: escaped, cut at `longest`, Arabic in its own direction, `code` as code."""

    def drawn(part: str, is_arabic: bool) -> str:
        return isolated(part, longest) if is_arabic else _CODE.sub(r"<code>\1</code>", escape(part))

    cut = text if len(text) <= longest else text[:longest] + "…"
    return "".join(drawn(part, is_arabic) for part, is_arabic in arabic_stretches(cut))


def marked_up(text: str, longest: int = _LONGEST) -> str:
    """Text of a machine, left to right, each Arabic stretch in it isolated; cut at `longest` characters."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    parts = (isolated(part) if arabic else escape(part) for part, arabic in arabic_stretches(cut))
    return f'<code dir="ltr">{"".join(parts)}</code>'


def show_calls(calls: Sequence[Call], text: str, expected: Sequence[Call] | None = None) -> str:
    """Calls as `name(key: value)`, keys sorted, each value isolated; the text when there is none.

    What is not in a call of `expected` with the same name is marked.
    """
    if not calls:
        return isolated(text) if text.strip() else '<span class="soft">no call, no text</span>'
    return "<br>".join(_call(call, expected) for call in calls[:8])


def _call(call: Call, expected: Sequence[Call] | None) -> str:
    ordered = sorted(call.arguments.items(), key=lambda item: item[0].casefold())
    named = None if expected is None else [other for other in expected if other.name == call.name]
    wrong = [
        bool(named) and not any(_has(other, key, value) for other in named or ()) for key, value in ordered
    ]  # fmt: skip
    parts = (
        _marked(f"{isolated(key)}: {_value(value)}", bad) for (key, value), bad in zip(ordered, wrong, strict=True)
    )
    name = _marked(isolated(call.name), named == [])
    return f'<code dir="ltr">{name}({", ".join(parts)})</code>'


def _has(call: Call, key: str, value: Json) -> bool:
    found = call.arguments.get(key)
    return key in call.arguments and found == value and isinstance(found, bool) == isinstance(value, bool)


def _marked(text: str, bad: bool) -> str:
    return f"<mark>{text}</mark>" if bad else text


def _value(value: Json) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{isolated(str(key))}: {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return f"“{isolated(value)}”"
    return escape(json.dumps(value))


def definitions(facts: Mapping[str, Json]) -> str:
    """Names and values as a list; nested names are joined by dots."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{isolated(_plain(value))}</dd>" for name, value in _flat(facts))
    return f"<dl>{rows}</dl>"


def _flat(facts: Mapping[str, Json], before: str = "") -> list[tuple[str, Json]]:
    found: list[tuple[str, Json]] = []
    for name, value in facts.items():
        nested = isinstance(value, Mapping)
        found += _flat(value, f"{before}{name}.") if nested else [(f"{before}{name}", value)]
    return found


def _plain(value: Json) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
