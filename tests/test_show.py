"""A row as the model sees it: which tokens are trained, what other rows share, and that no text of it takes effect."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_report import parse

import dozan
from dozan.chat import FUNCTIONGEMMA, Tokenizer
from dozan.chat.encode import Tokens, encode_example
from dozan.chat.keys import key
from dozan.check import sharing
from dozan.check.show import Shown, show_rows
from dozan.check.show_page import show_page
from dozan.check.show_text import print_row
from dozan.check.visible import visible
from dozan.errors import InputError
from dozan.pack import pack_rows
from dozan.rows.example import Example

TOKENIZER = Tokenizer.load(dozan.EMBEDDED_BASE)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "الطقس",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "المدينة"}}},
    },
}
TRIGGER = "You are a model that can do function calling with the following functions"


def row(name: str, city: str = "الرياض", answer: str | None = None, said: str = "", tools: Any = (TOOL,)) -> Example:
    """A call, and with `answer` the tool's result and that answer."""
    call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": TRIGGER},
        {"role": "user", "content": said or f"ما الطقس في {city}؟"},
        {"role": "assistant", "tool_calls": [call]},
    ]
    if answer is not None:
        messages += [
            {"role": "tool", "name": "get_weather", "content": {"sky": "صحو"}},
            {"role": "assistant", "content": answer},
        ]
    return Example(name, tuple(tools), tuple(messages), place=f"rows.jsonl:{int(name, 36)}")


def shown(*examples: Example, rows: tuple[str, ...] = ("1",)) -> list[Shown]:
    return show_rows(lambda: examples, FUNCTIONGEMMA, TOKENIZER, rows)


def test_what_is_shown_is_what_is_trained() -> None:
    example = row("1", answer="الجو صحو 👩‍👩‍👧")
    tokens = encode_example(example, FUNCTIONGEMMA, TOKENIZER, 4096)
    found = shown(example)[0]
    ids = [(i, piece.weight) for piece in found.pieces for i in piece.ids]
    assert ids == list(zip(tokens.ids, tokens.weights, strict=True))
    assert "".join(piece.text for piece in found.pieces) == FUNCTIONGEMMA.render(example.messages, example.tools).text
    assert (found.tokens, found.trained) == (len(tokens.ids), sum(weight > 0 for weight in tokens.weights))


def test_turns_parts_and_stops() -> None:
    found = shown(row("1", answer="الجو صحو"))[0]
    assert [turn.role for turn in found.turns] == ["developer", "user", "model"]
    texts = {
        part: "".join(piece.text for piece in found.pieces if piece.part == part) for part in ("trained", "masked")
    }
    assert texts["masked"].startswith("response:get_weather{sky:") and "صحو" in texts["masked"]
    assert texts["trained"].startswith("<start_function_call>call:get_weather{") and "الجو صحو" in texts["trained"]
    assert [piece.text for piece in found.pieces if piece.stop] == ["<start_function_response>", "<end_of_turn>"]
    assert "الطقس" in "".join(piece.text for piece in found.turns[0].pieces if piece.part == "context")


def test_sharing_counts_other_rows_at_each_token() -> None:
    other = {**TOOL, "function": {**TOOL["function"], "name": "forecast"}}
    rows = [row("1"), row("2", "جدة"), row("3", "مكة"), row("4", "مكة", tools=(other,), said="كم الساعة")]
    answer = {"role": "assistant", "content": "لا أعرف"}
    rows[3] = Example("4", rows[3].tools, (*rows[3].messages[:2], answer), place="rows.jsonl:4")
    found = shown(*rows)[0]
    ids = [encode_example(each, FUNCTIONGEMMA, TOKENIZER, 4096).ids for each in rows]
    flat = [piece.shared for piece in found.pieces for _ in piece.ids]
    assert flat == [sum(each[: i + 1] == ids[0][: i + 1] for each in ids[1:]) for i in range(len(ids[0]))]
    assert found.others == 3 and found.shared == sum(count > 0 for count in flat) and 0 < flat[found.shared - 1] < 3


def test_a_row_is_found_by_id_or_line_and_a_missing_one_is_named() -> None:
    rows = [row("a"), row("b", "جدة"), row("c", "مكة")]
    assert [each.row for each in shown(*rows, rows=("c", "10"))] == ["c", "a"]
    assert [each.row for each in show_rows(lambda: rows, FUNCTIONGEMMA, TOKENIZER, limit=2)] == ["a", "b"]
    with pytest.raises(InputError, match="--row nope: no row has that id"):
        shown(*rows, rows=("a", "nope"))


def test_a_row_that_cannot_be_rendered_says_why() -> None:
    broken = Example("1", (), ({"role": "user", "content": "مرحبا"}, {"role": "tool", "content": "x"}), place="r:1")
    half = Example(
        "\ud800", (), ({"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "x"}), place="r:2"
    )
    found = shown(broken, half, rows=("1", "\ud800"))
    assert "messages[1].name: missing" in found[0].refused and "U+D800" in found[1].refused
    assert "cannot be rendered" in show_page("t", found).encode().decode() and "cannot be rendered" in printed(found[0])


@pytest.mark.parametrize("budget", [40, 90, 100_000])
def test_sharing_is_what_the_packer_stores(budget: int) -> None:
    draw = random.Random(budget)
    rows = [tuple(draw.choice((1, 256, 515)) for _ in range(draw.randint(1, 30))) for _ in range(200)]
    tokens = [Tokens(str(i), ids, (1.0,) * len(ids)) for i, ids in enumerate(rows)]
    packed = sum(len(batch) for batch in pack_rows(tokens, "tries", budget))
    assert sharing.computed(sorted(map(key, rows)), budget) == packed
    found = sharing.measure([key(ids) for ids in rows], 16, budget)
    assert found.tokens == sum(map(len, rows)) and found.computed_sorted == packed <= found.computed_shuffled


def printed(found: Shown, colours: bool = False) -> str:
    file = io.StringIO()
    system: Any = "truecolor" if colours else None
    print_row(found, Console(file=file, width=100, highlight=False, color_system=system, force_terminal=colours))
    return file.getvalue()


def test_in_a_terminal_arabic_is_isolated_and_the_answer_is_set_apart() -> None:
    text = printed(shown(row("1", answer="الجو صحو"))[0])
    assert "\u2068ما الطقس في الرياض؟\u2069" in text
    assert "⟦<start_function_call>" in text and "<start_function_response>■⟧" in text
    assert "‹\u2068response:get_weather" in text
    assert "⟦" not in printed(shown(row("1"))[0], colours=True)


def test_what_is_invisible_or_a_terminal_command_is_spelt_out() -> None:
    said = "a\x1b[31mb\u202ec\u200bd"
    found = shown(row("1", said=said))[0]
    for text in (printed(found), show_page("t", [found])):
        assert not set("\x1b\u202e\u200b") & set(text)
        assert "[U+001B][31mb[U+202E]c[U+200B]d" in re.sub("<[^>]*>", "", text)
    assert visible("سطر\nثان") == "سطر\nثان"


def test_the_page_closes_its_tags_gives_each_turn_its_direction_and_loads_nothing() -> None:
    found = shown(row("1", said='<script>alert(1)</script> " & مرحبا'), row("2", "جدة"), rows=("1", "2"))
    text = show_page("<b>rows</b>", found)
    page = parse(text)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.seen}
    assert "<b>rows" not in text and "&lt;b&gt;rows" in text
    titles = [attributes["title"] for tag, attributes in page.seen if tag == "span" and "title" in attributes]
    assert len(titles) == sum(1 for each in found for _ in each.pieces)
    assert any(re.fullmatch(r"id 50 · weight 1 · trained · stop", str(title)) for title in titles)


def test_an_arabic_turn_stands_in_a_line_of_its_own_direction() -> None:
    text = show_page("t", shown(row("1")))
    lines = re.findall(r'<div dir="(\w+)">(.*?)</div>', text)
    plain = {re.sub("<[^>]*>", "", line): direction for direction, line in lines}
    assert plain["ما الطقس في الرياض؟&lt;end_of_turn&gt;↵"] == "auto"
    call = next(direction for line, direction in plain.items() if line.startswith("&lt;start_function_call"))
    assert call == "ltr" and re.search(r'<bdi[^>]*>(<span class="t trained rtl"[^>]*>[^<]+</span>)+</bdi>', text)


def test_beside_other_rows_what_they_share_is_folded() -> None:
    text = show_page("t", shown(row("1"), row("2", "جدة"), rows=("1", "2")))
    assert text.count("<details>") == 2 and text.count("the same in 1 other row<") == 2
    assert "<details>" not in show_page("t", shown(row("1"), row("2", "جدة")))


def test_files_of_the_package_are_shown(tmp_path: Path) -> None:
    page = tmp_path / "out" / "show.html"
    file = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "test.jsonl"
    found = dozan.data.show(file, ["3"], html=page)
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[2])["id"] == found[0].row
    assert found[0].others == len(file.read_text(encoding="utf-8").splitlines()) - 1 and page.is_file()
