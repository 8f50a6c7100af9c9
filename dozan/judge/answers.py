"""What an answer comes down to: its final number or its boxed text, and the code that it holds."""

from __future__ import annotations

import ast
import re
from fractions import Fraction

from dozan.rows.arabic import fold, strip_invisible

_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹٫٬−–", "01234567890123456789.,--")
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8",
           "⅞": "7/8", "⅙": "1/6", "⅚": "5/6", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5"}  # fmt: skip
_UNSIGNED = r"(?:\d{1,3}(?:[,،\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\d.])(?P<sign>(?<![\w)])[-+][$€£]?)?"
    rf"(?:(?P<whole>\d+)\s+(?P<above>\d+)\s?[/⁄]\s?(?P<below>\d+)"
    rf"|(?P<top>{_UNSIGNED})\s?[/⁄]\s?(?P<bottom>{_UNSIGNED})|(?P<plain>{_UNSIGNED})(?P<power>[eE][-+]?\d{{1,3}}\b)?)"
)
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MARK = re.compile(r"####\s*([^\n]*)")
_SAID = re.compile(
    r"(?:the\s+)?(?:final\s+)?answer\s*(?:is|=|:)|(?:الجواب|الإجابة|الاجابة|الناتج|النتيجة)(?:\s+النهائ\w+)?\s*(?:هو|هي|:|=)",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"[A-Za-z]\s*[-+*/^]|[-+*/^]\s*[A-Za-z(\\]|\\(?!frac|text|%|\$)[a-z]+")
"""What makes a boxed text more than a number with a unit."""
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


def final_answer(text: str) -> Fraction | str | None:
    """The number that an answer ends in, exactly; text where it boxes or marks something else; None for neither.

    The last `#### x` counts, else the last `\\boxed{x}`, else the first number after the last "the answer is" (الجواب
    هو), else the last number. Digits of both systems, thousands separators, decimals, fractions (3/4, 1 3/4, ¾,
    \\frac), powers (1.2e5), signs; a currency or a percent sign beside a number is not part of it.
    """
    plain = _plain(text)
    marked = _MARK.findall(plain)
    stated = marked[-1] if marked else _boxed(plain)
    if stated is not None and stated.strip():
        value = stated.rpartition("=")[2]
        numbers = [] if _FORMULA.search(value) else _numbers(value)
        return numbers[-1] if numbers else fold(stated).rstrip(".")
    said = list(_SAID.finditer(plain))
    after = _numbers(plain[said[-1].end() :]) if said else []
    if after:
        return after[0]
    numbers = _numbers(plain)
    return numbers[-1] if numbers else None


def same_answer(answer: str, reference: str) -> bool:
    """Whether both texts end in the same answer; a text without one is right never."""
    found = final_answer(answer)
    return found is not None and found == final_answer(reference)


def code_of(answer: str) -> str:
    """The code of an answer: its fenced blocks together when they compile so, else the first that does, else the first;
    without a fence all of it. Blocks of another language than Python are left out."""
    blocks = [body for language, body in _FENCE.findall(answer) if language.lower() in ("", "python", "python3", "py")]
    if not blocks:
        return answer
    together = "\n".join(blocks)
    return together if compiles(together) else next((block for block in blocks if compiles(block)), blocks[0])


def compiles(code: str) -> bool:
    """Whether a text is a program: it is compiled, not run."""
    try:
        return bool(ast.parse(code).body) and bool(compile(code, "<answer>", "exec"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _plain(text: str) -> str:
    """The text with ASCII digits and signs, and with fractions written with a stroke."""
    text = strip_invisible(text).translate(_DIGITS).replace("\\!", "").replace("{,}", ",")
    text = "".join(f" {_VULGAR[letter]} " if letter in _VULGAR else letter for letter in text)
    return _FRAC.sub(r" \1/\2 ", text)


def _boxed(text: str) -> str | None:
    """What the last `\\boxed{...}` holds, braces in it balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return text[start:]


def _numbers(text: str) -> list[Fraction]:
    """Every number of the text, in order; one divided by zero is none."""
    values = (_value(found) for found in _NUMBER.finditer(text))
    return [value for value in values if value is not None]


def _value(found: re.Match[str]) -> Fraction | None:
    sign = -1 if (found["sign"] or "").startswith("-") else 1
    if found["whole"]:
        below = int(found["below"])
        return sign * (int(found["whole"]) + Fraction(int(found["above"]), below)) if below else None
    if found["top"]:
        bottom = _decimal(found["bottom"])
        return sign * _decimal(found["top"]) / bottom if bottom else None
    return sign * _decimal(found["plain"]) * Fraction(10) ** int((found["power"] or "e0")[1:])


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub("[,،\u00a0\u202f]", "", text))
