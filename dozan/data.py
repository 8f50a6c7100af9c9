"""Rows you can trust, from Python: what the verbs of `dozan data` do, loaded when first called.

`dozan.data.show("rows.jsonl", rows=["12"])`; models are named as everywhere: a run, a folder, a hub id, or nothing for
the embedded base, whose tokenizer and chat format the rows are then written with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import dozan

if TYPE_CHECKING:
    from dozan.chat.format import ChatFormat
    from dozan.chat.tokenizer import Tokenizer
    from dozan.check.engine import Progress
    from dozan.check.finding import Rule
    from dozan.check.fix import FixResult
    from dozan.check.generate import Generated
    from dozan.check.prepare import Prepared
    from dozan.check.report import Report
    from dozan.check.show import Shown
    from dozan.check.split import SplitRows
    from dozan.check.stats import Stats
    from dozan.rows.example import Example
    from dozan.rows.readers import Say
    from dozan.rows.records import Broken

__all__ = ["check", "fix", "generate", "prepare", "rules", "show", "split", "stats"]


def check(
    files: Sequence[str | Path] | str | Path, model: str | Path | None = None, shape: str | None = None,
    eval_data: Sequence[str | Path] = (), only: Sequence[str] = (), except_: Sequence[str] = (),
    max_tokens: int = 4096, json: str | Path | None = None, html: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Everything that is wrong with the rows, in one pass; `json` and `html` get the report.

    model: of which tokenizer and chat format the rows are for; without one the embedded base's, and no tokenizer is
    judged. only, except_: codes, beginnings of codes (`DZ5`) or names of rules. Raises InputError for files that are
    not there and for unknown codes; what is wrong with rows is in the report.
    """
    from dozan.check.engine import check as check_files
    from dozan.model.hub import resolve_model

    folder = None if model is None else resolve_model(model)
    report = check_files(
        _listed(files), shape, folder, eval_data, max_tokens=max_tokens, only=only, except_=except_, progress=progress
    )
    if json is not None:
        Path(json).parent.mkdir(parents=True, exist_ok=True)
        report.to_json(json)
    if html is not None:
        from dozan.check.report_page import write_report_page

        write_report_page(html, report, shape=shape)
    return report


def rules() -> list[Rule]:
    """Every rule of `check`, by code."""
    from dozan.check.catalog import RULES

    return list(RULES)


def show(
    file: str | Path, rows: Sequence[str] = (), model: str | Path = dozan.EMBEDDED_BASE, html: str | Path | None = None,
    shape: str | None = None, limit: int = 1, say: Say | None = None,
) -> list[Shown]:  # fmt: skip
    """Rows as the model sees them: those of these ids or lines, else the first `limit`; `html` gets the page.

    Raises InputError for an id or a line that no row has. Rows of the file that cannot be read are passed over.
    """
    from dozan.check.show import show_rows
    from dozan.check.show_page import write_page

    tokenizer, chat = _model(model)
    said = [say]
    shown = show_rows(lambda: _read([file], shape, said.pop() if said else None), chat, tokenizer, rows, limit)
    if html is not None:
        write_page(html, Path(file).name, shown)
    return shown


def stats(
    files: Sequence[str | Path] | str | Path, model: str | Path = dozan.EMBEDDED_BASE, shape: str | None = None,
    say: Say | None = None,
) -> Stats:  # fmt: skip
    """What the rows are made of: tokens, calls, tools, dialects, and what shared beginnings save."""
    from dozan.check.stats import measure_rows

    tokenizer, chat = _model(model)
    return measure_rows(_read(_listed(files), shape, say), chat, tokenizer)


def fix(
    files: Sequence[str | Path] | str | Path, out: str | Path, only: Sequence[str] = (), except_: Sequence[str] = (),
    dry_run: bool = False, shape: str | None = None, say: Say | None = None,
    on_diff: Callable[[str], None] | None = None,
) -> FixResult:  # fmt: skip
    """Repairs rows where that is safe: see `dozan.check.fix.fix`."""
    from dozan.check.fix import fix as fix_files

    return fix_files(_listed(files), out, only, except_, dry_run, shape, say=say, on_diff=on_diff)


def prepare(
    files: Sequence[str | Path] | str | Path, out: str | Path, eval_data: Sequence[str | Path] = (),
    holdout: float = 0.1, seed: int = 0, only: Sequence[str] = (), except_: Sequence[str] = (),
    shape: str | None = None, dataset: bool = False, say: Say | None = None,
) -> Prepared:  # fmt: skip
    """Repaired rows in a folder, for training and evaluation, with a manifest: see `dozan.check.prepare.prepare`."""
    from dozan.check.prepare import prepare as prepare_files

    return prepare_files(_listed(files), out, eval_data, holdout, seed, only, except_, shape, dataset=dataset, say=say)


def split(
    files: Sequence[str | Path] | str | Path, out: str | Path, holdout: float = 0.1, seed: int = 0,
    shape: str | None = None, say: Say | None = None,
) -> SplitRows:  # fmt: skip
    """The rows as they are on two sides that share no pattern and no near-duplicate: see `dozan.check.split.split`."""
    from dozan.check.split import split as split_files

    return split_files(_listed(files), out, holdout, seed, shape, say)


def generate(
    tools: str | Path, lexicon: str | Path, out: str | Path, eval_out: str | Path | None = None, rows: int = 500,
    seed: int = 0, dialects: Sequence[str] = (), holdout: float = 0.1,
) -> Generated:  # fmt: skip
    """Rows for tools of one's own, of a lexicon of sentence patterns: see `dozan.check.generate.generate`."""
    from dozan.check.generate import generate as generate_files

    return generate_files(tools, lexicon, out, eval_out, rows, seed, dialects, holdout)


def _listed(files: Sequence[str | Path] | str | Path) -> Sequence[str | Path]:
    return [files] if isinstance(files, str | Path) else files


def _model(model: str | Path) -> tuple[Tokenizer, ChatFormat]:
    from dozan.chat import Tokenizer, detect_chat
    from dozan.model.hub import resolve_model

    tokenizer = Tokenizer.load(resolve_model(model))
    return tokenizer, detect_chat(tokenizer)


def _read(files: Sequence[str | Path], shape: str | None, say: Say | None) -> Iterator[Example]:
    """The rows that can be read of all files, and a line on how many cannot."""
    from dozan.rows.readers import read_examples

    broken: list[str] = []

    def problem(found: Broken) -> None:
        if not found.usable and len(broken) < 1_000_000:
            broken.append("") if broken else broken.append(str(found))

    yield from chain.from_iterable(read_examples(file, shape, problem, say) for file in files)
    if broken and say is not None:
        say(f"{len(broken):,} rows cannot be read (see dozan data check), the first: {broken[0]}")
