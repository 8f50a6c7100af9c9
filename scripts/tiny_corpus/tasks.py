"""Rows for pretraining: a tool set, now, a command or a copying task, and the call. All in the canonical form of
rows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dozan.rows.example import Example
from tiny_corpus import dates, sentences, values
from tiny_corpus.glossary import arabic_of
from tiny_corpus.tools import BANK, KINDS, NOTES, Parameter, Tool, invented
from tiny_corpus.values import Words

TRIGGER = "You are a model that can do function calling with the following functions"
OPENERS = ("", "", "", "", "please ", "can you ", "could you ", "hey, ", "I want you to ", "hi, ", "ok ", "now ")
CLOSERS = ("", "", "", "", "", " please", " now", " for me", " thanks", ".", "?")
REFUSALS = (
    "I can't do that with the tools I have.",
    "None of my tools can do that.",
    "Sorry, that is beyond my tools.",
)
NOTHING = (*REFUSALS, "That is no request.", "There is nothing to call for.", "I have no tool for that.")
COPY_CUES = ("repeat", "copy", "say", "write", "echo")


@dataclass(frozen=True)
class Named:
    """A tool with its names drawn: what the declaration says, and which role each parameter plays."""

    tool: Tool
    declaration: dict[str, Any]
    names: dict[str, str]


def declare(rng: random.Random, tool: Tool) -> Named:
    name = rng.choice(tool.names)
    names = {role: rng.choice(p.names) for role, p in tool.parameters.items()}
    if len(set(names.values())) < len(names):
        names = {role: role for role in tool.parameters}
    properties = {names[role]: _property(rng, p) for role, p in tool.parameters.items()}
    schema: dict[str, Any] = {"type": "OBJECT", "properties": properties}
    if tool.required:
        schema["required"] = [names[role] for role in tool.required]
    return Named(
        tool,
        {"type": "function", "function": {"name": name, "description": tool.description, "parameters": schema}},
        names,
    )


def _property(rng: random.Random, parameter: Parameter) -> dict[str, str]:
    kind = "STRING" if parameter.kind == "enum" else KINDS[parameter.kind][0]
    note = rng.choice(NOTES[parameter.kind]) if parameter.kind in NOTES else parameter.description
    return {"type": kind, "description": note if rng.random() < 0.85 or parameter.kind in NOTES else ""}


def command(rng: random.Random, words: Words, named: Named, now: datetime) -> tuple[str, dict[str, Any]]:
    """A command for the tool and the call's (name, arguments)."""
    text, arguments = mixed(rng, rng.choice(named.tool.commands)), {}
    for role in re.findall(r"{(\w+)}", text):
        parameter = named.tool.parameters[role]
        if parameter.kind == "enum":
            phrase, value = rng.choice(parameter.choices)
        else:
            phrase, value = KINDS[parameter.kind][1](rng, words, now)
        text = text.replace("{" + role + "}", phrase, 1)
        arguments[named.names[role]] = value
    call = {"type": "function", "function": {"name": named.declaration["function"]["name"], "arguments": arguments}}
    return text, call


def mixed(rng: random.Random, command: str) -> str:
    """At times, up to half of an English command's words are put in Arabic, one by one: never the whole of it."""
    parts = command.split()
    if rng.random() < 0.6:
        return command
    for _ in range(rng.randrange(1, max(2, len(parts) // 2 + 1))):
        start = rng.randrange(len(parts))
        for size in (3, 2, 1):
            known = arabic_of().get(" ".join(parts[start : start + size]).strip(",").lower())
            if known and size < len(parts):
                parts[start : start + size] = [rng.choice(known)]
                break
    return " ".join(parts)


def tool_set(rng: random.Random, size: int) -> list[Named]:
    drawn, used = [], set()
    while len(drawn) < size:
        tool = rng.choice(BANK) if rng.random() < 0.7 else invented(rng)
        named = declare(rng, tool)
        name = named.declaration["function"]["name"]
        if name not in used:
            used.add(name)
            drawn.append(named)
    return drawn


def _dress(rng: random.Random, text: str) -> str:
    text = rng.choice(OPENERS) + text + rng.choice(CLOSERS)
    return text[0].upper() + text[1:] if rng.random() < 0.4 else text


def said(rng: random.Random, now: datetime) -> str:
    """The developer turn that tells the time."""
    return f"Now is {now:%Y-%m-%dT%H:%M} {dates.WEEKDAYS[now.weekday()]}"


DATED = tuple(tool for tool in BANK if any(p.kind == "datetime" for p in tool.parameters.values()))


def date_rows(rng: random.Random, words: Words, count: int) -> Iterator[Example]:
    """Commands that each name a relative date."""
    tools = [declare(rng, tool) for tool in rng.sample(DATED, rng.randrange(1, len(DATED) + 1))]
    return _rows(rng, words, tools, count)


def command_rows(rng: random.Random, words: Words, count: int) -> Iterator[Example]:
    """Commands under one tool set, so that they share their declarations."""
    return _rows(rng, words, tool_set(rng, rng.choice((1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 10, 12))), count)


def _rows(rng: random.Random, words: Words, tools: list[Named], count: int) -> Iterator[Example]:
    hidden = [declare(rng, rng.choice(BANK)) for _ in range(3)]
    first = rng.random() < 0.12
    shared_now = dates.random_now(rng)
    favourites = [t for t in tools if any(p.kind == "datetime" for p in t.tool.parameters.values())]
    for i in range(count):
        now = shared_now if first else dates.random_now(rng)
        pool = favourites if favourites and rng.random() < 0.35 else tools
        developer = [_early(now)] if first else [TRIGGER, said(rng, now)]
        user, answer = _exchange(rng, words, pool, hidden, now)
        messages = [{"role": "developer", "content": d} for d in developer] + [
            {"role": "user", "content": user},
            answer,
        ]
        yield Example(id=str(i), tools=tuple(t.declaration for t in tools), messages=tuple(messages))


def _early(now: datetime) -> str:
    day = dates.WEEKDAYS[now.weekday()]
    return f"Current date and time given in YYYY-MM-DDTHH:MM:SS format: {now:%Y-%m-%dT%H:%M:%S}\nDay of week is {day}\n{TRIGGER}"


def _exchange(
    rng: random.Random, words: Words, tools: list[Named], hidden: list[Named], now: datetime
) -> tuple[str, dict[str, Any]]:
    kind = rng.random()
    if kind < 0.04:
        return sentences.plain(rng, words), {"role": "assistant", "content": rng.choice(NOTHING)}
    if kind < 0.11:
        absent = [h for h in hidden if h.tool not in [t.tool for t in tools]]
        if absent:
            return _dress(rng, command(rng, words, absent[0], now)[0]), {
                "role": "assistant",
                "content": rng.choice(REFUSALS),
            }
    text, call = command(rng, words, rng.choice(tools), now)
    if kind < 0.18:
        other, second = command(rng, words, rng.choice(tools), now)
        joined = rng.choice((f"{text} and {other}", f"{text}, then {other}", f"{text} and also {other}"))
        return _dress(rng, joined), {"role": "assistant", "tool_calls": [call, second]}
    return _dress(rng, text), {"role": "assistant", "tool_calls": [call]}


def copy_rows(rng: random.Random, words: Words, count: int) -> Iterator[Example]:
    """Copying Arabic strings out of Arabic noise: all of it, or what stands after, before or between cue words."""
    names = rng.choice((("copy_text", "text"), ("extract", "value"), ("echo", "content"), ("select_words", "words")))
    schema = {
        "type": "OBJECT",
        "properties": {names[1]: {"type": "STRING", "description": "Exact words"}},
        "required": [names[1]],
    }
    tool = {
        "type": "function",
        "function": {"name": names[0], "description": "Copies words exactly.", "parameters": schema},
    }
    for i in range(count):
        text, value = _copy_task(rng, words)
        call = {"type": "function", "function": {"name": names[0], "arguments": {names[1]: value}}}
        developer = [TRIGGER, said(rng, dates.random_now(rng))]
        messages = [{"role": "developer", "content": d} for d in developer]
        messages += [{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [call]}]
        yield Example(id=str(i), tools=(tool,), messages=tuple(messages))


def _copy_task(rng: random.Random, words: Words) -> tuple[str, str]:
    noise = [values.arabic_word(rng, words) for _ in range(rng.randrange(3, 12))]
    if len(set(noise)) < len(noise) or rng.random() < 0.2:
        whole = " ".join(noise)
        return f"{rng.choice(COPY_CUES)} {whole}", whole
    start = rng.randrange(0, len(noise))
    stop = rng.randrange(start + 1, min(len(noise), start + 5) + 1)
    value = " ".join(noise[start:stop])
    before, after = noise[start - 1] if start else None, noise[stop] if stop < len(noise) else None
    whole = " ".join(noise)
    if before and after:
        return f"the words between {before} and {after}: {whole}", value
    if before:
        return f"the words after {before}: {whole}", value
    if after:
        return f"the words before {after}: {whole}", value
    return f"{rng.choice(COPY_CUES)} {whole}", whole


@dataclass(frozen=True)
class Cued:
    """A tool that random Arabic words announce: `trigger` the call, `cues` the value of each parameter, after or
    before it."""

    declaration: dict[str, Any]
    trigger: str
    cues: tuple[tuple[str, str, bool, str], ...]


def cue_rows(rng: random.Random, words: Words, count: int) -> Iterator[Example]:
    """Arabic noise in which words that the declarations name announce calls and border values of one to five words."""
    vocabulary = rng.sample(words.arabic, 30)
    numbers = rng.sample(range(100), 4)
    tools = [_cued(rng, number, vocabulary) for number in numbers[: rng.choice((1, 2, 2, 3, 3, 4))]]
    for i in range(count):
        chosen = rng.sample(tools, min(len(tools), rng.choice((1, 1, 1, 1, 1, 2))))
        parts, calls = zip(*(_cued_call(rng, words, tool, vocabulary) for tool in chosen), strict=True)
        joint = rng.choice((" ", " و", " ثم "))
        answer: dict[str, Any] = {"role": "assistant", "tool_calls": list(calls)}
        text = joint.join(parts)
        if rng.random() < 0.06:
            text, answer = (
                " ".join(_noise(rng, vocabulary, 3, 9)),
                {"role": "assistant", "content": rng.choice(REFUSALS)},
            )
        developer = [TRIGGER, said(rng, dates.random_now(rng))]
        messages = [{"role": "developer", "content": d} for d in developer] + [
            {"role": "user", "content": text},
            answer,
        ]
        yield Example(id=str(i), tools=tuple(tool.declaration for tool in tools), messages=tuple(messages))


def _noise(rng: random.Random, vocabulary: list[str], low: int, high: int) -> list[str]:
    return [rng.choice(vocabulary) for _ in range(rng.randrange(low, high))]


def _cued(rng: random.Random, number: int, vocabulary: list[str]) -> Cued:
    """Draws its words out of the vocabulary, so that none serves twice."""
    trigger = vocabulary.pop()
    roles = rng.sample(
        ("text", "name", "body", "title", "to", "number", "phone", "email", "place"), rng.randrange(0, 4)
    )
    cues, properties = [], {}
    for role in roles:
        kind = {"number": "int", "phone": "phone", "email": "email"}.get(role, "text")
        cue = trigger if kind == "text" and not cues and rng.random() < 0.4 else vocabulary.pop()
        before = kind == "text" and cue != trigger and rng.random() < 0.2
        cues.append((role, cue, before, kind))
        note = f"{'before' if before else 'after'} {cue}" if kind == "text" else ""
        properties[role] = {"type": KINDS[kind][0], "description": note}
    verb, noun = (
        rng.choice(("do", "make", "set", "get", "send", "show", "add")),
        rng.choice(("it", "that", "new", "all", "thing")),
    )
    name = f"{verb}_{noun}{number}"
    schema = {"type": "OBJECT", "properties": properties}
    return Cued(
        {"type": "function", "function": {"name": name, "description": trigger, "parameters": schema}},
        trigger,
        tuple(cues),
    )


def _cued_call(rng: random.Random, words: Words, tool: Cued, vocabulary: list[str]) -> tuple[str, dict[str, Any]]:
    lead, head, rest, arguments = "", tool.trigger, [], {}
    now = dates.random_now(rng)
    for role, cue, before, kind in rng.sample(tool.cues, len(tool.cues)):
        if before and lead:
            continue
        phrase, arguments[role] = _cued_value(rng, words, kind, now)
        if cue == tool.trigger:
            head = f"{head} {phrase}"
        elif before:
            lead = f"{phrase} {cue}"
        else:
            rest.append(f"{cue} {phrase}" if kind == "text" or rng.random() < 0.5 else phrase)
    # A value before its cue starts where the text does; so nothing else may come first.
    if not lead and rng.random() < 0.5:
        lead = " ".join(_noise(rng, vocabulary, 1, 4))
    pieces = [lead, head, *rest] if rng.random() < 0.7 else [lead, *rest, head]
    call = {"type": "function", "function": {"name": tool.declaration["function"]["name"], "arguments": arguments}}
    return " ".join(piece for piece in pieces if piece), call


def _cued_value(rng: random.Random, words: Words, kind: str, now: datetime) -> tuple[str, Any]:
    if kind != "text":
        return KINDS[kind][1](rng, words, now)
    value = values.arabic(rng, words, 5)
    return value, value
