"""Text of rows made fit to look at: isolated in its own direction, and with what is invisible spelt out."""

from __future__ import annotations

import re

from dozan.html.page import arabic_stretches

_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_INVISIBLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def isolate(text: str) -> str:
    """Text that keeps its own direction inside a line of another; never for training text."""
    return f"{_FIRST_STRONG_ISOLATE}{text}{_POP_ISOLATE}"


def isolate_arabic(text: str) -> str:
    """A sentence of ours with each Arabic stretch that it quotes isolated."""
    return "".join(isolate(part) if is_arabic else part for part, is_arabic in arabic_stretches(text))


def visible(text: str) -> str:
    """Controls (but the line feed), bidi marks and zero-width characters as `[U+202E]`, so that none takes effect."""
    return _INVISIBLE.sub(lambda found: f"[U+{ord(found.group()):04X}]", text)
