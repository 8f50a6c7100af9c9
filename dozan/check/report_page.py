"""The report of `check` as one self-contained page, for a reader who has the rows but not dozan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from dozan.chat.encode import gold
from dozan.check.finding import Finding, Rule, Severity
from dozan.check.report import Report
from dozan.check.visible import visible
from dozan.errors import InputError
from dozan.html.charts import bar, column_chart
from dozan.html.page import definitions, isolated, page, prose, show_calls
from dozan.rows.example import Example, Json
from dozan.rows.readers import read_examples
from dozan.rows.splits import last_user_text

STYLE = """
main { max-width: 60rem; } .codes td.name { width: 52%; } .codes td.bars { width: 16%; } .codes a { color: inherit; }
.codes td:first-child, .codes th:first-child { white-space: nowrap; text-align: left; } .chart { max-width: 44rem; }
.sev { display: inline-block; font: 600 11px/1.7 system-ui, sans-serif; padding: 0 .55em; border-radius: 3px; color: var(--paper); }
.sev.error { background: var(--bad); } .sev.warning { background: var(--c2); } .sev.note { background: var(--c0); }
.rule { border-top: 1.5px solid var(--ink); margin-top: 2.2rem; padding-top: .7rem; scroll-margin-top: 1rem; }
.rule h3 { margin: 0 0 .3rem; font-size: 1.1rem; } .rule h3 .soft { font-weight: 400; }
.rule p.text { font-size: 15px; line-height: 1.5; margin: .15rem 0; max-width: none; }
.case { padding: .6rem 0; } .rule .case:first-of-type { border-top: 0; } .case p { margin: .1rem 0; max-width: none; }
.case .where { color: var(--soft); font-size: 13px; } .quote { display: grid; grid-template-columns: 5rem minmax(0, 1fr);
  gap: 0 .8rem; background: var(--wash); padding: .4rem .7rem; margin: .35rem 0 0; border-radius: 3px; }
.quote dt { font-size: 12.5px; } .quote dd { overflow-wrap: anywhere; } .quote dd.said { text-align: start; }
details { font: 13px/1.6 system-ui, "Noto Sans", sans-serif; } summary { cursor: pointer; color: var(--soft); }
.counts { table-layout: fixed; } .counts td:nth-child(2) { width: 4.5rem; } .counts td:nth-child(3) { width: 34%; }
.counts td.name { overflow-wrap: anywhere; } .places { columns: 15rem; padding: 0; margin: .3rem 0; list-style: none; } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem; }
@media (max-width: 44rem) { .pair { grid-template-columns: 1fr; } }
""".strip()  # noqa: E501

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_HEADINGS = {"error": "Errors: rows that cannot be trained on", "warning": "Warnings: worth a look", "note": "Notes"}
_COLOURS = {"error": 4, "warning": 2}
_EXAMPLES, _PLACES, _COLUMNS, _NAMES = 3, 200, 60, 40


def write_report_page(path: str | Path, report: Report, title: str = "", shape: str | None = None) -> None:
    """Writes the page of a report; the rows of the examples are read again from its files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ", ".join(dict.fromkeys(Path(file).name for file in report.files))
    text = report_page(report, title or f"Check of {names}", read_places(report, shape))
    staging = path.with_name(f".{path.name}.staging")
    staging.write_bytes(text.encode("utf-8", "replace"))
    staging.replace(path)


def read_places(report: Report, shape: str | None = None) -> dict[str, Example]:
    """The rows that the page quotes, by their place."""
    wanted = {place for code in report.counts for place in _quoted(_told(report.examples(code, _PLACES)))}
    found: dict[str, Example] = {}
    for file in (*report.files, *report.eval_files):
        if len(found) == len(wanted):
            break
        for example in read_examples(file, shape, lambda broken: None):
            if example.place in wanted:
                found.setdefault(example.place, example)
    return found


def report_page(report: Report, title: str, rows: Mapping[str, Example]) -> str:
    """The page as text; `rows` by place, for the examples."""
    codes = {severity: _codes_of(report, severity) for severity in SEVERITIES}
    body = [
        f'<h1>{isolated(title)}</h1><p class="verdict">{verdict(report)}</p>',
        _summary(report, codes),
        _where(report),
    ]
    for severity, rules in codes.items():
        if rules:
            sections = "".join(_rule(report, rule, rows) for rule in rules)
            body.append(f"<h2>{_HEADINGS[severity]}</h2>{sections}")
    body += [_made_of(report), _facts(report)]
    return page(title, "\n".join(filter(None, body)), STYLE)


def verdict(report: Report) -> str:
    """What was found, in a sentence or two, as HTML."""
    total = sum(report.rows.values())
    files = len(report.rows)
    text = f"<b>{total:,} rows</b> in {files} file{'s' * (files != 1)}"
    counts: dict[Severity, int] = {"error": report.errors, "warning": report.warnings}
    parts = []
    for severity, count in counts.items():
        kinds = len(_codes_of(report, severity))
        of_kinds = f" of {kinds} kinds" if kinds > 1 else ""
        parts += [f"{count:,} {severity}{'s' * (count != 1)}{of_kinds}"] if count else []
    if not parts:
        return f"{text}: no error and no warning."
    unread = f" {report.unread:,} more could not be read." if report.unread else ""
    stop = "Training refuses these rows until the errors are gone." if report.errors else "Nothing stops training."
    return f"{text}: {' and '.join(parts)}.{unread} {stop}"


def _codes_of(report: Report, severity: Severity) -> list[Rule]:
    """The rules of that severity that were broken, most often first."""
    rules = (report.findings.rules[code] for code in report.counts)
    return sorted((r for r in rules if r.severity == severity), key=lambda r: (-report.counts[r.code], r.code))


def _summary(report: Report, codes: Mapping[Severity, Sequence[Rule]]) -> str:
    total = max(1, sum(report.rows.values()))
    lines = []
    for severity, rules in codes.items():
        for rule in rules:
            count = report.counts[rule.code]
            drawn = bar(min(1.0, count / total), None, None, _COLOURS.get(severity, 0))
            link = f'<a href="#{rule.code}">{rule.code}</a>'
            fix = ' <small class="soft">repaired by fix</small>' if rule.fixable else ""
            lines.append(
                f'<tr><td>{link}</td><td class="name">{escape(rule.title)}{fix}</td>'
                f'<td><span class="sev {severity}">{severity}</span></td><td>{count:,}</td>'
                f'<td class="bars">{drawn}</td></tr>'
            )
    if not lines:
        return ""
    head = "<thead><tr><th>code</th><th></th><th></th><th>found</th><th></th></tr></thead>"
    caption = "<caption>Bars: found, for each row; a row can have one kind several times.</caption>"
    return f'<div class="scroll"><table class="codes">{caption}{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _where(report: Report) -> str:
    """Errors and warnings along each file, by line."""
    lines: dict[str, dict[str, list[int]]] = {}
    for finding in report.findings:
        name, _, line = finding.place.rpartition(":")
        if line.isascii() and line.isdecimal() and finding.severity in _COLOURS:
            lines.setdefault(name, {"error": [], "warning": []})[finding.severity].append(int(line))
    figures = [_columns(name, found) for name, found in sorted(lines.items())]
    key = "".join(f'<span><i class="fill{colour}"></i>{name}s</span>' for name, colour in _COLOURS.items())
    return f'<section><h2>Where</h2><p class="key">{key}</p>{"".join(figures)}</section>' if figures else ""


def _columns(name: str, lines: Mapping[str, Sequence[int]]) -> str:
    last = max(max(found, default=1) for found in lines.values())
    width = max(1, -(-last // _COLUMNS))
    labels = [f"line {i * width + 1:,}" for i in range(-(-last // width))]
    series = [[0] * len(labels) for _ in lines]
    for counts, found in zip(series, lines.values(), strict=True):
        for line in found:
            counts[(line - 1) // width] += 1
    chart = column_chart(labels, series, f"findings by line of {name}", list(_COLOURS.values()))
    return f"<figure><figcaption><b>{isolated(name)}</b></figcaption>{chart}</figure>"


def _made_of(report: Report) -> str:
    """Calls by tool and rows by dialect."""
    parts = []
    for title, key in (("Calls by tool", "tools"), ("Rows by dialect", "dialects")):
        counts: Mapping[str, int] = report.stats.get(key) or {}
        most = max(counts.values(), default=0)
        lines = "".join(
            f'<tr><td class="name">{isolated(visible(name))}</td><td>{count:,}</td>'
            f'<td class="bars">{bar(count / most, None, None, 1)}</td></tr>'
            for name, count in list(counts.items())[:_NAMES]
        )
        if lines:
            table = f"<table class='counts'><tbody>{lines}</tbody></table>"
            parts.append(f"<section><h3>{title}</h3>{table}</section>")
    return f"<h2>What the rows are made of</h2><div class='pair'>{''.join(parts)}</div>" if parts else ""


def _rule(report: Report, rule: Rule, rows: Mapping[str, Example]) -> str:
    count = report.counts[rule.code]
    head = (
        f'<h3><span class="sev {rule.severity}">{rule.severity}</span> {rule.code} {escape(rule.title)} '
        f'<span class="soft">{count:,} {"time" if count == 1 else "times"}</span></h3>'
    )
    fix = " <i><code>dozan data fix</code> does it.</i>" if rule.fixable else ""
    text = f'<p class="text">{prose(rule.why)}</p><p class="text"><b>Remedy.</b> {prose(rule.remedy)}{fix}</p>'
    found = report.examples(rule.code, _PLACES)
    cases = "".join(_case(finding, rows) for finding in _told(found))
    return f'<section class="rule" id="{rule.code}">{head}{text}{cases}{_places(found, count)}</section>'


def _told(found: Sequence[Finding]) -> list[Finding]:
    """A few of them that differ in place and in what they say, as far as there are such."""
    told: list[Finding] = []
    for finding in found:
        if all(finding.place != other.place and finding.message != other.message for other in told):
            told.append(finding)
    told += [finding for finding in found[:_EXAMPLES] if finding not in told]
    return told[:_EXAMPLES]


def _case(finding: Finding, rows: Mapping[str, Example]) -> str:
    path = f" · <code>{isolated(visible(finding.path), 120)}</code>" if finding.path else ""
    where = f'<p class="where">{isolated(visible(_files_of(finding.place)))}{path}</p>'
    said = f"<p>{prose(visible(finding.message))}</p>"
    quotes = "".join(_quote(rows[place]) for place in _quoted([finding]) if place in rows)
    return f'<div class="case">{said}{where}{quotes}{_behind(finding)}</div>'


def _files_of(place: str) -> str:
    """A place without folders: a file and line, or the files of a set."""
    return ", ".join(Path(part).name for part in place.split(", "))


def _without_folders(words: str, report: Report) -> str:
    for file in (*report.files, *report.eval_files):
        folder = str(Path(file).parent)
        words = words.replace(f"{folder}/", "") if folder != "." else words
    return words


def _quoted(findings: Iterable[Finding]) -> list[str]:
    """The places of the rows that are quoted: the finding's own, or the first two behind what is said of a set."""
    return [place for finding in findings for place in (finding.places[:2] or (finding.place,))]


def _quote(example: Example) -> str:
    said = isolated(visible(last_user_text(example)), 300)
    try:
        wanted = gold(example)
        answer = show_calls(wanted.calls, visible(wanted.text))
    except InputError:
        answer = '<span class="soft">no answer that could be read</span>'
    return (
        f'<dl class="quote"><dt>{isolated(example.place.rpartition(":")[2])}</dt><dd class="said">{said}</dd>'
        f"<dt>answer</dt><dd>{answer}</dd></dl>"
    )


def _behind(finding: Finding) -> str:
    if len(finding.places) <= 2:
        return ""
    items = "".join(f"<li>{isolated(place)}</li>" for place in finding.places)
    return f'<details><summary>{len(finding.places):,} rows</summary><ul class="places">{items}</ul></details>'


def _places(found: Sequence[Finding], count: int) -> str:
    """The places of all findings that fit, folded away."""
    if len(found) <= _EXAMPLES:
        return ""
    items = "".join(
        f"<li>{isolated(visible(finding.place))} <span class='soft'>{isolated(visible(finding.path), 60)}</span></li>"
        for finding in found
    )
    words = f"all {len(found):,} places" if len(found) >= count else f"the first {len(found):,} places of {count:,}"
    return f'<details><summary>{words}</summary><ul class="places">{items}</ul></details>'


def _facts(report: Report) -> str:
    tokenizer = report.stats.get("tokenizer") or {}
    names = {file: Path(file).name for file in (*report.files, *report.eval_files)}
    shapes = [_without_folders(words, report) for words in report.shapes]
    facts: dict[str, Json] = {
        "files": [names[file] for file in report.files],
        "evaluation files": [names[file] for file in report.eval_files] or None,
        "read as": shapes or "canonical rows", "chat format": report.stats.get("chat"),
        "rows": f"{sum(report.rows.values()):,}", "rows with tools": report.stats.get("with_tools"),
        "rows without a call": report.stats.get("no_call"), "near-duplicates": report.stats.get("near_duplicates"),
        "seconds": f"{report.seconds:.1f}",
    }  # fmt: skip
    parts = definitions(facts)
    if isinstance(tokenizer, Mapping):
        plain = {name: value for name, value in tokenizer.items() if isinstance(value, str | int | float)}
        parts += f"<h3>Tokenizer</h3>{definitions(plain)}" if plain else ""
    return f'<section class="facts"><h2>How it was checked</h2>{parts}</section>'
