"""SFTTrainer: rows and settings by TRL's names, trained by `dozan.train`; nothing is trained here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dozan.compat.arguments import SFT_TRAINER
from dozan.compat.fast import FastModel
from dozan.compat.log import Log, TrainerState, TrainOutput
from dozan.compat.model import Model, hub_token
from dozan.compat.peft import adapter_arguments
from dozan.compat.recipes import eval_strategy, recipe_of
from dozan.compat.rows import TrainRows, gather
from dozan.compat.say import say, weigh
from dozan.compat.settings import settings_of
from dozan.compat.tokenizer import ChatTokenizer
from dozan.errors import InputError
from dozan.pack import pack_rows
from dozan.recipe import Recipe
from dozan.train.checkpoint import checkpoints
from dozan.train.evaluation import evaluation_loss
from dozan.train.live import OnEvent, reporter
from dozan.train.loop import train
from dozan.train.state import best_checkpoint

_NEEDLESS = ("DataCollatorForSeq2Seq", "DataCollatorForLanguageModeling", "DataCollatorWithPadding",
             "DefaultDataCollator")  # fmt: skip


class SFTTrainer:
    """Rows, a model and settings; `train` makes a run of them in args.output_dir.

    train_dataset, eval_dataset: the rows, with input_ids and labels. state: log_history and where the run stands.
    Raises InputError for what cannot be used and for arguments that are not offered.
    """

    def __init__(
        self, model: Model, args: Any = None, train_dataset: Any = None, eval_dataset: Any = None,
        processing_class: ChatTokenizer | None = None, tokenizer: ChatTokenizer | None = None,
        formatting_func: Callable[..., Any] | None = None, dataset_text_field: str | None = None,
        max_seq_length: int | None = None, packing: bool | None = None, callbacks: Sequence[OnEvent] | None = None,
        peft_config: Any = None, data_collator: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        weigh("SFTTrainer", SFT_TRAINER, more)
        if not isinstance(model, Model):
            raise InputError(f"SFTTrainer: model is a {type(model).__name__}; give what FastModel.from_pretrained "
                             "gave, or keep TRL's trainer with dozan.hf.attach(model)")  # fmt: skip
        _weigh_objects(data_collator, callbacks)
        if peft_config is not None:
            FastModel.get_peft_model(model, **adapter_arguments(peft_config))
        if model.settings.adapter is None and not model.settings.full:
            raise InputError("SFTTrainer: the model has no adapter; call FastModel.get_peft_model(model, r=…) first, "
                             "or train every weight: from_pretrained(full_finetuning=True)")  # fmt: skip
        self.model, self.args, self.callbacks = model, settings_of(args), list(callbacks or ())
        if model.settings.full and self.args.load_best_model_at_end:
            raise InputError("SFTConfig: load_best_model_at_end=True with full_finetuning=True is not offered: a "
                             "step's checkpoint can be run and scored, but only the run's end is saved and exported; "
                             "leave it out, and read trainer.state.best_model_checkpoint")  # fmt: skip
        self.processing_class = self.tokenizer = processing_class or tokenizer or model.tokenizer
        if not isinstance(self.tokenizer, ChatTokenizer):
            raise InputError(f"SFTTrainer: the tokenizer is a {type(self.tokenizer).__name__}; give what "
                             "FastModel.from_pretrained gave")  # fmt: skip
        model.tokenizer = self.tokenizer
        if max_seq_length is not None:
            setattr(self.args, "max_seq_length", max_seq_length)  # noqa: B010
        field = dataset_text_field or self.args.dataset_text_field
        self._eval_strategy = eval_strategy(self.args)
        self.train_dataset = self._rows("train_dataset", train_dataset, field, formatting_func)
        self.eval_dataset = None
        if eval_dataset is not None:
            self.eval_dataset = self._rows("eval_dataset", eval_dataset, field, formatting_func)
        self.state, self.run = TrainerState(), Path(self.args.output_dir or "trainer_output")
        self._explain()

    def train(self, resume_from_checkpoint: bool | str | Path | None = None, **more: Any) -> TrainOutput:
        """Train; what came of it. resume_from_checkpoint: True goes on with the newest run in output_dir, a path with
        that run; else a new run begins, beside one that is there. A new run begins from the base: it is refused for a
        model that was trained already.

        Raises InputError as `dozan.train`, and Interrupted when a signal stopped it after its state was saved.
        """
        if more:
            raise InputError(f"trainer.train: {', '.join(more)} not offered; only resume_from_checkpoint is")
        if self.model.was_opened_trained:
            raise InputError(f"trainer.train: {self.model.trained} is an adapter; merge it into a checkpoint first: "
                             f"dozan merge {self.model.trained} --out DIR")  # fmt: skip
        out, resume = self._folder(resume_from_checkpoint)
        if self.model.trained is not None and not (resume and _is_run(out)):
            raise InputError(f"trainer.train: the model is what {self.model.trained} trained, and a new run would "
                             "begin from the base again. To go on from it: model.save_pretrained_merged('stage1'), "
                             "then FastModel.from_pretrained('stage1'); to begin anew: open the base "
                             "again")  # fmt: skip
        recipe = self.recipe()
        looked_at = self.eval_dataset if self._eval_strategy != "no" else None
        wants_best = self._wants_best(looked_at)
        self.model.close()
        begun = time.perf_counter()
        with reporter(None) as shown, hub_token(self.model.token):
            log = Log(self.args, [shown, *self.callbacks])
            self.state = log.state
            result = train(
                self.train_dataset.for_engine(), self.model.base, out, recipe,
                eval_data=None if looked_at is None else looked_at.for_engine(), on_event=log, resume=resume,
            )  # fmt: skip
        self.run = out
        best = best_checkpoint(out / "checkpoints")
        log.state.best_model_checkpoint = None if best is None else str(best)
        losses = [entry["eval_loss"] for entry in log.state.log_history if "eval_loss" in entry]
        log.state.best_metric = min(losses, default=None)
        self.model.has_trained(out, best if wants_best else None)
        return self._output(log, result.steps, result.final_loss, time.perf_counter() - begun)

    def recipe(self) -> Recipe:
        """The recipe that the settings come to. Raises InputError with everything that does not fit."""
        chat = self.tokenizer.chat.name
        return recipe_of(self.model.settings, self.args, chat, len(self.train_dataset))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Sequence[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss on the rows of eval_dataset, without an update: eval_loss, eval_runtime (seconds), or with another
        prefix."""
        if ignore_keys:
            raise InputError("trainer.evaluate: ignore_keys is not offered: the loss is all that is computed")
        field = self.args.dataset_text_field
        rows = self.eval_dataset if eval_dataset is None else self._rows("eval_dataset", eval_dataset, field, None)
        if rows is None:
            raise InputError("trainer.evaluate: no rows; give eval_dataset to the trainer or here")
        begun, recipe = time.perf_counter(), self.recipe()
        packs = pack_rows([rows.tokens(i) for i in range(len(rows))], recipe.pack, recipe.train.pack_tokens)
        loss = evaluation_loss(self.model.bundle.model, packs)
        seconds = time.perf_counter() - begun
        measured = {"loss": loss, "runtime": seconds, "samples_per_second": len(rows) / seconds}
        found = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.state.log_history.append({**found, "step": self.state.global_step})
        return found

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """The adapter and the tokenizer's files, to a folder; without one they are in the run's own, which is said."""
        if output_dir is None:
            say(f"save_model: what was trained is in {self.run}; give a folder to copy it to")
            return
        self.model.save_pretrained(output_dir)
        self.tokenizer.save_pretrained(output_dir)

    def push_to_hub(self, *_: object, **__: object) -> None:
        raise InputError("trainer.push_to_hub: name the repository: model.push_to_hub('OWNER/NAME')")

    def turn_markers(self) -> tuple[str, str]:
        """What a user's turn and the model's begin with."""
        turn = self.tokenizer.chat.render([{"role": "user", "content": "…"}], (), generate=True).text
        before, behind = turn.split("…")
        return before.removeprefix(self.tokenizer.bos_token), behind[behind.rindex("<") :]

    def _rows(self, name: str, data: Any, field: str, function: Callable[..., Any] | None) -> TrainRows:
        if data is None:
            raise InputError(f"SFTTrainer: {name} is missing; give a Dataset, a list of dicts, or a JSONL file")
        most = self.args.max_steps * self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        is_cut = name == "train_dataset" and most > 0  # held-out rows without a length are read whole
        return gather(name, data, self.tokenizer, field, function, most if is_cut else None)

    def _explain(self) -> None:
        """Say what the rows are trained on, and what they are not checked for."""
        rows = self.train_dataset
        if rows.examples:
            if self.args.completion_only_loss is False or (
                "assistant_only_loss" in self.args.given and not self.args.assistant_only_loss
            ):
                raise InputError("SFTConfig: a loss on whole conversations is not offered: of rows of messages the "
                                 "assistant's turns are trained; to train all of it, give the rows' text")  # fmt: skip
            say(f"{len(rows)} conversations: the assistant's turns are trained, prompts and tool results are context")
            return
        if rows.texts and self.args.assistant_only_loss:
            raise InputError("SFTConfig: assistant_only_loss=True needs rows of messages; of text rows use "
                             "train_on_responses_only(trainer)")  # fmt: skip
        kind = "texts: every token is trained" if rows.texts else "rows of ids: their labels say what is trained"
        say(f"{len(rows)} {kind}, unless train_on_responses_only says otherwise; rows of messages would be checked for "
            "errors too (dozan data check)")  # fmt: skip

    def _folder(self, resume: bool | str | Path | None) -> tuple[Path, bool]:
        """The run's folder, and whether it may go on with what is there."""
        base = Path(self.args.output_dir or "trainer_output")
        resume = self.args.resume_from_checkpoint if resume is None else resume
        runs = [base] if _is_run(base) else []
        while runs and _is_run(following := base.with_name(f"{base.name}-{len(runs) + 1}")):
            runs.append(following)
        if isinstance(resume, str | Path):
            return _run_of(Path(resume)), True
        if resume:
            if not runs:
                say(f"trainer.train: no run in {base} to go on with; it begins anew")
            return (runs[-1] if runs else base), True
        if not runs:
            return base, False
        fresh = base.with_name(f"{base.name}-{len(runs) + 1}")
        say(f"trainer.train: {runs[-1]} holds a run; the new one goes to {fresh} (resume_from_checkpoint=True goes on)")
        return fresh, False

    def _wants_best(self, looked_at: TrainRows | None) -> bool:
        if not self.args.load_best_model_at_end:
            return False
        metric = self.args.metric_for_best_model
        if metric not in (None, "loss", "eval_loss") or self.args.greater_is_better:
            raise InputError(f"SFTConfig: metric_for_best_model={metric!r}: the best is that of the lowest eval_loss")
        if looked_at is None:
            raise InputError("SFTConfig: load_best_model_at_end=True needs eval_dataset and eval_strategy='steps' or "
                             "'epoch'")  # fmt: skip
        return True

    def _output(self, log: Log, steps: int, final_loss: float | None, seconds: float) -> TrainOutput:
        made, state = len(log.losses), log.state
        loss = sum(log.losses) / made if made else final_loss if final_loss is not None else float("nan")
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        metrics = {
            "train_runtime": seconds, "train_samples_per_second": made * min(batch, len(self.train_dataset)) / seconds,
            "train_steps_per_second": made / seconds, "train_loss": loss, "epoch": state.epoch,
        }  # fmt: skip
        state.global_step = steps
        state.log_history.append({**metrics, "step": steps})
        return TrainOutput(steps, loss, metrics)


def _weigh_objects(collator: object, callbacks: Sequence[object] | None) -> None:
    """Raises InputError for a data collator or callbacks that would have to be obeyed; says which are not needed."""
    if collator is not None:
        name = type(collator).__name__
        if name not in _NEEDLESS:
            raise InputError(f"SFTTrainer: data_collator={name} is not offered: rows are packed, not padded; mark what "
                             "is trained with train_on_responses_only, or with labels in the rows")  # fmt: skip
        say(f"SFTTrainer: data_collator={name} is not needed: rows are packed, labels come from the rows")
    strangers = [type(each).__name__ for each in callbacks or () if not callable(each)]
    if strangers:
        raise InputError(f"SFTTrainer: callbacks {', '.join(strangers)}: give functions that take an event, a dict "
                         "with event (plan, note, step, eval, done); to stop early: score.patience")  # fmt: skip


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _run_of(folder: Path) -> Path:
    """The run of a folder in it. Raises InputError where there is none, and for a checkpoint but the newest."""
    run = next((each for each in (folder, folder.parent, folder.parent.parent) if _is_run(each)), None)
    if run is None:
        raise InputError(f"resume_from_checkpoint={str(folder)!r}: no run there; give a run's folder, or True")
    kept = [path.resolve() for _, path in checkpoints(run / "checkpoints")]
    if folder != run and (not kept or folder.resolve() != kept[0]):
        raise InputError(f"resume_from_checkpoint={str(folder)!r}: a run goes on from its newest checkpoint"
                         f"{f', {kept[0]}' if kept else ''}; give {str(run)!r}")  # fmt: skip
    return run
