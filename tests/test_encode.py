"""Rows to tokens and weights: what is trained, what is refused, and guards that hold when the renderer is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from chat_fixtures import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from dozan.chat import FUNCTIONGEMMA, detect_chat
from dozan.chat.encode import encode_example, encode_prompt, encode_rows, gold, span_weights
from dozan.chat.format import Rendered
from dozan.errors import InputError
from dozan.rows.example import Example

CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"city": "الرياض 🧿"}}}]}
ANSWER = {"role": "assistant", "content": "الطقس مشمس."}
LOOP = [{"role": "user", "content": "ما الطقس؟"}, CALL, {"role": "tool", "name": "f", "content": "مشمس جدا"}, ANSWER]


def row(messages: list[Any], name: str = "1") -> Example:
    return Example(name, (), tuple(messages), place=f"rows.jsonl:{name}")


def supervised(example: Example, chat: Any = FUNCTIONGEMMA) -> str:
    tokens = encode_example(example, chat, tokenizer(), 4096)
    return tokenizer().decode([i for i, weight in zip(tokens.ids, tokens.weights, strict=True) if weight])


def test_a_call_and_an_answer_are_supervised_with_their_stops_and_the_response_is_not() -> None:
    tokens = encode_example(row(LOOP), FUNCTIONGEMMA, tokenizer(), 4096)
    assert supervised(row(LOOP)) == (
        "<start_function_call>call:f{city:<escape>الرياض 🧿<escape>}<end_function_call><start_function_response>"
        "الطقس مشمس.<end_of_turn>"
    )
    assert tokens.ids[0] == 2 and tokens.ids.count(2) == 1
    assert tokens.weights[0] == 0 and set(tokens.weights) == {0.0, 1.0}
    assert tokens.row == "1" and len(tokens.ids) == len(tokens.weights)


def test_the_last_supervised_token_is_a_stop_in_every_row() -> None:
    for messages, stop in ((LOOP[:2], 50), (LOOP, 106)):
        tokens = encode_example(row(messages), FUNCTIONGEMMA, tokenizer(), 4096)
        assert [i for i, weight in zip(tokens.ids, tokens.weights, strict=True) if weight][-1] == stop


class Broken:
    """FunctionGemma's format with one span moved: what a bug in the renderer would give."""

    name = "broken"
    stop_tokens = FUNCTIONGEMMA.stop_tokens

    def __init__(self, trained: Any) -> None:
        self.trained = trained

    def render(self, *given: Any, **named: Any) -> Rendered:
        rendered = FUNCTIONGEMMA.render(*given, **named)
        return replace(rendered, trained=tuple(self.trained(rendered)))

    def parse(self, text: str) -> Any:
        return FUNCTIONGEMMA.parse(text)


def test_a_span_without_its_stop_token_is_caught() -> None:
    chat = Broken(lambda r: [(a, b - len("<end_of_turn>")) for a, b in r.trained])
    with pytest.raises(AssertionError, match="must end in its only stop"):
        encode_example(row([LOOP[0], ANSWER]), chat, tokenizer(), 4096)


def test_a_span_over_a_tool_response_is_caught() -> None:
    def whole(rendered: Rendered) -> list[tuple[int, int]]:
        return [(rendered.trained[0][0], rendered.trained[-1][1])]

    with pytest.raises(AssertionError, match="must end in its only stop"):
        encode_example(row(LOOP), Broken(whole), tokenizer(), 4096)


def test_a_token_across_a_border_is_a_bug() -> None:
    assert span_weights([(0, 2), (2, 4), (4, 5)], [(2, 4)]) == (0.0, 1.0, 0.0)
    for spans in ([(1, 3)], [(3, 5)], [(1, 6)]):
        with pytest.raises(AssertionError, match="across the border"):
            span_weights(spans, [(2, 4)])


def test_too_long_untrained_and_malformed_rows_are_named_together() -> None:
    long, bad = row([LOOP[0], {"role": "assistant", "content": "كلمة " * 400}], "2"), row([LOOP[0], CALL, LOOP[0]], "3")
    with pytest.raises(InputError) as caught:
        encode_rows([row(LOOP), long, bad, row(LOOP[:1], "4")], FUNCTIONGEMMA, tokenizer(), 300)
    message = str(caught.value)
    assert message.startswith("3 of 4 rows cannot be used:")
    assert "rows.jsonl:4 (4): nothing to train on" in message
    assert "rows.jsonl:3 (3): messages[2]: a user message after a call" in message
    length = len(encode_example(long, FUNCTIONGEMMA, tokenizer(), 9999).ids)
    assert f"rows.jsonl:2 (2): {length} tokens, more than the 300 allowed; shorten the row" in message


def test_at_most_twenty_errors_are_shown() -> None:
    with pytest.raises(InputError) as caught:
        encode_rows([row(LOOP[:1], str(i)) for i in range(25)], FUNCTIONGEMMA, tokenizer(), 300)
    assert str(caught.value).count("nothing to train on") == 20
    assert str(caught.value).endswith("... and 5 more")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.text("ابتث \n{},:١a1😀🧿", max_size=30))
@settings(deadline=None)
def test_the_prompt_is_a_prefix_of_the_row_and_the_rest_is_the_answer(question: str, value: str) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": value}}}]}
    example = row([{"role": "user", "content": question}, call])
    tokens = encode_example(example, FUNCTIONGEMMA, tokenizer(), 4096)
    prompt = encode_prompt(example, FUNCTIONGEMMA, tokenizer())
    assert list(tokens.ids[: len(prompt)]) == prompt
    assert tokens.weights == (0.0,) * len(prompt) + (1.0,) * (len(tokens.ids) - len(prompt))
    assert FUNCTIONGEMMA.parse(tokenizer().decode(tokens.ids[len(prompt) :])) == gold(example)


def test_prompts_stop_before_the_last_answer() -> None:
    assert tokenizer().decode(encode_prompt(row(LOOP), FUNCTIONGEMMA, tokenizer())).endswith("<end_function_response>")
    assert (
        tokenizer().decode(encode_prompt(row(LOOP[:1]), FUNCTIONGEMMA, tokenizer())).endswith("<start_of_turn>model\n")
    )


def test_gold() -> None:
    assert gold(row(LOOP)).text == "الطقس مشمس." and gold(row(LOOP)).calls == ()
    text = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1, "b": null}'}}]}
    assert gold(row([LOOP[0], text])).calls[0].arguments == {"a": 1}
    with pytest.raises(InputError, match=r"rows.jsonl:1 \(1\): no assistant message"):
        gold(row(LOOP[:1]))


def test_the_small_tokenizer_is_functiongemmas() -> None:
    assert detect_chat(tokenizer()) is FUNCTIONGEMMA


def test_rows_are_encoded_together_as_they_are_alone() -> None:
    """What a row begins with in common with the one before it is copied, wherever the two part."""
    tools = [{"type": "function", "function": {"name": name, "description": name, "parameters": {}}} for name in "fgh"]
    conversations = [LOOP, LOOP[:2], [LOOP[0], ANSWER], [{"role": "user", "content": "غير"}, ANSWER], LOOP]
    rendered = [
        FUNCTIONGEMMA.render(messages, offered)
        for offered in (tools[:1], tools, tools[1:], (), tools)
        for messages in conversations
    ]
    for order in (rendered, rendered[::-1], [*rendered[::3], *rendered[:2], *rendered[:2]]):
        assert tokenizer().encode_many(order) == [tokenizer().encode_rendered(each) for each in order]
