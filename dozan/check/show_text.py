"""A row as the model sees it, in a terminal: colours for what is trained, signs where there are no colours."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.text import Text

from dozan.check.show import Numbered, Part, Shown, lines_of
from dozan.check.visible import isolate, visible

STYLES: dict[Part, str] = {"trained": "bold green", "context": "default", "masked": "yellow"}
_SIGNS: dict[Part, tuple[str, str]] = {"trained": ("⟦", "⟧"), "context": ("", ""), "masked": ("‹", "›")}
_STOP, _LINE_END = "■", "↵"


def print_row(shown: Shown, console: Console) -> None:
    """One row with its counts and legend. A line ends where the row has a line feed (↵) and before each declaration."""
    console.print(Text.assemble((visible(shown.row), "bold"), "  ", (visible(shown.place), "dim")), soft_wrap=True)
    if shown.refused:
        console.print(Text(f"cannot be rendered: {visible(shown.refused)}", "red"), soft_wrap=True)
        return
    console.print(describe(shown), soft_wrap=True)
    colours = console.color_system is not None
    console.print(_legend(colours))
    marks, numbered = shown.marks(), iter(enumerate(shown.pieces))
    for turn in shown.turns:
        console.print(Text(f"\n{turn.role or 'text'}", "bold underline"))
        pieces = [next(numbered) for _ in turn.pieces]
        for line in lines_of(pieces):
            console.print(_line(line, marks, colours), soft_wrap=True)
    for repair in shown.repairs:
        console.print(Text(f"repaired: {visible(repair)}", "magenta"), soft_wrap=True)


def describe(shown: Shown) -> str:
    """A row's counts in a sentence."""
    share = f"{100 * shown.trained / max(1, shown.tokens):.1f} %"
    text = f"{shown.tokens:,} tokens, {shown.trained:,} trained ({share})"
    if shown.others:
        rows = max(piece.shared for piece in shown.pieces)
        begun = f"the first {shown.shared:,} also begin other rows (up to {rows:,} of {shown.others:,})"
        text += f"; {begun if shown.shared else 'no other row begins as it does'}"
    return text


def _legend(colours: bool) -> Text:
    legend = Text()
    for part, style in STYLES.items():
        before, after = ("", "") if colours else _SIGNS[part]
        legend.append(f"{before}{part}{after}", style).append("  ")
    legend.append(f"{_STOP} the model stops here", STYLES["trained"])
    return legend.append("  ┊n┊ up to here n other rows are the same", "cyan")


def _line(line: list[Numbered], marks: dict[int, int], colours: bool) -> Text:
    """Stretches of one part; a stretch of plain text is isolated, so that Arabic runs right to left inside it."""

    def passed(number: int) -> int:
        return sum(mark <= number for mark in marks)

    text = Text("  ")
    for part, some in groupby(line, key=lambda item: item[1].part):
        before, after = ("", "") if colours else _SIGNS[part]
        text.append(before)
        for (control, _), stretch in groupby(some, key=lambda item: (item[1].control, passed(item[0]))):
            found = list(stretch)
            if marked := marks.get(found[0][0]):
                text.append(f"┊{marked:,}┊", "cyan")
            written = visible("".join(piece.text for _, piece in found)).replace("\n", _LINE_END)
            stop = found[-1][1].stop
            text.append(written if control else isolate(written), f"{STYLES[part]} dim" if control else STYLES[part])
            text.append(_STOP if stop else "", STYLES[part])
        text.append(after)
    return text
