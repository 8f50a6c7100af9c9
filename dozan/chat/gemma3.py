"""Gemma 3's chat format: alternating user and model turns, no tools, the system text before the first user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dozan.chat.format import Message, Parsed, Rendered, Tool, Writer
from dozan.chat.messages import Notes, Turn, read_turns
from dozan.chat.tokens import BOS, END_TURN, EOS, START_TURN


@dataclass(frozen=True)
class Gemma3Chat:
    """Gemma 3's format; see the module. `trimmed`: the user's texts are, as the official template trims them."""

    name: str = "gemma3"
    stop_tokens: tuple[str, ...] = (EOS, END_TURN)
    trimmed: bool = True

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, place: str = ""
    ) -> Rendered:
        """The conversation as text with spans; every assistant turn is trained.

        Raises InputError for tools, tool calls, and roles that do not alternate from user to assistant.
        """
        notes = Notes(place)
        if tools:
            notes.error("tools", "Gemma 3's chat format has no tools; use chat: functiongemma")
        turns = read_turns(messages, notes)
        system = [turn for turn in turns if turn.role == "developer"]
        spoken = [turn for turn in turns if turn.role != "developer"]
        _check_order(turns, len(system), generate, notes)
        notes.raise_errors()
        writer = Writer()
        writer.control(BOS)
        for i, turn in enumerate(spoken):
            before = "\n\n".join(found.raw for found in system) + "\n\n" if system and i == 0 else ""
            _write_turn(writer, turn, before, self.trimmed)
        if generate:
            writer.control(START_TURN)
            writer.text("model\n")
        return writer.rendered(notes.repairs)

    def parse(self, text: str) -> Parsed:
        """The text up to the stop token; what follows that is a problem."""
        ends = [at for at in (text.find(token) for token in self.stop_tokens) if at >= 0]
        end = min(ends, default=len(text))
        token = next((token for token in self.stop_tokens if text.startswith(token, end)), "")
        after = end + len(token)
        problems = (f"at {after}: text after the stop token {token}",) if text[after:].strip() else ()
        return Parsed((), text[:end].strip(), problems)


GEMMA3 = Gemma3Chat()


def _check_order(turns: Sequence[Turn], system: int, generate: bool, notes: Notes) -> None:
    if len(turns) == system:
        notes.error("messages", "no user message; give at least one")
    for i, turn in enumerate(turns):
        if turn.role == "developer":
            if i >= system:
                notes.error(turn.where, "a system message after the conversation began; put it first")
            continue
        expected = "assistant" if (i - system) % 2 else "user"
        if turn.role == "tool" or turn.calls:
            notes.error(turn.where, "Gemma 3's chat format has no tools; use chat: functiongemma")
        elif turn.role != expected:
            notes.error(turn.where, f"expected a message of the {expected}, found {turn.role}; roles must alternate")
        elif turn.role == "assistant" and not turn.text:
            notes.error(turn.where, "an assistant message without text; give it an answer or take it out")
    if generate and turns and turns[-1].role == "assistant":
        notes.error(turns[-1].where, "nothing can be generated after an assistant message; take it out")


def _write_turn(writer: Writer, turn: Turn, before: str, trimmed: bool) -> None:
    writer.control(START_TURN)
    writer.text("model\n" if turn.role == "assistant" else f"user\n{before}")
    if turn.role == "assistant":
        writer.begin()
    writer.text(turn.text if trimmed or turn.role == "assistant" else turn.raw)
    writer.control(END_TURN)
    if turn.role == "assistant":
        writer.end()
    writer.text("\n")
