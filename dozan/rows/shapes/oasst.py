"""OpenAssistant's message trees: flat rows with message_id and parent_id, or whole trees with `prompt` and `replies`.

A tree gives one conversation: at each turn the reply of the best rank, and the last word is the assistant's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dozan.rows.example import Example, Json
from dozan.rows.records import Broken, Record
from dozan.rows.shapes.shape import Fields, Options, Shape, ShapeError, kind, made, system_message

_ROLES = {"prompter": "user", "assistant": "assistant"}
_UNRANKED = 10**9
_KEPT = ("message_id", "lang", "tree_state", "synthetic", "model_name")
Tree = dict[str, Any]


def _is_message(fields: Fields) -> bool:
    return isinstance(fields.get("message_id"), str) and "parent_id" in fields and "text" in fields and "role" in fields


def _is_tree(fields: Fields) -> bool:
    prompt = fields.get("prompt")
    return isinstance(prompt, dict) and "text" in prompt and "replies" in prompt


def gather_trees(records: Iterator[Record | Broken]) -> Iterator[Record | Broken]:
    """Joins flat rows to trees; the rows of a tree stand together, as published. One tree is held at a time."""
    tree: list[Record] = []
    closed: set[int] = set()
    for record in records:
        if isinstance(record, Broken) or not isinstance(record.value, dict) or not _is_message(record.value):
            yield record
            continue
        name = _tree_of(record.value, tree)
        if tree and name != _tree_of(tree[0].value, []):
            closed.add(hash(_tree_of(tree[0].value, [])))
            yield from _joined(tree)
            tree = []
        if not tree and hash(name) in closed:
            words = "the other rows of its tree stood earlier in the file; sort the rows by message_tree_id"
            yield Broken(record.place, record.line, 0, "lost-parent", words, "message_tree_id")
            continue
        tree.append(record)
    if tree:
        yield from _joined(tree)


def _tree_of(value: Json, tree: list[Record]) -> str:
    """The tree that a message belongs to: its own word, or the tree at hand when its parent is in it."""
    given = value.get("message_tree_id")
    if given:
        return str(given)
    if tree and any(record.value["message_id"] == value.get("parent_id") for record in tree):
        return _tree_of(tree[0].value, [])
    return str(value["message_id"])


def _joined(records: list[Record]) -> Iterator[Record | Broken]:
    """The tree of these rows; those that do not hang on its root are broken."""
    nodes: dict[str, Tree] = {}
    for record in records:
        name = record.value["message_id"]
        if name in nodes:
            yield Broken(record.place, record.line, 0, "duplicate-id", f"{name!r} is given twice", "message_id")
        nodes.setdefault(name, {**record.value, "replies": []})
    root = next((record for record in records if record.value.get("parent_id") is None), None)
    for node in nodes.values():
        parent = node.get("parent_id")
        if isinstance(parent, str) and parent in nodes:
            nodes[parent]["replies"].append(node)
    hanging = _hanging(nodes[root.value["message_id"]]) if root else set()
    for record in records:
        if record.value["message_id"] not in hanging:
            words = f"the message {record.value['parent_id']!r:.60} before it is not in its tree; keep whole trees"
            yield Broken(record.place, record.line, 0, "lost-parent", words, "parent_id")
    if root is not None:
        prompt = nodes[root.value["message_id"]]
        value = {"message_tree_id": _tree_of(root.value, []), "prompt": prompt, "messages_in_tree": len(records)}
        yield Record(value, root.place, root.line, None)


def _hanging(root: Tree) -> set[str]:
    found: set[str] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node["message_id"] not in found:
            found.add(node["message_id"])
            waiting += node["replies"]
    return found


def read_tree(fields: Fields, place: str, options: Options) -> Example:
    """The best-ranked path of a tree, up to its last assistant message."""
    path: list[Tree] = []
    node: Tree | None = fields.get("prompt")
    if not isinstance(node, dict):
        raise ShapeError("prompt", f"expected a message with text, role and replies, found {kind(node)}")
    while node is not None:
        if not isinstance(node.get("text"), str) or node.get("role") not in _ROLES:
            where = "prompt" + ".replies[]" * len(path)
            raise ShapeError(
                where, f"expected text and a role of prompter or assistant, found {node.get('role')!r:.40}"
            )
        path.append(node)
        node = _best(node.get("replies"))
    while path and path[-1]["role"] != "assistant":
        path.pop()
    if not path:
        raise ShapeError("prompt.replies", "no assistant message that was kept; take the tree out", "empty-field")
    messages = [*system_message({}, options), *({"role": _ROLES[n["role"]], "content": n["text"]} for n in path)]
    meta = {key: path[0][key] for key in _KEPT if key in path[0]} | {"path": [n.get("message_id") for n in path]}
    rest = {key: value for key, value in fields.items() if key != "prompt"}
    return made({**rest, **meta, "id": fields.get("message_tree_id")}, ("messages",), place, (), messages)


def _best(replies: Json) -> Tree | None:
    """The reply of the lowest rank that was not deleted or refused by review; the first of equals."""
    kept = [
        reply
        for reply in (replies if isinstance(replies, list) else ())
        if isinstance(reply, dict) and not reply.get("deleted") and reply.get("review_result") is not False
    ]
    return min(kept, key=_rank, default=None)


def _rank(reply: Tree) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else _UNRANKED


OASST = Shape("oasst", "message_id, parent_id, role and text", _is_message, read_tree, gather_trees)
OASST_TREES = Shape("oasst-trees", "prompt with replies", _is_tree, read_tree)
