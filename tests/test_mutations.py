"""Mutations of the model and the adapters: the comparison with transformers or PEFT must fail for each of them."""

from __future__ import annotations

import pytest
from oracles import gemma3, peft_adapters
from oracles.mutants import mutant

MODEL, ADAPTER = "dozan.model.gemma3", "dozan.model.adapter"
FULL_ROPE = "rope_table(position, config.rope_theta, config.rope_factor,"


@pytest.mark.parametrize(
    ("module", "attention", "old", "new"),
    [
        ("dozan.kernels.reference", "DenseAttention", "< window)", "<= window)"),
        ("dozan.kernels.reference", "DenseAttention", "< window)", "< window - 1)"),
        (
            "dozan.kernels.attention", "TrieAttention",
            "position[queries][:, :, None] - position[keys][:, None] < window",
            "position[queries][:, :, None] - position[keys][:, None] <= window",
        ),
        (
            "dozan.kernels.attention", "TrieAttention",
            "lowest[:, None] - position[None] < window", "lowest[:, None] - position[None] < window - 1",
        ),
    ],
)  # fmt: skip
def test_a_window_off_by_one(
    module: str, attention: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutant(module, old, new, monkeypatch)
    assert gemma3.logits_error("270m", attention=getattr(wrong, attention)) > 1e-3


@pytest.mark.parametrize(
    ("shape", "old", "new"),
    [
        pytest.param("12b", FULL_ROPE, FULL_ROPE.replace("config.rope_factor", "1.0"), id="missing rope factor"),
        pytest.param("270m", FULL_ROPE, FULL_ROPE.replace("rope_theta", "rope_local_theta"), id="local rope"),
        pytest.param("27b", "float(self.query_pre_attn_scalar)", "float(self.head_dim)", id="scale by the head size"),
        pytest.param("270m", "(i + 1) % pattern == 0 else", "i % pattern == 0 else", id="full layers one early"),
    ],
)
def test_a_wrong_model(shape: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutant(MODEL, old, new, monkeypatch)
    assert gemma3.logits_error(shape, wrong) > 1e-4


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        pytest.param("norm", ".mul_(1.0 + weight.float())", ".mul_(weight.float())", id="norm without 1 +"),
        pytest.param("geglu", 'approximate="tanh"', 'approximate="none"', id="exact GELU"),
    ],
)
def test_a_wrong_op(module: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(f"dozan.kernels.{module}", old, new, monkeypatch)
    mutant(ADAPTER, "Low-rank adapters", "Adapters on the wrong op", monkeypatch)
    wrong = mutant(MODEL, "Gemma 3, text only", "Gemma 3 on the wrong op", monkeypatch)
    assert gemma3.logits_error("270m", wrong) > 1e-4


@pytest.mark.parametrize("shape", gemma3.SHAPES)
def test_an_embedding_scale_that_is_not_rounded(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = "torch.tensor(config.hidden_size**0.5, dtype=dtype)"
    wrong = mutant(MODEL, rounded, "config.hidden_size**0.5", monkeypatch)
    assert not gemma3.embedded_equal_in_bfloat16(shape, wrong)


@pytest.mark.parametrize(
    ("kind", "old", "new", "logits_wrong"),
    [
        pytest.param("rslora", "math.sqrt(recipe.rank) if", "recipe.rank if", True, id="lost √r"),
        pytest.param("both", "math.sqrt(recipe.rank) if", "recipe.rank if", True, id="lost √r with DoRA"),
        pytest.param("dora", "    refresh_alone(model)\n\n\ndef shapes_of", "\n\ndef shapes_of", True, id="stale norm"),
    ],
)
def test_a_wrong_adapter(kind: str, old: str, new: str, logits_wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutant(ADAPTER, old, new, monkeypatch)
    logits_error, gradient_error = peft_adapters.errors(kind, wrong)
    assert (logits_error > 1e-4) == logits_wrong
    assert gradient_error > 1e-3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("return _folded(b, factor, dtype), factor", "return b.to(dtype), factor", id="B not scaled"),
        pytest.param("d_b.mul_(factor[:, None])", "d_b", id="gradient of B not scaled"),
        pytest.param(".div_(magnitude)", "", id="gradient of the magnitude not divided"),
        pytest.param("2 * scale * cross + ", "", id="cross term lost"),
        pytest.param(" + scale * scale * own", "", id="square term lost"),
    ],
)
def test_a_wrong_fold(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant("dozan.kernels.low_rank", old, new, monkeypatch)
    wrong = mutant(ADAPTER, "Low-rank adapters", "Wrong adapters", monkeypatch)
    _, gradient_error = peft_adapters.errors("both", wrong)
    assert gradient_error > 1e-3
