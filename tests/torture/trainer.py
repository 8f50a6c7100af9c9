"""The same faults put into transformers' Trainer: the same small model, PEFT's LoRA, the same steps and interval."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torture import faults, subject
from torture.subject import INTERVAL, STEPS, Outcome
from torture.trials import Result, Trial, damage

CHANGED = {"learning_rate": 0.02, "weight_decay": 0.1, "per_device_train_batch_size": 5,
           "lr_scheduler_type": "constant"}  # fmt: skip
_SEEN = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


class Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """The tortured run's rows, cut to one length, every token trained."""

    def __init__(self) -> None:
        ids = [list(row.ids)[:12] for row in subject.some_rows()[4:]]
        self.rows = [{"input_ids": (row * 2)[:12], "labels": (row * 2)[:12]} for row in ids]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def train(out: Path, resume: bool, **settings: Any) -> Any:
    """A run of the Trainer in `out`; with `resume` from its newest checkpoint, if there is one."""
    from models import TINY
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    set_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**{**TINY, "num_hidden_layers": 2, "pad_token_id": 0}))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=targets))
    asked: dict[str, Any] = {
        "per_device_train_batch_size": 4, "learning_rate": 0.01, "max_steps": STEPS, "save_steps": INTERVAL,
        "save_total_limit": 2, "logging_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0,
        **settings,
    }  # fmt: skip
    trainer = Trainer(model, TrainingArguments(str(out), **asked), train_dataset=Rows())
    last = get_last_checkpoint(str(out)) if resume and out.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(out / "final"))
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    (out / "losses.json").write_text(json.dumps(losses))
    return trainer


def run(
    out: Path, resume: bool = True, disturb: Callable[[], object] = lambda: None, kill_after: float | None = None,
    number: int = signal.SIGKILL, **settings: Any,
) -> Outcome:  # fmt: skip
    """A run of the Trainer in a process of its own."""

    def work(say: Callable[[str], None]) -> None:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        disturb()
        train(out, resume, **settings)

    began = time.monotonic()
    child, notes = subject.forked(work)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
    return subject.ended(child, notes, began)


def weights(out: Path) -> str:
    """The hash of a finished run's adapter."""
    path = out / "final" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


class Bench:
    """Where the Trainer's trials run, and its undisturbed run."""

    _pace: subject.Pace | None

    def __init__(self, root: Path) -> None:
        self.root, self._pace = root, None
        outcome = run(root / "whole")
        assert outcome.status == 0, outcome
        again = run(root / "again")
        self.seconds = again.seconds
        self.expected = weights(root / "whole")
        self.repeats = weights(root / "again") == self.expected

    def pace(self) -> subject.Pace:
        """The pace of this process's trials."""
        if self._pace is None:
            place = self.root / f"pace-{os.getpid()}"

            def measure() -> Outcome:
                shutil.rmtree(place, ignore_errors=True)
                return run(place)

            self._pace = subject.Pace(measure)
        return self._pace

    def to_the_end(self, out: Path) -> str:
        """Go on with a run; how it differs in the end."""
        outcome = run(out)
        if outcome.status:
            return f"cannot go on: {outcome.notes.strip()[-120:]}"
        return "" if weights(out) == self.expected else "other weights"

    def stopped(self, out: Path) -> None:
        """A run that was killed after its checkpoints of steps 4 and 6."""
        pattern = self.root / "stopped"
        if not pattern.is_dir():
            building = run_to(self.root / f"stopped-{os.getpid()}", 6)
            if not pattern.is_dir():
                os.rename(building, pattern)
        shutil.copytree(pattern, out, dirs_exist_ok=True)


def run_to(out: Path, step: int) -> Path:
    """A run that dies right after the checkpoint of a step."""
    from transformers import Trainer

    def disturb() -> None:
        real = Trainer._save_checkpoint

        def save(self: Any, *args: Any, **more: Any) -> Any:
            result = real(self, *args, **more)
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Trainer._save_checkpoint = save  # type: ignore[method-assign]

    run(out, disturb=disturb)
    return out


def killed_at_random(bench: Bench, count: int) -> Iterator[Trial]:
    """kill -9 at a random moment."""
    draw = random.Random(0)
    for i in range(count):
        yield partial(_killed, bench, i, draw.random(), signal.SIGKILL)


def signalled_at_random(bench: Bench, count: int) -> Iterator[Trial]:
    """SIGTERM at a random moment."""
    draw = random.Random(1)
    for i in range(count):
        yield partial(_killed, bench, i, draw.random(), signal.SIGTERM)


def _killed(bench: Bench, i: int, moment: float, number: int) -> Result:
    with subject.folder(bench.root, f"kill-{number}-{i}") as out:
        outcome = run(out, kill_after=bench.pace().moment(moment), number=number)
        lost = bench.to_the_end(out)
        if number == signal.SIGTERM and outcome.status not in (0, 75):
            lost = lost or "nothing was saved for the signal"
        return Result(lost, struck=outcome.status != 0)


def damaged(bench: Bench, offsets: int) -> Iterator[Trial]:
    """Each file of the newest checkpoint: a flipped bit, a cut, removed."""
    with subject.folder(bench.root, "names") as out:
        bench.stopped(out)
        newest = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        sizes = {path.relative_to(out): path.stat().st_size for path in newest.iterdir() if path.name in _SEEN}
    for name, size in sorted(sizes.items()):
        for offset in sorted({size * i // offsets for i in range(offsets)}):
            for kind in ("flip", "cut"):
                yield partial(_damaged, bench, name, kind, offset)
        yield partial(_damaged, bench, name, "removed", 0)


def _damaged(bench: Bench, name: Path, kind: str, offset: int) -> Result:
    with subject.folder(bench.root, f"damage-{name.name}-{kind}-{offset}") as out:
        bench.stopped(out)
        damage(out / name, kind, offset)
        lost = bench.to_the_end(out)
        return Result(lost, lost.startswith("cannot go on"))


def poisoned(bench: Bench) -> Iterator[Trial]:
    """A loss or a gradient that is not finite in one step."""
    for where in ("loss", "gradient"):
        for value in (math.nan, math.inf, -math.inf, 3e38):
            yield partial(_poisoned, bench, where, value)


def _poisoned(bench: Bench, where: str, value: float) -> Result:
    from safetensors.torch import load_file
    from transformers import Trainer

    def disturb() -> None:
        real, calls = Trainer.compute_loss, [0]

        def compute_loss(self: Any, *args: Any, **more: Any) -> Any:
            loss = real(self, *args, **more)
            calls[0] += 1
            if calls[0] != 3:
                return loss
            return loss * value if where == "loss" else faults._BadGradient.apply(loss, value)

        Trainer.compute_loss = compute_loss  # type: ignore[method-assign]

    with subject.folder(bench.root, f"poison-{where}-{value}") as out:
        outcome = run(out, disturb=disturb)
        if outcome.status:
            return Result(f"exits {outcome.status}", True)
        tensors = load_file(out / "final" / "adapter_model.safetensors")
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        return Result("" if finite else "weights are not finite, exit 0", False)


def full_at_each_write(bench: Bench, every: int) -> Iterator[Trial]:
    """ENOSPC at each write that Python sees."""
    for at in range(1, writes_of(bench) + 1, every):
        yield partial(_full, bench, at)


def writes_of(bench: Bench) -> int:
    """How often an undisturbed run writes."""
    with subject.folder(bench.root, "count") as out:
        file = bench.root / "count.txt"

        def disturb() -> None:
            writes = faults.Writes(out)
            writes.install()

            def counted(at: Path, resume: bool, **more: Any) -> Any:
                trainer = real(at, resume, **more)
                file.write_text(str(writes.count))
                return trainer

            real = globals()["train"]
            globals()["train"] = counted

        assert run(out, disturb=disturb).status == 0
        return int(file.read_text())


def _full(bench: Bench, at: int) -> Result:
    with subject.folder(bench.root, f"full-{at}") as out:
        outcome = run(out, disturb=faults.Writes(out, at, faults.full).install)
        lost = bench.to_the_end(out)
        return Result(lost, outcome.status != 0 or not lost)


def starved(bench: Bench) -> Iterator[Trial]:
    """Out of memory once, in the forward pass of each step."""
    for at in range(1, STEPS + 1):
        yield partial(_starved, bench, at)


def _starved(bench: Bench, at: int) -> Result:
    from transformers import Trainer

    def disturb() -> None:
        real, calls = Trainer.compute_loss, [0]

        def compute_loss(self: Any, *args: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return real(self, *args, **more)

        Trainer.compute_loss = compute_loss  # type: ignore[method-assign]

    with subject.folder(bench.root, f"oom-{at}") as out:
        outcome = run(out, disturb=disturb)
        if outcome.status:
            return Result("the run ends", True)
        return Result("" if weights(out) == bench.expected else "other weights", False)


def changed(bench: Bench) -> Iterator[Trial]:
    """Another setting on resume."""
    for name, value in CHANGED.items():
        yield partial(_changed, bench, name, value)


def _changed(bench: Bench, name: str, value: object) -> Result:
    with subject.folder(bench.root, f"changed-{name}") as out:
        bench.stopped(out)
        outcome = run(out, **{name: value})
        return Result("" if outcome.status else "accepted in silence", outcome.status != 0)
