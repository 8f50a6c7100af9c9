"""`dozan serve`: a model behind OpenAI's API on this machine, with a page to try it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.ship.llamacpp import thread_count
from dozan.ship.serve_app import Api, Hosted, Rules
from dozan.ship.serve_engine import Engine, EngineError, Limits
from dozan.ship.serve_given import Given, given_for, stub
from dozan.ship.serve_guard import is_loopback
from dozan.ship.served import read_gguf

SERVED_KIND = "q8_0"
"""What a run or a checkpoint is written as before it is served."""
GOODBYE_SECONDS = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Address:
    """Where the server listens. names: host names that may stand in a request beside addresses; token_env: the
    environment variable that holds the token, if one is asked for."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: Sequence[str] = ()
    token_env: str | None = None


def serve(
    model: str | Path, base: str | Path | None = None, tools: Path | None = None, address: Address | None = None,
    limits: Limits | None = None, grammar: bool = True, most_bytes: int = 1 << 20, say: Say = print,
) -> None:  # fmt: skip
    """Serve a GGUF file, a run or a checkpoint until it is interrupted; `base` is a second model beside it.

    A run or a checkpoint is written as a q8_0 GGUF first, measured as `export` does, for as long as the server runs.
    An address that other machines reach has a token: from the environment, else made and told. Raises InputError for a
    model that cannot be run, a port that is taken, or a token that is not there.
    """
    address, limits = address or Address(), limits or Limits()
    token = find_token(address)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(address))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dozan-serve-")))
        files = [gguf_of(name, folder / str(i), say) for i, name in enumerate((model, base)) if name is not None]
        hosted = open_models(files, limits)
        given = given_for(model, tools, hosted[0].chat)
        rules = Rules(token, address.names, is_loopback(address.host), grammar, most_bytes)
        app = Api(hosted, rules, page_start(hosted, given)).app()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, http="h11", ws="none", loop="asyncio",
            timeout_graceful_shutdown=GOODBYE_SECONDS,
            limit_concurrency=2 * (limits.waiting + limits.slots) * len(hosted) + 64,
        )  # fmt: skip
        port = listening.getsockname()[1]
        asyncio.run(_run(Server(config), hosted, listening,
                         lambda: _tell(address.host, port, token, address, hosted, say)))  # fmt: skip


class Server(uvicorn.Server):
    """Ends its work on a signal and returns, so that what stands around it ends too."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def _run(server: Server, hosted: Sequence[Hosted], listening: socket.socket, ready: Callable[[], None]
               ) -> None:  # fmt: skip
    async with AsyncExitStack() as stack:
        for model in hosted:
            stack.push_async_callback(model.engine.close)
            try:
                await model.engine.start()
            except EngineError as error:
                raise InputError(str(error)) from None
        ready()
        await server.serve(sockets=[listening])


def _tell(host: str, port: int, token: str | None, address: Address, hosted: Sequence[Hosted], say: Say) -> None:
    """What a person at the terminal needs."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{here}]" if ":" in here else here
    url = f"http://{shown}:{port}"
    made = token is not None and address.token_env is None
    engine = hosted[0].engine
    say(f"serving {' and '.join(model.id for model in hosted)}: "
        f"{engine.slots} answers at a time, {engine.length} tokens each")  # fmt: skip
    say(f"API:        {url}/v1")
    say(f"playground: {url}/" + (f"#token={token}" if made else ""))
    if token is not None:
        say(f"token:      {token if made else f'that of {address.token_env}'}")
    if not is_loopback(host):
        say("Other machines reach it by this machine's address; what they send is not encrypted.")
    say("Ctrl-C ends it.")


def find_token(address: Address) -> str | None:
    """The token that clients must send: that of the environment, or one made here where others reach the address."""
    if address.token_env is not None:
        token = os.environ.get(address.token_env, "").strip()
        if not token:
            raise InputError(f"--token-env {address.token_env}: the variable is not set; give it a secret of yours")
        return token
    return None if is_loopback(address.host) else secrets.token_urlsafe(24)


def listen(address: Address) -> socket.socket:
    """A listening socket. Raises InputError when the address cannot be had."""
    if not 0 <= address.port <= 65535:
        raise InputError(f"--port {address.port}: give one from 1 to 65535, or 0 for any that is free")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=512)
    except OSError as error:
        raise InputError(f"cannot listen on {address.host}:{address.port} ({error.strerror or error}); "
                         "give another --port or --host") from None  # fmt: skip


def gguf_of(model: str | Path, folder: Path, say: Say) -> Path:
    """The GGUF of a model: the file itself, or one written into `folder` and measured."""
    if str(model).endswith(".gguf"):
        return Path(model)
    from dozan.ship.export import export

    exported = export(model, SERVED_KIND, folder, say=say)[0]
    say(f"{model}: written as {exported.kind} and measured; to start sooner, run dozan export once and serve its file")
    return exported.path


def open_models(files: Sequence[Path], limits: Limits) -> list[Hosted]:
    """The models of GGUF files, not started yet, each under its file's name."""
    threads = limits.threads or thread_count()
    hosted: list[Hosted] = []
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; give a .gguf file, a run or a checkpoint folder")
        tokenizer, chat = read_gguf(file)
        stops = [tokenizer.id(token) for token in chat.stop_tokens]
        engine = Engine(file, stops, Limits(**{**vars(limits), "threads": threads}))
        name = file.stem
        while any(model.id == name for model in hosted):
            name += "-base"
        hosted.append(Hosted(name, engine, tokenizer, chat, int(time.time())))
    return hosted


def page_start(hosted: Sequence[Hosted], given: Given) -> dict[str, Json]:
    """What the playground asks for first."""
    stubs = {str(tool.get("function", tool).get("name")): stub(tool) for tool in given.tools}
    return {"models": [model.id for model in hosted], "tools": list(given.tools), "opening": list(given.opening),
            "examples": list(given.examples), "stubs": stubs}  # fmt: skip
