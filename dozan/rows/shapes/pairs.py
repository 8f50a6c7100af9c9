"""Rows of a request and an answer in two fields (Alpaca, prompt and completion, question and answer), and raw text."""

from __future__ import annotations

from functools import partial

from dozan.rows.example import Example
from dozan.rows.shapes.shape import Fields, Options, Shape, ShapeError, kind, made, refuse, system_message, text_field

PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "story"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("question", "solution"),
    ("query", "answer"),
    ("query", "response"),
    ("problem", "solution"),
    ("problem", "answer"),
    ("input", "output"),
    ("message_1", "message_2"),
    ("conversation", "note"),
    ("text", "code"),
    ("prompt", "text"),
)
"""Fields of the request and of the answer, in the order in which they are tried."""

_EXTRA = {"instruction": ("input", "context")}
_SYSTEM = ("system", "system_prompt")


def _has(asked: str, answered: str, fields: Fields) -> bool:
    return isinstance(fields.get(asked), str) and isinstance(fields.get(answered), str)


def read_pair(asked: str, answered: str, fields: Fields, place: str, options: Options) -> Example:
    """A user message from the field `asked` (and Alpaca's input below it) and the answer from `answered`."""
    errors: list[ShapeError] = []
    texts: dict[str, str] = {}
    used = [asked, answered, *_SYSTEM]
    for key in (asked, answered):
        try:
            texts[key] = text_field(fields, key)
        except ShapeError as error:
            errors.append(error)
    refuse(errors)
    question = texts[asked]
    for key in _EXTRA.get(asked, ()):
        extra = fields.get(key)
        if isinstance(extra, str):
            used.append(key)
            question += f"\n\n{extra}" if extra.strip() else ""
    messages = [
        *system_message(fields, options),
        {"role": "user", "content": question},
        {"role": "assistant", "content": texts[answered]},
    ]
    return made(fields, used, place, (), messages)


def _is_talk(fields: Fields) -> bool:
    prompt, completion = fields.get("prompt"), fields.get("completion")
    return isinstance(prompt, list) and isinstance(completion, list)


def read_talk(fields: Fields, place: str, options: Options) -> Example:
    """`prompt` and `completion` that are lists of messages, joined."""
    errors = [
        ShapeError(key, f"expected a list of messages, found {kind(fields.get(key))}")
        for key in ("prompt", "completion")
        if not isinstance(fields.get(key), list)
    ]
    refuse(errors)
    for key in ("prompt", "completion"):
        for i, message in enumerate(fields[key]):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                errors.append(ShapeError(f"{key}[{i}]", "expected an object with role and content"))
    refuse(errors)
    messages = [*fields["prompt"], *fields["completion"]]
    if not messages:
        raise ShapeError("prompt", "empty; fill it in, or take the row out", "empty-field")
    return made(fields, ("prompt", "completion"), place, (), messages)


def read_text(key: str, fields: Fields, place: str, options: Options) -> Example:
    """Raw text as one answer, to the options' `ask` if there is one."""
    text = text_field(fields, key)
    messages: list[Fields] = [*system_message({}, options)]
    if options.ask:
        messages.append({"role": "user", "content": options.ask})
    messages.append({"role": "assistant", "content": text})
    return made(fields, (key,), place, (), messages)


def _pair_shape(asked: str, answered: str) -> Shape:
    is_alpaca = (asked, answered) == ("instruction", "output")
    name = "alpaca" if is_alpaca else f"{asked}-{answered}".replace("_", "")
    fields = f"{asked} (with input, where there is one) and {answered}" if is_alpaca else f"{asked} and {answered}"
    return Shape(name, fields, partial(_has, asked, answered), partial(read_pair, asked, answered))


def _text_shape(key: str) -> Shape:
    return Shape(
        key, f"{key}, all of it trained", lambda fields: isinstance(fields.get(key), str), partial(read_text, key)
    )


TALK = Shape("prompt-completion-messages", "prompt and completion, both lists of messages", _is_talk, read_talk)
PAIR_SHAPES = tuple(_pair_shape(*pair) for pair in PAIRS)
TEXT_SHAPES = tuple(map(_text_shape, ("text", "content")))
