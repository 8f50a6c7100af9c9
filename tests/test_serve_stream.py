"""From ids to deltas: no character is split, white space and stop strings are held back, calls come whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dozan
from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.chat.format import Call
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import END_CALL, ESCAPE, START_CALL
from dozan.ship.serve_answers import Answer
from dozan.ship.serve_stream import Called, Delta, Reader, Text

TOKENIZER = Tokenizer.load(dozan.EMBEDDED_BASE)
CALL = f"{START_CALL}call:get_weather{{city:{ESCAPE}بيروت{ESCAPE},days:3}}{END_CALL}"


def byte_ids(data: bytes) -> list[int]:
    return [TOKENIZER.id(f"<0x{byte:02X}>") for byte in data]


def control_ids(text: str) -> list[int]:
    """Ids of a text in which the tokens of calls stand as tokens."""
    found: list[int] = []
    for part in text.replace("<", "\0<").replace(">", ">\0").split("\0"):
        found += [TOKENIZER.id(part)] if part in (START_CALL, END_CALL, ESCAPE) else TOKENIZER.encode(part)
    return found


def read(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[Delta], Reader]:
    reader = Reader(TOKENIZER, FUNCTIONGEMMA, stop)
    found = [delta for token in ids for delta in reader.take(token)]
    return found + reader.end(), reader


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=24)


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(0, 24))
def test_characters_are_whole_wherever_the_bytes_are_cut(text: str, turn: int) -> None:
    """Bytes one by one, after a beginning as the tokenizer has it: at each byte what was said begins the text."""
    ids = TOKENIZER.encode(text[:turn]) + byte_ids(text[turn:].encode())
    reader, said = Reader(TOKENIZER, FUNCTIONGEMMA), ""
    for token in ids:
        said += text_of(reader.take(token))
        assert text.lstrip().startswith(said)
    assert said + text_of(reader.end()) == text.strip()


@pytest.mark.parametrize("text", ["السَّلامُ عليكم", "🙂👨‍👩‍👧", "aé€𐍈"])
def test_no_delta_holds_a_part_of_a_character(text: str) -> None:
    deltas, _ = read(byte_ids(text.encode()))
    assert [delta.text for delta in deltas if isinstance(delta, Text)] == list(text.replace(" ", "")) or " " in text
    assert text_of(deltas) == text


def test_bytes_that_are_no_text_are_replaced_and_end() -> None:
    deltas, _ = read([*byte_ids(b"\xd8a\xff"), *byte_ids("ب".encode()[:1])])
    assert text_of(deltas) == "\ufffda\ufffd\ufffd"


@settings(max_examples=100, deadline=None)
@given(texts)
def test_the_text_is_what_the_tokenizer_decodes(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert text_of(read(ids)[0]) == TOKENIZER.decode(ids).strip() == text.strip()


def test_a_call_comes_whole_and_text_before_it_loses_its_end() -> None:
    deltas, reader = read(control_ids(f"  حاضر \n{CALL}{CALL}"))
    assert text_of(deltas) == "حاضر"
    assert [delta for delta in deltas if isinstance(delta, Called)] == [
        Called(i, Call("get_weather", {"city": "بيروت", "days": 3})) for i in range(2)]  # fmt: skip
    assert reader.problems == []


def test_what_a_parse_of_all_says_is_what_the_stream_said() -> None:
    for text in (CALL, f"نعم {CALL}", "لا", f"{CALL}{CALL}", ""):
        ids = control_ids(text)
        deltas, reader = read(ids)
        parsed = FUNCTIONGEMMA.parse(TOKENIZER.decode(ids))
        assert [d.call for d in deltas if isinstance(d, Called)] == list(parsed.calls)
        assert text_of(deltas) == parsed.text and reader.problems == list(parsed.problems)


def test_malformed_cut_and_stray_tokens_are_problems() -> None:
    for text, problem in ((CALL.replace("call:", "cal:"), "expected call:"), (CALL[: -len(END_CALL)], "cut off"),
                          (f"a{END_CALL}b", "outside a call")):  # fmt: skip
        deltas, reader = read(control_ids(text))
        assert not [d for d in deltas if isinstance(d, Called)]
        assert len(reader.problems) == 1 and problem in reader.problems[0]
        assert "<" not in text_of(deltas), "a client may send the text back, and no control token may be in it"


@settings(max_examples=200, deadline=None)
@given(st.text("ab \nج", max_size=20), st.lists(st.text("ab \nج", min_size=1, max_size=3), min_size=1, max_size=3))
def test_stop_strings_cut_the_text_as_if_it_came_at_once(text: str, stop: list[str]) -> None:
    deltas, reader = read(byte_ids(text.encode()), tuple(stop))
    # The first stop string that is complete ends the text, even when a longer one began before it.
    first = min((text.find(word) + len(word) for word in stop if word in text), default=None)
    seen = text if first is None else text[:first]
    at = min((i for i in (seen.find(word) for word in stop) if i >= 0), default=len(seen))
    assert text_of(deltas) == seen[:at].strip()
    assert reader.stopped == any(word in text for word in stop)


def test_a_model_without_calls_has_text_alone() -> None:
    reader = Reader(TOKENIZER, GEMMA3)
    found = [delta for token in TOKENIZER.encode("مرحبا بك") for delta in reader.take(token)] + reader.end()
    assert text_of(found) == "مرحبا بك"


def test_openais_form_of_deltas() -> None:
    answer = Answer("m", 10, Reader(TOKENIZER, FUNCTIONGEMMA), raw=True)
    ids = control_ids(f"نعم {CALL}")
    deltas = [delta for token in ids for delta in answer.add(answer.reader.take(token))] + answer.finish("stop", 4)
    head, arguments = deltas[-2]["tool_calls"][0], deltas[-1]["tool_calls"][0]
    assert head["index"] == 0 and head["type"] == "function" and head["id"].startswith("call_")
    assert head["function"] == {"name": "get_weather", "arguments": ""} and arguments["index"] == 0
    assert json.loads(arguments["function"]["arguments"]) == {"city": "بيروت", "days": 3}
    whole = answer.whole()
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["choices"][0]["message"]["content"] == "نعم" == "".join(d.get("content", "") for d in deltas)
    assert whole["choices"][0]["dozan"] == {"raw": TOKENIZER.decode(ids)}
    assert whole["usage"]["completion_tokens"] == len(ids) and whole["usage"]["total_tokens"] == 10 + len(ids)
