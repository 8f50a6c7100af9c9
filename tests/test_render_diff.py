"""What `dozan render-diff` finds and shows: against goldens, against planted differences, in text, JSON and a page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ship_models import make_folder
from test_bad_input import write_rows
from test_target import GOLDENS, each_golden

import dozan
from dozan.chat import FUNCTIONGEMMA
from dozan.chat.render_diff import ORDER, differences, reasons
from dozan.chat.render_ollama import SENTENCE
from dozan.chat.render_targets import SOURCES
from dozan.cli import main
from dozan.errors import InputError
from dozan.rows.example import Example
from dozan.ship.llama_template import apply_template
from dozan.ship.rendered import Opened, open_rendering, render_rows, summary
from dozan.ship.rendered_text import print_rows, rows_page

CASES = {case["title"]: case for case in GOLDENS}


def official(case: dict[str, Any]) -> str:
    return FUNCTIONGEMMA.render(case["messages"], case["tools"], generate=case["generate"]).text


def patched(trained: str, places: Any) -> str:
    """The other text, made from the trained one and the places alone."""
    raw, done, at = trained.encode(), b"", 0
    for place in places:
        done += raw[at : place.at] + place.theirs.encode()
        at = place.at + len(place.trained.encode())
    return (done + raw[at:]).decode()


@each_golden
@pytest.mark.parametrize("runtime", ["ollama", "litert-lm"])
def test_the_places_turn_one_text_into_the_other_byte_for_byte(case: dict[str, Any], runtime: str) -> None:
    places = differences(official(case), case["rendered"][runtime])
    assert patched(official(case), places) == case["rendered"][runtime]
    assert all(place.why != "other text" for place in places), places


@pytest.mark.parametrize(
    ("title", "runtime", "expected"),
    [
        ("a prompt with one tool", "ollama", {"a sentence of the runtime's own stands before the declarations": 1}),
        ("a plain conversation without tools", "ollama", {}),
        ("a plain conversation without tools", "litert-lm", {}),
        ("nested properties and items", "ollama", {
            "a sentence of the runtime's own stands before the declarations": 1, "a list's items are not shown": 1,
            "nested properties are not shown": 1}),
        ("two calls at the end", "ollama", {
            "a sentence of the runtime's own stands before the declarations": 1, "a call ends with <end_of_turn>": 1}),
        ("a prompt with one tool", "litert-lm", {ORDER: 3, "other line breaks or spaces": 1}),
        ("numbers, lists and objects in a call", "ollama", {
            "a number is written another way": 2, "a call ends with <end_of_turn>": 1}),
    ],
)  # fmt: skip
def test_each_difference_has_its_reason(title: str, runtime: str, expected: dict[str, int]) -> None:
    case = CASES[title]
    assert dict(reasons(differences(official(case), case["rendered"][runtime]))) == expected


def test_a_single_byte_is_found_in_arabic_text() -> None:
    (place,) = differences("<bos>قل مرحبا الآن", "<bos>قل مرحباً الآن")
    assert (place.trained, place.theirs) == ("مرحبا", "مرحباً")
    assert place.at == len("<bos>قل ".encode()) and place.why == "other text"
    assert differences("same", "same") == []


@pytest.fixture(scope="module")
def opened() -> Opened:
    return open_rendering(dozan.EMBEDDED_BASE)


def example(title: str) -> Example:
    case = CASES[title]
    return Example(title, tuple(case["tools"]), tuple(case["messages"]))


def test_all_four_are_compared_with_what_was_trained(opened: Opened) -> None:
    rows = render_rows(opened, [example("a call at the end"), example("a plain conversation without tools")])
    by_name = {found.runtime: found for found in rows[0].renderings}
    assert SENTENCE in by_name["ollama"].text and by_name["llama.cpp"].text.endswith("<start_function_response>")
    assert summary(rows[1:], "ollama") == summary(rows[1:], "llama.cpp") == "same bytes"
    assert "in 1 of 2 rows" in summary(rows, "ollama")
    assert rows[0].trained == official(CASES["a call at the end"])
    executed = {name for name, source in SOURCES.items() if source.executed}
    assert executed == {"transformers", "llama.cpp"}
    assert all("not run" in SOURCES[name].checked or "pinned" in SOURCES[name].checked
               for name in SOURCES if name not in executed)  # fmt: skip


def test_capital_types_are_refused_by_llama_cpp_and_it_is_said(opened: Opened) -> None:
    case = CASES["a prompt with one tool"]
    tools = json.loads(json.dumps(case["tools"]).replace('"object"', '"OBJECT"').replace('"string"', '"STRING"'))
    (row,) = render_rows(opened, [Example("r", tuple(tools), tuple(case["messages"]))])
    (found,) = [found for found in row.renderings if found.runtime == "llama.cpp"]
    assert found.same and "types are in capitals are refused" in found.note
    assert "small letters" in summary([row], "llama.cpp")


def test_a_row_that_cannot_be_rendered_is_named(opened: Opened) -> None:
    bad = Example("bad", (), ({"role": "user", "content": "q"}, {"role": "tool", "content": "x", "name": "f"}))
    good = example("a prompt with one tool")
    rows = render_rows(opened, [bad, good])
    assert "without a call" in rows[0].refused and not rows[0].renderings and rows[1].renderings
    console = Console(record=True, width=200, file=sys.stderr)
    print_rows(rows, 3, console)
    assert "bad: cannot be rendered" in console.export_text()


def test_a_run_trained_for_a_runtime_has_its_bytes(opened: Opened, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tuned")
    (folder / "dozan.json").write_text('{"target": "litert-lm"}')
    rows = render_rows(open_rendering(folder), [example("nested properties and items")])
    assert summary(rows, "litert-lm") == "same bytes" and "differ" in summary(rows, "ollama")


def test_the_terminal_shows_spaces_and_isolates_arabic(opened: Opened) -> None:
    rows = render_rows(opened, [example("a call at the end")])
    console = Console(record=True, width=200, file=sys.stderr)
    print_rows(rows, 20, console)
    said = console.export_text()
    assert re.search(r"^llama.cpp +1 place differs:$", said, re.M)
    assert "⏎⏎" in said and "\u2068" in said and "executed by the llama.cpp inside" in said
    assert "Ollama itself was not run" in said


def test_the_page_isolates_arabic_and_escapes(opened: Opened) -> None:
    rows = render_rows(opened, [example("a call at the end")])
    html = rows_page(rows, "rows <x>")
    assert "<title>rows &lt;x&gt;</title>" in html and '<bdi dir="rtl">' in html
    assert "&lt;start_function_response&gt;" in html and "<start_function" not in html


def test_the_verb_writes_json_and_a_page_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES["a prompt with one tool"]
    data = write_rows(tmp_path / "rows.jsonl", *({"id": i, "tools": case["tools"], "messages": case["messages"]}
                                                 for i in ("one", "two")))  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(["render-diff", "--data", str(data), "--row", "two", "--json", str(tmp_path / "d.json"), "--html",
              str(tmp_path / "d.html")])  # fmt: skip
    assert left.value.code == 0 and "row two" in capsys.readouterr().out
    found = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))
    (row,) = found["rows"]
    assert row["id"] == "two" and patched(row["trained"], []) == row["trained"]
    assert row["runtimes"]["transformers"] == {"same": True, "refused": "", "note": "", "text": row["trained"],
                                               "places": []}  # fmt: skip
    assert set(found["sources"]) == set(found["summary"]) == set(SOURCES)
    assert (tmp_path / "d.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(SystemExit) as left:
        main(["render-diff", "--data", str(data), "--row", "three"])
    assert left.value.code == 2 and "no row 'three'" in capsys.readouterr().err


def test_a_damaged_file_is_bad_input(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(InputError, match="could not open the file"):
        apply_template(broken, [([{"role": "user", "content": "q"}], [])])
