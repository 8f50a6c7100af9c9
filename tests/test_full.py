"""Training every weight: exact against transformers and torch's AdamW, resumed bit for bit, loadable everywhere."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models import row, tiny_model
from nf4_models import QUANTISED
from oracles import gemma3 as oracle
from safetensors.torch import load_file
from ship_models import VOCAB, make_folder
from test_train import Events, stop_after
from torch import Tensor

from dozan.chat.encode import Tokens
from dozan.errors import InputError, Interrupted
from dozan.kernels import cross_entropy_tiled, reference, supervised_cross_entropy
from dozan.model.bundle import open_model, open_shell
from dozan.model.gemma3 import Gemma3
from dozan.recipe import Recipe, override
from dozan.ship.manifest import MANIFEST
from dozan.ship.merge import merge
from dozan.train.full import full_notes, require_trainable
from dozan.train.loop import TrainResult, fit
from dozan.train.plan import make_plan
from dozan.train.prepare import Base
from dozan.train.run import fingerprint
from dozan.train.state import Trainee
from dozan.train.step import optimiser_step

SMALL = ["train.weights=full", "train.batch_size=4", "train.learning_rate=1e-3", "train.max_steps=20",
         "train.weight_decay=0.1", "train.clip_norm=0.5"]  # fmt: skip


def recipe(*changes: str) -> Recipe:
    return override(Recipe(), [*SMALL, *changes])


def rows(count: int = 14, words: int = 160, seed: int = 0) -> list[Tokens]:
    """Ragged rows, three of four with a shared beginning longer than the window."""
    draw = random.Random(seed)
    trunk = [2, *(draw.randrange(10, words) for _ in range(17))]
    tails = [[draw.randrange(10, words) for _ in range(draw.randrange(3, 24))] for _ in range(count)]
    return [row(f"row{i}", (trunk if i % 4 else [2]) + tail, draw) for i, tail in enumerate(tails)]


def their_step(model: Any, optimizer: torch.optim.Optimizer, taken: list[Tokens], clip: float) -> float:
    """One step of transformers' model under torch: rows one by one, the loss over the weights of all of them."""
    total = sum(sum(one.weights) for one in taken)
    loss = torch.zeros(())
    for one in taken:
        ids = torch.tensor(one.ids)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        each = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        part = (each * torch.tensor(one.weights[1:])).sum() / total
        part.backward()
        loss += part.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss)


@pytest.mark.parametrize("changes", [("train.max_steps=4",), ("train.pack_tokens=64", "train.recompute=3")],
                         ids=["whole", "cut"])  # fmt: skip
def test_steps_are_transformers_and_adamw(changes: tuple[str, ...]) -> None:
    theirs = oracle.theirs("270m")
    ours = oracle.rebuilt(theirs)
    theirs.train()
    chosen = recipe(*changes)
    plan = make_plan(chosen, rows())
    assert plan.packing == "tries" and plan.sharing() > 1
    trainee = Trainee.of(ours, chosen, "base")
    matrices, vectors = ([p for p in theirs.parameters() if (p.dim() > 1) == kind] for kind in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  betas=chosen.train.betas, eps=chosen.train.epsilon)  # fmt: skip
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    for step in range(plan.steps):
        rate = plan.learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        found, _, finite = optimiser_step(trainee, plan.prepare(step), rate, step).read()
        expected = their_step(theirs, optimizer, list(plan.rows_of(step)), 0.5)
        assert finite and found == pytest.approx(expected, rel=1e-5), step
    weights = dict(theirs.named_parameters())
    moved = dict(ours.named_parameters())
    assert moved.keys() == weights.keys() == before.keys(), "the head is tied: one tensor"
    for name, weight in moved.items():
        apart = float((weight - weights[name]).detach().norm() / weights[name].detach().norm())
        assert apart < 1e-5, (name, apart)
        assert not torch.equal(weight, before[name]), f"{name} was not trained"


def head(dtype: torch.dtype, words: int = 70, positions: int = 9) -> tuple[Tensor, ...]:
    """States, words, targets and weights of odd shapes; one position does not count, and its state is not a number."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(positions, 12, generator=generator).to(dtype)
    embedding = torch.randn(words, 12, generator=generator).to(dtype)
    target = torch.randint(0, words, (positions,), generator=generator)
    return hidden, embedding, target, torch.rand(positions, generator=generator)


@pytest.mark.parametrize("tile", [8, 70, 8192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_head_learns_too(tile: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the reference in fp32; in 16 bits no further off than PyTorch's own ops times 1.5."""
    monkeypatch.setattr(cross_entropy_tiled, "TILE", tile)

    def gradients(op: Any, wide: bool) -> tuple[Tensor, Tensor, Tensor]:
        hidden, embedding, target, weight = head(dtype)
        kept = [x.float() if wide else x for x in (hidden, embedding)]
        hidden, embedding = (x.requires_grad_(True) for x in kept)
        loss = op(hidden, embedding, target, weight)
        (loss * 0.5).backward()
        return loss.detach(), hidden.grad.float(), embedding.grad.float()  # type: ignore[union-attr]

    found, exact = gradients(supervised_cross_entropy, False), gradients(reference.cross_entropy, True)
    plain = gradients(reference.cross_entropy, False)
    for ours, wanted, theirs in zip(found, exact, plain, strict=True):
        allowed = 1.5 * (theirs - wanted).norm() if dtype != torch.float32 else 1e-6 * wanted.norm()
        assert (ours - wanted).norm() <= allowed


def test_sixteen_bit_weights_follow_their_masters() -> None:
    """Updates smaller than a weight's last bit add up in the master, and gradients of packs in fp32."""
    model = tiny_model().bfloat16()
    chosen = recipe("train.learning_rate=1e-6", "train.schedule=constant", "train.warmup_steps=0",
                    "train.weight_decay=0", "train.micro_batch_size=1")  # fmt: skip
    plan, trainee = make_plan(chosen, rows(words=320)), Trainee.of(model, chosen, "base")
    begun = {name: master.detach().clone() for name, master in trainee.parameters}
    for step in range(3):
        assert optimiser_step(trainee, plan.prepare(step), 1e-6, step).read()[2]
    moved = [float((master - begun[name]).detach().abs().max()) for name, master in trainee.parameters]
    assert min(moved) > 1e-6 and max(moved) < 4e-6
    for (name, master), weight in zip(trainee.parameters, model.parameters(), strict=True):
        assert master.dtype == torch.float32 and torch.equal(master.detach().bfloat16(), weight.detach()), name
        assert weight.grad is None and master.grad is not None and not master.grad.any()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


def run(out: Path, base: Path, act: Any = lambda event: None, *changes: str, model: Gemma3 | None = None
        ) -> tuple[TrainResult, Events]:  # fmt: skip
    chosen = recipe("train.max_steps=6", "train.save_steps=2", "train.learning_rate=5e-3", "train.warmup_steps=0",
                    *changes)  # fmt: skip
    events, taken = Events(act), rows(words=VOCAB)
    plan = make_plan(chosen, taken[4:], taken[:4])
    model = open_model(base).model if model is None else model
    return fit(model, plan, out, Base(str(base), "0" * 64, "functiongemma"), events), events


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run(out, base)
    return out


TOKENS = torch.arange(300, 340)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return oracle.our_logits(model, TOKENS)


@pytest.mark.parametrize("changes", [(), ("train.optimizer=adamw_8bit",)], ids=["adamw", "8bit"])
def test_a_stopped_run_goes_on_bit_for_bit(
    changes: tuple[str, ...], base: Path, finished: Path, tmp_path: Path
) -> None:
    whole = finished
    if changes:
        whole = tmp_path / "whole"
        run(whole, base, lambda event: None, *changes)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", base, stop_after(3), *changes)
    assert not (tmp_path / "run" / "model").exists()
    result, events = run(tmp_path / "run", base, lambda event: None, *changes)
    assert result.resumed_from == 3 and "resuming from step 3" in events.notes()
    found, expected = (load_file(out / "model" / "model.safetensors") for out in (tmp_path / "run", whole))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    again, events = run(tmp_path / "run", base, lambda event: None, *changes)
    assert "nothing to do" in events.notes() and again.steps == 6


def test_transformers_loads_what_was_trained(finished: Path) -> None:
    """No key missing, none unexpected, the tied head stored once."""
    transformers = pytest.importorskip("transformers")
    ours = open_model(finished)
    assert ours.base_folder == finished / "model" and ours.adapter_folder is None
    assert oracle.relative(logits(open_model(finished, with_adapter=False).model), logits(ours.model)) > 0.1
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
        finished / "model", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert "lm_head.weight" not in load_file(finished / "model" / "model.safetensors")
    with torch.no_grad():
        expected = theirs.eval()(input_ids=TOKENS[None], use_cache=False).logits[0]
    assert oracle.relative(logits(ours.model), expected) < 1e-5


def test_a_vision_tower_stays_as_it_is(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base", architectures=["Gemma3ForConditionalGeneration"])
    run(tmp_path / "run", base, lambda event: None, "train.max_steps=1", "train.dtype=bfloat16",
        model=open_model(base, "bfloat16").model)  # fmt: skip
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "run" / "model"))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        vision = name.startswith("vision_tower")
        assert torch.equal(tensor, before[name]) if vision else tensor.dtype == torch.bfloat16, name
    assert open_model(tmp_path / "run").config.vision


def test_checkpoints_open_and_half_done_runs_say_so(base: Path, finished: Path, tmp_path: Path) -> None:
    newest = max((finished / "checkpoints").iterdir())
    assert torch.equal(logits(open_model(newest).model), logits(open_model(finished).model))
    with pytest.raises(InputError, match="exported when it has finished"):
        open_shell(newest)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", base, stop_after(2))
    with pytest.raises(InputError, match="has no model/ yet"):
        open_model(tmp_path / "run")
    shutil.copytree(finished, tmp_path / "damaged")
    file = tmp_path / "damaged" / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="damaged"):
        open_model(tmp_path / "damaged")
    _, events = run(tmp_path / "damaged", base)
    assert "written anew from the newest checkpoint" in events.notes()
    assert torch.equal(logits(open_model(tmp_path / "damaged").model), logits(open_model(finished).model))


def test_what_is_not_finite_reaches_no_weight(base: Path, tmp_path: Path) -> None:
    model = open_model(base).model
    norm = model.model.layers[3].input_layernorm.weight
    broken: list[dict[str, Tensor]] = []

    def act(event: Any) -> None:
        if event["event"] == "step" and event["step"] in (2, 3):
            broken.append({name: p.detach().clone() for name, p in model.named_parameters()})
        if event["event"] == "step" and event["step"] == 2:
            handles.append(norm.register_hook(lambda gradient: gradient * float("nan")))
        if event["event"] == "step" and event["step"] == 3:
            handles.pop().remove()

    handles: list[Any] = []
    result, events = run(tmp_path / "run", base, act, model=model)
    assert result.skipped_steps == 1 and result.steps == 6
    assert "step 3: not finite, update skipped" in events.notes()
    assert "the gradient of model.layers.3.input_layernorm.weight" in events.notes()
    assert all(torch.equal(broken[0][name], broken[1][name]) for name in broken[0])
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_merge_is_a_copy_with_a_manifest(base: Path, finished: Path, tmp_path: Path) -> None:
    out = merge(finished, tmp_path / "merged")
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in base.iterdir()} | {MANIFEST}
    assert (out / "model.safetensors").read_bytes() == (finished / "model" / "model.safetensors").read_bytes()
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["weights"] == "full" and manifest["base"] == base.name and manifest["base_sha256"] == "0" * 64
    assert torch.equal(logits(open_model(out).model), logits(open_model(finished).model))
    with pytest.raises(InputError, match="leave --onto out"):
        merge(finished, tmp_path / "again", onto="base")


def test_what_cannot_be_is_refused_with_a_way_out(tmp_path: Path) -> None:
    for setting, remedy in (("model.quantise=nf4", "model.quantise=none"), ("model.embedding=cpu", "=gpu")):
        with pytest.raises(InputError, match=remedy):
            recipe(setting)
    folder = make_folder(tmp_path / "base")
    require_trainable(recipe(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTISED}))
    with pytest.raises(InputError, match="give the 16-bit checkpoint"):
        require_trainable(recipe(), folder)
    require_trainable(override(recipe(), ["train.weights=adapter"]), folder)


def test_an_adapters_rate_is_said_aloud() -> None:
    assert any("5e-05" in note for note in full_notes(recipe()))
    assert len(full_notes(recipe("train.learning_rate=5e-5"))) == 1 and full_notes(Recipe()) == []


def test_runs_of_before_go_on() -> None:
    """Adapters' runs have no `weights` in their fingerprint, as those of versions that knew nothing else."""
    plain, full = fingerprint(Recipe(), (), (), "b"), fingerprint(recipe(), (), (), "b")
    assert "train.weights" not in plain and "adapter.rank" in plain
    assert full["train.weights"] == '"full"' and "adapter.rank" not in full


def test_a_damaged_model_folder_is_refused_wherever_it_lies(finished: Path, tmp_path: Path) -> None:
    away = Path(shutil.copytree(finished / "model", tmp_path / "away"))
    (away / "mine.txt").write_text("x")
    open_model(away)
    weights = away / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="away is damaged: model.safetensors has other bytes"):
        open_model(away)
    (away / "manifest.json").write_text('{"version": 2}')
    open_model(away)  # of another program
    whole = (finished / "model" / "manifest.json").read_bytes()
    (finished / "model" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        open_model(finished / "model")
    (finished / "model" / "manifest.json").write_bytes(whole)
