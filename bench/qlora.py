"""`python -m bench.qlora`: QLoRA of a 12 B Gemma 3 on one GPU without network; us and each installed peer.

A random model is written once as a 4-bit checkpoint (`bench.qlora_model`); then each program trains it in a process of
its own: rank 64, alpha 32, rsLoRA on all seven linears, with DoRA and without, one row of 4,096 tokens a step, the
second half trained on, from the same adapter. Everyone runs at its fastest (nothing recomputed, where it fits) and lean
(all recomputed). The peers' optimiser is bitsandbytes' 8-bit AdamW. A peer whose first step has another loss or
gradient norm than ours is marked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.qlora_model import SHAPE_12B, SHAPE_TINY, write
from bench.qlora_table import OURS, render
from bench.workloads import Row, Workload, workload

ROOT = Path(__file__).parents[1]
PACKAGES = {OURS: "dozan", "unsloth": "unsloth", "peft": "trl", "axolotl": "axolotl"}
"""The programs, and the package that each needs; peft is TRL's trainer with PEFT."""
RANK, ALPHA, TOKENS, TINY_TOKENS = 64, 32, 4096, 96
ADAPTERS = {"lora": False, "dora": True}
MODES: dict[str, dict[str, list[str]]] = {
    "best": {
        OURS: ["train.recompute=none"],
        "unsloth": ["--gc", "off"], "peft": ["--gc", "off"], "axolotl": ["--gc", "off"],
    },
    "lean": {
        OURS: ["train.recompute=layers", "train.offload=true", "train.optimizer=adamw_8bit", "model.embedding=cpu"],
        "unsloth": ["--gc", "unsloth"], "peft": ["--gc", "true"], "axolotl": ["--gc", "true"],
    },
}  # fmt: skip
"""How each is run: ours by overrides of the recipe, the peers by options of `bench.peers`."""
WORK = "long-1"
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION", "HF_DATASETS_CACHE")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        record = _record(options)
        record["prepared_s"] = round(prepare(options, folder), 1)
        print(f"model, rows and adapter: {record['prepared_s']} s", file=sys.stderr, flush=True)
        for program in options.programs:
            caches = Path(tempfile.mkdtemp(dir=folder))
            for mode in options.modes:
                for adapter in options.adapters:
                    record["runs"].append(measured(program, mode, adapter, options, folder, caches))
                    _write(options.out, record)
            shutil.rmtree(caches)
    print(render(record), end="")


def prepare(options: argparse.Namespace, folder: Path) -> float:
    """Write the rows, and the model and the initial adapter unless they are there; the seconds it took.

    Ends the program for a folder that holds a model of other sizes.
    """
    begin = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = _sizes(options)
    rows_of(options, sizes["vocab_size"]).write(folder / f"{WORK}.jsonl")
    if not (folder / "model" / "model.safetensors.index.json").is_file():
        shutil.rmtree(folder / "model", ignore_errors=True)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        _write_model(folder / "model", sizes)
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    if other := [f"{key} {config[key]}" for key, size in sizes.items() if config[key] != size]:
        sys.exit(f"{folder} holds another model ({', '.join(other)}); give another --folder")
    if not (folder / "adapter" / "adapter_config.json").is_file():
        command = [*_ours(folder), "--init", str(folder / "adapter"), *_sets(["adapter.dora=true"])]
        log = folder / "adapter.log"
        if status := _run(command, log, folder, options.limit, {}):
            sys.exit(f"no figures: the initial adapter could not be written (exit status {status}):\n{_tail(log)}")
    return time.time() - begin


def rows_of(options: argparse.Namespace, vocabulary: int) -> Workload:
    """One row a step, all of one length, the second half trained on."""
    tokens = TINY_TOKENS if options.tiny else TOKENS
    rows = workload("long-4", options.steps, vocabulary).rows[: options.steps + 4]
    return Workload(WORK, 1, tuple(Row(row.ids[:tokens], tokens // 2) for row in rows))


def measured(
    program: str, mode: str, adapter: str, options: argparse.Namespace, folder: Path, caches: Path
) -> dict[str, Any]:
    """What one process measured, or the end of its log as its error. Its compilers' caches are the program's: the first
    process of a program starts cold."""
    name = f"{program}-{mode}-{adapter}"
    log, out = folder / f"{name}.log", folder / f"{name}.json"
    print(f"{name} ...", file=sys.stderr, flush=True)
    out.unlink(missing_ok=True)
    begin = time.time()
    command = _command(program, mode, adapter, options, folder)
    status = _run([*command, "--steps", str(options.steps), "--out", str(out)], log, folder, options.limit,
                  {cache: str(caches / cache.lower()) for cache in _CACHES})  # fmt: skip
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    figures = found.get("works", {}).get(WORK, {}) if program != OURS else found
    if not figures:
        figures = {"error": f"exit status {status}: {_tail(log)}"}
    run = {"program": program, "mode": mode, "adapter": adapter, "wall_s": round(time.time() - begin, 1)}
    kept = {key: found[key] for key in ("versions", "options", "process_to_first_step_s") if key in found}
    return {**run, **kept, **figures}


def _command(program: str, mode: str, adapter: str, options: argparse.Namespace, folder: Path) -> list[str]:
    dora = ADAPTERS[adapter]
    if program == OURS:
        extra = options.set if mode == "best" else options.set_lean
        return [*_ours(folder), *_sets([f"adapter.dora={str(dora).lower()}", *MODES[mode][OURS], *extra])]
    quantised = ["--nf4", "--optim", "adamw_8bit" if _cuda() else "adamw_torch"]
    return [
        "-m", "bench.peers", "--impl", "trl" if program == "peft" else program, "--model", str(folder / "model"),
        "--rows", str(folder), "--works", WORK, "--adapter", str(folder / "adapter"), "--workers", "0",
        "--rank", str(RANK), "--alpha", str(ALPHA), "--rslora", *["--dora"] * dora, *quantised, *MODES[mode][program],
    ]  # fmt: skip


def _ours(folder: Path) -> list[str]:
    return ["-m", "bench.qlora_ours", "--model", str(folder / "model"), "--rows", str(folder), "--work", WORK]


def _sets(changes: list[str]) -> list[str]:
    fixed = [f"adapter.rank={RANK}", f"adapter.alpha={ALPHA}", "adapter.rslora=true"]
    return [part for change in [*fixed, *changes] for part in ("--set", change)]


def _write_model(folder: Path, sizes: dict[str, Any]) -> None:
    import torch

    write(folder, sizes, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if torch.cuda.is_available():
        # The other processes need what this one's allocator keeps.
        torch.cuda.empty_cache()


def _sizes(options: argparse.Namespace) -> dict[str, Any]:
    sizes = SHAPE_TINY if options.tiny else SHAPE_12B
    return {**sizes, "num_hidden_layers": options.layers} if options.layers else sizes


def _run(arguments: list[str], log: Path, folder: Path, limit: int, caches: dict[str, str]) -> int:
    """Run Python on `arguments` in an empty folder; 124 is the exit status of one that ran past `limit` seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as place, log.open("w", encoding="utf-8") as out:
        given = [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *given]), "PYTHONUNBUFFERED": "1",
                       **caches}  # fmt: skip
        try:
            return subprocess.run(
                [sys.executable, *arguments], cwd=place, env=environment, stdout=out, stderr=subprocess.STDOUT,
                timeout=limit,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-1500:].strip()


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _record(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "command": "python -m bench.qlora " + " ".join(sys.argv[1:]), "commit": options.commit,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "model": "tiny" if options.tiny else "12b", "layers": _sizes(options)["num_hidden_layers"],
        "tokens": TINY_TOKENS if options.tiny else TOKENS, "steps": options.steps, "rank": RANK, "alpha": ALPHA,
        "python": sys.version.split()[0], "runs": [],
    }  # fmt: skip


def _write(out: Path | None, record: dict[str, Any]) -> None:
    if out:
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.qlora", description=__doc__)
    parser.add_argument("--only", default=",".join(PACKAGES), help="programs, with commas, if installed")
    parser.add_argument("--modes", default=",".join(MODES), help="best, lean or both")
    parser.add_argument("--adapters", default=",".join(ADAPTERS), help="lora, dora or both")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--limit", type=int, default=200, help="seconds that one program may take")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--tiny", action="store_true", help="a small model, for a CPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="also for ours at its fastest")
    parser.add_argument("--set-lean", action="append", default=[], metavar="KEY=VALUE", help="also for ours when lean")
    parser.add_argument("--folder", type=Path, help="keeps the model, rows and logs; a new temporary one otherwise")
    parser.add_argument("--commit", default="unknown", help="for the record")
    parser.add_argument("--out", type=Path, help="the record, as JSON; written anew after each program")
    options = parser.parse_args(arguments)
    for name, known in (("only", PACKAGES), ("modes", MODES), ("adapters", ADAPTERS)):
        asked = getattr(options, name).split(",")
        if unknown := sorted(set(asked) - set(known)):
            parser.error(f"--{name}: no {', '.join(unknown)}; choose among {', '.join(known)}")
        setattr(options, name, [choice for choice in known if choice in asked])
    if options.steps < 8:
        parser.error("--steps must be at least 8: five warm up")
    options.programs = [program for program in options.only if find_spec(PACKAGES[program])]
    for program in set(options.only) - set(options.programs):
        print(f"{program}: not installed, left out", file=sys.stderr)
    return options


if __name__ == "__main__":
    main()
