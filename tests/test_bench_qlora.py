"""The 4-bit benchmark at a tiny size: the checkpoint is bitsandbytes' own form, ours trains on it, and the tables tell
what was measured."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench import peers, qlora, qlora_model
from bench.qlora_table import differences, joined, render
from dozan.kernels import pack_attention
from dozan.kernels.nf4 import dequantise
from dozan.model.adapter import adapted, attach
from dozan.model.gemma3 import Gemma3
from dozan.model.quantised import QuantisedLinear
from dozan.model.weights import load_model, save_adapter
from dozan.recipe import AdapterRecipe

SIZES = {**qlora_model.SHAPE_TINY, "num_hidden_layers": qlora_model.DRAWN + 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qlora") / "model"
    qlora_model.write(made, SIZES, torch.device("cpu"))
    return made


def test_the_checkpoint_is_read_by_us_and_its_layers_repeat(folder: Path) -> None:
    model = load_model(folder)
    found = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    assert len(found) == 7 * SIZES["num_hidden_layers"]
    held = [module.nf4 for name, module in model.named_modules() if name.endswith("mlp.down_proj")]
    layers = [dequantise(weight, torch.float32) for weight in held]
    assert torch.equal(layers[0], layers[qlora_model.DRAWN]) and not torch.equal(layers[0], layers[1])
    assert 0.9 * qlora_model.STD < float(layers[1].std()) < 1.1 * qlora_model.STD
    assert model.config.rope_factor == 8.0 and model.config.layer_types[5] == "full_attention"


@torch.no_grad()
def our_logits(model: Gemma3, ids: torch.Tensor) -> torch.Tensor:
    config, position, end = model.config, torch.arange(len(ids)), torch.full((len(ids),), len(ids))
    attend = pack_attention(position, end, config.sliding_window, config.scale, config.head_dim)
    return model.logits(model(ids, position, attend))


@pytest.mark.parametrize("dora", [False, True])
def test_transformers_and_peft_compute_the_same_from_the_files(folder: Path, tmp_path: Path, dora: bool) -> None:
    pytest.importorskip("bitsandbytes")
    theirs, tokenizer = peers._load_plain(Namespace(model=folder, impl="trl", rank=8, alpha=4, rslora=True, dora=dora))
    assert type(theirs.base_model.model.model.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (2, 0, SIZES["vocab_size"])
    recipe, ours = AdapterRecipe(rank=8, alpha=4, rslora=True, dora=True), load_model(folder)
    attach(ours, recipe, 0)
    with torch.no_grad():
        for _, linear in adapted(ours):
            linear.lora_B.normal_(std=0.02, generator=torch.Generator().manual_seed(len(linear.lora_B)))
    save_adapter(tmp_path, ours, recipe, "random")
    peers._set_adapter(theirs, tmp_path, dora)
    plain = load_model(folder)
    attach(plain, recipe.model_copy(update={"dora": dora}), 0)
    copied = dict(adapted(ours))
    with torch.no_grad():
        for name, linear in adapted(plain):
            linear.lora_B.copy_(copied[name].lora_B)
            linear.refresh_norm()
        ids = torch.randint(300, 1000, (70,), generator=torch.Generator().manual_seed(0))
        # In evaluation PEFT keeps the norms of the adapter that it began with; there is no dropout.
        expected = theirs.train()(input_ids=ids[None]).logits[0].float()
    difference = (our_logits(plain, ids) - expected).norm() / expected.norm()
    # bitsandbytes computes in bfloat16, as the checkpoint's quantization_config says.
    assert float(difference) < 0.03
    mine = our_logits(load_model(folder), ids)
    assert float((mine - expected).norm() / expected.norm()) > 0.05, "the adapter does nothing here"


def test_an_adapter_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = Namespace(model=folder, impl="trl", rank=8, alpha=4, rslora=True, dora=True)
    theirs, _ = peers._load_plain(options)
    recipe, ours = AdapterRecipe(rank=8, alpha=4, rslora=True), load_model(folder)
    attach(ours, recipe, 0)
    save_adapter(tmp_path, ours, recipe, "random")
    assert not any("magnitude" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    with pytest.raises(ValueError, match="not this model's adapter"):
        peers._set_adapter(theirs, tmp_path, True)


def test_ours_runs_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tiny", "--layers", "2", "--steps", "8", "--only", "ours", "--modes", "lean", "--adapters", "dora"]
    qlora.main([*arguments, "--folder", str(tmp_path / "work"), "--out", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    (run,) = record["runs"]
    assert (run["program"], run["mode"], run["adapter"]) == ("ours", "lean", "dora")
    assert abs(run["losses"][0] - 6.93) < 0.1 and run["steps"] == 8 and run["tokens_s"] > 0
    assert "adapter.rslora=true" in run["set"] and "adapter.dora=true" in run["set"]
    assert "lean: all layers recomputed" in capsys.readouterr().out


def test_a_folder_with_another_model_is_refused(folder: Path) -> None:
    options = Namespace(tiny=True, layers=SIZES["num_hidden_layers"] - 1, steps=8)
    with pytest.raises(SystemExit, match="another model .num_hidden_layers 7.; give another --folder"):
        qlora.prepare(options, folder.parent)


def test_peers_take_what_they_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Namespace(set=[], set_lean=[])
    for mode, programs in qlora.MODES.items():
        for program in set(programs) - {"ours"}:
            command = qlora._command(program, mode, "dora", options, tmp_path)
            monkeypatch.setattr("sys.argv", ["bench", *command[2:], "--out", "x.json"])
            found = peers._options()
            assert (found.dora, found.rslora, found.nf4, found.rank, found.alpha) == (True, True, True, 64, 32)
            assert (found.gc == "off") == (mode == "best")
    assert "--dora" not in qlora._command("peft", "best", "lora", options, tmp_path)


def test_a_program_that_dies_leaves_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(arguments: list[str], log: Path, *_: Any) -> int:
        log.write_text("Killed")
        return 137

    monkeypatch.setattr(qlora, "_run", dies)
    options = Namespace(set=[], set_lean=[], steps=8, limit=9)
    (tmp_path / "peft-best-lora.json").write_text("{}")
    run = qlora.measured("peft", "best", "lora", options, tmp_path, tmp_path)
    assert run["error"] == "exit status 137: Killed" and "tokens_s" not in run


def run(program: str, mode: str, adapter: str, tokens: float, **changes: Any) -> dict[str, Any]:
    return {
        "program": program, "mode": mode, "adapter": adapter, "tokens_s": tokens, "step_s": 4096 / tokens,
        "allocated_gib": 20.0, "reserved_gib": 21.0, "process_to_first_step_s": 30.0, "losses": [12.5] * 3,
        "grad_norms": [0.3] * 3, **changes,
    }  # fmt: skip


def record() -> dict[str, Any]:
    runs = [
        run("ours", "best", "lora", 12000), run("ours", "best", "dora", 11000), run("ours", "lean", "dora", 8000),
        run("peft", "best", "lora", 4000), run("peft", "lean", "lora", 3000), run("peft", "lean", "dora", 2000),
        {"program": "peft", "mode": "best", "adapter": "dora", "error": "Traceback\nout of memory: 140 GiB"},
    ]  # fmt: skip
    sizes = {"model": "12b", "layers": 48, "tokens": 4096, "steps": 12, "rank": 64, "alpha": 32}
    return {"command": "", "commit": "abc", "device": "GPU", **sizes, "runs": runs}


def test_the_tables_show_the_fastest_and_the_lean() -> None:
    text = render(record())
    fastest, lean = text.split("lean: all layers recomputed")
    rows = [line.split() for line in fastest.splitlines()]
    assert ["lora", "ours", "best", "12,000", "20.0", "21.0", "30.0"] in rows
    assert ["dora", "ours", "best", "11,000", "20.0", "21.0", "30.0", "1.09"] in rows
    assert ["lora", "peft", "best", "4,000", "20.0", "21.0", "30.0", "3.00x"] in rows
    assert ["dora", "peft", "lean", "2,000", "20.0", "21.0", "30.0", "5.50x", "2.00"] in rows
    assert ["lora", "peft", "lean", "3,000", "20.0", "21.0", "30.0"] in [line.split() for line in lean.splitlines()]
    assert "peft, best, dora: out of memory: 140 GiB" in text
    assert "!" not in text and max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize("key, value", [("losses", 12.8), ("grad_norms", 0.31), ("losses", float("nan"))])
def test_other_work_is_marked(key: str, value: float) -> None:
    wrong = record()
    assert differences(wrong) == []
    wrong["runs"][3][key] = [value, 12.5, 12.5]
    ((found, _),) = differences(wrong)
    assert found is wrong["runs"][3]
    assert "lora  peft     best  !" in render(wrong) and "peft, best, lora:" in render(wrong)


def test_records_of_one_model_are_joined_and_others_refused() -> None:
    first, second = record(), copy.deepcopy(record())
    first["runs"], second["runs"] = first["runs"][:3], second["runs"][3:]
    assert joined([first, second])["runs"] == record()["runs"]
    second["steps"] = 9
    with pytest.raises(ValueError, match="steps"):
        joined([first, second])
