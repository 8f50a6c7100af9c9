"""Repairs of texts: damaged encodings, and characters that hide, turn or double what is written.

What users and models say keeps its spelling. In gold arguments and declarations, where a value must match, tatweel and
Persian letters go as well. Whatever is lost (U+FFFD, NUL, C1) stays, for a person to look at.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

from dozan.check.fixes.repair import Log
from dozan.rows.arabic import encoding_damage, repair_encoding
from dozan.rows.example import Json

Kind = Literal["said", "gold", "schema"]
"""What a text is: something said in the conversation, part of a call, or part of a declaration."""

_PLAIN = re.compile(r"[\t\n\r -~\u060c\u061b\u061f\u0621-\u063a\u0641-\u064a\u0660-\u066b]*")
_LATIN_CODE, _ARABIC_CODE, _TWICE_CODE = "DZ501", "DZ502", "DZ503"
_ESCAPES = re.compile(r"(?:\\u0[0-9a-fA-F]{3})+")
_CODE_FENCE = "```"
_QUIET_LEFT = re.compile("\u202d([\t -~]*)(?:\u202c|$)")
_QUIET_RIGHT = re.compile("\u202e([\u0621-\u063a\u0641-\u0652 ]*)(?:\u202c|$)")
_BIDI = re.compile("[\u200e\u200f\u061c\u202a-\u202c\u2066-\u2069]")
_ZERO_WIDTH = re.compile("[\u200b\u200c\u2060\ufeff]|\u200d(?![\u2600-\u27bf\U0001f000-\U0001faff])")
_SEPARATORS = re.compile("[\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_PRESENTATION = re.compile("[\ufb50-\ufdff\ufe70-\ufefc]")
_SPACING_MARKS = re.compile("[\ufe70-\ufe7f]")
_FARSI = str.maketrans("\u06cc\u06a9", "\u064a\u0643")
_PERSIAN = re.compile("[پچژگ]")
_JOINING = re.compile("(?<![\u0620-\u0652])([وف]?[هبكل])\u0640(?![\u0620-\u0652])")
_TATWEEL = "\u0640"
_MOST_PASSES = 3


def fix_text(text: str, path: str, kind: Kind, log: Log) -> str:
    """The repaired text; each step that changes something is logged."""
    if _PLAIN.fullmatch(text) and "\\u0" not in text and (text.count("ط") + text.count("ظ")) * 5 <= len(text):
        return _stepped(text, path, log, _TRIM) if kind == "gold" and text != text.strip() else text
    text = _fix_encoding(text, path, log)
    text = _stepped(text, path, log, _EVERYWHERE)
    if kind != "said":
        text = _stepped(text, path, log, _MATCHED)
    return _stepped(text, path, log, _TRIM) if kind == "gold" else text


def fix_texts(value: Json, path: str, kind: Kind, log: Log) -> Json:
    """A value with every string in it repaired, keys too in gold and schema; the same object when nothing changed."""
    if isinstance(value, str):
        return fix_text(value, path, kind, log)
    if isinstance(value, list):
        items = [fix_texts(item, f"{path}[{i}]", kind, log) for i, item in enumerate(value)]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if not isinstance(value, Mapping):
        return value
    fixed: dict[str, Json] = {}
    same = True
    for key, item in value.items():
        name = _fix_key(key, value, f"{path}.{key}", kind, log)
        fixed[name] = fix_texts(item, f"{path}.{key}", kind, log)
        same = same and name is key and fixed[name] is item
    return value if same else fixed


def _fix_key(key: str, value: Mapping[str, Json], path: str, kind: Kind, log: Log) -> str:
    """A key's repaired name, unless it is empty or another key has it."""
    if kind == "said" or key.isascii():
        return key
    own = Log(log.chosen)
    name = fix_text(key, path, kind, own)
    if name is key or not name or name in value:
        return key
    log.repairs += own.repairs
    return name


def _stepped(text: str, path: str, log: Log, steps: tuple[tuple[str, Callable[[str], str]], ...]) -> str:
    for code, step in steps:
        if log.wants(code):
            changed = step(text)
            if changed != text:
                log.add(code, path, text, changed)
                text = changed
    return text


def _fix_encoding(text: str, path: str, log: Log) -> str:
    said = encoding_damage(text)
    if said is None or "read as" not in said:
        return text
    restored = repair_encoding(text)
    if restored is None:
        restored = _by_parts(text)
    if restored is None or restored == text:
        return text
    twice = repair_encoding(text) is not None and _passes(restored, text) > 1
    code = _TWICE_CODE if twice else _ARABIC_CODE if "cp1256" in said else _LATIN_CODE
    if not log.wants(code):
        return text
    log.add(code, path, text, restored)
    return restored


def _by_parts(text: str) -> str | None:
    """A text of which only parts were misread, by ftfy with all but its decoding of UTF-8 turned off."""
    import ftfy

    settings = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, replace_lossy_sequences=False, fix_c1_controls=False,
        fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False, fix_line_breaks=False,
        fix_surrogates=False, remove_control_chars=False, normalization=None, explain=False,
    )  # fmt: skip
    restored = ftfy.fix_text(text, settings)
    return restored if encoding_damage(restored) is None and "\ufffd" not in restored else None


def _passes(restored: str, text: str) -> int:
    """How often the text was misread: each time multiplies the bytes of its Arabic letters."""
    step, passes = restored, 0
    while len(step) < len(text) and passes < _MOST_PASSES:
        step, passes = step.encode("utf-8", "replace").decode("latin-1"), passes + 1
    return passes


def _parse_escapes(text: str) -> str:
    """Letters for their JSON escapes; the whole text when it is the inside of a JSON string. Code is left alone."""
    if "\\u0" not in text or _CODE_FENCE in text:
        return text
    if text.isascii() and re.search(r"\\u06", text):
        try:
            whole = json.loads(f'"{text}"', strict=True)
        except ValueError:
            whole = ""
        if whole and all(map(_shown, whole)):
            return str(whole)
    return _ESCAPES.sub(lambda run: _parsed_run(run.group()), text)


def _parsed_run(run: str) -> str:
    letters = str(json.loads(f'"{run}"'))
    return letters if all(letter >= "\u00a0" and _shown(letter) for letter in letters) else run


def _shown(letter: str) -> bool:
    """Whether a character may come out of an escape: no control, no surrogate, nothing unassigned; line breaks may."""
    return letter in "\t\n\r" or unicodedata.category(letter) not in ("Cc", "Cs", "Cn", "Co")


def _drop_quiet_overrides(text: str) -> str:
    """Without overrides that turn nothing: left to right around ASCII, right to left around Arabic letters."""
    return _QUIET_RIGHT.sub(r"\1", _QUIET_LEFT.sub(r"\1", text))


def _drop_bidi(text: str) -> str:
    """Without bidi controls, in a text that has no override (whose end would go with them)."""
    return text if "\u202d" in text or "\u202e" in text else _BIDI.sub("", text)


def _plain_spaces(text: str) -> str:
    return _SPACES.sub(" ", _SEPARATORS.sub("\n", text))


def _plain_letters(text: str) -> str:
    return _PRESENTATION.sub(lambda found: _letters(found.group()), text)


def _letters(form: str) -> str:
    """The letters of a presentation form; a mark's spacing form is the mark."""
    plain = unicodedata.normalize("NFKC", form)
    return plain[-1:] if _SPACING_MARKS.match(form) else plain


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _arabic_letters(text: str) -> str:
    """Arabic ya and kaf, unless other letters tell that the text is Persian or Urdu."""
    return text if len(_PERSIAN.findall(text)) > 1 else text.translate(_FARSI)


def _drop_tatweel(text: str) -> str:
    """Without tatweel, but for that of a letter that stands alone: لـ 5, and هـ after a Hijri year."""
    if _TATWEEL not in text:
        return text
    kept = _JOINING.sub("\\1\ue000", text)
    return kept.replace(_TATWEEL, "").replace("\ue000", _TATWEEL)


_EVERYWHERE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("DZ504", _parse_escapes),
    ("DZ510", _drop_quiet_overrides),
    ("DZ511", _drop_bidi),
    ("DZ512", lambda text: _ZERO_WIDTH.sub("", text)),
    ("DZ513", _plain_spaces),
    ("DZ514", _plain_letters),
    ("DZ515", _nfc),
)
_MATCHED: tuple[tuple[str, Callable[[str], str]], ...] = (("DZ516", _arabic_letters), ("DZ427", _drop_tatweel))
_TRIM: tuple[tuple[str, Callable[[str], str]], ...] = (("DZ429", str.strip),)
