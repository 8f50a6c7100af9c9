"""DZ701 to DZ705: how a tokenizer cuts the rows' Arabic, English and JSON, against a stated baseline.

Any `tokenizer.json` will do. A piece is a byte piece when it is not a whole character (byte fallback, or a part of a
letter in a byte-level vocabulary): such text can be read back, but each letter costs two steps or more.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from dozan.check.finding import Catalog, Finding, Rule
from dozan.check.view import content_text
from dozan.errors import InputError
from dozan.rows.example import Example, Json

COSTLY = Rule(
    "DZ701", "tokenizer-costly", "warning", "tokenizer", "A language costs half as many tokens again as the baseline",
    "Rows are longer, fewer fit, and each word takes the model more steps to read and to copy.",
    "Take a model whose tokenizer has seen the language.",
)  # fmt: skip
BYTES = Rule(
    "DZ702", "byte-pieces", "warning", "tokenizer", "Over one piece in a hundred is less than a character",
    "The model must spell letters byte by byte, and can write broken ones.",
    "Look at which characters these are; replace odd ones, or take another tokenizer.",
)  # fmt: skip
UNKNOWN = Rule(
    "DZ703", "unknown-pieces", "error", "tokenizer", "Text that the tokenizer has no piece for",
    "What it stands for is lost: the model can neither read nor write it.",
    "Take a tokenizer with byte fallback, or take the characters out.",
)  # fmt: skip
SHATTERED = Rule(
    "DZ704", "shattered-words", "note", "tokenizer", "Words in six pieces or more",
    "Long spellings are where copying goes wrong.",
    "Nothing, when they are rare; frequent ones may have a more usual spelling.",
)  # fmt: skip
FIGURES = Rule(
    "DZ705", "tokenizer-figures", "note", "tokenizer", "Pieces a word and bytes a piece",
    "They decide how long a row is.",
    "Compare tokenizers by them, on your rows.",
)  # fmt: skip
RULES = Catalog([COSTLY, BYTES, UNKNOWN, SHATTERED, FIGURES])

KINDS = ("arabic", "english", "json")
BASELINE_NAME = "Tekken 240911 of mistral-common 1.13.1 (131,072 pieces)"
BASELINE = {"arabic": (1.758, 5.086), "english": (1.199, 3.956), "json": (2.390, 3.732)}
"""Pieces a word and bytes a piece, measured on 12,120 Arabic and 10,961 English sentences of Tatoeba, and on the
declarations of 35 tools for a home; a public vocabulary that was made for Arabic too."""

_COSTLY, _BYTE_SHARE, _SHATTER = 1.5, 0.01, 6
_FEWEST_WORDS = 200
_MOST_ROWS, _MOST_SHOWN, _LONGEST = 2_000, 20, 10_000
_SPEAKERS = ("user", "assistant")
_WORD = re.compile(r"[^\W\d_]+")
_ARABIC = re.compile("[\u0620-\u064a]")
_LATIN = re.compile("[A-Za-z]")
_SEED = 7


@dataclass(frozen=True)
class Cut:
    """How texts of one kind are cut: words (runs of letters), UTF-8 bytes, pieces, byte pieces and unknown pieces."""

    words: int
    bytes: int
    pieces: int
    byte_pieces: int
    unknown: int

    @property
    def pieces_a_word(self) -> float:
        return self.pieces / max(1, self.words)

    @property
    def bytes_a_piece(self) -> float:
        return self.bytes / max(1, self.pieces)


@dataclass(frozen=True)
class TokenizerFigures:
    """What was measured: cuts by kind (`arabic`, `english`, `json`), (word, pieces, how often) of the worst words."""

    name: str
    rows: int
    cuts: dict[str, Cut]
    shattered: tuple[tuple[str, int, int], ...]

    def to_dict(self) -> dict[str, Json]:
        cuts = {
            kind: {
                **asdict(cut),
                "pieces_a_word": round(cut.pieces_a_word, 3),
                "bytes_a_piece": round(cut.bytes_a_piece, 3),
            }
            for kind, cut in self.cuts.items()
        }
        words = [{"word": word, "pieces": pieces, "count": count} for word, pieces, count in self.shattered]
        baseline = {kind: {"pieces_a_word": a, "bytes_a_piece": b} for kind, (a, b) in BASELINE.items()}
        return {"name": self.name, "rows": self.rows, "kinds": cuts, "shattered": words,
                "baseline": {"name": BASELINE_NAME, **baseline}}  # fmt: skip


class Sample:
    """2,000 rows drawn alike from a stream of any length (reservoir sampling, seeded); only their texts are kept."""

    def __init__(self) -> None:
        self.rows = 0
        self._random = random.Random(_SEED)
        self._kept: list[tuple[str, str]] = []

    def add(self, example: Example) -> None:
        self.rows += 1
        if self.rows <= _MOST_ROWS:
            self._kept.append(_texts(example))
        elif (at := self._random.randrange(self.rows)) < _MOST_ROWS:
            self._kept[at] = _texts(example)

    def texts(self) -> tuple[list[str], list[str]]:
        """(what is said, what is JSON: tools and arguments), each line once."""
        said = dict.fromkeys(line for text, _ in self._kept for line in text.split("\n") if line.strip())
        declared = dict.fromkeys(line for _, text in self._kept for line in text.split("\n") if line)
        return list(said), list(declared)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder, for counting. Raises InputError when there is none or it cannot be read."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder that holds a tokenizer.json")
    try:
        text = path.read_text(encoding="utf-8")
        model = json.loads(text)["model"]
        is_known = model["type"] in ("BPE", "Unigram", "WordPiece", "WordLevel") and bool(model["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a tokenizer ({error}); download it again") from None
    if not is_known:
        raise InputError(
            f"{path}: a tokenizer of type {model['type']!r:.40}; give BPE, Unigram, WordPiece or WordLevel"
        )
    return Tokenizer.from_str(text)


def measure(tokenizer: Tokenizer, said: Sequence[str], declared: Sequence[str], name: str = "") -> TokenizerFigures:
    """How a tokenizer cuts lines of speech, told apart by their letters, and texts of JSON."""
    counter = _Counter(tokenizer)
    arabic = [line for line in said if _ARABIC.search(line) and not _LATIN.search(line)]
    english = [line for line in said if _LATIN.search(line) and not _ARABIC.search(line)]
    cuts = {kind: counter.cut(texts) for kind, texts in zip(KINDS, (arabic, english, declared), strict=True)}
    return TokenizerFigures(name, len(said), cuts, counter.shattered([*arabic, *english]))


def tokenizer_findings(figures: TokenizerFigures) -> Iterator[Finding]:
    """What the figures mean, at the tokenizer's name."""
    place = figures.name
    words = "; ".join(
        f"{kind} {cut.pieces_a_word:.2f} pieces a word, {cut.bytes_a_piece:.2f} bytes a piece (baseline "
        f"{BASELINE[kind][0]:.2f}, {BASELINE[kind][1]:.2f})"
        for kind, cut in figures.cuts.items()
        if cut.words
    )
    if words:
        yield Finding(FIGURES, place, "", f"{words}; the baseline is {BASELINE_NAME}")
    for kind, cut in figures.cuts.items():
        ratio = cut.pieces_a_word / BASELINE[kind][0]
        if kind != "json" and cut.words >= _FEWEST_WORDS and ratio > _COSTLY:
            yield Finding(
                COSTLY, place, kind, f"{cut.pieces_a_word:.2f} pieces a word, {ratio:.1f} times the baseline's"
            )
        if cut.byte_pieces > _BYTE_SHARE * max(1, cut.pieces):
            percent = 100 * cut.byte_pieces / cut.pieces
            yield Finding(BYTES, place, kind, f"{cut.byte_pieces} of {cut.pieces} pieces ({percent:.1f} %) are bytes")
        if cut.unknown:
            yield Finding(UNKNOWN, place, kind, f"{cut.unknown} of {cut.pieces} pieces are unknown", count=cut.unknown)
    if figures.shattered:
        listed = ", ".join(f"{word} ({pieces})" for word, pieces, _ in figures.shattered[:8])
        yield Finding(SHATTERED, place, "", f"most pieces: {listed}", count=len(figures.shattered))


class _Counter:
    """Cuts texts, and remembers which ids are bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte: dict[int, bool] = {}
        model = json.loads(tokenizer.to_str())["model"]
        unknown = model.get("unk_token")
        self._unknown = tokenizer.token_to_id(unknown) if isinstance(unknown, str) else model.get("unk_id")

    def cut(self, texts: Sequence[str]) -> Cut:
        ids = Counter(i for found in self._encode(texts) for i in found)
        return Cut(
            words=sum(len(_WORD.findall(text)) for text in texts),
            bytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
            pieces=ids.total(),
            byte_pieces=sum(count for i, count in ids.items() if self._byte(i)),
            unknown=ids[self._unknown] if self._unknown is not None else 0,
        )

    def shattered(self, texts: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
        """The words in most pieces, more frequent ones first among equals."""
        counts = Counter(word for text in texts for word in _WORD.findall(text))
        words = list(counts)
        sizes = [len(ids) for ids in self._encode([f" {word}" for word in words])]
        found = [(w, n, counts[w]) for w, n in zip(words, sizes, strict=True) if n >= _SHATTER]
        return tuple(sorted(found, key=lambda item: (-item[1], -item[2], item[0]))[:_MOST_SHOWN])

    def _encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        safe = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return (found.ids for found in self._tokenizer.encode_batch_fast(safe, add_special_tokens=False))

    def _byte(self, i: int) -> bool:
        if i not in self._is_byte:
            self._is_byte[i] = "\ufffd" in self._tokenizer.decode([i], skip_special_tokens=False)
        return self._is_byte[i]


def _texts(example: Example) -> tuple[str, str]:
    """(what user and assistant say, tools and calls as JSON, one a line), each cut at 10,000 characters."""
    said = "\n".join(content_text(m.get("content")) for m in example.messages if m.get("role") in _SPEAKERS)
    objects = [*example.tools, *(m["tool_calls"] for m in example.messages if m.get("tool_calls"))]
    return said[:_LONGEST], "\n".join(json.dumps(item, ensure_ascii=False) for item in objects)[:_LONGEST]
