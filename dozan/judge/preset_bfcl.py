"""The Berkeley leaderboard's AST score (BFCL) for Python: simple, multiple, parallel, irrelevance.

Source: ShishirPatil/gorilla, berkeley-function-call-leaderboard, ast_checker.py and eval_runner.py. An argument has a
list of possible answers; "" among them lets it be left out. A value must have the declared type, an integer standing
for a float (but not inside an array), or else the type of the possible answers. Strings are compared without case and
without ` ,./-_*^`. Parallel calls are matched greedily, in the order of the possible answers. Where no tool is of use,
an answer without a call, or one that cannot be parsed, is right; elsewhere one that cannot be parsed is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dozan.chat.format import Call
from dozan.errors import InputError
from dozan.judge.intervals import mean_of_shares
from dozan.judge.measured import Measured, PresetScores, share
from dozan.judge.score import tool_schemas
from dozan.judge.summary import RowScore
from dozan.judge.values import Schema
from dozan.rows.example import Example, Json

Answers = Mapping[str, Json]
"""Argument name -> list of possible values."""

_RULES = "BFCL, AST: each value among the possible answers, with the declared type; parallel calls in any order"
_TYPES: Mapping[str, type] = {
    "string": str, "any": str, "integer": int, "number": float, "float": float, "boolean": bool, "array": list,
    "tuple": list, "object": dict, "dict": dict,
}  # fmt: skip
_IGNORED = re.compile(r"[ ,./\-_*^]")
_NUMBER_OF_ID = re.compile(r"_\d+(-\d+)*$")
_NO_CALL = "None of the functions is of use."
IRRELEVANCE = "irrelevance"


def answered(examples: Sequence[Example]) -> list[Example]:
    """The rows; those that have no answer, as BFCL's irrelevance has none, get one without a call."""
    reply = {"role": "assistant", "content": _NO_CALL}
    return [
        example if any(message.get("role") == "assistant" for message in example.messages)
        else replace(example, messages=(*example.messages, reply))
        for example in examples
    ]  # fmt: skip


def score_bfcl(rows: Sequence[RowScore], examples: Sequence[Example]) -> PresetScores:
    """Accuracy by category; their unweighted mean without irrelevance is the leaderboard's AST score.

    Raises InputError for a possible answer whose function the row does not declare.
    """
    right = {row.id: row_is_right(row, example) for row, example in zip(rows, examples, strict=True)}
    categories: dict[str, list[bool]] = {}
    for row, example in zip(rows, examples, strict=True):
        categories.setdefault(_category(row.id, possible_answers(row, example)), []).append(right[row.id])
    groups = {name: {"accuracy": share(categories[name])} for name in sorted(categories)}
    tested = [outcomes for name, outcomes in categories.items() if not name.endswith(IRRELEVANCE)]
    figures = {"all rows": share(list(right.values()))}
    if tested:
        low, high = mean_of_shares([(sum(outcomes), len(outcomes)) for outcomes in tested])
        mean = sum(sum(outcomes) / len(outcomes) for outcomes in tested) / len(tested)
        figures = {"AST, mean of categories": Measured(mean, sum(map(len, tested)), low, high), **figures}
    return PresetScores("bfcl", _RULES, figures, groups, right)


def possible_answers(row: RowScore, example: Example) -> list[Mapping[str, Answers]]:
    """The row's own possible answers; else its calls, each value the only one possible."""
    found = example.meta.get("possible_answers")
    if found is not None:
        return list(found)
    return [{call.name: {key: [_only(value)] for key, value in call.arguments.items()}} for call in row.gold]


def row_is_right(row: RowScore, example: Example) -> bool:
    """Whether BFCL takes a row's prediction to be right."""
    answers = possible_answers(row, example)
    if not answers:
        return not row.calls or bool(row.problems)
    if row.problems or len(row.calls) != len(answers):
        return False
    schemas, left = tool_schemas(example), list(row.calls)
    for answer in answers:
        ((name, arguments),) = answer.items()
        if name not in schemas:
            place = example.place or example.id
            raise InputError(f"{place}: the possible answer calls {name}, which the row does not declare; add the tool")
        found = next((i for i, call in enumerate(left) if call_fits(call, name, arguments, schemas[name])), None)
        if found is None:
            return False
        del left[found]
    return True


def call_fits(call: Call, name: str, answers: Answers, schema: Schema) -> bool:
    """Whether a call is one of the possible ones."""
    declared = schema.get("properties") or {}
    if call.name != name or any(key not in call.arguments for key in schema.get("required") or ()):
        return False
    for key, value in call.arguments.items():
        if key not in declared or key not in answers or not _value_fits(value, answers[key], declared[key]):
            return False
    return all(key in call.arguments or "" in possible for key, possible in answers.items())


def _value_fits(value: Json, possible: Sequence[Json], schema: Schema) -> bool:
    expected = _type(schema)
    inner = _type(schema.get("items") or {}) if expected is list else None
    if expected is float and type(value) is int:
        value = float(value)
    otherwise = _typed_otherwise(value, possible, expected, inner)
    if otherwise is None:
        return False
    if otherwise:
        return value in possible
    if expected is dict:
        return _object_fits(value, possible)
    if expected is list and inner is dict:
        return any(_objects_fit(value, answer) for answer in possible)
    if expected is str:
        return _plain(value) in [_plain(answer) for answer in possible if isinstance(answer, str)]
    if expected is list:
        return list(map(_plain, value)) in [list(map(_plain, answer)) for answer in possible if _is_sequence(answer)]
    return value in possible


def _typed_otherwise(
    value: Json, possible: Sequence[Json], expected: type | None, inner: type | None = None
) -> bool | None:
    """False: of the declared type, as the answers are. True: of the answers' type, which is another. None: of neither.

    An array's items are looked at one level deep, and must suit one of the answers, or one that is no list.
    """
    meant = next((type(answer) for answer in possible if answer != ""), None)
    given: type = type(value)
    if given is not expected:
        return True if given is meant else None
    otherwise = meant is not None and meant is not expected
    if inner is None:
        return otherwise
    suits = (
        not isinstance(answer, list) or all(_typed_otherwise(item, answer, inner) is not None for item in value)
        for answer in possible
    )  # fmt: skip
    return otherwise if any(suits) else None


def _object_fits(value: Mapping[str, Json], possible: Sequence[Json]) -> bool:
    answers: list[Answers] = [answer for answer in possible if isinstance(answer, Mapping)]
    for answer in answers:
        fits = all(key in answer and _plain(item) in list(map(_plain, answer[key])) for key, item in value.items())
        if fits and all(key in value or "" in items for key, items in answer.items()):
            return True
    return False


def _objects_fit(value: Sequence[Json], answer: Json) -> bool:
    if not _is_sequence(answer) or len(value) != len(answer):
        return False
    return all(_object_fits(item, [wanted]) for item, wanted in zip(value, answer, strict=True))


def _is_sequence(answer: Json) -> bool:
    """Whether an answer has items; "", which lets the argument be left out, has none and is an empty list too."""
    return isinstance(answer, (list, str))


def _plain(value: Json) -> Json:
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _type(schema: Schema) -> type | None:
    name = schema.get("type")
    return _TYPES.get(name.lower()) if isinstance(name, str) else None


def _only(value: Json) -> Json:
    """A value as the one possible answer: an object lists the possible values of its keys."""
    if isinstance(value, list):
        return [_only(item) if isinstance(item, Mapping) else item for item in value]
    return {key: [item] for key, item in value.items()} if isinstance(value, Mapping) else value


def _category(name: str, answers: Sequence[Json]) -> str:
    """What the id says (`simple_python_12`); else told by the answers."""
    if _NUMBER_OF_ID.search(name):
        return _NUMBER_OF_ID.sub("", name)
    return IRRELEVANCE if not answers else "parallel" if len(answers) > 1 else "simple"
