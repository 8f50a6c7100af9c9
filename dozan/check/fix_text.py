"""What `fix` did, in a terminal: its diff in colours and its counts."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from dozan.check.catalog import RULES
from dozan.check.fix import FixResult
from dozan.check.visible import isolate_arabic, visible

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def print_diff(diff: str, console: Console) -> None:
    """A diff as it is, line by line, its Arabic isolated."""
    for line in diff.splitlines():
        style = "bold" if line.startswith(("+++", "---")) else _STYLES.get(line[:1], "")
        console.print(Text(line[:1] + isolate_arabic(visible(line[1:])), style), soft_wrap=True)


def print_fixed(result: FixResult, console: Console) -> None:
    """Repairs by code, reasons of what was set aside, and the counts of rows."""
    for heading, counts in (("repaired", result.repairs), ("set aside", result.reasons)):
        for code, count in counts.items():
            title = RULES[code].title if code in RULES else ""
            console.print(Text(f"{heading:<9} {code} x {count:,}  {title}"), soft_wrap=True)
    for tool, names in result.renamed.items():
        pairs = ", ".join(f"{old} is now {new}" for new, old in names.items())
        console.print(Text(f"renamed   {visible(tool)}: {visible(pairs)}"), soft_wrap=True)
    parts = (f"{result.repaired:,} repaired", f"{result.converted:,} converted", f"{result.clean:,} left as they were",
             f"{result.quarantined:,} set aside")  # fmt: skip
    console.print(Text(f"{result.rows:,} rows: {', '.join(parts)}", "bold"), soft_wrap=True)
    for path in result.files:
        console.print(Text(f"written: {path}", "dim"), soft_wrap=True)
