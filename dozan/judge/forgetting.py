"""What tuning cost elsewhere: the five purposes before and after, and what a run with replay rows keeps of them.

Retained is exp(loss before - loss after): the likelihood of a reference's token, in the geometric mean, as a share of
what the base gave it. 1 is as before, under 1 forgotten, over 1 gained. A run with replay rows (rows of the old kinds
mixed into the new ones) brings back (loss tuned - loss replay) / (loss tuned - loss base) of what was lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dozan.errors import InputError
from dozan.html.charts import radar
from dozan.html.page import isolated, page
from dozan.judge.paired import mcnemar, mean_interval
from dozan.judge.purposes import PurposeRow, PurposeScores
from dozan.judge.purposes_page import side_by_side
from dozan.rows.example import Json

Scored = Mapping[str, Mapping[str, PurposeScores]]
"""By model, the base first, then by purpose."""


@dataclass(frozen=True)
class Change:
    """One purpose in one model against the base.

    losses in nats a token; difference (after less before) with its paired 95 % interval; retained as the module says;
    share and base_share of judged answers (None when none was asked for), with McNemar's p.
    """

    purpose: str
    n: int
    base_loss: float
    loss: float
    difference: float
    low: float
    high: float
    retained: float
    base_share: float | None
    share: float | None
    p: float | None

    @property
    def verdict(self) -> str:
        """"forgotten" or "gained" when the interval leaves 0 out, else "kept"."""
        return "forgotten" if self.low > 0 else "gained" if self.high < 0 else "kept"


@dataclass(frozen=True)
class Forgetting:
    """Each model but the base: its changes, in the order of the purposes; `back` is the share that replay brings back
    of each purpose that was forgotten."""

    base: str
    changes: Mapping[str, tuple[Change, ...]]
    back: Mapping[str, float]


def forgetting(scored: Scored) -> Forgetting:
    """The first model is the base, the second the tuned one, the third, if any, was tuned with replay rows.

    Raises InputError when the models were not scored on the same rows.
    """
    (base, before), *others = scored.items()
    for name, found in others:
        if list(found) != list(before):
            raise InputError(f"{name} was scored on {', '.join(found)}, {base} on {', '.join(before)}; score the same")
    changes = {name: tuple(_change(before[key], found[key], name) for key in before) for name, found in others}
    back: dict[str, float] = {}
    if len(others) > 1:
        tuned, replay = list(changes.values())[:2]
        back = {lost.purpose: (lost.loss - again.loss) / (lost.loss - lost.base_loss)
                for lost, again in zip(tuned, replay, strict=True) if lost.verdict == "forgotten"}  # fmt: skip
    return Forgetting(base, changes, back)


_HEAD = ("", "rows", "model", "loss", "change", "95 %", "kept", "", "right", "back")


def table(found: Forgetting) -> Table:
    """For each purpose a line a model, the base first: the loss, its change, what is retained, judged answers."""
    lines = _lines(found)
    # Without the change, which the losses and the interval tell: eighty columns have no room for it.
    used = [i for i in range(len(_HEAD)) if i != 4 and any(line[i] for line in lines)]
    heads = ("change, 95 %" if i == 5 else _HEAD[i] for i in used)
    shown = Table(*heads, title=f"forgetting, against {found.base}", title_justify="left",
                  box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)  # fmt: skip
    for i, column in enumerate(shown.columns):
        column.no_wrap, column.overflow, column.justify = i != 2, "fold", "left" if i in (0, 2) else "right"
    shown.columns[2].min_width = min(10, max(len(line[2]) for line in lines))
    for line in lines:
        shown.add_row(*(line[i] for i in used))
    return shown


def to_json(found: Forgetting) -> dict[str, Json]:
    """Every figure, as plain values."""
    changes = {name: [{**asdict(change), "verdict": change.verdict} for change in each]
               for name, each in found.changes.items()}  # fmt: skip
    return {"base": found.base, "changes": changes, "back": dict(found.back)}


def html(found: Forgetting, scored: Scored, most: int = 6) -> str:
    """The page: the verdict, the radar, the table, then answers side by side, at most `most` rows a purpose."""
    title = f"What {' and '.join(found.changes)} kept of {found.base}"
    first = next(iter(found.changes.values()))
    names = [change.purpose for change in first]
    drawn = {found.base: [1.0] * len(names)}
    drawn |= {name: [change.retained for change in changes] for name, changes in found.changes.items()}
    chart = radar(names, list(drawn.values()), "likelihood retained, the base is 1", list(drawn))
    key = "".join(f'<span><i class="fill{i % 5}"></i>{isolated(name)}</span>' for i, name in enumerate(drawn))
    figure = (
        f'<figure><p class="key">{key}</p>{chart}<figcaption>Likelihood of a reference’s token as a share of what '
        f"{isolated(found.base)} gave it (geometric mean). Inside the ring of 1: forgotten; what is over 1.5 stands at "
        "the edge.</figcaption></figure>"
        if chart else ""
    )  # fmt: skip
    lead = f'<h1>{isolated(title)}</h1><p class="verdict">{escape(verdict(found))}</p>'
    sections = [lead, figure, _html_table(found)]
    for name in names:
        runs = {model: scores[name] for model, scores in scored.items()}
        sections.append(f"<section><h2>{name.capitalize()}</h2>{side_by_side(runs, most)}</section>")
    return page(title, "\n".join(filter(None, sections)))


def verdict(found: Forgetting) -> str:
    """What came of it in a sentence for each model."""
    said = []
    for name, changes in found.changes.items():
        parts = [f"{_words(changes, word)} {word}" for word in ("forgotten", "kept", "gained") if _words(changes, word)]
        said.append(f"{name} against {found.base}: {'; '.join(parts)}.")
    if found.back:
        back = ", ".join(f"{_percent(share)} of {name}" for name, share in found.back.items())
        said.append(f"The replay rows bring back {back}.")
    return " ".join(said)


def _words(changes: Sequence[Change], word: str) -> str:
    return ", ".join(f"{change.purpose} ({_percent(change.retained)})" for change in changes if change.verdict == word)


def _change(before: PurposeScores, after: PurposeScores, name: str) -> Change:
    rows = list(zip(before.rows, after.rows, strict=False))
    asked = [(row.id, row.question, row.reference) for row in before.rows]
    if asked != [(row.id, row.question, row.reference) for row in after.rows]:
        raise InputError(f"{name}: {before.purpose} was scored on other rows than the base; score the same file")
    pairs: list[tuple[float, float]] = []
    for a, b in rows:
        if a.loss is None or b.loss is None:
            raise InputError(f"{name}: {before.purpose} has no losses; a GGUF file gives none, name the model's folder")
        # Tokenizers may differ: each model's loss over the whole text, a token of the base's.
        pairs.append((b.loss * b.tokens - a.loss * a.tokens, float(a.tokens)))
    difference, low, high = mean_interval(pairs)
    base_loss = sum((row.loss or 0.0) * row.tokens for row in before.rows) / sum(row.tokens for row in before.rows)
    shares = _judged(rows)
    return Change(before.purpose, len(rows), base_loss, base_loss + difference, difference, low, high,
                  math.exp(-difference), *shares)  # fmt: skip


def _judged(rows: Sequence[tuple[PurposeRow, PurposeRow]]) -> tuple[float | None, float | None, float | None]:
    """The base's share of right answers, the other's, and McNemar's p; Nones when nothing was judged."""
    judged = [(a.right, b.right) for a, b in rows if a.right is not None and b.right is not None]
    if not judged:
        return None, None, None
    wins, losses = sum(b > a for a, b in judged), sum(a > b for a, b in judged)
    return sum(a for a, _ in judged) / len(judged), sum(b for _, b in judged) / len(judged), mcnemar(wins, losses)


def _lines(found: Forgetting) -> list[tuple[str, ...]]:
    """The table's cells by `_HEAD`; "" where there is nothing to say."""
    last = list(found.changes)[-1]
    lines = []
    for row in zip(*found.changes.values(), strict=True):
        right = "" if row[0].base_share is None else _percent(row[0].base_share)
        lines.append((row[0].purpose, f"{row[0].n:,}", found.base, f"{row[0].base_loss:.2f}", *[""] * 4, right, ""))
        for name, change in zip(found.changes, row, strict=True):
            right = "" if change.p is None else f"{_percent(change.share)}, p = {change.p:.2f}"
            back = _percent(found.back[change.purpose]) if name == last and change.purpose in found.back else ""
            lines.append((
                "", "", name, f"{change.loss:.2f}", f"{change.difference:+.2f}",
                f"{change.low:+.2f} to {change.high:+.2f}", _percent(change.retained), change.verdict, right, back,
            ))  # fmt: skip
    return lines


def _html_table(found: Forgetting) -> str:
    lines = _lines(found)
    used = [i for i in range(len(_HEAD)) if any(line[i] for line in lines)]
    head = "".join(f"<th>{_HEAD[i]}</th>" for i in used)
    body = ""
    for line in lines:
        cells = "".join(f"<td>{isolated(line[i]) if i == 2 else escape(line[i])}</td>" for i in used[1:])
        body += f'<tr><td class="name">{line[0]}</td>{cells}</tr>'
    caption = (
        "Losses in nats a token over the rows’ references, with paired 95 % intervals (bootstrap over rows). Kept: exp "
        "of the loss before less the loss after. Right: answers that pass their tests or reach the final answer. Back: "
        "what the replay rows bring back of a loss that rose."
    )
    return (f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")  # fmt: skip


def _percent(share: float | None) -> str:
    """Whole per cent; what is beyond ten times is no more than that."""
    return "–" if share is None else "> 999 %" if share >= 9.995 else f"{100 * share:.0f} %"


