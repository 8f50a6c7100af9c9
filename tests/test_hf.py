"""dozan's ops within transformers: losses and gradients of the originals, under PEFT, bitsandbytes and Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from oracles import gemma3 as oracle
from oracles import peft_adapters
from torch import Tensor, nn

from dozan import hf
from dozan.errors import InputError
from dozan.kernels import cross_entropy, geglu, low_rank, norm

NOTHING = "nothing"
KINDS = [NOTHING, "lora", "dora", "both"]


def small() -> Any:
    """transformers' model with two of its layers, a sliding and a full one."""
    model = oracle.theirs("270m")
    model.model.layers = nn.ModuleList(model.model.layers[4:6])
    for index, layer in enumerate(model.model.layers):
        layer.layer_idx = layer.self_attn.layer_idx = index
    model.config.num_hidden_layers, model.config.layer_types = 2, model.config.layer_types[4:6]
    return model


def model_of(kind: str, **changes: Any) -> Any:
    """The model, under PEFT unless `kind` is NOTHING: then every weight is trained."""
    return small() if kind == NOTHING else peft_adapters.theirs(small(), kind, **changes)


def batch(length: int = 60) -> dict[str, Tensor]:
    """Two rows, the second one padded on the left; about half of the labels count."""
    ids = torch.stack([oracle.ids(length, 1), oracle.ids(length, 2)])
    mask = torch.ones_like(ids)
    mask[1, :13] = 0
    labels = torch.where((torch.arange(length) % 2 == 0) & (mask == 1), ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def passes(model: Any, length: int = 60, **given: Any) -> tuple[Any, dict[str, Tensor]]:
    """What a training pass gives, and the gradients by name."""
    model.zero_grad(set_to_none=True)
    out = model(**batch(length), **given)
    out.loss.backward()
    return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys() and found
    for name, wanted in expected.items():
        assert (found[name] - wanted).norm() <= tolerance * wanted.norm().clamp_min(1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_the_originals(kind: str) -> None:
    model = model_of(kind).train()
    before, wanted = passes(model, num_items_in_batch=41)
    said = list[str]()
    done = hf.attach(model, say=said.append)
    assert len(done.replaced["lora"]) == (0 if kind == NOTHING else 14) and done.left == {}
    assert [len(done.replaced[kind]) for kind in ("norms", "mlps", "attention", "loss")] == [13, 2, 2, 1]
    assert said == [str(done)] and "13 RMSNorms" in said[0]
    after, found = passes(model, num_items_in_batch=41)
    assert after.logits is None and float(after.loss) == pytest.approx(float(before.loss), rel=1e-6)
    same(found, wanted)
    assert hf.detach(model) == 18 + len(done.replaced["lora"])
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    again, found = passes(model, num_items_in_batch=41)
    assert torch.equal(again.logits, before.logits) and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["lora", "both"])
def test_answers_and_switched_adapters(kind: str) -> None:
    """With a cache, without labels, with adapters switched off, merged, and exchanged."""
    model = model_of(kind)
    ids = oracle.ids(40)[None]

    def seen() -> list[Tensor]:
        with torch.no_grad():
            plain = model(input_ids=ids).logits
            with model.disable_adapter():
                off = model(input_ids=ids).logits
            cached = model.generate(input_ids=ids[:, :30], max_new_tokens=6, do_sample=False, output_logits=True,
                                    return_dict_in_generate=True)  # fmt: skip
            model.merge_adapter()
            merged = model(input_ids=ids).logits
            model.unmerge_adapter()
        return [plain, off, torch.stack(cached.logits), merged]

    wanted = seen()
    hf.attach(model, say=None)
    for found, expected in zip(seen(), wanted, strict=True):
        assert oracle.relative(found, expected) < 1e-5
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-3)


def test_one_of_them_is_really_computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the tests above would pass with every forward left to its original."""
    calls = list[int]()
    real = low_rank.low_rank_linears

    def counting(x: Tensor, linears: Any, *rest: Any) -> tuple[Tensor, ...]:
        calls.append(len(linears))
        return real(x, linears, *rest)

    monkeypatch.setattr("dozan.hf.linears.low_rank_linears", counting)
    model = model_of("dora").train()
    hf.attach(model, say=None)
    passes(model)
    assert sorted(calls) == sorted([3, 1, 2, 1] * 2), "q, k, v together, o, gate and up together, down"


def test_dropout_draws_the_same() -> None:
    """LoRA's dropout is computed here, one linear at a time as PEFT draws it; DoRA's is left to PEFT."""
    model = model_of("lora", lora_dropout=0.3).train()
    torch.manual_seed(4)
    before, wanted = passes(model)
    assert hf.attach(model, say=None).left == {}
    torch.manual_seed(4)
    after, found = passes(model)
    assert float(after.loss) == pytest.approx(float(before.loss), rel=1e-6)
    same(found, wanted)
    left = hf.attach(model_of("dora", lora_dropout=0.3).train(), say=None).left
    assert set(left.values()) == {"DoRA with dropout is PEFT's own formula"} and len(left) == 14


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("triton")
    for module in (norm, geglu, low_rank, cross_entropy):
        monkeypatch.setattr(module, "has_triton", lambda device: True)
    yield


def test_in_triton(on_triton: None) -> None:
    """Every kernel in the interpreter: DoRA and rsLoRA, ragged rows."""
    model = model_of("both").train()
    before, wanted = passes(model, 20)
    hf.attach(model, say=None)
    after, found = passes(model, 20)
    assert float(after.loss) == pytest.approx(float(before.loss), rel=1e-6)
    same(found, wanted, 2e-5)


def test_a_vision_models_language_model() -> None:
    model = oracle.theirs("12b", vision=True).train()
    given = {"token_type_ids": torch.zeros(2, 60, dtype=torch.int64)}
    before, wanted = passes(model, **given)
    done = hf.attach(model, say=None)
    assert len(done.replaced["loss"]) == 1 and all("language_model" in name for name in done.replaced["norms"])
    after, found = passes(model, **given)
    assert after.logits is None and float(after.loss) == pytest.approx(float(before.loss), rel=1e-6)
    same(found, wanted)


def test_what_is_refused_and_what_is_left() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1, num_key_value_heads=1))  # fmt: skip
    with pytest.raises(InputError, match="LlamaForCausalLM has no Gemma 3.*Gemma3ForCausalLM"):
        hf.attach(llama)
    model = model_of("lora")
    with pytest.raises(InputError, match="nothing is attached"):
        hf.detach(model)
    vars(model.get_base_model().model.layers[0].mlp)["forward"] = lambda x: x
    done = hf.attach(model, loss=False, say=None)
    assert list(done.left) == ["base_model.model.model.layers.0.mlp"] and done.replaced["loss"] == ()
    assert "accelerate or another" in str(done)
    with pytest.raises(InputError, match="attached already"):
        hf.attach(model)
    signature = inspect.signature(model.get_base_model().model.layers[1].mlp.forward)
    assert list(signature.parameters) == ["x"]


def test_what_others_wrapped_stays_around_the_original() -> None:
    """As accelerate wraps a model's forward for mixed precision."""
    model = model_of(NOTHING)
    hf.attach(model, say=None)
    inner, calls = model.forward.__func__, list[int]()

    def around(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(self, *args, **kwargs)

    model.forward = MethodType(around, model)
    model.train()
    assert passes(model)[0].logits is None
    hf.detach(model)
    assert passes(model)[0].logits is not None and len(calls) == 2 and "forward" in vars(model)


def test_nf4_of_bitsandbytes() -> None:
    """Weights in 4 bits are shared with bitsandbytes, not copied; rsLoRA and DoRA over them."""
    bnb = pytest.importorskip("bitsandbytes")
    base = small()
    for name, linear in [(n, m) for n, m in base.model.named_modules() if isinstance(m, nn.Linear)]:
        if linear.in_features % 64:
            continue
        quantised = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, quant_type="nf4",
                                      compute_dtype=torch.float32)  # fmt: skip
        quantised.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
        parent, _, child = name.rpartition(".")
        setattr(base.model.get_submodule(parent), child, quantised.to("cpu"))
    base.is_loaded_in_4bit = True
    model = peft_adapters.theirs(base, "both").train()
    kinds = {type(m).__name__ for m in model.modules() if "peft" in type(m).__module__}
    assert "Linear4bit" in kinds and "Linear" in kinds
    before, wanted = passes(model)
    done = hf.attach(model, say=None)
    assert len(done.replaced["lora"]) == 14 and done.left == {}
    after, found = passes(model)
    assert float(after.loss) == pytest.approx(float(before.loss), rel=1e-6)
    same(found, wanted, 2e-5)


def test_half_precision_and_autocast() -> None:
    """No further from fp32 than the originals in the same dtype, times 1.5."""
    exact = float(passes(model_of("both").train())[0].loss)
    for cast in (False, True):
        model = model_of("both").train()
        model = model if cast else model.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            before, theirs = passes(model)
            hf.attach(model, say=None)
            after, ours = passes(model)
        assert abs(float(after.loss) - exact) <= max(1.5 * abs(float(before.loss) - exact), 2e-2)
        assert ours.keys() == theirs.keys() and all(g.isfinite().all() for g in ours.values())


def test_five_steps_of_the_trainer(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    rows = [{name: tensor[i] for name, tensor in batch().items()} for i in (0, 1)] * 5

    def losses(attach: bool) -> list[float]:
        model = model_of("lora")
        if attach:
            hf.attach(model, say=None)
        settings = TrainingArguments(
            str(tmp_path / str(attach)), max_steps=5, per_device_train_batch_size=2, logging_steps=1,
            learning_rate=1e-3, save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, seed=0, gradient_checkpointing=attach, max_grad_norm=1.0, eval_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model, settings, train_dataset=rows, eval_dataset=rows[:2])  # type: ignore[arg-type]
        trainer.train()
        found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return [*found, trainer.evaluate()["eval_loss"]]

    before, after = losses(False), losses(True)
    assert len(before) == 6 and after == pytest.approx(before, rel=1e-5)



def test_trls_trainer(tmp_path: Path) -> None:
    """Where TRL is installed: SFTTrainer, which has a loss of its own, gives the same losses."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(160)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0")
    rows = Dataset.from_list([{"input_ids": oracle.ids(40, seed).tolist()} for seed in range(20)])

    def losses(attach: bool) -> list[float]:
        model = model_of("both")
        if attach:
            hf.attach(model, loss=False, say=None)
        settings = trl.SFTConfig(
            str(tmp_path / str(attach)), max_steps=5, per_device_train_batch_size=2, logging_steps=1, max_length=64,
            learning_rate=1e-3, report_to=[], use_cpu=True, seed=0, disable_tqdm=True, save_strategy="no", bf16=False,
        )  # fmt: skip
        trainer = trl.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    before = losses(False)
    assert len(before) == 5 and losses(True) == pytest.approx(before, rel=1e-5)
