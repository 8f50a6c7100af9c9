"""How the memory of activations grows with depth: all kept, each layer's input kept, or the inputs in host memory.

    python -m bench.depth [--out depth.json]     one NVIDIA GPU, below a minute; draws depth.svg beside the file
    python -m bench.depth --tiny                 a CPU and tiny sizes; counts what autograd keeps instead of peaks

At Gemma 3 12B's width, one row of 4,096 tokens, bf16, LoRA of rank 16. All layers are views of one: they share its
frozen weights and its adapter, so that 48 layers cost the weights of one and only activations grow. The loss is the sum
of the hidden states times a fixed random vector, so the head plays no part. Memory is the peak of a step over what is
allocated before it. Each mode's gradients, computed once with attention's in a fixed order, are compared bit by bit
with the first mode's.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dozan.html.charts import Line, line_chart
from dozan.html.page import STYLE
from dozan.kernels import Attend, attends_in_triton, pack_attention
from dozan.model.adapter import adapter_parameters, attach, refresh
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.recompute import HostMemory, Recompute
from dozan.recipe import AdapterRecipe

MODES = ("none", "layers", "offload")
NAMES = {"none": "all activations kept", "layers": "inputs of layers kept", "offload": "inputs in host memory"}
TIMED_STEPS = 3


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    hidden_size: int = 3840
    heads: int = 16
    key_heads: int = 8
    head_dim: int = 256
    intermediate_size: int = 15360
    window: int = 1024
    tokens: int = 4096
    rank: int = 16
    depths: tuple[int, ...] = (4, 8, 16, 32, 48)
    dtype: torch.dtype = torch.bfloat16


TINY = Sizes(32, 4, 2, 8, 48, 8, 128, 4, (2, 5), torch.float32)


@dataclass(frozen=True)
class Run:
    """A mode at a depth: memory of a step in bytes, its median seconds, and whether its gradients are the first
    mode's; `difference` is the norm of what they differ by over theirs."""

    mode: str
    depth: int
    bytes: int
    seconds: float
    equal: bool
    difference: float


@dataclass(frozen=True)
class Bench:
    """A model whose layers share their parameters, its input, and attention: the fast one and the ordered one."""

    model: Gemma3
    ids: Tensor
    position: Tensor
    direction: Tensor
    attend: Attend
    ordered: Attend

    def loss(self, dial: Recompute, attend: Attend) -> Tensor:
        """The sum of the hidden states times a fixed vector, an fp32 scalar."""
        return (self.model(self.ids, self.position, attend, dial) @ self.direction).float().sum()

    def step(self, dial: Recompute, attend: Attend) -> None:
        """A forward and a backward pass; the gradients are in the adapter."""
        self.model.zero_grad(set_to_none=False)
        self.loss(dial, attend).backward()

    def gradients(self) -> Tensor:
        """All gradients of the adapter, fp32, flat."""
        return torch.cat([p.grad.flatten() for _, p in adapter_parameters(self.model) if p.grad is not None])


def make_bench(sizes: Sizes, device: torch.device) -> Bench:
    """One layer of weights; `deepened` makes more of it."""
    torch.manual_seed(0)
    config = Gemma3Config.from_json({
        "vocab_size": 256, "hidden_size": sizes.hidden_size, "num_hidden_layers": 1,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.key_heads, "head_dim": sizes.head_dim,
        "intermediate_size": sizes.intermediate_size, "sliding_window": sizes.window,
        "query_pre_attn_scalar": sizes.head_dim,
    })  # fmt: skip
    with device:
        model = Gemma3(config).to(sizes.dtype)
        position, direction = torch.arange(sizes.tokens), torch.randn(sizes.hidden_size).to(sizes.dtype)
        ids, end = torch.randint(0, 256, (sizes.tokens,)), torch.full((sizes.tokens,), sizes.tokens)
    attach(model, AdapterRecipe(rank=sizes.rank, alpha=float(sizes.rank)), 0)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model):
            if name.endswith("lora_B"):
                parameter.normal_(std=0.02)
    refresh(model)
    attend = ordered = pack_attention(position, end, sizes.window, config.scale, config.head_dim)
    if attends_in_triton(device, config.head_dim):
        from dozan.kernels.attention_triton import TritonTrieAttention

        ordered = TritonTrieAttention(position, end, sizes.window, config.scale, deterministic=True)
    return Bench(model.train(), ids, position, direction, attend, ordered)


def deepened(bench: Bench, depth: int) -> Bench:
    """The same with `depth` layers that are all the first one but for their place, every sixth with full attention."""
    model, layers = copy.copy(bench.model), list[Any]()
    for i in range(depth):
        layers.append(copy.copy(bench.model.model.layers[0]))
        layers[-1].index, layers[-1].sliding = i, (i + 1) % 6 != 0
    model._modules = {"model": copy.copy(bench.model.model)}
    model.model._modules = {**bench.model.model._modules, "layers": nn.ModuleList(layers)}
    return replace(bench, model=model)


def measure(bench: Bench, mode: str, depth: int, memory: HostMemory, reference: Tensor | None) -> tuple[Run, Tensor]:
    """The figures, and the gradients that later modes are compared with. May raise torch.OutOfMemoryError."""
    dial = Recompute(0 if mode == "none" else depth, memory if mode == "offload" else None)
    bench.step(dial, bench.ordered)
    found = bench.gradients()
    reference = found if reference is None else reference
    bench.step(dial, bench.attend)
    on_gpu = bench.ids.is_cuda
    used = peak_bytes(lambda: bench.step(dial, bench.attend)) if on_gpu else kept_bytes(bench, dial)
    seconds = statistics.median(timed(lambda: bench.step(dial, bench.attend)) for _ in range(TIMED_STEPS))
    difference = float((found - reference).norm() / reference.norm())
    return Run(mode, depth, used, seconds, torch.equal(found, reference), difference), reference


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that is allocated on the GPU during a step, less what is allocated before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kept_bytes(bench: Bench, dial: Recompute) -> int:
    """What autograd keeps between the forward and the backward pass, each piece of memory once; without parameters."""
    storages = {p.untyped_storage().data_ptr(): 0 for p in bench.model.parameters()}

    def seen(tensor: Tensor) -> Tensor:
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        loss = bench.loss(dial, bench.attend)
    total = sum(storages.values())
    loss.backward()
    return total


def timed(step: Callable[[], None]) -> float:
    """Seconds of a step; whatever the GPU has to do is awaited before and after."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begun = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - begun


def measure_all(sizes: Sizes, device: torch.device) -> list[Run]:
    """Every mode at every depth; a mode that does not fit at a depth is left out there and above."""
    shallow, runs, fitting = make_bench(sizes, device), list[Run](), list(MODES)
    memory = HostMemory(device)
    for depth in sizes.depths:
        bench, reference = deepened(shallow, depth), None
        for mode in list(fitting):
            try:
                run, reference = measure(bench, mode, depth, memory, reference)
            except torch.OutOfMemoryError:
                fitting.remove(mode)
                torch.cuda.empty_cache()
                print(f"{depth} layers, {mode}: does not fit")
                continue
            runs.append(run)
            print(
                f"{depth:3} layers  {mode:8} {run.bytes / 2**20:11,.2f} MiB {run.seconds * 1e3:9.1f} ms  gradients "
                + ("equal" if run.equal else f"differ by {run.difference:.1e}"),
                flush=True,
            )
    return runs


def drawing(runs: Sequence[Run]) -> str:
    """The curves as an SVG that stands alone: GiB over layers, a colour a mode."""
    lines = [
        Line(NAMES[mode], tuple((run.depth, run.bytes / 2**30) for run in runs if run.mode == mode), i + 1, dots=True)
        for i, mode in enumerate(MODES)
    ]
    return standalone(line_chart(lines, "Memory of activations in GiB by layers", "layers"), lines, ", GiB")


def standalone(svg: str, lines: Sequence[Line], unit: str = "", left: int = 70, top: int = 26) -> str:
    """A chart with its style and its key at `left` and `top`, for a file of its own."""
    key = "".join(
        f'<text x="{left}" y="{top + 16 * i}" style="fill: var(--c{line.colour})">{line.name}{unit}</text>'
        for i, line in enumerate(lines)
    )
    opened, rest = svg.removeprefix("<svg ").split(">", 1)
    style = f"<style>{STYLE}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {opened}>{style}{rest.removesuffix("</svg>")}{key}</svg>\n'


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a run, and write the record and its drawing."""
    parser = argparse.ArgumentParser(description="Memory of activations and time of a step by depth.")
    parser.add_argument("--out", type=Path, help="a JSON file; the curves go beside it as .svg")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    chosen = parser.parse_args(arguments)
    if not chosen.tiny and not torch.cuda.is_available():
        parser.error("no GPU; --tiny runs on a CPU")
    device = torch.device("cpu" if chosen.tiny else "cuda")
    sizes = TINY if chosen.tiny else Sizes()
    runs = measure_all(sizes, device)
    if chosen.out:
        record = {
            "device": "cpu" if chosen.tiny else torch.cuda.get_device_name(), "torch": torch.__version__,
            **asdict(sizes), "dtype": str(sizes.dtype), "element_bytes": sizes.dtype.itemsize,
            "runs": [asdict(run) for run in runs],
        }  # fmt: skip
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        chosen.out.with_suffix(".svg").write_text(drawing(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
