"""A table of counts: what was asked for against what came, cells shaded by the root of their share of the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dozan.html.page import isolated

STYLE = """
table.heat { width: auto; min-width: 24rem; } .heat th, .heat td { padding: .28rem .45rem; }
.heat thead th:not(:first-child) { vertical-align: bottom; text-align: center; font-weight: 500; padding-inline: 0; }
.heat thead td { border-left: 0; }
.heat thead th span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); }
.heat thead th span { white-space: nowrap; }
.heat tbody th { text-align: left; font-weight: 500; white-space: nowrap; }
.heat td { text-align: center; min-width: 2.3rem; border-left: 1px solid var(--rule); }
.heat td.off { background: color-mix(in srgb, var(--bad) calc(var(--share) * 62%), transparent); font-weight: 600; }
.heat td.same { background: color-mix(in srgb, var(--c1) calc(var(--share) * 46%), transparent); }
.heat td.none { color: var(--rule); } .heat td.sum { color: var(--soft); }
""".strip()


def heat_table(
    rows: Sequence[str], columns: Sequence[str], counts: Mapping[tuple[str, str], int], caption: str
) -> str:
    """`counts` by (row, column); equal names are the diagonal. The last column is the row's sum. `caption` is HTML."""
    head = "".join(f'<th scope="col"><span>{isolated(name, 40)}</span></th>' for name in columns)
    body = "".join(_row(name, columns, {column: counts.get((name, column), 0) for column in columns}) for name in rows)
    return (
        f'<div class="scroll"><table class="heat"><caption>{caption}</caption><thead><tr><td></td>{head}'
        f'<th scope="col"><span>in all</span></th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _row(name: str, columns: Sequence[str], counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    cells = "".join(_cell(counts[column], total, column == name) for column in columns)
    return f'<tr><th scope="row">{isolated(name, 40)}</th>{cells}<td class="sum">{total:,}</td></tr>'


def _cell(count: int, total: int, same: bool) -> str:
    if not count:
        return '<td class="none">·</td>'
    look = "same" if same else "off"
    return f'<td class="{look}" style="--share:{max(0.25, (count / total) ** 0.5):.2f}">{count:,}</td>'
