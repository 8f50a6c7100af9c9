"""Drafts of rows: a frame filled with values and times, and the calls that it asks for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from scripts.mobile_actions_ar import times, values
from scripts.mobile_actions_ar.dialects.base import Dialect, Half
from scripts.mobile_actions_ar.grammar import SLOT, expand, fill, has_clitic, lines, slots, words

ARGUMENTS = {"to": "to", "subject": "subject", "body": "body", "title": "title", "query": "query", "city": "city",
             "first": "first_name", "last": "last_name", "phone": "phone_number", "email": "email",
             "recipient": "recipient"}
SOURCE = "dozan mobile actions (Apache-2.0)"
TRIGGER = "You are a model that can do function calling with the following functions"

MASCULINE = frozenset(words("""
        له به كلمو موبايله وله إليه عليه وقله وقوله وقوله واكتبله ابعتله تقله تقوله وتكتبله ليه نمرته ونمرته نمرتو
        ونمرتو رقمه ورقمه إيميله وإيميله وبريده جواله وجواله وموبايله ديالو مكالمته كلمه اشتقتله دقله توحشتو وحشني
        ضيفه خزنه زيدو متسجل مسجل مسجلش يرد يخص صاحبه هاتفه وهاتفه"""))
FEMININE = frozenset(words("""
        لها بها موبايلها هاتفها إليها عليها وقلها وقولها واكتبلها ابعتلها تقلها تقولها وتكتبلها ليها نمرتها ونمرتها
        رقمها ورقمها إيميلها وإيميلها وبريدها جوالها وجوالها وموبايلها ديالها مكالمتها كلمها ضيفها متسجلة مسجلة"""))


@dataclass(frozen=True)
class Draft:
    """A request before it becomes a row; `calls` is empty for a text answer."""

    dialect: str
    kind: str
    template: str
    text: str
    now: datetime
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    kinds: tuple[dict[str, str], ...] = ()
    answer: str = ""
    keys: tuple[str, ...] = ()
    clitic: bool = False


def half(dialect: Dialect, where: str) -> Half:
    """The side of the dialect that a split may use."""
    found: Half | None = getattr(dialect, where)
    assert found is not None, f"{dialect.name} has no {where} half"
    return found


def gender(frame: str) -> str:
    """The gender that the words of a frame ask of the person in it: "m", "f", or "" for either."""
    words = set(SLOT.sub(" ", frame).split())
    assert not (words & MASCULINE and words & FEMININE), frame
    return "m" if words & MASCULINE else "f" if words & FEMININE else ""


def open_value(slot: str, frame: str, first: str, dialect: Dialect, where: str, rng: random.Random) -> str:
    """A value for a slot that is copied; `first` is the first name of a contact."""
    if slot == "email":
        return values.own_email(first, rng)
    if slot == "phone":
        return values.phone(dialect.name, rng)
    if slot == "recipient":
        return values.recipient(half(dialect, where), where, dialect.name, gender(frame), rng)
    if slot == "body" and "{to}" in frame:
        return rng.choice(values.EMAIL_BODIES[where])
    if slot == "body":
        return values.body(half(dialect, where), rng)
    makers = {"to": values.email, "subject": values.subject, "title": values.title, "query": values.place,
              "city": values.city}
    return makers[slot](where, rng)


def moment_for(tool: str, found: list[str], dialect: Dialect, where: str, rng: random.Random) -> times.Moment:
    """A time for the slots; one counted from now only where a single slot holds all of it."""
    if "when" in found and rng.random() < times.RELATIVE_SHARE:
        return times.relative_moment(dialect.time, where, rng)
    return times.fixed_moment(dialect.time, tool, where, rng)


def call_draft(tool: str, frame: str, template: str, dialect: Dialect, where: str, rng: random.Random) -> Draft:
    """One call from a frame."""
    found = slots(frame)
    said: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    now = times.random_now(rng)
    keys: tuple[str, ...] = ()
    if {"first", "last"} & set(found):
        said["first"], said["last"] = values.person(where, dialect.name, gender(frame), rng)
    for slot in found:
        if slot in ARGUMENTS:
            value = said.get(slot) or open_value(slot, frame, said.get("first", ""), dialect, where, rng)
            said[slot] = times.digits(value, rng) if slot == "phone" else value
            arguments[ARGUMENTS[slot]], kinds[ARGUMENTS[slot]] = value, "copied"
    if "duration" in found:
        minutes = rng.choice(times.TIMER_MINUTES[where])
        said["duration"], copied = times.lasting(dialect.time, minutes, rng)
        arguments["minutes"], kinds["minutes"] = minutes, "copied" if copied else "computed"
    if {"when", "clock"} & set(found):
        moment = moment_for(tool, found, dialect, where, rng)
        said.update(when=times.say(moment, rng), day=moment.day, clock=moment.clock)
        now, keys = moment.now, (moment.key,)
        arguments["datetime"], kinds["datetime"] = f"{moment.meant:%Y-%m-%dT%H:%M:00}", "computed"
    text = fill(frame, said)
    return Draft(dialect.name, "call", template, text, now, ((tool, arguments),), (kinds,), keys=keys,
                 clitic=has_clitic(frame))


def polite(draft: Draft, frame: str, dialect: Dialect, rng: random.Random) -> Draft:
    """The draft with a polite opener or tail, or neither; a free text at the end takes no tail."""
    text = draft.text
    if rng.random() < 0.25:
        text = f"{rng.choice(dialect.openers)} {text}"
    elif rng.random() < 0.2 and not frame.endswith(("{body}", "{subject}", "{title}")):
        text = f"{text} {rng.choice(dialect.tails)}"
    return replace(draft, text=text)


def clauses(block: str) -> list[tuple[str, str]]:
    """(tool, plain frame) of every clause."""
    pairs = (line.split(": ", 1) for line in lines(block))
    return [(tool, frame) for tool, line in pairs for frame in expand(line)]


def parallel_draft(choices: list[tuple[str, str]], dialect: Dialect, where: str, rng: random.Random) -> Draft:
    """Two calls of different tools in one request; at most one of them has a time, and a free text comes last.

    choices: the (tool, plain frame) clauses to join.
    """
    while True:
        (tool, frame), (other, second) = rng.sample(choices, 2)
        timed = [name for name in (tool, other) if name in ("set_alarm", "create_calendar_event")]
        lights = {tool, other} == {"turn_on_flashlight", "turn_off_flashlight"}
        if tool != other and len(timed) < 2 and not lights and tool != "send_message":
            break
    parts = [call_draft(name, text, "", dialect, where, rng) for name, text in ((tool, frame), (other, second))]
    join = rng.choice(dialect.joins)
    now = parts[1].now if parts[1].keys else parts[0].now
    return Draft(dialect.name, "parallel", f"{dialect.name}/{tool}+{other}/{where}:{frame}{join}{second}",
                 f"{parts[0].text}{join}{parts[1].text}", now, parts[0].calls + parts[1].calls,
                 parts[0].kinds + parts[1].kinds, keys=parts[0].keys + parts[1].keys)


def no_call_draft(request: str, answers: str, template: str, dialect: Dialect, rng: random.Random) -> Draft:
    """A request that gets a text answer."""
    return Draft(dialect.name, "no_call", template, request, times.random_now(rng), answer=rng.choice(expand(answers)))


def row(draft: Draft, name: str) -> dict[str, Any]:
    """The canonical row of a draft."""
    calls = [{"type": "function", "function": {"name": tool, "arguments": arguments}}
             for tool, arguments in draft.calls]
    reply = {"role": "assistant", "tool_calls": calls} if calls else {"role": "assistant", "content": draft.answer}
    messages = [{"role": "developer", "content": TRIGGER}, {"role": "developer", "content": times.stamp(draft.now)},
                {"role": "user", "content": draft.text}, reply]
    kinds = [call or "absent" for call in draft.kinds]
    return {"id": name, "source": SOURCE, "dialect": draft.dialect, "kind": draft.kind, "template": draft.template,
            "tools": "tools.json", "argument_kinds": kinds, "messages": messages}
