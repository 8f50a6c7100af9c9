"""Looking ahead: every row once, equal rows for a step whoever asks, equal gradients, more shared, still mixed."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import torch
from models import row
from test_train import BASE, adapted_model, assert_close, gradients, metrics, newest, recipe, run, some_rows, stop_after

from dozan.chat.encode import Tokens
from dozan.errors import InputError, Interrupted
from dozan.model.adapter import adapter_parameters
from dozan.pack import pack_rows
from dozan.recipe import override
from dozan.train import plan as planning
from dozan.train import schedule
from dozan.train.loop import accumulate
from dozan.train.plan import Plan, Prepared, make_plan, total_weight
from dozan.train.state import Trainee


def tool_rows(count: int, prefixes: int, length: int = 120, own: int = 12, seed: int = 0) -> list[Tokens]:
    """Rows that begin with one of so many tool lists of `length` tokens, after two tokens that all share."""
    draw = random.Random(seed)
    lists = [[2, 3, *(draw.randrange(10, 320) for _ in range(length))] for _ in range(prefixes)]
    tails = [[draw.randrange(10, 320) for _ in range(own)] for _ in range(count)]
    return [row(f"row{i}", lists[draw.randrange(prefixes)] + tail, draw) for i, tail in enumerate(tails)]


def plan_of(rows: list[Tokens], *changes: str) -> Plan:
    return make_plan(override(recipe(), ["train.batch_size=16", *changes]), rows)


def names(plan: Plan, step: int) -> list[str]:
    return [each.row for each in plan.rows_of(step)]


@pytest.mark.parametrize("lookahead", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("count", [201, 16, 5])
def test_every_row_is_used_once_an_epoch_and_steps_keep_their_size(lookahead: int, count: int) -> None:
    rows = tool_rows(count, 5)
    plain, ahead = plan_of(rows), plan_of(rows, f"train.lookahead={lookahead}")
    assert ahead.steps == plain.steps
    epochs = [range(at, at + plain.steps_per_epoch) for at in range(0, plain.steps, plain.steps_per_epoch)]
    for epoch in epochs:
        assert [len(ahead.rows_of(step)) for step in epoch] == [len(plain.rows_of(step)) for step in epoch]
        assert sorted(name for step in epoch for name in names(ahead, step)) == sorted(each.row for each in rows)
        for start in range(epoch.start, epoch.stop, lookahead):
            window = range(start, min(start + lookahead, epoch.stop))
            assert {n for s in window for n in names(ahead, s)} == {n for s in window for n in names(plain, s)}
    if lookahead == 1 or plain.steps_per_epoch == 1:
        assert [names(ahead, step) for step in range(plain.steps)] == [names(plain, s) for s in range(plain.steps)]


def test_a_step_s_rows_depend_on_the_seed_and_the_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, changes = tool_rows(200, 5), ["train.lookahead=4"]
    inorder = plan_of(rows, *changes)
    expected = [names(inorder, step) for step in range(inorder.steps)]
    backwards = plan_of(rows, *changes)
    assert [names(backwards, step) for step in reversed(range(inorder.steps))] == expected[::-1]
    assert names(plan_of(rows, *changes, "train.seed=1"), 0) != expected[0]
    assert expected[: inorder.steps_per_epoch] != expected[inorder.steps_per_epoch : 2 * inorder.steps_per_epoch]
    asked = []
    monkeypatch.setattr(planning, "deal", lambda *given: asked.append(given[2]) or schedule.deal(*given))
    resumed = plan_of(rows, *changes)
    asked.clear()
    assert [names(resumed, step) for step in (30, 31, 29, 31)] == [expected[step] for step in (30, 31, 29, 31)]
    assert asked == ["0:2:1", "0:2:0"], "only the windows of the steps asked for are dealt, each once"


@pytest.mark.parametrize("extra", [(), ("train.micro_batch_size=5",), ("train.pack_tokens=300",)])
def test_a_window_has_the_gradients_of_its_rows_packed_plainly(extra: tuple[str, ...]) -> None:
    plan = plan_of(tool_rows(60, 4, length=30), "train.lookahead=3", *extra)
    model = adapted_model(plan.recipe, moved=True)
    sums: dict[str, torch.Tensor] = {}
    total = 0.0
    for step in range(3):
        prepared = plan.prepare(step)
        assert prepared.weight == total_weight(prepared.rows)
        assert sum(float(batch.weight.sum()) for batch in prepared.batches) == pytest.approx(prepared.weight, rel=1e-6)
        assert sorted(name for batch in prepared.batches for name in batch.rows) == sorted(names(plan, step))
        loss, found = gradients(plan, model, step)
        total += loss * prepared.weight
        sums = {name: sums.get(name, 0) + gradient * prepared.weight for name, gradient in found.items()}
    rows = [each for step in range(3) for each in plan_of(list(plan.rows)).rows_of(step)]
    model.zero_grad(set_to_none=True)
    alone = Prepared(rows, pack_rows(rows, "none", 10_000), 1.0)
    loss = float(accumulate(Trainee.of(model, plan.recipe, BASE.name), alone, 0))
    assert total == pytest.approx(loss, rel=1e-6)
    assert_close(sums, {name: p.grad for name, p in adapter_parameters(model) if p.grad is not None}, 2e-6)
    if extra == ("train.micro_batch_size=5",):
        assert [len(batch.rows) for batch in plan.prepare(0).batches] == [5, 5, 5, 1]


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_twelve_tool_lists_share_twice_as_much(seed: int) -> None:
    rows = tool_rows(1000, 12, length=400, own=40, seed=seed)
    plain = plan_of(rows, f"train.seed={seed}").measure()
    found = {n: plan_of(rows, f"train.lookahead={n}", f"train.seed={seed}").measure() for n in (1, 2, 8)}
    assert found[1] == plain and plain.kinds == plain.kinds_at_random > 8
    assert plain.sharing < found[2].sharing < found[8].sharing
    assert found[8].sharing > 2 * plain.sharing
    assert 2 <= found[8].kinds < 4 and found[8].kinds_at_random == pytest.approx(plain.kinds, abs=0.5)
    assert found[8].fill == pytest.approx(16 * 442 / found[8].sharing / 8192, rel=0.1)


def test_rows_that_share_a_word_more_stay_at_random() -> None:
    """All share their tools; grouping them by the first words of a request would save little and cost the mixture."""
    draw = random.Random(0)
    tools = [2, *(draw.randrange(10, 320) for _ in range(200))]
    tails = [[10 + i % 4, 20 + i % 4, *(draw.randrange(30, 320) for _ in range(30))] for i in range(256)]
    plan = plan_of([row(f"row{i}", tools + tail, draw) for i, tail in enumerate(tails)], "train.lookahead=8")
    equal = [a % 4 == b % 4 for step in range(16) for a, b in combinations([int(n[3:]) for n in names(plan, step)], 2)]
    assert 0.2 < sum(equal) / len(equal) < 0.3
    assert plan.measure().kinds == plan.measure().kinds_at_random == 16


def test_a_step_mixes_blocks_of_rows_that_lay_apart() -> None:
    plan = plan_of(tool_rows(1024, 2, length=200), "train.lookahead=16")
    lists = [Counter(each.ids[2] for each in plan.rows_of(step)) for step in range(32)]
    assert all(max(count.values()) <= 16 for count in lists) and sum(len(count) == 2 for count in lists) > 16


def test_cuts_cost_the_least() -> None:
    draw = random.Random(0)

    def cheapest(costs: list[int], most: int) -> int:
        least = [0]
        for stop in range(1, len(costs) + 1):
            least.append(min(least[start] + costs[start] for start in range(max(0, stop - most), stop)))
        return least[-1]

    for _ in range(200):
        costs = [0, *(draw.choice((0, 1, 5, 9)) for _ in range(draw.randrange(30)))]
        most = draw.randrange(1, 8)
        starts, stop, total = schedule._starts(costs, most), len(costs), 0
        while stop:
            start = starts[stop - 1]
            assert 0 < stop - start <= most
            total, stop = total + costs[start], start
        assert total == cheapest(costs, most)


@pytest.mark.parametrize("step", [1, 5])
def test_resumed_equals_uninterrupted(step: int, tmp_path: Path) -> None:
    chosen = recipe("train.lookahead=2", "train.micro_batch_size=3")
    whole, _ = run(tmp_path / "whole", chosen)
    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        run(tmp_path / "parts", chosen, stop_after(step))
    with pytest.raises(InputError, match="train.lookahead: the run has 2, now 3"):
        run(tmp_path / "parts", recipe("train.lookahead=3", "train.micro_batch_size=3"))
    parts, _ = run(tmp_path / "parts", chosen)
    assert parts.resumed_from == step and metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    expected, found = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    plain, _ = run(tmp_path / "plain", recipe("train.micro_batch_size=3"))
    assert plain.final_loss != whole.final_loss and plain.tokens == whole.tokens


def test_the_plan_says_what_looking_ahead_comes_to() -> None:
    rows = tool_rows(200, 6, length=200)
    (note,) = plan_of(rows, "train.lookahead=4", "train.warmup_steps=0").notes
    assert note.startswith("rows of 4 steps are looked at together: ") and "kinds of beginnings" in note
    assert plan_of(rows, "train.warmup_steps=0").notes == ()
    for changes in (["pack=paths"], ["adapter.dropout=0.1"]):
        notes = plan_of(rows, "train.lookahead=4", *changes).notes
        assert "packed as paths they share nothing" in notes[-1]
    assert names(plan_of(rows, "train.lookahead=4", "pack=none"), 3) == names(plan_of(rows, "train.lookahead=4"), 3)
    with pytest.raises(InputError, match=r"train.lookahead = 0: .*a value that works: 1"):
        plan_of(some_rows(), "train.lookahead=0")
