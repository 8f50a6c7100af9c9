"""`eval --shard` and ranks: what joined parts give is what one process writes, to the byte; other parts are refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks, results
from test_bad_input import leave, write_rows

from dozan import EMBEDDED_BASE
from dozan.chat.encode import gold
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.cli.evaluate import evaluate_ranks
from dozan.demo import TEST
from dozan.errors import InputError
from dozan.judge.predictions import read_predictions
from dozan.judge.purposes import PurposeRow, PurposeScores
from dozan.judge.shards import OtherRows, join_scores, score_entries
from dozan.rows.parts import Head, part_of, read_part
from dozan.rows.readers import read_rows
from dozan.rows.shards import Shard
from dozan.ship.sharded import Asked
from dozan.world import World

ROWS, MORE = 17, 70
GOLDEN = Path(__file__).parent / "golden" / "shapes"
Captured = pytest.CaptureFixture[str]
forked = pytest.mark.skipif(torch.get_num_threads() > 1 and os.environ.get("OMP_NUM_THREADS") != "1",
                            reason="processes are forked: OMP_NUM_THREADS=1")  # fmt: skip


def run(*arguments: object) -> None:
    assert leave([str(argument) for argument in arguments]) == 0


def parts(folder: Path, count: int, *given: object) -> list[Path]:
    made = [folder / f"part-{index}.json" for index in range(1, count + 1)]
    for index, path in enumerate(made, 1):
        run("eval", *given, "--shard", f"{index}/{count}", "--json", path)
    return made


def joined(folder: Path, made: list[Path], *more: object) -> bytes:
    run("join", *sorted(made, key=lambda path: path.name[::-1]), "--json", folder / "joined.json", *more)
    return (folder / "joined.json").read_bytes()


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes of the embedded base's answers: scores and page."""
    folder = tmp_path_factory.mktemp("whole")
    run("eval", "--data", TEST, "--limit", ROWS, "--max-new-tokens", 8, "--preset", "aisa", "--json",
        folder / "whole.json", "--html", folder / "whole.html")  # fmt: skip
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [2, 3])
def test_answers_in_parts_are_those_of_one_process(answered: dict[str, bytes], tmp_path: Path, count: int) -> None:
    made = parts(tmp_path, count, "--data", TEST, "--limit", ROWS, "--max-new-tokens", 8, "--preset", "aisa")
    assert joined(tmp_path, made, "--html", tmp_path / "joined.html") == answered[".json"]
    assert (tmp_path / "joined.html").read_bytes() == answered[".html"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test rows, with the tools beside them."""
    folder = tmp_path_factory.mktemp("rows")
    shutil.copy(TEST.parent / "tools.json", folder)
    lines = TEST.read_text(encoding="utf-8").splitlines()[:MORE]
    return write_rows(folder / "test.jsonl", *lines)


def predictions(path: Path, data: Path, seed: int = 0) -> Path:
    """Answers to the rows: right, with a value changed, malformed, missing, too many."""
    draw, lines = random.Random(seed), []
    for example in read_rows(data):
        calls: Any = [{"name": call.name, "arguments": dict(call.arguments)} for call in gold(example).calls]
        way = draw.randrange(5)
        if way == 1 and calls and calls[0]["arguments"]:
            calls[0]["arguments"][next(iter(calls[0]["arguments"]))] = draw.choice(("غير ذلك", "٥", 7, None))
        answer = {2: "<start_function_call>call:x{", 3: [*calls, {"name": "send_email"}]}.get(way, calls)
        lines.append({"id": example.id, "prediction": answer})
    draw.shuffle(lines)
    return write_rows(path, *lines)


@pytest.mark.parametrize(("count", "preset"), [(1, None), (2, "mobile-actions"), (3, "aisa"), (7, "metga97")])
def test_predictions_and_presets_in_parts(data: Path, tmp_path: Path, count: int, preset: str | None) -> None:
    file = predictions(tmp_path / "predictions.jsonl", data)
    given = ["--data", data, "--predictions", file, *(["--preset", preset] if preset else [])]
    run("eval", *given, "--json", tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes()
    assert 0 < json.loads(whole)["strict"] < 1 and json.loads(whole)["n"] == MORE
    assert joined(tmp_path, parts(tmp_path, count, *given)) == whole


def test_parts_without_a_row(data: Path, tmp_path: Path) -> None:
    given = ["--data", data, "--predictions", predictions(tmp_path / "predictions.jsonl", data), "--limit", 5]
    run("eval", *given, "--json", tmp_path / "whole.json")
    made = parts(tmp_path, 7, *given)
    assert [len(list(read_part(path).rows())) for path in made] == [1, 1, 1, 1, 1, 0, 0]
    assert joined(tmp_path, made) == (tmp_path / "whole.json").read_bytes()


def test_bfcl_s_files_in_parts(tmp_path: Path) -> None:
    """The possible answers lie beside the rows, and the preset needs them in the join."""
    shutil.copytree(GOLDEN, tmp_path / "rows")
    data = tmp_path / "rows" / "BFCL_v4_multiple.json"
    examples = read_rows(data)
    lines = [{"id": example.id, "prediction": FUNCTIONGEMMA.render(example.messages, example.tools).text[-60:]}
             for example in examples]  # fmt: skip
    given = ["--data", data, "--predictions", write_rows(tmp_path / "p.jsonl", *lines), "--preset", "bfcl"]
    run("eval", *given, "--json", tmp_path / "whole.json")
    made = parts(tmp_path, 2, *given)
    shutil.rmtree(tmp_path / "rows")
    assert joined(tmp_path, made) == (tmp_path / "whole.json").read_bytes()


def test_a_purpose_in_parts(tmp_path: Path) -> None:
    """Losses may differ in their last digits, all else may not."""
    data = write_rows(tmp_path / "rows.jsonl", *(
        {"question": f"كم {i} زائد {i}؟ " * (1 + i % 3), "answer": f"{2 * i}\n#### {2 * i}"} for i in range(9)))
    given = ["--data", data, "--purpose", "reasoning", "--max-new-tokens", 3]
    run("eval", *given, "--json", tmp_path / "whole.json", "--html", tmp_path / "whole.html")
    whole = json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))
    found = json.loads(joined(tmp_path, parts(tmp_path, 2, *given), "--html", tmp_path / "joined.html"))
    assert list(found) == list(whole) and whole["n"] == 9 and whole["loss"] > 0
    for one, other in ((found, whole), *zip(found["rows"], whole["rows"], strict=True)):
        close = {key: pytest.approx(value, rel=1e-5) for key, value in other.items() if key.startswith("loss")}
        assert {**one, "rows": 0} == {**other, **close, "rows": 0}
    assert (tmp_path / "joined.html").is_file()


def test_guards_are_those_that_held_in_every_part() -> None:
    row = PurposeRow("a", "f:1", "?", "x", "y", True, "", None, 0, {})
    scores = [PurposeScores("code", (row,), guards) for guards in (("audit", "limits"), ("audit", "seccomp"))]
    empty = PurposeScores("code", (), ())
    about = {"rows": 2, "purpose": "code"}
    made = [part_of(str(i), Head("eval", Shard(i, 3), {}, about), list(score_entries(each, ())),
                    {"guards": list(each.guards)}) for i, each in enumerate([*scores, empty], 1)]  # fmt: skip
    whole = join_scores(made[::-1]).scores
    assert whole == PurposeScores("code", (row, row), ("audit",))


def refused(capsys: Captured, *arguments: object) -> str:
    capsys.readouterr()
    assert leave([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_parts_of_other_work_are_refused(
    data: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, data = predictions(tmp_path / "predictions.jsonl", data), Path(shutil.copy(data, tmp_path))
    shutil.copy(TEST.parent / "tools.json", tmp_path)
    given = ["--data", data, "--predictions", file]
    made = parts(tmp_path, 2, *given)
    other = tmp_path / "other.json"
    shard = ["--shard", "2/2", "--json", other]
    assert "missing: 2/2; run the same command with --shard 2/2" in refused(capsys, "join", made[0])
    assert f"part 1/2 is there twice: {made[0]} and {made[0]}" in refused(capsys, "join", made[0], made[0], made[1])

    def against(*asked: object) -> str:
        run("eval", *asked, *shard)
        return refused(capsys, "join", made[0], other)

    assert f"limit: {other} has 9, {made[0]} has None" in against(*given, "--limit", 9)
    assert f"preset: {other} has aisa, {made[0]} has None" in against(*given, "--preset", "aisa")
    assert "predictions: " in against("--data", data, "--predictions", predictions(tmp_path / "more.jsonl", data, 1))
    run("data", "check", data, *shard)
    assert f"{other} is of dozan data check, {made[0]} of dozan eval" in refused(capsys, "join", made[0], other)
    monkeypatch.setattr("dozan.__version__", "9.9.9")
    assert f"dozan: {other} has 9.9.9, {made[0]} has 0.1.0" in against(*given)
    monkeypatch.undo()
    tools = json.loads((tmp_path / "tools.json").read_text(encoding="utf-8"))
    tools[0]["function"]["description"] = "غيرها"
    (tmp_path / "tools.json").write_text(json.dumps(tools), encoding="utf-8")
    assert f"{tmp_path.name}/tools.json: " in against(*given)
    data.write_bytes(data.read_bytes() + b"\n")
    assert "rows, test.jsonl: " in against(*given)
    content = bytearray(made[1].read_bytes())
    content[len(content) // 2] ^= 4
    made[1].write_bytes(content)
    assert f"{made[1]}: damaged, it has other bytes" in refused(capsys, "join", *made)


def test_other_models_are_told_apart(tmp_path: Path, capsys: Captured) -> None:
    copy, moved = tmp_path / "a" / "base", tmp_path / "b" / "base"
    for folder in (copy, moved):
        shutil.copytree(EMBEDDED_BASE, folder)
    given = ["--data", TEST, "--limit", 2, "--max-new-tokens", 1]
    for index, folder in ((1, copy), (2, moved)):
        run("eval", *given, "--model", folder, "--shard", f"{index}/2", "--json", tmp_path / f"part-{index}.json")
    made = [tmp_path / "part-1.json", tmp_path / "part-2.json"]
    joined(tmp_path, made)
    config = json.loads((moved / "config.json").read_text(encoding="utf-8"))
    (moved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run("eval", *given, "--model", moved, "--shard", "2/2", "--json", made[1])
    assert f"model: {made[1]} has " in refused(capsys, "join", *made)
    run("eval", *given[:-1], 2, "--model", copy, "--shard", "2/2", "--json", made[1])
    assert f"max_new_tokens: {made[1]} has 2, {made[0]} has 1" in refused(capsys, "join", *made)


def test_what_does_not_go_together_is_said(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["eval", "--data", TEST]
    assert "--shard 4/4" in refused(capsys, *given, "--shard", "5/4", "--json", "x.json")
    assert "--json part-1.json" in refused(capsys, *given, "--shard", "1/4")
    assert "dozan join" in refused(capsys, *given, "--shard", "1/4", "--json", "x.json", "--html", "x.html")
    empty = write_rows(tmp_path / "empty.jsonl", "")
    assert "no rows" in refused(capsys, "eval", "--data", empty, "--shard", "2/4", "--json", tmp_path / "x.json")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "leave --shard out" in refused(capsys, *given, "--shard", "1/4", "--json", "x.json")


def test_predictions_for_other_rows_are_found(data: Path, tmp_path: Path, capsys: Captured) -> None:
    file = predictions(tmp_path / "predictions.jsonl", data)
    with file.open("a", encoding="utf-8") as more:
        more.write('{"id": "nobody", "prediction": ""}\n')
    given = ["eval", "--data", data, "--predictions", file, "--shard", "2/3", "--json", tmp_path / "part.json"]
    assert "0 rows have none (), 1 are for other rows (nobody)" in refused(capsys, *given)
    examples, others = read_rows(data), OtherRows()
    for example in examples[3:]:
        others.add(example)
    assert set(read_predictions(file, examples[:3], others)) == {row.id for row in examples[:3]} | {"nobody"}


@forked
@pytest.mark.parametrize("count", [3])
def test_ranks_write_what_one_process_writes(answered: dict[str, bytes], tmp_path: Path, count: int) -> None:
    def work(world: World) -> bool:
        return evaluate_ranks(Asked(TEST, EMBEDDED_BASE, ROWS, 8, preset="aisa"), tmp_path / "all.json", None)

    assert results(count, work) == [True] * count
    assert (tmp_path / "all.json").read_bytes() == answered[".json"]


@forked
def test_a_row_that_one_rank_cannot_score_ends_all(data: Path, tmp_path: Path) -> None:
    file = predictions(tmp_path / "predictions.jsonl", data)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"ma-test-0001"' not in line]
    assert len(kept) == len(lines) - 1
    file.write_text("".join(kept), encoding="utf-8")

    def work(world: World) -> bool:
        return evaluate_ranks(Asked(data, EMBEDDED_BASE, predictions=file), tmp_path / "all.json", None)

    ended = on_ranks(2, work)
    assert [each.status for each in ended] == [2, 2] and not (tmp_path / "all.json").exists()
    assert any("1 rows have none (ma-test-0001)" in f"{each.result} {each.said}" for each in ended)


def test_one_alone_is_not_many() -> None:
    assert not evaluate_ranks(Asked(TEST, EMBEDDED_BASE), None, None)


def test_a_joined_part_must_have_its_rows() -> None:
    head = Head("eval", Shard(1, 1), {}, {"rows": 2, "purpose": None})
    with pytest.raises(InputError, match="fewer rows than its part of 2"):
        join_scores([part_of("p.json", head, [], {})])
    with pytest.raises(InputError, match="more rows than its part of 2"):
        join_scores([part_of("p.json", head, [{"score": {}}] * 3, {})])
