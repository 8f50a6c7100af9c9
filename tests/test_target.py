"""Rows in the bytes of each runtime, pinned to what the runtimes write, and carried through training and shipping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import tokenizer
from ship_models import make_folder
from test_bad_input import write_rows
from test_grammar import guides, takes

import dozan
from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.chat.arranged import Arrangement, arranged, arrangement_of, read_arrangement
from dozan.chat.encode import encode_example, encode_prompt
from dozan.chat.grammar import answer_grammar
from dozan.chat.render_litert import json_literal
from dozan.chat.render_ollama import go_literal
from dozan.chat.render_targets import RUNTIMES, runtime_chat
from dozan.chat.template_limits import functiongemma_template
from dozan.chat.tokens import END_TURN, START_RESPONSE
from dozan.cli import main
from dozan.errors import InputError
from dozan.model.bundle import open_model
from dozan.recipe import Runtime, load_recipe
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.ship.gguf import write_gguf
from dozan.ship.llama_template import apply_template
from dozan.ship.served import serve, serve_gguf
from dozan.train.loop import train
from dozan.train.prepare import prepare

GOLDENS = json.loads((Path(__file__).parent / "golden" / "runtime_renderings.json").read_text(encoding="utf-8"))
each_golden = pytest.mark.parametrize("case", GOLDENS, ids=[case["title"] for case in GOLDENS])
each_target = pytest.mark.parametrize("target", [name for name in RUNTIMES if name != "transformers"])
TOOL = GOLDENS[0]["tools"][0]


def rendered(case: dict[str, Any], target: Runtime) -> Any:
    return runtime_chat(FUNCTIONGEMMA, target).render(case["messages"], case["tools"], generate=case["generate"])


@each_golden
@pytest.mark.parametrize("target", ["ollama", "litert-lm"])
def test_rows_are_written_as_the_runtime_writes_them(case: dict[str, Any], target: Runtime) -> None:
    assert rendered(case, target).text == case["rendered"][target]


def test_rows_are_written_as_llama_cpp_itself_writes_them(base_gguf: Path) -> None:
    cases = [case for case in GOLDENS if not rendered(case, "llama.cpp").repairs]
    assert len(cases) >= 14
    real = apply_template(base_gguf, [(case["messages"], case["tools"]) for case in cases], functiongemma_template())
    assert [found.refused for found in real] == [""] * len(cases)
    assert [found.text for found in real] == [rendered(case, "llama.cpp").text for case in cases]


def test_llama_cpp_sorts_capitals_first_and_cuts_fractions(base_gguf: Path) -> None:
    schema = {"type": "object", "properties": {k: {"type": "string", "description": k} for k in ("b", "Zeta", "_x")}}
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
    made = {"function": {"name": "f", "arguments": {"b": [1e-7, 1e-5, 1e16, 1 / 3, 2.0, -0.5, 10**17], "Zeta": "س"}}}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [made]}]
    (real,) = apply_template(base_gguf, [(messages, [tool])], functiongemma_template())
    assert real.text == runtime_chat(FUNCTIONGEMMA, "llama.cpp").render(messages, [tool]).text
    assert "b:[0.0,0.00001,10000000000000000.0,0.333333,2.0,-0.5,100000000000000000]" in real.text


@each_target
@each_golden
def test_what_is_trained_ends_in_a_stop_token_and_holds_no_response(case: dict[str, Any], target: Runtime) -> None:
    chat, found = runtime_chat(FUNCTIONGEMMA, target), rendered(case, target)
    for start, end in found.trained:
        part = found.text[start:end]
        assert part.endswith(chat.stop_tokens) and "response:" not in part
    assert all(found.text[start:end].startswith("<") for start, end in found.controls)
    if found.trained:
        example = Example("r", tuple(case["tools"]), tuple(case["messages"]))
        assert sum(encode_example(example, chat, tokenizer(), 4096).weights) > 0


@pytest.mark.parametrize("target", ["ollama", "litert-lm"])
def test_names_and_texts_that_could_not_be_read_back_are_refused(target: Runtime) -> None:
    chat, user = runtime_chat(FUNCTIONGEMMA, target), [{"role": "user", "content": "q"}]
    for properties, word in (({"type_": {"type": "string"}}, "'type_' would be read back as 'type'"),
                             ({"a": {"type": "string", "description": "<end_of_turn>"}}, "<end_of_turn>"),
                             ({"a:b": {"type": "string"}}, "a:b")):  # fmt: skip
        tool = {"function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
        with pytest.raises(InputError, match=word):
            chat.render(user, [tool])
    with pytest.raises(InputError, match=r"messages\[1\].*without a call"):
        chat.render([*user, {"role": "tool", "name": "f", "content": "x"}], [])


def test_names_that_the_template_loses_keep_their_name_in_other_runtimes() -> None:
    tool = {"function": {"name": "f", "description": "", "parameters": {
        "type": "object", "properties": {"type": {"type": "string", "description": "Which"}}}}}  # fmt: skip
    user = [{"role": "user", "content": "q"}]
    assert "type_:{" in FUNCTIONGEMMA.render(user, [tool]).text
    for target in ("ollama", "litert-lm"):
        text = runtime_chat(FUNCTIONGEMMA, target).render(user, [tool]).text  # type: ignore[arg-type]
        assert "properties:{type:{" in text and "type_" not in text


@pytest.mark.parametrize("target", RUNTIMES)
def test_the_grammar_has_the_names_and_the_order_of_the_bytes(target: Runtime) -> None:
    kinds = {name: {"type": "boolean", "description": ""} for name in ("type", "alarm", "Volume")}
    tool = {"function": {"name": "f", "parameters": {"type": "object", "properties": kinds, "required": list(kinds)}}}
    chat = arranged(FUNCTIONGEMMA, Arrangement(target=target))
    made = {"function": {"name": "f", "arguments": {"type": True, "alarm": True, "Volume": False}}}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [made]}]
    found = chat.render(messages, [tool])
    ((start, end),) = found.trained
    answer = found.text[start:end].removesuffix(END_TURN).removesuffix(START_RESPONSE)
    held = guides(answer_grammar([tool], chat))
    assert takes(held, answer)
    others = {arranged(FUNCTIONGEMMA, Arrangement(target=name)).render(messages, [tool]).text for name in RUNTIMES}
    assert len(others) == len(RUNTIMES)
    swapped = answer.replace("alarm:true", "x").replace("Volume:false", "alarm:true").replace("x", "Volume:false")
    assert swapped != answer and not takes(held, swapped)


# What Go 1.19 printed for each.
GO = {2.0: "2", -3.0: "-3", 123456.5: "123456.5", 1234567.5: "1.2345675e+06", 1e-4: "0.0001", 1.5e-5: "1.5e-05",
      1e20: "1e+20", 2e300: "2e+300", -1e18: "-1000000000000000000", 2.0**63: "9.223372036854776e+18"}  # fmt: skip


@pytest.mark.parametrize("number", GO, ids=str)
def test_numbers_are_written_as_go_writes_them(number: float) -> None:
    assert go_literal(number) == GO[number]


def test_numbers_are_written_as_nlohmann_json_writes_them() -> None:
    found = [json_literal(value) for value in (2.0, 1e-7, 1234567890123456.0, -2e15, 1e16, 10**20, True, None)]
    assert found == ["2.0", "1e-07", "1.234567890123456e+15", "-2e+15", "1e+16", "1" + "0" * 20, "true", "null"]


def test_a_response_is_named_by_the_call_that_it_answers() -> None:
    calls = [{"id": i, "function": {"name": n, "arguments": {}}} for i, n in (("1", "tokyo"), ("2", "toronto"))]

    def text(*tools: dict[str, Any]) -> str:
        messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}, *tools]
        return runtime_chat(FUNCTIONGEMMA, "ollama").render(messages, [], generate=True).text

    by_id = text(*({"role": "tool", "tool_call_id": i, "content": "a"} for i in "21"))
    assert by_id.index("response:toronto{") < by_id.index("response:tokyo{")
    by_place = text(*({"role": "tool", "name": name, "content": "a"} for name in "xy"))
    assert by_place.index("response:tokyo{") < by_place.index("response:toronto{")


def test_gemma3_differs_in_ollama_alone_and_only_in_spaces() -> None:
    messages = [{"role": "user", "content": " hi \n"}]
    for target in ("llama.cpp", "litert-lm", "transformers"):
        assert runtime_chat(GEMMA3, target) is GEMMA3  # type: ignore[arg-type]
        assert arranged(GEMMA3, Arrangement(target=target)) is GEMMA3  # type: ignore[arg-type]
    assert "user\n hi \n<end_of_turn>" in arranged(GEMMA3, Arrangement(target="ollama")).render(messages, ()).text
    assert "user\nhi<end_of_turn>" in GEMMA3.render(messages, ()).text


@each_target
def test_every_stage_asks_in_the_trained_bytes(target: Runtime, base: Path, data: Path, tmp_path: Path) -> None:
    way = Arrangement(target=target)
    settings = [f"data.target={target}", "train.max_steps=1", "data.holdout=0"]
    run = train(data, base, tmp_path / "run", overrides=settings, on_event=lambda event: None).out
    assert json.loads((run / "run.json").read_text())["recipe"]["data"]["target"] == target
    merged = dozan.merge(run, tmp_path / "merged")
    gguf = write_gguf(open_model(run), tmp_path / "m.gguf", "f32")
    rows, form = read_rows(data), arranged(FUNCTIONGEMMA, way)
    trained = {row.row: list(row.ids) for row in prepare(data, base, None, settings, None).plan.rows}
    for chat in (serve(run).chat, serve(merged).chat, serve_gguf(gguf).chat):
        assert arrangement_of(chat) == way and chat == form
    for row in rows:
        prompt = encode_prompt(row, form, open_model(base).tokenizer)
        assert trained[row.id][: len(prompt)] == prompt
        assert prompt != encode_prompt(row, FUNCTIONGEMMA, open_model(base).tokenizer)
    assert target.lower() in json.loads((merged / "dozan.json").read_text())["prompt"][0].lower()


def test_a_target_is_named_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "--target", "ollama", "--recipe", "embedded", "--print-config"])
    assert left.value.code == 0 and "target: ollama" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["train", "--target", "vllm", "--recipe", "embedded", "--print-config"])
    assert left.value.code == 2 and "'ollama', 'llama.cpp' or 'litert-lm'" in capsys.readouterr().err


def test_an_unknown_target_is_named() -> None:
    assert load_recipe("embedded").data.target == "transformers"
    with pytest.raises(InputError, match="target = 'vllm'; use transformers or ollama or llama.cpp or litert-lm"):
        read_arrangement({"target": "vllm"}, "run.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("base") / "base")
    (folder / "chat_template.jinja").write_text(functiongemma_template(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base_gguf(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(open_model(base), tmp_path_factory.mktemp("gguf") / "base.gguf", "f16")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in which every runtime differs: a capital among the keys, and an answer that is a call."""
    kinds = {name: {"type": "string", "description": "Which"} for name in ("alarm", "Volume")}
    light = {"type": "function", "function": {"name": "set_light", "description": "Set it", "parameters": {
        "type": "object", "properties": kinds, "required": ["alarm"]}}}  # fmt: skip
    rows = [
        {"id": f"r{i}", "tools": [light], "messages": [
            {"role": "developer", "content": "You can do this"}, {"role": "user", "content": said},
            {"role": "assistant", "tool_calls": [{"function": {"name": "set_light", "arguments": {
                "Volume": str(i), "alarm": "المطبخ"}}}]}]}
        for i, said in enumerate(("نور المطبخ", "شغل الصالة", "ضوء أقل", "طفي النور"))
    ]  # fmt: skip
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *rows)
