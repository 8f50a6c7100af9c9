"""The Modelfile: what is in it, and that it is read and checked as Ollama's rules have it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ship_models import make_folder, make_run
from test_bad_input import write_rows

import dozan
from dozan.chat import GEMMA3
from dozan.chat.render_targets import runtime_chat
from dozan.cli import main
from dozan.errors import InputError
from dozan.ship.modelfile import GEMMA_TEMPLATE, Command, check_modelfile, command_text, read_modelfile
from dozan.ship.ollama import TRIGGER, write_ollama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    return tmp_path


def values(commands: list[Command], name: str) -> list[str]:
    return [command.value for command in commands if command.name == name]


def test_a_model_that_calls_gets_renderer_parser_stops_and_no_template(folder: Path) -> None:
    made = write_ollama(dozan.EMBEDDED_BASE, folder / "m.gguf")
    assert made.path == folder / "m.Modelfile" and made.commands == (
        f"ollama create m -f {made.path}", "ollama run m")  # fmt: skip
    found = check_modelfile(made.path.read_text(encoding="utf-8"), folder)
    assert values(found, "FROM") == ["./m.gguf"] and not values(found, "TEMPLATE")
    assert values(found, "RENDERER") == values(found, "PARSER") == ["functiongemma"]
    assert values(found, "PARAMETER") == ["stop <end_of_turn>", "stop <start_function_response>", "num_ctx 4096",
                                          "temperature 0"]  # fmt: skip
    assert values(found, "SYSTEM") == [TRIGGER]
    assert "Apache" in values(found, "LICENSE")[0] and "Gemma Terms" not in values(found, "LICENSE")[0]


def test_other_models_get_gemmas_terms_and_the_runs_own_length_and_opening(folder: Path) -> None:
    run = make_run(folder / "run", make_folder(folder / "base"))
    record = json.loads((run / "run.json").read_text())
    record["recipe"] = {"data": {"max_tokens": 777, "target": "ollama"}}
    (run / "run.json").write_text(json.dumps(record))
    (run / "data").mkdir()
    rows = [{"id": str(i), "messages": [{"role": "developer", "content": "كن موجزًا."},
                                        {"role": "user", "content": "q"}]} for i in range(3)]  # fmt: skip
    write_rows(run / "data" / "heldout.jsonl", *rows)
    text = write_ollama(run, folder / "m.gguf").path.read_text(encoding="utf-8")
    found = read_modelfile(text, "m")
    assert "num_ctx 777" in values(found, "PARAMETER") and values(found, "SYSTEM") == ["كن موجزًا."]
    assert "https://ai.google.dev/gemma/terms" in values(found, "LICENSE")[0]
    assert "--target ollama" not in text, "it was trained for Ollama"
    rows[1]["messages"][0]["content"] = "Another"  # type: ignore[index]
    write_rows(run / "data" / "heldout.jsonl", *rows)
    text = write_ollama(run, folder / "m.gguf").path.read_text(encoding="utf-8")
    assert values(read_modelfile(text, "m"), "SYSTEM") == [TRIGGER]


def test_gemma3_gets_the_template_and_its_own_sampling(folder: Path) -> None:
    base = make_folder(folder / "base")
    definition = (base / "tokenizer.json").read_text(encoding="utf-8")
    (base / "tokenizer.json").write_text(definition.replace("start_function_declaration", "unused9846"))
    (base / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.7, "top_k": 64, "x": 1}')
    text = write_ollama(base, folder / "m.gguf").path.read_text(encoding="utf-8")
    found = check_modelfile(text, folder)
    assert values(found, "TEMPLATE") == [GEMMA_TEMPLATE] and not values(found, "RENDERER") + values(found, "SYSTEM")
    assert values(found, "PARAMETER")[2:] == ["temperature 0.7", "top_k 64"]
    assert values(found, "PARAMETER")[0] == "stop <end_of_turn>"


GOOD = "FROM ./m.gguf\nRENDERER functiongemma\nPARSER functiongemma\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("RENDERER functiongemma\nPARSER functiongemma\n", "no FROM line"),
        (GOOD.replace("./m.gguf", "./other.gguf"), ":1: FROM ./other.gguf: no such file"),
        (GOOD.replace("./m.gguf", "/m.gguf"), "absolute path"),
        (GOOD + "PARAMETER num_cxt 5\n", ":4: PARAMETER 'num_cxt' is unknown"),
        (GOOD + "PARAMETER num_ctx many\n", "not a whole number"),
        (GOOD + "PARAMETER temperature 0\nPARAMETER temperature 1\n", "temperature is given 2 times"),
        (GOOD + "STOP x\n", ":4: 'STOP x' is no command"),
        (GOOD + 'SYSTEM """open\nmore\n', ":4: the quotes of SYSTEM are never closed"),
        (GOOD + "SYSTEM a\u200fb\n", "U\\+200F"),
        (GOOD + "TEMPLATE {{ .Prompt }}\n", "never used"),
        (GOOD.replace("PARSER functiongemma\n", ""), "go together"),
        (GOOD.replace("PARSER functiongemma", "PARSER gemma"), "PARSER 'gemma' is not one of"),
        (GOOD + "MESSAGE model hi\n", "MESSAGE role 'model'"),
        (GOOD + "SYSTEM a\nSYSTEM b\n", "2 SYSTEM lines"),
        ("FROM ./m.gguf\nTEMPLATE {{ if .Prompt }}x\n", "1 blocks are never ended"),
        ("FROM ./m.gguf\nTEMPLATE {{ .Prompt }}{{ end }}\n", "end without a block"),
        ("FROM ./m.gguf\nTEMPLATE hello\n", "names neither"),
    ],
)  # fmt: skip
def test_what_ollama_would_not_take_is_named(folder: Path, text: str, word: str) -> None:
    check_modelfile(GOOD, folder)
    with pytest.raises(InputError, match=word):
        check_modelfile(text, folder)


def test_a_file_that_is_no_gguf_is_named(folder: Path) -> None:
    (folder / "m.gguf").write_bytes(b"HTML")
    with pytest.raises(InputError, match="not a GGUF file"):
        check_modelfile(GOOD, folder)


@pytest.mark.parametrize("value", ["a", "two\nlines\n", " spaces ", 'a "quoted" word', "نص عربي", "", "# no comment"])
def test_values_come_back_as_they_were_written(value: str) -> None:
    (found,) = read_modelfile(command_text("SYSTEM", value) + "\n", "m")
    assert found.value == value


@pytest.mark.parametrize("value", ['ends in "', 'three """ quotes', "left\u200eto right"])
def test_values_that_the_file_cannot_hold_are_refused(value: str) -> None:
    with pytest.raises(InputError, match="SYSTEM"):
        command_text("SYSTEM", value)


_GO = """package main
import ("encoding/json"; "os"; "strings"; "text/template")
type M struct{ Role, Content string }
func main() {
	var ms []M
	json.NewDecoder(os.Stdin).Decode(&ms)
	var system []string
	for _, m := range ms { if m.Role == "system" { system = append(system, m.Content) } }
	t := template.Must(template.New("").Option("missingkey=zero").Parse(os.Args[1]))
	given := map[string]any{"System": strings.Join(system, "\\n\\n"), "Messages": ms}
	if err := t.Execute(os.Stdout, given); err != nil { panic(err) }
}
"""


@pytest.mark.skipif(shutil.which("go") is None, reason="Go's own templates are wanted, and Go is not installed")
def test_gos_own_templates_write_gemma3s_bytes(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(_GO)
    subprocess.run(["go", "build", "-o", "out", "main.go"], cwd=tmp_path, check=True,
                   env={**os.environ, "GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off"})  # fmt: skip
    user, model, system = ("user", " سؤال \n"), ("assistant", "جواب"), ("system", " Be brief.")
    for turns in ([user], [system, user], [system, system, user, model, user], [user, model, user, model, user]):
        given = json.dumps([{"Role": role, "Content": text} for role, text in turns])
        command = [str(tmp_path / "out"), GEMMA_TEMPLATE]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
        messages = [{"role": role, "content": text} for role, text in turns]
        assert f"<bos>{done.stdout}" == runtime_chat(GEMMA3, "ollama").render(messages, (), generate=True).text


def test_export_writes_it_and_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        main(["export", str(make_folder(tmp_path / "base")), "--gguf", "q8_0", "--ollama", "--out", str(out)])
    said = capsys.readouterr().out
    assert left.value.code == 0 and f"ollama create base-q8_0 -f {out / 'base-q8_0.Modelfile'}" in said
    assert "ollama run base-q8_0" in said
    check_modelfile((out / "base-q8_0.Modelfile").read_text(encoding="utf-8"), out)
