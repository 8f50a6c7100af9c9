"""The names of Gemma 3's and FunctionGemma's control tokens: the only place in dozan where they are spelt."""

from __future__ import annotations

import re

PAD, EOS, BOS, UNK, MASK = "<pad>", "<eos>", "<bos>", "<unk>", "<mask>"
START_TURN, END_TURN = "<start_of_turn>", "<end_of_turn>"
START_DECLARATION, END_DECLARATION = "<start_function_declaration>", "<end_function_declaration>"
START_CALL, END_CALL = "<start_function_call>", "<end_function_call>"
START_RESPONSE, END_RESPONSE = "<start_function_response>", "<end_function_response>"
ESCAPE = "<escape>"
START_IMAGE, END_IMAGE, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"

FUNCTION_TOKENS = (START_DECLARATION, END_DECLARATION, START_CALL, END_CALL, START_RESPONSE, END_RESPONSE, ESCAPE)
"""FunctionGemma's tokens in the order of their ids, 46 to 52."""

CONTROL_TOKENS = (PAD, EOS, BOS, UNK, MASK, START_TURN, END_TURN, *FUNCTION_TOKENS, START_IMAGE, END_IMAGE, IMAGE)

_CONTROL = re.compile("|".join([*map(re.escape, CONTROL_TOKENS), r"<unused\d+>"]))


def is_control(token: str) -> bool:
    """Whether a vocabulary entry is a control token, which plain text must never be encoded to."""
    return _CONTROL.fullmatch(token) is not None


def find_control(text: str) -> str | None:
    """The first control token spelt out in `text`, or None."""
    found = _CONTROL.search(text) if "<" in text else None
    return found.group() if found else None
