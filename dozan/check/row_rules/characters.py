"""DZ501 to DZ529: damaged encodings, and characters that hide, turn or double the text.

Every text of the row is looked at once: messages, calls, and (once a tool list) declarations.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.view import RowView, texts
from dozan.rows.arabic import encoding_damage, plain_forms, repair_encoding
from dozan.rows.identity import MadeOnce

_READ_AGAIN = "Read the source again in its own encoding; dozan restores what can be restored without loss."
_MISREAD = "The model learns letters that no user types."
_LOST_WHY = "What stood there is lost; the model learns the damage."
_UNSEEN = "Nobody sees it, and every comparison and copy fails on it."

LATIN = Rule("DZ501", "mojibake-latin", "error", "row", "UTF-8 read as latin-1 or cp1252", _MISREAD, _READ_AGAIN, True)
ARABIC_WINDOWS = Rule(
    "DZ502",
    "mojibake-cp1256",
    "error",
    "row",
    "UTF-8 read as cp1256, Arabic Windows",
    _MISREAD + " All of them are Arabic, so that language detection passes it.",
    _READ_AGAIN,
    True,
)
TWICE = Rule("DZ503", "mojibake-twice", "error", "row", "UTF-8 misread more than once", _MISREAD, _READ_AGAIN, True)
ESCAPES = Rule(
    "DZ504",
    "literal-escapes",
    "error",
    "row",
    "JSON escapes (\\u0627) in the text",
    "It was dumped to JSON twice: the model learns backslashes for letters.",
    "Parse the text once more.",
    True,
)
REPLACED = Rule(
    "DZ505",
    "replacement-character",
    "error",
    "row",
    "U+FFFD, a character that could not be read",
    _LOST_WHY,
    "Go back to the source, or take the row out.",
)
NUL = Rule("DZ506", "nul", "error", "row", "A NUL character", "Programs in C end the text there.", "Take it out.")
C1 = Rule(
    "DZ507",
    "c1-control",
    "error",
    "row",
    "A C1 control character (U+0080 to U+009F)",
    "The mark of a misread encoding that cannot be undone here.",
    "Go back to the source.",
)
SURROGATE = Rule(
    "DZ508",
    "half-surrogate",
    "error",
    "row",
    "Half of a surrogate pair",
    "It is no character, and cannot be encoded.",
    "Write the character itself.",
)
CONTROL = Rule(
    "DZ509",
    "control-in-text",
    "warning",
    "row",
    "A control character other than tab and line break",
    _UNSEEN,
    "Take it out.",
)
OVERRIDE = Rule(
    "DZ510",
    "bidi-override",
    "error",
    "row",
    "U+202D or U+202E, which turn the reading order",
    "What a reader sees is not what the model reads: a security risk.",
    "Take it out.",
    True,
)
BIDI = Rule(
    "DZ511", "bidi-control", "warning", "row", "A bidi control", _UNSEEN, "Take it out; isolate when showing.", True
)
ZERO_WIDTH = Rule("DZ512", "zero-width", "warning", "row", "A zero-width character", _UNSEEN, "Take it out.", True)
ODD_SPACE = Rule(
    "DZ513",
    "odd-space",
    "warning",
    "row",
    "A space that is not the plain one",
    "It tokenises otherwise than the space that users type.",
    "Write a plain space.",
    True,
)
PRESENTATION = Rule(
    "DZ514",
    "presentation-forms",
    "warning",
    "row",
    "Arabic presentation forms",
    "Shapes of letters, as PDF files give them: other tokens than the letters.",
    "Write the letters.",
    True,
)
NOT_NFC = Rule(
    "DZ515",
    "not-nfc",
    "warning",
    "row",
    "Text that is not in NFC",
    "The same marks in another order are other tokens.",
    "Normalise to NFC.",
    True,
)
FARSI = Rule(
    "DZ516",
    "farsi-letters",
    "warning",
    "row",
    "Farsi ya or kaf in Arabic text",
    "They look alike, and match nothing.",
    "Write ي (or ى) and ك.",
    True,
)
DIGITS_MIXED = Rule(
    "DZ517",
    "digits-mixed",
    "warning",
    "row",
    "Arabic-Indic and other digits in one number",
    "Half converted text.",
    "Write the number in one kind of digit.",
)
ENTITIES = Rule(
    "DZ518",
    "html-entities",
    "warning",
    "row",
    "HTML entities in the text",
    "It was taken from a page without being decoded.",
    "Decode them.",
)

RULES = Catalog([
    LATIN, ARABIC_WINDOWS, TWICE, ESCAPES, REPLACED, NUL, C1, SURROGATE, CONTROL, OVERRIDE, BIDI, ZERO_WIDTH, ODD_SPACE,
    PRESENTATION, NOT_NFC, FARSI, DIGITS_MIXED, ENTITIES,
])  # fmt: skip

_PLAIN = re.compile(r"[\t\n\r -~\u060c\u061b\u061f\u0621-\u063a\u0641-\u0652\u0660-\u066b]*")
_MARKS = re.compile("[\u064b-\u0652]")
_MIXED = re.compile("[0-9][٠-٩۰-۹]|[٠-٩][0-9۰-۹]|[۰-۹][0-9٠-٩]")
_ONES: tuple[tuple[Rule, re.Pattern[str], str], ...] = (
    (REPLACED, re.compile("\ufffd"), "the original character is lost"),
    (NUL, re.compile("\x00"), "take it out"),
    (C1, re.compile("[\x80-\x84\x86-\x9f]"), "the mark of a misread encoding"),
    (SURROGATE, re.compile("[\ud800-\udfff]"), "write the character itself"),
    (CONTROL, re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\x85]"), "take it out"),
    (OVERRIDE, re.compile("[\u202d\u202e]"), "turns the reading order and hides text; take it out"),
    (BIDI, re.compile("[\u200e\u200f\u061c\u202a-\u202c\u2066-\u2069]"), "take it out"),
    (
        ZERO_WIDTH,
        re.compile("[\u200b\u200c\u2060\ufeff]|\u200d(?![\u2600-\u27bf\U0001f000-\U0001faff])"),
        "take it out",
    ),
    (ODD_SPACE, re.compile("[\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"), "write a plain space"),
    (DIGITS_MIXED, _MIXED, "write the number in one kind of digit"),
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,5});")
_ESCAPE = re.compile(r"\\u0[0-9a-fA-F]{3}")
_FARSI = re.compile("[\u06cc\u06a9]")
_PERSIAN = re.compile("[پچژگ]")
_MOST_PASSES = 3


def character_findings(view: RowView) -> Iterator[Found]:
    """Every text of the row's messages and tools; nothing where the row is nested too deeply to be read."""
    if view.deep:
        return
    for i, message in enumerate(view.example.messages):
        for path, text in texts(message, f"messages[{i}]"):
            yield from _of_text(path, text)
    tools = tuple(view.example.tools)
    yield from _TOOLS.get(tools, lambda: tuple(f for i, t in enumerate(tools) for p in texts(t, f"tools[{i}]")
                                               for f in _of_text(*p)))  # fmt: skip


_TOOLS: MadeOnce[tuple[Found, ...]] = MadeOnce()


def _of_text(path: str, text: str) -> Iterator[Found]:
    if text.isascii():
        if "\\u0" not in text and "&" not in text and text.isprintable():
            return
    elif _PLAIN.fullmatch(text) and not _suspicious(text):
        return
    damage = _damage(text)
    if damage is not None:
        yield damage, path, f"{text[:40]!r}{_restored(text)}"
        if damage in (LATIN, ARABIC_WINDOWS, TWICE):
            return
    for rule, pattern, remedy in _ONES:
        found = pattern.search(text)
        if found:
            code = " ".join(f"U+{ord(character):04X}" for character in found.group())
            yield rule, path, f"holds {code} at {found.start()}; {remedy}"
    yield from _letters(path, text)
    found = _ENTITY.search(text)
    if found:
        yield ENTITIES, path, f"holds {found.group()} at {found.start()}; decode it"


def _suspicious(text: str) -> bool:
    """Whether text of plain characters can still be wrong: too many ط and ظ, marks out of order, escapes."""
    often = (text.count("ط") + text.count("ظ")) * 5 > len(text)
    if often or "\\u0" in text or "&" in text or _MIXED.search(text):
        return True
    return _MARKS.search(text) is not None and not _is_nfc(text)


def _is_nfc(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def _damage(text: str) -> Rule | None:
    """What happened to the text's encoding."""
    said = encoding_damage(text)
    if said is None:
        return ESCAPES if _ESCAPE.search(text) else None
    if "dumped twice" in said:
        return ESCAPES
    if "U+FFFD" in said:
        return None
    restored = repair_encoding(text)
    if restored is not None and _passes(restored, text) > 1:
        return TWICE
    return ARABIC_WINDOWS if "cp1256" in said else LATIN


def _passes(restored: str, text: str) -> int:
    """How often UTF-8 was misread to get from `restored` to `text`: each time multiplies its Arabic letters' bytes."""
    step, passes = restored, 0
    while len(step) < len(text) and passes < _MOST_PASSES:
        step, passes = step.encode("utf-8", "replace").decode("latin-1"), passes + 1
    return passes


def _restored(text: str) -> str:
    restored = repair_encoding(text)
    return f"; it was {restored[:40]!r}" if restored is not None else ""


def _letters(path: str, text: str) -> Iterator[Found]:
    """Letters in other forms than Arabic keyboards write."""
    nfc = unicodedata.normalize("NFC", text)
    if plain_forms(text) != nfc:
        yield PRESENTATION, path, "holds presentation forms; write the letters"
    if nfc != text:
        at = next(i for i, (a, b) in enumerate(zip(text, nfc + "\0", strict=False)) if a != b)
        yield NOT_NFC, path, f"is not in NFC from character {at} on"
    found = _FARSI.search(text)
    if found and len(_PERSIAN.findall(text)) < 2:
        yield (
            FARSI,
            path,
            f"holds U+{ord(found.group()):04X} at {found.start()}; write {'ي' if found.group() == 'ی' else 'ك'}",
        )
