"""`data check --shard`: joined parts are the report of one process, to the byte; what does not belong is refused."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from test_bad_input import leave

from dozan.check.engine import EMBEDDED, check
from dozan.check.report import Report
from dozan.check.shards import check_shard, join_checks
from dozan.errors import InputError
from dozan.rows.parts import read_part, require_whole
from dozan.rows.shards import Shard, own_rows, owners, read_shard

TRIGGER = "You are a model that can do function calling with the following functions"
CITIES = ("الرياض", "جدة", "القاهرة", "عمّان", "بيروت", "Doha")
ASKED = ("كيف الطقس في {0} الحين", "ابي اعرف الجو في {0} {1}", "شو حالة الطقس ب{0} بكرا", "weather in {0} on day {1}")
Captured = pytest.CaptureFixture[str]


def tool(name: str, *names: str) -> dict[str, Any]:
    properties = {each: {"type": "string", "description": f"The {each}."} for each in names}
    return {"type": "function", "function": {"name": name, "description": "حالة الطقس today", "parameters": {
        "type": "object", "properties": properties}}}  # fmt: skip


TOOLS = [tool("get_weather", "city", "date"), tool("set_timer", "minutes"), tool("ask_weather", "city", "date"),
         tool("find_city", "name"), tool("call", "number"), tool("unused", "x")]  # fmt: skip


def row(i: int, draw: random.Random) -> dict[str, Any]:
    """Rows with something for every set rule: repeats, conflicts, one refusal, one date, tools never called."""
    shown = draw.sample(TOOLS[:5], 3) + [TOOLS[5]]
    if i % 4 == 0:
        shown = TOOLS
    city = draw.choice(CITIES)
    said = draw.choice(ASKED).format(city, draw.randrange(6))
    answer: dict[str, Any] = {"role": "assistant", "content": "آسف، لا أستطيع المساعدة في ذلك."}
    if i % 3:
        date = draw.choice(("2026-03-01", "01/03/2026", "غداً"))
        called = {"name": shown[0]["function"]["name"], "arguments": {"city": city, "date": date}}
        answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": called}]}
    day = 1 + i % 2 if i % 3 else 9
    now = f"{TRIGGER}\nCurrent date and time given in YYYY-MM-DDTHH:MM:SS format: 2026-02-0{day}T10:00:00"
    asked = [{"role": "developer", "content": now}, {"role": "user", "content": said}]
    return {"id": str(i % 140), "dialect": ("msa", "gulf", "levant")[i % 3], "tools": shown,
            "messages": [*asked, answer]}  # fmt: skip


def written(folder: Path, count: int = 150, held: int = 20) -> tuple[Path, Path]:
    """Training rows, among them lines that are broken, and evaluation rows, some of them trained."""
    draw = random.Random(5)
    lines = [json.dumps(row(i, draw), ensure_ascii=False) for i in range(count)]
    heldout = [*lines[3 : 3 + held // 4], *(json.dumps(row(500 + i, draw)) for i in range(held - held // 4))]
    odd = '{"messages": [{"role": "user", "content": "?", "k\\ud83d": 1}, {"role": "assistant", "content": "!"}]}'
    marked, twice = "\ufeff" + lines[0], "\ufeff" + json.dumps(row(900, draw))
    lines[0] = marked
    for at, line in ((5, twice), (7, "{broken"), (40, odd), (41, "[1]"), (90, '{"messages": "x"}')):
        lines.insert(at, line)
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "held.jsonl").write_text("\n".join(heldout) + "\n", encoding="utf-8")
    return folder / "rows.jsonl", folder / "held.jsonl"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return written(tmp_path_factory.mktemp("rows"))


def told(path: Path) -> bytes:
    """A report's bytes without how long it took."""
    lines = path.read_bytes().split(b"\n")
    kept = [line for line in lines if not line.startswith(b' "seconds"')]
    assert len(kept) == len(lines) - 1
    return b"\n".join(kept)


def parts(folder: Path, count: int, *given: Any, **settings: Any) -> list[Path]:
    made = [folder / f"part-{index}.json" for index in range(1, count + 1)]
    for index, path in enumerate(made, 1):
        check_shard(Shard(index, count), path, *given, **settings)
    return made


@pytest.fixture(scope="module")
def whole(files: tuple[Path, Path]) -> Report:
    return check([files[0]], eval_files=[files[1]], model=EMBEDDED)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_joined_are_the_whole_report(
    files: tuple[Path, Path], whole: Report, tmp_path: Path, count: int
) -> None:
    rows, held = files
    settings: dict[str, Any] = {"eval_files": [held], "model": EMBEDDED}
    made = parts(tmp_path, count, [rows], **settings)
    random.Random(count).shuffle(made)
    joined = join_checks([read_part(path) for path in made])
    whole.to_json(tmp_path / "whole.json")
    joined.to_json(tmp_path / "joined.json")
    assert told(tmp_path / "joined.json") == told(tmp_path / "whole.json")
    found = {"DZ601", "DZ603", "DZ605", "DZ606", "DZ611", "DZ616", "DZ631", "DZ632", "DZ633", "DZ641", "DZ705"}
    read = {"DZ109", "DZ110", "DZ129", "DZ130", "DZ131", "DZ140"}
    assert set(whole.counts) >= found | read and whole.unread == 4
    assert list(joined.findings) == list(whole.findings) and joined.counts == whole.counts


def test_shards_without_a_row_and_files_without_one(tmp_path: Path) -> None:
    rows, held = written(tmp_path, 2, 4)
    made = parts(tmp_path, 7, [rows, held], max_tokens=512)
    assert sum(not list(read_part(path).rows()) for path in made) == 1
    check([rows, held], max_tokens=512).to_json(tmp_path / "whole.json")
    join_checks([read_part(path) for path in made]).to_json(tmp_path / "joined.json")
    assert told(tmp_path / "joined.json") == told(tmp_path / "whole.json")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    made = parts(tmp_path, 2, [empty])
    assert join_checks([read_part(path) for path in made]).counts == check([empty]).counts == {"DZ101": 1}


@pytest.mark.parametrize("chosen", [["DZ4"], ["duplicate-row"], ["DZ110", "DZ6"], ["near-leak", "not-json"]])
def test_only_what_is_asked_for_is_kept(files: tuple[Path, Path], tmp_path: Path, chosen: list[str]) -> None:
    rows, held = files
    whole = check([rows], eval_files=[held], only=chosen)
    joined = join_checks([read_part(path) for path in parts(tmp_path, 3, [rows], eval_files=[held], only=chosen)])
    assert list(joined.findings) == list(whole.findings) and {**joined.stats} == {**whole.stats}


def test_the_tokenizer_is_measured_on_training_rows(files: tuple[Path, Path]) -> None:
    alone, beside = check([files[0]], only=["DZ110"]), check([files[0]], eval_files=[files[1]], only=["DZ110"])
    assert alone.stats["tokenizer"] == beside.stats["tokenizer"] != check([files[1]], only=["DZ110"]).stats["tokenizer"]


def test_many_tools_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More different tools than have a number at a time."""
    monkeypatch.setattr("dozan.check.shards._MOST_TOOLS", 5)
    draw, lines = random.Random(1), []
    for i in range(60):
        made = row(i, draw)
        made["tools"] = [tool(f"tool{(i * 3 + k) % 23}", "city", "date") for k in range(4)]
        lines.append(json.dumps(made))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    whole = check([tmp_path / "rows.jsonl"])
    joined = join_checks([read_part(path) for path in parts(tmp_path, 2, [tmp_path / "rows.jsonl"])])
    assert "DZ632" in whole.counts and list(joined.findings) == list(whole.findings)


def test_the_verb_joins_to_the_same_report_page_and_exit_code(
    files: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    rows, held = files
    given = ["data", "check", str(rows), "--eval-data", str(held)]
    assert leave([*given, "--json", str(tmp_path / "whole.json"), "--html", str(tmp_path / "whole.html")]) == 2
    made = [str(tmp_path / f"part-{index}.json") for index in (1, 2)]
    capsys.readouterr()
    for index, path in enumerate(made, 1):
        assert leave([*given, "--shard", f"{index}/2", "--json", path]) == 0
    assert "part 2/2: " in capsys.readouterr().out
    joined = ["--json", str(tmp_path / "joined.json"), "--html", str(tmp_path / "joined.html")]
    assert leave(["join", *made[::-1], *joined]) == 2
    assert "errors" in capsys.readouterr().out
    assert told(tmp_path / "joined.json") == told(tmp_path / "whole.json")
    pages = [(tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("whole", "joined")]
    first, second = (re.sub(r"seconds.{,60}</dd>", "", page) for page in pages)
    assert first == second


def test_the_page_needs_the_rows(tmp_path: Path, capsys: Captured) -> None:
    rows, _ = written(tmp_path, 3, 4)
    (made,) = parts(tmp_path, 1, [rows])
    rows.write_text(rows.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert leave(["join", str(made), "--html", str(tmp_path / "page.html")]) == 2
    assert "is not the file that the parts were made from" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def refused(paths: list[Path]) -> str:
    with pytest.raises(InputError) as error:
        require_whole([read_part(path) for path in paths])
    return str(error.value)


def test_parts_of_other_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, held = written(tmp_path, 6, 4)
    made = parts(tmp_path, 3, [rows])
    assert "missing: 2/3; run the same command with --shard 2/3" in refused([made[0], made[2]])
    assert "missing: 1/3, 3/3; run the same command with --shard 1/3" in refused([made[1]])
    assert f"part 2/3 is there twice: {made[1]} and {made[1]}" in refused([*made, made[1]])
    other = tmp_path / "other.json"

    def against(**settings: Any) -> str:
        check_shard(Shard(2, 3), other, [rows], **settings)
        return refused([made[0], other, made[2]])

    assert f"max_tokens: {other} has 512, {made[0]} has 4096" in against(max_tokens=512)
    assert "rules: " in against(only=["DZ4"]) and "evaluation rows 1, held.jsonl: " in against(eval_files=[held])
    assert "the model's own: " in against(model=EMBEDDED)
    check_shard(Shard(2, 4), other, [rows])
    assert f"{other} is part 2/4, {made[0]} is part 1/3: divided otherwise" in refused([*made, other])
    monkeypatch.setattr("dozan.__version__", "9.9.9")
    assert f"dozan: {other} has 9.9.9, {made[0]} has 0.1.0" in against()
    monkeypatch.undo()
    rows.write_text(rows.read_text(encoding="utf-8").replace("آسف", "عفواً"), encoding="utf-8")
    assert "rows 1, rows.jsonl: " in against()


def test_files_beside_the_rows_must_be_the_same(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "؟"}, {"role": "assistant", "content": "!"}]
    line = {"tools": "tools.json", "messages": said}
    rows, tools = tmp_path / "rows.jsonl", tmp_path / "tools.json"
    rows.write_text(json.dumps(line), encoding="utf-8")
    tools.write_text(json.dumps(TOOLS), encoding="utf-8")
    made = parts(tmp_path, 2, [rows])
    tools.write_text(json.dumps(TOOLS[:1]), encoding="utf-8")
    check_shard(Shard(2, 2), made[1], [rows])
    assert f"{tmp_path.name}/tools.json: " in refused(made)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.999])
def test_every_damaged_byte_is_found(files: tuple[Path, Path], tmp_path: Path, at: float) -> None:
    (made,) = parts(tmp_path, 1, [files[1]])
    content = bytearray(made.read_bytes())
    place = min(int(at * len(content)), len(content) - 1)
    for damaged in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
        made.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged, it has other bytes|no part of a sharded eval"):
            read_part(made)


def test_other_files_are_no_parts(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "scores.json").write_text("{}", encoding="utf-8")
    assert leave(["join", str(tmp_path / "scores.json")]) == 2
    assert "scores.json: no part of a sharded eval or data check" in capsys.readouterr().err
    assert leave(["join", str(tmp_path / "part-9.json")]) == 2
    assert "part-9.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "near"), [("0/4", "1/4"), ("5/4", "4/4"), ("x", "1/4"), ("1", "1/4"), ("1/0", "1/4"),
                                            ("-1/4", "1/4"), ("1/4/2", "1/4"), ("", "1/4")])  # fmt: skip
def test_bad_shards_are_told_one_that_works(files: tuple[Path, Path], capsys: Captured, text: str, near: str) -> None:
    assert leave(["data", "check", str(files[0]), "--shard", text, "--json", "never.json"]) == 2
    said = capsys.readouterr().err
    assert text in said and near in said.partition(text or "''")[2]
    assert read_shard(near) == Shard(*map(int, near.split("/")))


def test_a_part_needs_a_file_and_has_no_page(files: tuple[Path, Path], capsys: Captured) -> None:
    assert leave(["data", "check", str(files[0]), "--shard", "1/2"]) == 2
    assert "--json part-1.json" in capsys.readouterr().err
    assert leave(["data", "check", str(files[0]), "--shard", "1/2", "--json", "x.json", "--html", "x.html"]) == 2
    assert "dozan join" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_row_has_one_owner_and_neighbours_stay_together(count: int) -> None:
    for rows in (0, 1, 3, 100, 4000):
        dealt = [own_rows(range(rows), Shard(index, count)) for index in range(1, count + 1)]
        assert sorted(row for own, _ in dealt for row in own) == list(range(rows)) and {t for _, t in dealt} == {rows}
        sizes = [len(own) for own, _ in dealt]
        assert max(sizes) <= min(64 + min(sizes), 1.5 * min(sizes) + 4)
    turns = owners(count)
    first = [next(turns) for _ in range(4000)]
    assert sum(a != b for a, b in zip(first, first[1:], strict=False)) <= (count > 1) * (25 * count + 4000 // 64)
    assert own_rows(range(100), Shard(1, count), limit=9)[1] == 9
