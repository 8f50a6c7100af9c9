"""What notebooks take from chat_templates: which part of the rows is trained, which format they are in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dozan.chat import chat_format
from dozan.chat.tokens import FUNCTION_TOKENS
from dozan.compat.say import Argument, say, weigh
from dozan.compat.tokenizer import ChatTokenizer
from dozan.errors import InputError

if TYPE_CHECKING:
    from dozan.compat.trainer import SFTTrainer

_FORMATS = {
    **dict.fromkeys(("functiongemma", "function-gemma"), "functiongemma"),
    **dict.fromkeys(("gemma3", "gemma-3", "gemma", "gemma_3"), "gemma3"),
}
_OPENAI = {"role": "role", "content": "content", "user": "user", "assistant": "assistant"}
_ROLES = {"human": "user", "user": "user", "input": "user", "gpt": "assistant", "assistant": "assistant",
          "model": "assistant", "output": "assistant", "system": "system", "developer": "developer",
          "tool": "tool"}  # fmt: skip
_MARKING = (
    Argument("force_match", True, "no effect", "markers are found in the text, to the character"),
    Argument("tokenizer", None, "no effect", "rows are read with the trainer's tokenizer"),
    Argument("num_proc", None, "no effect", "one process is enough"),
)
_STANDARD = (
    Argument("tokenizer", None, "no effect", "only names of roles and columns are changed"),
    Argument("batch_size", 1000, "no effect", "rows are changed one by one"),
    Argument("num_proc", None, "no effect", "one process is enough"),
    *(Argument(f"aliases_for_{role}", None, "refused", "rename the roles in the rows first")
      for role in ("system", "user", "assistant")),
)  # fmt: skip


def train_on_responses_only(
    trainer: SFTTrainer, instruction_part: str | None = None, response_part: str | None = None,
    force_match: bool = True, tokenizer: object = None, return_function: bool = False, num_proc: int | None = None,
) -> SFTTrainer:  # fmt: skip
    """The same trainer, whose rows are trained between `response_part` and the end of that turn; tool results in it are
    context. Left out, the markers are those of the chat format.

    Raises InputError, with the markers that do occur, for one that is in no row, and for rows without a response.
    """
    weigh("train_on_responses_only", _MARKING,
          {"force_match": force_match, "tokenizer": tokenizer, "num_proc": num_proc})  # fmt: skip
    if return_function:
        raise InputError("train_on_responses_only: return_function=True is not offered; give the trainer")
    usual = zip((instruction_part, response_part), trainer.turn_markers(), strict=True)
    before, behind = (marker if given is None else given for given, marker in usual)
    for rows in (trainer.train_dataset, trainer.eval_dataset):
        if rows is not None:
            rows.respond_only(before, behind)
    return trainer


def get_chat_template(
    tokenizer: ChatTokenizer, chat_template: str = "gemma-3", mapping: Mapping[str, str] | None = None,
    map_eos_token: bool = True,
) -> ChatTokenizer:  # fmt: skip
    """The tokenizer in another chat format: gemma-3 or functiongemma. Raises InputError for what it cannot write."""
    name = _FORMATS.get(str(chat_template).lower())
    if name is None:
        raise InputError(f"get_chat_template: {chat_template!r} is not a format of Gemma 3; give 'gemma-3' or "
                         "'functiongemma'")  # fmt: skip
    if any(_OPENAI.get(key) != value for key, value in (mapping or {}).items()):
        raise InputError(f"get_chat_template: mapping={dict(mapping or {})!r}: messages have role and content; rename "
                         "them first: standardize_sharegpt(dataset)")  # fmt: skip
    if name == "functiongemma" and not all(map(tokenizer.tokens.has, FUNCTION_TOKENS)):
        raise InputError(f"get_chat_template: {tokenizer.name_or_path} has none of FunctionGemma's tokens; "
                         "give 'gemma-3'")  # fmt: skip
    if not map_eos_token:
        say("get_chat_template: map_eos_token=False changes nothing here: stop tokens are the format's")
    chosen = copy.copy(tokenizer)
    chosen.chat = chat_format(name)
    return chosen


def standardize_data_formats(dataset: Any, **more: object) -> Any:
    """Rows whose `conversations` say from and value, with role and content instead; others as they are. Raises
    InputError for roles that are not known, and for arguments that are not offered."""
    weigh("standardize_sharegpt", _STANDARD, more)
    if hasattr(dataset, "map") and hasattr(dataset, "features"):
        return dataset.map(_standard)
    return [_standard(row) for row in dataset]


standardize_sharegpt = standardize_data_formats


def _standard(row: Mapping[str, Any]) -> dict[str, Any]:
    talk = row.get("conversations")
    if not isinstance(talk, Sequence) or not talk or "from" not in talk[0]:
        return dict(row)
    unknown = sorted({str(turn.get("from")) for turn in talk} - set(_ROLES))
    if unknown:
        raise InputError(f"standardize_sharegpt: turns from {', '.join(unknown)}: known are {', '.join(_ROLES)}")
    return {**row, "conversations": [{"role": _ROLES[t["from"]], "content": t.get("value")} for t in talk]}
