"""A peer on the benchmark's rows: one process, several workloads one after the other, its figures as JSON.

`python -m bench.peers --impl unsloth|trl|liger|axolotl --model DIR --rows FOLDER --works a,b --steps 24
--adapter FOLDER --out FILE`. LoRA of rank 32 and alpha 64 on all seven linears, bf16, fused AdamW at a constant 2e-4
without decay or warm-up, gradients clipped at 1, rows in order, trained on their completion alone. A step that does not
fit into memory is split into micro-batches, halved until it fits, since that costs less than checkpointing. `--nf4`
says that the folder holds bitsandbytes' 4 bits; `--rank`, `--alpha`, `--rslora`, `--dora`, `--optim` change the rest.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import peers_axolotl
from bench.workloads import Workload, read

PROCESS_START = time.time()
RANK, ALPHA, RATE = 32, 64, 2e-4
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM_UP_STEPS = 5
PACK_TOKENS = 4096
COMPARED_STEPS = 3
PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "datasets", "trl", "unsloth", "unsloth_zoo",
            "liger_kernel", "axolotl", "bitsandbytes", "cut_cross_entropy", "xformers", "flash_attn")  # fmt: skip
_RECORDED = ("gc", "pack", "padded", "workers", "rank", "alpha", "rslora", "dora", "optim", "nf4")


@dataclass
class Peer:
    """A model with the initial adapter, and how it is to be trained."""

    options: argparse.Namespace
    longest: int
    model: Any = None
    tokenizer: Any = None
    forward: Any = None

    def renew(self) -> None:
        """The model as it was before any training.

        Unsloth keeps its model, since it compiles for 100 seconds and more; the others load theirs again, so that no
        wrapper of an earlier trainer stays around it.
        """
        if self.options.impl != "unsloth":
            self.model = None
            _free()
            self.model, self.tokenizer = _load_plain(self.options)
        elif self.model is None:
            self.model, self.tokenizer = _load_unsloth(self.options, self.longest)
            self.forward = vars(self.model).get("forward")
        else:
            # An earlier trainer wrapped it for mixed precision.
            vars(self.model).pop("forward", None)
            vars(self.model).pop("_original_forward", None)
            if self.forward is not None:
                self.model.forward = self.forward
            self.model.zero_grad(set_to_none=True)
        _set_adapter(self.model, self.options.adapter, self.options.dora)


def main() -> None:
    options = _options()
    names = options.works.split(",")
    works = {name: read(options.rows / f"{name}.jsonl") for name in names}
    _environment(options)
    peer = Peer(options, max(len(row.ids) for work in works.values() for row in work.rows))
    record: dict[str, Any] = {"impl": options.impl, "versions": {}, "process_to_first_step_s": None, "works": {}}
    record["options"] = {key: getattr(options, key) for key in _RECORDED}
    if options.impl == "axolotl":
        record["options"] |= peers_axolotl.options()
    for name in names:
        peer_record, first_step = attempt(peer, works.pop(name))
        record["works"][name] = peer_record
        record["versions"] = record["versions"] or _versions()
        if record["process_to_first_step_s"] is None and first_step is not None:
            record["process_to_first_step_s"] = round(first_step - PROCESS_START, 2)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print("RESULT", options.impl, name, json.dumps(peer_record), flush=True)


def attempt(peer: Peer, work: Workload) -> tuple[dict[str, Any], float | None]:
    """The figures of a workload, or its error, and the clock at the end of its first step."""
    import torch

    micro_batches = 1
    while True:
        try:
            return measure(peer, work, micro_batches)
        except torch.OutOfMemoryError as error:
            message = str(error)
        except (RuntimeError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"[:2000]}, None
        if micro_batches >= work.batch or peer.options.pack:
            return {"error": f"out of memory: {message}"[:2000]}, None
        _free()
        micro_batches *= 2
        print(f"out of memory: {work.name} again in {micro_batches} micro-batches a step", flush=True)


def measure(peer: Peer, work: Workload, micro_batches: int) -> tuple[dict[str, Any], float]:
    """Train `steps` steps with a fresh trainer on the initial adapter.

    The first step's seconds run from the building of the trainer, which prepares the data, to the step's end.
    """
    import torch
    from trl import SFTTrainer

    cuda, steps = torch.cuda.is_available(), peer.options.steps
    peer.renew()
    _free()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    rows = _dataset(work)
    watch = _watch(cuda)
    with tempfile.TemporaryDirectory() as output:
        begin = time.time()
        trainer = SFTTrainer(
            model=peer.model, processing_class=peer.tokenizer, train_dataset=rows, callbacks=[watch],
            args=_config(peer, work, micro_batches, cuda, output),
        )  # fmt: skip
        trainer.train()
    step = step_seconds(watch.ends)
    examples, tokens = _trained(trainer, steps)
    figures = {
        "step_s": step, "examples_s": examples / steps / step, "tokens_s": tokens / steps / step,
        "allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
        "first_step_s": watch.ends[0] - begin, "losses": watch.losses[:COMPARED_STEPS],
        "grad_norms": watch.grad_norms[:COMPARED_STEPS], "steps": steps, "micro_batches": micro_batches,
        "trainable": sum(weight.numel() for weight in peer.model.parameters() if weight.requires_grad),
        **({"curve": watch.losses} if peer.options.curve else {}),
    }  # fmt: skip
    trainer.accelerator.free_memory()
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in figures.items()}
    return rounded, watch.ends[0]


def step_seconds(ends: list[float]) -> float:
    """The median of a step's seconds after the warm-up, from the clock at the end of each."""
    steps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return statistics.median(steps[min(WARM_UP_STEPS - 1, len(steps) - 1) :])


def _watch(cuda: bool) -> Any:
    """A callback that keeps the clock at the end of each step, its loss and the norm of its gradient."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.losses: list[float] = []
            self.grad_norms: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            self.ends.append(time.time())

        def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))
                self.grad_norms.append(float(logs["grad_norm"]))

    return Watch()


def _config(peer: Peer, work: Workload, micro_batches: int, cuda: bool, output: str) -> Any:
    from trl import SFTConfig

    options, batch = peer.options, work.batch // micro_batches
    changes: dict[str, Any] = {}
    if options.pack:
        # Rows keep to themselves under sdpa, whose masks transformers builds from the packs' position ids. TRL packs
        # over all rows, so a step holds other rows than ours, about as many.
        mean = sum(len(row.ids) for row in work.rows) / len(work.rows)
        batch = max(1, round(work.batch * mean / PACK_TOKENS))
        changes = {"packing": True, "max_length": max(PACK_TOKENS, peer.longest)}
    if options.gc != "unsloth":
        # Left out, Unsloth takes what its model was made with.
        changes["gradient_checkpointing"] = options.gc == "true"
    settings = {
        "output_dir": output, "per_device_train_batch_size": batch, "gradient_accumulation_steps": micro_batches,
        "max_steps": options.steps, "learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": options.optim, "bf16": cuda, "use_cpu": not cuda,
        "max_length": peer.longest, "completion_only_loss": True, "use_liger_kernel": options.impl == "liger",
        "train_sampling_strategy": "sequential", "dataloader_num_workers": options.workers, "seed": 0,
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    return SFTConfig(**{**settings, **changes})


def _dataset(work: Workload) -> Any:
    """Given `labels`, Unsloth trains on every token; `completion_mask` is honoured by all."""
    from datasets import Dataset

    columns = {
        "input_ids": [row.ids for row in work.rows],
        "attention_mask": [[1] * len(row.ids) for row in work.rows],
        "completion_mask": [row.mask for row in work.rows],
    }
    return Dataset.from_dict(columns)


def _trained(trainer: Any, steps: int) -> tuple[int, int]:
    """Rows and original tokens of all steps: the dataset is read in order, a pack may hold several rows."""
    arguments = trainer.args
    count = steps * arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    data = trainer.train_dataset
    assert len(data) >= count, f"{len(data)} rows for {count}: an epoch ends within the run"
    used = data.select(range(count))
    examples = sum(map(len, used["seq_lengths"])) if "seq_lengths" in used.column_names else count
    return examples, sum(map(len, used["input_ids"]))


def _load_plain(options: argparse.Namespace) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cuda, axolotl = torch.cuda.is_available(), options.impl == "axolotl"
    if axolotl:
        peers_axolotl.before_loading(options.model)
    model: Any = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16 if cuda else torch.float32, attn_implementation="sdpa",
        device_map={"": 0} if cuda else None,
    )  # fmt: skip
    lora = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, target_modules=LINEARS, task_type="CAUSAL_LM",
        use_rslora=options.rslora, use_dora=options.dora,
    )  # fmt: skip
    # No prepare_model_for_kbit_training: it makes the embedding fp32, and the trainer prepares checkpointing itself.
    model = get_peft_model(model, lora)
    if axolotl:
        peers_axolotl.after_loading(model, options.model)
    return model, AutoTokenizer.from_pretrained(options.model)


def _load_unsloth(options: argparse.Namespace, longest: int) -> tuple[Any, Any]:
    import torch
    from unsloth import FastModel

    model, tokenizer = FastModel.from_pretrained(
        str(options.model), max_seq_length=longest, load_in_4bit=options.nf4, full_finetuning=False,
        local_files_only=True, dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )  # fmt: skip
    checkpointing = {"off": False, "true": True, "unsloth": "unsloth"}[options.gc]
    model = FastModel.get_peft_model(
        model, r=options.rank, lora_alpha=options.alpha, lora_dropout=0, bias="none", target_modules=LINEARS,
        random_state=0, use_gradient_checkpointing=checkpointing, use_rslora=options.rslora, use_dora=options.dora,
    )  # fmt: skip
    return model, getattr(tokenizer, "tokenizer", tokenizer)


def _set_adapter(model: Any, folder: Path, dora: bool) -> None:
    """Give the adapter its initial weights; LoRA leaves out a file's magnitudes.

    Raises ValueError unless the file names all of them and nothing else.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    held = load_file(folder / "adapter_model.safetensors")
    weights = {key: weight for key, weight in held.items() if dora or "magnitude" not in key}
    result: Any = set_peft_model_state_dict(model, weights)
    missing = [key for key in result.missing_keys if "lora_" in key]
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    given = sum(weight.numel() for weight in weights.values())
    if missing or result.unexpected_keys or trainable != given:
        raise ValueError(
            f"{folder}: not this model's adapter: {given} weights for {trainable}; "
            f"missing {missing[:3]}, unknown {list(result.unexpected_keys)[:3]}"
        )


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _environment(options: argparse.Namespace) -> None:
    """What must be set before the libraries are imported; Unsloth patches the others, so it comes first."""
    os.environ.update(
        HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_DISABLED="true",
        TOKENIZERS_PARALLELISM="false", UNSLOTH_DISABLE_STATISTICS="1",
    )  # fmt: skip
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", tempfile.mkdtemp())
    if options.padded:
        os.environ["UNSLOTH_PADDING_CHOICE"] = "padded"
    if options.impl == "unsloth":
        import unsloth  # noqa: F401


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--impl", required=True, choices=("unsloth", "trl", "liger", "axolotl"))
    parser.add_argument("--model", required=True, type=Path, help="folder of the model and its tokenizer")
    parser.add_argument("--rows", required=True, type=Path, help="folder of NAME.jsonl, a workload each")
    parser.add_argument("--works", required=True, help="workloads, with commas")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--adapter", required=True, type=Path, help="folder of the initial adapter, as PEFT saves it")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--alpha", type=int, default=ALPHA)
    parser.add_argument("--rslora", action="store_true")
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--optim", default="adamw_torch_fused", help="the optimiser, as transformers names it")
    parser.add_argument("--nf4", action="store_true", help="the folder's linears are in bitsandbytes' NF4")
    parser.add_argument("--gc", choices=("off", "true", "unsloth"), default="off", help="gradient checkpointing")
    parser.add_argument("--pack", action="store_true", help=f"TRL's packing, to {PACK_TOKENS:,} tokens")
    parser.add_argument("--padded", action="store_true", help="Unsloth's padded batches instead of padding-free ones")
    parser.add_argument("--curve", action="store_true", help="record every step's loss")
    parser.add_argument("--workers", type=int, default=2, help="processes that collate batches ahead")
    options = parser.parse_args()
    if options.pack and options.impl == "unsloth":
        parser.error("--pack is TRL's; Unsloth's batches have no padding")
    if options.steps < 2:
        parser.error("--steps must be at least 2")
    for key in ("model", "rows", "adapter", "out"):
        setattr(options, key, getattr(options, key).resolve())
    return options


if __name__ == "__main__":
    main()
