"""`dozan export --phone DIR`: a folder with all that an application on a phone needs to ask the model and read it.

The application needs no chat template: the prompt's beginning lies there as text and as token ids, and what is put
behind it is a few control tokens and the user's text. PROMPT.md in the folder says how (`ship.phone_files`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.grammar import answer_grammar
from dozan.chat.grammar_text import to_gbnf
from dozan.chat.tokens import END_TURN, START_TURN
from dozan.errors import InputError
from dozan.model.bundle import Bundle, open_shell
from dozan.rows.example import Example, Json
from dozan.rows.kept import require_kept
from dozan.rows.readers import read_rows
from dozan.ship.export import Exported, export
from dozan.ship.ollama import TRIGGER, context_length, opening_text
from dozan.ship.phone_files import guide, header
from dozan.ship.phone_speed import measure_speed
from dozan.train.prepare import TOOLS

SAMPLE = ("Now is 2026-11-07T16:35 Saturday", "شغّل الكشاف من فضلك")
"""What the sheet's prompt says behind the prefix: the time, and the user."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prompt:
    """How a prompt is put together, in text and in ids.

    `prefix` is <bos> and the developer turn with the declarations. Behind it come turns: `turn[role]` are the ids
    before a turn's text, `heads[role]` what its text begins with, `close` the ids after it, `open_model` those that
    open the model's turn. Texts are encoded alone, as plain text, without <bos> and without control tokens in them.
    """

    prefix: str
    prefix_ids: tuple[int, ...]
    turn: Mapping[str, tuple[int, ...]]
    heads: Mapping[str, str]
    close: tuple[int, ...]
    open_model: tuple[int, ...]
    stops: Mapping[str, int]

    def ids(self, encode: Callable[[str], list[int]], turns: Sequence[tuple[str, str]]) -> list[int]:
        """A prompt's ids from (role, text) turns, by the rules that PROMPT.md states."""
        found = list(self.prefix_ids)
        for role, text in turns:
            found += [*self.turn[role], *encode(self.heads[role] + text.strip()), *self.close]
        return [*found, *self.open_model]

    def to_json(self) -> Json:
        """prompt.json."""
        return {
            "prefix": {"text": "prefix.txt", "ids": "prefix.ids.json", "tokens": len(self.prefix_ids)},
            "turn": {role: {"ids_before": list(ids), "text_before": self.heads[role]}
                     for role, ids in self.turn.items()},
            "ids_after_turn": list(self.close),
            "ids_open_model": list(self.open_model),
            "stop_ids": sorted(self.stops.values()),
            "stop_tokens": dict(self.stops),
        }  # fmt: skip


@dataclass(frozen=True)
class Phone:
    """What was written: the folder, its model, the prompt, and the figures of the sheet."""

    folder: Path
    exported: Exported
    prompt: Prompt
    speed: Mapping[str, Json]


def export_phone(
    run: str | Path, folder: str | Path, tools: Sequence[Mapping[str, Json]] | None = None,
    examples: str | Path | Sequence[Example] | None = None, say: Say | None = None,
) -> Phone:  # fmt: skip
    """Write the folder: a measured Q8_0 GGUF and the files around it; manifest.json has every file's SHA-256.

    tools: the declarations, instead of those that all of the run's rows have. examples: rows to measure the GGUF on.
    Raises InputError for a model without tools, rows without a common beginning, and as `ship.export.export` does.
    """
    folder, say = Path(folder), say or (lambda _: None)
    shell, _ = open_shell(run)
    if shell.chat.name != FUNCTIONGEMMA.name:
        raise InputError(f"{run}: its chat format {shell.chat.name} has no tools; --phone is for models that call them")
    declared = shared_tools(Path(run)) if tools is None else tools
    prompt = build_prompt(shell, opening_text(Path(run), shell.chat) or TRIGGER, declared)
    grammar = to_gbnf(answer_grammar(declared, shell.chat))
    (exported,) = export(run, "q8_0", folder, examples, say=say)
    say("measuring speed and memory through llama.cpp")
    asked = prompt.ids(shell.tokenizer.encode, tuple(zip(("developer", "user"), SAMPLE, strict=True)))
    speed = measure_speed(exported.path, list(prompt.prefix_ids), asked)
    written = {
        "prefix.txt": prompt.prefix,
        "prefix.ids.json": json.dumps(list(prompt.prefix_ids)),
        "prompt.json": _pretty({**prompt.to_json(), "model": exported.path.name,
                                "context_tokens": context_length(Path(run), shell)}),
        "tools.json": _pretty(list(declared)),
        "grammar.gbnf": grammar,
        "prompt.h": header(prompt.to_json(), prompt.prefix, prompt.prefix_ids),
        "speed.json": _pretty(speed),
        "PROMPT.md": guide(prompt.to_json(), exported.path.name, speed),
    }  # fmt: skip
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    write_manifest(folder, [*written, *_beside(exported.path)])
    return Phone(folder, exported, prompt, speed)


def build_prompt(shell: Bundle, opening: str, tools: Sequence[Mapping[str, Json]]) -> Prompt:
    """The parts of a prompt, cut out of one that the model's chat format renders."""
    asked: list[Mapping[str, Json]] = [{"role": "developer", "content": opening}, {"role": "user", "content": "x"}]
    rendered = shell.chat.render(asked, tools, generate=True, place="the prompt")
    ids, spans = shell.tokenizer.encode_rendered(rendered)
    at = rendered.text.rindex(f"{START_TURN}user\n")
    first = next(i for i, (start, _) in enumerate(spans) if start == at)
    encode, begin = shell.tokenizer.encode, shell.tokenizer.id(START_TURN)
    stops = {token: shell.tokenizer.id(token) for token in shell.chat.stop_tokens}
    heads = {"developer": "developer\n", "user": "user\n"}
    prompt = Prompt(
        rendered.text[:at], tuple(ids[:first]), dict.fromkeys(heads, (begin,)), heads,
        (shell.tokenizer.id(END_TURN), *encode("\n")), (begin, *encode("model\n")), stops,
    )  # fmt: skip
    assert prompt.ids(encode, [("user", "x")]) == ids, "the parts make another prompt than the chat format"
    return prompt


def shared_tools(run: Path) -> Sequence[Mapping[str, Json]]:
    """The declarations that all rows of a run have. Raises InputError where there are none."""
    path = run / "data" / TOOLS
    if path.is_file():
        require_kept(path)
        found: list[Mapping[str, Json]] = json.loads(path.read_text(encoding="utf-8"))
        return found
    kept = next((path for name in ("heldout.jsonl", "train.jsonl") if (path := run / "data" / name).is_file()), None)
    rows = read_rows(kept) if kept is not None else []
    if not rows or not rows[0].tools or any(row.tools != rows[0].tools for row in rows):
        raise InputError(f"{run}: its rows do not all have the same tools; name the application's with --tools FILE")
    return rows[0].tools


def write_manifest(folder: Path, names: Sequence[str]) -> None:
    """manifest.json: size and SHA-256 of each file."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in sorted(names)
    }
    (folder / "manifest.json").write_text(_pretty({"files": files}), encoding="utf-8")


def _beside(gguf: Path) -> list[str]:
    """The model and the certificates that its export left."""
    named = (f"{gguf.stem}.parity.json", "parity.json", "certificate.html")
    return [gguf.name, *(name for name in named if (gguf.parent / name).is_file())]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pretty(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
