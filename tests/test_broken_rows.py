"""Every kind of broken row is found in one pass, at its line and path; sound rows between are left alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from broken_rows import KINDS, corpus, register_all

import dozan
from dozan.chat import FUNCTIONGEMMA
from dozan.check.catalog import RULES
from dozan.check.finding import Finding
from dozan.check.row_rules import RULES as ROW_RULES
from dozan.check.row_rules import check_row
from dozan.check.rules import check_rows
from dozan.check.view import view_row
from dozan.rows.example import Example, Json
from dozan.rows.readers import read_rows

register_all()
ROWS = {name: one for name, one in KINDS.items() if not one.code.startswith("DZ1")}
FEWEST = 60


def read(line: bytes, number: int) -> Example:
    """A row as the readers give it, for what the rules are to judge."""
    value: Json = loads(line)
    meta = {key: item for key, item in value.items() if key not in ("id", "tools", "messages")}
    return Example(value["id"], tuple(value["tools"]), tuple(value["messages"]), meta, f"rows.jsonl:{number}")


def loads(line: bytes) -> Json:
    """json.loads without its limit on nesting: a chain of `items` is built by hand."""
    text = line.decode()
    levels = text.count('{"items": ')
    if levels < 100:
        return json.loads(text)
    deep: Json = {}
    for _ in range(levels):
        deep = {"items": deep}
    value = json.loads(text.replace('{"items": ' * levels + "{}" + "}" * levels, "null"))
    value["tools"][0]["function"]["parameters"]["properties"]["title"] = deep
    return value


def found(content: bytes) -> dict[int, list[Finding]]:
    """Findings by line; rows are read and judged once, in order."""
    by_line: dict[int, list[Finding]] = defaultdict(list)
    for number, line in enumerate(content.splitlines(), 1):
        by_line[number] += check_row(view_row(read(line, number), FUNCTIONGEMMA))
    return by_line


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_kind_is_found_at_its_line_and_sound_rows_are_left_alone(seed: int) -> None:
    content, expected = corpus(seed, ROWS)
    findings = found(content)
    broken = {one.line: one for one in expected}
    wrong: list[str] = []
    for line, those in findings.items():
        one = broken.get(line)
        loud = {finding.code for finding in those if finding.severity != "note"}
        if one is None:
            wrong += [f"sound row: {finding}" for finding in those if finding.severity != "note"]
            continue
        if (one.code, one.path) not in {(finding.code, finding.path) for finding in those}:
            wrong.append(f"{one.kind}: no {one.code} at {one.path}: {[str(finding) for finding in those]}")
        expects = {one.code, *one.also} if RULES[one.code].severity != "note" else set(one.also)
        if loud != expects:
            wrong.append(f"{one.kind}: {sorted(loud)} instead of {sorted(expects)}: {[str(f) for f in those]}")
        wrong += [f"{one.kind}: at {finding.place}" for finding in those if finding.place != f"rows.jsonl:{line}"]
    assert not wrong, "\n".join(wrong)


def test_there_are_enough_kinds_and_each_names_a_rule() -> None:
    assert len(ROWS) >= FEWEST
    assert {one.code for one in ROWS.values()} <= {rule.code for rule in RULES}


UNTRIED = {
    # What only an error of the chat format that has no line of its own yet, a size or a note can bring.
    "DZ201", "DZ202", "DZ207", "DZ212", "DZ219", "DZ220", "DZ231", "DZ232", "DZ235", "DZ306", "DZ307", "DZ313",
    "DZ324", "DZ322", "DZ430", "DZ431", "DZ508",
}  # fmt: skip


def test_every_row_rule_has_a_kind() -> None:
    assert {rule.code for rule in ROW_RULES} - {one.code for one in ROWS.values()} == UNTRIED


EMBEDDED = Path(dozan.__file__).parent / "assets/mobile_actions_ar/train.jsonl.gz"


def test_the_embedded_rows_have_neither_errors_nor_warnings() -> None:
    findings = check_rows(read_rows(EMBEDDED)[::5], FUNCTIONGEMMA)
    assert [str(finding) for finding in findings if finding.severity != "note"] == []


def test_the_corpus_is_the_seed() -> None:
    assert corpus(5, ROWS) == corpus(5, ROWS)
    assert corpus(5, ROWS)[0] != corpus(6, ROWS)[0]
