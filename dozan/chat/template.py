"""The chat template that a checkpoint brings, compared with the bytes that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dozan.chat.format import ChatFormat, Message, Rendered
from dozan.chat.template_limits import ChatTemplate, TemplateFailed
from dozan.errors import InputError
from dozan.rows.example import Example

_ROWS = 8
_AROUND = 40
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": " ما الوقت الآن؟\n"},
    {"role": "assistant", "content": "الثالثة."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "عفوًا"},
)


def template_difference(
    template_text: str, chat: ChatFormat, examples: Sequence[Example], place: str | Path
) -> str | None:
    """Where a checkpoint's template first differs from `chat`, in words, or None when it does not.

    Compares a plain conversation, and the first rows that need no repair, whole and as prompts. place: the checkpoint.
    Raises InputError for a template that is too large, or takes more than its limits (`chat.template_limits`).
    """
    with ChatTemplate(template_text, place) as template:
        for example in (Example("probe", (), _PROBE, place="a plain conversation"), *_unrepaired(chat, examples)):
            prompt = list(example.messages)
            while prompt and prompt[-1].get("role") == "assistant":
                prompt.pop()
            for messages, generate in ((example.messages, False), (tuple(prompt), True)):
                if not messages:
                    continue
                ours = chat.render(messages, example.tools, generate=generate, place=example.place)
                difference = _compare(template, ours, messages, example, generate)
                if difference:
                    return difference
    return None


def _unrepaired(chat: ChatFormat, examples: Sequence[Example]) -> list[Example]:
    """The first rows that render without a repair: a template cannot be expected to make the others."""
    found: list[Example] = []
    for example in examples:
        if len(found) == _ROWS:
            break
        try:
            rendered = chat.render(example.messages, example.tools, place=example.place)
        except InputError:
            continue
        found += [] if rendered.repairs else [example]
    return found


def _compare(
    template: ChatTemplate, ours: Rendered, messages: Sequence[Message], example: Example, generate: bool
) -> str | None:
    row = example.place or example.id
    where = f"{row} {'as a prompt' if generate else 'whole'}"
    try:
        theirs = template.render(messages, example.tools, generate, row)
    except TemplateFailed as error:
        return f"{where}: the checkpoint's template fails: {error}"
    if theirs == ours.text:
        return None
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours.text, strict=False)) if a != b), None)
    at = min(len(theirs), len(ours.text)) if at is None else at
    start = max(0, at - _AROUND)
    return (
        f"{where}, character {at}: the checkpoint's template writes "
        f"{theirs[start : at + _AROUND]!r}, dozan {ours.text[start : at + _AROUND]!r}"
    )
