"""A run's report: one self-contained HTML page with verdict, curves, scores with intervals, errors and recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path

from dozan.errors import InputError
from dozan.html.charts import Line, bar, line_chart
from dozan.html.memory import memory_section
from dozan.html.page import definitions, isolated, page, show_calls
from dozan.judge.compare import COLUMNS, TITLES, Comparison, Figure, Paired, compare, describe_pair
from dozan.judge.summary import FAULTS, RowScore, Scores
from dozan.rows.example import Json

Runs = Mapping[str, Scores]

_CURVES = (
    ("Loss", (("train/loss", "training", 1, False), ("eval/loss", "held-out rows", 2, True))),
    ("Learning rate", (("train/learning_rate", "learning rate", 1, False),)),
    ("Gradient norm, before clipping", (("train/grad_norm", "gradient norm", 1, False),)),
)
_GROUPS = (
    ("By dialect", "by_dialect", "rows"),
    ("By kind of row", "by_kind", "rows"),
    ("By tool", "by_tool", "calls that the rows ask for"),
    ("By kind of argument", "by_argument_kind", "arguments; copied ones stand verbatim in the user's text"),
)
_MEANING = {
    "parse_failure": "the answer is malformed", "missed_call": "a call is missing", "false_call": "a call too many",
    "wrong_name": "another tool was called", "off_schema_key": "an argument the tool does not have",
    "missing_required": "a required argument is missing", "type_error": "a value of another type",
    "ungrounded": "a value that stands nowhere in the conversation", "wrong_language": "a value in another script",
    "wrong_year": "the right day of another year", "digits": "the same value in other digits",
    "wrong_value": "another value", "missing_optional": "an optional argument is missing",
    "extra_argument": "an optional argument too many", "surface_form": "the same value, written otherwise",
}  # fmt: skip
_CASES, _CHANGES, _LARGEST_GROUP = 2, 20, 60
_COLOURS = 5


def write_report(
    path: str | Path, title: str, runs: Runs, metrics: Sequence[Mapping[str, Json]], facts: Mapping[str, Json],
    memory: Mapping[str, Json] | None = None,
) -> None:  # fmt: skip
    """Writes the page. `runs`: scores by name, the baseline first, the model in question second, others after.

    `metrics` are the records of metrics.jsonl; `facts` (recipe, versions, sizes) are listed at the end, a mapping in
    them as a section of its own; `memory` is the run's plan of its GPU's memory, if it had one. Raises
    InputError when the runs were not scored on the same rows.
    """
    comparison = compare(runs)
    subject = list(runs)[min(1, len(runs) - 1)]
    sections = (
        f'<h1>{isolated(title)}</h1><p class="verdict">{verdict(comparison)}</p>',
        _scores(comparison, runs),
        _curves(metrics),
        _groups(runs),
        _errors(runs, subject),
        _changes(comparison, runs),
        f"<section><h2>Memory</h2>{memory_section(memory)}</section>" if memory else "",
        _facts(facts),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(page(title, "\n".join(filter(None, sections))), encoding="utf-8")
    staging.replace(path)


def report_run(path: str | Path, run: str | Path, runs: Runs, title: str = "") -> None:
    """`write_report` of a run folder: its metrics.jsonl and the recipe, versions and sizes in its run.json."""
    folder = Path(run)
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a run that can be reported on ({error}); give a run folder") from None
    shown = {name: value for name, value in facts.items() if name not in ("fingerprint", "state", "memory")}
    if "oom_retries" in shown:
        shown["oom_retries"] = [_retry(retry) for retry in shown["oom_retries"]]
    title = title or f"{Path(str(facts.get('base', ''))).name}, tuned"
    write_report(path, title, runs, metrics, shown, facts.get("memory"))


def _retry(retry: Mapping[str, Json]) -> str:
    """One retry of a step that memory did not do for, as run.json has it."""
    again = f", {retry['recompute']} layers computed again" if retry["recompute"] else ""
    return f"step {retry['step']}: packs of at most {retry['pack_tokens']:,} tokens{again}"


def verdict(comparison: Comparison) -> str:
    """What came of it in a sentence or two, as HTML."""
    names = list(comparison.figures)
    strict = {name: figures["strict"] for name, figures in comparison.figures.items()}
    subject = names[min(1, len(names) - 1)]
    text = f"<b>{isolated(subject)}</b> answers {_share(strict[subject])} of {comparison.n:,} rows exactly right"
    if comparison.strict is None:
        return text + "."
    text += f", where {isolated(names[0])} answers {_share(strict[names[0]])}. {_odds(comparison.strict)}"
    others = [f"{isolated(name)} answers {_share(strict[name])}" for name in names[2:]]
    return text + (f" {'; '.join(others)}." if others else "")


def _odds(paired: Paired) -> str:
    won, lost = len(paired.wins), len(paired.regressions)
    changed = f"It wins {won:,} row{'s' * (won != 1)} and loses {lost:,}"
    if paired.p < 0.05:
        odds = "p &lt; 0.0001" if paired.p < 1e-4 else f"p = {paired.p:.4f}"
        return f"{changed}, more than chance would give (McNemar, {odds})."
    return f"{changed}, which chance alone may explain (McNemar, p = {paired.p:.2f})."


def _share(figure: Figure) -> str:
    return "–" if figure.value is None else f"{100 * figure.value:.1f} %"


def _scores(comparison: Comparison, runs: Runs) -> str:
    head = "".join(f"<th>{TITLES[column]}</th>" for column in COLUMNS)
    body = "".join(
        f'<tr><td class="name">{_key_mark(i)}{isolated(name)}</td>{"".join(_cell(figures[c]) for c in COLUMNS)}</tr>'
        for i, (name, figures) in enumerate(comparison.figures.items())
    )
    caption = (
        "<b>Strict</b>: calls equal as typed JSON, in any order. <b>Normalised</b>: after normalising digits, dates, "
        "phone numbers and Arabic spelling by the tool’s schema. <b>Graded F1</b>: over (call, argument, value). "
        "Beneath each share its 95 % interval (Wilson). Tool name is over the rows that ask for a call."
    )
    table = f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody>"
    return (
        f'<h2>Scores</h2><div class="scroll"><table><caption>{caption}</caption>{table}</table></div>'
        f"{_call_table(runs)}"
    )


def _call_table(runs: Runs) -> str:
    """Rows that ask for a call, and rows that ask for none, apart."""
    rows = []
    for i, (name, scores) in enumerate(runs.items()):
        summary = scores.summary()
        calls, none = summary["calls"], summary["no_calls"]
        figures = ((calls, "strict"), (calls, "missed_calls"), (none, "strict"), (none, "false_calls"))
        cells = "".join(_cell(_figure(part, key)) for part, key in figures)
        rows.append(f'<tr><td class="name">{_key_mark(i)}{isolated(name)}</td>{cells}</tr>')
    summary = next(iter(runs.values())).summary()
    asked, none = summary["calls"]["n"], summary["no_calls"]["n"]
    head = (
        f"<tr><th></th><th>strict<small> of {asked:,} call rows</small></th>"
        f"<th>no call made<small> of {asked:,}</small></th>"
        f"<th>right<small> of {none:,} no-call rows</small></th><th>false call<small> of {none:,}</small></th></tr>"
    )
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _figure(part: Mapping[str, Json], key: str) -> Figure:
    interval = part["intervals"][key]
    return Figure(part[key], interval["n"], interval["low"], interval["high"])


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "<td>–</td>"
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"<small>{100 * figure.low:.1f}–{100 * figure.high:.1f}</small>"
    return f"<td>{_share(figure)}{interval}</td>"


def _key_mark(i: int) -> str:
    return f'<span class="key"><i class="fill{i % _COLOURS}" style="display:inline-block"></i></span>'


def _key(names: Iterable[tuple[str, int]]) -> str:
    marks = "".join(f'<span><i class="fill{colour}"></i>{isolated(name)}</span>' for name, colour in names)
    return f'<p class="key">{marks}</p>'


def _curves(metrics: Sequence[Mapping[str, Json]]) -> str:
    figures = []
    for title, series in _CURVES:
        lines = [Line(name, _points(metrics, key), colour, dots) for key, name, colour, dots in series]
        chart = line_chart(lines, title)
        if chart:
            shown = [(line.name, line.colour) for line in lines if line.points]
            key = _key(shown) if len(shown) > 1 else ""
            figures.append(f"<figure><figcaption><b>{title}</b></figcaption>{key}{chart}</figure>")
    return f"<section><h2>Training</h2>{''.join(figures)}</section>" if figures else ""


def _points(metrics: Sequence[Mapping[str, Json]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(record["step"]), float(record[key])) for record in metrics if record.get(key) is not None)


def _groups(runs: Runs) -> str:
    summaries = [scores.summary() for scores in runs.values()]
    tables = [_group(title, [summary[key] for summary in summaries], unit) for title, key, unit in _GROUPS]
    key = _key((name, i % _COLOURS) for i, name in enumerate(runs))
    lead = "<p>Strictly right, with 95 % intervals; <i>n</i> counts what stands in parentheses.</p>"
    return f"<h2>Where it is right</h2>{lead}{key}{''.join(tables)}" if any(tables) else ""


def _group(title: str, parts: Sequence[Mapping[str, Json]], unit: str) -> str:
    names = [name for name, part in parts[0].items() if part["n"]]
    largest = sorted(names, key=lambda name: -parts[0][name]["n"])[:_LARGEST_GROUP]
    rows = []
    for name in (name for name in names if name in largest):
        figures = [_figure(part[name], "strict") for part in parts if name in part]
        bars = "".join(bar(f.value or 0.0, f.low, f.high, i % _COLOURS) for i, f in enumerate(figures))
        shares = "".join(f"<span>{_share(figure)}</span>" for figure in figures)
        count = f"<td>{parts[0][name]['n']:,}</td>"
        label = f'<td class="name">{isolated(name)}</td>'
        rows.append(f'<tr>{label}{count}<td class="bars">{bars}</td><td class="shares">{shares}</td></tr>')
    if not rows:
        return ""
    head = "<thead><tr><th></th><th><i>n</i></th><th></th><th>strict</th></tr></thead>"
    left = f"; the {len(rows)} largest of {len(names)}" if len(rows) < len(names) else ""
    heading = f'<h3>{title} <span class="soft">({unit}{left})</span></h3>'
    return f"<section>{heading}<table class='groups'>{head}<tbody>{''.join(rows)}</tbody></table></section>"


def _errors(runs: Runs, subject: str) -> str:
    errors = {name: scores.summary()["errors"] for name, scores in runs.items()}
    found = [kind for kind in FAULTS if any(part[kind]["count"] for part in errors.values())]
    if not found:
        return "<h2>Errors</h2><p>None: every row is strictly right.</p>"
    head = "".join(f"<th>{isolated(name)}</th>" for name in runs)
    body = "".join(
        f'<tr><td class="name">{_label(kind)} <span class="soft">– {_MEANING[kind]}</span></td>'
        f"{''.join(_fault_cell(part[kind]) for part in errors.values())}</tr>"
        for kind in found
    )
    caption = "Rows by their gravest fault, the gravest kind first; beneath, all faults of the kind."
    table = f"<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    cases = chain.from_iterable([row for row in runs[subject].rows if row.error == kind][:_CASES] for kind in FAULTS)
    shown = "".join(_case(row, f'<span class="tag">{_label(row.error or "")}: {_details(row)}</span>') for row in cases)
    examples = f"<h3>Examples from {isolated(subject)}</h3>{shown}" if shown else ""
    return f'<h2>Errors</h2><div class="scroll">{table}</div>{examples}'


def _fault_cell(part: Mapping[str, Json]) -> str:
    return f"<td>{part['rows']:,}<small>{part['count']:,} in all</small></td>"


def _label(kind: str) -> str:
    return kind.replace("_", " ")


def _details(row: RowScore) -> str:
    return ", ".join(isolated(fault.detail, 80) for fault in row.faults if fault.kind == row.error)


def _case(row: RowScore, tag: str) -> str:
    about = " · ".join(escape(part) for part in (row.dialect, row.id if not row.place else row.place) if part)
    answered = show_calls(row.calls, row.prediction)
    problems = f"<dt>problem</dt><dd>{isolated('; '.join(row.problems))}</dd>" if row.problems else ""
    return (
        f'<div class="case"><p class="query">{isolated(row.query)}</p>'
        f'{tag} <span class="soft">{about}</span>'
        f"<dl><dt>expected</dt><dd>{show_calls(row.gold, row.gold_text)}</dd>"
        f"<dt>answered</dt><dd>{answered}</dd>{problems}</dl></div>"
    )


def _changes(comparison: Comparison, runs: Runs) -> str:
    """Rows that the model in question gets wrong and the baseline right."""
    if comparison.strict is None:
        return ""
    first, second = list(runs)[:2]
    lead = f"<p>Strict: {isolated(describe_pair(comparison.strict, first, second))}.</p>"
    rows = {row.id: row for row in runs[second].rows}
    lost = comparison.strict.regressions
    shown = "".join(
        _case(rows[name], f'<span class="tag">{_label(rows[name].error or "")}</span>') for name in lost[:_CHANGES]
    )
    more = f"<p class='soft'>and {len(lost) - _CHANGES:,} more.</p>" if len(lost) > _CHANGES else ""
    none = "" if lost else f"<p>No row that {isolated(first)} gets right is wrong now.</p>"
    return f"<h2>Regressions</h2>{lead}{none}{shown}{more}"


def _facts(facts: Mapping[str, Json]) -> str:
    """Plain facts first, then a section for each mapping."""
    plain = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    parts = [definitions(plain)] if plain else []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            parts.append(f"<h3>{escape(name)}</h3>{definitions(value)}")
    return f'<section class="facts"><h2>How it was made</h2>{"".join(parts)}</section>' if parts else ""
