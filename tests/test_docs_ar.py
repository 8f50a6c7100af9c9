"""The pages in Arabic: their commands and code are those of the English ones, which are run; their figures too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.docs_blocks import blocks, commands, inline_commands, problem, prose_problem

DOCS = Path(__file__).parents[1] / "docs"
ENGLISH = {path.name: path.read_text(encoding="utf-8") for path in sorted((DOCS / "en").glob("*.md"))}
ARABIC = {path.name: path.read_text(encoding="utf-8") for path in sorted((DOCS / "ar").glob("*.md"))}
OWN = {"export LANG=ar_EG.UTF-8", "dozan data rules DZ421"}
"""Commands that only the Arabic pages have."""
FIGURE = re.compile(r"(?<![\w.,-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])")
LETTERS = re.compile("[ء-ي]")

each_page = pytest.mark.parametrize("page", ARABIC)


def in_shell(text: str) -> list[str]:
    lines = [line for block in blocks(text) if block.kind == "bash" for line in commands(block.code, block.kind)]
    return [line.split("  #")[0].strip() for line in lines]


def prose(text: str) -> str:
    """A page without its blocks and the addresses of its links."""
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def test_the_pages_are_there() -> None:
    assert {"index.md", "start.md", "data.md", "report.md", "troubleshooting.md", "beliefs.md"} <= set(ARABIC)


@each_page
def test_commands_exist_and_are_those_of_the_english_page(page: str) -> None:
    given = in_shell(ARABIC[page])
    wrong = [said for command in given if command.startswith("dozan") and (said := problem(command))]
    wrong += [said for command in inline_commands(ARABIC[page]) if (said := prose_problem(command))]
    assert wrong == []
    assert [command for command in given if command not in {*OWN, *in_shell(ENGLISH[page])}] == []


@each_page
def test_code_and_what_it_prints_are_those_of_the_english_page(page: str) -> None:
    english = {(block.kind, block.code) for block in blocks(ENGLISH[page])}
    code = [(block.kind, block.code) for block in blocks(ARABIC[page]) if block.kind != "bash"]
    assert [block for block in code if block not in english] == []
    fences = [line.strip() for line in ARABIC[page].splitlines() if line.strip().startswith("```")]
    assert all(fence != "```" for fence in fences[::2]), "a block without a language"


@each_page
def test_figures_are_those_of_the_english_pages(page: str) -> None:
    known = set(FIGURE.findall(ENGLISH[page]))
    new = [figure for figure in FIGURE.findall(prose(ARABIC[page])) if len(figure) > 1 and figure not in known]
    assert new == []


@each_page
def test_a_page_is_in_arabic(page: str) -> None:
    assert re.match(r"# .*[ء-ي]", ARABIC[page])
    assert not re.search("[\u200e\u200f\u202a-\u202e]", ARABIC[page]), "the page's style sets directions"
    paragraphs = [part for part in prose(ARABIC[page]).split("\n\n") if part.strip() and not part.startswith("<!--")]
    assert [part for part in paragraphs if not LETTERS.search(part)] == []


def test_a_figure_or_a_command_of_nowhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{ARABIC['beliefs.md']}\nوالنسبة 77.7 %\n```bash\ndozan trian\n```\n"
    monkeypatch.setitem(ARABIC, "beliefs.md", text)
    for check in (test_figures_are_those_of_the_english_pages, test_commands_exist_and_are_those_of_the_english_page):
        with pytest.raises(AssertionError):
            check("beliefs.md")
