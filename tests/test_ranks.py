"""Several ranks train what one would: the same losses, resumed on any number of them; and none fails alone."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from models import row, tiny_model
from ranks import on_ranks, results

from dozan.chat.encode import Tokens
from dozan.model.adapter import attach
from dozan.pack import pack_rows
from dozan.recipe import Recipe, override
from dozan.train.deal import head_cost, parts
from dozan.train.live import Event
from dozan.train.loop import fit
from dozan.train.plan import make_plan
from dozan.train.prepare import Base
from dozan.world import ALONE, World

pytestmark = pytest.mark.skipif(torch.get_num_threads() > 1 and os.environ.get("OMP_NUM_THREADS") != "1",
                                reason="processes are forked: OMP_NUM_THREADS=1")  # fmt: skip

BASE = Base("dozan:embedded", "0" * 64, "functiongemma")
STEPS = 50
SETTINGS = ["adapter.rank=4", "adapter.alpha=8", "train.batch_size=7", "train.learning_rate=0.01",
            "train.warmup_steps=3", f"train.max_steps={STEPS}", "train.save_steps=20", "train.eval_steps=10",
            "train.pack_tokens=48", "train.stall_minutes=0", "train.clip_norm=0.5"]  # fmt: skip


def ragged(count: int = 31, seed: int = 0) -> list[Tokens]:
    """Rows of 3 to 60 tokens, three of four with a shared beginning."""
    draw = random.Random(seed)
    trunk = [2, *(draw.randrange(10, 320) for _ in range(9))]
    tails = [[draw.randrange(10, 320) for _ in range(draw.choice((2, 5, 9, 50)))] for _ in range(count)]
    return [row(f"row{i}", (trunk if i % 4 else [2]) + tail, draw) for i, tail in enumerate(tails)]


def train(out: Path, *changes: str, act: Any = lambda event: None) -> list[Event]:
    """The lines of metrics that the run in `out` leaves, begun or gone on with; on whatever ranks there are."""
    chosen, rows = override(Recipe(), [*SETTINGS, *changes]), ragged()
    model = tiny_model(num_hidden_layers=2)
    attach(model, chosen.adapter, chosen.train.seed)
    fit(model, make_plan(chosen, rows[6:], rows[:6]), out, BASE, act)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(lines: list[Event], kind: str = "train/loss") -> list[float]:
    return [line[kind] for line in lines if kind in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return train(tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_what_one_trains(ranks: int, alone: list[Event], tmp_path: Path) -> None:
    given = results(ranks, lambda world: train(tmp_path / "run"))
    assert all(lines == given[0] for lines in given)
    assert losses(given[0]) == pytest.approx(losses(alone), rel=1e-6) and len(losses(alone)) == STEPS
    assert losses(given[0], "eval/loss") == pytest.approx(losses(alone, "eval/loss"), rel=1e-6)
    assert losses(given[0], "train/grad_norm") == pytest.approx(losses(alone, "train/grad_norm"), rel=1e-4)
    assert [line["train/tokens"] for line in given[0] if "train/tokens" in line] == [
        line["train/tokens"] for line in alone if "train/tokens" in line]  # fmt: skip


@pytest.mark.parametrize("changes", [
    ("adapter.dora=true", "adapter.rslora=true", "train.recompute=2"), ("adapter.dropout=0.2", "pack=paths"),
    ("train.micro_batch_size=2", "train.lookahead=3"), ("pack=none", "train.optimizer=adamw_8bit"),
], ids=["dora", "dropout", "micro batches", "8 bits"])  # fmt: skip
def test_so_they_do_with_other_settings(changes: tuple[str, ...], tmp_path: Path) -> None:
    some = ("train.max_steps=6", "train.eval_steps=3", *changes)
    expected = train(tmp_path / "alone", *some)
    (found, _, _) = results(3, lambda world: train(tmp_path / "run", *some))
    for kind in ("train/loss", "eval/loss"):
        assert losses(found, kind) == pytest.approx(losses(expected, kind), rel=2e-6)


class Stop:
    """Asks for a stop on one rank when its run comes to a step."""

    def __init__(self, world: World, rank: int, step: int) -> None:
        self.acts, self.step = world.rank == rank, step

    def __call__(self, event: Event) -> None:
        if self.acts and event.get("step") == self.step and event["event"] == "step":
            os.kill(os.getpid(), 15)


def test_a_run_goes_on_at_any_number_of_ranks(alone: list[Event], tmp_path: Path) -> None:
    """4 ranks, stopped on the first; 1, stopped; then 2 to the end: the losses of the run that nothing disturbed."""
    def until(step: int) -> Any:
        return lambda world: train(tmp_path / "run", act=Stop(world, 0, step))

    ended = on_ranks(4, until(17))
    assert [each.status for each in ended] == [75] * 4 and "SIGTERM: stopped after step 17" in ended[0].result
    assert "SIGTERM: stopped after step 31" in on_ranks(1, until(31))[0].result
    found = results(2, lambda world: train(tmp_path / "run"))[0]
    assert [line["step"] for line in found if "train/loss" in line] == list(range(1, STEPS + 1))
    assert losses(found) == pytest.approx(losses(alone), rel=1e-6)
    assert losses(found, "eval/loss") == pytest.approx(losses(alone, "eval/loss"), rel=1e-6)


def test_a_stop_on_any_rank_stops_all_of_them(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        from dozan.train import step

        real, calls = step.gradients, []

        def gradients(*args: Any) -> Any:
            calls.append(1)
            if world.rank == 1 and len(calls) == 9:
                os.kill(os.getpid(), 15)
            return real(*args)

        step.gradients = gradients  # type: ignore[assignment]
        return train(tmp_path / "run")

    ended = on_ranks(3, work)
    assert [each.status for each in ended] == [75] * 3
    assert all(each.result.startswith("SIGTERM: stopped after step ") for each in ended)
    assert len({each.result for each in ended}) == 1


def test_memory_that_does_not_do_on_one_rank(tmp_path: Path) -> None:
    """All of them take smaller packs, and lose nothing."""
    some = ("train.max_steps=6", "train.pack_tokens=90")
    expected = train(tmp_path / "alone", *some)

    def work(world: World) -> Any:
        from dozan.train import passes

        real = passes.EagerPasses.__call__

        def call(self: Any, batch: Any, total: float, step: int) -> Any:
            if world.rank == 1 and step == 2 and len(batch.rows) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(self, batch, total, step)

        passes.EagerPasses.__call__ = call  # type: ignore[method-assign]
        return train(tmp_path / "run", *some), json.loads((tmp_path / "run" / "run.json").read_text())["oom_retries"]

    (found, retries), _ = results(2, work)
    assert retries and retries[0]["step"] == 3
    assert losses(found) == pytest.approx(losses(expected), rel=1e-6)


def test_what_is_not_finite_on_one_rank_updates_none(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        from dozan.train import step

        real, notes = step.gradients, list[str]()

        def gradients(trainee: Any, batch: Any, total: float, at: int) -> Any:
            return real(trainee, batch, total, at) * (float("nan") if world.rank == 1 and at == 2 else 1.0)

        step.gradients = gradients  # type: ignore[assignment]
        lines = train(tmp_path / "run", "train.max_steps=5", act=lambda event: notes.append(str(event.get("text"))))
        return lines, notes

    (lines, notes), _ = results(2, work)
    assert [line["step"] for line in lines if line.get("train/skipped")] == [3]
    assert any("step 3: not finite, update skipped" in note for note in notes)


def test_every_weight_on_ranks(tmp_path: Path) -> None:
    """Replicated masters: gradients summed, as those of adapters are."""
    some = ("train.weights=full", "train.max_steps=5", "train.learning_rate=1e-3")

    def full(out: Path) -> list[Event]:
        chosen, rows = override(Recipe(), [*SETTINGS, *some]), ragged()
        from dozan.train import loop

        loop.save_final = lambda trainee, out: None  # type: ignore[assignment]  # a tiny model has no folder
        fit(tiny_model(num_hidden_layers=2), make_plan(chosen, rows[6:], rows[:6]), out, BASE, lambda event: None)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    (expected,) = results(1, lambda world: full(tmp_path / "alone"))
    (found, _) = results(2, lambda world: full(tmp_path / "run"))
    assert losses(found) == pytest.approx(losses(expected), rel=2e-6)


def test_a_failing_rank_ends_all_with_what_it_says(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        from dozan.errors import InputError
        from dozan.train import step

        def gradients(*args: Any) -> Any:
            raise InputError("row 7: this rank cannot")

        if world.rank == 1:
            step.gradients = gradients  # type: ignore[assignment]
        return train(tmp_path / "run")

    ended = on_ranks(3, work)
    assert [each.status for each in ended] == [2] * 3 and max(each.seconds for each in ended) < 10
    assert ended[0].said == "dozan: rank 1: row 7: this rank cannot\n" and not ended[2].said


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_is_named_within_ten_seconds(killed: int, tmp_path: Path) -> None:
    at = list[float]()

    def during(children: list[int]) -> None:
        while not (tmp_path / "run" / "metrics.jsonl").is_file():
            time.sleep(0.01)
        os.kill(children[killed], 9)
        at.append(time.monotonic())

    ended = on_ranks(2, lambda world: train(tmp_path / "run", "train.max_steps=100000"), during=during)
    other = ended[1 - killed]
    assert ended[killed].status == -9 and other.status == 1
    assert f"dozan: rank {killed}: gone without a word" in other.said
    assert time.monotonic() - at[0] < 10


def test_bad_launches_are_named(tmp_path: Path) -> None:
    import socket

    ended = on_ranks(3, lambda world: None, start=(0, 2), DOZAN_WAIT_SECONDS="1")
    assert [each.status for each in ended] == [2, 2]
    assert all("rank 1 of 3 did not come within 1 s" in each.result for each in ended)
    for address in ("127.0.0.1", "no.such.host.invalid"):
        ended = on_ranks(2, lambda world: None, start=(1,), DOZAN_WAIT_SECONDS="1", MASTER_ADDR=address)
        assert ended[0].status == 2 and f"rank 1 of 2: nobody answers at {address}:" in ended[0].result
        assert ended[0].seconds < 10
    assert "at most 86400" in on_ranks(2, lambda world: None, start=(1,), DOZAN_WAIT_SECONDS="inf")[0].result
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        (ended) = on_ranks(2, lambda world: None, port=held.getsockname()[1], start=(0,), DOZAN_WAIT_SECONDS="1")
    assert ended[0].status == 2 and "(MASTER_PORT) is in use by another process" in ended[0].result


def test_ranks_that_differ_are_named(tmp_path: Path) -> None:
    def versions(world: World) -> None: ...

    def rows(world: World) -> Any:
        return train(tmp_path / "run", f"train.learning_rate=0.0{1 + world.rank // 2}")

    ended = on_ranks(3, rows)
    assert [each.status for each in ended] == [2] * 3
    assert "train.learning_rate: ranks 0, 1 have 0.01, rank 2 has 0.02" in ended[0].result
    from dozan.world import meeting

    real = meeting._code
    meeting._code = lambda: real()[:8] + str(os.environ["RANK"])  # type: ignore[assignment]
    try:
        ended = on_ranks(2, versions)
    finally:
        meeting._code = real
    assert [each.status for each in ended] == [2] * 2
    assert all("the ranks run different code:\n  dozan's code: rank 0 has" in each.result for each in ended)


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    """A second rank's folder stays empty."""
    def work(world: World) -> list[str]:
        out = tmp_path / f"run-{world.rank}"
        chosen, rows = override(Recipe(), [*SETTINGS, "train.max_steps=4", "train.save_steps=2"]), ragged()
        model = tiny_model(num_hidden_layers=2)
        attach(model, chosen.adapter, chosen.train.seed)
        fit(model, make_plan(chosen, rows), out, BASE, lambda event: None)
        return sorted(path.name for path in out.rglob("*")) if out.exists() else []

    first, second = results(2, work)
    assert "adapter_model.safetensors" in first and "metrics.jsonl" in first and not second


def test_parts_cost_alike_and_lose_no_row() -> None:
    rows = sorted(ragged(200), key=lambda each: each.key)
    for ranks in (1, 2, 3, 8, 64, 300):
        dealt = parts(rows, ranks, 1.7)
        assert len(dealt) == ranks and [each for part in dealt for each in part] == rows

    def cost(part: list[Tokens]) -> float:
        packs = pack_rows(part, "tries", 10**6) if part else []
        return sum(len(pack) + 1.7 * len(pack.at) for pack in packs)

    costs = [cost(part) for part in parts(rows, 8, 1.7)]
    longest = max(len(each.ids) + 1.7 * len(each.supervised[0]) for each in rows)
    assert max(costs) - min(costs[:-1]) <= longest + 10 and max(costs) <= 1.05 * sum(costs) / 8 + longest


def test_the_head_costs_what_its_weights_say() -> None:
    config = tiny_model().config
    linears = sum(p.numel() for name, p in tiny_model().named_parameters() if name.endswith("proj.weight"))
    assert head_cost(config) == pytest.approx(config.vocab_size * config.hidden_size / linears)


def test_alone_nothing_is_asked_of_anybody() -> None:
    assert ALONE.agree([3, 1]) == [3, 1] and ALONE.gathered("x") == ["x"] and ALONE.from_first(lambda: 5) == 5
    ALONE.require_same({"rows": "a"})
    tensor = torch.ones(2)
    ALONE.sum_([tensor])
    ALONE.broadcast_([tensor])
    assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize("slow", ["writes", "closes"])
def test_a_stop_waits_for_what_the_first_rank_does(slow: str, tmp_path: Path) -> None:
    """Its checkpoint, and what it must close then: the others have nothing to do, and do not end it by leaving."""
    def work(world: World) -> Any:
        from dozan.train import keeper
        from dozan.world import watch

        real = keeper.write_snapshot
        if slow == "writes":
            watch._ORDERLY_SECONDS = 0.5

        def write(*args: Any) -> Path:
            time.sleep(1.5 * (slow == "writes"))
            return real(*args)

        def close(self: Any, *error: Any) -> None:
            time.sleep(1.5 * (slow == "closes"))
            (tmp_path / "closed").touch()

        keeper.write_snapshot = write  # type: ignore[assignment]
        if world.first:
            keeper.Keeper.__exit__ = close  # type: ignore[method-assign]
        return train(tmp_path / "run", act=Stop(world, 0, 7))

    ended = on_ranks(2, work)
    assert [each.status for each in ended] == [75, 75] and (tmp_path / "closed").exists()
    assert "stopped after step 7, saved" in ended[0].result and not ended[1].said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000007"]


def test_a_stop_is_heard_between_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dozan
    from dozan.demo import TEST
    from dozan.rows.readers import read_rows
    from dozan.train import scoring

    monkeypatch.setattr(scoring, "_PAUSED_EVERY", 1)
    rows = read_rows(TEST)[:12]
    given = ["train.batch_size=4", "train.max_steps=2", "score.rows=6", "score.steps=1", "score.max_new_tokens=4",
             "adapter.rank=4", "train.dtype=float32"]  # fmt: skip

    def work(world: World) -> Any:
        real = scoring.generate

        def generate(*args: Any) -> Any:
            if world.rank == 1:
                os.kill(os.getpid(), 15)
            return real(*args)

        scoring.generate = generate  # type: ignore[assignment]
        result = dozan.train(rows[:6], None, tmp_path / "run", overrides=given, eval_data=rows[6:],
                             on_event=lambda event: None)  # fmt: skip
        return result.steps

    ended = on_ranks(2, work)
    assert [each.status for each in ended] == [75, 75], ended
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-000001" / "state.json").read_text())
    assert state["owed"] is True


def test_masters_are_summed_after_the_pass() -> None:
    """No hook of theirs sees what is added to them by hand, so no event would be recorded."""
    from dozan.train import state

    asked: list[bool] = []

    def reducer(parameters: Any, overlaps: bool) -> None:
        asked.append(overlaps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "Reducer", reducer)
        patch.setattr(state, "current", lambda: World(0, 2))
        state.Trainee.of(tiny_model(), override(Recipe(), ["train.weights=full"]), "base")
        adapted = tiny_model()
        attach(adapted, Recipe().adapter, 0)
        state.Trainee.of(adapted, Recipe(), "base")
    assert asked == [False, True]
