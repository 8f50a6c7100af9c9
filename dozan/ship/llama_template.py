"""Chat templates run by llama.cpp itself: its server, in a child process, asked at /apply-template on the loopback.

Run as `python -m dozan.ship.llama_template FOLDER`: reads FOLDER/request.json, writes FOLDER/result.json. The server
needs a model; which one does not matter when a template is given.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dozan.chat.format import Message, Tool
from dozan.chat.messages import Notes, read_turns, texts_of
from dozan.chat.tokens import BOS, START_RESPONSE, START_TURN
from dozan.errors import InputError
from dozan.rows.example import Json

SECONDS = 120.0
_NEXT = "next"
_CAPITALS = "unrecognized type"
"""What llama.cpp says of a schema whose types are STRING and OBJECT, as FunctionGemma's own tools have them."""


@dataclass(frozen=True)
class Applied:
    """What the template wrote, or why llama.cpp would not; `note` is what had to be changed before it would."""

    text: str
    refused: str = ""
    note: str = ""


def apply_template(
    gguf: str | Path, rows: Sequence[tuple[Sequence[Message], Sequence[Tool]]], template: str | None = None,
    seconds: float = SECONDS,
) -> list[Applied]:  # fmt: skip
    """Each row as llama-server writes it with the file's template, or with `template`: a prompt, or where the row ends
    in an answer, the row. <bos> is put in front, which its tokenizer adds. Rows whose tools it refuses for types in
    capitals are sent again in small letters. Raises InputError for a file that does not load."""
    found = _apply(gguf, rows, template, seconds)
    again = [i for i, applied in enumerate(found) if _CAPITALS in applied.refused]
    if again:
        small = [(rows[i][0], _in_small_letters(list(rows[i][1]))) for i in again]
        for i, applied in zip(again, _apply(gguf, small, template, seconds), strict=True):
            found[i] = replace(applied, note="tools whose types are in capitals are refused; sent in small letters")
    return found


def _apply(
    gguf: str | Path, rows: Sequence[tuple[Sequence[Message], Sequence[Tool]]], template: str | None, seconds: float
) -> list[Applied]:
    asked = [_request(messages, tools) for messages, tools in rows]
    request = {"gguf": str(Path(gguf).resolve()), "template": template, "rows": [body for body, _ in asked]}
    with tempfile.TemporaryDirectory(prefix="dozan-template-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        command = [sys.executable, "-m", "dozan.ship.llama_template", name]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, text=True, errors="replace")
        except subprocess.TimeoutExpired:
            raise InputError(f"{gguf}: llama.cpp did not finish within {seconds:g} seconds") from None
        if done.returncode != 0 or not (folder / "result.json").is_file():
            last = " | ".join(done.stderr.strip().splitlines()[-2:])
            raise InputError(f"{gguf}: llama.cpp could not open the file ({last}); export the model again")
        found: list[dict[str, str]] = json.loads((folder / "result.json").read_text())
    return [_cut(answer, ends) for answer, (_, ends) in zip(found, asked, strict=True)]


def _request(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[dict[str, Json], str]:
    """The row in the endpoint's form, and what its last message is: "call", "text", or "" for a prompt.

    llama.cpp opens an answer at the end for more text, so one more message follows it, and is cut off again.
    """
    sent, last = [_message(message) for message in messages], messages[-1] if messages else {}
    ends = "" if last.get("role") != "assistant" else "call" if last.get("tool_calls") else "text"
    if ends == "call":
        sent.append({"role": "tool", "name": _NEXT, "tool_call_id": _NEXT, "content": ""})
    elif ends == "text":
        sent.append({"role": "user", "content": _NEXT})
    body: dict[str, Json] = {"messages": sent, "add_generation_prompt": True}
    if tools:
        body["tools"] = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    return body, ends


def _in_small_letters(schema: Json) -> Json:
    """A schema with its types in small letters, however deep."""
    if isinstance(schema, dict):
        return {key: value.lower() if key == "type" and isinstance(value, str) else _in_small_letters(value)
                for key, value in schema.items()}  # fmt: skip
    return [_in_small_letters(value) for value in schema] if isinstance(schema, list) else schema


def _message(message: Message) -> dict[str, Json]:
    """A message as the endpoint takes it: calls with a type and their arguments as JSON, a tool's response as text."""
    sent = dict(message)
    if message.get("tool_calls"):
        sent["tool_calls"] = [{"id": "", "type": "function", **call, "function": _as_text(call.get("function", call))}
                              for call in message["tool_calls"]]  # fmt: skip
    if message.get("role") == "tool":
        turns = read_turns([message], Notes(""))
        responses = texts_of(turns[0].responses) if turns else ()
        name, text = responses[0] if responses else (str(message.get("name") or ""), "")
        sent |= {"name": name, "content": text}
    return {"content": "", **sent} if sent.get("content") is None else sent


def _as_text(function: Json) -> dict[str, Json]:
    arguments = function.get("arguments")
    return {**function, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments or {})}


def _cut(answer: dict[str, str], ends: str) -> Applied:
    if "prompt" not in answer:
        return Applied("", answer["error"])
    text = answer["prompt"]
    text = text if text.startswith(BOS) else BOS + text
    if ends == "call":
        at = text.rindex(f"{START_RESPONSE}response:{_NEXT}")
        return Applied(text[:at] + START_RESPONSE)
    return Applied(text[: text.rindex(f"{START_TURN}user\n{_NEXT}")] if ends == "text" else text)


def _serve(folder: Path) -> None:
    """The child: opens the server, asks it, writes what it says."""
    import xllamacpp

    request: dict[str, Any] = json.loads((folder / "request.json").read_text())
    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = request["gguf"], ["127.0.0.1"], 0
    params.api_keys, params.ui, params.warmup, params.n_ctx, params.use_jinja = [key], False, False, 512, True
    if request["template"] is not None:
        params.chat_template = request["template"]
    server = xllamacpp.Server(params)
    found = [_ask(f"{server.listening_address}/apply-template", key, body) for body in request["rows"]]
    (folder / "result.json").write_text(json.dumps(found))


def _ask(address: str, key: str, body: Json) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers)) as reply:
            return {"prompt": json.loads(reply.read())["prompt"]}
    except urllib.error.HTTPError as error:
        return {"error": f"HTTP {error.code}: {json.loads(error.read())['error']['message']}"}


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
