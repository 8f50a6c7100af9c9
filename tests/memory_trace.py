"""The real passes on tensors without storage: what the GPU's path allocates, counted op by op on any machine.

Shapes, lifetimes and autograd are real; only Triton's kernels do not run, for there is nothing to write to. The
memory-efficient attention asks for the rows themselves, so that its path is counted on a CPU's tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import triton.runtime.interpreter as interpreter
from torch import Tensor, nn

from bench.memory import Allocations
from dozan.kernels import cross_entropy, low_rank
from dozan.kernels.attention_efficient import EfficientTrieAttention
from dozan.kernels.attention_triton import TritonTrieAttention
from dozan.kernels.embedding import Int8Rows
from dozan.kernels.nf4 import NF4
from dozan.model import adapter
from dozan.model.gemma3 import Gemma3
from dozan.model.held import hold_embedding
from dozan.model.quantised import QuantisedLinear
from dozan.model.recompute import Recompute
from dozan.recipe import ModelRecipe
from dozan.train.full import Masters
from dozan.train.memory_setup import Setup

META = torch.device("meta")


def counted(setup: Setup) -> int:
    """The most bytes that one pack's passes, one long row, have at once, without what is there before them."""
    device = META if setup.path == "triton" else torch.device("cpu")
    model = _model(setup, device)
    ids, end = (torch.full((setup.tokens,), value, device=device) for value in (0, setup.tokens))
    position = torch.arange(setup.tokens, device=device)
    at, target = (torch.zeros(setup.supervised, dtype=torch.int64, device=device) for _ in range(2))
    weight = torch.empty(setup.supervised, device=device)
    attention = TritonTrieAttention if setup.path == "triton" else EfficientTrieAttention
    known = list[Tensor]()
    if setup.full:
        known += [m.grad for _, m in Masters(model).parameters if m.grad is not None]
    for parameter in (p for p in model.parameters() if p.requires_grad and p.dtype == torch.float32):
        parameter.grad = torch.empty_like(parameter)
    known += [ids, position, end, at, target, weight, *model.parameters(), *model.buffers()]
    if isinstance(model.embedding, Int8Rows):
        known += [model.embedding.codes, model.embedding.scale]
    known += [p.grad for p in model.parameters() if p.grad is not None]

    def loss() -> Tensor:
        c = model.config
        attend = attention(position, end, c.sliding_window, c.scale)
        hidden = model(ids, position, attend, Recompute(setup.recompute))
        return cross_entropy.supervised_cross_entropy(hidden.index_select(0, at), model.embedding, target, weight)

    with _as_on_a_gpu(), Allocations(known) as found:
        loss().backward()
    return found.peak


def _model(setup: Setup, device: torch.device) -> Gemma3:
    dtype = getattr(torch, setup.dtype)
    with device, mock.patch.object(adapter, "_gaussian", lambda rank, width, seed: torch.empty(rank, width)):
        model = Gemma3(setup.config).to(dtype)
        if setup.quantise == "nf4":
            for name, linear in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, QuantisedLinear(_nf4(*linear.weight.shape)))
        if not setup.full:
            adapter.attach(model, setup.adapter, 0)
        hold_embedding(model, ModelRecipe(embedding=setup.embedding), device)
    return model.train()


def _nf4(outputs: int, inputs: int) -> NF4:
    blocks = outputs * inputs // 64
    codes, absmax = torch.empty(outputs * inputs // 2, dtype=torch.uint8), torch.empty(blocks, dtype=torch.uint8)
    return NF4(codes, absmax, torch.empty(-(-blocks // 256)), torch.empty(256), torch.empty(()), (outputs, inputs))


def _wide(left: Tensor, right: Tensor) -> Tensor:
    """What a GPU does in one product."""
    return torch.empty(left.shape[0], right.shape[1], device=left.device)


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Every module that asks whether Triton runs is told so, and no kernel runs."""
    asking = [m for name, m in sys.modules.items() if name.startswith("dozan.") and hasattr(m, "has_triton")]
    patches = [mock.patch.object(m, "has_triton", lambda device: True) for m in asking]
    patches.append(mock.patch.object(interpreter.InterpretedFunction, "run", lambda *_, **__: None))
    patches.append(mock.patch.object(low_rank, "_wide", _wide))
    chunk = cross_entropy.CHUNK_BYTES["cuda"]
    patches.append(mock.patch.dict(cross_entropy.CHUNK_BYTES, {"meta": chunk, "cpu": chunk}))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()
