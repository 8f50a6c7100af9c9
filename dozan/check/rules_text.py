"""The catalogue of rules in a terminal."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dozan.check.finding import Rule, Severity
from dozan.errors import InputError

STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_CHAPTERS = {
    "1": "the file and its reading", "2": "the conversation and how it is written", "3": "tool declarations",
    "4": "calls against schemas and the request", "5": "text", "6": "the set", "7": "the tokenizer",
}  # fmt: skip


def rules_named(rules: Sequence[Rule], code: str | None) -> list[Rule]:
    """The rule of a code or name, or of codes that begin so (DZ4); all without one. Raises InputError for no rule."""
    if code is None:
        return list(rules)
    found = [rule for rule in rules if rule.code.startswith(code.upper()) or rule.name == code.lower()]
    if not found:
        names = [name for rule in rules for name in (rule.code, rule.name)]
        near = difflib.get_close_matches(code, names, 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"rule {code!r}: there is none; {hint}dozan data rules lists them")
    return found


def print_rules(rules: Sequence[Rule], console: Console, whole: bool) -> None:
    """The rules by chapter, a line each; `whole` gives each one's reason and remedy."""
    if whole:
        for rule in rules:
            _print_whole(rule, console)
        return
    for digit, title in _CHAPTERS.items():
        chapter = [rule for rule in rules if rule.code[2] == digit]
        if chapter:
            console.print(Text(f"DZ{digit}xx  {title}", "bold"))
            console.print(_table(chapter))
    fixable = sum(rule.fixable for rule in rules)
    console.print(
        f"{len(rules)} rules; {fixable} with + are repaired by dozan data fix. dozan data rules CODE tells why."
    )


def _table(rules: Sequence[Rule]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for rule in rules:
        mark = "+" if rule.fixable else " "
        table.add_row(f"{rule.code}{mark}", Text(rule.severity, STYLES[rule.severity]), Text(rule.title))
    return table


def _print_whole(rule: Rule, console: Console) -> None:
    head = Text.assemble((rule.code, "bold"), f" {rule.name}  ", (rule.severity, STYLES[rule.severity]))
    console.print(head.append(f"  ({rule.scope})", "dim"))
    console.print(Text(rule.title))
    console.print(Text.assemble(("why     ", "dim"), rule.why))
    console.print(Text.assemble(("remedy  ", "dim"), rule.remedy))
    if rule.fixable:
        console.print(Text("dozan data fix repairs it", "green"))
    console.print()
