"""Arabic text: folding for comparison, digits, and the marks of damaged encodings. Nothing here edits training text.

Folding is for comparing only: diacritics, tatweel, invisible controls and case go; forms of alef, ya and ta marbuta,
Persian letters and presentation forms become one; digits and punctuation become ASCII.
"""

from __future__ import annotations

import re
import unicodedata

_MARKS = re.compile("[\u064b-\u0652\u0670\u06d6-\u06ed]")
_TATWEEL = "\u0640"
_BIDI = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_OVERRIDE = re.compile("[\u202d\u202e]")
_ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060\ufeff]")
_PRESENTATION = re.compile("[\ufb50-\ufdff\ufe70-\ufefc]+")
_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", "01234567890123456789")
_PUNCTUATION = str.maketrans({"٫": ".", "٬": ",", "٪": "%", "،": ",", "؛": ";", "؟": "?"})
_LETTERS = str.maketrans("أإآٱىةیک", "اااايهيك")
_SPACES = re.compile(r"\s+")
_LOST = re.compile("[\x00\x80-\x9f\ufffd\ud800-\udfff]")
_LATIN_DAMAGE = re.compile("(?:[ØÙÚÛ][^\x00-\x7f\u0600-\u06ff]){2}")
_DOUBLE_DUMP = re.compile(r"\\u06[0-9a-fA-F]{2}")
_ARABIC_LETTER = re.compile("[\u0620-\u064a]")
_DAMAGED_SHARE = 0.25


def strip_marks(text: str) -> str:
    """Without tashkeel and Quranic marks (U+064B-0652, 0670, 06D6-06ED)."""
    return _MARKS.sub("", text)


def strip_invisible(text: str) -> str:
    """Without bidi controls and zero-width characters."""
    return _ZERO_WIDTH.sub("", _BIDI.sub("", text))


def ascii_digits(text: str) -> str:
    """Arabic-Indic and Persian digits as 0-9, and the Arabic decimal comma between digits as a point."""
    return re.sub(r"(?<=[0-9])٫(?=[0-9])", ".", text.translate(_DIGITS))


def plain_forms(text: str) -> str:
    """NFC, with Arabic presentation forms (and nothing else) in their plain letters."""
    found = _PRESENTATION.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    return unicodedata.normalize("NFC", found)


def fold(text: str) -> str:
    """The text for comparison: equal for spellings that a reader takes to be the same. Case and spaces fold too."""
    text = strip_invisible(plain_forms(text))
    text = strip_marks(text).replace(_TATWEEL, "").translate(_LETTERS)
    text = ascii_digits(text).translate(_PUNCTUATION)
    return _SPACES.sub(" ", text).strip().casefold()


def has_marks(text: str) -> bool:
    """Whether the text has tashkeel."""
    return _MARKS.search(text) is not None


def has_bidi_override(text: str) -> bool:
    """Whether the text turns reading order round (U+202D, U+202E), which hides what it says."""
    return _OVERRIDE.search(text) is not None


def has_invisible(text: str) -> bool:
    """Whether the text has bidi controls or zero-width characters."""
    return _BIDI.search(text) is not None or _ZERO_WIDTH.search(text) is not None


def encoding_damage(text: str) -> str | None:
    """What happened to the text's encoding, in words, or None: read as cp1252 or cp1256, dumped twice, or lost."""
    if _damaged_share(text) >= _DAMAGED_SHARE and repair_encoding(text) is not None:
        return "UTF-8 read as cp1256"
    if _LATIN_DAMAGE.search(text) or repair_encoding(text) is not None:
        return "UTF-8 read as latin-1 or cp1252"
    if _DOUBLE_DUMP.search(text):
        return "JSON escapes left in the text: it was dumped twice"
    if _LOST.search(text):
        return "holds U+FFFD, NUL, a C1 control or half a surrogate pair"
    return None


def repair_encoding(text: str) -> str | None:
    """The text before its UTF-8 was misread, up to three times over; None when it was not, or cannot be read back."""
    found = text
    for _ in range(3):
        better = _reread_1256(found) or _reread_1252(found)
        if better is None:
            break
        found = better
    letters, before = (len(_ARABIC_LETTER.findall(part)) for part in (found, text))
    is_arabic = letters > 0 and _damaged_share(found) < _DAMAGED_SHARE
    return found if is_arabic and (letters > before or _damaged_share(text) >= _DAMAGED_SHARE) else None


def _damaged_share(text: str) -> float:
    """The share of ط and ظ, which stand for the first bytes of Arabic letters after UTF-8 was read as cp1256."""
    return (text.count("ط") + text.count("ظ")) / max(1, len(text.replace(" ", "")))


def _reread_1256(text: str) -> str | None:
    if _damaged_share(text) < _DAMAGED_SHARE:
        return None
    try:
        return _decoded(text.encode("cp1256"))
    except UnicodeEncodeError:
        return None


def _reread_1252(text: str) -> str | None:
    """The text read back from cp1252; bytes that it does not define stand for themselves, as in latin-1."""
    data = bytearray()
    for character in text:
        try:
            data += character.encode("cp1252")
        except UnicodeEncodeError:
            if ord(character) > 0xFF:
                return None
            data.append(ord(character))
    return None if text.isascii() else _decoded(bytes(data))


def _decoded(data: bytes) -> str | None:
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\ufffd" in found else found
