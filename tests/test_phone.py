"""The phone bundle: a prompt made from its files alone has our renderer's ids, and the model answers by its grammar."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ship_models import make_folder
from test_bad_input import write_rows
from test_target import GOLDENS

from dozan.chat.arranged import Arrangement, arranged
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.cli import main
from dozan.errors import InputError
from dozan.model.bundle import open_shell
from dozan.ship import llamacpp
from dozan.ship.llamacpp import GgufGrammars
from dozan.ship.ollama import TRIGGER
from dozan.ship.phone import Phone, build_prompt, export_phone, shared_tools
from dozan.ship.phone_files import header

TOOLS = [GOLDENS[0]["tools"][0], GOLDENS[4]["tools"][1]]
NOW, SAID = "Now is 2026-11-07T16:35 Saturday", "  نبّهني: «قوم» <end_of_turn> الساعة ٧ 😀 \n"
FILES = {"prefix.txt", "prefix.ids.json", "prompt.json", "prompt.h", "tools.json", "grammar.gbnf", "speed.json",
         "PROMPT.md"}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tuned")


@pytest.fixture(scope="module")
def bundle(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Phone:
    return export_phone(base, tmp_path_factory.mktemp("phone") / "phone", TOOLS)


def read(bundle: Phone, name: str) -> Any:
    return json.loads((bundle.folder / name).read_text(encoding="utf-8"))


def prompt_from_files(bundle: Phone, turns: list[tuple[str, str]]) -> list[int]:
    """PROMPT.md's ten lines, with nothing but the bundle's files and llama.cpp's tokenizer."""
    prompt = read(bundle, "prompt.json")
    ids = list(read(bundle, prompt["prefix"]["ids"]))
    texts = [prompt["turn"][role]["text_before"] + text.strip() for role, text in turns]
    for (role, _), found in zip(turns, llamacpp.tokenize(bundle.folder / prompt["model"], texts), strict=True):
        ids += [*prompt["turn"][role]["ids_before"], *found, *prompt["ids_after_turn"]]
    return [*ids, *prompt["ids_open_model"]]


def test_a_prompt_from_the_files_has_the_very_ids_of_our_renderer(bundle: Phone, base: Path) -> None:
    shell, _ = open_shell(base)
    for turns in ([("user", SAID)], [("developer", NOW), ("user", SAID)]):
        roles = {"developer": "developer", "user": "user"}
        messages = [{"role": "developer", "content": TRIGGER},
                    *({"role": roles[role], "content": text} for role, text in turns)]  # fmt: skip
        ours = shell.tokenizer.encode_rendered(shell.chat.render(messages, TOOLS, generate=True))[0]
        assert prompt_from_files(bundle, turns) == ours == bundle.prompt.ids(shell.tokenizer.encode, turns)
    stored = (bundle.folder / "prefix.txt").read_bytes().decode()
    assert ours[: len(bundle.prompt.prefix_ids)] == list(bundle.prompt.prefix_ids)
    assert shell.tokenizer.decode(bundle.prompt.prefix_ids) == stored


def test_the_model_answers_by_the_bundles_grammar_and_stops(bundle: Phone) -> None:
    prompt = read(bundle, "prompt.json")
    gbnf = (bundle.folder / "grammar.gbnf").read_text(encoding="utf-8")
    ids, gguf = prompt_from_files(bundle, [("user", "رن")]), bundle.folder / prompt["model"]
    shell_tokens = open_model_tokens(bundle)
    good = ["<start_function_call>call:ring{}<end_function_call>",
            "<start_function_call>call:alert{text:<escape>قوم<escape>}<end_function_call>"]  # fmt: skip
    bad = ["<start_function_call>call:ring{a:1}<end_function_call>",
           "<start_function_call>call:rang{}<end_function_call>"]  # fmt: skip
    answers = [shell_tokens(text) for text in (*good, *bad)]
    grammars = GgufGrammars([gbnf], [0] * len(answers), [0], [])
    assert llamacpp.accepts(gguf, answers, prompt["stop_ids"], grammars) == [True, True, False, False]
    (answer,) = llamacpp.complete(gguf, [ids], 12, prompt["stop_ids"], grammars=GgufGrammars([gbnf], [0], [0], []))
    assert not set(answer) & set(prompt["stop_ids"])


def open_model_tokens(bundle: Phone) -> Any:
    """Answers spelt out to ids, control tokens as such."""
    from dozan.ship.served import read_gguf

    tokenizer, _ = read_gguf(bundle.exported.path)

    def ids(text: str) -> list[int]:
        parts = re.split("(<(?:start_function_call|end_function_call|escape)>)", text)
        return [i for part in parts if part
                for i in ([tokenizer.id(part)] if part.startswith("<") else tokenizer.encode(part))]  # fmt: skip

    return ids


def test_every_file_is_in_the_manifest_with_its_hash(bundle: Phone) -> None:
    files = read(bundle, "manifest.json")["files"]
    assert FILES | {bundle.exported.path.name} <= set(files)
    for name, said in files.items():
        raw = (bundle.folder / name).read_bytes()
        assert (said["bytes"], said["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert read(bundle, "tools.json") == TOOLS
    assert read(bundle, "prompt.json")["stop_ids"] == [1, 50, 106]


def test_the_sheet_says_what_was_measured(bundle: Phone) -> None:
    speed, guide = read(bundle, "speed.json"), (bundle.folder / "PROMPT.md").read_text(encoding="utf-8")
    assert speed["prompt_tokens"] - speed["prompt_tokens_behind_prefix"] == len(bundle.prompt.prefix_ids)
    for key in ("prompt_seconds", "prompt_seconds_with_prefix", "generated_seconds", "load_seconds"):
        assert speed[key] > 0
    assert 10 << 20 < speed["rss_before_bytes"] < speed["peak_rss_bytes"]
    assert f"{speed['generated_tokens_per_second']:.0f} tokens/s" in guide
    assert len(re.findall(r"^\d+\. ", guide, re.M)) == 10


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_the_header_is_c_and_holds_the_same_bytes(bundle: Phone, tmp_path: Path) -> None:
    main_c = f"""#include <stdio.h>
#include "{bundle.folder / "prompt.h"}"
int main(void) {{
  fwrite(dozan_prefix, 1, sizeof dozan_prefix - 1, stdout);
  for (unsigned i = 0; i < sizeof dozan_prefix_ids / sizeof *dozan_prefix_ids; i++)
    fprintf(stderr, "%d ", dozan_prefix_ids[i]);
  fprintf(stderr, "| %d %d %d", dozan_turn_ids[0], dozan_stop_ids[2], dozan_open_model_ids[0]);
  return dozan_after_turn_ids[0] != 106;
}}
"""
    (tmp_path / "main.c").write_text(main_c)
    subprocess.run(["cc", "-Wall", "-Werror", "-o", "out", "main.c"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "out"], capture_output=True, check=True)
    assert done.stdout == (bundle.folder / "prefix.txt").read_bytes()
    ids, _, rest = done.stderr.decode().partition("|")
    assert list(map(int, ids.split())) == list(bundle.prompt.prefix_ids) and rest == " 105 106 105"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_any_text_is_a_c_string(bundle: Phone, tmp_path: Path) -> None:
    text = 'a\\b "c" ??/ ??= \u00b07 سؤال\u200f0\n\nلا'
    (tmp_path / "prompt.h").write_text(header(bundle.prompt.to_json(), text, [1]), encoding="utf-8")
    (tmp_path / "main.c").write_text('#include <stdio.h>\n#include "prompt.h"\n'
                                     "int main(void) { return fputs(dozan_prefix, stdout) < 0; }\n")  # fmt: skip
    subprocess.run(["cc", "-std=c99", "-o", "out", "main.c"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "out"], capture_output=True, check=True).stdout == text.encode()


@pytest.mark.parametrize("way", [Arrangement("canonical"), Arrangement(target="ollama"),
                                 Arrangement(target="litert-lm")], ids=str)  # fmt: skip
def test_the_prefix_is_in_the_bytes_that_were_trained(way: Arrangement, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tuned")
    (folder / "dozan.json").write_text(json.dumps(way.values()))
    shell, _ = open_shell(folder)
    prompt = build_prompt(shell, TRIGGER, TOOLS)
    messages = [{"role": "developer", "content": TRIGGER}, {"role": "user", "content": "q"}]
    text = arranged(FUNCTIONGEMMA, way).render(messages, TOOLS, generate=True).text
    assert text.startswith(prompt.prefix) and text[len(prompt.prefix) :].startswith("<start_of_turn>user\n")
    assert prompt.ids(shell.tokenizer.encode, [("user", "q")]) == shell.tokenizer.encode_rendered(
        shell.chat.render(messages, TOOLS, generate=True))[0]  # fmt: skip


def test_tools_come_from_the_runs_rows_when_all_have_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    kept = tmp_path / "data" / "heldout.jsonl"
    write_rows(kept, {**row, "id": "1", "tools": TOOLS}, {**row, "id": "2", "tools": TOOLS})
    assert list(shared_tools(tmp_path)) == TOOLS
    write_rows(kept, {**row, "id": "1", "tools": TOOLS}, {**row, "id": "2", "tools": []})
    with pytest.raises(InputError, match="--tools FILE"):
        shared_tools(tmp_path)
    (tmp_path / "data" / "tools.json").write_text(json.dumps(TOOLS[:1]))
    assert list(shared_tools(tmp_path)) == TOOLS[:1]


def test_a_model_without_tools_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "plain")
    definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(definition.replace("start_function_declaration", "unused9846"))
    assert open_shell(folder)[0].chat.name == "gemma3"
    with pytest.raises(InputError, match="gemma3 has no tools"):
        export_phone(folder, tmp_path / "phone", TOOLS)
    assert not (tmp_path / "phone").exists()


def test_the_verb_says_what_is_saved(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    with pytest.raises(SystemExit) as left:
        main(["export", str(base), "--phone", str(tmp_path / "p"), "--tools", str(tmp_path / "tools.json")])
    said = capsys.readouterr().out
    assert left.value.code == 0 and "tokens of prompt stored" in said and "tokens/s generated" in said
    assert not Path("output/gguf/tuned-q8_0.gguf").exists()


