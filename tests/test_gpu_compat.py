"""The familiar API on a GPU: inputs moved there, a run with its answers in NF4, and a streamer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from compat_models import TOOLS, call_rows, small_functiongemma

from dozan import FastModel, SFTConfig, SFTTrainer, TextStreamer

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)


@pytest.mark.parametrize("in_4bit", [False, True])
def test_a_notebook_on_a_gpu(
    in_4bit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, tokenizer = FastModel.from_pretrained(str(small_functiongemma(tmp_path / "base")), load_in_4bit=in_4bit)
    model = FastModel.get_peft_model(model, r=8, lora_alpha=16, use_dora=True)
    inputs = tokenizer.apply_chat_template(
        call_rows(1)[0]["messages"][:2], tools=TOOLS, add_generation_prompt=True, return_tensors="pt"
    ).to("cuda")
    before = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert before.is_cuda and model.bundle.model.device.type == "cuda"
    args = SFTConfig("out", max_steps=20, per_device_train_batch_size=2, learning_rate=2e-2)
    metrics = SFTTrainer(model, args, call_rows()).train().metrics
    assert metrics["train_loss"] < 11
    capsys.readouterr()
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    after = model.generate(**inputs, max_new_tokens=6, do_sample=False, streamer=streamer)
    assert not torch.equal(before, after)
    assert tokenizer.decode(after[0, inputs.input_ids.shape[1] :]) in capsys.readouterr().out
    torch.manual_seed(0)
    drawn = model.generate(**inputs, max_new_tokens=6, do_sample=True, temperature=2.0, top_k=50, top_p=0.9)
    assert drawn.shape[0] == 1 and torch.equal(drawn[:, : inputs.input_ids.shape[1]], inputs.input_ids)
