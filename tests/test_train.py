"""Training: one loss however a step is cut, resume bit for bit, nothing that is not finite in the weights."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import move_adapter, row, tiny_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from dozan.chat.encode import Tokens
from dozan.errors import InputError, Interrupted
from dozan.kernels import reference
from dozan.model.adapter import adapter_parameters, attach
from dozan.model.gemma3 import Gemma3
from dozan.pack import Batch
from dozan.recipe import Recipe, override
from dozan.train import live, loop, passes, state
from dozan.train.live import Event, PlainLines, sparkline
from dozan.train.loop import TrainResult, accumulate, evaluation_loss, fit
from dozan.train.plan import Plan, make_plan, total_weight
from dozan.train.prepare import Base
from dozan.train.state import Trainee

BASE = Base("dozan:embedded", "0" * 64, "functiongemma")
SMALL = ["adapter.rank=4", "adapter.alpha=8", "train.batch_size=4", "train.learning_rate=0.01", "train.epochs=3"]
TIMED = ("train/seconds", "train/tokens_per_second", "train/memory_bytes", "eval/seconds")


def some_rows(count: int = 14, seed: int = 0) -> list[Tokens]:
    """Ragged rows, three of four with a shared beginning longer than the window."""
    draw = random.Random(seed)
    trunk = [2, *(draw.randrange(10, 320) for _ in range(17))]
    rows = []
    for i in range(count):
        tail = [draw.randrange(10, 320) for _ in range(draw.randrange(3, 24))]
        rows.append(row(f"row{i}", (trunk if i % 4 else [2]) + tail, draw))
    return rows


def recipe(*changes: str) -> Recipe:
    return override(Recipe(), [*SMALL, *changes])


def adapted_model(chosen: Recipe, moved: bool = False) -> Gemma3:
    model = tiny_model()
    attach(model, chosen.adapter, chosen.train.seed)
    return move_adapter(model) if moved else model


def gradients(plan: Plan, model: Gemma3, step: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = accumulate(Trainee.of(model, plan.recipe, BASE.name), plan.prepare(step), step)
    return float(loss), {name: p.grad.clone() for name, p in adapter_parameters(model) if p.grad is not None}


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    """Relative difference of all tensors as one vector below `tolerance`, of each alone below ten times that."""
    assert a.keys() == b.keys() and a
    pairs = [((a[name] - b[name]).double().norm(), b[name].double().norm()) for name in a]
    apart, size = (float(torch.stack(norms).norm()) for norms in zip(*pairs, strict=True))
    assert apart < tolerance * size, apart / size
    assert all(difference <= 10 * tolerance * norm.clamp_min(1e-12) for difference, norm in pairs)


class Events(list[Event]):
    """Keeps every event, and may act on one."""

    def __init__(self, act: Callable[[Event], None] = lambda event: None) -> None:
        super().__init__()
        self.act = act

    def __call__(self, event: Event) -> None:
        self.append(event)
        self.act(event)

    def notes(self) -> str:
        return "\n".join(event["text"] for event in self if event["event"] == "note")


def run(
    out: Path, chosen: Recipe, act: Callable[[Event], None] = lambda event: None, rows: list[Tokens] | None = None,
    base: Base = BASE, heldout: int = 4,
) -> tuple[TrainResult, Events]:  # fmt: skip
    events, rows = Events(act), some_rows() if rows is None else rows
    plan = make_plan(chosen, rows[heldout:], rows[:heldout])
    return fit(adapted_model(chosen), plan, out, base, events), events


def stop_after(step: int, number: int = signal.SIGTERM) -> Callable[[Event], None]:
    def act(event: Event) -> None:
        if event["event"] == "step" and event["step"] == step:
            os.kill(os.getpid(), number)

    return act


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]


def newest(out: Path) -> dict[str, torch.Tensor]:
    folder = max((out / "checkpoints").iterdir())
    return {**load_file(folder / "adapter_model.safetensors"), **load_file(folder / "optimizer.safetensors")}


ACCUMULATED = ["train.micro_batch_size=1", "train.pack_tokens=45"]


@pytest.mark.parametrize("change", ACCUMULATED)
@pytest.mark.parametrize("extra", [(), ("adapter.dora=true",), ("adapter.dropout=0.3",)])
def test_accumulated_equals_at_once(change: str, extra: tuple[str, ...]) -> None:
    whole = make_plan(recipe("train.batch_size=8", *extra), some_rows())
    parts = make_plan(recipe("train.batch_size=8", change, *extra), some_rows())
    model = adapted_model(whole.recipe, moved=True)
    assert len(whole.pack(whole.rows_of(0))) == 1 < len(parts.pack(parts.rows_of(0)))
    (loss, expected), (other, found) = gradients(whole, model), gradients(parts, model)
    assert other == pytest.approx(loss, rel=1e-6)
    assert_close(found, expected, 1e-6)


def test_loss_is_by_tokens_of_the_whole_step() -> None:
    plan = make_plan(recipe("train.batch_size=8", "train.micro_batch_size=1", "pack=none"), some_rows())
    model, rows = adapted_model(plan.recipe, moved=True), plan.rows_of(0)
    sums = [dense_loss(model, batch) for batch in plan.pack(rows)]
    weights = [float(batch.weight.sum()) for batch in plan.pack(rows)]
    loss, _ = gradients(plan, model)
    mean_of_means = sum(a / b for a, b in zip(sums, weights, strict=True)) / len(rows)
    assert loss == pytest.approx(sum(sums) / sum(weights), rel=1e-6)
    assert abs(loss - mean_of_means) > 1e-3 * loss
    assert evaluation_loss(model, plan.pack(rows)) == pytest.approx(loss, rel=1e-6)


@torch.no_grad()
def dense_loss(model: Gemma3, batch: Batch) -> float:
    config = model.config
    attend = reference.DenseAttention(batch.position, batch.end, config.sliding_window, config.scale)
    hidden = model(batch.ids, batch.position, attend)
    return float(reference.cross_entropy(hidden[batch.at], model.embedding, batch.target, batch.weight))


@pytest.mark.parametrize("extra", [(), ("adapter.dropout=0.3",), ("adapter.dropout=0.3", "adapter.dora=true")])
def test_recomputation_changes_nothing(extra: tuple[str, ...]) -> None:
    kept = make_plan(recipe(*extra), some_rows())
    again = make_plan(recipe("train.recompute=layers", *extra), some_rows())
    model = adapted_model(kept.recipe, moved=True)
    (loss, expected), (other, found) = gradients(kept, model, 1), gradients(again, model, 1)
    assert other == loss
    assert_close(found, expected, 1e-7)


def test_dropout_draws_anew_each_step_and_not_in_evaluation() -> None:
    plan = make_plan(recipe("adapter.dropout=0.3", "train.batch_size=14", "train.seed=1"), some_rows())
    model = adapted_model(plan.recipe, moved=True)
    batches = plan.pack(plan.rows)
    model.train()
    with torch.no_grad():
        first, again, second = (float(passes.batch_loss(model, batches[0], step)) for step in (0, 0, 1))
    assert first == again != second
    undropped = sum(dense_loss(model.eval(), batch) for batch in batches)
    model.train()
    assert evaluation_loss(model, batches) * total_weight(plan.rows) == pytest.approx(undropped, rel=1e-6)


@pytest.mark.parametrize("extra", [(), ("adapter.dora=true", "adapter.rslora=true")])
def test_tries_paths_and_none_train_alike(extra: tuple[str, ...], tmp_path: Path) -> None:
    losses, weights = {}, {}
    for how in ("tries", "paths", "none"):
        run(tmp_path / how, recipe(f"pack={how}", "train.epsilon=1e-4", *extra))
        losses[how] = [line["train/loss"] for line in metrics(tmp_path / how) if "train/loss" in line]
        weights[how] = load_file(tmp_path / how / "adapter" / "adapter_model.safetensors")
    assert len(losses["tries"]) == 9 and losses["tries"][-1] < losses["tries"][0]
    for how in ("paths", "none"):
        assert losses[how] == pytest.approx(losses["tries"], rel=2e-6)
        assert_close(weights[how], weights["tries"], 1e-5)


@pytest.mark.parametrize(
    "extra", [(), ("adapter.dropout=0.3",), ("adapter.dora=true", "adapter.rslora=true", "adapter.dropout=0.1")]
)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_resumed_equals_uninterrupted(extra: tuple[str, ...], step: int, tmp_path: Path) -> None:
    chosen = recipe("train.eval_steps=2", *extra)
    whole, events = run(tmp_path / "whole", chosen)
    assert events[0]["steps"] == 9 and whole.steps == 9 and whole.eval_loss is not None
    with pytest.raises(Interrupted, match=f"SIGTERM: stopped after step {step}"):
        run(tmp_path / "parts", chosen, stop_after(step))
    parts, events = run(tmp_path / "parts", chosen)
    assert f"resuming from step {step}" in events.notes() and parts.resumed_from == step
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    expected, found = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert expected.keys() == found.keys() and len(expected) > 100
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (parts.final_loss, parts.eval_loss, parts.tokens) == (whole.final_loss, whole.eval_loss, whole.tokens)
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["state"] == "done"


def test_killed_between_checkpoints_leaves_no_gap_and_no_repeat(tmp_path: Path) -> None:
    chosen = recipe("train.save_steps=2", "train.eval_steps=3")
    run(tmp_path / "whole", chosen)

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if event.get("step") == 6 and event["event"] == "eval":
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "parts", chosen, kill)
    assert [line["step"] for line in metrics(tmp_path / "parts")][-2:] == [6, 6]
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/l')
    run(tmp_path / "parts", chosen)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_damaged_checkpoint_is_skipped_and_named(tmp_path: Path) -> None:
    chosen = recipe("train.save_steps=2")
    run(tmp_path / "whole", chosen)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", chosen, stop_after(5))
    path = tmp_path / "parts" / "checkpoints" / "step-000005" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    _, events = run(tmp_path / "parts", chosen)
    assert "step-000005 is damaged: optimizer.safetensors" in events.notes()
    assert "resuming from step 4" in events.notes()
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_signal_within_a_step_saves_the_step_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe("train.micro_batch_size=1")
    run(tmp_path / "whole", chosen)
    calls, real = [], passes.batch_loss

    def interrupting(model: Gemma3, batch: Batch, step: int = 0, *more: Any) -> torch.Tensor:
        if step == 4:
            calls.append(step)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(model, batch, step, *more)

    monkeypatch.setattr(passes, "batch_loss", interrupting)
    with pytest.raises(Interrupted, match="SIGINT: stopped after step 4"):
        run(tmp_path / "parts", chosen)
    assert calls == [4, 4]
    monkeypatch.setattr(passes, "batch_loss", real)
    run(tmp_path / "parts", chosen)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def stopped_twice(folder: Path) -> None:
    run(folder, recipe(), lambda event: [stop_after(3)(event) for _ in range(2)] and None)


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    # A forked process would inherit PyTorch's locks without its threads.
    child = multiprocessing.get_context("spawn").Process(target=stopped_twice, args=(tmp_path / "run",))
    child.start()
    child.join()
    assert child.exitcode == 128 + signal.SIGTERM


def test_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "run", recipe())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again, events = run(tmp_path / "run", recipe())
    assert again == first and "nothing to do" in events.notes() and len(events) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    ["train.learning_rate=0.02", "train.max_steps=7", "train.seed=1", "adapter.alpha=9", "adapter.dora=true"],
)
def test_resume_with_other_settings_is_refused(change: str, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "run", recipe(), stop_after(2))
    key, _, value = change.partition("=")
    with pytest.raises(InputError, match=f"{key}: the run has .*, now .*{value}"):
        run(tmp_path / "run", recipe(change))


def test_resume_with_other_rows_or_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "run", recipe(), stop_after(2))
    rows = some_rows()
    rows[-1] = replace(rows[-1], ids=(*rows[-1].ids[:-1], 11))
    with pytest.raises(InputError, match="  rows: the run has"):
        run(tmp_path / "run", recipe(), rows=rows)
    with pytest.raises(InputError, match="  base: the run has 000000000000…, now 111111111111…"):
        run(tmp_path / "run", recipe(), base=replace(BASE, sha256="1" * 64))


def test_what_changes_no_weight_may_change_on_resume(tmp_path: Path) -> None:
    run(tmp_path / "whole", recipe())
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", recipe(), stop_after(4))
    changed = recipe("train.save_steps=1", "train.eval_steps=1", "train.log_steps=3", "train.keep_checkpoints=1")
    run(tmp_path / "parts", changed)
    expected, found = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) == 1


def test_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a run; choose another output folder"):
        run(tmp_path, recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_full_disk_is_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("dozan.train.run.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="1 MiB are free and the run needs"):
        run(tmp_path / "run", recipe())


def test_a_run_killed_as_it_began_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".lock", ".run.json.staging"):
        (out / name).write_text("")
    assert run(out, recipe())[0].steps > 0
    assert not (out / ".run.json.staging").exists()


def test_a_disk_that_fills_at_the_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    out = tmp_path / "out"
    whole = state.save_adapter
    monkeypatch.setattr(
        state, "save_adapter", lambda folder, *more: (full if folder.name.endswith("adapter") else whole)(folder, *more)
    )
    with pytest.raises(InputError, match="adapter: could not be written.*No space left.*same command"):
        run(out, recipe())
    monkeypatch.undo()
    assert run(out, recipe())[0].resumed_from and (out / "adapter").is_dir()


def test_second_process_is_refused(tmp_path: Path) -> None:
    from dozan.train.run import locked

    with locked(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()} on "), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def poison(monkeypatch: pytest.MonkeyPatch, bad: str, value: float) -> None:
    real = passes.batch_loss

    def poisoned(model: Gemma3, batch: Batch, *more: Any) -> torch.Tensor:
        loss = real(model, batch, *more)
        return loss * value if bad in batch.rows else loss

    monkeypatch.setattr(passes, "batch_loss", poisoned)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_never_reaches_the_weights(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, "row9", value)
    result, events = run(tmp_path / "run", recipe())
    assert result.skipped_steps == 3 and result.final_loss is not None
    assert events.notes().count("not finite, update skipped; rows: row9") == 3
    assert all(torch.isfinite(tensor).all() for tensor in newest(tmp_path / "run").values())
    skipped = [line for line in metrics(tmp_path / "run") if line.get("train/skipped")]
    assert len(skipped) == 3 and all(line["train/loss"] is None for line in skipped)


def test_update_with_a_bad_gradient_is_skipped() -> None:
    plan = make_plan(recipe(), some_rows())
    model = adapted_model(plan.recipe)
    trainee = Trainee.of(model, plan.recipe, BASE.name)
    name, parameter = trainee.parameters[1]
    handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = {name: p.detach().clone() for name, p in trainee.parameters}
    assert loop.optimiser_step(trainee, plan.prepare(0), 0.1).read()[2] is False
    assert all(torch.equal(before[name], p) for name, p in trainee.parameters)
    assert trainee.optimizer.tensors() == {}
    assert not any(m.any() for group in trainee.optimizer.wide for m in (*group.first, *group.second))
    handle.remove()
    assert loop.optimiser_step(trainee, plan.prepare(0), 0.1).read()[2] is True
    assert not torch.equal(before[name], parameter)


def test_three_bad_steps_in_a_row_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "row9", float("nan"))
    rows = [row for row in some_rows() if row.row in ("row1", "row9")]
    with pytest.raises(InputError, match="3 steps in a row, last in rows row9.*train.learning_rate"):
        run(tmp_path / "run", recipe("train.epochs=5"), rows=rows, heldout=0)


def test_row_order_is_seeded_and_each_epoch_has_every_row() -> None:
    plans = [make_plan(recipe(f"train.seed={seed}"), some_rows()) for seed in (0, 0, 1)]
    orders = [[row.row for step in range(12) for row in plan.rows_of(step)] for plan in plans]
    assert plans[0].steps_per_epoch == 4 and orders[0] == orders[1] != orders[2]
    epochs = [orders[0][start : start + 14] for start in (0, 14, 28)]
    assert all(sorted(epoch) == sorted(f"row{i}" for i in range(14)) for epoch in epochs) and epochs[0] != epochs[1]


def test_plan_announces_what_differs_from_the_recipe() -> None:
    plan = make_plan(recipe("adapter.dropout=0.1", "train.epochs=10"), some_rows())
    assert plan.warmup_steps == 4 and plan.packing == "paths" and plan.steps == 40
    assert "4 steps instead of 200" in plan.notes[0] and "adapter.dropout" in plan.notes[1]
    assert make_plan(recipe(), some_rows()).sharing() > 1.3 and plan.sharing() == 1.0
    assert make_plan(recipe("train.max_steps=7"), some_rows()).steps == 7
    with pytest.raises(InputError, match="no rows"):
        make_plan(recipe(), [])


def test_step_is_one_pack_where_it_fits() -> None:
    plan = make_plan(recipe(), some_rows())
    assert [len(plan.pack(plan.rows_of(step))) for step in range(3)] == [1, 1, 1]
    limited = make_plan(recipe("train.micro_batch_size=3", "pack=paths"), some_rows())
    assert [len(batch.rows) for batch in limited.pack(limited.rows_of(0))] == [3, 1]


def test_run_record_and_metrics(tmp_path: Path) -> None:
    result, events = run(tmp_path / "run", recipe("train.eval_steps=4"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["base"] == "dozan:embedded" and record["state"] == "done" and record["final"]["steps"] == 9
    assert record["warmup_steps"] == result.warmup_steps == 0
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 10))
    assert [line["step"] for line in lines if "eval/loss" in line] == [4, 8, 9]
    rates = [line["train/learning_rate"] for line in lines if "train/loss" in line]
    assert rates[0] == 0.01 and rates == sorted(rates, reverse=True)
    assert sum(line.get("train/tokens", 0) for line in lines) == result.tokens
    assert result.eval_loss == lines[-1]["eval/loss"] and events[0]["event"] == "plan"


def test_plain_lines_show_first_last_and_some(tmp_path: Path) -> None:
    shown: list[str] = []
    view = PlainLines(shown.append)
    run(tmp_path / "run", recipe("train.log_steps=4"), view)
    assert [line.split()[1] for line in shown if " left" in line] == ["1/9", "4/9", "8/9", "9/9"]
    assert any("10 rows" in line for line in shown) and any("held-out loss" in line for line in shown)


def test_live_view_shows_what_a_step_was() -> None:
    from rich.console import Console

    plan = {"event": "plan", "steps": 4, "first": 0, "log_steps": 1}
    event = {"event": "step", "step": 2, "epoch": 0.5, "train/loss": 1.25, "train/grad_norm": 0.5,
             "train/learning_rate": 1e-3, "train/tokens_per_second": 1234.0, "train/memory_bytes": 2**30}  # fmt: skip
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live._panel(event, plan, [2.0, 1.25], [30.0, 31.0], 100))
    shown = console.export_text()
    for part in ("step 2 of 4", "1:01 left", "loss 1.2500", "norm 0.500", "1.00e-03", "1,234 tokens/s", "1,024 MiB"):
        assert part in shown, shown
    assert "█▁" in shown


def test_sparkline_follows_the_values() -> None:
    assert sparkline([3.0, 2.0, 1.0], 10) == "█▅▁" and len(sparkline([1.0] * 50, 8)) == 8
    assert sparkline([float("nan")], 5) == "" and sparkline([], 5) == ""
