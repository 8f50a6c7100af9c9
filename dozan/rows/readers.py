"""Reads rows from JSONL: every line that cannot be used is named with its place, in one pass."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dozan.errors import InputError
from dozan.rows.example import Example, Json

ROLES = ("developer", "system", "user", "assistant", "tool")
_SHOWN = 20
_OWN = ("id", "tools", "messages")
Tools = tuple[Mapping[str, Json], ...]


def read_rows(path: str | Path) -> list[Example]:
    """The rows of a JSONL file (or .jsonl.gz): `{"messages": [...], "tools": [...], "id": ..., anything else}` a line.

    `tools` may be missing (no tools) or the plain name of a JSON or JSONL file in the same folder, which is read once
    and shared. A row without `id` is called by its file and line. Blank lines are skipped. Raises one InputError that
    names each bad line as `file:line:column`.
    """
    path = Path(path)
    errors: list[str] = []
    shared: dict[str, Tools] = {}
    rows: list[Example] = []
    seen: dict[str, str] = {}
    for number, line in _lines(path):
        row = _row(line, f"{path.name}:{number}", path.parent, shared, errors)
        if row is None:
            continue
        if row.id in seen:
            errors.append(f"{row.place}: id: {row.id!r} is that of {seen[row.id]} too; ids must differ")
        seen[row.id] = row.place
        rows.append(row)
    if not errors and not rows:
        errors.append(f"{path}: no rows; write one JSON object a line")
    raise_all(errors)
    return rows


def raise_all(errors: Sequence[str]) -> None:
    """Raises one InputError with the first errors and a count of the others; does nothing when there are none."""
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise InputError("\n".join(errors[:_SHOWN]) + more)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The file's lines with their numbers, blank ones left out."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a JSONL file in it")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        hint = f"; {path.parent} has {', '.join(near[:5])}" if near else ""
        raise InputError(f"{path}: no such file{hint}")
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); compress it again with gzip") from None


def _row(line: str, place: str, folder: Path, shared: dict[str, Tools], errors: list[str]) -> Example | None:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        errors.append(f"{place}:{error.colno}: not JSON: {error.msg} at {line[error.pos : error.pos + 20]!r}")
        return None
    except (ValueError, RecursionError) as error:
        errors.append(f"{place}:1: not readable JSON: {error}; write the number as text, or nest less deeply")
        return None
    if not isinstance(data, dict):
        errors.append(f'{place}:1: expected an object like {{"messages": [...]}}, found {type(data).__name__}')
        return None
    before = len(errors)
    if _has_surrogate(line):
        errors.append(f"{place}: holds half of a surrogate pair, which is no character; write the character itself")
    messages = _messages(data.get("messages"), place, errors)
    tools = _tools(data.get("tools"), place, folder, shared, errors)
    if len(errors) > before:
        return None
    meta = {key: value for key, value in data.items() if key not in _OWN}
    given = data.get("id")
    return Example(place if given is None else str(given), tools, messages, meta, place)


def _has_surrogate(line: str) -> bool:
    """Whether a JSON line's strings hold a lone surrogate."""
    if "\\u" not in line:
        return False
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _messages(value: Json, place: str, errors: list[str]) -> tuple[Mapping[str, Json], ...]:
    if not isinstance(value, list) or not value:
        errors.append(f'{place}: messages: expected a list like [{{"role": "user", "content": "..."}}]')
        return ()
    for i, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(message, dict):
            errors.append(f"{place}: messages[{i}]: expected an object with role and content")
        elif role not in ROLES:
            errors.append(f"{place}: messages[{i}].role: unknown role {role!r}; use one of {', '.join(ROLES)}")
    return tuple(value)


def _tools(value: Json, place: str, folder: Path, shared: dict[str, Tools], errors: list[str]) -> Tools:
    if value is None:
        return ()
    if isinstance(value, str):
        if value not in shared:
            shared[value] = _tools_file(value, place, folder, errors)
        return shared[value]
    return _tool_list(value, f"{place}: tools", errors)


def _tool_list(value: Json, where: str, errors: list[str]) -> Tools:
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        errors.append(f'{where}: expected a list of objects like {{"type": "function", "function": {{...}}}}')
        return ()
    return tuple(value)


def _tools_file(name: str, place: str, folder: Path, errors: list[str]) -> Tools:
    """Tools from a JSON array or a JSONL file beside the rows."""
    if Path(name).name != name or name in ("", ".", ".."):
        errors.append(f"{place}: tools: {name!r} is no plain file name; put the file beside the rows")
        return ()
    path = folder / name
    if not path.is_file():
        errors.append(f"{place}: tools: {path} does not exist; put the file beside the rows")
        return ()
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [(1, text)] if text.lstrip().startswith("[") else list(enumerate(text.split("\n"), 1))
        values = [json.loads(line) for _, line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        errors.append(f"{path}: not JSON in UTF-8: {error}; write a JSON array, or one tool a line")
        return ()
    return _tool_list(values[0] if text.lstrip().startswith("[") else values, str(path), errors)
