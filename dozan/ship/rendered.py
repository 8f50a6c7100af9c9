"""One row in the bytes of every runtime, beside those that a model was trained on: what `dozan render-diff` shows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import dozan
from dozan.chat.arranged import Arrangement, arrangement_of
from dozan.chat.format import ChatFormat
from dozan.chat.render_diff import Place, differences, reasons
from dozan.chat.render_targets import RUNTIMES, SOURCES, runtime_chat
from dozan.chat.template_limits import ChatTemplate, TemplateFailed
from dozan.errors import InputError
from dozan.recipe import Runtime
from dozan.rows.example import Example, Json
from dozan.ship.llama_template import Applied, apply_template


@dataclass(frozen=True)
class Opened:
    """A model as far as rendering goes: its chat format laid out as in training, its template, its GGUF if any; place:
    where these were read."""

    chat: ChatFormat
    template: str | None
    gguf: Path | None
    place: str = ""


@dataclass(frozen=True)
class Rendering:
    """What a runtime writes (`text`), or why it would not; `places` are where that is not what was trained. `note`:
    what had to be changed in the row before it would."""

    runtime: Runtime
    text: str
    refused: str
    places: tuple[Place, ...]
    note: str = ""

    @property
    def same(self) -> bool:
        return not self.refused and not self.places


@dataclass(frozen=True)
class RowRendered:
    """A row: the trained text, or why it has none, and each runtime's."""

    row: str
    trained: str
    refused: str
    renderings: tuple[Rendering, ...] = ()


def open_rendering(model: str | Path) -> Opened:
    """The rendering parts of a run, a checkpoint folder, a hub id or a GGUF; no weight is read. Raises InputError."""
    from dozan.model.bundle import open_shell
    from dozan.ship.served import read_gguf
    from dozan.ship.vocab import chat_template

    if str(model).endswith(".gguf"):
        return Opened(read_gguf(model)[1], None, Path(model), str(model))
    shell, _ = open_shell(model)
    return Opened(shell.chat, chat_template(shell.tokenizer), None, str(shell.base_folder))


def render_rows(opened: Opened, examples: Sequence[Example]) -> list[RowRendered]:
    """Every row in every runtime's bytes. Raises InputError when llama.cpp does not run the model's template, and when
    Jinja takes more than its limits for it."""
    with ExitStack() as stack:
        text = opened.template
        template = None if text is None else stack.enter_context(ChatTemplate(text, opened.place))
        return _rendered(opened, template, examples)


def _rendered(opened: Opened, template: ChatTemplate | None, examples: Sequence[Example]) -> list[RowRendered]:
    layout = arrangement_of(opened.chat)
    official = runtime_chat(_plain(opened.chat), "transformers")
    laid_out = [_laid_out(example, layout) for example in examples]
    real = _llama_cpp(opened, laid_out)
    rows = []
    for example, (messages, tools), applied in zip(examples, laid_out, real, strict=True):
        opens = not messages or messages[-1].get("role") != "assistant"
        try:
            trained = opened.chat.render(example.messages, example.tools, generate=opens).text
        except InputError as error:
            rows.append(RowRendered(example.id, "", str(error)))
            continue
        by_jinja = _jinja(template, official, messages, tools, opens)
        written: dict[Runtime, Applied] = {"llama.cpp": applied, "transformers": by_jinja}
        for name in RUNTIMES:
            if name not in written:
                written[name] = _derived(runtime_chat(official, name), messages, tools, opens)
        found = tuple(_compared(name, written[name], trained) for name in RUNTIMES)
        rows.append(RowRendered(example.id, trained, "", found))
    return rows


def summary(rows: Sequence[RowRendered], runtime: Runtime) -> str:
    """`same bytes` or how many places differ in how many rows, by reason."""
    found = [rendering for row in rows for rendering in row.renderings if rendering.runtime == runtime]
    refused = [rendering for rendering in found if rendering.refused]
    places = [place for rendering in found for place in rendering.places]
    many = len(found) > 1
    parts = []
    if places:
        rows_that = sum(bool(rendering.places) for rendering in found)
        where = f" in {rows_that} of {len(found)} rows" if many else ""
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons(places))
        parts.append(f"{len(places)} {'places differ' if len(places) > 1 else 'place differs'}{where}: {why}")
    if refused:
        where = f" ({len(refused)} of {len(found)} rows)" if many else ""
        parts.append(f"refused{where}: {refused[0].refused}")
    notes = dict.fromkeys(rendering.note for rendering in found if rendering.note)
    said = "; ".join(parts) or ("no row" if not found else "same bytes")
    return said + "".join(f" ({note})" for note in notes)


def to_json(rows: Sequence[RowRendered]) -> Json:
    """Every text and every place, and where each runtime's rules come from."""
    sources = {name: asdict(SOURCES[name]) for name in RUNTIMES}
    summaries = {name: summary(rows, name) for name in RUNTIMES}
    return {"sources": sources, "summary": summaries, "rows": [_row_json(row) for row in rows]}


def write_json(path: Path, rows: Sequence[RowRendered]) -> None:
    """Writes `to_json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(rows), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _row_json(row: RowRendered) -> Json:
    runtimes = {
        found.runtime: {"same": found.same, "refused": found.refused, "note": found.note, "text": found.text,
                        "places": [asdict(place) for place in found.places]}
        for found in row.renderings
    }  # fmt: skip
    return {"id": row.row, "trained": row.trained, "refused": row.refused, "runtimes": runtimes}


def _plain(chat: ChatFormat) -> ChatFormat:
    """The official format of that name."""
    from dozan.chat import chat_format

    return chat_format(chat.name)


def _laid_out(
    example: Example, layout: Arrangement
) -> tuple[Sequence[Mapping[str, Json]], Sequence[Mapping[str, Json]]]:
    return layout.messages(example.messages, example.tools), layout.tools(example.tools)


def _jinja(
    template: ChatTemplate | None, official: ChatFormat, messages: Sequence[Mapping[str, Json]],
    tools: Sequence[Mapping[str, Json]], opens: bool,
) -> Applied:  # fmt: skip
    """The checkpoint's template run by Jinja; dozan's renderer where there is none."""
    if template is None:
        return _derived(official, messages, tools, opens)
    try:
        return Applied(template.render(messages, tools, opens))
    except TemplateFailed as error:
        return Applied("", f"the template fails: {error}")


def _derived(
    chat: ChatFormat, messages: Sequence[Mapping[str, Json]], tools: Sequence[Mapping[str, Json]], opens: bool
) -> Applied:
    try:
        return Applied(chat.render(messages, tools, generate=opens).text)
    except InputError as error:
        return Applied("", str(error))


def _compared(name: Runtime, applied: Applied, trained: str) -> Rendering:
    places = () if applied.refused else tuple(differences(trained, applied.text))
    return Rendering(name, applied.text, applied.refused, places, applied.note)


def _llama_cpp(
    opened: Opened, rows: Sequence[tuple[Sequence[Mapping[str, Json]], Sequence[Mapping[str, Json]]]]
) -> list[Applied]:
    """The rows by llama.cpp, with the GGUF's template, or the checkpoint's over the smallest model that there is."""
    if opened.gguf is not None:
        return apply_template(opened.gguf, rows)
    if opened.template is None:
        return [Applied("", "the model's folder has no chat template to run")] * len(rows)
    with tempfile.TemporaryDirectory(prefix="dozan-template-") as name:
        return apply_template(_smallest(Path(name)), rows, opened.template)


def _smallest(folder: Path) -> Path:
    """The embedded base as a GGUF: the server wants a model, and writes the same with any."""
    from dozan.model.bundle import open_model
    from dozan.ship.gguf import write_gguf

    path = folder / "base.gguf"
    write_gguf(open_model(dozan.EMBEDDED_BASE, dtype="float16"), path, "f16")
    return path
