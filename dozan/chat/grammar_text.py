"""A grammar in the notations of those who follow it: Lark as llguidance reads it, GBNF as llama.cpp does."""

from __future__ import annotations

from dozan.chat.grammar import Grammar
from dozan.chat.grammar_rules import Characters, Choice, Control, Literal, Node, Repeat, Rule, Series


def to_lark(grammar: Grammar) -> str:
    """For llguidance: patterns are terminals, in capitals; control tokens stand as `<name>`."""
    lines = [f"start: {grammar.start}"]
    lines += [f"{name}: {_lark(node, grammar)}" for name, node in grammar.rules.items()]
    lines += [f"{name.upper()}: /{_regex(node)}/" for name, node in grammar.patterns.items()]
    return "\n".join(lines) + "\n"


def to_gbnf(grammar: Grammar) -> str:
    """For llama.cpp: control tokens stand as `<name>`, which the vocabulary must have as one token."""
    named = (*grammar.rules.items(), *grammar.patterns.items())
    lines = [f"root ::= {_dashed(grammar.start)}", *(f"{_dashed(name)} ::= {_gbnf(node)}" for name, node in named)]
    return "\n".join(lines) + "\n"


def _lark(node: Node, grammar: Grammar) -> str:
    match node:
        case Literal(text):
            return _quoted(text)
        case Control(token):
            return token
        case Rule(name):
            return name.upper() if name in grammar.patterns else name
        case Series(parts):
            return " ".join(_bound(part, _lark(part, grammar)) for part in parts) or '""'
        case Choice(parts):
            return " | ".join(_lark(part, grammar) for part in parts)
        case Repeat(part, least, most):
            return _held(part, _lark(part, grammar)) + _times(least, most)
    raise AssertionError(f"{node} stands outside of a pattern")


def _gbnf(node: Node) -> str:
    match node:
        case Literal(text):
            return _quoted(text)
        case Control(token):
            return token
        case Characters(ranges, but):
            return f"[{'^' if but else ''}{''.join(_range(a, b, _gbnf_character) for a, b in ranges)}]"
        case Rule(name):
            return _dashed(name)
        case Series(parts):
            return " ".join(_bound(part, _gbnf(part)) for part in parts) or '""'
        case Choice(parts):
            return " | ".join(_gbnf(part) for part in parts)
        case Repeat(part, least, most):
            return _held(part, _gbnf(part)) + _times(least, most)


def _regex(node: Node) -> str:
    match node:
        case Literal(text):
            return "".join(map(_regex_character, text))
        case Characters(ranges, but):
            return f"[{'^' if but else ''}{''.join(_range(a, b, _regex_character) for a, b in ranges)}]"
        case Series(parts):
            return "".join(f"(?:{_regex(part)})" if isinstance(part, Choice) else _regex(part) for part in parts)
        case Choice(parts):
            return "|".join(map(_regex, parts))
        case Repeat(part, least, most):
            inside = _regex(part)
            return (inside if isinstance(part, Characters) else f"(?:{inside})") + _times(least, most)
    raise AssertionError(f"{node} stands in a pattern, which says characters only")


def _bound(part: Node, text: str) -> str:
    """A part of a series, in brackets where it would fall apart."""
    return f"({text})" if isinstance(part, Choice) and len(part.parts) > 1 else text


def _held(part: Node, text: str) -> str:
    """A part that is repeated."""
    return text if isinstance(part, Literal | Control | Characters | Rule) else f"({text})"


def _times(least: int, most: int | None) -> str:
    known = {(0, 1): "?", (0, None): "*", (1, None): "+"}
    if (least, most) in known:
        return known[least, most]
    return f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _quoted(text: str) -> str:
    """As in JSON, which both notations read alike."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'


def _range(first: str, last: str, spell: object) -> str:
    assert callable(spell)
    return spell(first) if first == last else f"{spell(first)}-{spell(last)}"


def _gbnf_character(character: str) -> str:
    code = ord(character)
    return (
        character
        if character.isascii() and character.isalnum()
        else f"\\x{code:02X}"
        if code < 256
        else f"\\U{code:08X}"
    )


def _regex_character(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):X}}}"
