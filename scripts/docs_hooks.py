"""What mkdocs is told beside mkdocs.yml: two languages, formulas as MathML, links that leave docs/.

A page may link a file of the repository as it would on disk (`../../dozan/model/adapter.py#attach`): source becomes a
page of the site, opened at the line of the class or function after #, anything else is copied. A formula is written in
LaTeX, as $$...$$ or $`...`$.
"""

from __future__ import annotations

import ast
import copy
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LANGUAGES = {"en": "English", "ar": "العربية"}
OUTSIDE = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]+)(?:#(?P<name>[^)\s]*))?\)")
SHOWN = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".toml": "toml", ".txt": "text", "": "make"}
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$`(?P<inline>.+?)`\$", re.DOTALL)
FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)
_MORE = {"en": "More", "ar": "المزيد"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of the navigation that are there, and those that it does not name at its end."""
    docs = Path(config.docs_dir)
    named: set[str] = set()

    def kept(items: Any) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if isinstance(item, str):
                named.add(item)
                found += [item] if (docs / item).is_file() else []
            else:
                ((title, inner),) = item.items()
                within = kept(inner)
                found += [{title: within}] if within else []
        return found

    nav = {next(iter(item)): next(iter(item.values())) for item in kept(config.nav)}
    for language in LANGUAGES:
        pages = (path.relative_to(docs).as_posix() for path in sorted((docs / language).glob("*.md")))
        others = [page for page in pages if page not in named]
        nav.setdefault(language, []).extend([{_MORE[language]: others}] if others else [])
    config.nav = [{language: items} for language, items in nav.items() if items]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the repository that pages link, beside those of docs/."""
    linked = {
        path
        for file in files.documentation_pages()
        for path, _ in outside_links(Path(config.docs_dir) / file.src_uri, Path(config.docs_dir))
    }
    for path in sorted(linked):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SHOWN:
            files.append(File.generated(config, f"source/{name}.md", content=_source_page(name, path)))
        else:
            files.append(File.generated(config, f"source/{name}", abs_src_path=str(path)))
    return files


def outside_links(page: Path, docs: Path) -> list[tuple[Path, str]]:
    """The files outside docs/ that a page links, each with what stands after #."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = (((page.parent / match["path"]).resolve(), match["name"] or "") for match in OUTSIDE.finditer(text))
    return [(path, name) for path, name in found if not path.is_relative_to(docs.resolve())]


def line_of(path: Path, name: str) -> int | None:
    """The line on which a Python file defines `name` (`Class.method` too); None if it does not."""
    *outer, last = name.split(".")
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for each in outer:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == each), [])
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == last:
            return node.lineno
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == last for target in targets):
                return node.lineno
    return None


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas set aside, links out of docs/ led to their copies."""
    parts = FENCE.split(markdown)
    here = posixpath.dirname(page.file.src_uri)
    docs = Path(config.docs_dir).resolve()
    formulas: list[str] = []

    def formula(match: re.Match[str]) -> str:
        block = match["block"] is not None
        formulas.append(_mathml((match["block"] or match["inline"]).strip(), block))
        return f"dozanformula{len(formulas) - 1}x"

    def link(match: re.Match[str]) -> str:
        path = (docs / here / match["path"]).resolve()
        if path.is_relative_to(docs):
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        if path.suffix not in SHOWN:
            return f"]({posixpath.relpath(f'source/{name}', here)})"
        line = line_of(path, match["name"]) if path.suffix == ".py" and match["name"] else None
        return f"]({posixpath.relpath(f'source/{name}.md', here)}{f'#__codelineno-0-{line}' if line else ''})"

    for i in range(0, len(parts), 2):
        parts[i] = OUTSIDE.sub(link, _FORMULA.sub(formula, parts[i]))
    page.meta["formulas"] = formulas
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas put back."""
    formulas = page.meta.get("formulas", [])
    return re.sub(r"(?:<p>)?dozanformula(\d+)x(</p>)?", lambda m: _placed(m, formulas), html)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation) -> dict[str, Any]:
    """The page's own language, its part of the navigation, and where it stands in the other language."""
    language = page.file.src_uri.split("/")[0]
    language = language if language in LANGUAGES else "en"
    config.theme["language"] = language
    config.extra["homepage"] = f"{language}/index.html"
    config.extra["alternate"] = [
        {"name": title, "link": _counterpart(page.file.src_uri, code, config), "lang": code}
        for code, title in LANGUAGES.items()
        if (Path(config.docs_dir) / code).is_dir() and any((Path(config.docs_dir) / code).glob("*.md"))
    ]
    section = next((item for item in nav.items if isinstance(item, Section) and item.title.lower() == language), None)
    if section is not None:
        shown = copy.copy(nav)
        shown.items = section.children
        context["nav"] = shown
    return context


def _mathml(formula: str, block: bool) -> str:
    """As MathML. The bars of a norm stay as tall as a letter: with an exponent one would not grow as the other."""
    made = convert(formula, display="block" if block else "inline")
    return re.sub(r"<mo[^>]*>&#x0(2016|2225);</mo>", r'<mo stretchy="false">&#x0\1;</mo>', made)


def _placed(match: re.Match[str], formulas: list[str]) -> str:
    formula = formulas[int(match[1])]
    alone = match[0].startswith("<p>") and match[2]
    return formula if alone else match[0].replace(f"dozanformula{match[1]}x", formula)


def _counterpart(uri: str, language: str, config: MkDocsConfig) -> str:
    name = uri.partition("/")[2]
    there = (Path(config.docs_dir) / language / name).is_file() and uri.split("/")[0] in LANGUAGES
    return f"{language}/{Path(name).stem}.html" if there else f"{language}/index.html"


def _source_page(name: str, path: Path) -> str:
    text = path.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * 6
    head = f"---\ntitle: {name}\nhide: [toc]\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
    return f'{head}{fence} {{.{SHOWN[path.suffix]} linenums="1"}}\n{text}\n{fence}\n'
