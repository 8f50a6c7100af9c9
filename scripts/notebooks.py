"""Notebooks from Markdown: `python -m scripts.notebooks` writes notebooks/*.ipynb anew, and runs them on this machine.

A block of ```python is a code cell, what stands between blocks is a cell of text. A word after `python` tags the cell:
the values in the cell tagged `parameters` may be replaced for a run, as papermill does it.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ("functiongemma_arabic", "gemma3_12b_trinity_t4", "bring_your_own_data")
REHEARSED = {"gemma3_12b_trinity_t4": {"MODEL": "dozan:embedded", "GGUF": "q8_0", "STEPS": 20, "NEW_TOKENS": 32}}
"""What the outputs in the repository were made with, where not with what the notebook says: no 12B fits a test."""
_RTL = re.compile(r'<div dir="rtl">\n\n(.*?)\n\n</div>', re.DOTALL)
_LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
_CODE = re.compile(r"^```python ?(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MACHINE = re.compile(r"/(?:home|root|work|tmp|Users)/[^\s\"'<\\]*")


def build(name: str) -> NotebookNode:
    """The notebook of a Markdown source, without outputs."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    cells, at = [], 0
    for block in _CODE.finditer(text):
        cells += _text(text[at : block.start()])
        tags = {"tags": [block[1]]} if block[1] else {}
        cells.append(nbformat.v4.new_code_cell(block[2].strip("\n"), metadata=tags))
        at = block.end()
    cells += _text(text[at:])
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
              "language_info": {"name": "python"}, "accelerator": "GPU", "colab": {"provenance": []}}  # fmt: skip
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def _text(text: str) -> list[NotebookNode]:
    return [nbformat.v4.new_markdown_cell(_RTL.sub(_as_html, text.strip("\n")))] if text.strip() else []


def _as_html(block: re.Match[str]) -> str:
    """Text from right to left as HTML without paragraphs, which Jupyter's own style would set to the left."""
    lines = []
    for part in block[1].split("\n\n"):
        text = _LINK.sub(r'<a href="\2">\1</a>', re.sub(r"`([^`]+)`", r'<code dir="ltr">\1</code>', part))
        if heading := re.match(r"(#+) (.*)\n?", text):
            level, text = len(heading[1]), text[heading.end() :]
            lines.append(f"<h{level}>{heading[2]}</h{level}>")
        lines += [f"<div>{text}</div>"] if text else []
    return "\n".join(['<div dir="rtl">', *lines, "</div>"])


def with_parameters(notebook: NotebookNode, parameters: Mapping[str, object]) -> NotebookNode:
    """The notebook with other values: a cell after the one tagged `parameters`. Unknown names are refused."""
    at, cell = next((i, cell) for i, cell in enumerate(notebook.cells) if "parameters" in tags_of(cell))
    for name in parameters:
        if not re.search(rf"^{name} = ", cell.source, re.MULTILINE):
            raise ValueError(f"{name} is no parameter of this notebook:\n{cell.source}")
    lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    given = nbformat.v4.new_code_cell(lines, id="given", metadata={"tags": ["injected-parameters"]})
    return nbformat.from_dict({**notebook, "cells": [*notebook.cells[: at + 1], given, *notebook.cells[at + 1 :]]})


def tags_of(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def client_of(notebook: NotebookNode, folder: Path, timeout: int = 1800) -> NotebookClient:
    """What runs a notebook in a kernel of its own, in `folder`."""
    place = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=place)


def run(name: str, parameters: Mapping[str, object], folder: Path) -> NotebookNode:
    """The notebook with its outputs, run from top to bottom; nbclient's CellExecutionError for a cell that fails."""
    notebook = with_parameters(build(name), parameters) if parameters else build(name)
    client_of(notebook, folder).execute()
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags_of(cell)]
    return tidy(notebook)


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Outputs as they are kept: each stream once, no times of execution, nothing that names this machine."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs: list[NotebookNode] = []
        for output in cell.get("outputs", ()):
            if outputs and output.output_type == outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        if cell.cell_type == "code":
            cell.outputs = outputs
    return notebook


def machine_paths(notebook: NotebookNode) -> list[str]:
    """Folders of a machine that outputs name."""
    return [path for cell in notebook.cells for path in _MACHINE.findall(str(cell.get("outputs", "")))]


def with_new_text(name: str) -> NotebookNode:
    """The notebook as its source says it, with the outputs that are kept of cells whose code is the same."""
    kept = {cell.source: cell for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells}
    notebook = build(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            before = kept[cell.source]
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return notebook


def main() -> None:
    """Run all, or those that are named, and keep them with their outputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--text", action="store_true", help="only the text has changed: keep the outputs")
    given = parser.parse_args()
    os.environ.pop("COLAB_RELEASE_TAG", None)
    for name in given.names:
        with tempfile.TemporaryDirectory() as folder:
            notebook = with_new_text(name) if given.text else run(name, REHEARSED.get(name, {}), Path(folder))
        found = machine_paths(notebook)
        assert not found, f"{name}: outputs name {found}"
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: {(FOLDER / f'{name}.ipynb').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
