"""Repairs: what each changes and what it leaves, that they come once, and that no row or byte gets lost on the way."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from broken_rows import corpus, properties, register_all, sound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dozan.chat import FUNCTIONGEMMA
from dozan.check.fix import FixResult, fix
from dozan.check.fixes.repair import ASKED, SAFE, choose
from dozan.check.fixes.row import FixedRow, RowFixer
from dozan.check.fixes.values import read_number
from dozan.check.rules import check_rows
from dozan.errors import InputError
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.rows.renames import renamed_arguments, restored_arguments

register_all()
Row = dict[str, Any]
ASSETS = Path(__file__).parents[1] / "dozan" / "assets" / "mobile_actions_ar"


def base() -> Row:
    from random import Random

    row = sound(Random(0), 1)
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = {
        "title": "اجتماع",
        "datetime": "2025-03-04T17:00:00",
    }
    return row


def arguments(row: Row) -> Row:
    found: Row = row["messages"][2]["tool_calls"][0]["function"]["arguments"]
    return found


def example(row: Row) -> Example:
    meta = {key: value for key, value in row.items() if key not in ("id", "tools", "messages")}
    return Example(row["id"], tuple(row["tools"]), tuple(row["messages"]), meta, "rows.jsonl:1")


def fixed(row: Row, *only: str) -> FixedRow:
    return RowFixer(choose(only)).fix(example(row))


def call(found: FixedRow) -> Row:
    made: Row = found.example.messages[2]["tool_calls"][0]["function"]["arguments"]
    return made


def write(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


LATIN = "أرسل رسالة".encode().decode("latin-1")
WINDOWS = "".join(bytes([byte]).decode("cp1256") for byte in "أرسل رسالة".encode())
TWICE = LATIN.encode().decode("latin-1")


@pytest.mark.parametrize(
    ("text", "after", "code"),
    [
        (LATIN, "أرسل رسالة", "DZ501"),
        ("رسالة واضحة ثم " + "مرحبا بكم".encode().decode("cp1252", "ignore"), None, None),
        (WINDOWS, "أرسل رسالة", "DZ502"),
        (TWICE, "أرسل رسالة", "DZ503"),
        ('\\u0627\\u0644\\u0644\\u0647 \\"x\\"', 'الله "x"', "DZ504"),
        ("قل \\u0627\\u0644", "قل ال", "DZ504"),
        ("```\nprint('\\u0627')\n```", "```\nprint('\\u0627')\n```", None),
        ("a\\u0000b\\u0007", "a\\u0000b\\u0007", None),
        ("اتصل \u202d+966 50 123 4567\u202c الآن", "اتصل +966 50 123 4567 الآن", "DZ510"),
        ("\u202eabc", "\u202eabc", None),
        ("\u202dأحمد abc\u202c", "\u202dأحمد abc\u202c", None),
        ("مرحبا\u200f \u2067abc\u2069", "مرحبا abc", "DZ511"),
        ("م\u200cر\ufeffحبا", "مرحبا", "DZ512"),
        ("👩\u200d🚀", "👩\u200d🚀", None),
        ("a\u00a0b\u2028c", "a b\nc", "DZ513"),
        ("ﻣﺮﺣﺒﺎ ﷲ", "مرحبا الله", "DZ514"),
        ("ﹰ", "ً", "DZ514"),
        ("شّ\u064e".replace("\u0651\u064e", "\u0651\u064e"), "ش\u064e\u0651", "DZ515"),
        ("«قال» “نعم” …", "«قال» “نعم” …", None),
        ("علی کتاب", "علی کتاب", None),
        ("رســالة", "رســالة", None),
        ("عند ٥ مساء &amp; \ufffd", "عند ٥ مساء &amp; \ufffd", None),
        ("<start_of_turn>user", "< start_of_turn>user", "DZ226"),
        ("<<eos>eos>", "<< eos>eos>", "DZ226"),
    ],
)
def test_what_users_say(text: str, after: str | None, code: str | None) -> None:
    row = base()
    row["messages"][1]["content"] = text
    found = fixed(row)
    if after is not None:
        assert found.example.messages[1]["content"] == after
        assert [repair.code for repair in found.repairs] == ([code] if code else [])
        assert all((r.path, r.before, r.after) == ("messages[1].content", text, after) for r in found.repairs)


@pytest.mark.parametrize(
    ("name", "value", "after", "code"),
    [
        ("title", "علی کتاب", "علي كتاب", "DZ516"),
        ("title", "پیش چای", "پیش چای", None),
        ("title", "رســالة", "رسالة", "DZ427"),
        ("title", "كتاب لـ 5 سنة 1445هـ", "كتاب لـ 5 سنة 1445هـ", None),
        ("title", " اجتماع ", "اجتماع", "DZ429"),
        ("phone", "٠٥٠١٢٣٤٥٦٧", "0501234567", "DZ426"),
        ("datetime", "٢٠٢٥-٠٣-٠٤T١٧:٠٠:٠٠", "2025-03-04T17:00:00", "DZ426"),
        ("title", "٥", "٥", None),
        ("title", "صفحة ٥", "صفحة ٥", None),
        ("minutes", "٤٥", 45, "DZ408"),
        ("minutes", "1,500", 1500, "DZ408"),
        ("minutes", "007", "007", None),
        ("minutes", "4.5", "4.5", None),
        ("minutes", 5.0, 5.0, None),
        ("calendar", "Work", "work", "DZ405"),
        ("calendar", "office", "office", None),
        ("color", "RED", "red", "DZ406"),
        ("guests", '["هند"]', ["هند"], "DZ404"),
        ("guests", "هند", "هند", None),
        ("phone", 501234567, 501234567, None),
        ("place", {"city": None}, {}, "DZ209"),
        ("title", "", "", None),
    ],
)
def test_gold_values(name: str, value: Any, after: Any, code: str | None) -> None:
    row = base()
    arguments(row)[name] = value
    found = fixed(row)
    assert call(found)[name] == after and type(call(found)[name]) is type(after)
    assert [repair.code for repair in found.repairs] == ([code] if code else [])


def test_digits_that_the_request_has_become_text() -> None:
    row = base()
    row["messages"][1]["content"] = "اتصل على ٩٦٦٥٠١٢٣"
    arguments(row)["phone"] = 96650123
    assert call(fixed(row))["phone"] == "96650123"
    row["messages"][1]["content"] = "اتصل على 096650123"
    assert call(fixed(row))["phone"] == 96650123


@pytest.mark.parametrize(
    ("text", "fraction", "number"),
    [
        ("٣٫٥", True, 3.5), ("٣٫٥", False, None), ("1.50", True, 1.5), ("1,5", True, None), ("1,500", True, None),
        ("١٬٥٠٠", True, 1500), ("1,500,000", True, 1500000), ("-7", False, -7), ("1e3", True, None),
        ("12345678901234567890", False, None), ("", True, None), ("٥ دقائق", False, None),
    ],
)  # fmt: skip
def test_numbers_are_read_where_nothing_is_lost(text: str, fraction: bool, number: float | None) -> None:
    assert read_number(text, fraction) == number


def test_arguments_in_text_are_parsed_and_nulls_dropped() -> None:
    row = base()
    function = row["messages"][2]["tool_calls"][0]["function"]
    function["arguments"] = '{"title": "اجتماع", "datetime": "2025-03-04T17:00:00", "phone": null}'
    found = fixed(row)
    assert call(found) == {"title": "اجتماع", "datetime": "2025-03-04T17:00:00"}
    assert {repair.code for repair in found.repairs} == {"DZ208", "DZ209"}
    for broken in ('{"a": 1, "a": 2}', "{", "[1]", '{"a": NaN}'):
        function["arguments"] = broken
        assert fixed(row).example is not None and call(fixed(row)) == broken


@pytest.mark.parametrize(
    ("schema", "after", "codes"),
    [
        ({"description": "x"}, {"type": "string", "description": "x"}, {"DZ303"}),
        ({"enum": [1, 2]}, {"type": "integer", "enum": [1, 2]}, {"DZ303"}),
        ({"items": {"type": "string"}}, {"type": "array", "items": {"type": "string"}}, {"DZ303"}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"type": "string", "enum": ["a"]}, {"DZ304"}),
        ({"type": ["string", "integer"]}, {"type": ["string", "integer"]}, set()),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "integer"}, {"DZ304"}),
        ({"type": "float"}, {"type": "number"}, {"DZ306"}),
        ({"type": "String"}, {"type": "string"}, {"DZ306"}),
        ({"type": "STRING"}, {"type": "STRING"}, set()),
        ({"type": "any"}, {"type": "any"}, set()),
        ({"type": "string", "enum": None, "default": None}, {"type": "string", "default": None}, {"DZ209"}),
        ({"type": "string", "description": "نوع ﻣﺎ"}, {"type": "string", "description": "نوع ما"}, {"DZ514"}),
    ],
)
def test_schemas(schema: Row, after: Row, codes: set[str]) -> None:
    row = base()
    properties(row)["new"] = schema
    found = fixed(row)
    assert found.example.tools[0]["function"]["parameters"]["properties"]["new"] == after
    assert {repair.code for repair in found.repairs} == codes
    assert all(repair.path.startswith("tools[0].function.parameters.properties.new") for repair in found.repairs)


def test_a_type_is_not_guessed_against_the_calls() -> None:
    row = base()
    del properties(row)["minutes"]["type"]
    arguments(row)["minutes"] = 5
    assert "type" not in fixed(row).example.tools[0]["function"]["parameters"]["properties"]["minutes"]
    arguments(row)["minutes"] = "5"
    assert fixed(row).example.tools[0]["function"]["parameters"]["properties"]["minutes"]["type"] == "string"


def test_what_may_be_null_is_not_required() -> None:
    row = base()
    properties(row)["title"]["type"] = ["string", "null"]
    arguments(row)["title"] = None
    found = fixed(row)
    assert found.example.tools[0]["function"]["parameters"]["required"] == ["datetime"]
    assert call(found) == {"datetime": "2025-03-04T17:00:00"}
    assert not [f for f in check_rows([found.example], FUNCTIONGEMMA) if f.severity == "error"]


def test_lost_names_are_renamed_and_come_back() -> None:
    row = base()
    properties(row)["type"] = {"type": "string", "description": "Its kind."}
    properties(row)["type_value"] = {"type": "string", "description": "Another."}
    properties(row)["place"]["properties"]["description"] = {"type": "string", "description": "In words."}
    row["tools"][0]["function"]["parameters"]["required"].append("type")
    given = {**arguments(row), "type": "عمل", "type_value": "x", "place": {"city": "جدة", "description": "بعيد"}}
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = given
    found = fixed(row)
    renames = {"create_event": {"place.description_value": "description", "type_value_": "type"}}
    assert found.example.meta["renamed"] == found.renames == renames
    assert call(found)["type_value_"] == "عمل" and call(found)["type_value"] == "x"
    assert call(found)["place"] == {"city": "جدة", "description_value": "بعيد"}
    assert "type_value_" in found.example.tools[0]["function"]["parameters"]["required"]
    assert restored_arguments("create_event", call(found), renames) == given
    assert renamed_arguments("create_event", given, renames) == call(found)
    rules = {finding.code for finding in check_rows([found.example], FUNCTIONGEMMA)}
    assert not rules & {"DZ301", "DZ411"} and "DZ301" in {f.code for f in check_rows([example(row)], FUNCTIONGEMMA)}


def test_names_in_lists_come_back() -> None:
    renames = {"f": {"stops[].type_value": "type"}}
    written = {"stops": [{"type_value": 1}, {"x": 2}], "type_value": 3}
    assert restored_arguments("f", written, renames) == {"stops": [{"type": 1}, {"x": 2}], "type_value": 3}
    assert restored_arguments("g", written, renames) is written


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda row: arguments(row).update(phone=""), "DZ424"),
        (lambda row: arguments(row).update(phon="0501234567"), "DZ403"),
        (lambda row: (arguments(row).update(title="اجتماعٌ"), row["messages"][1].update(content="اجتماع")), "DZ428"),
        (lambda row: arguments(row).update(title="صفحة ٥"), "DZ430"),
        (lambda row: row["tools"][0]["function"]["parameters"]["required"].append("nobody"), "DZ321"),
        (lambda row: row["messages"][0].update(content="Hello."), "DZ235"),
        (
            lambda row: row["messages"][2]["tool_calls"].append(copy.deepcopy(row["messages"][2]["tool_calls"][0])),
            "DZ236",
        ),
    ],
)
def test_what_a_person_must_look_at_is_repaired_when_asked(change: Any, code: str) -> None:
    row = base()
    change(row)
    assert code in {finding.code for finding in check_rows([example(row)], FUNCTIONGEMMA)}
    assert fixed(row).repairs == ()
    found = fixed(row, code)
    assert {repair.code for repair in found.repairs} == {code}
    assert code not in {finding.code for finding in check_rows([found.example], FUNCTIONGEMMA)}


def test_every_safe_code_can_be_left_out(tmp_path: Path) -> None:
    assert not SAFE & ASKED
    path = tmp_path / "rows.jsonl"
    path.write_bytes(corpus(0, {name: breaker for name, breaker in register_all().items() if breaker.code in SAFE})[0])
    found = fix([path], tmp_path / "o.jsonl", dry_run=True)
    assert len(found.repairs) > 20
    for code in found.repairs:
        assert code not in fix([path], tmp_path / "o.jsonl", except_=[code], dry_run=True).repairs
        assert set(fix([path], tmp_path / "o.jsonl", only=[code], dry_run=True).repairs) == {code}


def outputs(path: Path) -> list[Path]:
    stem = path.name.removesuffix(".jsonl")
    return [path.with_name(stem + end) for end in (".jsonl", ".quarantine.jsonl", ".repairs.jsonl", ".diff")]


def run(path: Path, out: Path, **options: Any) -> FixResult:
    result = fix([path], out, **options)
    assert all(file.exists() for file in outputs(out)) and not list(out.parent.glob("*.staging"))
    return result


@pytest.mark.parametrize("seed", [0, 1])
def test_broken_rows_are_repaired_or_set_aside_and_none_is_lost(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content, _ = corpus(seed)
    path.write_bytes(content)
    result = run(path, tmp_path / "fixed.jsonl")
    lines = [line for line in content.splitlines() if line.strip(b"\xef\xbb\xbf \t\r\x0b\x0c")]
    assert result.rows == result.clean + result.repaired + result.quarantined and result.converted == 0
    assert abs(result.rows - len(lines)) <= 2 and min(result.clean, result.repaired, result.quarantined) > 10
    rows = read_rows(tmp_path / "fixed.jsonl")
    assert len(rows) == result.clean + result.repaired
    assert not [f for f in check_rows(rows, FUNCTIONGEMMA) if f.severity == "error"]
    aside = [json.loads(line) for line in (tmp_path / "fixed.quarantine.jsonl").read_bytes().splitlines()]
    assert len(aside) == result.quarantined
    assert all(item["quarantine"]["place"] and item["quarantine"]["reasons"] for item in aside)
    repairs = [json.loads(line) for line in (tmp_path / "fixed.repairs.jsonl").read_bytes().splitlines()]
    assert len(repairs) == sum(result.repairs.values()) and {repair["code"] for repair in repairs} == set(
        result.repairs
    )
    again = run(tmp_path / "fixed.jsonl", tmp_path / "again.jsonl")
    assert (again.repaired, again.quarantined) == (0, 0)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "fixed.jsonl").read_bytes()


def test_quarantined_rows_keep_what_they_were(tmp_path: Path) -> None:
    row = base()
    row["messages"][1]["content"] = "مرحبا\u200f \ufffd"
    bad = '{"id": "x", "messages": ['
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(row).encode() + b"\n" + bad.encode() + b"\n\xff\xfe{}\n")
    result = run(path, tmp_path / "o.jsonl")
    assert (result.rows, result.quarantined) == (3, 3) and set(result.reasons) == {"DZ505", "DZ111", "DZ108"}
    kept = [json.loads(line) for line in (tmp_path / "o.quarantine.jsonl").read_bytes().splitlines()]
    assert [item["quarantine"]["place"] for item in kept] == [f"rows.jsonl:{i}" for i in (1, 2, 3)]
    assert {k: v for k, v in kept[0].items() if k != "quarantine"} == row and kept[1]["line"] == bad
    assert kept[2]["line_base64"] and result.repairs == {}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_sound_files_come_out_byte_for_byte(end: bytes, tmp_path: Path) -> None:
    rows = [base() | {"id": f"r{i}", "n": 1.50, "big": 10**20} for i in range(3)]
    lines = [
        json.dumps(row, ensure_ascii=i % 2 == 0, separators=((",", ":") if i else (", ", ": ")))
        for i, row in enumerate(rows)
    ]
    content = (end or b"\n").join(line.encode() for line in lines) + end
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert run(path, tmp_path / "o.jsonl").clean == 3
    assert (tmp_path / "o.jsonl").read_bytes() == content
    assert all(file.read_bytes() == b"" for file in outputs(tmp_path / "o.jsonl")[1:])
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(content))
    fix([packed, path], tmp_path / "both.jsonl", except_=["DZ140"])
    assert (tmp_path / "both.jsonl").read_bytes() == content + (b"" if end else b"\n") + content


def test_the_embedded_set_is_left_alone(tmp_path: Path) -> None:
    test = ASSETS / "test.jsonl"
    assert run(test, tmp_path / "o.jsonl").clean == len(read_rows(test))
    assert (tmp_path / "o.jsonl").read_bytes() == test.read_bytes()
    assert read_rows(tmp_path / "o.jsonl")[0].tools == read_rows(test)[0].tools


def test_another_tools_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text("[]")
    with pytest.raises(InputError, match="another file has its place; use another folder"):
        fix([ASSETS / "test.jsonl"], tmp_path / "o.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["tools.json"]


def test_repaired_rows_keep_what_was_right_about_them(tmp_path: Path) -> None:
    row = {"zeta": 1, **base(), "messages": base()["messages"]}
    row["messages"][1]["content"] = "مرحبا\u200f"
    found = run(write(tmp_path / "rows.jsonl", row), tmp_path / "o.jsonl")
    written = json.loads((tmp_path / "o.jsonl").read_text("utf-8"))
    assert found.repaired == 1 and list(written) == list(row)
    assert written["messages"][1]["content"] == "مرحبا" and written["tools"] == row["tools"]
    diff = (tmp_path / "o.diff").read_text("utf-8")
    assert '-  "content": "مرحبا[U+200F]"' in diff and '+  "content": "مرحبا"' in diff
    assert "# DZ511 bidi-control: messages[1].content" in diff and "--- rows.jsonl:1 messages" in diff


def test_a_shared_tool_is_shown_once(tmp_path: Path) -> None:
    rows = [base() | {"id": f"r{i}"} for i in range(3)]
    for row in rows:
        properties(row)["minutes"]["type"] = "int"
    diffs: list[str] = []
    result = fix([write(tmp_path / "rows.jsonl", *rows)], tmp_path / "o.jsonl", dry_run=True, on_diff=diffs.append)
    assert (
        result.repairs == {"DZ306": 3}
        and len(diffs) == 1
        and '+     "type": "integer"' in diffs[0].replace("      ", "     ")
    )
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"] and result.files == ()


def test_same_ids_are_told_apart(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", base(), base())
    assert run(rows, tmp_path / "o.jsonl").repairs == {"DZ140": 1}
    assert [row.id for row in read_rows(tmp_path / "o.jsonl")] == ["row-1", "row-1 (rows.jsonl:2)"]


def test_other_shapes_become_canonical(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"instruction": "قل\u200f مرحبا", "output": "مرحبا"},
        {"instruction": "a", "output": "b"},
    )
    result = run(path, tmp_path / "o.jsonl")
    assert (result.converted, result.repaired) == (1, 1)
    assert [row.messages[0]["content"] for row in read_rows(tmp_path / "o.jsonl")] == ["قل مرحبا", "a"]


def test_a_repair_that_would_break_a_row_is_not_made(tmp_path: Path) -> None:
    row = base()
    properties(row)["minutes"] = {"default": "few", "description": "How long."}
    arguments(row)["minutes"] = 77
    assert [f for f in check_rows([fixed(row).example], FUNCTIONGEMMA) if f.severity == "error"]
    path = write(tmp_path / "rows.jsonl", row)
    result = run(path, tmp_path / "o.jsonl")
    assert (result.clean, result.repairs) == (1, {})
    assert (tmp_path / "o.jsonl").read_bytes() == path.read_bytes()


def test_only_and_except_bound_what_is_looked_at(tmp_path: Path) -> None:
    row = base()
    row["messages"][1]["content"] = "مرحبا\u200f \u00a0"
    arguments(row)["nobody"] = 1
    path = write(tmp_path / "rows.jsonl", row)
    assert fix([path], tmp_path / "o.jsonl", dry_run=True).reasons == {"DZ403": 1}
    only = fix([path], tmp_path / "o.jsonl", only=["bidi-control"], dry_run=True)
    assert (only.repairs, only.reasons) == ({"DZ511": 1}, {})
    left = fix([path], tmp_path / "o.jsonl", except_=["DZ403", "DZ511"], dry_run=True)
    assert (left.repairs, left.reasons) == ({"DZ513": 1}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["DZ401"]}, "nothing is repaired under that code; repaired are DZ109"),
        ({"except_": ["DZ999"]}, "no rule of that code or name"),
        ({"out": "rows.jsonl"}, "is read from; give --out another name"),
        ({"out": "there.jsonl"}, r"there.jsonl: exists already; remove it"),
        ({"out": "side.jsonl"}, r"side.diff: exists already; remove it"),
    ],
)
def test_refusals_come_before_anything_is_written(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", base())
    for name in ("there.jsonl", "side.diff"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=message):
        fix([path], tmp_path / options.pop("out", "o.jsonl"), **options)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.jsonl", "side.diff", "there.jsonl"]
    assert (tmp_path / "there.jsonl").read_text() == "mine"


LETTERS = list('اعةىيکیپچ٠٥۵ـًَّﺎﷲ\u200f\u200d\u202d\u202e\u202c\u00a0\u2028\ufeff\ufffdéØ§ظط<>5,.٫٬:-\\ "{}n')
PIECES = ["\\u0627", "<eos>", WINDOWS, LATIN, TWICE, "لـ", "2025-01-01", "work", "RED", "null", "true", "[1]"]
TEXTS = st.lists(st.sampled_from([*LETTERS, *PIECES, '{"city": "x"}']), max_size=8).map("".join)
NUMBERS = st.one_of(st.integers(-9, 10**12), st.floats(-5, 5))
VALUES = st.one_of(TEXTS, st.none(), NUMBERS, st.booleans(), st.lists(TEXTS, max_size=2))
KEYS = ["type", "description", "enum", "items", "properties", "anyOf", "default", "required", "nullable"]
KINDS = ["string", "STRING", "Int", "dict", ["string", "null"], ["null"], [{"type": "null"}], {}, "any"]
INNER = st.dictionaries(
    st.sampled_from(["type", "description", "type_value", "ﺎ"]), st.sampled_from([{}, None, {"type": "int"}])
)
PARTS = st.one_of(st.sampled_from(KINDS), TEXTS, st.none(), st.lists(TEXTS, max_size=2), INNER)
SCHEMAS = st.dictionaries(st.sampled_from(KEYS), PARTS, max_size=4)
NAMES = st.sampled_from(["title", "minutes", "calendar", "color", "place", "phone", "type", "required", "کـ"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, SCHEMAS), st.booleans())
def test_repairing_twice_is_repairing_once(said: str, values: Row, schemas: Row, everything: bool) -> None:
    row = base()
    row["messages"][1]["content"] = said
    arguments(row).update(values)
    properties(row).update(schemas)
    before = copy.deepcopy(row)
    fixer = RowFixer(choose(SAFE | ASKED if everything else ()))
    once = fixer.fix(example(row))
    assert row == before
    twice = fixer.fix(once.example)
    assert twice.repairs == () and twice.example is once.example
    assert bool(once.repairs) == (once.example != example(row))
