"""The check of whole files: one report, the same with and without processes, in memory that does not grow."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from dozan.check.catalog import RULES
from dozan.check.engine import EMBEDDED, check, choose_codes
from dozan.check.finding import Finding
from dozan.check.report import MOST_IN_MEMORY, FindingStore
from dozan.check.worker import ALONE, Job, check_stream, serve
from dozan.errors import InputError
from dozan.rows.example import Example

CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "City."}}, "required": ["city"]}
TOOL = {"function": {"name": "get_weather", "description": "Weather of a city.", "parameters": CITY}}
TRIGGER = "You are a model that can do function calling with the following functions"
ASSETS = EMBEDDED.parent / "mobile_actions_ar"


def row(i: int, **arguments: Any) -> dict[str, Any]:
    given = arguments or {"city": f"مدينة{i}"}
    call = {"function": {"name": "get_weather", "arguments": given}}
    return {"tools": [TOOL], "messages": [
        {"role": "developer", "content": TRIGGER}, {"role": "user", "content": f"كيف الطقس في مدينة{i} الآن"},
        {"role": "assistant", "tool_calls": [call]}]}  # fmt: skip


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), encoding="utf-8")
    return path


def told(findings: FindingStore) -> list[tuple[str, str, str, str]]:
    return [(finding.code, finding.place, finding.path, finding.message) for finding in findings]


def test_one_pass_finds_broken_lines_bad_rows_and_the_set(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(1), row(2, town="x"), row(3), row(3)])
    file.write_text(file.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    report = check([file])
    assert (sum(report.rows.values()), report.unread, report.exit_code) == (4, 1, 2)
    found = {finding.rule.name: finding.place for finding in report.findings}
    assert found["not-json"] == "rows.jsonl:5" and found["unknown-argument"] == "rows.jsonl:2"
    assert found["duplicate-row"] == str(file)
    assert report.examples("DZ601")[0].places == ("rows.jsonl:4 = rows.jsonl:3",)
    assert report.stats["rows"] == 4 and report.stats["calls"] == 4 and report.stats["chat"] == "functiongemma"


def test_the_json_has_codes_counts_and_places(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(i, town="x") for i in range(7)])
    report = check([file])
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    entry = next(item for item in data["findings"] if item["code"] == "DZ403")
    assert entry["count"] == 7 == len(entry["places"]) and entry["severity"] == "error"
    assert entry["places"][6]["place"] == "rows.jsonl:7" and entry["places"][6]["path"].endswith("arguments.town")
    assert data["rows"] == {str(file): 7} and data["errors"] == report.errors > 0


def test_evaluation_rows_are_checked_and_compared(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row(i) for i in range(20)])
    held = write(tmp_path / "eval.jsonl", [row(3), row(99, town="x")])
    report = check([train], eval_files=[held])
    assert report.examples("DZ605")[0].places == ("eval.jsonl:1 = train.jsonl:4",)
    assert report.examples("DZ403")[0].place == "eval.jsonl:2"
    assert (report.stats["rows"], report.stats["eval_rows"]) == (20, 2)
    assert "20 rows" in report.examples("DZ618")[0].message or "(20 with" in report.examples("DZ618")[0].message


def test_processes_find_the_same_in_the_same_order(tmp_path: Path) -> None:
    rows = [row(i) if i % 5 else row(i, town="x") for i in range(400)]
    file = write(tmp_path / "rows.jsonl", rows)
    alone, many = check([file], processes=1), check([file], processes=2)
    assert told(alone.findings) == told(many.findings) and alone.counts == many.counts
    assert {**alone.stats} == {**many.stats}


def test_large_files_start_processes_and_small_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Job] = []

    class Counted:
        def __init__(self, job: Job) -> None:
            started.append(job)
            raise InterruptedError

    monkeypatch.setattr("dozan.check.worker._Child", Counted)
    monkeypatch.setattr("dozan.check.worker.os.cpu_count", lambda: 2)
    job = Job("functiongemma", str(EMBEDDED), 4096)
    example = Example("a", (), ({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}))
    assert len(list(check_stream([example] * ALONE, job))) == ALONE and not started
    with pytest.raises(InterruptedError):
        next(check_stream([example] * (ALONE + 1), job))


def test_the_child_answers_in_order_until_the_end() -> None:
    example = Example("a", (TOOL,), ({"role": "user", "content": "x"},), place="f:1")
    source, out = io.BytesIO(), io.BytesIO()
    for item in (Job("functiongemma", str(EMBEDDED), 4096), [example] * 2, [example]):
        pickle.dump(item, source)
    source.seek(0)
    serve(source, out)
    out.seek(0)
    assert [len(pickle.load(out)) for _ in range(2)] == [2, 1] and out.read() == b""


def test_only_and_except_choose_codes(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(1, town="x"), row(1, town="x")])
    assert set(check([file], only=["DZ40"]).counts) == {"DZ402", "DZ403"}
    assert set(check([file], only=["DZ40"], except_=["missing-argument"]).counts) == {"DZ403"}
    assert set(check([file], only=["duplicate-row"]).counts) == {"DZ601"}
    assert "DZ403" not in check([file], except_=["dz403"]).counts
    with pytest.raises(InputError, match="'DZ9': no rule of that code or name"):
        choose_codes(["DZ9"])
    assert choose_codes() == {rule.code for rule in RULES}


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        check([])
    with pytest.raises(InputError, match="no such file"):
        check([tmp_path / "none.jsonl"])
    file = write(tmp_path / "rows.jsonl", [row(1)])
    with pytest.raises(InputError, match="tokenizer.json"):
        check([file], model=tmp_path)
    with pytest.raises(InputError, match="unknown format"):
        check([file], chat="llama")


def test_the_tokenizer_is_judged_only_when_it_is_the_model_s(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(i) for i in range(20)])
    assert "DZ705" not in check([file]).counts
    assert "DZ705" in check([file], model=EMBEDDED).counts


def test_findings_beyond_a_thousand_a_code_lie_on_disk_and_come_back() -> None:
    store = FindingStore()
    rule = RULES["DZ403"]
    made = [Finding(rule, f"rows.jsonl:{i}", "a.b", f"رسالة {i}", row=str(i)) for i in range(MOST_IN_MEMORY + 50)]
    for finding in made:
        store.add(finding)
    assert len(store.first("DZ403", 10**6)) == MOST_IN_MEMORY and store.counts == {"DZ403": len(made)}
    assert list(store) == made and list(store) == made
    store.add(made[0])
    assert list(store)[-1] == made[0] and len(list(store)) == len(made) + 1


def test_the_embedded_set_has_no_error_and_no_warning_about_the_set(tmp_path: Path) -> None:
    """Every third training row: some 2,000, of every dialect, tool and kind."""
    shutil.copy(ASSETS / "tools.json", tmp_path)
    lines = gzip.decompress((ASSETS / "train.jsonl.gz").read_bytes()).splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_bytes(b"".join(lines[::3]))
    report = check([tmp_path / "train.jsonl"], eval_files=[ASSETS / "test.jsonl"])
    assert sum(report.rows.values()) > 2000
    assert report.errors == 0 and report.unread == 0
    warned = [f for f in report.findings if f.severity == "warning" and f.rule.scope in ("set", "tokenizer")]
    assert warned == []
