"""The way from a run to measured files: weights one at a time, the importance matrix, the verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ship_models import make_folder, make_run
from torch import nn

from dozan.cli import main
from dozan.errors import InputError
from dozan.kernels import TrieAttention
from dozan.model.bundle import Bundle, open_model
from dozan.model.gemma3 import Gemma3Config
from dozan.rows.example import Example
from dozan.ship import imatrix, source
from dozan.ship.export import export
from dozan.ship.gguf import gguf_weight, plan_entries, write_gguf
from dozan.ship.parity import reference_logits
from dozan.ship.source import open_source, packs

TURNS = ({"role": "user", "content": "كم الساعة الآن؟"}, {"role": "assistant", "content": "الثالثة"})
ROWS = [Example(id=str(i), tools=(), messages=TURNS) for i in range(3)]
IDS = [[2, *range(300, 340)], [2, 500, 501], [2, *range(700, 760)]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rsLoRA + DoRA over a base with a vision tower."""
    root = tmp_path_factory.mktemp("models")
    base = make_folder(root / "base", architectures=["Gemma3ForConditionalGeneration"])
    return make_run(root / "run", base, rslora=True, dora=True)


def in_nf4(run: Path, out: Path) -> Path:
    """The same run with its base quantised as it was read."""
    out.mkdir()
    (out / "adapter").symlink_to(run / "adapter")
    record = json.loads((run / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "recipe": {"model": {"quantise": "nf4"}}}))
    return out


@pytest.mark.parametrize("nf4", [False, True], ids=["as stored", "nf4"])
def test_weights_one_at_a_time_are_those_of_the_opened_model(
    nf4: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PIECE_ELEMENTS", 64 * 300)
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    whole = make_run(tmp_path / "whole", make_folder(tmp_path / "base", **wide), rslora=True, dora=True)
    chosen = in_nf4(whole, tmp_path / "nf4") if nf4 else run
    opened, read = open_model(chosen, dtype="float32"), open_source(chosen)
    for entry in plan_entries(opened, "f32"):
        pieces = list(read.pieces(entry.module))
        assert torch.equal(torch.cat(pieces), gguf_weight(opened.model.get_submodule(entry.module))), entry.name
        assert len(pieces) == (7 if entry.role == "token_embd" else 1)
    expected = list(reference_logits(opened.model, IDS, 5))
    for one, other in zip(expected, read.logits(IDS, 5), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_the_file_is_the_same_either_way(run: Path, tmp_path: Path) -> None:
    read = open_source(run)
    streamed = write_gguf(read.bundle, tmp_path / "a.gguf", "q4_k_m", pieces=read.pieces)
    assert streamed.read_bytes() == write_gguf(open_model(run), tmp_path / "b.gguf", "q4_k_m").read_bytes()


def test_packs_hold_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PACK_TOKENS", 44)
    assert [[len(row) for row in pack] for pack in packs(IDS)] == [[41, 3], [61]]
    assert list(packs([])) == []


def squares_by_hand(bundle: Bundle, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Mean squared inputs of the linears of the merged model, a row at a time."""
    found: dict[str, list[np.ndarray]] = {}
    config: Gemma3Config = bundle.config
    for name, module in bundle.model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: found.setdefault(name, []).append(inputs[0].detach().numpy()))  # fmt: skip
    for row in rows:
        position = torch.arange(len(row))
        attend = TrieAttention(position, torch.full_like(position, len(row)), config.sliding_window, config.scale)
        with torch.no_grad():
            bundle.model(torch.tensor(row), position, attend)
    return {name: (np.concatenate(parts).astype(np.float64) ** 2).mean(0) for name, parts in found.items()}


def test_importance_is_the_mean_square_of_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PACK_TOKENS", 50)
    base = make_folder(tmp_path / "base")
    found = imatrix.measure(open_source(base), IDS, "rows")
    expected = squares_by_hand(open_model(base), IDS)
    assert found.columns.keys() == expected.keys() and len(expected) == 49
    assert (found.rows, found.tokens, found.source) == (3, 105, "rows")
    for name, values in expected.items():
        assert found.columns[name].dtype == np.float32
        np.testing.assert_allclose(found.columns[name], values, rtol=1e-3)


def test_importance_takes_whole_rows_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imatrix, "TOKENS", 100)
    rows = [[i] * 10 for i in range(40)]
    assert [row[0] for row in imatrix.spread(rows)] == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    assert imatrix.spread([[1] * 500]) == [[1] * 500]
    assert imatrix.spread([]) == []


def test_export_with_importance_and_a_table(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (file,) = export(run, "q4_k_m", tmp_path, ROWS, imatrix=True, token_embd_type="q8_0", say=said.append)
    assert file.certificate.failures == () and file.certificate.rows == 3 + 7
    assert said[0].startswith("importance matrix: 3 rows,")
    assert {(row.role, row.kind) for row in file.types} >= {("token_embd", "q8_0"), ("attn_q", "q5_0")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"imatrix": True}, "no rows to measure an importance matrix on; give --data FILE"),
        ({"token_embd_type": "q3_k"}, "--token-embd-type q3_k: give one of f32, f16"),
        ({"token_embd_type": "q6_k"}, "rows of 64 numbers are no multiple of its block of 256"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    options: dict[str, object], words: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        export(run, "q4_0", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_verb_prints_the_table_and_the_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), rslora=True)
    with pytest.raises(SystemExit) as done:
        main(["export", str(run), "--gguf", "q6_k", "--adapter-gguf", "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert done.value.code in (None, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "certificate.html", "parity.json", "run-adapter.gguf", "run-q6_k.gguf", "run-q6_k.parity.json"]  # fmt: skip
    assert "7 x ffn_down" in shown and "q6_k needs rows of a multiple of 256" in shown
