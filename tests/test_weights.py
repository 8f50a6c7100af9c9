"""Weights on disk: what loads, what is refused and how it is named, adapters both ways, merging byte for byte."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oracles import gemma3 as oracle
from oracles import peft_adapters
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

import dozan
from dozan.errors import InputError
from dozan.model import adapter, hub
from dozan.model.files import read_header
from dozan.model.weights import (
    load_adapter,
    load_model,
    read_config,
    resolve_model,
    save_adapter,
    write_checkpoint,
)

Q0 = "model.layers.0.self_attn.q_proj.weight"
EXTRA = {
    "tokenizer.json": '{"a": "ب"}', "tokenizer_config.json": "{ }\n", "tokenizer.model": "\x00\x01", "LICENSE": "terms",
    "chat_template.jinja": "{{ bos_token }}\n", "generation_config.json": '{"eos_token_id": [1, 106]}',
    "special_tokens_map.json": "{}",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A text-only checkpoint in one file."""
    return oracle.write(tmp_path / "base", oracle.theirs("270m"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The same in several shards with an index."""
    return oracle.write(tmp_path / "shards", oracle.theirs("270m"), max_shard_size="100KB")


def change(folder: Path, edit: Any) -> None:
    """Rewrite model.safetensors after `edit` changed its tensors."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rename(folder: Path, name: Any) -> None:
    change(folder, lambda tensors: [tensors.update({name(key): tensors.pop(key)}) for key in list(tensors)])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return oracle.our_logits(model, oracle.ids())


def their_logits(model: Any) -> Tensor:
    with torch.no_grad():
        return oracle.their_logits(model, oracle.ids())


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load_model(folder)
    return str(error.value)


def test_shards_load_as_one_file_does(folder: Path, shards: Path) -> None:
    assert len(list(shards.glob("*.safetensors"))) > 2
    one, many = load_model(folder).state_dict(), load_model(shards).state_dict()
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.bfloat16])
def test_the_dtype_is_the_one_asked_for(folder: Path, dtype: str | torch.dtype) -> None:
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = load_model(folder, dtype)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, stored[name].to(wanted)) for name, value in model.state_dict().items())
    assert not model.training


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="'int8' is not one of float32"):
        load_model(folder, "int8")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_both_spellings_of_the_prefix_load(prefix: str, tmp_path: Path) -> None:
    theirs = oracle.theirs("12b", vision=True)
    folder = oracle.write(tmp_path, theirs)
    rename(folder, lambda key: key.replace("language_model.model.", prefix))
    if prefix.startswith("model."):
        rename(folder, lambda key: key if key.startswith("model.") else f"model.{key}")
    assert any(key.startswith(prefix) for key in load_file(folder / "model.safetensors"))
    assert oracle.relative(logits(load_model(folder)), their_logits(theirs)) <= 1e-5


def test_a_tied_head_may_be_stored_if_it_equals_the_embeddings(folder: Path) -> None:
    embeddings = "model.embed_tokens.weight"
    change(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[embeddings].clone()}))
    load_model(folder)
    change(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    assert "lm_head.weight differs from the embeddings" in refusal(folder)


def test_everything_that_does_not_fit_is_listed_at_once(folder: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors[Q0]
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 3)
        tensors["vision_tower.probe"] = torch.zeros(1)
        tensors["model.norm.weight"] = torch.zeros(41)
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(128, 40, dtype=torch.int8)

    change(folder, damage)
    message = refusal(folder)
    for line in (
        f"missing: {Q0} [64, 40]",
        "unexpected: model.layers.7.mlp.up_proj.weight [2, 3]",
        "unexpected: vision_tower.probe [1]",
        "shape: model.norm.weight is [41], must be [40]",
        "dtype: model.layers.1.mlp.up_proj.weight is I8",
    ):
        assert line in message


def test_one_tensor_in_two_spellings_is_refused(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({f"language_model.{Q0}": tensors[Q0].clone()}))
    assert "are the same tensor" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 4, 200, 0.5, 0.999])
def test_a_truncated_file_is_named(folder: Path, keep: float) -> None:
    path = folder / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, int(keep if keep > 1 or keep == 0 else size * keep))
    assert str(path) in refusal(folder) and "damaged" in refusal(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle" in refusal(folder)


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/hosts", "a/../../out", "link.safetensors", ""])
def test_an_index_that_leaves_the_folder_is_refused(shards: Path, name: str) -> None:
    outside = shards.parent / "out.safetensors"
    save_file({Q0: torch.zeros(64, 40)}, outside)
    (shards / "link.safetensors").symlink_to(outside)
    index = shards / "model.safetensors.index.json"
    change_json(index, weight_map={**json.loads(index.read_text())["weight_map"], Q0: name})
    assert "leaves the folder" in refusal(shards)


def test_a_linked_single_file_is_refused_and_the_hubs_cache_is_not(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0f"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(folder / name, blobs / f"hash-{name}")
        (snapshot / name).symlink_to(f"../../blobs/hash-{name}")
    load_model(snapshot)
    stray = tmp_path / "stray"
    stray.mkdir()
    shutil.copy(folder / "config.json", stray)
    (stray / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert "leaves the folder" in refusal(stray)


def test_an_index_that_does_not_match_its_shards_is_refused(shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    other = next(file for file in listed.values() if file != listed[Q0])
    change_json(index, weight_map={**listed, Q0: other})
    assert f"missing: {Q0} is not in {other}" in refusal(shards)
    change_json(index, weight_map={key: file for key, file in listed.items() if key != Q0})
    assert f"unexpected: {Q0} is not in the index" in refusal(shards)
    change_json(index, weight_map=listed)
    (shards / other).unlink()
    assert f"files that the index names are missing: {other}" in refusal(shards)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"architectures": ["Gemma3TextModel"]}, "Gemma3TextModel"),
        ({"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n"}, "Gemma3nForConditional"),
        ({"architectures": None, "model_type": "qwen3"}, "qwen3"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_hidden_layers": 0, "layer_types": None}, "num_hidden_layers is 0"),
        ({"layer_types": ["full_attention"]}, "layer_types must name 7 layers"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_dim": None}, "head_dim is None"),
    ],
)
def test_another_architecture_or_a_bad_size_is_named(folder: Path, values: dict[str, Any], named: str) -> None:
    change_json(folder / "config.json", **values)
    message = refusal(folder)
    assert named in message and str(folder / "config.json") in message


@pytest.mark.parametrize(
    ("text", "named"), [('{"a": 1,\n  }', ":2:3: broken JSON"), ("[]", "JSON object"), (None, "no such file")]
)
def test_a_broken_config_is_located(folder: Path, text: str | None, named: str) -> None:
    path = folder / "config.json"
    path.unlink() if text is None else path.write_text(text)
    assert named in refusal(folder)


# Adapters


def trained(folder: Path, kind: str, dtype: str = "float32", **changes: Any) -> Any:
    model = load_model(folder, dtype)
    adapter.attach(model, peft_adapters.recipe(kind, **changes), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter.adapter_parameters(model):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + 0.2 * noise) if name.endswith("magnitude") else parameter.copy_(0.1 * noise)
    adapter.refresh(model)
    return model


@pytest.mark.parametrize("kind", peft_adapters.KINDS)
def test_an_adapter_comes_back_as_it_was(folder: Path, kind: str, tmp_path: Path) -> None:
    recipe = peft_adapters.recipe(kind, dropout=0.1, targets=("q_proj", "gate_proj"))
    model, again = trained(folder, kind, dropout=0.1, targets=("q_proj", "gate_proj")), load_model(folder)
    save_adapter(tmp_path / "adapter", model, recipe, "dozan:embedded")
    assert sorted(os.listdir(tmp_path / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    assert load_adapter(tmp_path / "adapter", again) == recipe
    before, after = adapter.adapter_state(model), adapter.adapter_state(again)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model.eval()), logits(again))


@pytest.mark.parametrize("kind", ["lora", "both"])
def test_over_a_vision_checkpoint_peft_finds_our_keys_and_we_find_theirs(kind: str, tmp_path: Path) -> None:
    theirs = oracle.theirs("12b", vision=True)
    folder = oracle.write(tmp_path / "base", theirs)
    model = trained(folder, kind)
    save_adapter(tmp_path / "ours", model, peft_adapters.recipe(kind), "base")
    tuned = PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    assert oracle.relative(their_logits(tuned), logits(model)) <= 1e-5
    assert peft_adapters.state(tuned).keys() == load_file(tmp_path / "ours" / "adapter_model.safetensors").keys()
    base = oracle.theirs("12b", vision=True)
    pattern = peft_adapters.theirs(base, kind, exclude_modules=r".*vision_tower.*")
    pattern.save_pretrained(tmp_path / "theirs")
    again = load_model(folder)
    load_adapter(tmp_path / "theirs", again)
    assert oracle.relative(logits(again), their_logits(pattern)) <= 1e-5


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_either_spelling_of_an_adapter_loads(folder: Path, tmp_path: Path, prefix: str) -> None:
    model = trained(folder, "both")
    save_adapter(tmp_path, model, peft_adapters.recipe("both"), "base")
    path = tmp_path / "adapter_model.safetensors"
    root = adapter.PEFT_ROOT
    save_file({key.replace(f"{root}model.", root + prefix): tensor for key, tensor in load_file(path).items()}, path)
    again = load_model(folder)
    load_adapter(tmp_path, again)
    assert torch.equal(logits(again), logits(model))


def test_an_adapter_that_does_not_fit_is_listed_and_nothing_attached(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, trained(folder, "dora"), peft_adapters.recipe("dora"), "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    gone, bent = list(tensors)[:2]
    del tensors[gone]
    tensors[bent] = torch.zeros(9, 9)
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 40)
    save_file(tensors, path)
    model = load_model(folder)
    with pytest.raises(InputError) as error:
        load_adapter(tmp_path, model)
    message = str(error.value)
    for line in (f"missing: {gone}", f"shape: {bent} is [9, 9]", "unexpected: base_model"):
        assert line in message
    assert not adapter.adapted(model)


def test_an_adapter_of_another_class_matches_nothing(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, trained(folder, "lora"), peft_adapters.recipe("lora"), "base")
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"transformer.{key}": tensor for key, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match="nothing matched"):
        load_adapter(tmp_path, load_model(folder))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rank_pattern": {"q_proj": 8}}, r"lora_A.weight is \[4, \d+\], must be \[8"),
        ({"rank_pattern": {"q_proj": "many"}}, "rank_pattern or alpha_pattern of"),
        ({"target_modules": "(q_proj"}, "is no pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base"),
        ({"something_new": 3}, "something_new is 3"),
        ({"r": 0}, "not usable"),
        ({"lora_alpha": None}, "not usable"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(
    folder: Path, tmp_path: Path, values: dict[str, Any], named: str
) -> None:
    save_adapter(tmp_path, trained(folder, "lora"), peft_adapters.recipe("lora"), "base")
    change_json(tmp_path / "adapter_config.json", **values)
    with pytest.raises(InputError, match=named):
        load_adapter(tmp_path, load_model(folder))


def test_adapters_of_another_scale_are_not_put_into_the_models(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, trained(folder, "lora"), peft_adapters.recipe("lora"), "base")
    with pytest.raises(InputError, match="alpha, rank or rsLoRA differ"):
        load_adapter(tmp_path, trained(folder, "rslora"))


def test_a_failed_write_leaves_the_old_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = trained(folder, "lora"), peft_adapters.recipe("lora")
    save_adapter(tmp_path / "adapter", model, recipe, "base")
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()

    def full(tensors: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dozan.model.peft_format.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_adapter(tmp_path / "adapter", model, recipe, "base")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert len(os.listdir(tmp_path / "adapter")) == 2


# Merging


def furnished(folder: Path) -> Path:
    for name, text in EXTRA.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text("of the base")
    return folder


def stored_bytes(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor's dtype and bytes, over all shards."""
    found = {}
    for path in folder.glob("*.safetensors"):
        start, header = read_header(path)
        data = path.read_bytes()[start:]
        header.pop("__metadata__", None)
        found.update({k: (v["dtype"], data[slice(*v["data_offsets"])]) for k, v in header.items()})
    return found


def save_merged(base: Path, model: Any, out: Path) -> None:
    """`base` again with the merged weights of `model`."""
    merged = ((f"{name}.weight", adapter.merged_weight(linear)) for name, linear in adapter.adapted(model))
    write_checkpoint(base, merged, out)


@pytest.mark.parametrize("kind", peft_adapters.KINDS)
@pytest.mark.parametrize("vision", [False, True])
def test_the_merged_folder_answers_as_the_adapter_does(kind: str, vision: bool, tmp_path: Path) -> None:
    base = furnished(oracle.write(tmp_path / "b", oracle.theirs("12b", vision=vision), max_shard_size="150KB"))
    model = trained(base, kind, targets=("q_proj", "v_proj", "down_proj"))
    save_merged(base, model, tmp_path / "merged")
    theirs = (Gemma3ForConditionalGeneration if vision else Gemma3ForCausalLM).from_pretrained(tmp_path / "merged")
    assert oracle.relative(their_logits(theirs.eval()), logits(model)) <= 1e-4
    assert oracle.relative(logits(load_model(tmp_path / "merged")), logits(model)) <= 1e-4
    assert oracle.relative(logits(load_model(base)), logits(model)) > 1e-2
    before, after = stored_bytes(base), stored_bytes(tmp_path / "merged")
    changed = {name.replace("language_model.", "") for name in before if before[name] != after[name]}
    assert changed == {f"{name}.weight" for name, _ in adapter.adapted(model)}
    assert {k: v[0] for k, v in before.items()} == {k: v[0] for k, v in after.items()}


def test_everything_beside_the_weights_is_copied_byte_for_byte(shards: Path, tmp_path: Path) -> None:
    save_merged(furnished(shards), trained(shards, "lora"), tmp_path / "a" / "merged")
    names = {path.name for path in (tmp_path / "a" / "merged").iterdir()}
    assert names == {path.name for path in shards.iterdir()} - {"README.md"}
    for name in names - {path.name for path in shards.glob("*.safetensors")}:
        assert (tmp_path / "a" / "merged" / name).read_bytes() == (shards / name).read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["merged"]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_merged_tensor_keeps_the_dtype_it_is_stored_in(folder: Path, tmp_path: Path, stored: torch.dtype) -> None:
    change(folder, lambda tensors: tensors.update({k: v.to(stored) for k, v in tensors.items() if "proj" in k}))
    model = trained(folder, "both")
    save_merged(folder, model, tmp_path / "merged")
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        merged = file.get_tensor(Q0)
        assert file.get_tensor("model.norm.weight").dtype == torch.float32
    assert torch.equal(merged, adapter.merged_weight(model.model.layers[0].self_attn.q_proj).to(stored))


def test_a_folder_in_use_and_a_full_disk_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = trained(folder, "lora"), tmp_path / "merged"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        save_merged(folder, model, out)
    (out / "mine").unlink()
    with monkeypatch.context() as patch:
        usage = namedtuple("usage", "total used free")(10**9, 10**9, 10**5)
        patch.setattr("dozan.model.weights.shutil.disk_usage", lambda _: usage)
        with pytest.raises(InputError, match=r"needs [\d,]+ bytes, 100,000 are free"):
            save_merged(folder, model, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "merged"] and not any(out.iterdir())
    save_merged(folder, model, out)
    assert (out / "model.safetensors").is_file()


def test_a_write_that_fails_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(folder, "lora")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dozan.model.weights._overwrite", full)
    with pytest.raises(InputError, match="No space left on device.*nothing was left behind"):
        save_merged(folder, model, tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


# Names of models


def test_a_folder_a_run_and_the_embedded_base_resolve(folder: Path, tmp_path: Path) -> None:
    assert resolve_model(folder) == folder and resolve_model(str(folder)) == folder
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"base": str(folder)}))
    assert resolve_model(run) == folder
    assert resolve_model("dozan:embedded") == resolve_model(dozan.EMBEDDED_BASE) == Path(dozan.EMBEDDED_BASE)
    for text in ("{}", '{"base": 3}', "[]", "{", '{"base": "."}'):
        (run / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json"):
            resolve_model(run)


def test_a_misspelt_folder_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean '{folder}'"):
        resolve_model(folder.with_name("bsae"))
    with pytest.raises(InputError, match=f"is a file; give the folder.*{folder}"):
        resolve_model(folder / "config.json")


def answer(kind: str, status: int | None) -> Exception:
    """An error as the hub's client raises it."""
    errors = pytest.importorskip("huggingface_hub.errors")
    if status is None:
        return getattr(errors, kind)("said the client")
    response = SimpleNamespace(status_code=status, headers={}, request=None, text="")
    return getattr(errors, kind)("said the hub", response=response)


@pytest.mark.parametrize(
    ("kind", "status", "token", "remedy"),
    [
        ("GatedRepoError", 401, "", "401: set HF_TOKEN"),
        ("GatedRepoError", 403, "x", "403: your token has no access; accept the licence"),
        ("RepositoryNotFoundError", 401, "", "not found on the hub"),
        ("RepositoryNotFoundError", 404, "x", "not found on the hub"),
        ("LocalEntryNotFoundError", None, "", "unset HF_HUB_OFFLINE"),
        ("OfflineModeIsEnabled", None, "", "unset HF_HUB_OFFLINE"),
        ("HfHubHTTPError", 500, "", "the download failed \\(said the hub"),
    ],
)
def test_each_failure_of_the_hub_has_its_remedy_on_one_line(
    kind: str, status: int | None, token: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", token)

    def fail(name: str, **_: object) -> str:
        raise answer(kind, status)

    monkeypatch.setattr(client, "snapshot_download", fail)
    with pytest.raises(InputError, match=remedy) as error:
        resolve_model("google/functiongemma-270m-it")
    assert "\n" not in str(error.value)


def test_the_hub_gives_its_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(client, "snapshot_download", lambda name, allow_patterns: str(folder) if name == "a/b" else "")
    assert resolve_model("a/b") == folder
    assert read_config(resolve_model("a/b")).hidden_size == 40
    assert not any("bin" in pattern for pattern in hub._WANTED)
