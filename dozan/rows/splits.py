"""Splits that do not leak: rows with the same sentence pattern stay on one side, and near-duplicates are found."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from dozan.errors import InputError
from dozan.rows.arabic import fold
from dozan.rows.example import Example, Json
from dozan.rows.groups import KeyGroups

_NUMBER = re.compile(r"(?<!\w)(?:[وفبلك]{0,2}(?:ال)?)?[0-9]+(?:[.,:/-][0-9]+)*")
_ARABIC_NUMBERS = """
واحد واحده اثنان اثنين اتنين اثنتين ثلاث ثلاثه تلاته اربع اربعه خمس خمسه ست سته سبع سبعه ثمان ثمانيه تمانيه تسع تسعه
عشر عشره عشرون عشرين ثلاثون ثلاثين تلاتين اربعون اربعين خمسون خمسين ستون ستين سبعون سبعين ثمانون ثمانين تمانين
تسعون تسعين نص نصف ربع ثلث مئه مائه ميه مئتين ميتين مئتان الف الاف الفين مليون
"""
_ENGLISH_NUMBERS = """
one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty seventy eighty
ninety hundred thousand half quarter
"""
_CLITICS = "[وفبلك]{0,2}(?:ال|لل)?"
_NUMBER_WORDS = re.compile(
    rf"(?<!\w)(?:{_CLITICS}(?:{'|'.join(_ARABIC_NUMBERS.split())})|{'|'.join(_ENGLISH_NUMBERS.split())})(?!\w)"
)
_WORD, _WORDS = re.compile(r"\w+"), re.compile(r"(\w+)")
_ATTACHED = frozenset(
    first + second + article for first in ("", *"وفبلك") for second in ("", *"وفبلك") for article in ("", "ال", "لل")
)
_VALUE, _COUNT = "V", "N"
_COMPARED = 16
"""Groups of which the best is held out: enough for even shares, few enough to leave the choice to the seed."""


def last_user_text(example: Example) -> str:
    """The text of the last user message; empty when there is none."""
    for message in reversed(example.messages):
        if message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [content]
            texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
            return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def sentence_pattern(example: Example) -> str:
    """The last user text, folded, with the gold arguments' values, digits and number words masked.

    "شغل النور في المطبخ" and "شغّل النور في الصالة" have one pattern when the room is an argument. A value is found with
    clitics attached (بالمطبخ, للمطبخ), longer values first; punctuation is left out.
    """
    text = fold(last_user_text(example))
    values = {fold(value) for message in example.messages for value in _gold_values(message)}
    pieces = _WORDS.split(text)
    for value in sorted(values, key=lambda value: (-len(value), value)):
        _mask_value(pieces, value)
    text = _NUMBER_WORDS.sub(_COUNT, _NUMBER.sub(_COUNT, "".join(pieces)))
    words = re.sub(r"[\W_]+", " ", text).split()
    return " ".join(
        word for i, word in enumerate(words) if word not in (_VALUE, _COUNT) or i == 0 or words[i - 1] != word
    )


def split_rows(
    examples: Sequence[Example], share: float, seed: int, by: Callable[[Example], str] = sentence_pattern
) -> tuple[list[Example], list[Example]]:
    """(train, held out): about `share` of the rows held out, by whole groups of equal `by`, in the rows' own order.

    The same rows, share and seed give the same split. Raises InputError when the rows cannot be divided.
    """
    require_share(share)
    if share == 0:
        return list(examples), []
    held = KeyGroups(map(by, examples)).hold_out(share, seed)
    train = [example for example, is_held in zip(examples, held, strict=True) if not is_held]
    return train, [example for example, is_held in zip(examples, held, strict=True) if is_held]


def require_share(share: float) -> None:
    """Raises InputError for what is no share of rows to hold out."""
    if not 0 <= share < 1:
        raise InputError(f"holdout: {share} is no share of rows; give 0 (none) or more, and less than 1, such as 0.1")


def joined_groups(*groupings: Sequence[Hashable]) -> list[int]:
    """The groups of rows that are together in any of some groupings, each named by the number of its first row."""
    parents = list(range(len(groupings[0])))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for grouping in groupings:
        first: dict[Hashable, int] = {}
        for row, key in enumerate(grouping):
            left, right = root(first.setdefault(key, row)), root(row)
            parents[max(left, right)] = min(left, right)
    return [root(row) for row in range(len(parents))]


def row_labels(example: Example) -> tuple[str, str, str]:
    """What a held-out part should have as often as the rest: the tool called, the dialect, the kind of row."""
    called = [call.get("function", call) for m in example.messages for call in m.get("tool_calls") or ()]
    names = sorted({str(function.get("name")) for function in called if isinstance(function, Mapping)})
    answers = any(message.get("role") == "tool" for message in example.messages)
    kind = (
        "no call" if not called else "with results" if answers else "one call" if len(called) == 1 else "several calls"
    )
    return f"tool {' + '.join(names) or 'none'}", f"dialect {example.meta.get('dialect') or 'none'}", f"kind {kind}"


def choose_heldout(groups: Sequence[Hashable], labels: Sequence[Sequence[str]], share: float, seed: int) -> list[bool]:
    """For each row whether it is held out: about `share` of the rows, by whole groups, and of the rows of each label.

    Groups are taken in an order by the seed, for the rarest label first, and held out when that brings the shares of
    their labels nearer to `share`; those larger than a tenth of what is to be held out come last, so that the part is
    not one sentence many times over.
    The same groups, labels, share and seed give the same answer. Raises InputError when the rows cannot be divided.
    """
    if not 0 < share < 1:
        raise InputError(f"holdout: {share} is no share of rows; give more than 0 and less than 1, such as 0.1")
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    if len(members) < 2:
        raise InputError(
            f"holdout: all {len(groups)} rows are alike and cannot be divided; give a file of evaluation rows instead"
        )
    order = list(members.values())
    random.Random(seed).shuffle(order)
    wanted = max(1, round(share * len(groups)))
    order.sort(key=lambda rows: len(rows) * 10 > max(10, wanted))
    drawn = _Drawn(order, labels, share, wanted)
    for label in sorted(drawn.needs, key=lambda label: (drawn.needs[label], label)):
        drawn.draw(label)
    drawn.draw(None)
    if not drawn.rows:
        drawn.rows.update(members[min(members, key=lambda group: len(members[group]))])
    return [row in drawn.rows for row in range(len(groups))]


class _Drawn:
    """The rows held out so far, and how many each label still needs; rare labels are served first."""

    def __init__(
        self, order: Sequence[Sequence[int]], labels: Sequence[Sequence[str]], share: float, wanted: int
    ) -> None:
        self.rows: set[int] = set()
        self.needs = {label: share * n for label, n in Counter(label for row in labels for label in row).items()}
        self._scale = {label: max(1.0, need) for label, need in self.needs.items()}
        self._left = wanted
        self._groups = [(rows, Counter(label for row in rows for label in labels[row])) for rows in order]
        self._with: dict[str | None, list[int]] = {None: list(range(len(order)))}
        for i, (_, counts) in enumerate(self._groups):
            for label in counts:
                self._with.setdefault(label, []).append(i)

    def draw(self, label: str | None) -> None:
        """Holds out groups with the label until it needs no more; any that bring the shares nearer, without one."""
        waiting = self._with.get(label, [])
        at, window = 0, list[int]()
        while self._left > 0 and (label is None or self.needs[label] >= 0.5):
            while at < len(waiting) and len(window) < _COMPARED:
                window += [waiting[at]] if self._groups[waiting[at]][0][0] not in self.rows else []
                at += 1
            gains = {i: self._gain(i) for i in window}
            window = [i for i in window if gains[i] > 0]
            if not window and at == len(waiting):
                return
            if window:
                best = max(window, key=lambda i: gains[i])
                window.remove(best)
                self._take(best)

    def _gain(self, i: int) -> float:
        """How much nearer a group's row brings the shares, on average; 0 when the group is too large."""
        rows, counts = self._groups[i]
        if len(rows) > self._left:
            return 0.0
        return sum((2 * self.needs[name] - n) * n / self._scale[name] for name, n in counts.items()) / len(rows)

    def _take(self, i: int) -> None:
        rows, counts = self._groups[i]
        self._left -= len(rows)
        self.rows.update(rows)
        for name, n in counts.items():
            self.needs[name] -= n


def near_duplicates(
    train: Sequence[Example], test: Sequence[Example], threshold: float = 0.8
) -> list[tuple[int, int, float]]:
    """(index in train, index in test, similarity) of rows whose last user texts are alike, most alike first.

    Similarity is the Jaccard index of the sets of character trigrams of the folded texts; all pairs of at least
    `threshold` are found. Two sets so alike share one of the rarest trigrams of each, so only those are looked up.
    """
    left, right = ([_grams(last_user_text(example)) for example in rows] for rows in (train, test))
    frequency = Counter(gram for grams in (*left, *right) for gram in grams)
    index: dict[str, list[int]] = {}
    for i, grams in enumerate(left):
        for gram in _rarest(grams, frequency, threshold):
            index.setdefault(gram, []).append(i)
    pairs: list[tuple[int, int, float]] = []
    for j, grams in enumerate(right):
        candidates = {i for gram in _rarest(grams, frequency, threshold) for i in index.get(gram, ())}
        for i in sorted(candidates):
            shared = len(grams & left[i])
            similarity = shared / (len(grams) + len(left[i]) - shared)
            if similarity >= threshold:
                pairs.append((i, j, similarity))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[1], pair[0]))


def _gold_values(message: Mapping[str, Json]) -> Iterator[str]:
    """The strings in the arguments of a message's calls."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                continue
        yield from _strings(arguments)


def _strings(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _mask_value(pieces: list[str], value: str) -> None:
    """Puts V for a folded value where it stands as whole words, each with clitics or the article attached.

    pieces: a text cut at its words, which have odd places. By hand, because a pattern compiled for each value took a
    third of the time that rows take to be prepared.
    """
    words = _WORD.findall(value)
    stems = [word[2:] if word.startswith("ال") and len(word) > 3 else word for word in words]
    at = 1
    while words and at + 2 * len(stems) <= len(pieces):
        if all(_is_stem(pieces[at + 2 * i], stem) for i, stem in enumerate(stems)):
            pieces[at : at + 2 * len(stems) - 1] = [_VALUE]
        at += 2


def _is_stem(word: str, stem: str) -> bool:
    return word.endswith(stem) and (len(word) == len(stem) or word[: -len(stem)] in _ATTACHED)


def _grams(text: str) -> frozenset[str]:
    """Character trigrams of a folded text without punctuation, padded at its ends."""
    plain = "  " + " ".join(re.findall(r"\w+", fold(text))) + "  "
    return frozenset(plain[i : i + 3] for i in range(len(plain) - 2))


def _rarest(grams: frozenset[str], frequency: Mapping[str, int], threshold: float) -> list[str]:
    """The rarest grams, one of which any set at least `threshold` alike must share."""
    kept = len(grams) - math.ceil(threshold * len(grams)) + 1
    return sorted(grams, key=lambda gram: (frequency[gram], gram))[:kept]
