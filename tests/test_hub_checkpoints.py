"""Checkpoint folders laid out as on the hub go the whole way: train, merge, transformers, GGUF, llama.cpp.

`270m`: Gemma3ForCausalLM with the widths of the 270M and six of its layers, one bf16 file, config as transformers 5
spells it.
`4b`: Gemma3ForConditionalGeneration as the 4B's, scaled down: text under `language_model.` in two shards with an index,
a vision tower and a projector, more embedding rows than tokens, rope factor 8, config as first published.
Weights are random; the tokenizer and the rows are the package's own.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.gemma3 import VISION
from safetensors.torch import load_file, save_file
from ship_models import random_model
from torch import Tensor
from transformers import (
    AutoConfig,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
)

import dozan
from dozan.chat.encode import encode_prompt, encode_rows
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.tokenizer import Tokenizer
from dozan.model.bundle import open_model
from dozan.model.gemma3 import Gemma3
from dozan.model.gemma3 import Gemma3Config as OurConfig
from dozan.model.weights import load_model, read_config
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.ship.export import Exported
from dozan.ship.llamacpp import complete
from dozan.ship.parity import reference_logits
from dozan.train.loop import TrainResult

pytestmark = pytest.mark.usefixtures("short_answers")
ASSETS = Path(dozan.EMBEDDED_BASE).parent
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
ROWS = 6
TRAINED = 4
SMALL = ["train.max_steps=4", "train.batch_size=2", "adapter.rank=4", "adapter.alpha=8"]
CHANGES = {"270m": ["adapter.dora=true"], "4b": ["adapter.rslora=true"]}
GGUF = {"270m": "f16", "4b": "f32"}
SHAPE_270M: dict[str, Any] = {
    "vocab_size": 8192, "hidden_size": 640, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 256, "intermediate_size": 2048, "sliding_window": 512, "query_pre_attn_scalar": 256,
    "max_position_embeddings": 32768, "dtype": "bfloat16",
}  # fmt: skip
SHAPE_4B: dict[str, Any] = {
    "model_type": "gemma3_text", "vocab_size": 8256, "hidden_size": 160, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "query_pre_attn_scalar": 64,
    "intermediate_size": 640, "sliding_window": 128, "max_position_embeddings": 4096,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}  # fmt: skip
OUTER_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "boi_token_index": 8200,
    "eoi_token_index": 8201, "image_token_index": 8202, "eos_token_id": [1, 106], "initializer_range": 0.02,
    "mm_tokens_per_image": 4, "torch_dtype": "bfloat16", "text_config": SHAPE_4B,
    "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
}  # fmt: skip


def bf16(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()}


def write_270m(folder: Path) -> None:
    """One bf16 file with text-only names, config.json as transformers writes it today."""
    config = Gemma3TextConfig(**SHAPE_270M, architectures=["Gemma3ForCausalLM"])
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    assert written["rope_parameters"]["full_attention"] and written["layer_types"] and "rope_theta" not in written
    save_file(
        bf16(dict(random_model(OurConfig.from_json(written)).state_dict())),
        folder / "model.safetensors", {"format": "pt"},
    )  # fmt: skip


def vision_parts() -> dict[str, Tensor]:
    """Random tensors of the tower and the projector by the hub's names, those that transformers' model has."""
    outer = {key: value for key, value in OUTER_4B.items() if key != "torch_dtype"}
    model = Gemma3ForConditionalGeneration(Gemma3Config(**outer))
    names = [name.removeprefix("model.") for name in model.state_dict()]
    return {
        name: torch.randn_like(weight) * 0.1
        for name, weight in zip(names, model.state_dict().values(), strict=True)
        if name.startswith(("vision_tower.", "multi_modal_projector."))
    }


def write_4b(folder: Path) -> None:
    """Two bf16 shards with an index, every text tensor under `language_model.`, config.json as first published."""
    (folder / "config.json").write_text(json.dumps(OUTER_4B, indent=2))
    text = random_model(OurConfig.from_json(OUTER_4B)).state_dict()
    tensors = bf16({f"language_model.{name}": weight for name, weight in text.items()} | vision_parts())
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: file for file, part in shards.items() for name in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def stored(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its stored name."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def our_logits(model: Gemma3, ids: list[int], tail: int) -> np.ndarray:
    """Our logits [tail, V] of the last positions."""
    return next(reference_logits(model, [ids], tail))


def their_logits(folder: Path, kind: type, ids: list[int]) -> np.ndarray:
    """transformers' logits [T, V] in fp32; every tensor of the folder must be one that its model has."""
    model, info = kind.from_pretrained(  # type: ignore[attr-defined]
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits[0].numpy()


@pytest.fixture(scope="module", params=["270m", "4b"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def work(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder for one checkpoint and all that is made of it, removed at the end: half a gigabyte and more."""
    folder = tmp_path_factory.mktemp(f"hub-{kind}")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(kind: str, work: Path) -> Path:
    folder = work / "checkpoint"
    folder.mkdir()
    (write_270m if kind == "270m" else write_4b)(folder)
    for name in (*TOKENIZER, "generation_config.json"):
        shutil.copy(ASSETS / "base" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    """The first rows of the shipped test set, with the tools that they call: fewer tokens."""
    found = read_rows(ASSETS / "mobile_actions_ar" / "test.jsonl")[:ROWS]
    called = {call["function"]["name"] for row in found for call in row.messages[-1].get("tool_calls", [])}
    tools = tuple(tool for tool in found[0].tools if tool["function"]["name"] in called)
    assert 1 < len(tools) < len(found[0].tools)
    return [Example(row.id, tools, row.messages, row.meta, row.place) for row in found]


@pytest.fixture(scope="module")
def trained(kind: str, work: Path, base: Path, rows: list[Example]) -> TrainResult:
    return dozan.train(
        rows[:TRAINED], base, work / "run", recipe="functiongemma-ar", overrides=[*SMALL, *CHANGES[kind]],
        eval_data=rows[TRAINED:], on_event=lambda event: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def merged(trained: TrainResult, work: Path) -> Path:
    return dozan.merge(trained.out, work / "merged")


@pytest.fixture(scope="module")
def exported(kind: str, trained: TrainResult, work: Path, rows: list[Example]) -> Exported:
    (file,) = dozan.export(trained.out, gguf=GGUF[kind], out=work / "gguf", examples=rows[TRAINED:])
    return file


@pytest.fixture(scope="module")
def ids(base: Path, rows: list[Example]) -> list[int]:
    """The tokens of two rows, as many as go 40 past the window."""
    tokens = encode_rows(rows[:2], FUNCTIONGEMMA, Tokenizer.load(base), 4096)
    length = read_config(base).sliding_window + 40
    found = [i for row in tokens for i in row.ids][:length]
    assert len(found) == length
    return found


def test_training_is_finite_and_learns(kind: str, base: Path, trained: TrainResult) -> None:
    assert trained.steps == 4 and trained.skipped_steps == 0
    assert trained.final_loss is not None and math.isfinite(trained.final_loss)
    assert trained.eval_loss is not None and math.isfinite(trained.eval_loss)
    lines = [json.loads(line) for line in (trained.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(steps) == 4 and min(steps[2:]) < min(steps[:2]), "the second epoch sees the same rows"
    record = json.loads((trained.out / "run.json").read_text())
    assert record["base"] == str(base.resolve()) and record["chat"] == "functiongemma"
    assert read_config(base).vision == (kind == "4b")


def test_merging_changes_the_adapted_text_tensors_alone(kind: str, base: Path, merged: Path) -> None:
    before, after = stored(base), stored(merged)
    assert list(before) == list(after)
    changed = {
        name for name in before if not torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
    }
    assert all(name.endswith("_proj.weight") and "vision" not in name for name in changed), changed
    assert len(changed) == 7 * read_config(base).num_hidden_layers
    vision = [name for name in before if name.startswith(("vision_tower.", "multi_modal_projector."))]
    assert bool(vision) == (kind == "4b")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    certificate = json.loads((merged / "parity.json").read_text())
    assert certificate["failures"] == [] and certificate["unequal"] == []


def test_the_other_files_are_the_bases_byte_for_byte(base: Path, merged: Path) -> None:
    kept = {path.name for path in base.iterdir() if path.suffix != ".safetensors"}
    assert kept >= {*TOKENIZER, "config.json", "generation_config.json"}
    assert {path.name for path in merged.iterdir()} == {path.name for path in base.iterdir()} | {
        "parity.json", "dozan-manifest.json"}  # fmt: skip
    assert all((merged / name).read_bytes() == (base / name).read_bytes() for name in kept)


def test_transformers_computes_the_merged_folder_as_we_do(kind: str, base: Path, merged: Path, ids: list[int]) -> None:
    """The 4B's whole model, vision tower included, has to load for it."""
    architecture = Gemma3ForCausalLM if kind == "270m" else Gemma3ForConditionalGeneration
    assert AutoConfig.from_pretrained(merged).architectures == [architecture.__name__]
    theirs = their_logits(merged, architecture, ids)
    ours = our_logits(load_model(merged), ids, len(ids))
    assert np.abs(theirs - ours).max() < 1e-3 * np.abs(theirs).max()
    before = our_logits(load_model(base), ids, len(ids))
    assert np.abs(before - ours).max() > 0.05, "four steps must show, or the merge is not tested"


def test_the_gguf_passes_and_says_so(kind: str, exported: Exported) -> None:
    written = json.loads(exported.path.with_suffix(".parity.json").read_text())
    assert written["kind"] == GGUF[kind] == exported.kind and written["failures"] == []
    assert exported.certificate.rows > ROWS - TRAINED
    assert exported.certificate.lines_equal == exported.certificate.lines > ROWS - TRAINED
    assert exported.certificate.difference.spread > 0.3, "logits all alike would pass any gate"


def test_llama_cpp_answers_greedily_as_the_run_does(
    trained: TrainResult, exported: Exported, rows: list[Example]
) -> None:
    bundle = open_model(trained.out)
    prompt = encode_prompt(rows[-1], bundle.chat, bundle.tokenizer)
    (answer,) = complete(exported.path, [prompt], 6, stop_ids=[])
    assert len(answer) == 6
    logits = our_logits(bundle.model, [*prompt, *answer[:-1]], 6)
    chosen = logits[np.arange(6), answer]
    assert (logits.max(-1) - chosen).max() < 0.03 * logits.std(), "off by more than f16 keys and values explain"
