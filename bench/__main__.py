"""`python -m bench`: us and each installed peer, one process after the other, on the same rows of one GPU.

The weights are random at real shapes: the figures are of speed and memory only. Nothing is measured while the ops'
tests are red, and a peer whose first step has another loss or gradient norm than ours is marked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.table import OURS, differences, render
from bench.workloads import NAMES, SHAPE_270M, chosen, workload

ROOT = Path(__file__).parents[1]
IMPLS = {OURS: ("bench.ours", "dozan"), "unsloth": ("bench.peers", "unsloth"), "trl": ("bench.peers", "trl"),
         "liger": ("bench.peers", "liger_kernel"), "axolotl": ("bench.peers", "axolotl")}  # fmt: skip
"""How to run each, and the package it needs."""
MODELS: dict[str, dict[str, Any]] = {
    "270m": SHAPE_270M,
    # For trying the benchmark itself out, on a CPU too.
    "tiny": {
        "vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 128, "sliding_window": 64,
        "query_pre_attn_scalar": 32,
    },
}  # fmt: skip
_SPECIAL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 105, "<end_of_turn>": 106}
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "check.log"
        if OURS in options.peers and (status := _run(["-m", "bench.ours", "--check"], log, folder)):
            sys.exit(f"no figures: the ops' tests are red (exit status {status}):\n{_tail(log)}")
        prepare(options, folder)
        record = _record(options)
        for impl in options.peers:
            record["impls"][impl] = measured(impl, options, folder)
            record["differences"] = [str(difference) for difference in differences(record)]
            if options.out:
                options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(render(record), end="")


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Write the rows, the model with its tokenizer, and the adapter from which everyone starts."""
    for name in options.only:
        work = workload(name, options.steps, MODELS[options.model]["vocab_size"])
        work.write(folder / f"{name}.jsonl")
    if not (folder / "model").exists():
        write_model(options.model, folder / "model")
    log = folder / "adapter.log"
    if _run([*_command(OURS, options, folder), "--init"], log, folder):
        sys.exit(f"no figures: the initial adapter could not be written:\n{_tail(log)}")


def write_model(name: str, folder: Path) -> None:
    """A random Gemma 3 in bf16, and a tokenizer of one word an id, which peers ask for but do not use."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    sizes = MODELS[name]
    # Every sixth layer is full by default.
    config = Gemma3TextConfig(**sizes, max_position_embeddings=32768, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    torch.manual_seed(0)
    model: Any = Gemma3ForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    words = {f"w{i}": i for i in range(200, sizes["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel({**_SPECIAL, **words}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        padding_side="right",
    )  # fmt: skip
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)


def measured(impl: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What one process measured; the workloads it did not come to carry the end of its log as their error."""
    log, out = folder / f"{impl}.log", folder / f"{impl}.json"
    print(f"{impl} ...", file=sys.stderr, flush=True)
    out.unlink(missing_ok=True)
    extra = ["--gc", options.gc] if impl != OURS else []
    status = _run([*_command(impl, options, folder), *extra], log, folder, options.limit)
    empty: dict[str, Any] = {"impl": impl, "versions": {}, "process_to_first_step_s": None, "works": {}}
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else empty
    for name in options.only:
        result["works"].setdefault(name, {"error": f"exit status {status}: {_tail(log)}"})
    return result


def _command(impl: str, options: argparse.Namespace, folder: Path) -> list[str]:
    named = [] if impl == OURS else ["--impl", impl]
    return [
        "-m", IMPLS[impl][0], *named, "--model", str(folder / "model"), "--rows", str(folder),
        "--works", ",".join(options.only), "--steps", str(options.steps), "--adapter", str(folder / "adapter"),
        "--out", str(folder / f"{impl}.json"),
    ]  # fmt: skip


def _run(arguments: list[str], log: Path, folder: Path, limit: int | None = None) -> int:
    """Run Python on `arguments` in an empty folder with compilers' caches of its own, so that each start is a cold one.

    124 is the exit status of a process that ran past `limit` seconds.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place, log.open("w", encoding="utf-8") as out:
        given = [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        caches = {name: f"{place}/{name.lower()}" for name in _CACHES}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *given]),
                       "PYTHONUNBUFFERED": "1", **caches}
        try:
            return subprocess.run(
                [sys.executable, *arguments], cwd=place, env=environment, stdout=out, stderr=subprocess.STDOUT,
                timeout=limit,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124


_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION", "HF_DATASETS_CACHE")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-1500:].strip()


def _record(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "command": "python -m bench " + " ".join(sys.argv[1:]),
        "commit": options.commit or _commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "model": options.model, "steps": options.steps, "python": sys.version.split()[0], "impls": {},
    }  # fmt: skip


def _commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"workloads, with commas: {', '.join(NAMES)}; or a kind, as tool")
    parser.add_argument("--peers", default=",".join(IMPLS), help="who runs, with commas, if installed")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--model", choices=tuple(MODELS), default="270m")
    parser.add_argument("--gc", choices=("off", "true", "unsloth"), default="off", help="peers' checkpointing")
    parser.add_argument("--limit", type=int, default=3600, help="seconds that one program may take")
    parser.add_argument("--folder", type=Path, help="keeps the model, rows and logs; a new temporary one otherwise")
    parser.add_argument("--commit", help="for the record, where git cannot tell")
    parser.add_argument("--out", type=Path, help="the record, as JSON; written anew after each program")
    options = parser.parse_args()
    try:
        options.only = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    asked = options.peers.split(",")
    if unknown := sorted(set(asked) - set(IMPLS)):
        parser.error(f"--peers: no {', '.join(unknown)}; choose among {', '.join(IMPLS)}")
    options.peers = [impl for impl in IMPLS if impl in asked and find_spec(IMPLS[impl][1])]
    for impl in set(asked) - set(options.peers):
        print(f"{impl}: not installed, left out", file=sys.stderr)
    return options


if __name__ == "__main__":
    main()
