"""Reading rows with located errors, and the folding and damage marks of Arabic text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dozan.errors import InputError
from dozan.rows.arabic import ascii_digits, encoding_damage, fold, has_bidi_override, has_marks, repair_encoding
from dozan.rows.readers import read_rows

ROW = {"messages": [{"role": "user", "content": "س"}, {"role": "assistant", "content": "ج"}]}
TOOL = {"type": "function", "function": {"name": "f"}}


def write(folder: Path, *lines: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_row_keeps_its_parts_and_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, {**ROW, "id": 7, "tools": [TOOL], "dialect": "gulf"}, "", ROW)
    first, second = read_rows(path)
    assert (first.id, first.place, dict(first.meta)) == ("7", "rows.jsonl:1", {"dialect": "gulf"})
    assert first.tools == (TOOL,) and first.messages == tuple(ROW["messages"])
    assert (second.id, second.tools, second.place) == ("rows.jsonl:3", (), "rows.jsonl:3")


def test_every_error_is_located_in_one_pass(tmp_path: Path) -> None:
    lines = [
        '{"messages": [}',
        "[1]",
        {"messages": []},
        {"messages": [{"role": "bot"}]},
        {**ROW, "tools": {"name": "f"}},
        '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        {**ROW, "id": "a"},
        {**ROW, "id": "a"},
        {**ROW, "tools": "../x.json"},
        {**ROW, "tools": "none.json"},
    ]
    with pytest.raises(InputError) as caught:
        read_rows(write(tmp_path, *lines))
    found = str(caught.value).split("\n")
    expected = [
        "rows.jsonl:1:15: not JSON: Expecting value",
        "rows.jsonl:2:1: expected an object",
        "rows.jsonl:3: messages: expected a list",
        "rows.jsonl:4: messages[0].role: unknown role 'bot'; use one of developer, system, user, assistant, tool",
        "rows.jsonl:5: tools: expected a list of objects",
        "rows.jsonl:6: holds half of a surrogate pair",
        "rows.jsonl:8: id: 'a' is that of rows.jsonl:7 too",
        "rows.jsonl:9: tools: '../x.json' is no plain file name",
        "rows.jsonl:10: tools: ",
    ]
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_missing_empty_and_undecodable_files(tmp_path: Path) -> None:
    write(tmp_path, ROW, name="train.jsonl")
    with pytest.raises(InputError, match="trian.jsonl: no such file; .* has train.jsonl"):
        read_rows(tmp_path / "trian.jsonl")
    with pytest.raises(InputError, match="no rows; write one JSON object a line"):
        read_rows(write(tmp_path, "", ""))
    (tmp_path / "old.jsonl").write_bytes(b"{}\n\xc7\xe1")
    with pytest.raises(InputError, match=r"old.jsonl:2: not UTF-8 \(byte 3\)"):
        read_rows(tmp_path / "old.jsonl")


@pytest.mark.parametrize("text", [json.dumps([TOOL]), json.dumps(TOOL) + "\n"])
def test_tools_from_a_file_are_read_once_and_shared(tmp_path: Path, text: str) -> None:
    (tmp_path / "tools.json").write_text(text, encoding="utf-8")
    first, second = read_rows(write(tmp_path, {**ROW, "tools": "tools.json"}, {**ROW, "tools": "tools.json"}))
    assert first.tools == (TOOL,) and first.tools is second.tools


def test_line_separators_inside_strings_do_not_split_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = json.dumps({"messages": [{"role": "user", "content": "a\u2028b\x85c"}]}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert read_rows(path)[0].messages[0]["content"] == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("الْكُرَّةُ", "الكره"),
        ("إلى أحمدَ", "الي احمد"),
        ("مـــرحبا", "مرحبا"),
        ("٤٥٫٥٪", "45.5%"),
        ("۱۲؟", "12?"),
        ("ﻻ ﺑﺄس", "لا باس"),
        ("کتاب علی", "كتاب علي"),
        ("\u202bسلام\u200f\u200b", "سلام"),
        ("  A\n b ", "a b"),
    ],
)
def test_fold_makes_equal_what_reads_equal(left: str, right: str) -> None:
    assert fold(left) == fold(right) and fold(fold(left)) == fold(left)


def test_fold_keeps_apart_what_differs() -> None:
    assert fold("قلب") != fold("كلب") and fold("٤٥") != fold("٤٦")


def test_digits_and_marks() -> None:
    assert ascii_digits("٣٫٥ و۱۲") == "3.5 و12"
    assert has_marks("مَرحبا") and not has_marks("مرحبا")
    assert has_bidi_override("a\u202eb") and not has_bidi_override("a\u200fb")


def misread(text: str, encoding: str) -> str:
    """Text as it looks after its UTF-8 bytes were read in another encoding, undefined bytes as latin-1."""
    table = {byte: bytes([byte]).decode(encoding, errors="ignore") or chr(byte) for byte in range(256)}
    return "".join(table[byte] for byte in text.encode("utf-8"))


SENTENCE = "أرسل رسالة إلى أحمد بكرة الساعة ٤"


@pytest.mark.parametrize("encoding", ["cp1252", "cp1256", "latin-1"])
def test_damaged_encodings_are_named_and_undone(encoding: str) -> None:
    damaged = misread(SENTENCE, encoding)
    assert encoding_damage(damaged) == f"UTF-8 read as {'cp1256' if encoding == 'cp1256' else 'latin-1 or cp1252'}"
    assert repair_encoding(damaged) == SENTENCE
    assert repair_encoding(misread(misread(SENTENCE, "cp1252"), "cp1252")) == SENTENCE


@pytest.mark.parametrize("text", [SENTENCE, "حط ظرف طلال فوق الطاولة", "café déjà vu", "Ø 5 mm", "ط", "", "😀", "12 ظ"])
def test_sound_text_is_left_alone(text: str) -> None:
    assert encoding_damage(text) is None and repair_encoding(text) is None


def test_other_damage() -> None:
    assert "dumped twice" in (encoding_damage(r"\u0627\u0644") or "")
    assert "U+FFFD" in (encoding_damage("abc\ufffd") or "")
    assert "latin-1" in (encoding_damage("الاسم: " + misread("أحمد", "latin-1")) or "")


def test_gzipped_rows_read_like_plain_ones(tmp_path: Path) -> None:
    write(tmp_path, ROW, name="rows.jsonl")
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    assert [row.messages for row in read_rows(packed)] == [row.messages for row in read_rows(tmp_path / "rows.jsonl")]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match="rows.jsonl.gz: not a whole gzip file"):
        read_rows(packed)
