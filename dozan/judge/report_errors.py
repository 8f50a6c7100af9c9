"""A report's errors: rows lost first, which tool is taken for which, and faults by kind with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dozan.html.matrix import heat_table
from dozan.html.page import isolated
from dozan.judge.compare import Comparison
from dozan.judge.report_parts import MEANING, Runs, case, details, label, number, particular
from dozan.judge.summary import FAULTS, RowScore, Scores
from dozan.rows.example import Json

NO_CALL = "no call"
_CASES, _CHANGES, _DETAILS = 2, 20, 6
_TOOLS, _PAIRS = 15, 5


def regressions_section(comparison: Comparison, runs: Runs) -> str:
    """Rows that the model in question gets wrong and the first right."""
    if comparison.strict is None:
        return ""
    first, second = list(runs)[:2]
    rows = {row.id: row for row in runs[second].rows}
    lost, won = comparison.strict.regressions, len(comparison.strict.wins)
    lead = (
        f"<p>{isolated(second)} gets {number(len(lost), 'row')} wrong that {isolated(first)} gets right, and {won:,} "
        "right the other way round.</p>"
    )
    shown = "".join(case(rows[name], _tag(rows[name])) for name in lost[:_CHANGES])
    more = f'<p class="soft">and {len(lost) - _CHANGES:,} more.</p>' if len(lost) > _CHANGES else ""
    none = "" if lost else f"<p>No row that {isolated(first)} gets right is wrong now.</p>"
    return f'<section id="regressions"><h2>Regressions</h2>{lead if lost else none}{shown}{more}</section>'


def _tag(row: RowScore) -> str:
    found = details(row)
    return f'<span class="tag">{label(row.error or "")}{f": {found}" if found else ""}</span>'


def confusions(scores: Scores) -> Counter[tuple[str, str]]:
    """How often a tool was asked for and which came, by (asked, came), calls matched as they are scored.

    `NO_CALL` stands for a call that is missing, or that nothing asked for; a row that rightly has none counts once.
    """
    found: Counter[tuple[str, str]] = Counter()
    for row in scores.rows:
        found.update((call.tool, call.tool) for call in row.call_scores if call.named)
        for fault in row.faults:
            if fault.kind == "wrong_name":
                found[(str(fault.gold), str(fault.predicted))] += 1
            elif fault.kind == "missed_call":
                found[(fault.detail, NO_CALL)] += 1
            elif fault.kind == "false_call":
                found[(NO_CALL, fault.detail)] += 1
        if not row.gold and not row.calls:
            found[(NO_CALL, NO_CALL)] += 1
    return found


def confusion_section(scores: Scores, name: str) -> str:
    """The tools that are confused most, at most `_TOOLS` of them, as a table shaded by share; "" without any."""
    found = confusions(scores)
    wrong = Counter({pair: count for pair, count in found.items() if pair[0] != pair[1]})
    if not wrong:
        return ""
    involved: Counter[str] = Counter()
    for pair, count in wrong.items():
        involved.update(dict.fromkeys(pair, count))
    del involved[NO_CALL]
    most = [tool for tool, _ in involved.most_common(_TOOLS)]
    asked_for = {asked for asked, _ in found}
    names = [*sorted(most, key=lambda tool: (tool not in asked_for, tool)), NO_CALL]
    asked = [name for name in names if name in asked_for]
    counts = {pair: count for pair, count in found.items() if pair[0] in names and pair[1] in names}
    left = wrong.total() - sum(count for pair, count in wrong.items() if pair in counts)
    caption = (
        f"Which tool {isolated(name)} called (columns) where another was asked for (rows), in calls; shaded by "
        "their share of the row. The diagonal is right, whatever the arguments. “No call” stands for a call that is "
        "missing, or that nothing asked for."
    )
    if len(asked) < len(names):
        caption += " What no row asks for has a column only."
    if left:
        caption += f" The {len(most)} tools that are confused most; {number(left, 'confusion')} of others left out."
    pairs = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]
    said = "; ".join(f"{_took(*pair)} ({count:,})" for pair, count in pairs)
    total = number(wrong.total(), "call")
    lead = f"<p>{total} went to the wrong tool, to none, or should not be. Most often: {said}.</p>"
    return (
        f'<section id="confusion"><h2>Confusion of tools</h2>{lead}'
        f"{heat_table(asked, names, counts, caption)}</section>"
    )


def _took(asked: str, came: str) -> str:
    if came == NO_CALL:
        return f"<code>{isolated(asked)}</code> not called"
    if asked == NO_CALL:
        return f"<code>{isolated(came)}</code> called for nothing"
    return f"<code>{isolated(came)}</code> for <code>{isolated(asked)}</code>"


def errors_section(runs: Runs, subject: str) -> str:
    """Faults by kind, the gravest first: a table of all models, and the subject's, grouped, with examples."""
    errors = {name: scores.summary()["errors"] for name, scores in runs.items()}
    found = [kind for kind in FAULTS if any(part[kind]["count"] for part in errors.values())]
    if not found:
        return '<section id="errors"><h2>Errors</h2><p>None: every row is strictly right.</p></section>'
    head = "".join(f'<th scope="col">{isolated(name)}</th>' for name in runs)
    body = "".join(
        f'<tr><th scope="row">{label(kind)} <span class="soft">– {MEANING[kind]}</span></th>'
        f"{''.join(_fault_cell(part[kind]) for part in errors.values())}</tr>"
        for kind in found
    )
    caption = "Rows by their gravest fault, the gravest kind first; beneath, all faults of the kind."
    table = (
        f'<div class="scroll"><table class="faults"><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    groups = "".join(_group(kind, errors[subject][kind], runs[subject].rows) for kind in FAULTS)
    lead = f"<h3>Examples from {isolated(subject)}</h3>" if groups else ""
    return f'<section id="errors"><h2>Errors</h2>{table}</section>{lead}{groups}'


def _fault_cell(part: Mapping[str, Json]) -> str:
    return f"<td>{part['rows']:,}<small>{part['count']:,} in all</small></td>"


def _group(kind: str, part: Mapping[str, Json], rows: Sequence[RowScore]) -> str:
    """One kind of fault: the commonest particulars, and the first rows with different ones."""
    hit = [row for row in rows if row.error == kind]
    if not hit:
        return ""
    told = list(part["by"].items())
    said = ", ".join(f"{particular(name)} ({count:,})" for name, count in told[:_DETAILS])
    more = f", and {len(told) - _DETAILS:,} others" if len(told) > _DETAILS else ""
    shown = "".join(case(row, f'<span class="tag">{details(row)}</span>') for row in _differing(hit))
    return (
        f'<section class="kind"><h4>{label(kind).capitalize()}: {MEANING[kind]} '
        f'<span class="soft">{number(len(hit), "row")}</span></h4><p class="most">{said}{more}.</p>{shown}</section>'
    )


def _differing(rows: Sequence[RowScore]) -> list[RowScore]:
    """A few of them whose particulars differ, as far as there are such."""
    by_detail = {details(row): row for row in reversed(rows)}
    chosen = [row for row in rows if by_detail[details(row)] is row]
    return [*chosen, *(row for row in rows if row not in chosen)][:_CASES]
