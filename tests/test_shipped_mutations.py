"""Each classic export bug, under each kind of adapter, in a 4-bit file: the certificate catches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ship_models import make_folder, make_run
from torch import Tensor, nn

from dozan.model.adapter import AdaptedLinear
from dozan.model.bundle import Bundle, open_model
from dozan.ship import gguf as writer
from dozan.ship.gguf import gguf_weight, write_gguf
from dozan.ship.parity import ExportFailed, certify
from dozan.ship.source import open_source

ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA": {}, "rsLoRA": {"rslora": True}, "DoRA": {"dora": True}, "rsLoRA + DoRA": {"rslora": True, "dora": True},
}  # fmt: skip
KIND = "q4_k_m"
ROPE = {"rope_type": "linear", "factor": 8.0}


@pytest.fixture(scope="module", params=ADAPTERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Over a base whose q and k have one shape, with rope factor 8, two full layers and rows longer than a window."""
    root = tmp_path_factory.mktemp("run")
    base = make_folder(root / "base", num_key_value_heads=4, rope_scaling=ROPE, num_hidden_layers=8, sliding_window=24)
    return make_run(root / "run", base, **ADAPTERS[request.param])


@pytest.fixture(scope="module")
def bundle(run: Path) -> Bundle:
    return open_model(run)


def merged(linear: AdaptedLinear, scale: float, b: Tensor, magnitude: bool = True) -> Tensor:
    assert linear.weight is not None
    weight = linear.weight + scale * (b @ linear.lora_A)
    if linear.magnitude is None or not magnitude:
        return weight
    return weight * (linear.magnitude / weight.norm(dim=1))[:, None]


def without_root(linear: AdaptedLinear) -> Tensor:
    """alpha / rank where it is alpha / √rank, and the other way round."""
    root = linear.lora_A.shape[0] ** 0.5
    return merged(linear, linear.scale / root if linear.scale > 2 else linear.scale * root, linear.lora_B)


def without_magnitude(linear: AdaptedLinear) -> Tensor:
    return merged(linear, linear.scale, linear.lora_B, magnitude=False)


def b_transposed(linear: AdaptedLinear) -> Tensor:
    return merged(linear, linear.scale, linear.lora_B.t().reshape(linear.lora_B.shape))


def fails(bundle: Bundle, path: Path, words: str, source: Path) -> None:
    """Reference and weights are those of an export: base and adapter side by side, merged a tensor at a time."""
    read = open_source(source)
    with pytest.raises(ExportFailed, match=words):
        certify(bundle, path, KIND, logits=read.trained_logits, pieces=read.pieces)
    assert not path.exists() and path.with_name(path.name + ".FAILED").is_file()


@pytest.mark.parametrize("bug", [without_root, without_magnitude, b_transposed])
def test_a_wrong_weight(
    bug: Callable[[AdaptedLinear], Tensor], run: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = bundle.model.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(linear, AdaptedLinear)
    if bug is without_magnitude and linear.magnitude is None:
        return

    def wrong(module: nn.Module) -> Tensor:
        with torch.no_grad():
            return bug(module) if isinstance(module, AdaptedLinear) else gguf_weight(module)

    monkeypatch.setattr(writer, "gguf_weight", wrong)
    fails(bundle, write_gguf(bundle, tmp_path / "m.gguf", KIND), r"differs by .* of its size", run)


def test_q_and_k_swapped(run: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(writer.LAYER, "self_attn.q_proj", "attn_k")
    monkeypatch.setitem(writer.LAYER, "self_attn.k_proj", "attn_q")
    path = write_gguf(bundle, tmp_path / "m.gguf", KIND)
    monkeypatch.undo()
    fails(bundle, path, r"attn_[qk].weight differs by", run)


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Any], None]]:
    def lose(method: str, value: Any) -> None:
        original = getattr(writer.gguf.GGUFWriter, method)

        def instead(self: Any, _: Any) -> None:
            if value is not None:
                original(self, value)

        monkeypatch.setattr(writer.gguf.GGUFWriter, method, instead)

    yield lose


def test_a_stop_id_missing(
    run: Path, bundle: Bundle, tmp_path: Path, losing: Callable[[str, Any], None]
) -> None:
    losing("add_eom_token_id", None)
    fails(bundle, write_gguf(bundle, tmp_path / "m.gguf", KIND), r"does not stop at \[50\]", run)


@pytest.mark.parametrize(
    ("method", "value", "words"),
    [("add_rope_scaling_factor", 1.0, "rope.scaling.factor is 1.0, must be 8.0"),
     ("add_sliding_window", 2000, "sliding_window is 2000, must be 24"),
     ("add_rope_freq_base", 1e4, "rope.freq_base is 10000.0, must be 1000000.0"),
     ("add_layer_norm_rms_eps", 0.3, "layer_norm_rms_epsilon is 0.3")],
)  # fmt: skip
def test_metadata_that_four_bits_would_hide(
    method: str, value: Any, words: str, run: Path, bundle: Bundle, tmp_path: Path, losing: Callable[[str, Any], None]
) -> None:
    """Every weight is right, and the file is as far from the model as 4 bits may be: its keys tell, and, but for the
    theta, llama.cpp against our own forward pass with the file's weights."""
    losing(method, value)
    computed = "" if method == "add_rope_freq_base" else ".*llama.cpp on the file's weights: "
    fails(bundle, write_gguf(bundle, tmp_path / "m.gguf", KIND), words + computed, run)
