"""The chat format in the bytes of each runtime: what `data.target` trains on and `dozan render-diff` compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from dozan.chat.format import ChatFormat
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.gemma3 import GEMMA3
from dozan.chat.render_litert import LITERT_FUNCTIONGEMMA
from dozan.chat.render_ollama import OLLAMA_FUNCTIONGEMMA
from dozan.recipe import Runtime

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

_FORMATS: dict[tuple[str, Runtime], ChatFormat] = {
    ("functiongemma", "ollama"): OLLAMA_FUNCTIONGEMMA,
    ("functiongemma", "llama.cpp"): replace(FUNCTIONGEMMA, llama_cpp=True),
    ("functiongemma", "litert-lm"): LITERT_FUNCTIONGEMMA,
    ("gemma3", "ollama"): replace(GEMMA3, trimmed=False),
}


@dataclass(frozen=True)
class Source:
    """Where a runtime's rendering comes from: who writes it, and how far it was checked; `executed` where the runtime
    itself writes each row here."""

    writer: str
    checked: str
    executed: bool = False


SOURCES: dict[Runtime, Source] = {
    "transformers": Source(
        "the checkpoint's Jinja template, with transformers' settings",
        "executed by Jinja; dozan's own renderer equals 31 renderings of the official template (tests/golden)",
        executed=True,
    ),
    "ollama": Source(
        "RENDERER functiongemma; for Gemma 3 the TEMPLATE of dozan's Modelfile",
        "derived from the published source and pinned to what that source writes when it is compiled (tests/golden); "
        "Ollama itself was not run",
    ),
    "llama.cpp": Source(
        "the file's Jinja template through llama.cpp's engine, at llama-server's chat endpoint",
        "executed by the llama.cpp inside the xllamacpp wheel",
        executed=True,
    ),
    "litert-lm": Source(
        "the FunctionGemma data processor with its built-in template; for Gemma 3 the checkpoint's template",
        "derived from the published source and pinned to renderings of LiteRT-LM 0.19.0.dev20261026 (tests/golden)",
    ),
}


def runtime_chat(chat: ChatFormat, target: Runtime) -> ChatFormat:
    """`chat` in the bytes of a runtime; `chat` itself where that writes the same."""
    return _FORMATS.get((chat.name, target), chat)
