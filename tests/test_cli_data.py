"""`dozan data`: each verb on small files, its exit code, and that its help fits a terminal and loads nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import conversation, leave, write_rows

import dozan
from dozan.cli.data import app

ROOT = Path(__file__).parents[1]
VERBS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    numbered = [{"id": f"row-{i}", **conversation(said=f"مؤقت {i} دقائق")} for i in range(5, 9)]
    return write_rows(tmp_path / "rows.jsonl", *numbered)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_a_terminal(verb: str, capsys: Captured) -> None:
    assert leave(["data", *verb.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert page.startswith(f"Usage: dozan data {verb or '[OPTIONS]'}")
    assert verb or all(f"  {name} " in page for name in VERBS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dozan.cli import main\ntry:\n    main(['data', 'check', '--help'])\nexcept SystemExit:\n"
        "    pass\nprint(sorted({'torch', 'numpy', 'rich', 'tokenizers', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_check_exits_2_on_errors_and_writes_both_reports(rows: Path, tmp_path: Path, capsys: Captured) -> None:
    assert leave(["data", "check", str(rows)]) == 0
    assert "0 errors" in capsys.readouterr().out
    bad = write_rows(tmp_path / "bad.jsonl", conversation("no_such_tool"), conversation())
    to_json, to_html = tmp_path / "out" / "found.json", tmp_path / "out" / "found.html"
    assert leave(["data", "check", str(bad), "--json", str(to_json), "--html", str(to_html)]) == 2
    out = capsys.readouterr().out
    assert "bad.jsonl:1" in out and "set_timer" in out
    found = json.loads(to_json.read_text(encoding="utf-8"))
    assert found["errors"] >= 1 and to_html.is_file()
    assert leave(["data", "check", str(bad), "--only", "DZ5"]) == 0


def test_check_names_a_missing_file_and_an_unknown_code(rows: Path, capsys: Captured) -> None:
    assert leave(["data", "check", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl: no such file" in capsys.readouterr().err
    assert leave(["data", "check", str(rows), "--except", "DZ999"]) == 2
    assert "DZ999" in capsys.readouterr().err


def test_rules(capsys: Captured) -> None:
    assert leave(["data", "rules"]) == 0
    page = capsys.readouterr().out
    assert all(rule.code in page for rule in dozan.data.rules())
    assert leave(["data", "rules", "DZ402"]) == 0
    assert "remedy" in capsys.readouterr().out


def test_show(rows: Path, tmp_path: Path, capsys: Captured) -> None:
    assert leave(["data", "show", str(rows), "--row", "row-6", "--row", "4"]) == 0
    page = capsys.readouterr().out
    assert "row-6" in page and "row-8" in page and "row-5" not in page and "call:set_timer" in page
    assert leave(["data", "show", str(rows), "--html", str(tmp_path / "show.html"), "--limit", "3"]) == 0
    text = (tmp_path / "show.html").read_text(encoding="utf-8")
    assert text.count('class="row"') == 3
    assert leave(["data", "show", str(rows), "--row", "row-60"]) == 2
    assert "row-6" in capsys.readouterr().err


def test_stats(rows: Path, tmp_path: Path, capsys: Captured) -> None:
    assert leave(["data", "stats", str(rows), str(rows), "--json", str(tmp_path / "stats.json")]) == 0
    assert "8 rows" in capsys.readouterr().out
    assert json.loads((tmp_path / "stats.json").read_text(encoding="utf-8"))["called"] == {"set_timer": 8}


def test_rows_that_cannot_be_read_are_counted_aloud(tmp_path: Path, capsys: Captured) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", conversation(), "{broken", "{broken too")
    assert leave(["data", "stats", str(bad)]) == 0
    assert "2 rows cannot be read" in capsys.readouterr().err


def test_fix_repairs_shows_its_diff_and_keeps_sound_rows(rows: Path, tmp_path: Path, capsys: Captured) -> None:
    hidden = json.loads(json.dumps(conversation()).replace('"minutes"', '"nullable"'))
    bad = write_rows(tmp_path / "bad.jsonl", hidden, "{broken")
    out = tmp_path / "out" / "fixed.jsonl"
    assert leave(["data", "fix", str(bad), "--out", str(out), "--dry-run"]) == 0
    page = capsys.readouterr().out
    assert "+++ bad.jsonl:1" in page and "1 repaired" in page and "1 set aside" in page and not out.parent.exists()
    assert leave(["data", "fix", str(bad), str(rows), "--out", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out.replace("\n", "")
    lines = out.read_bytes().splitlines()
    arguments = json.loads(lines[0])["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert list(arguments.values()) == [5] and "nullable" not in arguments
    assert lines[1:] == rows.read_bytes().splitlines()


def test_prepare_writes_both_sides_and_a_manifest(tmp_path: Path, capsys: Captured) -> None:
    said = [
        "مؤقت خمس دقائق",
        "ذكرني بعد 5 دقائق",
        "شغل العداد 5",
        "بدي تايمر 5 دقائق",
        "اضبط الوقت على 5",
        "ابدأ العد 5",
    ]
    rows = write_rows(tmp_path / "rows.jsonl", *({"id": str(i), **conversation(said=s)} for i, s in enumerate(said)))
    assert leave(["data", "prepare", str(rows), "--out", str(tmp_path / "out"), "--holdout", "0.3"]) == 0
    counts = [len((tmp_path / "out" / f"{side}.jsonl").read_bytes().splitlines()) for side in ("train", "eval")]
    assert sum(counts) == 6 and min(counts) >= 1 and (tmp_path / "out" / "manifest.json").is_file()
    assert f"{counts[0]} rows to train on, {counts[1]} to evaluate on" in capsys.readouterr().out
