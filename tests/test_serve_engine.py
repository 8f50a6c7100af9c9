"""The worker process of `dozan serve` and its parent: prefixes, turns, limits, and what happens when it is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from serve_fixtures import alive
from ship_models import make_folder

from dozan.model.bundle import Bundle, open_model
from dozan.ship import llamacpp
from dozan.ship.gguf import write_gguf
from dozan.ship.serve_engine import Busy, End, Engine, EngineError, Limits, Line, Refused, Ticket
from dozan.ship.serve_worker import Job, drawn, nucleus

Value = TypeVar("Value")
STOPS = [1, 106, 50]
TRUNK = [2, *range(300, 420)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_model(make_folder(tmp_path_factory.mktemp("models") / "plain"))


@pytest.fixture(scope="module")
def gguf(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(bundle, tmp_path_factory.mktemp("gguf") / "plain-f32.gguf", "f32")


def with_engine(gguf: Path, work: Callable[[Engine], Awaitable[Value]], **limits: Any) -> Value:
    """What `work` makes of an engine, which is closed after it and leaves no process."""

    async def run() -> Value:
        engine = Engine(gguf, STOPS, Limits(**{"threads": 1, "slots": 4, "length": 1024, **limits}))
        await engine.start()
        pid = engine.pid
        try:
            return await asyncio.wait_for(work(engine), 100)
        finally:
            await engine.close()
            assert pid is not None and not alive(pid) and engine.pid is None

    return asyncio.run(run())


async def said(engine: Engine, prompt: list[int], most: int, **more: Any) -> tuple[list[int], End]:
    events = [event async for event in engine.answer(prompt, most, **more)]
    assert isinstance(events[-1], End)
    return [event for event in events[:-1] if isinstance(event, int)], events[-1]


def test_answers_are_those_of_one_at_a_time(gguf: Path) -> None:
    """Prompts with a common trunk, each a prefix of the next, and strangers; more of them than places."""
    prompts = [TRUNK[: 10 + 9 * i] + [500 + i] for i in range(12)] + [[2, 700 + i] for i in range(3)]
    expected = llamacpp.complete(gguf, prompts, 10, STOPS)

    async def work(engine: Engine) -> list[tuple[list[int], End]]:
        return list(await asyncio.gather(*(said(engine, prompt, 10) for prompt in prompts)))

    found = with_engine(gguf, work)
    assert sum(ids == other for (ids, _), other in zip(found, expected, strict=True)) >= len(prompts) - 1
    assert all(end.reason == ("length" if len(ids) == 10 else "stop") for ids, end in found)


def test_a_prefix_is_computed_once(gguf: Path) -> None:
    """Also when all ask at the same moment, in other places, and after a conversation went on."""
    trunk = [2, *range(300, 1300)]
    prompts = [[*trunk, 500 + i, 600 + i] for i in range(6)]

    async def work(engine: Engine) -> tuple[list[int], int, int]:
        together = await asyncio.gather(*(said(engine, prompt, 4) for prompt in prompts))
        known = [end.known for _, end in together]
        ids, _ = await said(engine, prompts[0], 4)
        after = (await said(engine, [*prompts[0], *ids, 900], 2))[1].known
        same = (await said(engine, prompts[0], 2))[1].known
        return known, after, same

    known, after, same = with_engine(gguf, work, length=2048)
    assert sorted(known)[0] == 0 and all(count >= len(trunk) for count in sorted(known)[1:])
    assert after == len(prompts[0]) + 3, "the answer too, but for its last token"
    assert same == len(prompts[0]) - 1, "the last token is computed for its logits"


def test_a_worker_that_is_killed_stopped_or_gone_is_started_again(gguf: Path) -> None:
    async def lose(engine: Engine, number: int) -> str:
        with pytest.raises(EngineError) as lost:
            async for event in engine.answer(TRUNK, 900):
                if event and engine.pid is not None:
                    os.kill(engine.pid, number)
                    number = 0
        return str(lost.value)

    async def work(engine: Engine) -> list[str]:
        expected = await said(engine, TRUNK, 5)
        words = []
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGABRT):
            words.append(await lose(engine, number))
            assert (await said(engine, TRUNK, 5))[0] == expected[0]
        return words

    killed, stopped, aborted = with_engine(gguf, work, quiet_seconds=1.0, length=2048)
    assert "ended by signal 9" in killed and "ended by signal 6" in aborted
    assert "said nothing for 1 seconds" in stopped


def test_who_leaves_frees_the_place_and_others_are_not_disturbed(gguf: Path) -> None:
    async def work(engine: Engine) -> tuple[int, int]:
        expected = (await said(engine, [2, 333], 30))[0]
        leaving = [engine.answer(TRUNK, 900) for _ in range(6)]
        waiting = [asyncio.create_task(anext(answer)) for answer in leaving]  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        load = engine.load
        other = asyncio.create_task(said(engine, [2, 333], 30))
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for answer in leaving:
            await answer.aclose()  # type: ignore[attr-defined]
        assert (await other)[0] == expected and engine.load == (0, 0)
        return load

    assert with_engine(gguf, work) == (4, 2)


def test_limits_of_time_memory_queue_and_grammar(gguf: Path) -> None:
    async def work(engine: Engine) -> str:
        limits = Path(f"/proc/{engine.pid}/limits").read_text()
        held = [asyncio.create_task(said(engine, TRUNK, 800)) for _ in range(5)]
        await asyncio.sleep(0.1)
        with pytest.raises(Busy, match="1 requests wait already"):
            await said(engine, [2, 3], 2)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        with pytest.raises(Refused, match="cannot read the grammar"):
            await said(engine, [2, 3], 2, grammar="root ::= (")
        assert (await said(engine, [2, 3], 9, grammar='root ::= "a"'))[1].reason == "stop"
        return next(line for line in limits.splitlines() if line.startswith("Max address space"))

    assert "unlimited" not in with_engine(gguf, work, waiting=1)
    with pytest.raises(EngineError, match="did not open it in 0.01 s"):
        with_engine(gguf, lambda engine: said(engine, [2], 1), load_seconds=0.01)


@pytest.mark.parametrize("how", ["half", "zeros", "text", "none"])
def test_a_damaged_file_is_an_error_of_one_sentence(how: str, gguf: Path, tmp_path: Path) -> None:
    data = gguf.read_bytes()
    made = {"half": data[: len(data) // 2], "zeros": data[:100] + bytes(4000) + data[4100:], "text": b"hello"}
    broken = tmp_path / "broken.gguf"
    if how in made:
        broken.write_bytes(made[how])
    with pytest.raises(EngineError, match="broken.gguf cannot be run: .*; export the model again"):
        with_engine(broken, lambda engine: said(engine, [2], 1))


def test_a_file_that_is_damaged_later_fails_those_who_wait(gguf: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(gguf.read_bytes())

    async def work(engine: Engine) -> None:
        copy.unlink()
        copy.write_bytes(b"GGUF")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await asyncio.sleep(0.3)
        for _ in range(2):
            with pytest.raises(EngineError, match="copy.gguf cannot be run"):
                await said(engine, [2, 3], 2)
        copy.write_bytes(gguf.read_bytes())
        assert (await said(engine, [2, 3], 2))[0]

    with_engine(copy, work)


def test_clients_take_turns() -> None:
    line, made = Line(), []
    for number, client in enumerate("aaaabbc"):
        made.append(Ticket(Job(number, [2], 1), client))
        line.put(made[-1])
    line.drop(made[1])
    line.drop(made[1])
    assert len(line) == 6
    assert [line.take().job.id for _ in range(6)] == [0, 4, 6, 2, 5, 3] and len(line) == 0


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    draw, logits = np.random.default_rng(0), np.array([2.0, 1.0, 0.0, -50.0], np.float32)
    counts = np.bincount([int(drawn(logits, 2.0, 1.0, draw).argmax()) for _ in range(20_000)], minlength=4)
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    assert np.abs(counts / 20_000 - expected).max() < 0.015
    kept = {int(drawn(logits, 2.0, 0.6, draw).argmax()) for _ in range(2000)}
    assert kept == {0, 1}
    among = [int(drawn(logits, 2.0, 0.6, draw)[2:].argmax()) for _ in range(200)]
    assert set(among) == {0}, "where only others are allowed, the likelier of them"


def test_the_nucleus_is_the_fewest_tokens_that_reach_p() -> None:
    rng = np.random.default_rng(1)
    for size, p in ((7, 0.5), (3000, 0.3), (3000, 0.999), (600, 1e-9), (600, 1 - 1e-12)):
        scores = rng.normal(size=size).astype(np.float32)
        weights = np.exp(scores.astype(np.float64)) / np.exp(scores.astype(np.float64)).sum()
        order = np.argsort(-weights)
        count = int(np.searchsorted(np.cumsum(weights[order]), p)) + 1
        kept = np.flatnonzero(nucleus(scores, p))
        assert abs(len(kept) - min(count, size)) <= 1 and set(kept) >= set(order[: min(count, size) - 1])
