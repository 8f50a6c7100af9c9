"""A model that answers rows, wherever it runs: in torch from a run or a folder, in llama.cpp from a GGUF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dozan.chat.encode import encode_prompt
from dozan.chat.format import ChatFormat
from dozan.chat.grammar import Grammar, row_grammars
from dozan.chat.grammar_text import to_gbnf
from dozan.chat.sentencepiece_json import Piece, tokenizer_definition
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.judge.evaluate import evaluate as evaluate_in_torch
from dozan.judge.evaluate import write_scores
from dozan.judge.score import score_rows
from dozan.judge.summary import Scores
from dozan.model.bundle import Bundle
from dozan.rows.example import Example
from dozan.rows.readers import read_rows

if TYPE_CHECKING:
    from dozan.judge.guide import Guides
    from dozan.ship.llamacpp import GgufGrammars

OnProgress = Callable[[int, int], None]


class Complete(Protocol):
    """Continues token ids greedily, the stop id cut off; by `grammars`, one a prompt, where they are given."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, on_progress: OnProgress | None = None,
        grammars: Sequence[Grammar] | None = None,
    ) -> list[list[int]]: ...  # fmt: skip


@dataclass(frozen=True)
class Served:
    """`complete` continues token ids; `chat` lays rows out as in training."""

    tokenizer: Tokenizer
    chat: ChatFormat
    complete: Complete


def evaluate(
    model: str | Path | Bundle, data: str | Path | Sequence[Example], json: Path | None = None,
    max_new_tokens: int = 256, limit: int | None = None, on_progress: OnProgress | None = None, grammar: bool = False,
) -> Scores:  # fmt: skip
    """Score a run, a checkpoint folder, a hub id, an opened model or a GGUF file on rows.

    `json` gets every figure and every row's prediction. With `grammar` each answer is held to the grammar of its row's
    tools: text, calls, or both. Raises InputError for what cannot be scored.
    """
    if isinstance(model, Bundle) or not str(model).endswith(".gguf"):
        return evaluate_in_torch(model, data, json, max_new_tokens, limit, on_progress, grammar=grammar)
    examples = (read_rows(data) if isinstance(data, str | Path) else list(data))[:limit]
    served = serve_gguf(model)
    texts = answer(served, examples, max_new_tokens, on_progress, grammar)
    scores = score_rows(examples, texts, served.chat)
    if json is not None:
        write_scores(json, scores, str(model))
    return scores


def serve(model: str | Path) -> Served:
    """A run, a checkpoint folder, a hub id or a GGUF file, ready to answer."""
    from dozan.model.bundle import open_model

    if str(model).endswith(".gguf"):
        return serve_gguf(model)
    return serve_bundle(open_model(model))


def serve_bundle(bundle: Bundle) -> Served:
    """An opened model in torch."""
    from dozan.judge.generate import generate

    def complete(
        prompts: Sequence[Sequence[int]], max_new_tokens: int, on_progress: OnProgress | None = None,
        grammars: Sequence[Grammar] | None = None,
    ) -> list[list[int]]:  # fmt: skip
        return generate(bundle, prompts, max_new_tokens, on_progress, grammars=grammars)

    return Served(bundle.tokenizer, bundle.chat, complete)


def serve_gguf(gguf: str | Path) -> Served:
    """A GGUF in llama.cpp, with the tokenizer and the arrangement of rows that it carries."""
    from dozan.judge.guide import Guides
    from dozan.ship import llamacpp

    tokenizer, chat = read_gguf(gguf)
    stops = [tokenizer.id(token) for token in chat.stop_tokens]

    def complete(
        prompts: Sequence[Sequence[int]], max_new_tokens: int, on_progress: OnProgress | None = None,
        grammars: Sequence[Grammar] | None = None,
    ) -> list[list[int]]:  # fmt: skip
        if grammars is None:
            return llamacpp.complete(gguf, prompts, max_new_tokens, stops, on_progress)
        guides = Guides(tokenizer, stops, grammars)
        guides.check_limits([max_new_tokens] * len(prompts))
        given = gguf_grammars(guides)
        answers = llamacpp.complete(gguf, prompts, max_new_tokens, stops, on_progress, grammars=given)
        guides.check_answers(answers)
        return answers

    return Served(tokenizer, chat, complete)


def gguf_grammars(guides: Guides) -> GgufGrammars:
    """The grammars of guides as llama.cpp follows them."""
    from dozan.ship.llamacpp import GgufGrammars

    grammars, which, reserves, closers = guides.different()
    return GgufGrammars([to_gbnf(grammar) for grammar in grammars], which, reserves, closers)


def read_gguf(gguf: str | Path) -> tuple[Tokenizer, ChatFormat]:
    """The tokenizer that a GGUF carries, and its chat format, which lays rows out as the model was trained.

    Raises InputError for a file without a SentencePiece BPE, or with an arrangement that we do not know.
    """
    from dozan.chat import detect_chat
    from dozan.chat.arranged import arranged, read_arrangement
    from dozan.ship.gguf import ARRANGEMENT_KEY
    from dozan.ship.gguf_read import is_vocabulary, open_gguf

    keys = open_gguf(gguf).keys
    columns = [keys.get(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type")]
    if not is_vocabulary(*columns):
        raise InputError(f"{gguf}: carries no vocabulary of texts, scores and types; give a Gemma 3 GGUF")
    pieces = [Piece(text, float(score), int(kind)) for text, score, kind in zip(*columns, strict=True)]
    tokenizer = Tokenizer(tokenizer_definition(pieces))
    ours = {name.removeprefix(ARRANGEMENT_KEY): value for name, value in keys.items()
            if name.startswith(ARRANGEMENT_KEY)}  # fmt: skip
    return tokenizer, arranged(detect_chat(tokenizer), read_arrangement(ours, str(gguf)))


def answer(
    served: Served, examples: Sequence[Example], max_new_tokens: int, on_progress: OnProgress | None = None,
    grammar: bool = False,
) -> list[str]:  # fmt: skip
    """What the model says to each row, control tokens spelt out; with `grammar` by that of the row's tools."""
    grammars = row_grammars(examples, served.chat) if grammar else None
    prompts = [encode_prompt(example, served.chat, served.tokenizer) for example in examples]
    return [served.tokenizer.decode(ids) for ids in served.complete(prompts, max_new_tokens, on_progress, grammars)]
