"""Adapters made elsewhere: PEFT's settings honoured to the same logits, or refused with a way out; vLLM's demands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import gemma3 as oracle
from oracles import peft_adapters
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from ship_models import make_folder, make_run
from torch import Tensor
from transformers import pipeline

from dozan.errors import InputError
from dozan.judge.generate import generate
from dozan.model import adapter
from dozan.model.bundle import open_model
from dozan.model.weights import load_adapter, load_model, save_adapter
from dozan.recipe import AdapterRecipe
from dozan.ship.merge import merge
from dozan.ship.vllm import check_for_vllm

UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj|"
    r"out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj|correct|proj|linear).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj|o_proj|gate_proj|up_proj|"
    r"down_proj)))"
)
"""What Unsloth writes as target_modules for a Gemma 3 with a vision tower."""
SETTINGS: dict[str, dict[str, Any]] = {
    "ranks": {"rank_pattern": {"q_proj": 2, r"layers\.3\.mlp\.up_proj": 5},
              "alpha_pattern": {"^.*v_proj": 3, "up_proj": 9}},
    "ranks of rsLoRA and DoRA": {"rank_pattern": {"down_proj": 2}, "use_rslora": True, "use_dora": True},
    "layers": {"layers_to_transform": [1, 5], "layers_pattern": "layers"},
    "one layer": {"layers_to_transform": 2, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*\.[0-3]\.self_attn\.(q|k|v)_proj"},
    "a pattern and not": {"target_modules": r".*_proj", "exclude_modules": ["layers.0.mlp.up_proj", "o_proj"]},
    "paths": {"target_modules": ["layers.0.mlp.up_proj", "6.self_attn.o_proj", "gate_proj"]},
}  # fmt: skip


def theirs(base: Any, **settings: Any) -> Any:
    """PEFT's adapter with random weights."""
    config = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], **settings}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    return peft_adapters.randomised(model)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return oracle.our_logits(model, oracle.ids())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.write(tmp_path_factory.mktemp("base"), oracle.theirs("270m"))


@pytest.mark.parametrize("name", SETTINGS)
def test_their_adapter_gives_their_logits_and_ours_goes_back(name: str, folder: Path, tmp_path: Path) -> None:
    model = theirs(oracle.theirs("270m"), **SETTINGS[name])
    model.save_pretrained(tmp_path / "theirs")
    ours = load_model(folder)
    recipe = load_adapter(tmp_path / "theirs", ours)
    with torch.no_grad():
        expected = oracle.their_logits(model, oracle.ids())
    assert oracle.relative(logits(ours), expected) < 1e-5
    assert oracle.relative(logits(load_model(folder)), expected) > 1e-2
    save_adapter(tmp_path / "ours", ours, recipe, "base")
    again = PeftModel.from_pretrained(oracle.theirs("270m"), tmp_path / "ours").eval()
    with torch.no_grad():
        assert oracle.relative(oracle.their_logits(again, oracle.ids()), expected) < 1e-5
    back = load_model(folder)
    load_adapter(tmp_path / "ours", back)
    assert torch.equal(logits(back), logits(ours))


@pytest.mark.parametrize("pattern", [UNSLOTH, r"model\.other_wrapper\.layers\.\d+\.(self_attn|mlp)\.\w+"])
def test_an_adapter_of_unsloth_opens_by_its_own_base(pattern: str, tmp_path: Path) -> None:
    base = oracle.theirs("12b", vision=True)
    folder = oracle.write(tmp_path / "base", base)
    model = theirs(base, target_modules=r".*language_model.*_proj", use_rslora=True)
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "target_modules": pattern, "base_model_name_or_path": str(folder),
                                "unsloth_version": None, "auto_mapping": {"base_model_class": "x"}}))  # fmt: skip
    assert all("base_model.model.model.language_model.layers" in name
               for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))  # fmt: skip
    ours = load_model(folder)
    load_adapter(tmp_path / "adapter", ours)
    with torch.no_grad():
        assert oracle.relative(logits(ours), oracle.their_logits(model, oracle.ids())) < 1e-5


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"modules_to_save": ["embed_tokens"]}, r"whole modules.*merge_and_unload"),
     ({"bias": "lora_only"}, "no biases"), ({"fan_in_fan_out": True}, "not transposed"),
     ({"trainable_token_indices": [3]}, "rows of the embedding"),
     ({"layers_to_transform": [0, 1]}, r"unexpected: .*layers\.2"), ({"r": 8}, r"must be \[8"),
     ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"), ({"layer_replication": [[0, 2]]}, "layer_replication")],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_cannot_be_honoured_says_what_to_do(
    settings: dict[str, Any], named: str, folder: Path, tmp_path: Path
) -> None:
    theirs(oracle.theirs("270m")).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(InputError, match=named):
        load_adapter(tmp_path, load_model(folder))


def test_an_adapter_on_the_vision_tower_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    theirs(oracle.theirs("270m")).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    name = "base_model.model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**load_file(path), name: torch.zeros(4, 8)}, path)
    with pytest.raises(InputError, match="adapts the vision tower"):
        load_adapter(tmp_path, load_model(folder))


def test_one_scale_a_op() -> None:
    """Linears of one input whose scales differ are computed one by one: no other's scale is taken."""
    torch.manual_seed(0)
    linears = [torch.nn.Linear(8, 6, bias=False) for _ in range(2)]
    recipes = [AdapterRecipe(rank=2, alpha=alpha) for alpha in (2.0, 6.0)]
    found = [adapter.AdaptedLinear(*pair, "one", 0) for pair in zip(linears, recipes, strict=True)]
    x = torch.randn(3, 8)
    with torch.no_grad():
        for one in found:
            one.lora_B.normal_()
        together = adapter.project(x, found)
        for one, y in zip(found, together, strict=True):
            assert torch.allclose(y, x @ adapter.merged_weight(one).t(), atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "rslora"])
@pytest.mark.parametrize("vision", [False, True])
def test_our_adapter_has_the_names_that_vllm_expects(kind: str, vision: bool, tmp_path: Path) -> None:
    folder = oracle.write(tmp_path / "base", oracle.theirs("12b", vision=vision))
    model = load_model(folder)
    recipe = peft_adapters.recipe(kind, rank=33)
    adapter.attach(model, recipe, 0)
    save_adapter(tmp_path / "adapter", model, recipe, "base")
    found = check_for_vllm(tmp_path / "adapter")
    assert found.problems == () and found.max_lora_rank == 64
    assert found.options("mine", "out") == "--enable-lora --max-lora-rank 64 --lora-modules mine=out"


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"use_dora": True}, "no DoRA; merge"), ({"r": 513}, "rank 513 is above 512"), ({"bias": "all"}, "must be 'none'"),
     ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"), ({"alpha_pattern": {"q_proj": 1}}, "pass it over")],
)  # fmt: skip
def test_what_vllm_would_refuse_is_said(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    theirs(oracle.theirs("270m")).save_pretrained(tmp_path)
    assert check_for_vllm(tmp_path).problems == ()
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    (problem,) = check_for_vllm(tmp_path).problems
    assert named in problem
    with pytest.raises(InputError, match="vLLM does not serve it"):
        check_for_vllm(tmp_path).options("mine", tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({f"{name}.default": tensor for name, tensor in load_file(weights).items()}, weights)
    assert "names that vLLM does not expect" in " ".join(check_for_vllm(tmp_path).problems)


def test_transformers_pipeline_answers_as_we_do(tmp_path: Path) -> None:
    """text-generation on a merged folder, greedy: the same tokens."""
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), rslora=True, dora=True)
    merged = merge(run, tmp_path / "merged")
    pipe = pipeline("text-generation", model=str(merged), dtype=torch.float32, device="cpu")
    said = "ذكرني بعد خمس دقائق"
    (found,) = pipe(said, max_new_tokens=12, do_sample=False, return_tensors=True)
    prompt = pipe.tokenizer(said)["input_ids"]
    assert found["generated_token_ids"][: len(prompt)] == prompt
    (ours,) = generate(open_model(run), [prompt], 12)
    assert list(ours) == found["generated_token_ids"][len(prompt) :][: len(ours)] and len(ours) > 3
