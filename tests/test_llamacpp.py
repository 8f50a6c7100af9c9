"""Running a GGUF: greedy answers, shared prefixes, stops, token ids, and files or requests that cannot be run."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from ship_models import arabic_lines, make_folder

from dozan.errors import InputError
from dozan.model.bundle import Bundle, open_model
from dozan.ship import llamacpp
from dozan.ship.gguf import write_gguf
from dozan.ship.parity import reference_logits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_model(make_folder(tmp_path_factory.mktemp("models") / "plain"))


@pytest.fixture(scope="module")
def f32(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(bundle, tmp_path_factory.mktemp("gguf") / "plain-f32.gguf", "f32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """40 prompts over two long trunks, of ragged lengths, one a prefix of another, two equal, one alone."""
    draw = random.Random(7)

    def words(count: int) -> list[int]:
        return [draw.randrange(400, 2000) for _ in range(count)]

    trunks = [[2, *words(60)], [2, *words(30)]]
    rows = [trunks[i % 2] + words(draw.randrange(1, 25)) for i in range(36)]
    rows += [trunks[0], rows[4] + words(3), rows[5], [2, *words(5)]]
    draw.shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def answers(f32: Path, prompts: list[list[int]]) -> list[list[int]]:
    return llamacpp.complete(f32, prompts, 12, stop_ids=[])


def test_answers_are_the_models_own_greedy_ones(
    bundle: Bundle, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    for answer, logits in zip(answers, reference_logits(bundle.model, rows, 13), strict=True):
        assert len(answer) == 12
        chosen = logits[np.arange(12), answer]
        assert (chosen >= logits[:12].max(-1) - 0.03).all(), "off by more than f16 keys and values explain"


def test_an_answer_does_not_depend_on_the_other_prompts(f32: Path, prompts: list[list[int]]) -> None:
    few = prompts[:4]
    together = llamacpp.inspect(f32, [*few, *prompts[10:14]]).logits[:4]
    alone = [llamacpp.logits(f32, prompt)[-1:] for prompt in few]
    assert all(np.abs(a - b).max() < 1e-4 for a, b in zip(together, alone, strict=True))


def test_stops_are_cut_and_progress_is_told(f32: Path, prompts: list[list[int]], answers: list[list[int]]) -> None:
    stops = {answer[3] for answer in answers[:5]}
    told: list[tuple[int, int]] = []
    stopped = llamacpp.complete(f32, prompts, 12, sorted(stops), lambda done, total: told.append((done, total)))
    cut = [answer[: next((i for i, token in enumerate(answer) if token in stops), 12)] for answer in answers]
    assert stopped == cut
    assert any(len(answer) < 12 for answer in stopped)
    assert told == [(i + 1, len(prompts)) for i in range(len(prompts))]


def test_no_prompts_no_answers(f32: Path) -> None:
    assert llamacpp.complete(f32, [], 5, [1]) == []


@pytest.mark.parametrize("sentencepiece", [True, False])
def test_ids_of_a_thousand_arabic_lines_are_ours(sentencepiece: bool, tmp_path: Path) -> None:
    bundle = open_model(make_folder(tmp_path / "model", sentencepiece=sentencepiece))
    gguf = write_gguf(bundle, tmp_path / "model.gguf", "q8_0")
    lines = [*arabic_lines(), "", " ", "a  b", "  ", "سطر\n\nسطر", "<end_of_turn><escape>", "\t🙂 12:30"]
    assert len(lines) > 1000
    assert llamacpp.tokenize(gguf, lines) == [bundle.tokenizer.encode(line) for line in lines]


def damage(data: bytes, how: str) -> bytes:
    match how:
        case "truncated tensors":
            return data[: len(data) * 2 // 3]
        case "truncated metadata":
            return data[:2000]
        case "a huge count":
            return data[:8] + (2**60).to_bytes(8, "little") + data[16:]
        case "zeroed metadata":
            return data[:100] + bytes(4000) + data[4100:]
        case "another file":
            return b"PK\x03\x04" + data[4:]
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["truncated tensors", "truncated metadata", "a huge count", "zeroed metadata", "another file"]
)
def test_a_damaged_file_is_an_input_error(how: str, f32: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damage(f32.read_bytes(), how))
    with pytest.raises(InputError, match="broken.gguf"):
        llamacpp.complete(broken, [[2, 300]], 2, [1])


def test_requests_that_cannot_be_run(f32: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        llamacpp.tokenize(tmp_path / "absent.gguf", ["a"])
    with pytest.raises(InputError, match="prompt 1 has no tokens"):
        llamacpp.complete(f32, [[2], []], 2, [1])
    with pytest.raises(InputError, match="llama_decode returned"):
        llamacpp.complete(f32, [[2, 10**6]], 2, [1])
    with pytest.raises(InputError, match="did not finish within"):
        llamacpp.complete(f32, [[2, 300]], 2, [1], seconds=0.001)
