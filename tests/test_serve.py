"""`dozan serve` as clients meet it: the openai client and plain HTTP against a real server over the embedded model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from serve_fixtures import Server, alive, embedded_gguf, messages, serving

from dozan.chat.encode import encode_prompt
from dozan.cli import main
from dozan.rows.readers import read_rows
from dozan.ship.serve_given import DEFAULT_ROWS, DEFAULT_TOOLS
from dozan.ship.served import serve_gguf

TOOLS = json.loads(DEFAULT_TOOLS.read_text(encoding="utf-8"))
WEATHER = "كيف الطقس في بيروت؟"
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 1500}
COUNT = {"name": "count", "parameters": {"type": "object", "properties": {"to": NUMBERS}, "required": ["to"]}}
LONG = {"max_tokens": 3000, "tool_choice": "required", "tools": [{"type": "function", "function": COUNT}]}
"""An answer that takes thousands of tokens."""


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_gguf(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[Server]:
    with serving(gguf, "--parallel", 4, "--queue", 64) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=120) as found:
        yield found


def asked(client: openai.OpenAI, said: str = WEATHER, **more: Any) -> Any:
    return client.chat.completions.create(model="embedded", messages=messages(said), **{"tools": TOOLS, **more})


def collected(stream: Any) -> tuple[str, list[tuple[str, str]], str, list[Any]]:
    """(text, (name, arguments) of each call, finish reason, chunks) of a stream."""
    chunks = list(stream)
    text, calls, reason = "", list[list[str]](), ""
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for part in choice.delta.tool_calls or ():
                if part.id:
                    assert part.index == len(calls) and part.type == "function"
                    calls.append([part.function.name, ""])
                calls[part.index][1] += part.function.arguments
    return text, [(name, arguments) for name, arguments in calls], reason, chunks


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").owned_by == "dozan"
    with pytest.raises(openai.NotFoundError, match="there is no 'gpt-4'"):
        client.models.retrieve("gpt-4")


def test_a_call_and_its_stream_are_the_same(client: openai.OpenAI) -> None:
    whole = asked(client, tool_choice="required")
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == "tool_calls" and message.content is None
    (call,) = message.tool_calls
    assert call.function.name in {tool["function"]["name"] for tool in TOOLS} and json.loads(call.function.arguments)
    text, calls, reason, chunks = collected(
        asked(client, tool_choice="required", stream=True, stream_options={"include_usage": True})
    )
    assert (text, reason) == ("", "tool_calls") and calls == [(call.function.name, call.function.arguments)]
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 600, "the tools were known"
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_answers_are_those_of_the_scored_model(client: openai.OpenAI, gguf: Path) -> None:
    rows = [row for row in read_rows(DEFAULT_ROWS)[:16] if len(row.messages) == 4]
    served = serve_gguf(gguf)
    prompts = [encode_prompt(row, served.chat, served.tokenizer) for row in rows]
    expected = [served.chat.parse(served.tokenizer.decode(ids)) for ids in served.complete(prompts, 120)]
    same = 0
    for row, parsed in zip(rows, expected, strict=True):
        answer = client.chat.completions.create(
            model="embedded", messages=row.messages[:-1], tools=list(row.tools), max_tokens=120
        ).choices[0]
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in answer.message.tool_calls or ()]
        whole = not parsed.problems and answer.finish_reason != "length"
        same += whole and calls == [(c.name, c.arguments) for c in parsed.calls] and (
            parsed.text == (answer.message.content or ""))  # fmt: skip
    assert same >= len(rows) - 2, "a tie of f16 keys and values may turn, and a grammar may mend a call"


def test_text_streams_and_stops(client: openai.OpenAI) -> None:
    text, calls, reason, _ = collected(asked(client, "احكيلي نكتة", tool_choice="none", stream=True))
    assert text and not calls and reason == "stop"
    assert asked(client, "احكيلي نكتة", tool_choice="none").choices[0].message.content == text
    cut = asked(client, "احكيلي نكتة", tool_choice="none", stop=[text[4:6]])
    assert cut.choices[0].message.content == text[: text.index(text[4:6])].strip()
    assert cut.choices[0].finish_reason == "stop" and cut.usage.completion_tokens < 40
    short = asked(client, "احكيلي نكتة", tool_choice="none", max_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2


def test_choices_of_tools(client: openai.OpenAI) -> None:
    named = asked(client, "مرحبا", tool_choice={"type": "function", "function": {"name": "set_timer"}})
    assert {call.function.name for call in named.choices[0].message.tool_calls} == {"set_timer"}
    assert isinstance(json.loads(named.choices[0].message.tool_calls[0].function.arguments)["minutes"], int)
    none = asked(client, tool_choice="none", temperature=1.0, seed=3)
    assert none.choices[0].message.tool_calls is None and none.choices[0].finish_reason in ("stop", "length")
    single = asked(client, tool_choice="required", parallel_tool_calls=False, temperature=1.5, seed=1)
    assert len(single.choices[0].message.tool_calls) == 1


def test_noise_is_held_to_the_schemas_and_seeds_repeat(client: openai.OpenAI) -> None:
    """At temperature 2 a call still is one, a seed gives the same again, and other seeds other answers."""
    settings: dict[str, Any] = {"tool_choice": "required", "temperature": 2.0, "max_tokens": 150}
    answers = [asked(client, "مرحبا", seed=seed, **settings).choices[0] for seed in (1, 1, 2, 3, 4)]
    calls = [[(c.function.name, c.function.arguments) for c in a.message.tool_calls or ()] for a in answers]
    assert calls[0] == calls[1] and len({str(found) for found in calls}) > 2
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for name, arguments in (call for found in calls for call in found):
        assert set(json.loads(arguments)) <= set(known[name]["properties"])
        assert set(known[name].get("required", ())) <= set(json.loads(arguments))
    greedy = asked(client, "مرحبا", tool_choice="required").choices[0].message.tool_calls
    narrow = asked(client, "مرحبا", top_p=1e-6, **settings).choices[0].message.tool_calls
    assert [call.function for call in narrow] == [call.function for call in greedy]


def test_the_loop_renders_calls_and_answers(client: openai.OpenAI, server: Server, gguf: Path) -> None:
    first = asked(client, tool_choice={"type": "function", "function": {"name": "get_weather"}}).choices[0].message
    call = first.tool_calls[0]
    said = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"temperature": 21})}
    after = [*messages(WEATHER), first.model_dump(exclude_none=True), said]
    final = client.chat.completions.create(model="embedded", messages=after, tools=TOOLS, max_tokens=40)
    served = serve_gguf(gguf)
    row = [*messages(WEATHER), {"role": "assistant", "tool_calls": [{"function": {
        "name": "get_weather", "arguments": json.loads(call.function.arguments)}}]},
        {"role": "tool", "name": "get_weather", "content": {"temperature": 21}}]  # fmt: skip
    expected = served.tokenizer.encode_rendered(served.chat.render(row, TOOLS, generate=True))[0]
    assert final.usage.prompt_tokens == len(expected)
    assert final.usage.prompt_tokens_details.cached_tokens > len(expected) - 30, "the call was known too"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model": "x"}, "model", "there is embedded"),
        ({"messages": []}, "messages", "expected a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "unknown role 'robot'"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, None, "half of a surrogate"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].name", "no earlier call"),
        ({"temperature": 3}, "temperature", "from 0 to 2, found 3"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to"),
        ({"max_tokens": True}, "max_tokens", "whole number"),
        ({"n": 2}, "n", "only 1"),
        ({"logprobs": True}, "logprobs", "cannot be done here"),
        ({"response_format": {"type": "json_object"}}, "response_format", "cannot be done here"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"stop": ["a"] * 5}, "stop", "up to 4"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only with stream"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [{"type": "web"}]}, "tools[0]", "expected"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "tools are"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1]", "a second tool named"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"x": {"type": "integer", "enum": ["a"]}}, "required": ["x"]}}}]},
         "tools[0].function.parameters.properties.x.enum", "no call could satisfy"),
        ({"messages": [{"role": "user", "content": "كلمة " * 9000}]}, "messages", "prompt and answer together"),
    ],
)  # fmt: skip
def test_errors_name_the_field(server: Server, change: dict[str, Any], field: str | None, words: str) -> None:
    status, answer = server.ask("POST", "/v1/chat/completions", {
        "model": "embedded", "messages": [{"role": "user", "content": "x"}], **change})  # fmt: skip
    assert status == (404 if change == {"model": "x"} else 400)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["param"] == field and words in answer["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_request(server: Server, raw: bytes) -> None:
    status, answer = server.ask("POST", "/v1/chat/completions", raw=raw)
    assert status == 400 and "the body" in answer["error"]["message"]


def test_a_grammar_that_llama_cpp_refuses_fails_alone(client: openai.OpenAI) -> None:
    many = {"type": "array", "items": {"type": "integer"}, "minItems": 10**7, "maxItems": 10**8}
    tool = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"x": many}, "required": ["x"]}}}  # fmt: skip
    with pytest.raises(openai.BadRequestError, match="cannot read the grammar"):
        asked(client, tools=[tool], tool_choice="required")
    assert asked(client, tool_choice="none", max_tokens=3).choices


def test_parallel_streams_are_all_answered_and_not_mixed_up(client: openai.OpenAI) -> None:
    """Each asks for a call that only it can get, and for words in which no character may be split."""

    def one(i: int) -> Any:
        properties = {"mark": {"type": "string", "enum": [f"علامةٌ رقم {i} 🌙"]}, "note": {"type": "string"}}
        tool = {"type": "function", "function": {"name": f"mark_{i}", "parameters": {
            "type": "object", "properties": properties, "required": ["mark"]}}}  # fmt: skip
        said = f"سجل العلامة رقم {i}"
        return collected(asked(client, said, tools=[tool], tool_choice="required", stream=True, max_tokens=200))

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(one, range(32)))
    for i, (text, calls, reason, chunks) in enumerate(found):
        name, arguments = calls[0]
        assert (text, name, json.loads(arguments)["mark"]) == ("", f"mark_{i}", f"علامةٌ رقم {i} 🌙")
        assert reason in ("tool_calls", "length") and len({chunk.id for chunk in chunks}) == 1
    assert len({chunks[0].id for *_, chunks in found}) == 32


def busy(server: Server) -> int:
    return int(server.ask(path="/health")[1]["running"])


def wait_for(condition: Any, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server: Server, stream: bool) -> None:
    body = {"model": "embedded", "messages": messages("x"), "stream": stream, **LONG}
    connections = []
    for _ in range(6):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        connections.append(connection)
    assert wait_for(lambda: server.ask(path="/health")[1] == {"status": "ok", "running": 4, "waiting": 2})
    time.sleep(0.5)  # until the first tokens are there, and a stream has begun
    for connection in connections:
        connection.close()
    idle = {"status": "ok", "running": 0, "waiting": 0}
    assert wait_for(lambda: server.ask(path="/health")[1] == idle, 4), "well before the answers would have ended"
    status, _ = server.ask("POST", "/v1/chat/completions", {**body, "stream": False, "max_tokens": 2})
    assert status == 200


def test_too_many_are_told_to_come_again(gguf: Path) -> None:
    with serving(gguf, "--parallel", 1, "--queue", 1) as small:
        body = {"model": "embedded", "messages": messages("x"), **LONG}
        held = [http.client.HTTPConnection("127.0.0.1", small.port) for _ in range(2)]
        for n, connection in enumerate(held):
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            assert wait_for(lambda n=n: sum(small.ask(path="/health")[1][k] for k in ("running", "waiting")) == n + 1)
        status, answer = small.ask("POST", "/v1/chat/completions", body)
        assert status == 429 and answer["error"]["code"] == "busy"
        for connection in held:
            connection.close()


def test_a_worker_that_dies_fails_its_requests_and_the_next_one_works(server: Server, client: openai.OpenAI) -> None:
    failed: list[BaseException] = []

    def ask(stream: bool) -> None:
        try:
            answer = client.chat.completions.create(model="embedded", messages=messages("x"), stream=stream, **LONG)
            if stream:
                list(answer)
        except openai.APIError as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
    for thread in threads:
        thread.start()
    assert wait_for(lambda: busy(server) == 2)
    time.sleep(0.3)
    worker = server.worker()
    os.kill(worker, signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    assert len(failed) == 2
    assert all("the model's process was lost: it ended by signal 9" in str(error) for error in failed)
    assert asked(client, max_tokens=40).choices
    assert not alive(worker) and server.worker() != worker


def test_the_verb_refuses_what_it_cannot_serve(tmp_path: Path, gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    for arguments, words in (
        ([str(tmp_path / "no.gguf")], "no.gguf"), ([str(half)], "half.gguf"),
        ([str(gguf), "--token-env", "DOZAN_NO_SUCH"], "DOZAN_NO_SUCH: the variable is not set"),
        ([str(gguf), "--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
        ([str(gguf), "--tools", str(tmp_path / "no.json")], "no.json: no such file"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main(["serve", *arguments, "--port", "0"])
        assert left.value.code == 2 and words in capsys.readouterr().err
