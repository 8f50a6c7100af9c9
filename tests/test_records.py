"""Files as records: every kind of broken line at its place, nothing lost, and nothing raised but InputError."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dozan.check.reading_rules import READING, reading_finding
from dozan.errors import InputError
from dozan.rows.json_text import MOST_LEVELS
from dozan.rows.readers import read_examples, read_rows
from dozan.rows.records import Broken, Record, read_records
from dozan.rows.shapes import SHAPES

TOOL = {"type": "function", "function": {"name": "f", "description": "x", "parameters": {"type": "object"}}}
GOOD: dict[str, Any] = {
    "tools": [TOOL],
    "messages": [{"role": "user", "content": "س"}, {"role": "assistant", "content": "ج"}],
}
LINE = json.dumps(GOOD, ensure_ascii=False).encode()
HALF = b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'

BROKEN_LINES: dict[str, tuple[bytes, str, int, str]] = {
    "a colon is missing": (b'{"messages" 1}', "not-json", 13, ""),
    "the line ends in a string": (b'{"messages": "abc', "cut-short", 14, ""),
    "the line ends in a list": (b'{"messages": [1, 2', "cut-short", 19, ""),
    "a comma before a brace": (b'{"a": 1,}', "extra-comma", 9, ""),
    "a comma before a bracket": (b'{"a": [1,]}', "extra-comma", 10, ""),
    "a comma after the row": (LINE + b",", "extra-comma", 0, ""),
    "two rows on a line": (b'{"a": 1} {"a": 2}', "two-values", 10, ""),
    "single quotes": (b"{'messages': []}", "python-literal", 2, ""),
    "None": (b'{"a": None}', "python-literal", 7, ""),
    "a raw tab": (b'{"a": "x\ty"}', "control-character", 9, ""),
    "NUL in a string": (b'{"a": "x\x00y"}', "nul-byte", 9, ""),
    "NUL between": (b'{"a": \x00 1}', "nul-byte", 7, ""),
    "a Windows path": (rb'{"a": "C:\data"}', "bad-escape", 10, ""),
    "an Arabic digit": ('{"a": ٣}'.encode(), "arabic-digit", 7, ""),
    "an Arabic digit after others": ('{"a": 4٥}'.encode(), "arabic-digit", 8, ""),
    "curly quotes": ("{“a”: 1}".encode(), "word-processor", 2, ""),
    "an Arabic comma": ('{"a": 1، "b": 2}'.encode(), "word-processor", 8, ""),
    "a comment": (b'{"a": 1 // one\n', "comment", 9, ""),
    "CR alone": (b'{"a": 1}\r{"a": 2}', "lone-carriage-return", 10, ""),
    "a key twice": (b'{"a": {"b": 1, "b": 2}}', "duplicate-key", 16, "a.b"),
    "NaN": (b'{"a": [1, NaN]}', "not-finite", 11, "a[1]"),
    "minus infinity": (b'{"a": -Infinity}', "not-finite", 7, "a"),
    "1e999": (b'{"a": 1e999}', "not-finite", 7, "a"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "endless-number", 1, "a"),
    "10,000 levels": (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "too-deep", 1, ""),
    "one level too many": (b"[" * (MOST_LEVELS + 1) + b"]" * (MOST_LEVELS + 1), "too-deep", 1, ""),
    "half a surrogate pair": (HALF, "lone-surrogate", 44, "messages[0].content"),
    "half a pair in a key": (rb'{"\udc00": 1}', "lone-surrogate", 3, "\udc00"),
    "bytes of latin-1": (b'{"a": "caf\xe9"}', "not-utf-8", 11, ""),
    "a surrogate as bytes": (b'{"a": "\xed\xa0\x80"}', "not-utf-8", 8, ""),
}


def broken(path: Path) -> list[Broken]:
    return [item for item in read_records(path) if isinstance(item, Broken)]


def values(path: Path) -> list[Any]:
    return [item.value for item in read_records(path) if isinstance(item, Record)]


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_a_broken_line_is_located_and_its_neighbours_are_read(tmp_path: Path, name: str) -> None:
    line, code, column, path = BROKEN_LINES[name]
    file = write(tmp_path / "rows.jsonl", LINE + b"\n" + line.rstrip(b"\n") + b"\n" + LINE)
    found = broken(file)
    assert [(item.code_name, item.line, item.path, item.usable) for item in found] == [(code, 2, path, False)]
    assert found[0].column == (column or len(LINE.decode()) + 1) and found[0].place == "rows.jsonl:2"
    assert values(file) == [GOOD, GOOD]


def test_all_broken_lines_are_found_in_one_pass(tmp_path: Path) -> None:
    lines = [part for line, *_ in BROKEN_LINES.values() for part in (LINE, line.rstrip(b"\n"))]
    found = broken(write(tmp_path / "rows.jsonl", b"\n".join(lines)))
    assert [(item.code_name, item.line) for item in found] == [
        (code, 2 * i) for i, (_, code, *_) in enumerate(BROKEN_LINES.values(), 1)
    ]
    assert len({item.code_name for item in found}) >= 16


def test_what_is_usable_is_said_and_kept_exactly(tmp_path: Path) -> None:
    lines = [b'\xef\xbb\xbf{"a": 1}', b'{"a": 2}\r', b'\xef\xbb\xbf{"a": 3}', b'{"a": 123456789012345678901234567890}']
    file = write(tmp_path / "rows.jsonl", b"\n".join([*lines, b"  ", b'{"b": 1.0, "a": 1, "c": true}']))
    assert [(item.code_name, item.line, item.usable) for item in broken(file)] == [
        ("byte-order-mark", 3, True),
        ("wide-integer", 4, True),
    ]
    found = values(file)
    assert [row.get("a") for row in found] == [1, 2, 3, 123456789012345678901234567890, 1]
    assert json.dumps(found[-1]) == '{"b": 1.0, "a": 1, "c": true}'


def test_tools_elsewhere_in_a_row_stay_where_they_are(tmp_path: Path) -> None:
    rows = [
        {"old": {"tools": [TOOL]}, "a": 1},
        {"old": {"tools": [TOOL]}, "tools": [TOOL, {"b": 1}]},
        {"tools": [TOOL]},
    ]
    assert values(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))) == rows
    twice = json.dumps({"tools": [TOOL]})[:-1] + ', "tools": []}'
    assert [item.code_name for item in broken(write(tmp_path / "b.jsonl", twice))] == ["duplicate-key"]


def test_a_megabyte_in_a_cell(tmp_path: Path) -> None:
    row = {"text": "ن" * 1_000_000}
    assert values(write(tmp_path / "a.jsonl", json.dumps(row))) == [row]
    assert values(write(tmp_path / "a.json", json.dumps([row, row], ensure_ascii=False))) == [row, row]
    assert values(write(tmp_path / "a.csv", f"text,b\n{row['text']},1\n")) == [{**row, "b": "1"}]


def test_every_form_of_a_json_document_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"a": i, "text": f'}}, {{ [ ] " {i}\n'} for i in range(500)]
    forms = {
        "array.json": json.dumps(rows),
        "indented.json": "\ufeff" + json.dumps(rows, indent=2, ensure_ascii=False).replace("\n", "\r\n"),
        "wrapped.json": json.dumps({"version": 1, "data": rows}),
        "indented_wrapped.json": json.dumps({"data": rows}, indent=1),
        "lines.json": "\n".join(map(json.dumps, rows)),
        "values.json": "\n".join(json.dumps(row, indent=2) for row in rows),
        "named_so.jsonl": "\n".join(map(json.dumps, rows)),
    }
    for name, text in forms.items():
        assert (values(write(tmp_path / name, text)), broken(tmp_path / name)) == (rows, []), name
        packed = write(tmp_path / f"{name}.gz", gzip.compress(text.encode()))
        assert values(packed) == rows, name


def test_one_object_that_is_a_row_stays_one(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.json", json.dumps(GOOD, indent=1))) == [GOOD]
    assert values(write(tmp_path / "b.json", json.dumps(GOOD))) == [GOOD]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_goes_on_after_broken_rows(tmp_path: Path, indent: int | None) -> None:
    rows = [json.dumps({"id": i, "a": [1, {"b": "x"}]}, indent=indent) for i in range(300)]
    rows[3] = rows[3].replace('"a": ', '"a" ')
    rows[10] = rows[10].replace('"x"', "NaN")
    rows[20] = rows[20].rstrip()[:-1].rstrip().removesuffix("]")
    rows[30] = rows[30].replace('"x"', "٣")
    text = "[\n" + ",\n".join(rows) + "\n]"
    found = broken(write(tmp_path / "a.json", text))
    assert [item.code_name for item in found] == ["not-json", "not-finite", "cut-short", "arabic-digit"]
    starts = [1 + sum(row.count("\n") + 1 for row in rows[:i]) for i in (3, 10, 20, 30)]
    sizes = [rows[i].count("\n") + 1 for i in (3, 10, 20, 30)]
    assert all(start < item.line <= start + size + 1 for item, start, size in zip(found, starts, sizes, strict=True))
    assert [row["id"] for row in values(tmp_path / "a.json")] == [i for i in range(300) if i not in (3, 10, 20, 30)]


def test_an_array_that_does_not_close_or_goes_on(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '[{"a": 1},\n{"a": 2}\n')
    assert [(item.code_name, item.line) for item in broken(file)] == [("cut-short", 3)] and len(values(file)) == 2
    file = write(tmp_path / "a.json", '[{"a": 1} {"a": 2}] {"a": 3}')
    assert [item.code_name for item in broken(file)] == ["missing-comma", "text-after-list"] and len(values(file)) == 2


def test_tables(tmp_path: Path) -> None:
    text = '\ufeffquestion;answer\n"a;\nb";c\nonly one\nd;"e ""x"""\n'
    file = write(tmp_path / "a.csv", text)
    assert values(file) == [{"question": "a;\nb", "answer": "c"}, {"question": "d", "answer": 'e "x"'}]
    assert [(item.code_name, item.line) for item in broken(file)] == [("cell-count", 4)]
    file = write(tmp_path / "a.tsv", b"question\tanswer\n\xc7\tb\nc\td\n")
    assert [(item.code_name, item.line) for item in broken(file)] == [("not-utf-8", 2)]
    assert values(file) == [{"question": "c", "answer": "d"}]
    assert [item.code_name for item in broken(write(tmp_path / "b.csv", "a,a\n1,2\n"))] == ["bad-header"]
    assert [item.code_name for item in broken(write(tmp_path / "c.csv", 'a,b\n"1,2\n3,4\n'))] == ["bad-quotes"]


def test_parquet_leaves_out_the_nulls_that_arrow_fills_in(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    said = [[{"role": "user", "content": text}] for text in "ab"]
    rows = [
        {"messages": said[0], "tools": [{"name": "f", "x": 1}], "n": 2**40},
        {"messages": said[1], "tools": [{"name": "g", "y": 1.5}], "n": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == rows
    notes = broken(tmp_path / "a.parquet")
    assert [(item.code_name, item.line, item.path) for item in notes] == [
        ("filled-nulls", 1, "tools[0].y"),
        ("filled-nulls", 2, "tools[0].x"),
    ]
    parquet.write_table(pyarrow.table({"a": [math.nan, 1.0], "b": [b"\xff", b"ok"]}), tmp_path / "b.parquet")
    assert [(item.code_name, item.path) for item in broken(tmp_path / "b.parquet")] == [
        ("no-json-value", "a"),
        ("no-json-value", "b"),
    ]
    assert values(tmp_path / "b.parquet") == [{"a": 1.0, "b": "ok"}]
    cut = write(tmp_path / "c.parquet", (tmp_path / "a.parquet").read_bytes()[:-20])
    assert [item.code_name for item in broken(cut)] == ["bad-parquet"]


def test_files_that_are_something_else(tmp_path: Path) -> None:
    assert [item.code_name for item in broken(write(tmp_path / "a.jsonl", '{"a": 1}'.encode("utf-16")))] == ["utf-16"]
    assert [item.code_name for item in broken(write(tmp_path / "a.parquet", "x"))] == ["bad-parquet"]
    packed = gzip.compress(b'{"a": 1}\n' * 100_000)
    cut = broken(write(tmp_path / "a.jsonl.gz", packed[: len(packed) // 2]))
    assert cut[-1].code_name == "cut-gzip" and values(tmp_path / "a.jsonl.gz")[0] == {"a": 1}
    with pytest.raises(InputError, match=r"\.docx is no kind of file"):
        list(read_records(write(tmp_path / "a.docx", "hello")))
    with pytest.raises(InputError, match="a folder"):
        list(read_records(tmp_path))


def test_every_word_of_the_readers_is_a_reading_rule(tmp_path: Path) -> None:
    names = {rule.name: rule for rule in READING}
    file = write(tmp_path / "a.jsonl", b"\n".join(line for line, *_ in BROKEN_LINES.values()))
    for item in [*broken(file), Broken("a", 1, 0, "wide-integer", "m", usable=True)]:
        assert (names[item.code_name].severity == "warning") == item.usable
        assert reading_finding(item).place == item.place
    source = "".join(path.read_text() for path in Path(SHAPES["openai"].read.__code__.co_filename).parent.glob("*.py"))
    assert all(f'"{name}"' in source for name in ("lost-parent", "bad-call", "bad-tools")) and len(names) >= 18


KEYS = (
    *("messages", "conversations", "tools", "functions", "query", "answers", "question", "function", "ground_truth"),
    *("prompt", "completion", "text", "replies", "role", "message_id", "parent_id", "chat", "system", "id"),
    *("instruction", "output", "message_tree_id"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
tools = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": st.dictionaries(st.text(max_size=4), json_values)}),
    max_size=3,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=20)}),
    min_size=1,
    max_size=3,
)
rows = st.fixed_dictionaries({"messages": messages, "tools": tools}, optional={"note": json_values, "lang": st.text()})
quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def is_text(value: Any) -> bool:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "ignore").decode() == json.dumps(
        value, ensure_ascii=False
    )


@quick
@given(st.lists(rows.filter(is_text), min_size=1, max_size=4))
def test_canonical_rows_written_out_read_back_equal(tmp_path: Path, given_rows: list[dict[str, Any]]) -> None:
    for name, text in (
        ("a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in given_rows)),
        ("a.json", json.dumps(given_rows, indent=1)),
    ):
        found = list(read_examples(write(tmp_path / name, text), shape="mobile-actions"))
        again = [{"messages": list(e.messages), "tools": list(e.tools), **e.meta} for e in found]
        assert json.dumps(again, sort_keys=True) == json.dumps(given_rows, sort_keys=True)
        assert [list(row.meta) for row in found] == [
            [key for key in row if key not in ("messages", "tools")] for row in given_rows
        ]


mutations = st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3)), max_size=6)


@quick
@given(st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a"]), mutations, st.binary())
def test_no_bytes_raise_anything_but_input_error(
    tmp_path: Path, name: str, changes: list[tuple[int, bytes]], noise: bytes
) -> None:
    data = bytearray((b"[" if name == "a.json" else b"") + LINE + b",\n" + HALF + b"\n" + LINE + noise)
    for at, put in changes:
        data[at : at + 1] = put
    file = write(tmp_path / name, bytes(data))
    for item in read_records(file):
        assert isinstance(item, Record) or item.code_name in {rule.name for rule in READING}
    try:
        read_rows(file)
    except InputError as error:
        assert str(error)


@quick
@given(st.sampled_from(sorted(SHAPES)), json_values, st.data())
def test_no_row_raises_anything_but_input_error_in_any_shape(
    tmp_path: Path, name: str, value: Any, data: st.DataObject
) -> None:
    row = data.draw(st.dictionaries(st.sampled_from(KEYS), json_values | st.lists(st.just(value), max_size=2)))
    file = write(tmp_path / "a.jsonl", json.dumps(row) + "\n" + json.dumps(value))
    found: list[Broken] = []
    kept = list(read_examples(file, shape=name, problems=found.append))
    assert kept or found
    assert all(item.line in (1, 2) for item in found if item.code_name != "no-rows")
