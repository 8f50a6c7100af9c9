"""Asking through the familiar API: templates, ids and answers beside transformers', draws, streamers, and pushing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from compat_models import TOOLS, call_rows, small_functiongemma
from ship_models import make_folder, make_run
from test_functiongemma import BY_NUMBER, WELL_FORMED
from test_push import REPO, TOKEN, Hub, hub  # noqa: F401

import dozan
from dozan import FastModel, TextStreamer
from dozan.chat_templates import get_chat_template
from dozan.compat.generation import Draw
from dozan.errors import InputError

transformers = pytest.importorskip("transformers")
ARABIC = "مرحبا، كيف الحال؟ 123 <b>"
MARKED = "<start_of_turn>user\nقل <escape>نعم<escape><end_of_turn>\n<unused7>x <not_a_token>  \n\n\tz"


@pytest.fixture(scope="module")
def ours() -> Any:
    return FastModel.from_pretrained()[1]


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.AutoTokenizer.from_pretrained(dozan.EMBEDDED_BASE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with a generation_config.json that does not draw."""
    folder = small_functiongemma(tmp_path_factory.mktemp("ask") / "base")
    return FastModel.from_pretrained(str(folder))


# The tokenizer beside transformers'.


@pytest.mark.parametrize("number", WELL_FORMED)
def test_templates_and_ids_are_those_of_transformers(number: int, ours: Any, theirs: Any) -> None:
    case = BY_NUMBER[number]["input"]
    given = {"tools": case.get("tools"), "add_generation_prompt": case.get("agp", False)}
    assert ours.apply_chat_template(case["messages"], tokenize=False, **given) == BY_NUMBER[number]["rendered"]
    for more in ({"return_tensors": "pt"}, {"return_dict": False}, {"return_tensors": "pt", "return_dict": True}):
        found, wanted = (t.apply_chat_template(case["messages"], **given, **more) for t in (ours, theirs))
        if isinstance(wanted, list):
            assert found == wanted
            continue
        assert torch.equal(found["input_ids"], wanted["input_ids"])
        assert torch.equal(found.attention_mask, wanted["attention_mask"])


@pytest.mark.parametrize("text", [ARABIC, MARKED, "", " a  b "])
def test_texts_are_those_of_transformers_but_for_a_second_bos(text: str, ours: Any, theirs: Any) -> None:
    """The packaged tokenizer.json adds no <bos> in transformers; Gemma's does, before one that the text has too."""
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours(text, add_special_tokens=False)["input_ids"] == ids
    assert ours("<bos>" + text).input_ids == ours(text).input_ids == [ours.bos_token_id, *ids]
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.decode(torch.tensor(ids)) == theirs.decode(ids) and ours.encode(text)[1:] == ids
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_names_of_tokens_and_padding_are_those_of_transformers(ours: Any, theirs: Any) -> None:
    for kind in ("pad", "eos", "bos", "unk"):
        assert getattr(ours, f"{kind}_token_id") == getattr(theirs, f"{kind}_token_id")
        assert getattr(ours, f"{kind}_token") == getattr(theirs, f"{kind}_token")
    names = ["<end_of_turn>", "<start_function_call>", "no such token"]
    assert ours.convert_tokens_to_ids(names) == theirs.convert_tokens_to_ids(names)
    assert len(ours) == ours.vocab_size == theirs.vocab_size and ours.tokenizer is ours
    theirs.padding_side = "left"
    found, wanted = (t(["<bos>a", "<bos>a b c"], padding=True, return_tensors="pt") for t in (ours, theirs))
    assert torch.equal(found.input_ids, wanted["input_ids"])
    assert torch.equal(found["attention_mask"], wanted["attention_mask"])
    assert ours.batch_decode(found.input_ids) == theirs.batch_decode(found.input_ids)
    talks = [[{"role": "user", "content": text}] for text in ("نعم", "لا لا")]
    both = ours.apply_chat_template(talks, add_generation_prompt=True, padding=True, return_tensors="pt")
    assert both.input_ids.shape[0] == 2 and both.attention_mask[0, 0] == 0


def test_what_the_tokenizer_cannot_do_is_refused(ours: Any, capsys: pytest.CaptureFixture[str]) -> None:
    talk = [{"role": "user", "content": "x"}]
    refused = [
        ("padding=True", lambda: ours(["a", "a b c"], return_tensors="pt")),
        ("give 'pt' or 'np'", lambda: ours("a", return_tensors="tf")),
        ("continue_final_message not offered", lambda: ours.apply_chat_template(talk, continue_final_message=True)),
        ("chat_template not offered", lambda: ours.apply_chat_template(talk, chat_template="{{ messages }}")),
        ("give declarations as dicts", lambda: ours.apply_chat_template(talk, tools=[print])),
        ("text_pair", lambda: ours("a", "b")),
    ]  # fmt: skip
    for message, attempt in refused:
        with pytest.raises(InputError, match=message):
            attempt()
    assert ours("a b c d", truncation=True, max_length=2).input_ids == ours("a b c d").input_ids[:2]
    assert "1 texts cut to 2 tokens" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named_with_the_remedy(ours: Any, small: Any) -> None:
    inputs = ours("a", return_tensors="pt")
    assert inputs.to("cpu").input_ids.shape == inputs.to(small[0].device).input_ids.shape
    for device in ("cuda", "cuda:0", 0, torch.device("cuda")):
        with pytest.raises(InputError, match=r"no GPU.*write \.to\(model\.device\)"):
            inputs.to(device)
    with pytest.raises(InputError, match="no GPU"):
        small[0].to("cuda")


# Answers.


def test_answers_are_those_of_transformers(small: Any) -> None:
    model, tokenizer = small
    folder = str(model.folder)
    theirs = transformers.Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    stops = [tokenizer.convert_tokens_to_ids(token) for token in tokenizer.chat.stop_tokens]
    prompts = ["ما الطقس", "مرحبا، ما الطقس في القاهرة اليوم يا صديقي؟"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    for given in ({"do_sample": False}, {"do_sample": False, "repetition_penalty": 3.0}):
        more = {"max_new_tokens": 12, **given}
        wanted = theirs.generate(**inputs, eos_token_id=stops, pad_token_id=0, **more)
        assert torch.equal(model.generate(**inputs, **more), wanted)
    one = tokenizer(prompts[0], return_tensors="pt")
    end = int(model.generate(**one, max_new_tokens=1)[0, -1])
    assert model.generate(**one, max_new_tokens=9, eos_token_id=end).shape[1] == one.input_ids.shape[1] + 1
    assert model.generate(inputs=one.input_ids, max_length=one.input_ids.shape[1] + 2).shape[1] == (
        one.input_ids.shape[1] + 2)  # fmt: skip


@pytest.mark.parametrize("given", [
    {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_p": 1e-9},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
])  # fmt: skip
def test_draws_have_the_probabilities_of_transformers(given: dict[str, Any]) -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(3)) * 3
    config = transformers.GenerationConfig(do_sample=True, **{"top_k": 0, **given})
    names = {"temperature": "Temperature", "top_k": "TopK", "top_p": "TopP", "min_p": "MinP"}
    wanted = logits
    for name, kind in names.items():
        if name in given:
            wanted = getattr(transformers, f"{kind}LogitsWarper")(getattr(config, name))(torch.zeros(5, 1), wanted)
    torch.testing.assert_close(Draw(True, **given).probabilities(logits), wanted.softmax(-1))


def test_draws_follow_the_seed_and_the_checkpoint(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_functiongemma(tmp_path / "drawing")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_k": 64, "temperature": 5.0}))
    model, tokenizer = FastModel.from_pretrained(str(folder))
    inputs = tokenizer("ما", return_tensors="pt")
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(model.generate(**inputs, max_new_tokens=8))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    greedy = small[0].generate(**inputs, max_new_tokens=8, temperature=0.5)
    assert "need do_sample=True" in capsys.readouterr().out
    assert torch.equal(greedy, model.generate(**inputs, max_new_tokens=8, do_sample=False))


@pytest.mark.parametrize("given", [
    {"temperature": 0.0, "do_sample": True}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 2.0}, {"repetition_penalty": 0.0},
])  # fmt: skip
def test_settings_out_of_range_are_refused(given: dict[str, Any], small: Any) -> None:
    with pytest.raises(InputError, match="out of range"):
        small[0].generate(**small[1]("ما", return_tensors="pt"), **given)


def test_streamers_print_the_answer(small: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = small
    inputs = tokenizer.apply_chat_template(call_rows(1)[0]["messages"][:2], tools=TOOLS, add_generation_prompt=True,
                                           return_tensors="pt")  # fmt: skip
    capsys.readouterr()
    printed = {}
    for kind in (TextStreamer, transformers.TextStreamer):
        for skip in (True, False):
            out = model.generate(**inputs, max_new_tokens=6, streamer=kind(tokenizer, skip_prompt=skip))
            printed[kind, skip] = capsys.readouterr().out
            answer = out[0][inputs.input_ids.shape[1] :] if skip else out[0]
            assert printed[kind, skip] == tokenizer.decode(answer) + "\n"
    with pytest.raises(InputError, match="give one prompt"):
        two = tokenizer(["a", "a"], return_tensors="pt")
        model.generate(**two, streamer=TextStreamer(tokenizer))
    streamer = TextStreamer(tokenizer)
    pieces = tokenizer("💡", add_special_tokens=False).input_ids
    assert len(pieces) > 1, "bytes"
    for piece in pieces[:-1]:
        streamer.put(torch.tensor([piece]))
        assert capsys.readouterr().out == "", "half a character"
    streamer.put(torch.tensor([pieces[-1]]))
    assert capsys.readouterr().out == "💡"


def test_another_chat_format_is_asked_in(small: Any) -> None:
    model, tokenizer = small
    gemma = get_chat_template(tokenizer, "gemma3")
    text = gemma.apply_chat_template(
        [{"role": "system", "content": "س"}, {"role": "user", "content": [{"type": "text", "text": "م"}]}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert text == "<bos><start_of_turn>user\nس\n\nم<end_of_turn>\n<start_of_turn>model\n"


def test_a_model_is_pushed_with_its_own_token(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base", num_hidden_layers=1))
    (run / "run.json").write_text(json.dumps({"base": str(tmp_path / "base"), "chat": "functiongemma"}))
    model, tokenizer = FastModel.from_pretrained(str(run))
    with pytest.raises(InputError, match="HF_TOKEN is not set"):
        model.push_to_hub(REPO)
    assert REPO in model.push_to_hub(REPO, token=TOKEN)
    assert "adapter_model.safetensors" in hub.files and "README.md" in hub.files
    assert "adapter_model.safetensors" in capsys.readouterr().out, "what is sent is shown"
    assert REPO in model.push_to_hub_merged(REPO, tokenizer, save_method="merged_16bit", token=TOKEN)
    assert "model.safetensors" in hub.files and "tokenizer.json" in hub.files
    assert "HF_TOKEN" not in os.environ
    tokenizer.push_to_hub(REPO)
    assert "is not sent alone" in capsys.readouterr().out
