"""Types and bytes of the quantised files against llama.cpp's own quantiser, on shapes that fall back and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from llama_quantise import COUNT, llama_quantise
from ship_models import make_folder

from dozan.errors import InputError
from dozan.model.bundle import Bundle, open_model
from dozan.ship.gguf import plan_entries, types_of, write_gguf
from dozan.ship.imatrix import Importance
from dozan.ship.quants import EMBEDDING_KINDS, KINDS, Choice, Mix, choose, quantise, row_bytes, table_text

QUANTISED = [kind for kind in KINDS if kind not in ("f32", "f16", "bf16")]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64,
        "query_pre_attn_scalar": 64}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "as 270M: 18 layers, some rows no multiple of 256": {**WIDE, "hidden_size": 96, "num_hidden_layers": 18},
    "rows of 256 and 512, two queries a key": {**WIDE, "num_hidden_layers": 8, "num_key_value_heads": 2},
    "rows of 320 and 96": {"hidden_size": 320},
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A model and its F32 file."""
    folder = tmp_path_factory.mktemp("models")
    bundle = open_model(make_folder(folder / "model", **SHAPES[request.param]))
    return bundle, write_gguf(bundle, folder / "f32.gguf", "f32")


@pytest.fixture(scope="module")
def importance(files: tuple[Bundle, Path]) -> Importance:
    """Weights over four orders of magnitude, some of them 0."""
    draw = np.random.default_rng(3)
    entries = [entry for entry in plan_entries(files[0], "f32") if entry.name.startswith("blk.")]
    columns = {entry.module: np.exp(draw.normal(0, 2, entry.shape[-1])).astype(np.float32)
               for entry in entries if len(entry.shape) == 2}  # fmt: skip
    for weights in columns.values():
        weights[draw.integers(0, len(weights), 3)] = 0
    return Importance(columns, 1, 1, "random")


def assert_same(ours: Path, theirs: Path) -> None:
    expected = {tensor.name: tensor for tensor in GGUFReader(theirs).tensors}
    found = GGUFReader(ours).tensors
    assert {tensor.name for tensor in found} == expected.keys()
    types = {tensor.name: (tensor.tensor_type.name, expected[tensor.name].tensor_type.name) for tensor in found}
    assert {name: pair for name, pair in types.items() if pair[0] != pair[1]} == {}
    assert [tensor.name for tensor in found if not np.array_equal(tensor.data, expected[tensor.name].data)] == []


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("kind", QUANTISED)
def test_bit_identical_to_llama_cpp(
    kind: str, weighted: bool, files: tuple[Bundle, Path], importance: Importance, tmp_path: Path
) -> None:
    bundle, f32 = files
    named = {entry.name: importance.columns[entry.module] for entry in plan_entries(bundle, "f32")
             if entry.module in importance.columns}  # fmt: skip
    theirs = llama_quantise(f32, tmp_path / "theirs.gguf", KINDS[kind][1], named if weighted else None)
    ours = write_gguf(bundle, tmp_path / "ours.gguf", kind, importance if weighted else None)
    assert_same(ours, theirs)
    assert GGUFReader(ours).get_field("general.file_type").contents() == int(KINDS[kind][1])  # type: ignore[union-attr]


def test_importance_changes_the_bytes(files: tuple[Bundle, Path], importance: Importance, tmp_path: Path) -> None:
    plain = GGUFReader(write_gguf(files[0], tmp_path / "a.gguf", "q4_0")).tensors
    weighted = GGUFReader(write_gguf(files[0], tmp_path / "b.gguf", "q4_0", importance))
    both = zip(plain, weighted.tensors, strict=True)
    pairs = [(a, b) for a, b in both if a.tensor_type == Type.Q4_0 == b.tensor_type]
    assert pairs and all(not np.array_equal(a.data, b.data) for a, b in pairs)
    fields = {name: weighted.fields[f"quantize.imatrix.{name}"].contents() for name in ("dataset", "entries_count")}
    assert fields == {"dataset": "random", "entries_count": 7 * files[0].config.num_hidden_layers}


@pytest.mark.parametrize("name", ["q8_0", "f16", "q4_0"])
def test_the_embedding_may_have_a_type_of_its_own(name: str, files: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, f32 = files
    kind = EMBEDDING_KINDS[name]
    theirs = llama_quantise(f32, tmp_path / "theirs.gguf", KINDS["q4_k_m"][1], embedding=int(kind))
    ours = write_gguf(bundle, tmp_path / "ours.gguf", "q4_k_m", embedding=kind)
    assert GGUFReader(ours).tensors[0].tensor_type == kind
    assert_same(ours, theirs)


def test_an_embedding_type_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = open_model(make_folder(tmp_path / "model"))
    with pytest.raises(InputError, match="--token-embd-type q6_k: rows of 64 numbers are no multiple .* give q8_0"):
        write_gguf(bundle, tmp_path / "no.gguf", "q4_0", embedding=Type.Q6_K)
    assert not (tmp_path / "no.gguf").exists()


def test_rows_that_fit_no_type_are_refused(tmp_path: Path) -> None:
    bundle = open_model(make_folder(tmp_path / "model", intermediate_size=100))
    with pytest.raises(InputError, match="a width of 100 is no multiple of q8_0's block of 32"):
        write_gguf(bundle, tmp_path / "no.gguf", "q8_0")
    assert choose(Mix("q4_k_m", 8, 4), "ffn_up", 3, 100) == Choice(Type.F16, Type.Q4_K), "as llama.cpp does"


@pytest.mark.parametrize("kind", [Type[name] for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "IQ4_XS", "Q5_1")])
def test_quantised_rows_are_near_and_do_not_depend_on_threads(kind: Type) -> None:
    values = np.random.default_rng(0).normal(0, 1, (700, 768)).astype(np.float32)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(quantise(values, kind))
    torch.set_num_threads(threads)
    assert results[0].shape == (700, row_bytes(kind, 768)) and np.array_equal(*results)
    back = gguf.quants.dequantize(results[0], kind)
    bits = 8 * row_bytes(kind, 768) / 768
    assert np.abs(back - values).max() < 10 * 2.0**-bits * np.abs(values).max()


def test_a_scale_beyond_the_type_is_refused() -> None:
    values = np.full((2, 256), 1e9, np.float32)
    values[1, 0] = -3e9
    with pytest.raises(InputError, match="beyond q8_0; use bf16"):
        quantise(values, Type.Q8_0)


def test_the_table_says_what_fell_back(tmp_path: Path) -> None:
    bundle = open_model(make_folder(tmp_path / "model"))
    rows = {row.role: row for row in types_of(plan_entries(bundle, "q4_k_m")) if row.wanted != "q6_k"}
    assert (rows["attn_q"].kind, rows["attn_q"].wanted, rows["attn_q"].tensors) == ("q5_0", "q4_k", 7)
    assert rows["attn_q"].bits == 5.5 and rows["attn_q"].weights == 7 * 128 * 64
    (text,) = (line for line in table_text(types_of(plan_entries(bundle, "q4_k_m"))) if "7 x attn_q" in line)
    assert "5.50" in text and "q4_k needs rows of a multiple of 256" in text
    assert sum(row.weights for row in types_of(plan_entries(bundle, "q8_0"))) == 2048 * 64 + 7 * (
        64 * 128 * 2 + 64 * 32 * 2 + 3 * 64 * 96)  # fmt: skip


def test_count_is_the_oracles() -> None:
    cyllama = pytest.importorskip("cyllama.llama.llama_cpp")
    assert cyllama.LlamaModelQuantizeParams().token_embedding_type == COUNT
