"""Arguments under other names and back: `{tool: {path of the new name: old name}}`, as rows carry it in `renamed`.

A path joins names by points, with `[]` for the items of a list: `place.type_value`, `stops[].type_value`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dozan.rows.example import Json

Renames = Mapping[str, Mapping[str, str]]
FIELD = "renamed"
"""The row's key that holds them."""


def renamed_arguments(tool: str, arguments: Json, renames: Renames) -> Json:
    """Arguments of a call under their new names; the same object when none is renamed."""
    new = {}
    for path, old in renames.get(tool, {}).items():
        parent, _, name = path.rpartition(".")
        new[parent, old] = name
    return _walk(arguments, "", lambda parent, key: (new.get((parent, key), key),) * 2) if new else arguments


def restored_arguments(tool: str, arguments: Json, renames: Renames) -> Json:
    """Arguments of a call, as a model writes it, under the names that the tool itself has."""
    old = renames.get(tool, {})

    def restore(parent: str, key: str) -> tuple[str, str]:
        return old.get(f"{parent}.{key}" if parent else key, key), key

    return _walk(arguments, "", restore) if old else arguments


def joined_renames(first: Renames, second: Renames) -> dict[str, dict[str, str]]:
    """Both tables in one, tools and paths in order."""
    tools = sorted({*first, *second})
    return {tool: dict(sorted({**first.get(tool, {}), **second.get(tool, {})}.items())) for tool in tools}


def _walk(value: Json, path: str, name_of: Callable[[str, str], tuple[str, str]]) -> Json:
    """`name_of(path of the object, key)` gives the key to write and the one that the path goes on with."""
    if isinstance(value, list):
        items = [_walk(item, f"{path}[]", name_of) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if not isinstance(value, Mapping):
        return value
    written: dict[str, Json] = {}
    same = True
    for key, item in value.items():
        name, step = name_of(path, key)
        written[name] = _walk(item, f"{path}.{step}" if path else step, name_of)
        same = same and name == key and written[name] is item
    return value if same else written
