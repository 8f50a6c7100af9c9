"""The five purposes of text tuning: what each reads by default, its system text, and how its answers are measured.

Measures look at texts alone and run nothing: an answer's code is parsed, not executed. Recipes of the names here
(`code`, ...) hold the settings of training.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dozan.errors import InputError
from dozan.rows.arabic import ascii_digits, fold
from dozan.rows.example import Example
from dozan.rows.readers import Say, stream_rows
from dozan.rows.shapes.shape import Options

Measure = Callable[[str, str], float]
_FENCE = re.compile(r"```[\w+-]*\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_RUN = 3


@dataclass(frozen=True)
class Purpose:
    """One purpose.

    shapes: the shapes that its data sets have, the usual first. system: the text that rows without one get. ask: the
    request for rows of raw text. measures: by name, from an answer and the reference answer to 0..1.
    """

    name: str
    shapes: tuple[str, ...]
    system: str
    ask: str
    measures: dict[str, Measure]


def python_parses(answer: str, reference: str) -> float:
    """1 when the code of an answer (its fenced blocks, or all of it) is Python that parses and holds something."""
    code = "\n".join(_FENCE.findall(answer)) or answer
    try:
        return float(bool(ast.parse(code).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0


def same_definitions(answer: str, reference: str) -> float:
    """The share of the functions and classes of the reference code that the answer defines, by name; 1 for none."""
    wanted, given = (set(re.findall(r"^\s*(?:def|class)\s+(\w+)", text, re.MULTILINE)) for text in (reference, answer))
    return len(wanted & given) / len(wanted) if wanted else 1.0


def final_number(answer: str, reference: str) -> float:
    """1 when the last number of both texts is equal, whatever its digits and separators."""
    last = [_NUMBER.findall(ascii_digits(text).replace("٬", ",")) for text in (answer, reference)]
    if not all(last):
        return 0.0
    left, right = (float(numbers[-1].replace(",", "")) for numbers in last)
    return float(left == right)


def word_f1(answer: str, reference: str) -> float:
    """F1 over the words of both texts after folding, repeated words counted."""
    left, right = (Counter(re.findall(r"\w+", fold(text))) for text in (answer, reference))
    shared = sum((left & right).values())
    return 2 * shared / (left.total() + right.total()) if shared else 0.0


def without_repeats(answer: str, reference: str) -> float:
    """The share of an answer's runs of three words that differ: low when a text goes round in circles."""
    words = re.findall(r"\w+", fold(answer))
    runs = [tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)]
    return len(set(runs)) / len(runs) if runs else float(bool(words))


def length_ratio(answer: str, reference: str) -> float:
    """The shorter text's words over the longer's."""
    sizes = sorted(len(text.split()) for text in (answer, reference))
    return sizes[0] / sizes[1] if sizes[1] else 1.0


PURPOSES: dict[str, Purpose] = {
    purpose.name: purpose
    for purpose in (
        Purpose(
            "code",
            ("alpaca", "query-answer", "text-code", "content"),
            "You write correct, readable code. Answer with the code.",
            "Write a source file.",
            {"parses": python_parses, "definitions": same_definitions},
        ),
        Purpose(
            "conversation",
            ("sharegpt", "oasst", "oasst-trees", "mobile-actions", "openai", "alpaca"),
            "You are a helpful assistant. Answer clearly, in the language of the question.",
            "Go on.",
            {"word_f1": word_f1, "length_ratio": length_ratio},
        ),
        Purpose(
            "domain",
            ("alpaca", "question-answer", "conversation-note", "text"),
            "You are an expert in your field. Answer precisely, and say what you do not know.",
            "Write a document of the field.",
            {"word_f1": word_f1, "length_ratio": length_ratio},
        ),
        Purpose(
            "creative",
            ("prompt-story", "prompt-text", "text"),
            "You are a writer. Follow the request, with a voice of your own.",
            "Write a short story.",
            {"without_repeats": without_repeats, "length_ratio": length_ratio},
        ),
        Purpose(
            "reasoning",
            ("alpaca", "question-answer", "problem-solution", "query-response", "message1-message2"),
            "Think step by step, and end with the answer.",
            "Explain a problem and solve it.",
            {"final_number": final_number, "word_f1": word_f1},
        ),
    )
}


def purpose_named(name: str) -> Purpose:
    """The purpose of that name; InputError with the nearest and all names when there is none."""
    if name in PURPOSES:
        return PURPOSES[name]
    near = difflib.get_close_matches(name, PURPOSES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"purpose {name!r}: {hint}known are {', '.join(PURPOSES)}")


def read_for(name: str, path: str | Path, shape: str | None = None, say: Say | None = None) -> list[Example]:
    """The rows of a file for a purpose: with its system text, and its request before raw text. See `read_rows`."""
    return list(stream_for(name, path, shape, say))


def stream_for(
    name: str, path: str | Path, shape: str | None = None, say: Say | None = None, beside: list[Path] | None = None
) -> Iterator[Example]:
    """What `read_for` reads, one by one; `beside` gets the files that were read with it. See `stream_rows`."""
    purpose = purpose_named(name)
    options = Options(system=purpose.system, ask=purpose.ask, beside=[] if beside is None else beside)
    return stream_rows(path, shape, say, options)


def measure(name: str, answers: list[str], references: list[str]) -> dict[str, float]:
    """The mean of each measure of a purpose over answers and their references."""
    if len(answers) != len(references) or not answers:
        raise InputError(f"{len(answers)} answers for {len(references)} references; give one for each")
    pairs = list(zip(answers, references, strict=True))
    measures = purpose_named(name).measures
    return {key: sum(one(*pair) for pair in pairs) / len(pairs) for key, one in measures.items()}
