"""Kinds of damaged text (DZ5xx)."""

from __future__ import annotations

from random import Random

from broken_rows import USER, Row, kind


def misread(text: str, encoding: str) -> str:
    """UTF-8 read in another encoding, byte by byte; what the encoding lacks stands for itself."""
    return "".join(bytes([b]).decode(encoding) if _has(b, encoding) else chr(b) for b in text.encode())


def _has(byte: int, encoding: str) -> bool:
    try:
        bytes([byte]).decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def say(row: Row, text: str) -> None:
    """A request that is only answered in words."""
    row["messages"][1]["content"] = text
    row["messages"][2] = {"role": "assistant", "content": "نعم"}


def requested(row: Row) -> str:
    return str(row["messages"][1]["content"])


@kind("DZ501", USER)
def read_as_latin(row: Row, random: Random) -> None:
    say(row, misread("أرسل رسالة إلى سالم", "latin-1"))


@kind("DZ501", USER)
def read_as_cp1252(row: Row, random: Random) -> None:
    say(row, misread("أرسل رسالة إلى سالم", "cp1252"))


@kind("DZ502", USER)
def read_as_cp1256(row: Row, random: Random) -> None:
    say(row, misread("أرسل رسالة إلى سالم", "cp1256"))


@kind("DZ502", "tools[1].function.description")
def tool_read_as_cp1256(row: Row, random: Random) -> None:
    row["tools"][1]["function"]["description"] = misread("يفتح إعدادات الهاتف", "cp1256")


@kind("DZ503", USER)
def read_as_latin_twice(row: Row, random: Random) -> None:
    say(row, misread(misread("أرسل رسالة إلى سالم", "cp1252"), "cp1252"))


@kind("DZ504", USER)
def dumped_twice(row: Row, random: Random) -> None:
    say(row, r"\u0623\u0631\u0633\u0644 \u0631\u0633\u0627\u0644\u0629")


@kind("DZ505", USER)
def replacement_character(row: Row, random: Random) -> None:
    say(row, requested(row) + " \ufffd")


@kind("DZ506", USER)
def nul(row: Row, random: Random) -> None:
    say(row, requested(row) + "\x00")


@kind("DZ507", USER)
def c1_control(row: Row, random: Random) -> None:
    say(row, requested(row) + " \x92")


@kind("DZ509", USER)
def control_character(row: Row, random: Random) -> None:
    say(row, requested(row) + "\x0b")


@kind("DZ510", USER)
def bidi_override(row: Row, random: Random) -> None:
    say(row, random.choice("\u202d\u202e") + requested(row))


@kind("DZ511", USER)
def bidi_control(row: Row, random: Random) -> None:
    say(row, requested(row) + random.choice("\u200e\u200f\u061c\u2067"))


@kind("DZ512", USER)
def zero_width(row: Row, random: Random) -> None:
    say(row, requested(row) + random.choice("\u200b\u200c\u2060\ufeff"))


@kind("DZ513", USER)
def odd_space(row: Row, random: Random) -> None:
    say(row, requested(row).replace(" ", random.choice("\u00a0\u202f\u3000"), 1))


@kind("DZ514", USER)
def presentation_forms(row: Row, random: Random) -> None:
    say(row, "ﻣﻮﻋﺪ " + requested(row))


@kind("DZ515", USER)
def marks_out_of_order(row: Row, random: Random) -> None:
    say(row, "سج\u0651\u064eل")


@kind("DZ516", USER)
def farsi_letters(row: Row, random: Random) -> None:
    say(row, "سجل موعد مع سلمی")


@kind("DZ517", USER)
def digits_of_two_kinds(row: Row, random: Random) -> None:
    say(row, "سجل موعد الساعة 1٢")


@kind("DZ518", USER)
def html_entities(row: Row, random: Random) -> None:
    say(row, requested(row) + random.choice(["&nbsp;", "&quot;", "&#1587;"]))
