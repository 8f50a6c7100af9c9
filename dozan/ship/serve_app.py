"""The HTTP side of `dozan serve`: OpenAI's chat completions over engines, and the playground page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dozan.chat.format import ChatFormat
from dozan.chat.grammar_text import to_gbnf
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.html.playground import playground
from dozan.rows.example import Json
from dozan.rows.identity import MadeOnce
from dozan.ship.serve_answers import Answer
from dozan.ship.serve_engine import Busy, End, Engine, EngineError, Refused
from dozan.ship.serve_guard import HEADERS, Guard, too_large
from dozan.ship.serve_requests import Asked, RequestError, held_to, read_request, refused, with_trigger
from dozan.ship.serve_stream import Reader

BODY_SECONDS = 30.0
"""How long a request may take to arrive."""
DEFAULT_TOKENS = 512
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Hosted:
    """A model that is served under `id`."""

    id: str
    engine: Engine
    tokenizer: Tokenizer
    chat: ChatFormat
    created: int


@dataclass(frozen=True)
class Rules:
    """token: what clients must know, if anything; names: host names beside addresses and localhost; local: whether
    only this machine can ask; grammar: hold every call to its schema."""

    token: str | None = None
    names: Sequence[str] = ()
    local: bool = True
    grammar: bool = True
    most_bytes: int = 1 << 20


class Gone(Exception):
    """The client has left."""


class Api:
    """Answers requests. Conversations are rendered in one thread beside the loop, which never waits for them."""

    def __init__(self, models: Sequence[Hosted], rules: Rules, page: Mapping[str, Json]) -> None:
        self._models = {model.id: model for model in models}
        self._rules, self._page = rules, dict(page)
        self._renderer = ThreadPoolExecutor(1, "render")
        self._grammars: MadeOnce[str] = MadeOnce()

    def app(self) -> Starlette:
        """The ASGI application, its guard around it."""
        rules = self._rules
        guard = Middleware(Guard, token=rules.token, names=rules.names, local=rules.local, most_bytes=rules.most_bytes)
        routes = [
            Route("/", self.page), Route("/health", self.health), Route("/playground.json", self.start),
            Route("/v1/models", self.models), Route("/v1/models/{id:path}", self.model),
            Route("/v1/chat/completions", self.completions, methods=["POST"]),
        ]  # fmt: skip
        handlers: dict[Any, Any] = {
            RequestError: _request_error, EngineError: _engine_error, HTTPException: _http_error,
            ClientDisconnect: _gone, Gone: _gone,
        }  # fmt: skip
        return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self._renderer.shutdown(wait=False, cancel_futures=True)

    async def page(self, _: Request) -> Response:
        """The playground; it holds no data, so it needs no token."""
        html, policy = playground()
        return HTMLResponse(html, headers={**HEADERS, "content-security-policy": policy})

    async def health(self, _: Request) -> Response:
        """Whether the server is up, and how busy."""
        load = [model.engine.load for model in self._models.values()]
        running, waiting = (sum(part) for part in zip(*load, strict=True))
        return JSONResponse({"status": "ok", "running": running, "waiting": waiting}, headers=HEADERS)

    async def start(self, _: Request) -> Response:
        """What the playground begins with."""
        return JSONResponse(self._page, headers=HEADERS)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_card(model) for model in self._models.values()]},
                            headers=HEADERS)  # fmt: skip

    async def model(self, request: Request) -> Response:
        return JSONResponse(_card(self._find(request.path_params["id"])), headers=HEADERS)

    async def completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = read_request(parse_body(await read_body(request, self._rules.most_bytes)))
        hosted = self._find(asked.model)
        loop = asyncio.get_running_loop()
        ids, grammar = await loop.run_in_executor(self._renderer, self._prepare, hosted, asked)
        room = hosted.engine.length - len(ids)
        if room < 1:
            raise RequestError(f"messages: the prompt has {len(ids)} tokens, and prompt and answer together may have "
                               f"{hosted.engine.length}; send less, or start the server with --context", "messages",
                               "context_length_exceeded")  # fmt: skip
        answer = Answer(hosted.id, len(ids), Reader(hosted.tokenizer, hosted.chat, asked.stop), asked.raw)
        client = "" if request.client is None else request.client.host
        events = hosted.engine.answer(
            ids, min(asked.most or DEFAULT_TOKENS, room), client, asked.temperature, asked.top_p, asked.seed, grammar
        )
        chunks = _chunks(answer, events, asked)
        if asked.stream:
            first: dict[str, Json] = await unless_gone(request.receive, anext(chunks))
            return EventStream(first, chunks)
        await unless_gone(request.receive, _exhaust(chunks))
        return JSONResponse(answer.whole(), headers=HEADERS)

    def _prepare(self, hosted: Hosted, asked: Asked) -> tuple[list[int], str | None]:
        """The prompt's ids, and the grammar as llama.cpp reads it."""
        try:
            rendered = hosted.chat.render(with_trigger(asked), asked.tools, generate=True)
            ids = hosted.tokenizer.encode_rendered(rendered)[0]
            grammar = held_to(asked, hosted.chat, self._rules.grammar)
        except InputError as error:
            raise refused(error) from None
        return ids, None if grammar is None else self._grammars.get((grammar,), lambda: to_gbnf(grammar))

    def _find(self, name: str) -> Hosted:
        if name not in self._models:
            raise RequestError(f"model: there is no {name!r}; there is {', '.join(self._models)}", "model",
                               "model_not_found", 404)  # fmt: skip
        return self._models[name]


async def _chunks(answer: Answer, events: AsyncIterator[int | End], asked: Asked) -> AsyncIterator[dict[str, Json]]:
    """The chunks of a stream; a stop string ends the model's work."""
    usage, reader = asked.with_usage, answer.reader
    async with aclosing(events) as coming:  # type: ignore[type-var]
        begun = False
        async for event in coming:
            if not begun:
                begun = True
                yield answer.chunk({"role": "assistant", "content": ""}, usage)
            ended = event if isinstance(event, End) else None
            if ended is None and isinstance(event, int):
                for delta in answer.add(reader.take(event)):
                    yield answer.chunk(delta, usage)
                ended = End("stop", 0) if reader.stopped else None
            if ended is not None:
                for delta in answer.finish(ended.reason, ended.known):
                    yield answer.chunk(delta, usage)
                break
    yield answer.chunk({}, usage, last=True)
    if usage:
        yield answer.usage_chunk()


async def _exhaust(chunks: AsyncIterator[dict[str, Json]]) -> None:
    async for _ in chunks:
        pass


class EventStream(Response):
    """Chunks as server-sent events. When the client leaves, the chunks are closed, and with them the model's work."""

    media_type = "text/event-stream"

    def __init__(self, first: dict[str, Json], rest: AsyncIterator[dict[str, Json]]) -> None:
        super().__init__(headers={**HEADERS, "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await unless_gone(receive, self._send(send))
        except Gone:
            pass
        finally:
            await self._rest.aclose()  # type: ignore[attr-defined]

    async def _send(self, send: Send) -> None:
        async def write(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": more})

        try:
            await write(_compact(self._first))
            async for chunk in self._rest:
                await write(_compact(chunk))
            await write("[DONE]", more=False)
        except EngineError as error:
            await write(_compact(_as_request_error(error).body()), more=False)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _Value] | Any) -> _Value:
    """The value of `work`; Gone, with the work cancelled, when the client leaves first."""
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait([doing, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Gone
        return doing.result()
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request, most: int) -> bytes:
    """The body; RequestError for one that is too large or comes too slowly."""
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large(most)
                parts.append(part)
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {BODY_SECONDS:g} seconds", status=408) from None
    return b"".join(parts)


def parse_body(body: bytes) -> Json:
    """The JSON of a body, all of its text valid Unicode. Raises RequestError."""
    try:
        found = json.loads(body, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError("the body holds half of a surrogate pair; send whole characters") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _card(model: Hosted) -> dict[str, Json]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": "dozan"}


def _as_request_error(error: EngineError) -> RequestError:
    if isinstance(error, Busy):
        return RequestError(str(error), code="busy", status=429, kind="rate_limit_error")
    if isinstance(error, Refused):
        return RequestError(str(error), "tools")
    return RequestError(str(error), code="model_lost", status=500, kind="server_error")


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    retry = {"retry-after": "1"} if error.status == 429 else {}
    return JSONResponse(error.body(), error.status, {**HEADERS, **retry})


async def _engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return await _request_error(request, _as_request_error(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail.lower()}"
    words = f"{what}; there are GET /v1/models and POST /v1/chat/completions"
    return await _request_error(request, RequestError(words, status=error.status_code))


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)


