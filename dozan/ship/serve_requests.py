"""What a chat completion request asks, in OpenAI's form, checked field by field: nothing is ignored without a word.

What would change the answer and cannot be done here is refused; what only labels a request is let pass.
"""

from __future__ import annotations

import difflib
import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dozan.chat.format import ChatFormat, Message, Tool
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.grammar import Grammar, answer_grammar
from dozan.chat.grammar_rules import Choice, Repeat, Rule, Series, optional
from dozan.errors import InputError
from dozan.rows.example import Json

TRIGGER = "You are a model that can do function calling with the following functions"
"""What FunctionGemma expects before its declarations; given where a request brings tools and no system message."""

LABELS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
          "prompt_cache_retention"}  # fmt: skip
NEUTRAL: dict[str, tuple[Json, ...]] = {
    "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,), "top_logprobs": (0,),
    "logit_bias": ({},), "response_format": ({"type": "text"},), "functions": (), "function_call": (),
    "modalities": (["text"],), "reasoning_effort": ("none",), "audio": (), "prediction": (), "verbosity": ("medium",),
    "web_search_options": (),
}  # fmt: skip
"""Fields that we have no way to follow, with the values that ask for nothing."""
READ = ("model", "messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "temperature",
        "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "raw")  # fmt: skip
MOST_STOPS, MOST_SEED = 4, 2**63
KEPT_TOOL_LISTS = 64


class RequestError(Exception):
    """A request that cannot be answered: what the client reads, the field it is about, and the HTTP status."""

    def __init__(
        self, message: str, field: str | None = None, code: str | None = None, status: int = 400,
        kind: str = "invalid_request_error",
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.field, self.code, self.status, self.kind = field, code, status, kind

    def body(self) -> dict[str, Json]:
        """OpenAI's form of an error."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.field, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A checked request. choice: "auto", "none", "required", or the one function that must be called, as ("name",).
    most: new tokens, None for the server's own limit. raw: the answer comes with what the model wrote."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    choice: str | tuple[str]
    parallel: bool
    stream: bool
    with_usage: bool
    temperature: float
    top_p: float
    most: int | None
    stop: tuple[str, ...]
    seed: int
    raw: bool


def read_request(body: Json) -> Asked:
    """The request that a JSON body holds. Raises RequestError with the field."""
    if not isinstance(body, dict):
        raise RequestError(f"the body must be a JSON object, found {type(body).__name__}")
    _refuse_unknown(body)
    tools = _tools(body.get("tools"))
    stream, options = _boolean(body, "stream", False), body.get("stream_options")
    known = {"include_usage", "include_obfuscation"}
    if options is not None and (not isinstance(options, dict) or set(options) - known):
        raise RequestError('stream_options: expected {"include_usage": true}', "stream_options")
    if options is not None and not stream:
        raise RequestError("stream_options: only with stream = true; leave it out", "stream_options")
    most = body.get("max_completion_tokens")
    field = "max_tokens" if most is None else "max_completion_tokens"
    most = _number(body, field, None, 1, 2**31, whole=True)
    return Asked(
        model=_model(body.get("model")), messages=_messages(body.get("messages")), tools=tools,
        choice=_choice(body.get("tool_choice"), tools), parallel=_boolean(body, "parallel_tool_calls", True),
        stream=stream, with_usage=bool((options or {}).get("include_usage")),
        temperature=float(_number(body, "temperature", 0.0, 0, 2) or 0),
        top_p=float(_number(body, "top_p", 1.0, 0, 1) or 1e-9), most=None if most is None else int(most),
        stop=_stop(body.get("stop")), seed=_seed(body), raw=_boolean(body, "raw", False),
    )  # fmt: skip


def with_trigger(asked: Asked) -> tuple[Message, ...]:
    """The messages; with tools and no word of the developer's, FunctionGemma's own comes first."""
    if not asked.tools or any(message.get("role") in ("developer", "system") for message in asked.messages[:1]):
        return asked.messages
    return ({"role": "developer", "content": TRIGGER}, *asked.messages)


def held_to(asked: Asked, chat: ChatFormat, always: bool) -> Grammar | None:
    """The grammar that the answer must follow, if any: what the request demands, or with `always` the tools' schemas.

    Raises InputError for schemas that no call could satisfy.
    """
    if chat.name != FUNCTIONGEMMA.name:
        return None
    if asked.choice == "none":
        return answer_grammar((), chat) if asked.tools else None
    must = asked.choice != "auto"
    if not asked.tools or not (must or always or not asked.parallel):
        return None
    named = asked.choice[0] if isinstance(asked.choice, tuple) else None
    tools = tuple(tool for tool in asked.tools if named in (None, _function(tool).get("name")))
    grammar = answer_grammar(tools, chat, must_call=must)
    return grammar if asked.parallel else _one_call(grammar, must)


def _one_call(grammar: Grammar, must: bool) -> Grammar:
    """A grammar of which an answer has at most one call."""
    answer = Rule("call") if must else Choice((Rule("text"), Series((optional(Rule("text")), Rule("call")))))
    assert isinstance(grammar.rules["answer"], Repeat | Choice)
    return replace(grammar, rules={**grammar.rules, "answer": answer})


def _refuse_unknown(body: Mapping[str, Json]) -> None:
    for key in body:
        if body[key] is None or key in READ or key in LABELS:
            continue
        if key not in NEUTRAL:
            close = difflib.get_close_matches(key, [*READ, *NEUTRAL, *LABELS], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; leave it out"
            raise RequestError(f"{key}: no field of a chat completion request{hint}", key, "unknown_parameter")
        if body[key] not in NEUTRAL[key]:
            rest = f", only {json.dumps(NEUTRAL[key][0])}" if NEUTRAL[key] else ""
            raise RequestError(f"{key}: {_shown(body[key])} cannot be done here{rest}; leave it out", key,
                               "unsupported_value")  # fmt: skip


def _model(value: Json) -> str:
    if not isinstance(value, str) or not value:
        raise RequestError("model: missing; give an id of GET /v1/models", "model")
    return value


def _messages(value: Json) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RequestError('messages: expected a list such as [{"role": "user", "content": "…"}]', "messages")
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise RequestError(f"messages[{i}]: expected an object, found {type(message).__name__}", f"messages[{i}]")
    return tuple(_typed(message) for message in value)


def _typed(message: dict[str, Json]) -> Message:
    """A message as rows have it: a tool's answer that is the text of a JSON object is that object."""
    content = message.get("content")
    if message.get("role") != "tool" or not isinstance(content, str) or not content.lstrip().startswith("{"):
        return message
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return message
    # An object with these two keys would be read as a named response; it is the answer itself.
    named = isinstance(found, dict) and {"name", "response"} <= set(found)
    return {**message, "content": {"value": found} if named else found}


def _tools(value: Json) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RequestError(f"tools: expected a list, found {type(value).__name__}", "tools")
    for i, tool in enumerate(value):
        if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
            raise RequestError(f'tools[{i}]: expected {{"type": "function", "function": {{"name", "parameters"}}}}',
                               f"tools[{i}]")  # fmt: skip
        if tool.get("type", "function") != "function":
            raise RequestError(f"tools[{i}].type: {_shown(tool['type'])}; only functions can be called",
                               f"tools[{i}].type")  # fmt: skip
    text = json.dumps(value)
    tools = _SEEN.pop(text, None) or tuple(value)
    _SEEN[text] = tools
    if len(_SEEN) > KEPT_TOOL_LISTS:
        _SEEN.popitem(last=False)
    return tools


_SEEN: OrderedDict[str, tuple[Tool, ...]] = OrderedDict()
"""Tool lists of earlier requests: what was made of the same objects (declarations, grammars) is found again."""


def _choice(value: Json, tools: Sequence[Tool]) -> str | tuple[str]:
    if value is None or value == "auto":
        return "auto"
    if value == "none":
        return "none"
    names = [str(_function(tool).get("name")) for tool in tools]
    if not names:
        raise RequestError("tool_choice: there are no tools to choose from; give tools", "tool_choice")
    if value == "required":
        return "required"
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise RequestError('tool_choice: expected "auto", "none", "required" or {"type": "function", "function": '
                           f'{{"name": "…"}}}}, found {_shown(value)}', "tool_choice")  # fmt: skip
    if name not in names:
        raise RequestError(f"tool_choice: no tool is named {name!r}; the tools are {', '.join(names)}", "tool_choice")
    return (name,)


def _function(tool: Tool) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _boolean(body: Mapping[str, Json], field: str, default: bool) -> bool:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"{field}: expected true or false, found {_shown(value)}", field)
    return value


def _number(
    body: Mapping[str, Json], field: str, default: float | None, least: float, most: float, whole: bool = False
) -> float | None:
    value = body.get(field)
    if value is None:
        return default
    wanted = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{field}: expected {kind} from {least} to {most}, found {_shown(value)}", field)
    return value


def _seed(body: Mapping[str, Json]) -> int:
    """The request's seed, or one of our own."""
    seed = _number(body, "seed", None, -MOST_SEED, MOST_SEED - 1, whole=True)
    return secrets.randbits(63) if seed is None else int(seed) % MOST_SEED


def _stop(value: Json) -> tuple[str, ...]:
    words = [] if value is None else [value] if isinstance(value, str) else value
    fine = isinstance(words, list) and len(words) <= MOST_STOPS
    if not fine or not all(isinstance(word, str) and word for word in words):
        raise RequestError(f"stop: expected up to {MOST_STOPS} strings, none empty, found {_shown(value)}", "stop")
    return tuple(words)


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"


def refused(error: InputError) -> RequestError:
    """What the renderer or the grammar refuses, as an error of the field that it names first."""
    first = str(error).splitlines()[0]
    field, colon, _ = first.partition(": ")
    return RequestError(str(error), field if colon and " " not in field else None)
