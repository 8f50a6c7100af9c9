"""`dozan serve` under load: many streams in Arabic at once through the openai client, all answered, none mixed up.

    python -m bench.serve_load MODEL.gguf --requests 200 --json bench/records/DATE-serve-load.json

Starts the server itself, in a process of its own. Each request has a tool of its own, whose only allowed value says
which request it is, and a command from the embedded rows; times are of the client, which shares the machine. Then the
same number without such a tool: the commands with the twelve phone tools, as a phone would ask.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from dozan.rows.readers import read_rows
from dozan.ship.serve_given import DEFAULT_ROWS, DEFAULT_TOOLS

Request = tuple[list[Any], list[Any], str]
"""Messages, tools and tool_choice."""


@dataclass(frozen=True)
class Asked:
    """What one request took, and said. seconds: to the end; first: to the first piece of the answer."""

    seconds: float
    first: float
    tokens: int
    cached: int
    prompt: int
    text: str
    calls: tuple[tuple[str, str], ...]
    reason: str


def ask(client: openai.OpenAI, model: str, messages: list[Any], tools: list[Any], choice: str) -> Asked:
    """One stream."""
    started, first = time.perf_counter(), 0.0
    text, reason, calls, usage = "", "", list[list[str]](), None
    stream = client.chat.completions.create(model=model, messages=messages, tools=tools, tool_choice=choice,  # type: ignore
                                            parallel_tool_calls=choice == "auto", stream=True,
                                            stream_options={"include_usage": True})  # fmt: skip
    for chunk in stream:
        usage = chunk.usage or usage
        for choice_ in chunk.choices:
            first = first or time.perf_counter() - started
            text += choice_.delta.content or ""
            reason = choice_.finish_reason or reason
            for part in choice_.delta.tool_calls or ():
                if part.id:
                    calls.append([part.function.name, ""])
                calls[part.index][1] += part.function.arguments
    assert usage is not None and "\ufffd" not in text + "".join(call[1] for call in calls)
    return Asked(time.perf_counter() - started, first, usage.completion_tokens,
                 usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens, text,
                 tuple((name, arguments) for name, arguments in calls), reason)  # fmt: skip


def together(client: openai.OpenAI, model: str, requests: list[Request]) -> tuple[list[Asked], float]:
    """All requests at once, a thread each, and the seconds they took."""
    started = time.perf_counter()
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda request: ask(client, model, *request), requests))
    return answers, time.perf_counter() - started


def marked(said: str, i: int) -> Request:
    """A request that only its own answer fits."""
    properties = {"mark": {"type": "string", "enum": [f"علامةٌ رقم {i} 🌙"]}}
    parameters = {"type": "object", "properties": properties, "required": ["mark"]}
    return [{"role": "user", "content": said}], [
        {"type": "function", "function": {"name": f"mark_{i}", "parameters": parameters}}], "required"  # fmt: skip


def summary(answers: list[Asked], seconds: float) -> dict[str, Any]:
    """What a record says of one round."""

    def spread(values: list[float]) -> dict[str, float]:
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return {"p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "most": round(max(values), 3)}

    tokens = sum(answer.tokens for answer in answers)
    prompts = sum(answer.prompt for answer in answers)
    return {
        "requests": len(answers), "seconds": round(seconds, 2),
        "seconds_to_the_end": spread([a.seconds for a in answers]),
        "seconds_to_the_first_piece": spread([a.first for a in answers]), "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1), "prompt_tokens": prompts,
        "prompt_tokens_known_from_before": round(sum(a.cached for a in answers) / prompts, 3),
        "reasons": {reason: sum(a.reason == reason for a in answers) for reason in sorted({a.reason for a in answers})},
    }  # fmt: skip


def main() -> int:
    """Start the server, ask, and write what was seen; 1 when an answer is missing or another's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "dozan", "serve", options.model, "--port", "0"]
    command += ["--parallel", str(options.parallel)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        said = []
        while not said or not said[-1].startswith("Ctrl-C"):
            said.append(server.stdout.readline())
            if not said[-1]:
                raise SystemExit("the server did not start")
        url = next(line.split()[-1] for line in said if line.startswith("API"))
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
        model = next(iter(client.models.list())).id
        rows = (read_rows(DEFAULT_ROWS) * (1 + options.requests // 400))[: options.requests]
        tools = json.loads(DEFAULT_TOOLS.read_text(encoding="utf-8"))
        marks = [marked(row.messages[2]["content"], i) for i, row in enumerate(rows)]
        own, own_seconds = together(client, model, marks)
        phone, seconds = together(client, model, [(list(row.messages[:3]), tools, "auto") for row in rows])
    finally:
        server.terminate()
        server.wait(30)
    wrong = [i for i, answer in enumerate(own) if not answer.calls or answer.calls[0][0] != f"mark_{i}"
             or json.loads(answer.calls[0][1])["mark"] != f"علامةٌ رقم {i} 🌙"]  # fmt: skip
    record = {
        "what": f"dozan serve, {options.requests} streams at once through the openai client on the same machine; "
                f"{options.parallel} answers at a time, the rest in the queue",
        "model": Path(options.model).name, "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU",
        "load_average_before": round(load, 1), "threads_of_llama_cpp": os.environ.get("OMP_NUM_THREADS", "all"),
        "a_tool_of_its_own_each": {**summary(own, own_seconds), "answered_wrongly": len(wrong)},
        "twelve_phone_tools": summary(phone, seconds),
    }  # fmt: skip
    text = json.dumps(record, ensure_ascii=False, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
