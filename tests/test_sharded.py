"""Every weight trained over several ranks, none of which holds them all: what one rank would train, and so resumed."""

from __future__ import annotations

import gc
import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # FSDP2 imports it: once here, and not in each of the processes that are forked
from models import row, tiny_model
from ranks import on_ranks, results
from safetensors.torch import load_file
from ship_models import VOCAB, make_folder
from torch import Tensor

from dozan.chat.encode import Tokens
from dozan.demo import TEST
from dozan.errors import InputError
from dozan.model.bundle import open_model
from dozan.model.full_format import KIND, load_weights
from dozan.model.recompute import Recompute
from dozan.model.sealed import verify
from dozan.model.shards import whole
from dozan.pack import pack_rows
from dozan.recipe import Recipe, ScoreRecipe, override
from dozan.rows.readers import read_rows
from dozan.train import scoring
from dozan.train.full import Masters
from dozan.train.keeper import Keeper
from dozan.train.live import Event
from dozan.train.loop import fit
from dozan.train.optim import MOMENTS, AdamW
from dozan.train.passes import EagerPasses, batch_loss
from dozan.train.plan import make_plan
from dozan.train.prepare import Base
from dozan.train.ranks import dealt_plan
from dozan.train.scoring import Scorer
from dozan.train.sharded import ShardedMasters, idle, require_blocks
from dozan.train.update import make_update
from dozan.world import ALONE, World

pytestmark = pytest.mark.skipif(torch.get_num_threads() > 1 and os.environ.get("OMP_NUM_THREADS") != "1",
                                reason="processes are forked: OMP_NUM_THREADS=1")  # fmt: skip

STEPS = 20
SETTINGS = ["train.weights=full", "train.fsdp=true", "train.batch_size=5", "train.learning_rate=3e-3",
            "train.warmup_steps=2", f"train.max_steps={STEPS}", "train.pack_tokens=48", "train.weight_decay=0.1",
            "train.clip_norm=0.5", "train.save_steps=8", "train.eval_steps=10", "train.stall_minutes=0"]  # fmt: skip
SHAPE = {"head_dim": 4, "query_pre_attn_scalar": 4, "num_hidden_layers": 3, "sliding_window": 8}
"""A key's four rows leave nothing to the last of three ranks."""


def ragged(words: int, count: int = 17, seed: int = 0) -> list[Tokens]:
    """Rows of 3 to 60 tokens, three of four with a shared beginning."""
    draw = random.Random(seed)
    trunk = [2, *(draw.randrange(10, words) for _ in range(9))]
    tails = [[draw.randrange(10, words) for _ in range(draw.choice((2, 5, 9, 50)))] for _ in range(count)]
    return [row(f"row{i}", (trunk if i % 4 else [2]) + tail, draw) for i, tail in enumerate(tails)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny", **SHAPE)


def train(
    base: Path, out: Path, *changes: str, act: Any = lambda event: None, scorer: Scorer | None = None
) -> list[Event]:
    """The lines of metrics that the run in `out` leaves, begun or gone on with; on whatever ranks there are."""
    chosen, rows = override(Recipe(), [*SETTINGS, *changes]), ragged(VOCAB)
    plan, named = make_plan(chosen, rows[4:], rows[:4]), Base(str(base), "0" * 64, "functiongemma")
    fit(open_model(base).model, plan, out, named, act, scorer=scorer)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def figures(lines: Sequence[Event], kind: str = "train/loss") -> list[float]:
    return [line[kind] for line in lines if kind in line]


def assert_same_run(found: Sequence[Event], expected: Sequence[Event]) -> None:
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert figures(found) == pytest.approx(figures(expected), rel=1e-6)
    assert figures(found, "eval/loss") == pytest.approx(figures(expected, "eval/loss"), rel=1e-6)
    assert figures(found, "train/grad_norm") == pytest.approx(figures(expected, "train/grad_norm"), rel=1e-4)


def assert_same_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    apart = {name: float((found[name] - expected[name]).norm() / expected[name].norm()) for name in found}
    assert max(apart.values()) < 1e-5, apart


class Alone:
    def __init__(self, base: Path, out: Path) -> None:
        self.out, self.lines = out, train(base, out)
        self.model = load_file(out / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return Alone(base, tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize(("ranks", "changes"), [(2, ("train.recompute=2", "train.offload=true")), (3, ())])
def test_ranks_train_what_one_trains(
    ranks: int, changes: tuple[str, ...], base: Path, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    if ranks == 3:  # as on a GPU
        monkeypatch.setattr("dozan.train.loop.Keeper", partial(Keeper, background=True))
    given = results(ranks, lambda world: train(base, out, *changes))
    assert all(lines == given[0] for lines in given) and len(figures(given[0])) == STEPS
    assert_same_run(given[0], alone.lines)
    assert_same_weights(load_file(out / "model" / "model.safetensors"), alone.model)
    newest = out / "checkpoints" / f"step-{STEPS:06d}"
    assert len(list(newest.glob("weights-*"))) == len(list(newest.glob("optimizer-*"))) == ranks
    of_checkpoint = dict(open_model(newest).model.named_parameters())
    assert all(torch.equal(of_checkpoint[name], tensor) for name, tensor in open_model(out).model.named_parameters())


def stop_at(step: int) -> Any:
    """Asks the first rank, which alone is told of steps, for a stop after one."""
    def act(event: Event) -> None:
        if event["event"] == "step" and event["step"] == step:
            os.kill(os.getpid(), 15)

    return act


def test_a_run_goes_on_at_any_number_of_ranks(base: Path, alone: Alone, tmp_path: Path) -> None:
    """3 ranks, stopped; 1, stopped; then 2 to the end: the losses of the run that nothing disturbed."""
    out = tmp_path / "run"
    ended = on_ranks(3, lambda world: train(base, out, act=stop_at(5)))
    assert [each.status for each in ended] == [75] * 3 and "stopped after step 5" in ended[0].result, ended[0]
    assert (out / "checkpoints" / "step-000005" / "weights-00003-of-00003.safetensors").is_file()
    (one,) = on_ranks(1, lambda world: train(base, out, act=stop_at(13)))
    assert "stopped after step 13" in one.result, one
    assert (out / "checkpoints" / "step-000013" / "weights.safetensors").is_file()
    lines = results(2, lambda world: train(base, out))[0]
    assert_same_run(lines, alone.lines)
    assert_same_weights(load_file(out / "model" / "model.safetensors"), alone.model)


class Part:
    """Training without a run folder, on whatever ranks there are."""

    def __init__(self, world: World, *changes: str, dtype: torch.dtype = torch.float32) -> None:
        self.world, self.recipe = world, override(Recipe(), [*SETTINGS, *changes])
        self.model = tiny_model(num_hidden_layers=2).to(dtype)
        self.plan = dealt_plan(make_plan(self.recipe, ragged(320)), world, self.model.config)
        self.masters = Masters(self.model) if world.size == 1 else ShardedMasters(self.model, world)
        self.optimizer = AdamW(self.masters.parameters, self.recipe.train)
        self.passes = EagerPasses(self.model, Recompute(0))
        self.update = make_update(self.model, self.masters.parameters, self.optimizer, self.recipe.train.clip_norm,
                                  masters=self.masters)  # fmt: skip

    def steps(self, first: int, last: int) -> list[float]:
        """The losses of some steps."""
        found = []
        for step in range(first, last):
            self.model.train()
            prepared, loss = self.plan.prepare(step), torch.zeros(())
            (count,) = self.world.agree([len(prepared.batches)])
            for batch in prepared.batches + [idle()] * (count - len(prepared.batches)):
                loss += self.passes(batch, prepared.weight, step)
            self.world.sum_([loss])
            self.update(loss, self.plan.learning_rate(step))
            found.append(float(loss))
        return found

    def held(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.masters.parameters}


EIGHT = ("train.optimizer=adamw_8bit",)


def test_moments_of_eight_bits_are_cut_between_their_blocks(tmp_path: Path) -> None:
    """2 ranks, then 1 from what they wrote: the losses of one; 3 ranks would cut a block."""
    expected = Part(ALONE, *EIGHT).steps(0, 8)

    def work(world: World) -> Any:
        part = Part(world, *EIGHT)
        losses = part.steps(0, 5)
        part.masters.save(tmp_path)  # type: ignore[union-attr]
        part.masters.save_moments(tmp_path, part.optimizer, part.optimizer.tensors())  # type: ignore[union-attr]
        again = Part(world, *EIGHT)
        with torch.no_grad():  # leaves the embedding gathered, as it was then
            batch_loss(again.model, idle())
        again.masters.load(tmp_path)  # type: ignore[union-attr]
        again.masters.load_moments(tmp_path, again.optimizer)  # type: ignore[union-attr]
        return losses, again.steps(5, 8)

    (first, last), _ = results(2, work)
    assert first == pytest.approx(expected[:5], rel=1e-6) and last == pytest.approx(expected[5:], rel=1e-6)
    one = Part(ALONE, *EIGHT)
    load_weights(tmp_path, one.held())
    one.optimizer.load(whole(tmp_path, MOMENTS))
    assert one.steps(5, 8) == pytest.approx(expected[5:], rel=1e-6)
    require_blocks(tiny_model(), World(0, 2))
    with pytest.raises(InputError, match="over 3 ranks model.embed_tokens.weight and .* train.optimizer=adamw"):
        require_blocks(tiny_model(), World(0, 3))


def test_sixteen_bits_are_gathered_and_fp32_is_added_up() -> None:
    """The losses of one rank to the accuracy of its 16 bits; gradients that no 16 bits hold are there in fp32."""
    expected = Part(ALONE, dtype=torch.bfloat16).steps(0, 6)

    def work(world: World) -> Any:
        part = Part(world, dtype=torch.bfloat16)
        kinds: set[str] = set()

        def note(module: Any, args: Any, out: Any) -> None:
            kinds.add(f"{module.up_proj.weight.dtype} {type(module.up_proj.weight).__name__}")

        part.model.model.layers[0].mlp.register_forward_hook(note)
        assert part.model.dtype == torch.bfloat16 and part.model.device.type == "cpu"
        assert all(p.dtype == p.grad.dtype == torch.float32 for _, p in part.masters.parameters)  # type: ignore[union-attr]
        batch = part.plan.prepare(0).batches[0]
        part.passes(batch, 1000.0, 0)
        part.passes(batch, 1e6, 0)
        sums = [p.grad.clone() for _, p in part.masters.parameters if p.numel()]  # type: ignore[union-attr]
        part.optimizer.zero_grad()
        return part.steps(0, 6), sorted(kinds), all(torch.equal(s, s.bfloat16().float()) for s in sums)

    (found, kinds, narrow), _ = results(2, work)
    assert kinds == ["torch.bfloat16 Parameter"] and not narrow
    assert found == pytest.approx(expected, rel=2e-3) and found[-1] < found[0]


def living() -> int:
    """Bytes of all tensors that were made since `gc.freeze`."""
    gc.collect()
    found = [held for held in gc.get_objects() if issubclass(type(held), Tensor)]
    plain = [held.to_local() if hasattr(held, "to_local") else held for held in found]
    return sum({s.data_ptr(): s.size() for s in (held.untyped_storage() for held in plain)}.values())


def test_a_rank_holds_its_part_alone() -> None:
    """Between steps; within `whole` it has everything, and needs no other rank; then its part again."""
    rows = ragged(320)

    def work(world: World) -> Any:
        gc.freeze()
        part = Part(world)
        part.steps(0, 2)
        held = [living()]
        with part.masters.whole():  # type: ignore[union-attr]
            held.append(living())
            with torch.no_grad():
                own = rows[: 3 + world.rank]  # as many passes as it likes
                losses = [float(batch_loss(part.model, pack_rows([each], "tries", 512)[0])) for each in own]
        held.append(living())
        with part.masters.gathered() as weights:  # type: ignore[union-attr]
            kept = {name: weights[name].tolist() for name in reversed(list(weights))}
        return held, losses, part.steps(2, 4), kept

    given = results(3, work)
    one = Part(ALONE)
    one.steps(0, 2)
    total = sum(4 * p.numel() for p in one.model.parameters())
    with torch.no_grad():
        expected = [float(batch_loss(one.model, pack_rows([each], "tries", 512)[0])) for each in rows[:5]]
    for (between, within, after), losses, _, _ in given:
        # Weights, gradients and two moments in thirds; within, the weights as well.
        assert 0.9 * 4 * total / 3 < between < 1.05 * 4 * total / 3 and abs(after - between) < 100
        assert total <= within - between < 1.5 * total  # what was gathered last lies there twice
        assert losses == pytest.approx(expected[: len(losses)], rel=1e-5)
    assert_same_weights({name: torch.tensor(value) for name, value in given[0][3].items()}, one.held())
    assert not given[1][3] and given[0][2] == pytest.approx(one.steps(2, 4), rel=1e-6)


def test_what_is_not_finite_is_looked_for_together(base: Path, tmp_path: Path) -> None:
    """Rows that one rank has: it updates no rank, and all of them say the same."""
    def work(world: World) -> Any:
        real, notes = EagerPasses.__call__, list[str]()

        def call(self: Any, batch: Any, total: float, step: int) -> Any:
            guilty = step == 2 and "row9" in batch.rows
            return real(self, replace(batch, weight=batch.weight * float("nan")) if guilty else batch, total, step)

        EagerPasses.__call__ = call  # type: ignore[method-assign]
        act = lambda event: notes.append(str(event.get("text")))  # noqa: E731
        lines = train(base, tmp_path / "run", "train.max_steps=4", "train.batch_size=13", act=act)
        return [line["step"] for line in lines if line.get("train/skipped")], figures(lines), notes

    (steps, found, notes), (others, seen, _) = results(2, work)
    assert steps == others == [3] and found == seen and len(found) == 4
    assert any("step 3: not finite, update skipped" in note and "the logits" in note for note in notes), notes


def test_memory_that_does_not_do_ends_all_ranks(base: Path, tmp_path: Path) -> None:
    """The others wait amid the pass, so none can try again."""
    def work(world: World) -> Any:
        real = EagerPasses.__call__

        def call(self: Any, batch: Any, total: float, step: int) -> Any:
            if world.rank == 1 and step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(self, batch, total, step)

        EagerPasses.__call__ = call  # type: ignore[method-assign]
        return train(base, tmp_path / "run")

    ended = on_ranks(2, work)
    assert [each.status for each in ended] == [2, 2] and max(each.seconds for each in ended) < 20
    assert "step 3: out of memory in a pack of" in ended[1].result and "train.recompute=layers" in ended[1].result
    assert "rank 1: step 3: out of memory" in ended[0].said


def test_the_best_is_kept_by_all_ranks(base: Path, tmp_path: Path) -> None:
    """Answers are shared out, the best is written in shards, and the run's model is made of it."""
    opened = open_model(base)
    asked = [replace(example, tools=example.tools[:1]) for example in read_rows(TEST)[:3]]
    scorer = Scorer(tuple(asked), opened.tokenizer, opened.chat, base, ScoreRecipe(max_new_tokens=4, steps=1))
    some = ("train.max_steps=3",)
    expected = train(base, tmp_path / "alone", *some, scorer=scorer)

    def work(world: World) -> Any:
        real, prompts = scoring.generate, list[int]()
        scoring.generate = lambda bundle, given, *more: (prompts.append(len(given)), real(bundle, given, *more))[1]
        return train(base, tmp_path / "run", *some, scorer=scorer), prompts

    (found, prompts), (others, fewer) = results(2, work)
    assert found == others and len(figures(found, "score/strict")) == 3
    assert prompts == [2] * 3 and fewer == [1] * 3, "a rank answers what is its own"
    assert figures(found, "score/strict") == figures(expected, "score/strict")
    assert figures(found) == pytest.approx(figures(expected), rel=1e-6)
    (kept,) = (tmp_path / "run" / "best").iterdir()
    assert (kept / "weights-00002-of-00002.safetensors").is_file() and not list(kept.glob("optimizer*"))
    best = whole(kept, KIND)
    assert kept.name == "step-000001" and not verify(kept), "the first of equals"
    model = dict(open_model(tmp_path / "run").model.named_parameters())
    assert all(torch.equal(best[name], tensor) for name, tensor in model.items()), "the model is not the best"
