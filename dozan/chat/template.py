"""Chat templates in Jinja: ours for checkpoints that we make, and the comparison with one that a checkpoint brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dozan.chat.format import ChatFormat, Message, Rendered, Tool
from dozan.chat.tokens import BOS, EOS
from dozan.errors import InputError
from dozan.rows.example import Example

_LIMIT_BYTES = 1 << 20
_ROWS = 8
_AROUND = 40
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": " ما الوقت الآن؟\n"},
    {"role": "assistant", "content": "الثالثة."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "عفوًا"},
)


def functiongemma_template() -> str:
    """Our Jinja template of FunctionGemma's format: the renderer's bytes for input that needs no repair."""
    return Path(__file__).with_name("functiongemma.jinja").read_text(encoding="utf-8")


def render_template(text: str, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False) -> str:
    """What a chat template writes, run in a sandbox with the settings that transformers gives templates.

    Raises jinja2.TemplateError for one that fails.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    return environment.from_string(text).render(
        messages=list(messages),
        tools=list(tools) or None,
        add_generation_prompt=generate,
        bos_token=BOS,
        eos_token=EOS,
    )


def template_difference(template_text: str, chat: ChatFormat, examples: Sequence[Example]) -> str | None:
    """Where a checkpoint's template first differs from `chat`, in words, or None when it does not.

    Compares a plain conversation, and the first rows that need no repair, whole and as prompts.
    Raises InputError for a template over 1 MiB.
    """
    if len(template_text.encode("utf-8")) > _LIMIT_BYTES:
        raise InputError(f"the chat template is over {_LIMIT_BYTES} bytes; use the one of the original checkpoint")
    for example in (Example("probe", (), _PROBE, place="a plain conversation"), *_unrepaired(chat, examples)):
        prompt = list(example.messages)
        while prompt and prompt[-1].get("role") == "assistant":
            prompt.pop()
        for messages, generate in ((example.messages, False), (tuple(prompt), True)):
            if not messages:
                continue
            ours = chat.render(messages, example.tools, generate=generate, place=example.place)
            difference = _compare(template_text, ours, messages, example, generate)
            if difference:
                return difference
    return None


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


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
    template: str, ours: Rendered, messages: Sequence[Message], example: Example, generate: bool
) -> str | None:
    where = f"{example.place or example.id} {'as a prompt' if generate else 'whole'}"
    try:
        theirs = render_template(template, messages, example.tools, generate)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        return f"{where}: the checkpoint's template fails: {type(error).__name__}: {error}"
    if theirs == ours.text:
        return None
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours.text, strict=False)) if a != b), None)
    at = min(len(theirs), len(ours.text)) if at is None else at
    start = max(0, at - _AROUND)
    return (
        f"{where}, character {at}: the checkpoint's template writes "
        f"{theirs[start : at + _AROUND]!r}, dozan {ours.text[start : at + _AROUND]!r}"
    )
