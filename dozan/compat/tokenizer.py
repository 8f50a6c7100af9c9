"""The tokenizer as notebooks use it, over dozan's own tokenizer and chat formats."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dozan.chat.format import ChatFormat, Rendered
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import BOS, EOS, PAD, UNK
from dozan.compat.say import refuse_unknown, say
from dozan.errors import InputError
from dozan.rows.example import Json

Ids = Sequence[int]
_TAG = re.compile(r"<[^<>\s]+>")
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_TEMPLATED = ("return_assistant_tokens_mask", "continue_final_message", "documents", "sanitize_control_tokens")


class Encoding(dict[str, Any]):
    """input_ids and attention_mask, as lists or tensors; `.to` moves the tensors."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"an encoding has {', '.join(self)}, and no {name!r}")

    def to(self, device: str | torch.device | int) -> Encoding:
        """The same on a device. Raises InputError for a GPU where there is none."""
        require_device(device)
        return Encoding({k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in self.items()})


def require_device(device: object) -> None:
    """Raises InputError for a GPU where there is none."""
    is_cuda = isinstance(device, int) or str(device).startswith("cuda")
    if is_cuda and not torch.cuda.is_available():
        raise InputError(f".to({device!r}): this machine has no GPU that PyTorch can use; write .to(model.device), "
                         "or leave .to out")  # fmt: skip


class ChatTokenizer:
    """A checkpoint's tokenizer and its chat format, under transformers' names.

    In text that it is given, control tokens are control tokens, as in transformers; <bos> is put in front once, and
    never twice. `chat` renders conversations: the official templates' bytes, and a refusal where those corrupt.
    """

    padding_side: str = "left"

    def __init__(self, folder: Path, tokens: Tokenizer, chat: ChatFormat, name: str, model_max_length: int) -> None:
        self.folder, self.tokens, self.chat, self.name_or_path = folder, tokens, chat, name
        self.model_max_length = model_max_length
        settings = folder / "tokenizer_config.json"
        named = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        for kind, usual in (("bos", BOS), ("eos", EOS), ("pad", PAD), ("unk", UNK)):
            given = named.get(f"{kind}_token")
            token = given.get("content") if isinstance(given, Mapping) else given
            token = token if isinstance(token, str) and tokens.has(token) else usual
            setattr(self, f"{kind}_token", token)

    def __setattr__(self, name: str, value: Any) -> None:
        """A token's name and its id go together. Raises InputError for a token that the vocabulary does not have."""
        kind = name.removesuffix("_id")
        if name == "padding_side" and value not in ("left", "right"):
            raise InputError(f"tokenizer.padding_side={value!r}: give 'left' or 'right'")
        if kind in _NAMED:
            is_known = 0 <= value < self.tokens.size if isinstance(value, int) else self.tokens.has(str(value))
            if not is_known:
                raise InputError(f"tokenizer.{name}={value!r}: the vocabulary has no such token; name one that it has")
            piece = self.tokens.decode([value]) if isinstance(value, int) else str(value)
            number = value if isinstance(value, int) else self.tokens.id(piece)
            super().__setattr__(kind, piece)
            super().__setattr__(f"{kind}_id", number)
        else:
            super().__setattr__(name, value)

    bos_token: str
    eos_token: str
    pad_token: str
    unk_token: str
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    unk_token_id: int

    @property
    def tokenizer(self) -> ChatTokenizer:
        """Itself: where transformers has a processor, its tokenizer is asked for by this name."""
        return self

    @property
    def vocab_size(self) -> int:
        return self.tokens.size

    def __len__(self) -> int:
        return self.tokens.size

    @property
    def all_special_ids(self) -> list[int]:
        return sorted(self.tokens.special_ids)

    @property
    def all_special_tokens(self) -> list[str]:
        return [self.tokens.decode([i]) for i in self.all_special_ids]

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's own template, to be read; conversations are written by `chat`."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
        settings = self.folder / "tokenizer_config.json"
        named = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        return named.get("chat_template")

    def marked(self, text: str) -> Rendered:
        """A text with the control tokens that it spells marked as such."""
        spans = (found.span() for found in _TAG.finditer(text))
        known = [(a, b) for a, b in spans if self._is_control(text[a:b])]
        return Rendered(text, tuple(known), ())

    def _is_control(self, text: str) -> bool:
        return self.tokens.has(text) and self.tokens.id(text) in self.tokens.control_ids

    def ids_of(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """A text's ids, <bos> in front of them once."""
        if add_special_tokens and not text.startswith(self.bos_token):
            text = self.bos_token + text
        return self.tokens.encode_rendered(self.marked(text))[0]

    def __call__(
        self, text: str | Sequence[str], text_pair: None = None, add_special_tokens: bool = True,
        padding: bool | str = False, truncation: bool = False, max_length: int | None = None,
        return_tensors: str | None = None, return_attention_mask: bool = True, return_token_type_ids: bool = False,
    ) -> Encoding:  # fmt: skip
        """input_ids and attention_mask of a text or several. Raises InputError for several of different length as
        tensors without padding."""
        if text_pair is not None or return_token_type_ids:
            raise InputError("tokenizer: text_pair and return_token_type_ids are not offered; give one text")
        one = isinstance(text, str)
        rows = [self.ids_of(each, add_special_tokens) for each in ([text] if isinstance(text, str) else text)]
        if truncation:
            rows = self._cut(rows, max_length)
        return self._encoding(rows, one, padding, max_length, return_tensors, return_attention_mask)

    def _cut(self, rows: list[list[int]], max_length: int | None) -> list[list[int]]:
        most = max_length or self.model_max_length
        cut = sum(len(row) > most for row in rows)
        if cut:
            say(f"tokenizer: {cut} texts cut to {most} tokens")
        return [row[:most] for row in rows]

    def _encoding(
        self, rows: list[list[int]], one: bool, padding: bool | str, max_length: int | None, tensors: str | None,
        with_mask: bool = True,
    ) -> Encoding:  # fmt: skip
        longest = max(map(len, rows), default=0)
        width = max_length if padding == "max_length" and max_length else longest if padding else None
        masks = [[1] * len(row) for row in rows]
        if width is not None:
            rows = [self._padded(row, self.pad_token_id, width) for row in rows]
            masks = [self._padded(mask, 0, width) for mask in masks]
        found: dict[str, Any] = {"input_ids": rows, "attention_mask": masks}
        if not with_mask:
            del found["attention_mask"]
        if tensors is None:
            return Encoding({name: value[0] if one else value for name, value in found.items()})
        if tensors not in ("pt", "np"):
            raise InputError(f"tokenizer: return_tensors={tensors!r}: give 'pt' or 'np'")
        if len({len(row) for row in rows}) > 1:
            raise InputError("tokenizer: texts of different length make no tensor; set padding=True")
        return Encoding({n: torch.tensor(v) if tensors == "pt" else np.array(v) for n, v in found.items()})

    def _padded(self, row: list[int], value: int, width: int) -> list[int]:
        rest = [value] * (width - len(row))
        return rest + row if self.padding_side == "left" else row + rest

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        """The ids alone."""
        return self(text, add_special_tokens=add_special_tokens, return_tensors=return_tensors)["input_ids"]

    def apply_chat_template(
        self, conversation: Sequence[Any], tools: Sequence[Mapping[str, Json]] | None = None,
        chat_template: None = None, add_generation_prompt: bool = False, tokenize: bool = True,
        padding: bool | str = False, truncation: bool = False, max_length: int | None = None,
        return_tensors: str | None = None, return_dict: bool = True, **more: object,
    ) -> Any:  # fmt: skip
        """A conversation, or several, as the model reads it: text, ids, or (return_dict) an `Encoding`.

        Raises InputError for what has no faithful form, and for arguments that are not offered.
        """
        refused = [name for name in more if name not in _TEMPLATED or more[name]]
        if chat_template is not None or refused:
            named = [*refused, *(["chat_template"] if chat_template is not None else [])]
            raise InputError(f"apply_chat_template: {', '.join(named)} not offered; leave out, or choose a format: "
                             "get_chat_template(tokenizer, 'functiongemma' or 'gemma3')")  # fmt: skip
        if any(callable(tool) for tool in tools or ()):
            raise InputError("apply_chat_template: tools: give declarations as dicts, "
                             '{"type": "function", "function": {"name": …, "parameters": …}}')  # fmt: skip
        one = not conversation or isinstance(conversation[0], Mapping)
        several: Sequence[Any] = [conversation] if one else conversation
        rendered = [
            self.chat.render(messages, tools or (), add_generation_prompt, "" if one else f"conversation {i}")
            for i, messages in enumerate(several)
        ]
        if not tokenize:
            return rendered[0].text if one else [each.text for each in rendered]
        rows = [ids for ids, _ in self.tokens.encode_many(rendered)]
        if truncation:
            rows = self._cut(rows, max_length)
        found = self._encoding(rows, one, padding, max_length, return_tensors)
        return found if return_dict else found["input_ids"]

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Text of ids in a list or a tensor; control tokens are spelt out, or the special ones left out. Raises
        InputError for clean_up_tokenization_spaces."""
        if clean_up_tokenization_spaces:
            raise InputError("decode: clean_up_tokenization_spaces=True is not offered: text comes back as it is; "
                             "leave it out")  # fmt: skip
        ids = _listed(token_ids)
        kept = [i for i in ids if i not in self.tokens.special_ids] if skip_special_tokens else ids
        return self.tokens.decode(kept)

    def batch_decode(
        self, sequences: Iterable[Any], skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:  # fmt: skip
        """The text of each row, as `decode` gives it."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Ids of vocabulary entries; the unknown token's for what is none."""
        if isinstance(tokens, str):
            return self.tokens.id(tokens) if self.tokens.has(tokens) else self.unk_token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Vocabulary entries of ids."""
        if isinstance(ids, int):
            return self.tokens.piece(ids)
        return [self.tokens.piece(i) for i in _listed(ids)]

    def save_pretrained(self, save_directory: str | Path, **more: object) -> tuple[str, ...]:
        """Copy the tokenizer's own files to a folder, byte for byte; their paths. Raises InputError for any further
        argument."""
        refuse_unknown("tokenizer.save_pretrained", more)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.tokens.files:
            if file.resolve() != (folder / file.name).resolve():
                shutil.copyfile(file, folder / file.name)
        return tuple(str(folder / file.name) for file in self.tokens.files)

    def push_to_hub(
        self, repo_id: str, token: str | None = None, private: bool | None = None, commit_message: str | None = None
    ) -> None:
        """Says where the tokenizer goes: a merged model brings its own, an adapter its base's."""
        say(f"{repo_id}: the tokenizer is not sent alone: a merged model brings it, an adapter takes its base's")


def _listed(ids: Any) -> list[int]:
    found = ids.tolist() if hasattr(ids, "tolist") else ids
    return [found] if isinstance(found, int) else [int(i) for i in found]
