"""Parts of one piece of work, made apart and joined: files that say what they are of, and whose every byte is checked.

A part is a JSON file, `{"part": {…}, "rows": […], "result": {…}, "sha256": "…"}`, with a line for each row; the last
is of all bytes before it. The head (`part`) says what must be the same in all parts, and so may `result`, which was
known only at the end. Rows are read one at a time. Halves of surrogate pairs in rows are kept (`surrogatepass`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.shards import Shard, owners

_HEAD, _ROWS, _END, _RESULT, _SEAL = b'{"part": ', b'"rows": [\n', b"],\n", b'"result": ', b'"sha256": "'
_FORMAT = 1
_SHOWN = 20
_AS_WRITTEN = "surrogatepass"

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Head:
    """What a part says of itself. kind: whose verb it is of. shard: which part of how many. same: what must be equal in
    all parts, by name. about: what else is to be known of the work, from the first part."""

    kind: str
    shard: Shard
    same: Mapping[str, str]
    about: Mapping[str, Json]


@dataclass(frozen=True)
class Part:
    """A part that was read; `rows` begins anew at each call. name: how it is called in errors. result: `same` in it is
    compared as that of the head is."""

    name: str
    head: Head
    result: Mapping[str, Json]
    rows: Callable[[], Iterator[Json]]


def write_part(path: str | Path, head: Head, rows: Iterable[Json], result: Callable[[], Mapping[str, Json]]) -> None:
    """Writes a part, whole or not at all; `result` is asked for after the last row. Rows are objects."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    digest = hashlib.sha256()
    said = {"format": _FORMAT, "kind": head.kind, "shard": [head.shard.index, head.shard.count],
            "same": dict(head.same), "about": dict(head.about)}  # fmt: skip
    with staging.open("wb") as file:

        def put(line: bytes) -> None:
            digest.update(line)
            file.write(line)

        put(_HEAD + _dumped(said) + b",\n" + _ROWS)
        before = b""
        for row in rows:
            put(before + _dumped(row))
            before = b",\n"
        put((b"\n" if before else b"") + _END + _RESULT + _dumped(dict(result())) + b",\n")
        file.write(_SEAL + digest.hexdigest().encode() + b'"}\n')
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def read_part(path: str | Path) -> Part:
    """The part in a file, every byte of which was compared. Raises InputError for another file or a damaged one."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the parts that --shard wrote with --json")
    digest, head, before, last = hashlib.sha256(), b"", b"", b""
    with path.open("rb") as file:
        for line in file:
            head = head or line
            digest.update(last)
            before, last = last, line
    if not head.startswith(_HEAD):
        raise InputError(f"{path}: no part of a sharded eval or data check; give what --shard wrote with --json")
    if last != _SEAL + digest.hexdigest().encode() + b'"}\n':
        raise InputError(f"{path}: damaged, it has other bytes than were written; copy it again, or make the part anew")
    said = _loaded(head[len(_HEAD) : -2])
    if said["format"] != _FORMAT:
        raise InputError(f"{path}: a part of another version of dozan; make all parts and join them with the same one")
    found = Head(said["kind"], Shard(*said["shard"]), said["same"], said["about"])
    return Part(str(path), found, _loaded(before[len(_RESULT) : -2]), lambda: _rows(path))


def part_file(json: Path | None, html: Path | None) -> Path:
    """Where `--shard` writes. Raises InputError without `--json`, and with `--html`."""
    if json is None:
        raise InputError("--shard writes a part, not a result: say where with --json, such as --json part-1.json")
    if html is not None:
        raise InputError("--html: a part has no page; give it to dozan join, with all parts")
    return json


def part_of(name: str, head: Head, rows: Sequence[Json], result: Mapping[str, Json]) -> Part:
    """A part that never was a file."""
    return Part(name, head, result, lambda: iter(rows))


def require_whole(parts: Sequence[Part]) -> list[Part]:
    """The parts in their order. Raises InputError that names every part that is missing, there twice, or of other
    work than the first."""
    if not parts:
        raise InputError("no part to join; name the files that --shard wrote, such as part-*.json")
    first, wrong = parts[0], list[str]()
    count = first.head.shard.count
    by_index: dict[int, str] = {}
    for part in parts:
        shard, other = part.head.shard, by_index.get(part.head.shard.index)
        if shard.count != count:
            wrong.append(f"{part.name} is part {shard}, {first.name} is part {first.head.shard}: divided otherwise")
            continue
        if other is not None:
            wrong.append(f"part {shard} is there twice: {other} and {part.name}")
        by_index[shard.index] = part.name
        wrong += _differences(first, part)
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]
    if missing:
        shown = ", ".join([*missing[:_SHOWN], *(["…"] if len(missing) > _SHOWN else [])])
        wrong.append(f"missing: {shown}; run the same command with --shard {missing[0]}")
    if wrong:
        lines = "\n  ".join([*wrong[:_SHOWN], *(["…"] if len(wrong) > _SHOWN else [])])
        raise InputError(f"these parts cannot be joined:\n  {lines}\nevery part must be there once, made by the same "
                         "dozan from the same rows with the same model and settings")  # fmt: skip
    return sorted(parts, key=lambda part: part.head.shard.index)


def dealt(parts: Sequence[Part], rows: Sequence[Iterator[_Made]], total: int) -> Iterator[_Made]:
    """The rows of whole parts in the order in which they were dealt; `rows` are those of each part."""
    turns = owners(len(parts))
    for _ in range(total):
        index = next(turns) - 1
        row = next(rows[index], None)
        if row is None:
            raise InputError(f"{parts[index].name}: has fewer rows than its part of {total:,}; make the part anew")
        yield row
    for part, left in zip(parts, rows, strict=True):
        if next(left, None) is not None:
            raise InputError(f"{part.name}: has more rows than its part of {total:,}; make the part anew")


def hash_of(text: str) -> str:
    """The SHA-256 of a text, for a head."""
    return hashlib.sha256(text.encode("utf-8", _AS_WRITTEN)).hexdigest()


def _differences(first: Part, part: Part) -> Iterator[str]:
    if first.head.kind != part.head.kind:
        yield f"{part.name} is of dozan {part.head.kind}, {first.name} of dozan {first.head.kind}"
        return
    ours, theirs = ({**each.head.same, **each.result.get("same", {})} for each in (first, part))
    for key in dict.fromkeys([*ours, *theirs]):
        if ours.get(key) != theirs.get(key):
            yield f"{key}: {part.name} has {_short(theirs.get(key))}, {first.name} has {_short(ours.get(key))}"


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    return f"{value[:12]}…" if len(value) == 64 and value.isalnum() else f"{value:.60}"


def _rows(path: Path) -> Iterator[Json]:
    with path.open("rb") as file:
        file.readline()
        file.readline()
        for line in file:
            if line == _END:
                return
            yield _loaded(line.rstrip(b",\n"))


def _dumped(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", _AS_WRITTEN)


def _loaded(line: bytes) -> Json:
    return json.loads(line.decode("utf-8", _AS_WRITTEN))
