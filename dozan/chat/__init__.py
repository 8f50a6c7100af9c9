"""Conversations to the model's text and back: the only package that knows a special token."""

from __future__ import annotations

from dozan.chat.format import Call, ChatFormat, Parsed, Rendered
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.gemma3 import GEMMA3
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import FUNCTION_TOKENS, START_TURN
from dozan.errors import InputError

__all__ = [
    "FUNCTIONGEMMA",
    "GEMMA3",
    "Call",
    "ChatFormat",
    "Parsed",
    "Rendered",
    "Tokenizer",
    "chat_format",
    "detect_chat",
]

_FORMATS: dict[str, ChatFormat] = {"functiongemma": FUNCTIONGEMMA, "gemma3": GEMMA3}
_FIRST_FUNCTION_ID = 46


def chat_format(name: str) -> ChatFormat:
    """The chat format of that name. Raises InputError for an unknown one."""
    if name not in _FORMATS:
        raise InputError(f"chat: unknown format {name!r}; use one of {', '.join(_FORMATS)}")
    return _FORMATS[name]


def detect_chat(tokenizer: Tokenizer) -> ChatFormat:
    """The format a tokenizer was made for: FunctionGemma's when its function tokens are at their ids, else Gemma 3's.

    Raises InputError when the tokenizer has no turns at all.
    """
    first = FUNCTION_TOKENS[0]
    if tokenizer.has(first) and tokenizer.id(first) == _FIRST_FUNCTION_ID:
        return FUNCTIONGEMMA
    if tokenizer.has(START_TURN):
        return GEMMA3
    raise InputError(f"the tokenizer has no {START_TURN}: a Gemma 3 or FunctionGemma checkpoint is needed")
