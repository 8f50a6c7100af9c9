"""What is trained of a text: between the markers of instruction and response, up to the stop token, no tool result."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dozan.chat.tokenizer import Span
from dozan.chat.tokens import END_RESPONSE, END_TURN, START_RESPONSE, START_TURN
from dozan.errors import InputError

_TURN = re.compile(rf"{re.escape(START_TURN)}[^\n<]*\n?")
_HEADING = re.compile(r"^(?:#+ [^\n]{1,40}|<\|[^\n|>]{1,40}\|>|\[/?INST\])", re.MULTILINE)
_SHOWN = 5


def response_spans(text: str, instruction_part: str, response_part: str) -> list[Span]:
    """The characters of `text` that are trained.

    A response begins behind its marker and ends with its <end_of_turn>, before the next instruction, or with the text.
    A call in it ends with the <start_function_response> that follows it; what the tool answers is context.
    """
    spans: list[Span] = []
    at = 0
    while (found := text.find(response_part, at)) >= 0:
        begin = found + len(response_part)
        end = _end(text, begin, instruction_part, response_part)
        spans += _without_responses(text, begin, end)
        at = max(end, begin)
    return spans


def span_weights(spans: Sequence[Span], trained: Sequence[Span]) -> list[float]:
    """1.0 for each token that begins in a trained span, else 0.0; the first token is predicted by nothing."""
    weights = [0.0] * len(spans)
    place = 0
    for i, (start, _) in enumerate(spans):
        while place < len(trained) and trained[place][1] <= start:
            place += 1
        weights[i] = 1.0 if i and place < len(trained) and trained[place][0] <= start else 0.0
    return weights


def require_markers(texts: Sequence[str], names: Sequence[str], instruction_part: str, response_part: str) -> None:
    """Raises InputError, with the markers that do occur, for one that no text has, and for texts without a response."""
    for name, part in (("instruction_part", instruction_part), ("response_part", response_part)):
        if not part:
            raise InputError(f"train_on_responses_only: {name} is empty; give the text that a turn begins with")
        if not any(part in text for text in texts):
            raise InputError(f"train_on_responses_only: {name}={part!r} occurs in none of {len(texts)} rows; what does "
                             f"occur: {_occurring(texts)}")  # fmt: skip
    without = [name for name, text in zip(names, texts, strict=True)
               if not response_spans(text, instruction_part, response_part)]  # fmt: skip
    if without:
        raise InputError(f"train_on_responses_only: {len(without)} of {len(texts)} rows have nothing behind "
                         f"response_part={response_part!r} and would train nothing: {', '.join(without[:_SHOWN])}; "
                         "take them out, or give them an answer")  # fmt: skip


def _end(text: str, begin: int, instruction_part: str, response_part: str) -> int:
    stop = text.find(END_TURN, begin)
    ends = [len(text) if stop < 0 else stop + len(END_TURN), text.find(instruction_part, begin)]
    return min([end for end in (*ends, text.find(response_part, begin)) if end >= 0])


def _without_responses(text: str, begin: int, end: int) -> list[Span]:
    spans: list[Span] = []
    while begin < end:
        call = text.find(START_RESPONSE, begin, end)
        stop = end if call < 0 else call + len(START_RESPONSE)
        if call != begin:
            spans.append((begin, stop))
        if call < 0:
            break
        answered = text.find(END_RESPONSE, stop, end)
        begin = end if answered < 0 else answered + len(END_RESPONSE)
    return spans


def _occurring(texts: Sequence[str]) -> str:
    """The turns that the texts begin, or what looks like a marker in them, with how often; else how a text begins."""
    for pattern in (_TURN, _HEADING):
        counts = Counter(found for text in texts for found in pattern.findall(text))
        if counts:
            return ", ".join(f"{marker!r} ({count})" for marker, count in counts.most_common(_SHOWN))
    return f"no turns at all; the first row begins with {texts[0][:120]!r}"
