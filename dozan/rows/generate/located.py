"""YAML whose texts know the line they stand on, so that what is wrong with one can be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dozan.errors import InputError


class Text(str):
    """A text and its line in the file, from 1; in a block (`|`) the line of its first row."""

    line: int = 0


class _Loader(yaml.SafeLoader):
    """SafeLoader with located texts; a key that comes twice is refused."""


def read_yaml(path: Path) -> Any:
    """The file's value. Raises InputError for a file that is not there or is no YAML, with the line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a lexicon such as examples/lexicon_phone_ar.yaml")
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        remedy = "put a text that begins with { or [, or holds ': ', in quotes, or in a block after |"
        raise InputError(f"{path}{line}: no YAML: {error.problem}; {remedy}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no YAML: {error}; save it as UTF-8 without control characters") from None


def line_of(value: object) -> int:
    """The line of a text, or of the first text in a value; 0 when it has none."""
    if isinstance(value, Text):
        return value.line
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((line for line in map(line_of, parts) if line), 0)


def _text(loader: _Loader, node: yaml.ScalarNode) -> Text:
    text = Text(loader.construct_scalar(node))
    text.line = node.start_mark.line + (2 if node.style in ("|", ">") else 1)
    return text


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        problem = "a key must be a text" if isinstance(key, dict | list) else "this key is there already"
        if isinstance(key, dict | list) or key in found:
            raise yaml.MarkedYAMLError(problem=f"{problem} ({key!r:.60})", problem_mark=key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
