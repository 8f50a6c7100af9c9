"""A T4 (capability 7.5) without one: what is asked of it, and the kernels that run there, compiled for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dozan import kernels
from dozan.errors import InputError
from dozan.kernels import precision
from dozan.kernels.precision import T4, capability, emulated, has_triton, has_triton_attention, training_dtype
from dozan.recipe import Recipe, override
from dozan.train import loop, prepare

GPU = torch.device("cuda", 0)
SHARED_BYTES = 64 * 1024

COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dozan.kernels import (
    adamw8_triton, cross_entropy_triton, geglu_triton, low_rank_triton, nf4_triton, norm_triton
)

def compiled(kernel, types, constants, **options):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[i] for i, name in enumerate(names)}
    made = triton.compile(ASTSource(kernel, signature, constexprs=constants), target=GPUTarget("cuda", 75, 32),
                          options=options)
    target = [line for line in made.asm["ptx"].splitlines() if line.startswith(".target")]
    return [made.metadata.shared, target[0], len(made.asm["cubin"])]

h, w, i, f = "*fp16", "*fp32", "i32", "fp32"
found = {}
for size in (640, 5376):
    _, tile = norm_triton._grid(1, size)
    warps = {"num_warps": tile.pop("num_warps")}
    for name, types in (("pre", (w, h, w, h, w, i, i, f)), ("post", (h, h, w, w, w, i, i, f))):
        found[f"{name} {size}"] = compiled(norm_triton._forward, types, {"ADD": name == "post", **tile}, **warps)
    for name, types in (("pre", (h, w, h, w, w, w, i, i)), ("post", (w, h, h, w, h, h, i, i))):
        found[f"{name} {size} back"] = compiled(norm_triton._backward, types, {"ADD": name == "pre", **tile}, **warps)
_, tile = norm_triton._grid(1, 128)
warps = {"num_warps": tile.pop("num_warps")}
found["rotated"] = compiled(norm_triton._rotated_forward, (h, h, h, h, h, w, i, i, i, f), tile, **warps)
found["rotated back"] = compiled(norm_triton._rotated_backward, (h, h, h, h, h, w, h, i, i, i), tile, **warps)
for e, name in ((h, "float16"), (w, "float32")):
    block = {"BLOCK": geglu_triton._BLOCK}
    found[f"geglu {name}"] = compiled(geglu_triton._forward, (e, e, e, i), block)
    found[f"geglu {name} back"] = compiled(geglu_triton._backward, (e,) * 5 + (i,), block)
    found[f"loss {name}"] = compiled(cross_entropy_triton._gradient, (e, "*i64", w, w, i),
                                     {"BLOCK": cross_entropy_triton._BLOCK}, num_warps=8)
block = {"BLOCK": cross_entropy_triton._BLOCK}
found["loss of tiles"] = compiled(cross_entropy_triton._fold, (h, w, w, w, "*i64", i), block, num_warps=8)
found["loss of tiles back"] = compiled(cross_entropy_triton._tile_gradient, (h, w, "*i64", w, i), block, num_warps=8)
constants = {"ROWS": low_rank_triton._ROWS, "COLUMNS": low_rank_triton._COLUMNS}
found["column dots"] = compiled(low_rank_triton._partial, (h, h, w, i, i), constants)
constants = {"ROWS": geglu_triton._ROWS, "COLUMNS": geglu_triton._COLUMNS}
found["geglu dots"] = compiled(geglu_triton._backward_dots, (h,) * 5 + (w, w, i, i), constants)
constants = {"ROWS": 16, "WIDTH": 64}
found["fold"] = compiled(low_rank_triton._fold, (w, w, w, h, w, i, i), constants)
found["factors"] = compiled(low_rank_triton._factors, (w,) * 5 + (i,) * 3, constants)
found["norms"] = compiled(low_rank_triton._norms, (w,) * 5 + (i,) * 3 + (f, f), constants)
constants = {"PLAIN": False, "ROWS": nf4_triton._ROWS, "WIDTH": 64, "HALF": 32, "GROUP": 256}
found["nf4 products"] = compiled(nf4_triton._products, ("*u8", "*u8", w, w, w, w, h, w, i, i, i, i), constants,
                                 num_stages=1)
constants = {"PLAIN": False, "ROWS": True, "BLOCKS": nf4_triton._BLOCKS, "HALF": 32, "GROUP": 256}
found["nf4"] = compiled(nf4_triton._dequantise, ("*u8", "*u8", w, w, w, w, w, h, i, i), constants,
                        enable_fp_fusion=False)
types = (w, w, "*u8", w, "*u8", w, w, w, w, w, w, f, f, f, f, i, i)
found["adamw8"] = compiled(adamw8_triton._update, types, {"BLOCKS": adamw8_triton._BLOCKS})
print(json.dumps(found))
"""


def test_the_elementwise_kernels_compile_for_a_t4(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    settings = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=settings,
                          cwd=Path(__file__).parents[1])  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 26
    assert {target for _, target, _ in found.values()} == {".target sm_75"}
    assert max(shared for shared, _, _ in found.values()) < SHARED_BYTES
    assert min(size for _, _, size in found.values()) > 0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Answers for a GPU that is not there."""
    own = {"capability": (9, 0)}
    monkeypatch.setattr(precision, "_own_capability", lambda device: own["capability"])
    monkeypatch.setattr(precision, "_triton_is_there", lambda: True)
    return own


def answers() -> tuple[object, ...]:
    return training_dtype(GPU), has_triton(GPU), has_triton_attention(GPU), kernels.attends_in_triton(GPU, 256)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ((9, 0), (torch.bfloat16, True, True, True)),
        ((8, 0), (torch.bfloat16, True, True, True)),
        ((7, 5), (torch.float16, True, False, False)),
        ((7, 0), (torch.float16, False, False, False)),
    ],
)
def test_what_runs_where(
    own: tuple[int, int], wanted: tuple[object, ...], card: dict[str, tuple[int, int]]
) -> None:
    card["capability"] = own
    assert answers() == wanted


def test_any_card_is_treated_as_a_t4_while_emulated(card: dict[str, tuple[int, int]]) -> None:
    with emulated(T4):
        assert capability(GPU) == (7, 5) and answers() == (torch.float16, True, False, False)
        with emulated(None):
            assert capability(GPU) == (7, 5)
        card["capability"] = (6, 1)
        assert capability(GPU) == (6, 1), "no card becomes a newer one"
    card["capability"] = (9, 0)
    assert capability(GPU) == (9, 0)


@pytest.mark.parametrize(("size", "there"), [(256, True), (128, True), (16, True), (8, False), (168, False)])
def test_head_sizes_that_triton_takes(size: int, there: bool, card: dict[str, tuple[int, int]]) -> None:
    assert kernels.attends_in_triton(GPU, size) == there


def test_bfloat16_is_refused_where_it_is_emulated(card: dict[str, tuple[int, int]]) -> None:
    wanted = override(Recipe(), ["train.dtype=bfloat16"])
    assert prepare.dtype_of(wanted, GPU) == torch.bfloat16 == prepare.dtype_of(wanted, torch.device("cpu"))
    card["capability"] = (7, 5)
    with pytest.raises(InputError, match="bfloat16: this GPU .* works: float16"):
        prepare.dtype_of(wanted, GPU)
    assert prepare.dtype_of(override(Recipe(), ["train.dtype=float16"]), GPU) == torch.float16


def test_precision_t4_sets_the_dtype_and_the_capability(
    monkeypatch: pytest.MonkeyPatch, card: dict[str, tuple[int, int]]
) -> None:
    seen: list[object] = []

    def stop(data: object, model: object, recipe: object, overrides: list[str], *more: object) -> None:
        seen.extend((overrides, capability(GPU)))
        raise InputError("seen")

    monkeypatch.setattr(loop, "prepare", stop)
    with pytest.raises(InputError, match="seen"):
        loop.train([], overrides=["train.max_steps=1"], precision="t4", on_event=print)
    assert seen == [["train.max_steps=1", "train.dtype=float16"], (7, 5)]
    with pytest.raises(InputError, match="seen"):
        loop.train([], overrides=["train.max_steps=1"], on_event=print)
    assert seen[2:] == [["train.max_steps=1"], (9, 0)]
    with pytest.raises(InputError, match="precision 't5' is not known: 'auto' or 't4'"):
        loop.train([], precision="t5", on_event=print)


def test_the_command_line_takes_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    from dozan.cli import main

    seen: dict[str, object] = {}
    monkeypatch.setattr(loop, "train", lambda *given, **named: seen.update(named))
    for flags, wanted in (([], "auto"), (["--precision", "t4"], "t4")):
        with pytest.raises(SystemExit) as left:
            main(["train", "--data", "rows.jsonl", *flags])
        assert left.value.code == 0 and seen["precision"] == wanted
