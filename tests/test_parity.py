"""Certificates: what they say of a right file, and that each classic export bug is caught."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ship_models import make_folder, make_run
from torch import Tensor, nn

from dozan import EMBEDDED_BASE
from dozan.chat.encode import encode_rows
from dozan.errors import InputError
from dozan.model.adapter import AdaptedLinear, merged_weight
from dozan.model.bundle import Bundle, open_model
from dozan.model.gemma3 import RMSNorm
from dozan.rows.readers import read_rows
from dozan.ship import gguf as writer
from dozan.ship import parity
from dozan.ship.gguf import gguf_weight, tensor_names, write_gguf
from dozan.ship.gguf_read import open_gguf
from dozan.ship.parity import ExportFailed, certify, compare
from dozan.ship.quants import KINDS
from dozan.ship.source import open_source
from dozan.ship.weight_check import check_weights

ROWS = Path(EMBEDDED_BASE).parent / "mobile_actions_ar" / "test.jsonl"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A base with rope factor 8 and two full layers under an rsLoRA + DoRA adapter."""
    root = tmp_path_factory.mktemp("models")
    rope = {"rope_type": "linear", "factor": 8.0}
    base = make_folder(root / "base", rope_scaling=rope, num_hidden_layers=7, sliding_window=24)
    return open_model(make_run(root / "run", base, rslora=True, dora=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_file_passes_and_says_so(tuned: Bundle, kind: str, tmp_path: Path) -> None:
    certificate = certify(tuned, write_gguf(tuned, tmp_path / "m.gguf", kind), kind, rows=[[2, 300, 301]], lines=["قل"])
    written = json.loads((tmp_path / "m.parity.json").read_text())
    assert written["kind"] == kind and written["failures"] == []
    assert written["sha256"] == certificate.sha256 and len(certificate.sha256) == 64
    assert written["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert certificate.rows == 1 + len(parity.PROBE_LINES) + 1
    assert certificate.lines == certificate.lines_equal == 1 + len(parity.PROBE_LINES)
    assert certificate.difference.max_abs > 0


def root_rank_lost(module: nn.Module) -> Tensor:
    if not isinstance(module, AdaptedLinear):
        return gguf_weight(module)
    scale = module.scale
    module.scale = scale / module.lora_A.shape[0] ** 0.5
    try:
        return merged_weight(module)
    finally:
        module.scale = scale


def magnitude_dropped(module: nn.Module) -> Tensor:
    if not isinstance(module, AdaptedLinear):
        return gguf_weight(module)
    return module.weight + module.scale * (module.lora_B @ module.lora_A)


def adapter_lost(module: nn.Module) -> Tensor:
    return module.weight if isinstance(module, AdaptedLinear) else gguf_weight(module)


def norm_without_one(module: nn.Module) -> Tensor:
    return module.weight if isinstance(module, RMSNorm) else gguf_weight(module)


WEIGHT_BUGS = [root_rank_lost, magnitude_dropped, adapter_lost, norm_without_one]


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q6_k", "q4_k_m", "iq4_xs"])
@pytest.mark.parametrize("bug", WEIGHT_BUGS)
def test_a_wrong_weight_fails(
    bug: Callable[[nn.Module], Tensor], kind: str, tuned: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        monkeypatch.setattr(writer, "gguf_weight", lambda module: bug(module).detach())
        path = write_gguf(tuned, tmp_path / "m.gguf", kind)
    fails(tuned, path, kind, "logits|KL")


def fails(bundle: Bundle, path: Path, kind: str, words: str) -> None:
    with pytest.raises(ExportFailed, match=words):
        certify(bundle, path, kind)
    assert not path.exists()
    assert path.with_name(path.name + ".FAILED").is_file()


@contextmanager
def names(**changes: str) -> Iterator[None]:
    before = dict(writer.LAYER)
    writer.LAYER.update({key.replace("__", "."): value for key, value in changes.items()})
    try:
        yield
    finally:
        writer.LAYER.clear()
        writer.LAYER.update(before)


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q6_k", "q4_k_m", "iq4_xs"])
@pytest.mark.parametrize(
    "swap",
    [
        {"self_attn__k_proj": "attn_v", "self_attn__v_proj": "attn_k"},
        {"self_attn__q_norm": "attn_k_norm", "self_attn__k_norm": "attn_q_norm"},
        {"mlp__gate_proj": "ffn_up", "mlp__up_proj": "ffn_gate"},
    ],
    ids=["k and v", "q norm and k norm", "gate and up"],
)
def test_swapped_tensors_fail(swap: dict[str, str], kind: str, tuned: Bundle, tmp_path: Path) -> None:
    if "self_attn__q_norm" in swap:
        layer = tuned.model.get_submodule("model.layers.0.self_attn")
        assert not torch.equal(layer.q_norm.weight, layer.k_norm.weight)
    with names(**swap):
        path = write_gguf(tuned, tmp_path / "m.gguf", kind)
    fails(tuned, path, kind, "logits|KL|attn_q_norm.weight differs")


def test_q_and_k_swapped_fails(tmp_path: Path) -> None:
    bundle = open_model(make_folder(tmp_path / "m", num_key_value_heads=4))
    with names(self_attn__q_proj="attn_k", self_attn__k_proj="attn_q"):
        path = write_gguf(bundle, tmp_path / "m.gguf", "f32")
    fails(bundle, path, "f32", "logits")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("add_rope_scaling_factor", "logits"),
        ("add_sliding_window", "logits|cannot run"),
        ("add_rope_freq_base", "logits"),
        ("add_eom_token_id", r"does not stop at \[50\]"),
        ("add_token_scores", "other token ids|cannot run"),
    ],
)
def test_lost_metadata_fails(
    method: str, words: str, tuned: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: object, value: Any) -> None:
        if method == "add_rope_freq_base":
            original(_, 1e4)
        if method == "add_token_scores":
            original(_, [0.0] * len(value))

    original = getattr(writer.gguf.GGUFWriter, method)
    monkeypatch.setattr(writer.gguf.GGUFWriter, method, lose)
    fails(tuned, write_gguf(tuned, tmp_path / "m.gguf", "f32"), "f32", words)


def test_a_file_llama_cpp_cannot_read_fails(tuned: Bundle, tmp_path: Path) -> None:
    path = write_gguf(tuned, tmp_path / "m.gguf", "f32")
    path.write_bytes(path.read_bytes()[:100_000])
    fails(tuned, path, "f32", "cannot run the file")


def test_the_reference_must_be_fp32(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    bundle = open_model(folder, dtype="bfloat16")
    path = write_gguf(bundle, tmp_path / "m.gguf", "bf16")
    with pytest.raises(InputError, match="dtype='float32'"):
        certify(bundle, path, "bf16")
    assert path.exists()


def test_compare_counts_what_it_says() -> None:
    ours = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    theirs = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    difference = compare([ours], [theirs])
    assert difference.positions == 2 and difference.top1 == 0.5
    assert difference.max_abs == pytest.approx(np.log(2))
    assert difference.max_kl == pytest.approx(0.25 * np.log(2)) == 2 * difference.mean_kl
    broken = compare([ours], [np.full_like(ours, np.nan)])
    assert broken.max_abs == float("inf") and broken.failures(parity.GATES["q8_0"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "f32"])
def test_the_weights_of_a_file_are_compared_one_by_one(kind: str, tuned: Bundle, tmp_path: Path) -> None:
    path = write_gguf(tuned, tmp_path / "m.gguf", kind)
    names = tensor_names(tuned.config)

    def pieces(module: str, halves: bool = True, factor: float = 1.0) -> Iterator[Tensor]:
        weight = gguf_weight(tuned.model.get_submodule(module))
        yield from (weight * (factor if module == "model.layers.2.mlp.up_proj" else 1.0)).split(100 if halves else 9999)

    errors, wrong = check_weights(open_gguf(path), names, pieces)
    assert wrong == [] and errors.tensors == len(names) and 0 < errors.error <= errors.bound
    whole, wrong = check_weights(open_gguf(path), names, lambda module: pieces(module, halves=False))
    assert wrong == [] and (whole.worst, whole.error) == (errors.worst, pytest.approx(errors.error))
    _, wrong = check_weights(open_gguf(path), names, lambda module: pieces(module, factor=1.4))
    assert len(wrong) == 1 and wrong[0].startswith("blk.2.ffn_up.weight differs by 0.2")
    _, wrong = check_weights(open_gguf(path), names[1:], pieces)
    assert wrong == ["token_embd.weight is not the model's"]
    _, wrong = check_weights(open_gguf(path), [*names, ("blk.9.ffn_up.weight", "")], pieces)
    assert wrong == ["blk.9.ffn_up.weight is missing"]


def test_gates_are_tighter_where_the_model_knows_its_rows() -> None:
    assert all(tight.kl < parity.GATES[kind].kl for kind, tight in parity.TRAINED_GATES.items())


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_k_m", "iq4_xs"])
def test_a_model_that_knows_its_rows_is_held_to_tighter_gates(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(EMBEDDED_BASE)
    chat, tokenizer = source.bundle.chat, source.bundle.tokenizer
    rows = [list(row.ids) for row in encode_rows(read_rows(ROWS)[:2], chat, tokenizer, 4096)]
    reference: list[np.ndarray] = []

    def logits(asked: Sequence[Sequence[int]], tail: int) -> list[np.ndarray]:
        """The model's own, computed once."""
        if not reference:
            reference.extend(source.trained_logits(asked, tail))
        return reference

    path = write_gguf(source.bundle, tmp_path / "m.gguf", kind, pieces=source.pieces)
    found = certify(source.bundle, path, kind, rows, logits=logits, pieces=source.pieces)
    tight, loose = parity.TRAINED_GATES[kind], parity.GATES[kind]
    assert found.surprise is not None and found.surprise < 0.1 and found.known is not None
    assert found.known.positions == 2 * parity.TAIL and found.known.mean_kl < tight.kl < loose.kl
    monkeypatch.setitem(parity.TRAINED_GATES, kind, parity.Gate(10.0, found.known.mean_kl / 2, 0.5, grows=False))
    with pytest.raises(ExportFailed, match="on rows that the model knows: mean KL is"):
        certify(source.bundle, path, kind, rows, logits=logits, pieces=source.pieces)


def test_a_model_that_knows_nothing_is_not(tuned: Bundle, tmp_path: Path) -> None:
    path = write_gguf(tuned, tmp_path / "r.gguf", "q4_k_m")
    random = certify(tuned, path, "q4_k_m", [[2, *range(300, 330)]])
    assert random.surprise is not None and random.surprise > 3 and random.known is None
    assert certify(tuned, path, "q4_k_m").surprise is None


def test_a_large_model_goes_through_its_own_weights_on_less(
    tuned: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tuned, tmp_path / "m.gguf", "q8_0")
    whole = certify(tuned, path, "q8_0")
    monkeypatch.setattr(parity, "FORWARD_OPERATIONS", 1.0)
    few = certify(tuned, path, "q8_0")
    longest = min(parity.TAIL, 24 + parity.TAIL)
    assert whole.difference == few.difference
    assert whole.forward.positions - few.forward.positions == longest
