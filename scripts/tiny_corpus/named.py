"""Rows whose sentence names a person or a place that a tool asks for, or asks for nothing that a tool does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from dozan.rows.example import Example
from tiny_corpus import dates, sentences
from tiny_corpus.tasks import NOTHING, TRIGGER, declare, said, tool_set
from tiny_corpus.tools import Parameter, Tool
from tiny_corpus.values import Words

PERSON = Tool(
    ("find_person", "who_is_named", "mentioned_person", "contact_in_text", "people"),
    "Finds the person that the words are about.",
    {"who": Parameter(("name", "person", "who", "recipient", "contact"), "The person, as named", "name")},
    ("who",), (),
)  # fmt: skip
PLACE = Tool(
    ("find_place", "where_is_it", "mentioned_place", "place_in_text"),
    "Finds the place that the words are about.",
    {"where": Parameter(("place", "city", "location", "where"), "The place, as named", "title")},
    ("where",), (),
)  # fmt: skip


def sentence_rows(rng: random.Random, words: Words, count: int) -> Iterator[Example]:
    """Sentences under a tool set that finds people or places, or has nothing to do with them."""
    finders = [tool for tool in (PERSON, PLACE) if rng.random() < 0.7]
    drawn = [declare(rng, tool) for tool in finders] + tool_set(rng, rng.randrange(0 if finders else 2, 6))
    tools = list({named.declaration["function"]["name"]: named for named in reversed(drawn)}.values())
    rng.shuffle(tools)
    found = {named.tool.names: named for named in tools}
    for i in range(count):
        text, person, place = _sentence(rng, words)
        wanted, value = (PERSON, person) if person else (PLACE, place)
        answer: dict[str, Any] = {"role": "assistant", "content": rng.choice(NOTHING)}
        if value and wanted.names in found:
            named = found[wanted.names]
            (key,) = named.names.values()
            function = {"name": named.declaration["function"]["name"], "arguments": {key: value}}
            answer = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
        developer = [TRIGGER, said(rng, dates.random_now(rng))]
        messages = [{"role": "developer", "content": d} for d in developer]
        messages += [{"role": "user", "content": text}, answer]
        yield Example(id=str(i), tools=tuple(t.declaration for t in tools), messages=tuple(messages))


def _sentence(rng: random.Random, words: Words) -> tuple[str, str, str]:
    """A sentence in Arabic (at times in English), and the person or place in it."""
    draw = rng.random()
    if draw < 0.62 and sentences.written():
        english, arabic = rng.choice(sentences.written())
    elif draw < 0.85:
        english, arabic = rng.choice(words.naming)
    else:
        return rng.choice(rng.choice(words.nameless)), "", ""
    slot = sentences.SLOT.search(arabic)
    if slot and sentences.SLOT.search(english) and rng.random() < 0.2:
        arabic = english  # an English sentence with an Arabic name
    _, text, value = sentences.filled(rng, words, "", arabic)
    is_place = slot is not None and slot.group(1) == "place"
    return text, "" if is_place else value, value if is_place else ""
