"""The report of `check` in a terminal: each kind once, with its count, reason, remedy and first places."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dozan.check.finding import Finding, Rule
from dozan.check.report import Report
from dozan.check.rules_text import STYLES
from dozan.check.visible import isolate_arabic, visible

_PLACES = {"error": 5, "warning": 2, "note": 1}
_ORDER = ("note", "warning", "error")
_LONGEST = 300


def print_report(report: Report, console: Console) -> None:
    """Notes first and errors last, where the eye is; then the counts."""
    for shape in report.shapes:
        console.print(Text(shape, "dim"), soft_wrap=True)
    rules = [report.findings.rules[code] for code in report.counts]
    for rule in sorted(rules, key=lambda rule: (_ORDER.index(rule.severity), rule.code)):
        _print_rule(report, rule, console)
    total = sum(report.rows.values())
    notes = sum(report.counts.values()) - report.errors - report.warnings
    counts = f"{report.errors:,} errors, {report.warnings:,} warnings, {notes:,} notes in {total:,} rows"
    unread = f"; {report.unread:,} could not be read" if report.unread else ""
    rate = f" ({60 * total / report.seconds:,.0f} rows a minute)" if total >= 1_000 and report.seconds else ""
    style = STYLES["error"] if report.errors else STYLES["warning"] if report.warnings else "green"
    console.print(Text.assemble((counts + unread, style), f", {report.seconds:.1f} s{rate}"), soft_wrap=True)


def _print_rule(report: Report, rule: Rule, console: Console) -> None:
    count = report.counts[rule.code]
    head = Text.assemble(
        (rule.severity, STYLES[rule.severity]), f" {rule.code} ", (rule.title, "bold"), f"  x {count:,}"
    )
    console.print(head, soft_wrap=True)
    console.print(Text(f"  {rule.remedy}{'  (dozan data fix)' if rule.fixable else ''}", "dim"), soft_wrap=True)
    most = _PLACES[rule.severity]
    found = report.examples(rule.code, most)
    for finding in found:
        console.print(_one(finding), soft_wrap=True)
    left = count - sum(finding.count for finding in found)
    if left > 0:
        console.print(Text(f"  and {left:,} more", "dim"))


def _one(finding: Finding) -> Text:
    where = f"{finding.place}: {finding.path}: " if finding.path else f"{finding.place}: "
    message = visible(finding.message)
    cut = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    line = Text.assemble("  ", (visible(where), "cyan"), isolate_arabic(cut))
    rows = f" [{', '.join(finding.places[:3])}{', …' * (len(finding.places) > 3)}]" if finding.places else ""
    return line.append(visible(rows), "dim")
