"""DZ221 to DZ249: the order and content of the conversation, beyond what the chat format itself refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from dozan.chat.messages import ROLES
from dozan.chat.tokens import find_control
from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.view import DEEPEST, RowView, content_text
from dozan.rows.example import Json

LONGEST_CHARACTERS = 1_000_000
TRIGGER = "You are a model that can do function calling with the following functions"
_RESULT = re.compile(
    r"^\s*(?:<tool_response>|<function_response>|\[TOOL_RESULTS\]|FUNCTION RESPONSE:|response:[\w.-]+\{)", re.IGNORECASE
)
_KNOWN = frozenset(ROLES)
_CALL_MARK = re.compile(r"<tool_call>|<functioncall>|\[TOOL_CALLS\]|<\|python_tag\|>|\bcall:[\w.-]+\{")
_CALL_JSON = re.compile(r'\{\s*"(?:name|function)"\s*:\s*"([^"]+)"\s*,\s*"(?:arguments|parameters)"\s*:')

NOTHING_TRAINED = Rule(
    "DZ221",
    "nothing-trained",
    "error",
    "row",
    "A row without a supervised token",
    "No assistant message: the row costs time and teaches nothing.",
    "Add the answer to train on, or take the row out.",
)
NO_USER = Rule(
    "DZ222",
    "no-user",
    "warning",
    "row",
    "Tools, but no user message",
    "The model learns to call without being asked.",
    "Add the request.",
)
ASSISTANT_TWICE = Rule(
    "DZ223",
    "assistant-twice",
    "warning",
    "row",
    "Two assistant messages in a row",
    "Each becomes a turn of its own; at run time the model is never asked twice.",
    "Join them, or add the user or tool message between them.",
)
USER_TWICE = Rule(
    "DZ224",
    "user-twice",
    "warning",
    "row",
    "Two user messages in a row",
    "Often a lost answer.",
    "Join them, or add the answer between them.",
)
EMPTY_REQUEST = Rule(
    "DZ225",
    "empty-request",
    "warning",
    "row",
    "A user message without text",
    "The model learns to answer nothing.",
    "Give the request or take the row out.",
)
CONTROL_IN_TEXT = Rule(
    "DZ226",
    "control-token-in-text",
    "warning",
    "row",
    "A control token is spelt out in a message",
    "Here it is encoded as plain text, but other runtimes read it as the token: an injection.",
    "Take it out.",
    True,
)
UNKNOWN_RESPONSE = Rule(
    "DZ227",
    "response-without-call",
    "warning",
    "row",
    "A tool answers that was not called",
    "The model learns results that belong to no call.",
    "Give the response the name or id of its call.",
)
RESULT_TRAINED = Rule(
    "DZ228",
    "result-trained",
    "error",
    "row",
    "A tool's result in an assistant message",
    "It would be trained: the model learns to invent results.",
    "Put it into a message of role tool.",
)
CALL_AS_TEXT = Rule(
    "DZ229",
    "call-as-text",
    "error",
    "row",
    "A call written into the assistant's text",
    "The model learns another syntax than that of its calls, and no parser reads it.",
    "Put it into tool_calls.",
)
TOO_DEEP = Rule(
    "DZ230",
    "nested-too-deep",
    "error",
    "row",
    "Nested too deeply",
    f"More than {DEEPEST} levels are no arguments or schema that a model could read, and exhaust the readers.",
    "Flatten it, or take the row out.",
)
HUGE = Rule(
    "DZ231",
    "huge-row",
    "warning",
    "row",
    "A row of more than a million characters",
    "It is far beyond every context that is trained, and costs memory.",
    "Cut the source into parts, or take it out.",
)
TOO_LONG = Rule(
    "DZ232",
    "too-long",
    "error",
    "row",
    "A row longer in tokens than training takes",
    "Truncating it would cut the answer, so it is refused.",
    "Shorten it, or raise data.max_tokens.",
)
LATE_DEVELOPER = Rule(
    "DZ233",
    "late-developer",
    "warning",
    "row",
    "A developer or system message inside the conversation",
    "Tools and the trigger sentence belong into the first turn; runtimes drop or move a later one.",
    "Put it first.",
)
UNANSWERED_END = Rule(
    "DZ234",
    "unanswered-end",
    "warning",
    "row",
    "The conversation ends with an unanswered request",
    "Nothing after the last answer is trained.",
    "Add the answer, or take the last message out.",
)
NO_TRIGGER = Rule(
    "DZ235",
    "no-trigger",
    "note",
    "row",
    "Tools without FunctionGemma's trigger sentence",
    "The base model was trained with it right before the declarations; the template does not add it.",
    f"Give a developer message with {TRIGGER!r}.",
    True,
)
CALL_TWICE = Rule(
    "DZ236",
    "call-twice",
    "warning",
    "row",
    "The same call twice in one message",
    "The model learns to repeat itself.",
    "Take one out.",
    True,
)
UNKNOWN_CALL_ID = Rule(
    "DZ237",
    "unknown-call-id",
    "warning",
    "row",
    "A tool_call_id that no call has",
    "The response is written under a guessed name.",
    "Give the id of the call that it answers.",
)

RULES = Catalog([
    NOTHING_TRAINED, NO_USER, ASSISTANT_TWICE, USER_TWICE, EMPTY_REQUEST, CONTROL_IN_TEXT, UNKNOWN_RESPONSE,
    RESULT_TRAINED, CALL_AS_TEXT, TOO_DEEP, HUGE, TOO_LONG, LATE_DEVELOPER, UNANSWERED_END, NO_TRIGGER, CALL_TWICE,
    UNKNOWN_CALL_ID,
])  # fmt: skip


def conversation_findings(view: RowView) -> Iterator[Found]:
    """What is wrong with the order of messages and what they hold."""
    yield from _sizes(view)
    messages = view.example.messages
    roles = [message.get("role") for message in messages]
    if "assistant" not in roles:
        yield NOTHING_TRAINED, "messages", "no assistant message; add the answer to train on"
    if "user" not in roles and view.example.tools and _KNOWN.issuperset(map(str, roles)):
        yield NO_USER, "messages", "tools, but no user message; add the request"
    if roles and roles[-1] == "user" and "assistant" in roles:
        yield UNANSWERED_END, f"messages[{len(roles) - 1}]", "the last request has no answer, so it is not trained"
    if view.example.tools and not any(r in ("developer", "system") and TRIGGER in content_text(m.get("content"))
                                      for r, m in zip(roles, messages, strict=True)):  # fmt: skip
        yield NO_TRIGGER, "messages", f"no developer message says {TRIGGER!r}"
    yield from _order(roles)
    for i, message in enumerate(messages):
        yield from _contents(message, f"messages[{i}]", view)
    yield from _responses(view)
    yield from _repeated(view)


def _sizes(view: RowView) -> Iterator[Found]:
    if view.deep:
        yield TOO_DEEP, view.deep, f"nested more than {DEEPEST} levels; flatten it"
    elif view.rendered is not None and len(view.rendered.text) > LONGEST_CHARACTERS:
        yield HUGE, "messages", f"{len(view.rendered.text):,} characters"
    if view.tokens is not None and view.tokens > view.max_tokens:
        yield TOO_LONG, "messages", f"{view.tokens:,} tokens, of at most {view.max_tokens:,}"


def _order(roles: list[Json]) -> Iterator[Found]:
    began = False
    for i, role in enumerate(roles):
        before = roles[i - 1] if i else None
        if role == "assistant" and before == "assistant":
            yield ASSISTANT_TWICE, f"messages[{i}]", "follows another assistant message"
        elif role == "user" and before == "user":
            yield USER_TWICE, f"messages[{i}]", "follows another user message"
        elif role in ("developer", "system") and began:
            yield LATE_DEVELOPER, f"messages[{i}]", f"a {role} message after the conversation began; put it first"
        began = began or role in ("user", "assistant", "tool")


def _contents(message: Mapping[str, Json], where: str, view: RowView) -> Iterator[Found]:
    role, text = message.get("role"), content_text(message.get("content"))
    if role == "assistant":
        if _RESULT.search(text):
            yield RESULT_TRAINED, f"{where}.content", f"{text.strip()[:40]!r} is a tool's result; give it the role tool"
        elif _is_call(text, view):
            yield CALL_AS_TEXT, f"{where}.content", f"holds a call as text: {text.strip()[:40]!r}; use tool_calls"
        return
    if role == "user" and not text.strip():
        yield EMPTY_REQUEST, f"{where}.content", "empty; give the request"
    found = find_control(text) if role != "tool" else None
    if found:
        yield CONTROL_IN_TEXT, f"{where}.content", f"spells the control token {found}; take it out"


def _is_call(text: str, view: RowView) -> bool:
    if not text or ("{" not in text and "<" not in text and "[" not in text):
        return False
    found = _CALL_JSON.search(text)
    return _CALL_MARK.search(text) is not None or (found is not None and found.group(1) in view.schemas)


def _responses(view: RowView) -> Iterator[Found]:
    """Tool messages whose name or id fits no call before them."""
    names: set[Json] = set()
    ids: set[Json] = set()
    for i, message in enumerate(view.example.messages):
        if message.get("role") == "assistant":
            for item in _items(message):
                function = item.get("function", item)
                names.add(json.dumps(function.get("name")) if isinstance(function, Mapping) else "")
                ids.add(json.dumps(item.get("id")))
        elif message.get("role") == "tool":
            name, number = message.get("name"), message.get("tool_call_id")
            if isinstance(name, str) and name and names and json.dumps(name) not in names:
                yield UNKNOWN_RESPONSE, f"messages[{i}].name", f"{name!r} answers, but was not called"
            if number is not None and json.dumps(number) not in ids:
                yield UNKNOWN_CALL_ID, f"messages[{i}].tool_call_id", f"no call has the id {number!r:.40}"


def _items(message: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    raw = message.get("tool_calls")
    yield from (item for item in raw if isinstance(item, Mapping)) if isinstance(raw, list) else ()


def _repeated(view: RowView) -> Iterator[Found]:
    seen: set[str] = set()
    for path, call in view.calls if len(view.calls) > 1 else ():
        key = f"{path.split('.')[0]} {call.name} {json.dumps(call.arguments, sort_keys=True, default=str)}"
        if key in seen:
            yield CALL_TWICE, path, f"{call.name} was already called with the same arguments"
        seen.add(key)
