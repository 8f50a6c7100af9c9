"""Gemma 3's chat format: its text, what is trained, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from dozan.chat import GEMMA3, chat_format, detect_chat
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError

SYSTEM = {"role": "system", "content": "كن موجزًا. "}
USER = {"role": "user", "content": " ما عاصمة مصر؟ "}
ANSWER = {"role": "assistant", "content": "القاهرة."}


def test_text_and_spans() -> None:
    rendered = GEMMA3.render([SYSTEM, USER, ANSWER, USER, ANSWER], [])
    assert rendered.text == (
        "<bos><start_of_turn>user\nكن موجزًا. \n\nما عاصمة مصر؟<end_of_turn>\n"
        "<start_of_turn>model\nالقاهرة.<end_of_turn>\n"
        "<start_of_turn>user\nما عاصمة مصر؟<end_of_turn>\n"
        "<start_of_turn>model\nالقاهرة.<end_of_turn>\n"
    )
    assert [rendered.text[a:b] for a, b in rendered.trained] == ["القاهرة.<end_of_turn>"] * 2
    assert len(rendered.controls) == 9


def test_generation_prompt_and_parse() -> None:
    assert GEMMA3.render([USER], [], generate=True).text.endswith("<end_of_turn>\n<start_of_turn>model\n")
    assert GEMMA3.parse("القاهرة.<end_of_turn>\n").text == "القاهرة."
    assert GEMMA3.parse("القاهرة.").problems == ()
    assert GEMMA3.parse("a<end_of_turn>b").problems == ("at 14: text after the stop token <end_of_turn>",)


@pytest.mark.parametrize(
    ("messages", "tools", "generate", "message"),
    [
        ([USER], [{"function": {"name": "f"}}], False, "r:1: tools: .*use chat: functiongemma"),
        ([USER, USER], [], False, r"r:1: messages\[1\]: expected a message of the assistant, found user"),
        ([SYSTEM, ANSWER], [], False, r"messages\[1\]: expected a message of the user"),
        ([USER, SYSTEM], [], False, r"messages\[1\]: a system message after the conversation began"),
        ([USER, ANSWER], [], True, "nothing can be generated after"),
        ([SYSTEM], [], False, "no user message"),
        ([USER, {"role": "assistant", "content": ""}], [], False, "without text"),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], [], False, "has no tools"),
    ],
)
def test_refusals(messages: list[Any], tools: list[Any], generate: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GEMMA3.render(messages, tools, generate, place="r:1")


def test_formats_by_name_and_by_tokenizer() -> None:
    assert chat_format("gemma3") is GEMMA3
    with pytest.raises(InputError, match="use one of functiongemma, gemma3"):
        chat_format("chatml")
    vocab = {"<start_of_turn>": 0, "<start_function_declaration>": 1}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    assert detect_chat(Tokenizer({"version": "1.0", "model": model})) is GEMMA3
    with pytest.raises(InputError, match="no <start_of_turn>"):
        detect_chat(Tokenizer({"version": "1.0", "model": {**model, "vocab": {"a": 0}}}))
