"""The report of a check, on paper and in a terminal: every kind is there, rows are quoted, no text becomes markup."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_bad_input import conversation, write_rows
from test_report import parse

import dozan
from dozan.check.catalog import RULES
from dozan.check.report import Report
from dozan.check.report_page import write_report_page
from dozan.check.report_text import print_report
from dozan.check.rules_text import print_rules, rules_named
from dozan.errors import InputError
from dozan.html.charts import column_chart
from dozan.html.page import prose


def checked(tmp_path: Path, *rows: Any) -> Report:
    return dozan.data.check(write_rows(tmp_path / "rows.jsonl", *rows))


def broken_rows() -> list[Any]:
    said = "مؤقت ٥ <script>alert(1)</script> دقائق"
    unknown = conversation("no_such_tool", said)
    return [conversation(), unknown, "{not json", {"messages": [{"role": "user", "content": "x" + "\u202e"}]}]


def test_the_page_has_every_kind_with_reason_remedy_and_rows(tmp_path: Path) -> None:
    report = checked(tmp_path, *broken_rows())
    write_report_page(tmp_path / "out" / "report.html", report)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = parse(text)
    sections = {attributes.get("id") for tag, attributes in page.seen if tag == "section"} - {None}
    assert sections == set(report.counts) and report.errors >= 2
    links = {attributes["href"] for tag, attributes in page.seen if tag == "a"}
    assert links == {f"#{code}" for code in report.counts}
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.seen}
    assert str(tmp_path) not in text, "a path of this machine"
    assert "&lt;script&gt;" in text and "\u202e" not in text
    plain = re.sub("<[^>]*>", "", text)
    for code, count in report.counts.items():
        rule = report.findings.rules[code]
        assert f"{rule.code} " in plain and re.search(rf"{count:,} times?", plain)
    assert f"{report.errors:,} errors of" in plain and "Training refuses these rows" in plain


def test_a_sound_set_says_so(tmp_path: Path) -> None:
    report = dozan.data.check(write_rows(tmp_path / "rows.jsonl", conversation()), only=["DZ4"])
    write_report_page(tmp_path / "report.html", report)
    assert "no error and no warning" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report.exit_code == 0


def test_in_a_terminal_errors_come_last(tmp_path: Path) -> None:
    report = checked(tmp_path, *broken_rows())
    file = io.StringIO()
    print_report(report, Console(file=file, width=80))
    lines = file.getvalue().splitlines()
    heads = [line.split()[0] for line in lines if re.match("(error|warning|note) DZ", line)]
    assert heads == sorted(heads, key=["note", "warning", "error"].index) and heads[-1] == "error"
    assert lines[-1].startswith(f"{report.errors} errors, {report.warnings} warnings")
    assert "\u202e" not in file.getvalue()


def test_arabic_in_our_sentences_is_isolated_and_code_marked() -> None:
    assert prose("set `required`: 'هذا. ' <b>") == (
        'set <code>required</code>: &#x27;<bdi dir="rtl">هذا. </bdi>&#x27; &lt;b&gt;'
    )
    assert prose("the row's now, الرياض and جدة القديمة.").count("<bdi") == 2


def test_columns_are_stacked_and_told() -> None:
    chart = column_chart(["a", "b"], [[1, 0], [2, 3]], "t", [4, 2])
    assert chart.count("<rect") == 3 and "<title>a: 1, 2</title>" in chart
    assert column_chart(["a"], [[0], [0]], "t", [4, 2]) == "" == column_chart([], [[], []], "t", [4, 2])


def test_rules_by_code_name_and_beginning() -> None:
    rules = list(RULES)
    assert [rule.code for rule in rules_named(rules, "dz402")] == ["DZ402"]
    assert rules_named(rules, RULES["DZ402"].name) == rules_named(rules, "DZ402")
    assert all(rule.code.startswith("DZ4") for rule in rules_named(rules, "DZ4"))
    with pytest.raises(InputError, match="did you mean DZ4"):
        rules_named(rules, "DZ40X")
    file = io.StringIO()
    print_rules(rules, Console(file=file, width=80), whole=False)
    assert all(rule.code in file.getvalue() for rule in rules)
    assert max(map(len, file.getvalue().splitlines())) <= 80
    print_rules([RULES["DZ402"]], Console(file=file, width=80), whole=True)
    assert "remedy" in file.getvalue()


def test_json_lists_codes_counts_and_places(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation("no_such_tool"), conversation())
    dozan.data.check([rows], json=tmp_path / "found.json", only=["DZ4"])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["findings"]
    assert [(each["code"], each["count"], each["places"][0]["place"]) for each in found][0][1:] == (1, "rows.jsonl:1")
