"""The documentation: its links, the code and tests that it names, the pages made from the program, the built site."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from dozan.recipe import Recipe
from scripts import docs_reference

pytest.importorskip("mkdocs", reason="the docs extra is not installed")
from scripts import docs_hooks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/LOG.md", "examples/README.md")]
LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<name>[^)\s]*))?\)")
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "use": "href"}
"""Tags that make a browser fetch something, and where they say what."""

each_page = pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(DOCS).as_posix() for path in PAGES])


@pytest.mark.parametrize("name", docs_reference.pages())
def test_the_reference_is_the_programs_own(name: str) -> None:
    assert (docs_reference.PAGES / name).read_text(encoding="utf-8") == docs_reference.pages()[name], (
        "make docs writes it anew"
    )


def test_every_setting_has_a_meaning() -> None:
    empty = re.findall(r"^\| `([^`]+)` \|.*\|  \|$", docs_reference.recipe_page(), re.MULTILINE)
    assert not empty, f"say in the section's docstring, or in docs_reference.MEANINGS, what these mean: {empty}"
    settings = re.findall(r"^\| `([^`]+)` \|", docs_reference.recipe_page(), re.MULTILINE)
    sections = {key: value for key, value in Recipe().model_dump().items() if isinstance(value, dict)}
    assert {f"{key}.{name}" for key, section in sections.items() for name in section} <= set(settings)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = docs_hooks.FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = [
        match[0]
        for match in LINK.finditer(text)
        if match["path"] and "://" not in match["path"] and not (page.parent / unquote(match["path"])).exists()
    ]
    assert not wrong


@each_page
def test_code_and_tests_that_are_named_exist(page: Path) -> None:
    links = [(path, name) for path, name in docs_hooks.outside_links(page, DOCS) if path.suffix == ".py" and name]
    gone = [f"{path.name}#{name}" for path, name in links if docs_hooks.line_of(path, name) is None]
    assert not gone, "the page names what is no longer there"


def test_each_formula_has_its_code_and_its_proof() -> None:
    text = (DOCS / "en" / "mathematics.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    bare = [section.splitlines()[0] for section in sections if "- Code:" not in section or "- Proof:" not in section]
    assert len(sections) >= 10 and not bare
    proofs = re.findall(r"\]\(../../tests/[^)#]+#(\w+)\)", text)
    assert len(proofs) >= 30 and all(name.startswith("test_") for name in proofs)


def test_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    source = ROOT / "dozan" / "model" / "adapter.py"
    assert docs_hooks.line_of(source, "AdaptedLinear.refresh_norm") and docs_hooks.line_of(source, "PEFT_ROOT")
    assert docs_hooks.line_of(source, "AdaptedLinear.gone") is None and docs_hooks.line_of(source, "gone") is None


class Fetched(HTMLParser):
    """Where a page's tags and links lead, and the ids that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag in LOADED and found.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.loads += [found[LOADED[tag]] or ""] if LOADED[tag] in found else []
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        self.ids |= {value for key, value in attributes if key in ("id", "name") and value}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def fetched(site: Path) -> dict[Path, Fetched]:
    return {path: Fetched(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_the_site_fetches_nothing_from_elsewhere(site: Path, fetched: dict[Path, Fetched]) -> None:
    foreign = {url for page in fetched.values() for url in page.loads if re.match(r"(https?:)?//", url)}
    assert not foreign
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+", styles)


def test_links_of_the_site_lead_to_a_page_and_a_place(site: Path, fetched: dict[Path, Fetched]) -> None:
    wrong = []
    for path, page in fetched.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link) or path.name == "404.html":
                continue
            name, _, place = link.partition("#")
            target = (path.parent / unquote(name)).resolve() if name not in ("", ".") else path
            there = target.is_file() and (not place or target not in fetched or unquote(place) in fetched[target].ids)
            wrong += [] if there else [f"{path.relative_to(site)}: {link}"]
    assert not wrong


def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "en" / "mathematics.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20 and "$$" not in text and "dozanformula" not in text


@pytest.mark.skipif(not any((DOCS / "ar").glob("*.md")), reason="no page in Arabic yet")
def test_languages_have_their_own_direction_and_menu(site: Path) -> None:
    names = {path.stem for path in (DOCS / "ar").glob("*.md")} & {path.stem for path in (DOCS / "en").glob("*.md")}
    for language, direction, other in (("en", "ltr", "ar"), ("ar", "rtl", "en")):
        for name in names:
            text = (site / language / f"{name}.html").read_text(encoding="utf-8")
            assert f'<html lang="{language}"' in text and f'dir="{direction}"' in text
            assert f'href="../{other}/{name}.html" hreflang="{other}"' in text
            menu = text[text.index("md-nav--primary") : text.index("md-content")]
            assert f"../{other}/" not in menu


def test_a_page_that_is_not_in_the_menu_comes_last(tmp_path: Path) -> None:
    from mkdocs.config import load_config

    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "docs" / "en" / "zzz.md").write_text("# New\n", encoding="utf-8")
    (tmp_path / "docs" / "en" / "start.md").unlink()
    config = docs_hooks.on_config(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(tmp_path / "docs")))
    english = next(item["en"] for item in config.nav if "en" in item)
    assert english[-1] == {"More": ["en/zzz.md"]} and "en/start.md" not in str(english)
