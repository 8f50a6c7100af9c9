"""What a person sees: progress, the table of scores, Arabic in its own direction, and the chat of `dozan run`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import dozan
from dozan.chat.gemma3 import GEMMA3
from dozan.chat.grammar import answer_grammar
from dozan.check.visible import isolate
from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.ship.served import Served, serve

if TYPE_CHECKING:
    from dozan.chat.format import Parsed
    from dozan.chat.grammar import Grammar
    from dozan.judge.summary import Scores

OnProgress = Callable[[int, int], None]
DEFAULT_TOOLS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "tools.json"
_PLAIN_LINE_SECONDS = 10.0

console = Console(highlight=False)


def duration(seconds: float) -> str:
    """`7 s`, `3 min 05 s`."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


@contextmanager
def progress(title: str) -> Iterator[OnProgress]:
    """A callback (done, total): a bar in a terminal, now and then a line elsewhere."""
    if not console.is_terminal:
        yield _plain_progress(title)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(title: str) -> OnProgress:
    printed = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed >= _PLAIN_LINE_SECONDS:
            printed = time.monotonic()
            console.print(f"  {title}: {done} of {total}")

    return on_progress


def percent(share: float | None) -> str:
    """`93.5 %`; a dash for a share of nothing."""
    return "–" if share is None else f"{100 * share:.1f} %"


def print_scores(scores: Mapping[str, Scores]) -> None:
    """One table of models scored on the same rows, and the figures by argument kind apart."""
    from dozan.judge.compare import compare, print_table

    print_table(compare(scores), console)
    kinds = {name: found.summary()["by_argument_kind"] for name, found in scores.items()}
    first = next(iter(kinds.values()))
    columns = ("", *(f"{kind} (n = {part['n']})" for kind, part in first.items()))
    table = Table(*columns, title="arguments by kind, strict", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, parts in kinds.items():
        table.add_row(name, *(percent(parts[kind]["strict"]) for kind in first))
    console.print(table)


def print_line(text: str, style: str | None = None) -> None:
    """A line as it is: no markup read in it, and left to the terminal to wrap, which alone knows how Arabic runs."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def show(parsed: Parsed) -> str:
    """A parsed answer as lines: each call as JSON, then the text, then what could not be read."""
    lines = [isolate(f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}") for call in parsed.calls]
    lines += [isolate(parsed.text)] if parsed.text.strip() else []
    lines += [f"(malformed: {problem})" for problem in parsed.problems]
    return "\n".join(lines) or "(an empty answer)"


def chat(model: str, prompt: str | None, tools: Path | None, max_new_tokens: int, grammar: bool = False) -> None:
    """Answer one prompt, or each line of a conversation, with the parsed call; with `grammar` held to the tools'."""
    declarations = read_tools(tools or DEFAULT_TOOLS)
    served = serve(model)
    if tools is None and served.chat == GEMMA3:
        declarations = ()
    held = answer_grammar(declarations, served.chat) if grammar else None
    if prompt is not None:
        print_line(show(_reply(served, declarations, (), prompt, max_new_tokens, held)[0]))
        return
    history: tuple[Json, ...] = ()
    if sys.stdin.isatty():
        console.print("Say something; an empty line ends it. Calls are shown, not carried out: after one, a new "
                      "conversation begins.")  # fmt: skip
    while (line := _read_line()) is not None:
        parsed, history = _reply(served, declarations, history, line, max_new_tokens, held)
        print_line(show(parsed))


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip() or None
    except EOFError:
        return None


def _reply(
    served: Served, tools: Sequence[Json], history: Sequence[Json], prompt: str, max_new_tokens: int,
    held: Grammar | None,
) -> tuple[Parsed, tuple[Json, ...]]:  # fmt: skip
    """The answer to `prompt`, and the conversation to go on with: none after a call, which nobody answered."""
    asked = (*history, {"role": "user", "content": prompt})
    rendered = served.chat.render((*opening(bool(tools)), *asked), tools, generate=True, place="the prompt")
    ids = served.tokenizer.encode_rendered(rendered)[0]
    grammars = None if held is None else [held]
    (answer,) = served.complete([ids], max_new_tokens, grammars=grammars)
    parsed = served.chat.parse(served.tokenizer.decode(answer))
    if parsed.calls or parsed.problems or not parsed.text.strip():
        return parsed, ()
    return parsed, (*asked, {"role": "assistant", "content": parsed.text})


def opening(with_tools: bool, now: datetime | None = None) -> tuple[Json, ...]:
    """The developer turns before a prompt, as the embedded rows have them: the tools, then what time it is."""
    now = now or datetime.now()
    trigger = "You are a model that can do function calling with the following functions"
    clock = f"Now is {now:%Y-%m-%dT%H:%M} {now:%A}"
    texts = (trigger, clock) if with_tools else (clock,)
    return tuple({"role": "developer", "content": text} for text in texts)


def read_tools(path: Path) -> tuple[Mapping[str, Json], ...]:
    """Tool declarations from a JSON list. Raises InputError naming the file and the place."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; --tools takes a JSON list of declarations")
    try:
        tools = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as JSON in UTF-8") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f'{path}: expected a JSON list like [{{"type": "function", "function": {{...}}}}]')
    return tuple(tools)
