"""Single questions with their calls: xLAM's query, tools and answers; BFCL's questions with possible answers."""

from __future__ import annotations

from typing import Any

from dozan.rows.example import Example, Json
from dozan.rows.records import Broken, read_records
from dozan.rows.shapes.shape import (
    Fields,
    Options,
    Shape,
    ShapeError,
    kind,
    made,
    parsed,
    refuse,
    system_message,
    text_field,
)
from dozan.rows.shapes.tools import call, declared, from_arguments, plain_types

_ANSWERS = "possible answers"


def _is_xlam(fields: Fields) -> bool:
    return isinstance(fields.get("query"), str) and "tools" in fields and "answers" in fields


def read_xlam(fields: Fields, place: str, options: Options) -> Example:
    """xLAM: `tools` and `answers` are JSON texts, and a tool's parameters have Python's types."""
    query = text_field(fields, "query")
    answers = parsed(fields.get("answers"), "answers")
    if not isinstance(answers, list):
        raise ShapeError("answers", f"expected a list of calls, found {kind(answers)}")
    errors: list[ShapeError] = []
    calls = []
    for i, answer in enumerate(answers):
        try:
            calls.append(call(answer, f"answers[{i}]"))
        except ShapeError as error:
            errors.append(error)
    refuse(errors)
    tools = [{**tool, "function": from_arguments(tool["function"])} for tool in _with_functions(fields.get("tools"))]
    messages: list[Fields] = [*system_message(fields, options), {"role": "user", "content": query}]
    if calls:
        messages.append({"role": "assistant", "tool_calls": calls})
    return made(fields, ("query", "tools", "answers", "system"), place, tools, messages)


def _with_functions(value: Json, path: str = "tools") -> list[Fields]:
    tools = declared(value, path)
    for i, tool in enumerate(tools):
        if not isinstance(tool["function"], dict):
            raise ShapeError(
                f"{path}[{i}].function", f"expected an object, found {kind(tool['function'])}", "bad-tools"
            )
    return tools


def _is_bfcl(fields: Fields) -> bool:
    question = fields.get("question")
    return isinstance(question, list) and "function" in fields


def read_bfcl(fields: Fields, place: str, options: Options) -> Example:
    """A BFCL question; its call is the first of the possible answers, with what may be left out left out.

    The answers are in `ground_truth`, or by id in the file of the same name in `possible_answer/` beside the questions.
    Without answers there is no call: so are the questions where no tool is of use.
    """
    question = fields.get("question")
    if not isinstance(question, list):
        raise ShapeError("question", f"expected a list of messages, found {kind(question)}")
    turns = question if question and isinstance(question[0], list) else [question]
    if len(turns) != 1 or not turns[0] or not all(isinstance(turn, dict) for turn in turns[0]):
        raise ShapeError("question", f"expected one list of messages, found {len(turns)} turns; several are not read")
    tools = [plain_types(tool) for tool in _with_functions(fields.get("function"), "function")]
    messages: list[Fields] = [dict(turn) for turn in turns[0]]
    truth = fields.get("ground_truth")
    if truth is None:
        truth = _possible(fields, options)
    extra: dict[str, Json] = {}
    if truth:
        messages.append({"role": "assistant", "tool_calls": _first_answers(truth)})
        extra = {"possible_answers": truth}
    return made({**fields, **extra}, ("question", "function", "ground_truth"), place, tools, messages)


def _possible(fields: Fields, options: Options) -> Json:
    """The possible answers of a question from the companion file; None when there is no such file."""
    if _ANSWERS not in options.memory:
        options.memory[_ANSWERS] = _read_companion(options)
    answers = options.memory[_ANSWERS]
    if answers is None:
        return None
    if str(fields.get("id")) not in answers:
        path = options.file.parent / "possible_answer" / options.file.name
        raise ShapeError("id", f"{fields.get('id')!r:.60} has no possible answer in {path}", "no-possible-answer")
    return answers[str(fields.get("id"))]


def _read_companion(options: Options) -> dict[str, Json] | None:
    path = options.file.parent / "possible_answer" / options.file.name
    if not path.is_file():
        return None
    options.beside.append(path)
    answers: dict[str, Json] = {}
    for record in read_records(path):
        if isinstance(record, Broken):
            raise ShapeError("id", f"the file of possible answers is broken: {record}", "no-possible-answer")
        if isinstance(record.value, dict) and "id" in record.value:
            answers[str(record.value["id"])] = record.value.get("ground_truth")
    return answers


def _first_answers(truth: Json) -> list[dict[str, Any]]:
    if not isinstance(truth, list) or not all(isinstance(item, dict) for item in truth):
        raise ShapeError("ground_truth", 'expected a list like [{"name": {"argument": [values]}}]', "bad-call")
    calls = []
    for i, item in enumerate(truth):
        for name, arguments in item.items():
            if not isinstance(arguments, dict):
                raise ShapeError(
                    f"ground_truth[{i}].{name}", f"expected an object, found {kind(arguments)}", "bad-call"
                )
            calls.append(call({"name": name, "arguments": _chosen(arguments)}, f"ground_truth[{i}]"))
    return calls


def _chosen(arguments: dict[str, Json]) -> dict[str, Json]:
    """The first possible value of each argument; an argument whose first is "" may be left out, and is."""
    found: dict[str, Json] = {}
    for name, values in arguments.items():
        first = values[0] if isinstance(values, list) and values else values
        if first != "":
            found[name] = _inside(first)
    return found


def _inside(value: Json) -> Json:
    """Objects among the possible values list the possible values of their own keys."""
    if isinstance(value, dict) and all(isinstance(item, list) for item in value.values()):
        return _chosen(value)
    return [_inside(item) for item in value] if isinstance(value, list) else value


def _note(options: Options) -> str:
    path = options.file.parent / "possible_answer" / options.file.name
    if "irrelevance" in options.file.name or path.is_file():
        return ""
    return f"there is no {path}: rows without ground_truth get no call"


XLAM = Shape("xlam", "query, tools and answers", _is_xlam, read_xlam)
BFCL = Shape(
    "bfcl", "question and function, with ground_truth or a file in possible_answer/", _is_bfcl, read_bfcl, None, _note
)
