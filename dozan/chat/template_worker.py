"""The inside of a stranger's chat template: a process that renders it and may take no more than its share.

Run as a script by `chat.template_limits`; Jinja and the standard library alone. Standard input is a line of JSON with
the template and the limits, then a line a rendering; each is answered by a line. Processor time is limited by the
kernel: a timer whose signal nobody handles ends the process even in the middle of one long operation. Memory is limited
by the address space (Linux), output by counting what the template gives, piece by piece.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, SyntaxError,
            AssertionError, RecursionError)  # fmt: skip
"""What a template that is wrong, or a row that it was not made for, raises."""


class TooLong(Exception):
    """A template wrote more than it may."""


def compiled(text: str) -> jinja2.Template:
    """A chat template in a sandbox, with the settings that transformers gives templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    return environment.from_string(text)


def written(template: jinja2.Template, names: Mapping[str, Any], most_bytes: int | None = None) -> str:
    """What the template writes with these variables. Raises TooLong when that is more than so many bytes of UTF-8, else
    one of FAILURES."""
    pieces: list[str] = []
    size = 0
    for piece in template.generate(**names):
        size += len(piece.encode("utf-8", "surrogatepass"))
        if most_bytes is not None and size > most_bytes:
            raise TooLong
        pieces.append(piece)
    return "".join(pieces)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _answer(kept: list[jinja2.Template], begun: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, str]:
    try:
        if not kept:
            kept.append(compiled(begun["template"]))
        return {"text": written(kept[0], names, begun["bytes"])}
    except MemoryError:
        return {"limit": "memory"}
    except TooLong:
        return {"limit": "output"}
    except FAILURES as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


def main() -> None:
    """Limit this process, then render what each line asks for."""
    begun = json.loads(sys.stdin.buffer.readline())
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = begun["memory"] if hard == resource.RLIM_INFINITY else min(hard, begun["memory"])
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kept: list[jinja2.Template] = []
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin.buffer:
        names = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, begun["seconds"])
        answer = _answer(kept, begun, names)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
