"""What a person sees: progress, the table of scores, Arabic in its own direction, and the chat of `dozan run`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dozan.chat.gemma3 import GEMMA3
from dozan.chat.grammar import answer_grammar
from dozan.check.visible import isolate
from dozan.rows.example import Json
from dozan.ship.serve_given import DEFAULT_TOOLS, answered, opening, read_answers, read_tools, stub
from dozan.ship.served import Served, serve

if TYPE_CHECKING:
    from dozan.chat.format import Call, Parsed
    from dozan.chat.grammar import Grammar
    from dozan.judge.summary import Scores

OnProgress = Callable[[int, int], None]
CALLS_IN_A_ROW = 8
"""Calls that may follow each other before the conversation ends."""
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


def chat(
    model: str, prompt: str | None, tools: Path | None, max_new_tokens: int, grammar: bool = False,
    answers: Path | None = None,
) -> None:  # fmt: skip
    """Answer one prompt, or each line of a conversation, with the parsed call; with `grammar` held to the tools'.

    `answers` holds what each tool answers; in a terminal the user is asked where it says nothing. A call whose tools
    have all answered goes on to the model's sentence; another ends the conversation.
    """
    declarations = read_tools(tools or DEFAULT_TOOLS)
    known = {} if answers is None else read_answers(answers)
    served = serve(model)
    if tools is None and served.chat == GEMMA3:
        declarations = ()
    held = answer_grammar(declarations, served.chat) if grammar else None
    asks = prompt is None and sys.stdin.isatty()
    talk = Talk(served, declarations, max_new_tokens, held, known, asks)
    if prompt is not None:
        talk.say(prompt, ())
        return
    if asks:
        console.print("Say something; an empty line ends it. After a call you are asked what its tool answers: JSON or "
                      "plain words, or nothing to leave it at the call.")  # fmt: skip
    history: tuple[Json, ...] = ()
    while (line := _read_line()) is not None:
        history = talk.say(line, history)


@dataclass(frozen=True)
class Talk:
    """A conversation at the terminal. known: what tools answer, by name; asks: whether to ask the user for the rest."""

    served: Served
    tools: Sequence[Mapping[str, Json]]
    max_new_tokens: int
    held: Grammar | None
    known: Mapping[str, Json]
    asks: bool

    def say(self, prompt: str, history: Sequence[Json]) -> tuple[Json, ...]:
        """Print what the model says to `prompt`, and to the answers of the tools it calls. The conversation to go on
        with: none after a call that nobody answered."""
        messages: tuple[Json, ...] = (*history, {"role": "user", "content": prompt})
        for _ in range(CALLS_IN_A_ROW):
            parsed = self._reply(messages)
            print_line(show(parsed))
            if parsed.problems or not (parsed.calls or parsed.text.strip()):
                return ()
            if not parsed.calls:
                return (*messages, {"role": "assistant", "content": parsed.text})
            said = self._answers(parsed.calls)
            if said is None:
                return ()
            messages = (*messages, *answered(parsed.calls, said))
        return ()

    def _answers(self, calls: Sequence[Call]) -> list[Json] | None:
        """What the tools of these calls say; None when one says nothing."""
        if not self.asks and any(call.name not in self.known for call in calls):
            return None
        stubs = {tool.get("function", tool).get("name"): stub(tool) for tool in self.tools}
        said: list[Json] = []
        for call in calls:
            if call.name in self.known:
                answer = self.known[call.name]
                print_line(f"{call.name} answers: {isolate(json.dumps(answer, ensure_ascii=False))}", style="dim")
            else:
                shown = json.dumps(stubs.get(call.name, {"status": "ok"}), ensure_ascii=False)
                line = _ask_answer(call.name, shown)
                if line is None:
                    return None
                answer = read_answer(line)
            said.append(answer)
        return said

    def _reply(self, messages: Sequence[Json]) -> Parsed:
        served, tools = self.served, self.tools
        before = tuple({"role": "developer", "content": text} for text in opening(bool(tools)))
        rendered = served.chat.render((*before, *messages), tools, generate=True, place="the prompt")
        ids = served.tokenizer.encode_rendered(rendered)[0]
        grammars = None if self.held is None else [self.held]
        (answer,) = served.complete([ids], self.max_new_tokens, grammars=grammars)
        return served.chat.parse(served.tokenizer.decode(answer))


def _ask_answer(name: str, shown: str) -> str | None:
    """What the user gives as a tool's answer, such as what is shown; None for nothing."""
    try:
        return input(f"{name} answers (such as {shown}): ").strip() or None
    except EOFError:
        return None


def read_answer(line: str) -> Json:
    """A tool's answer as it was typed: JSON where it is, else the words."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip() or None
    except EOFError:
        return None
