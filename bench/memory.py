"""The memory plan against what a GPU's allocator counts: random models, a few real steps each, one process.

    python -m bench.memory [--out memory.json] [--sizes 270m,1b,4b] [--only NAME] [--large]     one NVIDIA GPU
    python -m bench.memory --tiny                  a CPU and a tiny model: allocations counted op by op

Each configuration builds a model of the real shape, takes three optimiser steps at one pack, and compares
`torch.cuda.max_memory_allocated` with `dozan.train.memory.predict`. The table also has what is held between steps
(weights, adapters, gradients, optimiser), what the allocator reserved, what the whole card lost, and the seconds of the
last step. `--large` adds 12B.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dozan.model.adapter import adapter_parameters, attach, refresh
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.recompute import Recompute
from dozan.pack import Batch
from dozan.recipe import AdapterRecipe, Recipe, override
from dozan.train.loop import optimiser_step
from dozan.train.memory import predict
from dozan.train.memory_setup import GRANULE, Setup
from dozan.train.passes import EagerPasses, padded_length
from dozan.train.plan import Prepared
from dozan.train.shapes import shape_of
from dozan.train.state import Trainee

STEPS = 3
ROW_TOKENS = 1024
TINY: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "sliding_window": 64, "query_pre_attn_scalar": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A configuration; recompute is a share of the layers. `predictions` are supervised."""

    size: str
    rank: int
    tokens: int
    predictions: int
    recompute: float = 0.0
    offload: bool = False
    dora: bool = False
    graphs: bool = True
    quantise: bool = False

    @property
    def name(self) -> str:
        words = [self.size, f"r{self.rank}", f"{self.tokens}", f"S{self.predictions}"]
        words += [f"again {self.recompute:.0%}"] if self.recompute else []
        return " ".join(words + [w for w in ("offload", "dora", "quantise") if getattr(self, w)] +
                        ([] if self.graphs else ["eager"]))  # fmt: skip


CASES = (
    Case("270m", 8, 512, 64),
    Case("270m", 32, 2048, 256),
    Case("270m", 128, 4096, 512),
    Case("270m", 32, 16384, 2048),
    Case("270m", 32, 4096, 512, 0.5),
    Case("270m", 32, 4096, 512, dora=True),
    Case("270m", 32, 8192, 1024, graphs=False),
    Case("1b", 16, 1024, 128),
    Case("1b", 32, 4096, 512),
    Case("1b", 64, 4096, 512, 0.5),
    Case("1b", 32, 4096, 512, 1.0, graphs=False),
    Case("1b", 32, 4096, 512, 1.0, offload=True, dora=True, graphs=False),
    Case("4b", 16, 1024, 128),
    Case("4b", 16, 4096, 512),
    Case("4b", 32, 2048, 256, 0.5),
    Case("4b", 32, 4096, 512, 1.0),
    Case("4b", 64, 4096, 512, 1.0, offload=True, dora=True, graphs=False),
)
LARGE = (Case("12b", 16, 4096, 512, 1.0), Case("12b", 32, 2048, 256), Case("12b", 64, 4096, 512, 1.0, dora=True),
         Case("12b", 64, 4096, 512, 1.0, offload=True, dora=True, graphs=False, quantise=True))  # fmt: skip


class Allocations(TorchDispatchMode):
    """Adds up the storages that ops make, in the allocator's granules: what is alive, and the most that ever was.

    Works without storage too (device `meta`). Storages that exist before are counted when `known` names them: as 0.
    """

    def __init__(self, known: Sequence[torch.Tensor] = (), granule: int = GRANULE) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._granule = granule
        self._known = [tensor.untyped_storage() for tensor in known]
        self._bytes = {storage._cdata: 0 for storage in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._bytes:
            self._bytes[key] = -(-storage.nbytes() // self._granule) * self._granule
            self.live += self._bytes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._bytes.pop(key)


def setup_of(case: Case, config: Gemma3Config, device: torch.device) -> Setup:
    """What is predicted: lengths as the passes pad them."""
    supervised = padded_length(case.predictions, 64, parts=8) if device.type == "cuda" else case.predictions
    return Setup(
        config, AdapterRecipe(rank=case.rank, alpha=float(case.rank), dora=case.dora), case.tokens, supervised,
        dtype="bfloat16" if device.type == "cuda" else "float32",
        recompute=round(case.recompute * config.num_hidden_layers), offload=case.offload,
        quantise="nf4" if case.quantise else "none", path="triton" if device.type == "cuda" else "cpu",
        eager=not case.graphs,
    )  # fmt: skip


def build(setup: Setup, device: torch.device) -> Gemma3:
    """A random model with its adapters; B is zero, which costs what any other does."""
    torch.set_default_dtype(getattr(torch, setup.dtype))
    try:
        with device:
            model = Gemma3(setup.config)
    finally:
        torch.set_default_dtype(torch.float32)
    if setup.quantise == "nf4":
        _quantise(model)
    attach(model, setup.adapter, 0)
    refresh(model)
    return model


def _quantise(model: Gemma3) -> None:
    from dozan.kernels.nf4 import quantise
    from dozan.model.quantised import QuantisedLinear

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, QuantisedLinear(quantise(module.weight.detach())))


def pack(case: Case, vocabulary: int) -> Batch:
    """Rows of up to ROW_TOKENS tokens one behind the other, with predictions at even distances."""
    starts = range(0, case.tokens, ROW_TOKENS)
    place = torch.arange(case.tokens)
    end = (place // ROW_TOKENS + 1).mul(ROW_TOKENS).clamp(max=case.tokens)
    at = torch.linspace(0, case.tokens - 1, case.predictions).long()
    return Batch(
        ids=torch.randint(0, vocabulary, (case.tokens,)), position=place % ROW_TOKENS, end=end, at=at,
        target=torch.randint(0, vocabulary, (len(at),)), weight=torch.ones(len(at)),
        rows=tuple(map(str, starts)), row_starts=tuple(starts), tokens=case.tokens,
    )  # fmt: skip


def trainee_of(case: Case, setup: Setup, model: Gemma3) -> Trainee:
    """As a run makes it; passes op by op where the case wants them."""
    recipe = override(Recipe(adapter=setup.adapter), [
        f"train.recompute={setup.recompute}", f"train.offload={str(setup.offload).lower()}"
    ])  # fmt: skip
    trainee = Trainee.of(model, recipe, "random")
    if not setup.eager or model.device.type != "cuda":
        return trainee
    dial = Recompute.of(recipe.train, setup.config.num_hidden_layers, model.device)
    return replace(trainee, passes=EagerPasses(model, dial))


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """Three steps of a configuration, and the plan's figures beside the measured ones."""
    begun = time.perf_counter()
    config = Gemma3Config.from_json(TINY) if case.size == "tiny" else shape_of(case.size)
    assert config is not None, case.size
    setup = setup_of(case, config, device)
    batch = pack(case, config.vocab_size)
    with _counted(device) as counted:
        model = build(setup, device)
        trainee = trainee_of(case, setup, model)
        prepared = Prepared([], [batch], float(case.predictions))
        counted.mark()
        for step in range(STEPS):
            started = time.perf_counter()
            loss, norm, finite = optimiser_step(trainee, prepared, 1e-4, step).read()
            seconds = time.perf_counter() - started
        assert finite, (case.name, loss, norm)
        found = counted.figures()
    held = sum(p.numel() for _, p in adapter_parameters(model))
    table = predict(setup)
    record = {
        "name": case.name, **asdict(case), "layers_again": setup.recompute, "trained": held,
        "predicted": table.allocated, "predicted_reserved": table.allocated + table.apart, "moment": table.moment,
        "parts": dict(table.parts), **found, "off": table.allocated / found["measured"] - 1, "loss": loss,
        "step_seconds": seconds, "seconds": time.perf_counter() - begun,
    }  # fmt: skip
    return record


class _CudaCount:
    """What the allocator says since everything before was let go."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.before, self.card = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
        self.built = 0

    def mark(self) -> None:
        self.built = torch.cuda.memory_allocated() - self.before
        torch.cuda.reset_peak_memory_stats()

    def figures(self) -> dict[str, int]:
        torch.cuda.synchronize()
        return {
            "measured": torch.cuda.max_memory_allocated(), "before": self.before, "built": self.built,
            "between_steps": torch.cuda.memory_allocated(), "reserved": torch.cuda.max_memory_reserved(),
            "card": self.card - torch.cuda.mem_get_info()[0],
        }  # fmt: skip


class _OpCount:
    """What ops made on a CPU."""

    def __init__(self, mode: Allocations) -> None:
        self.mode, self.built = mode, 0

    def mark(self) -> None:
        self.built = self.mode.live

    def figures(self) -> dict[str, int]:
        return {"measured": self.mode.peak, "built": self.built, "between_steps": self.mode.live}


@contextmanager
def _counted(device: torch.device) -> Iterator[_CudaCount | _OpCount]:
    gc.collect()
    if device.type != "cuda":
        with Allocations() as mode:
            yield _OpCount(mode)
        return
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    yield _CudaCount()


def line(record: dict[str, Any]) -> str:
    """A row of the table, sizes in MiB."""
    sizes = " ".join(f"{record[key] / 2**20:10,.1f}" for key in ("predicted", "measured"))
    rest = " ".join(f"{record[key] / 2**20:9,.1f}" for key in ("between_steps", "reserved", "card") if key in record)
    return f"{record['name']:38} {sizes} {record['off']:+7.2%} {rest} {record['step_seconds'] * 1e3:8.1f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a configuration as it is done, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="The memory plan against a GPU.")
    parser.add_argument("--out", type=Path, help="a JSON file, written after every configuration")
    parser.add_argument("--sizes", default="270m,1b,4b,12b", help="only these")
    parser.add_argument("--only", default="", help="only configurations whose name has this in it")
    parser.add_argument("--large", action="store_true", help="12B too")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    chosen = parser.parse_args(arguments)
    if not chosen.tiny and not torch.cuda.is_available():
        parser.error("no GPU; --tiny runs on a CPU")
    device = torch.device("cpu") if chosen.tiny else torch.device("cuda", 0)
    cases = [c for c in CASES + (LARGE if chosen.large else ()) if c.size in chosen.sizes and chosen.only in c.name]
    if chosen.tiny:
        cases = [Case("tiny", 4, 512, 40, share) for share in (0.0, 0.5, 1.0)]
    print(f"{'MiB':38} {'predicted':>10} {'measured':>10} {'off':>7}   between  reserved      card     step")
    records: list[dict[str, Any]] = []
    for case in cases:
        records.append(measure(case, device))
        print(line(records[-1]), flush=True)
        if chosen.out:
            _write(chosen.out, device, records)
    worst = max(abs(record["off"]) for record in records)
    print(f"{len(records)} configurations, furthest off {worst:.2%}, {sum(r['seconds'] for r in records):.0f} s")


def _write(path: Path, device: torch.device, records: list[dict[str, Any]]) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    whole = {"device": name, "torch": torch.__version__, "steps": STEPS, "row_tokens": ROW_TOKENS, "records": records}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
