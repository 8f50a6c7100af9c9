"""Every command of the documentation, run: each page's blocks in their order, in a folder with small rows and a run.

Verbs that would take long get a few steps, rows and tokens (`SHORT`); what cannot be run here must at least exist.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import itertools
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

import dozan
from dozan.cli import main
from scripts.docs_blocks import Block, blocks, commands, inline_commands, problem, prose_problem, words

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs" / "en").glob("*.md"))]
}
CODE = ("bash", "console", "python")
SHORT = {
    "train": ["--set", "train.max_steps=2", "--set", "train.batch_size=2", "--set", "train.learning_rate=1e-6"],
    "eval": ["--limit", "2"],
    "compare": ["--limit", "2"],
    "forget": ["--limit", "2"],
}
"""What is put behind a verb so that it takes seconds; at this rate the base stays what it is, and its answers end."""

each_page = pytest.mark.parametrize("page", PAGES)


def leave(arguments: list[str]) -> int:
    """Runs a verb here; its exit code."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the pages has it; made once, whichever of several test processes needs it first."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "reader.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "reader").is_dir():
            prepare(root / "reader.part")
            (root / "reader.part").rename(root / "reader")
    return root / "reader"


def prepare(place: Path) -> None:
    """Rows, tools, the examples, a run and its GGUF."""
    place.mkdir()
    source = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar"
    with gzip.open(source / "train.jsonl.gz", "rt", encoding="utf-8") as rows:
        write_lines(place / "rows.jsonl", list(itertools.islice(rows, 8)))
    with (source / "test.jsonl").open(encoding="utf-8") as rows:
        held = list(itertools.islice(rows, 2))
    write_lines(place / "test.jsonl", held)
    answers = [{"id": json.loads(row)["id"], "prediction": []} for row in held]
    write_lines(place / "answers.jsonl", [json.dumps(answer) + "\n" for answer in answers])
    asked = {"question": "Two apples and three apples?", "answer": "2 + 3 = 5 #### 5"}
    write_lines(place / "gsm8k.jsonl", [json.dumps(asked) + "\n"])
    shutil.copy(source / "tools.json", place)
    shutil.copytree(ROOT / "examples", place / "examples")
    home = place / "examples" / "home_assistant_ar" / "commands.jsonl"
    write_lines(home, home.read_text(encoding="utf-8").splitlines(keepends=True)[:16])
    with contextlib.chdir(place):
        assert leave(["train", "--data", "rows.jsonl", "--out", "output/mine", *SHORT["train"]]) == 0
        shutil.copytree("output/mine", "output/run")
        assert leave(["export", "output/mine", "--gguf", "q8_0", "--ollama", "--out", "output/gguf"]) == 0


@pytest.fixture(scope="module")
def seen() -> set[frozenset[str]]:
    """The options that `dozan export` has had: with the same ones it is run once, as each file takes seconds."""
    return {frozenset(), frozenset({"--ollama"})}


def run_command(command: str, block: Block, seen: set[frozenset[str]]) -> int:
    assert words(command)[0] == "dozan", f"{command}: only dozan is run here; mark the block with <!-- not run: why -->"
    arguments = shlex.split(command, comments=True)[1:]
    if arguments[0] == "export":
        options = frozenset(word for word in arguments if word.startswith("--")) - {"--gguf", "--out", "--tools"}
        if options in seen:
            return 0
        seen.add(options)
    return leave([*arguments, *block.arguments, *SHORT.get(arguments[0], ())])


@each_page
def test_commands_run(
    page: str, prepared: Path, seen: set[frozenset[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [block for block in blocks(PAGES[page]) if block.is_run and block.kind in (*CODE, "text")]
    if not any(block.kind in CODE for block in found):
        pytest.skip("nothing to run on this page")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("BASE", dozan.EMBEDDED_BASE)
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "reader"))
    names: dict[str, object] = {"__name__": "docs"}
    printed = io.StringIO()
    for block in found:
        place = f"{page}:{block.line}"
        if block.kind == "text":
            assert block.note != "prints" or printed.getvalue() == block.code, f"{place}: printed\n{printed.getvalue()}"
        elif block.kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.run_code, place, "exec"), names)
        else:
            given = commands(os.path.expandvars(block.run_code), block.kind)
            codes = [run_command(command, block, seen) for command in given]
            wanted = [*[0] * (len(given) - 1), block.exit_code]
            assert codes == wanted, f"{place}: {list(zip(given, codes, strict=True))}"


@each_page
def test_commands_exist(page: str) -> None:
    found = [
        (block.line, command)
        for block in blocks(PAGES[page])
        if block.kind in ("bash", "console")
        for command in commands(block.code, block.kind)
    ]
    wrong = [f"{page}:{line}: {command}: {said}" for line, command in found if (said := problem(command))]
    for block in blocks(PAGES[page]):
        if block.kind == "python":
            compile(block.code, f"{page}:{block.line}", "exec")
    prose = inline_commands(PAGES[page])
    wrong += [f"{page}: {command}: {said}" for command in prose if (said := prose_problem(command))]
    assert not wrong, "\n".join(wrong)


@each_page
def test_every_block_names_its_language(page: str) -> None:
    fences = [line for line in PAGES[page].splitlines() if line.strip().startswith("```")]
    assert all(fence.strip() != "```" for fence in fences[::2]), "a block without a language is neither run nor parsed"
    hidden = [line for line in PAGES[page].splitlines() if line.startswith("    dozan ")]
    assert not hidden, "commands stand in fenced blocks, so that they are run"


@pytest.mark.parametrize(
    "command",
    ["dozan trian", "dozan train --dta x", "dozan data chek x", "dozan merge", "make nothing", "pip install '.[no]'",
     "python -m bench.nothing", "python examples/nothing.py"],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    assert problem(command)


@pytest.mark.parametrize("command", ["dozan trian", "dozan train --dta", "dozan data chek"])
def test_a_wrong_command_in_the_prose_is_found(command: str) -> None:
    assert inline_commands(f"see `{command}` there") == [command] and prose_problem(command)


def test_what_a_page_says_of_a_block() -> None:
    shell = "<!-- run: one => two -->\n```bash\ndozan x \\\n  one # why\n```\n"
    first, second = blocks(f"{shell}\n<!-- not run: no -->\n```console\n$ dozan y\nout\n```\n")
    assert (first.is_run, commands(first.run_code), first.line) == (True, ["dozan x    two # why"], 3)
    assert (second.is_run, commands(second.code, second.kind)) == (False, ["dozan y"])
    (third,) = blocks("<!-- run: exit 2 -->\n```bash\ndozan x\n```\n")
    assert (third.exit_code, third.arguments) == (2, [])
