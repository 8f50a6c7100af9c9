"""A report's tables of scores: all models, what changed against the first, call rows and others, and by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dozan.html.charts import bar
from dozan.html.page import isolated
from dozan.judge.compare import COLUMNS, TITLES, Comparison
from dozan.judge.gates import Verdict
from dozan.judge.paired import Difference
from dozan.judge.report_parts import COLOURS, Runs, cell, figure, key, key_mark, number, per_cent
from dozan.rows.example import Json

_GROUPS = (
    ("By dialect", "by_dialect", "rows"),
    ("By kind of row", "by_kind", "rows"),
    ("By length of the command", "by_length", "rows, by the words of the command"),
    ("By tool", "by_tool", "calls that the rows ask for"),
    ("By kind of argument", "by_argument_kind", "arguments; copied ones stand verbatim in the user’s text"),
)
_LARGEST_GROUP = 60


def scores_section(comparison: Comparison, runs: Runs, gates: Sequence[Verdict] = ()) -> str:
    """Scores and differences with intervals, call and no-call rows apart, and gates where there are any."""
    head = "".join(f'<th scope="col">{TITLES[column]}</th>' for column in COLUMNS)
    body = "".join(
        f'<tr><th scope="row">{key_mark(i)}{isolated(name)}</th>{"".join(cell(figures[c]) for c in COLUMNS)}</tr>'
        for i, (name, figures) in enumerate(comparison.figures.items())
    )
    caption = (
        f"Scores of {comparison.n:,} rows. <i>Strict</i>: calls equal as typed JSON, in any order. <i>Normalised</i>: "
        "after normalising digits, dates, phone numbers and Arabic spelling by the tool’s schema. <i>Graded F1</i>: "
        "over (call, argument, value). Beneath each share its 95\u202f% interval (Wilson; F1 by bootstrap over rows). "
        "Tool name is over the rows that ask for a call."
    )
    return (
        f'<section id="scores"><h2>Scores</h2>{_table(caption, head, body)}{_differences(comparison)}'
        f"{_call_table(runs)}{_gates(gates)}</section>"
    )


def _table(caption: str, head: str, body: str, look: str = "") -> str:
    named = f' class="{look}"' if look else ""
    return (
        f'<div class="scroll"><table{named}><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _differences(comparison: Comparison) -> str:
    """Each model less the first."""
    if not comparison.versus:
        return ""
    first = next(iter(comparison.figures))
    head = "".join(f'<th scope="col">{TITLES[column]}</th>' for column in COLUMNS)
    head += '<th scope="col">won</th><th scope="col">lost</th>'
    body = "".join(
        f'<tr><th scope="row">{key_mark(i)}{isolated(name)} − {isolated(first)}</th>'
        f"{''.join(_change(found.differences[column]) for column in COLUMNS)}"
        f"<td>{len(found.strict.wins):,}</td><td>{len(found.strict.regressions):,}</td></tr>"
        for i, (name, found) in enumerate(comparison.versus.items(), 1)
    )
    caption = (
        f"Differences to {isolated(first)} in points of per cent, on the same rows, with 95\u202f% intervals "
        "(bootstrap over rows), and rows won and lost by strict."
    )
    return _table(caption, head, body)


def _change(found: Difference) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "<td>–</td>"
    return f"<td>{points(found.value)}<small>{points(found.low)} to {points(found.high)}</small></td>"


def points(share: float) -> str:
    """A difference of shares in points of per cent, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _call_table(runs: Runs) -> str:
    """Rows that ask for a call, and rows that ask for none, apart."""
    rows = []
    for i, (name, scores) in enumerate(runs.items()):
        summary = scores.summary()
        calls, none = summary["calls"], summary["no_calls"]
        figures = ((calls, "strict"), (calls, "missed_calls"), (none, "strict"), (none, "false_calls"))
        cells = "".join(cell(figure(part, key)) for part, key in figures)
        rows.append(f'<tr><th scope="row">{key_mark(i)}{isolated(name)}</th>{cells}</tr>')
    summary = next(iter(runs.values())).summary()
    asked, none = summary["calls"]["n"], summary["no_calls"]["n"]
    names = ("strict", "no call made", "right", "a call made")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    over = (
        f'<th colspan="2" scope="colgroup">{number(asked, "row")} that ask for a call</th>'
        f'<th colspan="2" scope="colgroup">{number(none, "row")} that ask for none</th></tr><tr><td></td>'
    )
    return _table("Call and no-call rows apart.", over + head, "".join(rows))


def _gates(gates: Sequence[Verdict]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{isolated(gate.gate.text)}</code></th><td>{isolated(gate.model)}</td>'
        f"<td>{gate.found:.4g}</td><td>{gate.bound:.4g}</td>"
        f"<td>{'met' if gate.met else '<b class=bad>missed</b>'}</td></tr>"
        for gate in gates
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("model", "found", "bound", ""))
    return _table("Gates: what a model must reach to be let through.", head, rows) if rows else ""


def groups_section(runs: Runs) -> str:
    """Strict by dialect, kind, length, tool and kind of argument, as bars with whiskers."""
    summaries = [scores.summary() for scores in runs.values()]
    tables = [_group(title, [summary[name] for summary in summaries], unit) for title, name, unit in _GROUPS]
    marks = key((name, i % COLOURS) for i, name in enumerate(runs))
    lead = (
        "<p>The share that is strictly right; whiskers are 95\u202f% intervals, <i>n</i> counts what stands in "
        "parentheses.</p>"
    )
    found = "".join(tables)
    return f'<section id="where"><h2>Where it is right</h2>{lead}{marks}{found}</section>' if found else ""


def _group(title: str, parts: Sequence[Mapping[str, Json]], unit: str) -> str:
    names = [name for name, part in parts[0].items() if part["n"]]
    largest = sorted(names, key=lambda name: -parts[0][name]["n"])[:_LARGEST_GROUP]
    rows = []
    for name in (name for name in names if name in largest):
        figures = [figure(part[name], "strict") for part in parts if name in part]
        bars = "".join(bar(f.value or 0.0, f.low, f.high, i % COLOURS) for i, f in enumerate(figures))
        shares = "".join(f"<span>{per_cent(found.value)}</span>" for found in figures)
        rows.append(
            f'<tr><th scope="row">{isolated(name)}</th><td>{parts[0][name]["n"]:,}</td>'
            f'<td class="bars">{bars}</td><td class="shares">{shares}</td></tr>'
        )
    if not rows:
        return ""
    head = '<thead><tr><td></td><th scope="col"><i>n</i></th><td></td><th scope="col">strict</th></tr></thead>'
    left = f"; the {len(rows)} largest of {len(names)}" if len(rows) < len(names) else ""
    heading = f'<h3>{title} <span class="soft">({unit}{left})</span></h3>'
    return f'{heading}<table class="groups">{head}<tbody>{"".join(rows)}</tbody></table>'
