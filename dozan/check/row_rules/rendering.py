"""DZ2xx and DZ3xx: what the chat format refuses or repairs, each under the code of its cause.

The chat format decides and words the problem; this table sorts its words. What it says anew falls under DZ201 or DZ202
until it is given a line here, and a test renders each cause once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.view import Problem, RowView

_BYTES = "What is trained would not be what the row says, or could not be read back from what the model writes."
_PASTE = "Give the value in the canonical form: an object of arguments, plain text, one name a key."

RULES = Catalog()


def _error(code: str, name: str, title: str, why: str, remedy: str, fixable: bool = False) -> Rule:
    return RULES.add(Rule(code, name, "error", "row", title, why, remedy, fixable))


def _warning(code: str, name: str, title: str, why: str, remedy: str, fixable: bool = True) -> Rule:
    return RULES.add(Rule(code, name, "warning", "row", title, why, remedy, fixable))


def _note(code: str, name: str, title: str, why: str, remedy: str, fixable: bool = True) -> Rule:
    return RULES.add(Rule(code, name, "note", "row", title, why, remedy, fixable))


UNRENDERABLE = _error("DZ201", "unrenderable", "The chat format cannot write the row", _BYTES, _PASTE)
REPAIRED = _note(
    "DZ202",
    "repaired",
    "The chat format changed the row so that it could be written",
    "The model sees the changed form.",
    "Write the row in the form that the message names.",
    False,
)
TURN_ORDER = _error(
    "DZ203",
    "turn-order",
    "A message stands where the chat format has no place for it",
    "The official template writes it without complaint, and the turns that the model learns are malformed.",
    "Add the missing tool response or answer before it, or take the message out.",
)
EMPTY_ANSWER = _error(
    "DZ204",
    "empty-answer",
    "An assistant message with neither text nor calls",
    "The model would learn to stop at once.",
    "Give it an answer or take it out.",
)
CONTROL_TRAINED = _error(
    "DZ205",
    "control-token-trained",
    "A control token is spelt out in what is trained or declared",
    "It ends a string, a call or the turn in the middle of the answer.",
    "Take it out; calls belong into tool_calls.",
)
TOOL_NAMELESS = _error(
    "DZ206",
    "tool-nameless",
    "A tool message that does not say which tool answers",
    "The response is written under its tool's name.",
    "Add name, or the tool_call_id of its call.",
)
TOOL_NAME_GUESSED = _note(
    "DZ207",
    "tool-name-taken",
    "A tool message's name was taken from the call it answers",
    "Right when the order or the id is right.",
    "Write the name into the message.",
)
ARGUMENTS_TEXT = _warning(
    "DZ208",
    "arguments-as-text",
    "Arguments given as a JSON string",
    "The official template pastes the string raw: quotes and escapes become part of the call.",
    "Give the arguments as an object.",
)
NULL_VALUE = _warning(
    "DZ209",
    "null-value",
    "A null in arguments or a schema",
    "Templates print it as None; Arrow fills rows with nulls that nobody wrote.",
    "Leave the key out.",
)
ARGUMENTS_UNREADABLE = _error(
    "DZ210",
    "arguments-unreadable",
    "Arguments that are no object",
    _BYTES,
    "Give an object of arguments, {} when there are none.",
)
UNKNOWN_ROLE = _error(
    "DZ211",
    "role-not-written",
    "A role that no chat format knows",
    _BYTES,
    "Use developer, system, user, assistant or tool.",
)
KEY_IGNORED = _note(
    "DZ212",
    "key-ignored",
    "A key of a message or tool that the chat format has no place for",
    "The model never sees it.",
    "Put what matters into content or a description.",
    False,
)
CONTENT_KIND = _error(
    "DZ213",
    "content-no-text",
    "Content that is not text",
    "Only text is trained; images are not.",
    "Give text, or a list of text parts.",
)
BAD_NAME = _error(
    "DZ214",
    "unreadable-name",
    "A name that cannot be read back from a call",
    "Colons, commas, brackets and line breaks end a name in the format.",
    "Use letters, digits and _.",
)
OLD_CALL = _error(
    "DZ215",
    "old-function-call",
    "A call in the old function_call form",
    "It would not be trained.",
    'Write "tool_calls": [{"function": {"name", "arguments"}}].',
)
MALFORMED_CALL = _error(
    "DZ216",
    "malformed-call",
    "A call without a name, or a list of calls that is none",
    _BYTES,
    'Write {"function": {"name": "...", "arguments": {...}}}.',
)
NO_NUMBER = _error(
    "DZ217",
    "no-finite-number",
    "A number that JSON does not have",
    "NaN and infinity cannot be read back.",
    "Use a finite number or leave the argument out.",
)
NULL_ITEM = _error("DZ218", "null-item", "A null inside a list", "It has no form in a call.", "Leave the item out.")
NO_TOOLS_HERE = _error(
    "DZ219",
    "format-without-tools",
    "Tools or calls in a chat format that has none",
    "Gemma 3's template drops them.",
    "Use the functiongemma format, or rows without tools.",
)
PARTS_JOINED = _note(
    "DZ220", "text-parts", "Content given as a list of text parts", "They are joined by line breaks.", "Give one text."
)
RESERVED = _warning(
    "DZ301",
    "reserved-parameter",
    "A parameter whose name the official template loses",
    "type, description, properties, required and nullable never show in the prompt, so the model cannot "
    "know of the parameter.",
    "Rename it (`dozan data fix`: `type` to `type_value`); unrepaired, training writes it as `type_`.",
)
CONSTRAINT = _warning(
    "DZ302",
    "constraint-lost",
    "A constraint that the format does not print",
    "default, minimum, format, anyOf, an enum of numbers and the like vanish from the prompt.",
    "Say it in the description; dozan moves it there.",
)
TYPE_MISSING = _warning(
    "DZ303",
    "type-missing",
    "A schema without a type",
    "The official template leaves its braces unbalanced.",
    "Give the type.",
)
UNION = _warning(
    "DZ304",
    "union-type",
    "A list of types, or a union of schemas",
    "A list type is printed as ['STRING', 'NULL'], a union not at all.",
    "Give one type, and leave the argument out of required where it can be null.",
)
UNKNOWN_TYPE = _error(
    "DZ305",
    "unknown-type",
    "A type that JSON Schema does not have",
    _BYTES,
    "Use string, integer, number, boolean, array or object.",
)
TYPE_SPELLING = _note(
    "DZ306",
    "type-spelling",
    "A type by its name in a programming language",
    "The model knows the names of JSON Schema.",
    "Write number for float, array for list, object for dict.",
)
KEY_LEFT_OUT = _note(
    "DZ307",
    "schema-key-left-out",
    "A key of the schema that says nothing to the model",
    "title, $schema and the like cost tokens elsewhere.",
    "Leave it out.",
)
REFERENCE = _error(
    "DZ308",
    "reference",
    "A $ref in a schema",
    "References are not followed by any template.",
    "Write the schema out in its place.",
)
SAME_NAME = _error(
    "DZ309",
    "duplicate-tool",
    "Two tools of one name",
    "A call to it could mean either.",
    "Give each its own name, or take one out.",
)
BAD_TOOL = _error(
    "DZ310",
    "malformed-tool",
    "A declaration without a name or of another form",
    _BYTES,
    'Write {"type": "function", "function": {"name", "description", "parameters"}}.',
)
SCHEMA_TEXT = _warning(
    "DZ311",
    "parameters-as-text",
    "Parameters given as a JSON string",
    "Templates paste it raw.",
    "Give the schema as an object.",
)
BAD_SCHEMA = _error(
    "DZ312",
    "malformed-schema",
    "A schema that is no JSON Schema",
    _BYTES,
    "Give an object with type, properties and required.",
)
BARE_TOOL = _note(
    "DZ313", "bare-tool", 'A tool not wrapped in {"function": ...}', "It is wrapped before it is written.", "Wrap it."
)

_CAUSES: tuple[tuple[str, Rule], ...] = (
    (r"holds the control token", CONTROL_TRAINED),
    (r"has no tools", NO_TOOLS_HERE),
    (r"an assistant message without text", EMPTY_ANSWER),
    (r"right after a tool response|after a call without a response|without a call before it", TURN_ORDER),
    (r"roles must alternate|after the conversation began|no user message|^empty; give", TURN_ORDER),
    (r"no earlier call tells it", TOOL_NAMELESS),
    (r"taken from the call it answers", TOOL_NAME_GUESSED),
    (r"unknown role", UNKNOWN_ROLE),
    (r"an old form", OLD_CALL),
    (r"expected a list of calls|expected \{\"function\"", MALFORMED_CALL),
    (r"expected an object of arguments|give the arguments as an object", ARGUMENTS_UNREADABLE),
    (r"null read as no arguments|null dropped", NULL_VALUE),
    (r"null inside a list", NULL_ITEM),
    (r"is no JSON number", NO_NUMBER),
    (r"cannot be read back; use letters", BAD_NAME),
    (r"nothing else has a form", CONTENT_KIND),
    (r"text parts joined", PARTS_JOINED),
    (r"the format loses the name", RESERVED),
    (r"moved into the description", CONSTRAINT),
    (r"first type|merged: it has one schema", UNION),
    (r"missing: written as", TYPE_MISSING),
    (r"unknown type", UNKNOWN_TYPE),
    (r" written as [A-Z]+$", TYPE_SPELLING),
    (r"references have no form", REFERENCE),
    (r"a second tool named", SAME_NAME),
    (r"wrapped as", BARE_TOOL),
    (r"^expected \{\"name\"", BAD_TOOL),
    (r"no JSON \(.*give the schema|expected a JSON Schema|an object of properties|list of names", BAD_SCHEMA),
    (r"parameters of a function are an object|expected text, found", BAD_SCHEMA),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), rule) for pattern, rule in _CAUSES)


def rendering_findings(view: RowView) -> Iterator[Found]:
    """Errors of the chat format, and what it repaired."""
    for path, message in view.errors:
        yield _cause(path, message, UNRENDERABLE), path, message
    for path, message in view.repairs:
        yield _cause(path, message, REPAIRED), path, message


def _cause(path: str, message: str, other: Rule) -> Rule:
    if message.startswith("left out"):
        return KEY_LEFT_OUT if ".parameters" in path else KEY_IGNORED
    if message.startswith("parsed from a JSON string"):
        return SCHEMA_TEXT if path.startswith("tools") else ARGUMENTS_TEXT
    found = next((rule for pattern, rule in _COMPILED if pattern.search(message)), other)
    return found if (found.severity == "error") == (other.severity == "error") else other


def causes_of(problems: tuple[Problem, ...]) -> set[Rule]:
    """The rules that a list of the format's errors falls under."""
    return {_cause(path, message, UNRENDERABLE) for path, message in problems}
