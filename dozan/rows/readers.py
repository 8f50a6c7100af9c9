"""Files of rows in any known shape as canonical rows: every line that cannot be used is named with its place."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from dozan.errors import InputError
from dozan.rows.errors import Errors
from dozan.rows.example import Example, Json
from dozan.rows.groups import hash_text, repeated
from dozan.rows.hub import hub_records, is_hub_id
from dozan.rows.records import Broken, Record, read_records
from dozan.rows.shapes import SHAPES, Detected, Options, Shape, ShapeError, detect_shape, shape_named
from dozan.rows.tool_lists import ToolLists

CANONICAL = "mobile-actions"
SEEN_FIRST = 100
"""Rows by which the shape of a file is told."""

Problems = Callable[[Broken], None]
Say = Callable[[str], None]


def read_rows(
    path: str | Path, shape: str | None = None, say: Say | None = None, options: Options | None = None
) -> list[Example]:
    """All rows of a file (or `hf:org/name`, `hf:org/name:split`), in its shape or the one that is forced.

    Canonical rows are `{"messages": [...], "tools": [...], "id": ..., anything else}`; `tools` may be missing (no
    tools) or the plain name of a JSON or JSONL file in the same folder. A row without `id` is called by its file and
    line. `say` gets the shape of a file that is not canonical, and all that was passed over in usable rows. Raises one
    InputError that names each bad line as `file:line:column`.
    """
    return list(stream_rows(path, shape, say, options))


def stream_rows(
    path: str | Path, shape: str | None = None, say: Say | None = None, options: Options | None = None
) -> Iterator[Example]:
    """What `read_rows` reads, one by one, in 8 bytes of memory a row; the error comes after the last row."""
    errors = Errors()
    hashes = array("Q")

    def problem(broken: Broken) -> None:
        if not broken.usable:
            errors.add(str(broken))
        elif say is not None:
            say(str(broken))

    for row in read_examples(path, shape, problem, say, options):
        hashes.append(hash_text(row.id))
        yield row
    twice = repeated(hashes)
    raise_all(_with_repeats(path, shape, options, twice) if twice else errors)


def _with_repeats(path: str | Path, shape: str | None, options: Options | None, twice: Container[int]) -> Errors:
    """The errors of a file in order, with the rows whose id another has: read again, by the hashes that come twice."""
    errors = Errors()
    seen: dict[str, str] = {}

    def problem(broken: Broken) -> None:
        if not broken.usable:
            errors.add(str(broken))

    for row in read_examples(path, shape, problem, None, options):
        if hash_text(row.id) not in twice:
            continue
        if row.id in seen:
            errors.add(f"{row.place}: id: {row.id!r} is that of {seen[row.id]} too; ids must differ")
        seen[row.id] = row.place
    return errors


def read_examples(
    path: str | Path,
    shape: str | None = None,
    problems: Problems | None = None,
    say: Say | None = None,
    options: Options | None = None,
) -> Iterator[Example]:
    """The rows of a file one by one, in constant memory; equal tool lists are one object.

    problems gets everything broken, as it is met; without it, one InputError at the end names every bad line. say gets
    one line with the file's shape and the reason, unless it is canonical or forced. That ids differ is not checked.
    """
    records = hub_records(str(path)) if is_hub_id(path) else read_records(path)
    yield from examples_of(records, path, shape, problems, say, options)


def examples_of(
    records: Iterator[Record | Broken], path: str | Path, shape: str | None = None, problems: Problems | None = None,
    say: Say | None = None, options: Options | None = None,
) -> Iterator[Example]:  # fmt: skip
    """`read_examples` of records that were read already; `path` is what they are called."""
    errors = Errors()

    def collect(broken: Broken) -> None:
        if not broken.usable:
            errors.add(str(broken))

    chosen = shape_named(shape) if shape else None
    first = list(islice(records, SEEN_FIRST))
    if chosen is None:
        chosen, words = _choose(first)
        if say is not None and words:
            say(f"{path}: read as {words}")
    options = replace(options or Options(), file=Path(path), memory={})
    if say is not None and chosen is not None and chosen.note and (note := chosen.note(options)):
        say(f"{path}: {note}")
    yield from _examples(chain(first, records), chosen, options, problems or collect)
    raise_all(errors)


def detect_file(path: str | Path) -> Detected | None:
    """The shape of a file by its first rows, and why; None when they fit none."""
    records = hub_records(str(path)) if is_hub_id(path) else read_records(path)
    return detect_shape([item.value for item in islice(records, SEEN_FIRST) if isinstance(item, Record)])


def raise_all(errors: Errors) -> None:
    """Raises one InputError with the first errors and a count of the others; does nothing when there are none."""
    if errors:
        raise InputError(str(errors))


def _choose(first: Sequence[Record | Broken]) -> tuple[Shape | None, str]:
    """The shape by the first rows, and what to say of it; the canonical one when nothing there is a row."""
    values = [item.value for item in first if isinstance(item, Record)]
    found = detect_shape(values)
    if found is not None:
        return SHAPES[found.name], "" if found.name == CANONICAL else str(found)
    has_fields = any(isinstance(value, dict) for value in values)
    return (None, "") if has_fields else (SHAPES[CANONICAL], "")


def _examples(
    records: Iterator[Record | Broken], shape: Shape | None, options: Options, problems: Problems
) -> Iterator[Example]:
    lists = ToolLists()
    count = 0
    gathered = shape.gather(records) if shape is not None and shape.gather is not None else records
    for item in gathered:
        count += 1
        if isinstance(item, Broken):
            problems(item)
            continue
        try:
            example = _read(item, shape, options)
        except ShapeError as error:
            for each in (error, *error.also):
                column = 1 if each.code_name == "not-an-object" else 0
                problems(Broken(item.place, item.line, column, each.code_name, each.message, each.path))
            continue
        tools = lists.one(example.tools)
        yield example if tools is example.tools else replace(example, tools=tools)
    if count == 0:
        problems(Broken(str(options.file), 0, 0, "no-rows", "no rows; write one JSON object a line"))


def _read(record: Record, shape: Shape | None, options: Options) -> Example:
    value = record.value
    if not isinstance(value, dict):
        words = f'expected an object like {{"messages": [...]}}, found {type(value).__name__}'
        raise ShapeError("", words, "not-an-object")
    if shape is None:
        raise ShapeError("", f"of no known shape: its fields are {_named(value)}; {_wanted()}", "unknown-shape")
    try:
        return shape.read(value, record.place, options)
    except ShapeError as error:
        if shape.detect(value) or (other := detect_shape([value])) is None or other.name == shape.name:
            raise
        words = f"{error.message}; the file is read as {shape.name}, but this row looks like {other.name}"
        raise ShapeError(error.path, words, "other-shape", error.also) from None


def _named(value: dict[str, Json]) -> str:
    return ", ".join(f"{key:.40}" for key in list(value)[:12]) or "none"


def _wanted() -> str:
    return "write messages, or fields such as instruction and output, or force a shape"
