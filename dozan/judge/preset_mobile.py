"""Google's score for Mobile Actions: the calls in order, their arguments as equal objects.

Source: google-gemini/gemma-cookbook, FunctionGemma/[FunctionGemma]Finetune_FunctionGemma_270M_for_Mobile_Actions.
Calls are found by two patterns, not by a parser: only arguments between `<escape>` marks are seen, so a number, a
boolean, a list or an object in a prediction is no argument at all; a call without `{` is no call; nothing is malformed.
A row that asks for no call is right when no call is seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dozan.chat.format import Call
from dozan.chat.tokens import END_CALL, ESCAPE, START_CALL
from dozan.judge.measured import PresetScores, share
from dozan.judge.summary import RowScore
from dozan.rows.example import Example

_CALL = re.compile(f"{START_CALL}(.*?){END_CALL}", re.DOTALL)
_ARGUMENT = re.compile(f"([^:,]*?):{ESCAPE}(.*?){ESCAPE}", re.DOTALL)
_RULES = "Google, Mobile Actions: names in order and arguments in order are equal; only <escape> strings are seen"


def score_mobile_actions(rows: Sequence[RowScore], examples: Sequence[Example]) -> PresetScores:
    """`ordered exact match`, and its two halves."""
    names, arguments = [], []
    for row in rows:
        seen = seen_calls(row.prediction)
        names.append([call.name for call in seen] == [call.name for call in row.gold])
        arguments.append([call.arguments for call in seen] == [call.arguments for call in row.gold])
    right = [all(both) for both in zip(names, arguments, strict=True)]
    figures = {
        "ordered exact match": share(right), "correct names": share(names), "correct arguments": share(arguments)
    }  # fmt: skip
    return PresetScores(
        "mobile-actions", _RULES, figures, {}, {row.id: ok for row, ok in zip(rows, right, strict=True)}
    )


def seen_calls(text: str) -> list[Call]:
    """The calls that Google's patterns find in a generated text."""
    calls = []
    for raw in _CALL.findall(text):
        head, brace, rest = raw.partition("{")
        if brace and raw.strip().startswith("call:"):
            arguments = {key.strip(): value for key, value in _ARGUMENT.findall(rest)}
            calls.append(Call(head.replace("call:", "").strip(), arguments))
    return calls
