"""What happens while a CUDA graph is recorded: garbage that holds an older one, and another thread at work."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from models import tiny_model, tree_rows
from test_train import recipe

from dozan.judge.decode import Decoder, Shape
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3
from dozan.train import loop
from dozan.train.plan import make_plan
from dozan.train.state import Trainee

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)


def recorded() -> torch.cuda.CUDAGraph:
    graph, numbers = torch.cuda.CUDAGraph(), torch.zeros(8, device="cuda")
    with torch.cuda.graph(graph):
        numbers += 1
    return graph


def drop_while_captured(model: Gemma3, held: list[torch.cuda.CUDAGraph]) -> None:
    """Once a graph is being recorded, leave all of `held` in cycles that only the collector finds, and call it."""

    def before(*_: object) -> None:
        if held and torch.cuda.is_current_stream_capturing():
            for graph in held:
                cycle: list[object] = [graph]
                cycle.append(cycle)
            held.clear()
            del graph, cycle
            _ = [[] for _ in range(10_000)]  # it comes after so many that are made and kept

    model.model.layers[0].register_forward_pre_hook(before)


@contextmanager
def another_thread_at_work() -> Iterator[None]:
    """One that copies to memory of its own and waits, as one that writes checkpoints."""
    over, stream, numbers = threading.Event(), torch.cuda.Stream(), torch.ones(1 << 16, device="cuda")
    failed: list[Exception] = []

    def work() -> None:
        try:
            while not over.is_set():
                with torch.cuda.stream(stream):
                    numbers.cpu()
                    ready = torch.cuda.Event()
                    ready.record()
                torch.empty(1 << 12, pin_memory=True)
                ready.synchronize()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed


def a_model() -> Gemma3:
    return tiny_model(head_dim=16).to("cuda")


def train(model: Gemma3) -> None:
    chosen = recipe()
    attach(model, chosen.adapter, 0)
    trainee, plan = Trainee.of(model, chosen, "base"), make_plan(chosen, tree_rows())
    for step in range(4):
        loop.optimiser_step(trainee, plan.prepare(step), 0.01, step).read()


def decode(model: Gemma3) -> weakref.ref[Decoder]:
    shape = Shape(2, 64, 0)
    decoder = Decoder(model, [shape], 8, [1])
    decoder.state(shape)
    decoder.decode(shape, 0, torch.tensor([5, 6], device="cuda"), [0, 0], [8, 8])
    return weakref.ref(decoder)


@pytest.mark.parametrize("work", [train, decode])
def test_garbage_waits(work: Callable[[Gemma3], object]) -> None:
    held, model = [recorded() for _ in range(8)], a_model()
    drop_while_captured(model, held)
    work(model)
    assert not held


@pytest.mark.parametrize("work", [train, decode])
def test_other_threads_do_not_matter(work: Callable[[Gemma3], object]) -> None:
    with another_thread_at_work():
        work(a_model())


def test_a_decoder_goes_at_once() -> None:
    gc.disable()
    try:
        assert decode(a_model())() is None
    finally:
        gc.enable()
