"""How a row is laid out before it is written: the order of its tools, the place of the date, the runtime's bytes.

Rows share the beginnings that they have in common; tools in one order and a date after them make these longer. A model
must then be asked as it was trained, so the arrangement is part of its chat format: whatever renders with an arranged
format (training, evaluation, `dozan run`, certificates) lays rows out alike, and merged folders and GGUF files name it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import get_args

from dozan.chat.format import ChatFormat, Message, Parsed, Rendered, Tool
from dozan.chat.gemma3 import GEMMA3
from dozan.chat.messages import Notes, message_text
from dozan.chat.render_targets import runtime_chat
from dozan.errors import InputError
from dozan.recipe import NowPlace, Runtime, ToolOrder
from dozan.rows.arabic import ascii_digits, fold
from dozan.rows.example import Json

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WEEKDAYS = re.compile(
    r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b|الاحد|الاثنين|الثلاثاء|الاربعاء|الخميس|الجمعه|السبت"
)
_LONGEST_LINE = 160
_KNOWN = {"tool_order": get_args(ToolOrder), "now": get_args(NowPlace), "target": get_args(Runtime)}
_PROMPTS = {
    ("tool_order", "canonical"): "Declare the tools sorted by name (by code points, capitals first): the model has "
    "seen them in no other order.",
    ("now", "after_tools"): "Put the lines that tell the date or the day in a developer message of their own, right "
    "after the one whose turn holds the tool declarations.",
    ("target", "ollama"): "The model was trained on the bytes of Ollama's functiongemma renderer (Gemma 3: of the "
    "template in our Modelfile): ask it through Ollama, or write prompts as Ollama does.",
    ("target", "llama.cpp"): "The model was trained on the bytes of llama.cpp's chat endpoint (llama-server) with "
    "the checkpoint's template: ask it there, or sort keys by code point and give tool responses as text.",
    ("target", "litert-lm"): "The model was trained on the bytes of LiteRT-LM's FunctionGemma data processor: ask it "
    "through LiteRT-LM, or write prompts as it does.",
}


@dataclass(frozen=True)
class Arrangement:
    """tool_order: tools as the row gives them, or by name. now: lines that tell the date where the row has them, or in
    a message of their own after the tools. target: the runtime in whose bytes all of it is written."""

    tool_order: ToolOrder = "as_given"
    now: NowPlace = "as_given"
    target: Runtime = "transformers"

    def values(self) -> dict[str, str]:
        """The options by name, as `read_arrangement` reads them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def prompt(self) -> list[str]:
        """What an application that renders with the model's own chat template must do, in words."""
        return [_PROMPTS[option] for option in self.values().items() if option in _PROMPTS]

    def tools(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """The tools in the order in which they are declared; those of one name keep theirs."""
        return tuple(sorted(tools, key=_tool_name) if self.tool_order == "canonical" else tools)

    def messages(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
        """The messages as they are written; only a first developer message of a row with tools may change."""
        if self.now == "as_given" or not tools or not messages:
            return tuple(messages)
        return _now_after_tools(messages)


AS_GIVEN = Arrangement()


@dataclass(frozen=True)
class ArrangedChat:
    """A chat format that lays rows out before it writes them."""

    chat: ChatFormat
    arrangement: Arrangement

    @property
    def name(self) -> str:
        return self.chat.name

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        return self.chat.stop_tokens

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, place: str = ""
    ) -> Rendered:
        """The arranged conversation as text with spans; errors name the fields as the row has them."""
        laid_out = self.arrangement.messages(messages, tools), self.arrangement.tools(tools)
        try:
            return self.chat.render(*laid_out, generate, place)
        except InputError:
            self.chat.render(messages, tools, generate, place)
            raise

    def parse(self, text: str) -> Parsed:
        """Reads a generated turn; see `ChatFormat.parse`."""
        return self.chat.parse(text)


def arranged(chat: ChatFormat, arrangement: Arrangement) -> ChatFormat:
    """The format that lays rows out so; `chat` itself when that changes no row, as in a format without tools."""
    written = runtime_chat(chat, arrangement.target)
    changes = arrangement != AS_GIVEN and (chat != GEMMA3 or written != chat)
    return ArrangedChat(written, arrangement) if changes else chat


def arrangement_of(chat: ChatFormat) -> Arrangement:
    """How a format lays rows out."""
    return chat.arrangement if isinstance(chat, ArrangedChat) else AS_GIVEN


def read_arrangement(values: Mapping[str, Json], place: str) -> Arrangement:
    """The arrangement that `values` name; what they leave out is as given. Raises InputError for an unknown value."""
    found = {key: values[key] for key in _KNOWN if key in values}
    wrong = [f"{key} = {value!r}; use {' or '.join(_KNOWN[key])}" for key, value in found.items()
             if value not in _KNOWN[key]]  # fmt: skip
    if wrong:
        raise InputError(f"{place}: {'; '.join(wrong)}")
    return Arrangement(**found)


def _tool_name(tool: Tool) -> str:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _now_after_tools(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, with the first one's lines that tell the date in a message of their own after it: the tools are
    declared in the first developer turn."""
    first = messages[0]
    if first.get("role") not in ("developer", "system"):
        return tuple(messages)
    lines = message_text(first, "", Notes("")).split("\n")
    dated = [line for line in lines if _tells_now(line)]
    if not dated:
        return tuple(messages)
    rest = "\n".join(line for line in lines if not _tells_now(line))
    now: Message = {"role": "developer", "content": "\n".join(dated)}
    return ({**first, "content": rest}, now, *messages[1:])


def _tells_now(line: str) -> bool:
    if len(line) > _LONGEST_LINE:
        return False
    return _DATE.search(ascii_digits(line)) is not None or _WEEKDAYS.search(fold(line)) is not None
