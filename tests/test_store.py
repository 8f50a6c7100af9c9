"""Rows that stream: stores give back what was put in, readings agree, and memory does not grow with the rows."""

from __future__ import annotations

import gc
import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models import row
from test_bad_input import conversation, write_rows
from test_lookahead import tool_rows
from test_train import recipe

from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.pack import pack_rows
from dozan.rows import groups
from dozan.rows.groups import KeyGroups, hash_text, repeated
from dozan.rows.readers import read_rows
from dozan.train import gather, store
from dozan.train import plan as planning
from dozan.train.gather import gather_rows
from dozan.train.loop import evaluation_loss
from dozan.train.plan import make_plan
from dozan.train.prepare import prepare, store_folder
from dozan.train.run import hash_rows
from dozan.train.store import TokenStore

ROOT = Path(__file__).parents[1]
ROWS = [
    *tool_rows(40, 3, length=90),
    *tool_rows(40, 3, length=300, seed=1),
    Tokens("ف\ud800\n\"'", (2,), (1.0,)),
    Tokens("", (2, 262_143, 0), (0.25, 1e-07, 1.0)),
    *tool_rows(3, 2, length=5, seed=3),
]


def stored(folder: Path, rows: list[Tokens], together: int = 7) -> TokenStore:
    found = TokenStore(folder, len(rows))
    for at in range(0, len(rows), together):
        found.add(rows[at : at + together])
    return found


def plain(rows: list[Tokens]) -> list[tuple[str, list[int], list[float]]]:
    return [(each.row, list(each.ids), list(each.weights)) for each in rows]


@pytest.mark.parametrize("together", [1, 7, 500])
def test_rows_come_back_as_they_were(together: int, tmp_path: Path) -> None:
    found = stored(tmp_path, ROWS, together)
    assert plain(list(found)) == plain(found[:]) == plain(ROWS) and len(found) == len(ROWS)
    assert plain([found[i] for i in (3, -1, -len(ROWS))]) == plain([ROWS[i] for i in (3, -1, -len(ROWS))])
    assert plain(found[50:5:-3]) == plain(ROWS[50:5:-3])
    for beyond in (len(ROWS), -len(ROWS) - 1):
        with pytest.raises(IndexError):
            found[beyond]
    for before, after in zip(ROWS, found, strict=True):
        assert after.key == before.key
        assert all((a == b).all() for a, b in zip(after.supervised, before.supervised, strict=True))
    assert found.tokens == sum(len(each.ids) for each in ROWS)
    assert found.supervised == sum(weight > 0 for each in ROWS for weight in each.weights)


@pytest.mark.parametrize("together", [1, 7, 500])
def test_the_hash_is_that_of_the_rows_as_json(together: int, tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for each in ROWS:
        digest.update(json.dumps([each.row, each.ids, each.weights]).encode())
    assert stored(tmp_path, ROWS, together).sha256 == hash_rows(ROWS) == digest.hexdigest()
    assert stored(tmp_path, ROWS[::-1]).sha256 != digest.hexdigest()


def test_a_shared_beginning_is_kept_once(tmp_path: Path) -> None:
    rows = [replace(each, weights=(0.0,) * 702 + (1.0,) * 12) for each in tool_rows(512, 4, length=700)]
    found = stored(tmp_path, rows, 256)
    assert found._ends[-1] < 512 * 100 and found.tokens == 512 * 714
    assert len(found._beginnings.keys) <= 10 and max(map(len, found._beginnings.keys)) >= 4 * 700


def test_beginnings_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MOST", 1000)
    rows = tool_rows(300, 50, length=200)
    found = stored(tmp_path, rows, 256)
    assert 0 < sum(map(len, found._beginnings.keys)) <= 4 * 1000 and plain(found[:]) == plain(rows)


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    found = stored(tmp_path, ROWS)
    assert list(tmp_path.iterdir()) == [] and plain([found[0]]) == plain(ROWS[:1])


def test_a_full_disk_is_said_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [replace(each, weights=(0.0,) * 1011 + (1.0,)) for each in tool_rows(100, 1, length=10, own=1000)]
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 * 2**20))
    stored(tmp_path, rows)
    with pytest.raises(InputError, match=r"100 MiB are free, and the tokens of 1000000 rows take 4\d\d\d MiB more"):
        TokenStore(tmp_path, 1_000_000).add(rows)
    with pytest.raises(InputError, match="cannot be written to"):
        TokenStore(tmp_path / "absent", 1)


def test_stored_rows_make_the_same_plan_and_packs(tmp_path: Path) -> None:
    rows, chosen = tool_rows(200, 5), recipe("train.batch_size=16", "train.lookahead=4")
    here, there = make_plan(chosen, rows, rows[:20]), make_plan(chosen, stored(tmp_path, rows), stored(tmp_path, ROWS))
    assert (here.tokens, here.supervised, here.measure()) == (there.tokens, there.supervised, there.measure())
    assert here.notes == there.notes
    for step in range(20):
        left, right = here.prepare(step), there.prepare(step)
        assert plain(left.rows) == plain(right.rows) and left.weight == right.weight
        for a, b in zip(left.batches, right.batches, strict=True):
            assert a.rows == b.rows and a.row_starts == b.row_starts
            for name in ("ids", "position", "end", "at", "target", "weight"):
                assert torch.equal(getattr(a, name), getattr(b, name))


def test_an_epoch_s_order_is_that_of_a_shuffled_list() -> None:
    expected = list(range(1000))
    random.Random("3:1").shuffle(expected)
    assert list(planning._order(3, 1, 1000)) == expected and planning._order(3, 1, 1000).itemsize == 4


def test_many_heldout_rows_are_packed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    rows = [row(str(i), [2, *(draw.randrange(10, 320) for _ in range(9))], draw) for i in range(10)]
    plan = make_plan(recipe(), rows, rows)
    few = plan.heldout_packs()
    assert few is plan.heldout_packs() and [name for pack in few for name in pack.rows] == [
        name for pack in pack_rows(rows, "tries", 8192) for name in pack.rows
    ]
    monkeypatch.setattr(planning, "HELDOUT_TOGETHER", 3)
    again = list(plan.heldout_packs())
    assert [len(pack.rows) for pack in again] == [3, 3, 3, 1]
    from test_train import adapted_model

    model = adapted_model(plan.recipe, moved=True)
    assert evaluation_loss(model, plan.heldout_packs()) == pytest.approx(evaluation_loss(model, few), rel=1e-6)


def test_groups_in_runs_are_those_of_sorted_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    words = ["أ", "b", "é", "\ud83d", "\ue000", "😀", " "]
    keys = ["".join(draw.choices(words, k=draw.randrange(4))) for _ in range(900)]
    sizes = Counter(keys)

    def expected(share: float, seed: int) -> set[str]:
        order, left = sorted(sizes), max(1, round(share * len(keys)))
        random.Random(seed).shuffle(order)
        held: set[str] = set()
        for key in order:
            if sizes[key] <= left and len(held) < len(order) - 1:
                held.add(key)
                left -= sizes[key]
        return held or {min(order, key=sizes.__getitem__)}

    for share, seed in ((0.1, 0), (0.5, 1), (0.99, 2), (1e-9, 3)):
        for run in (8, 1 << 14):
            monkeypatch.setattr(groups, "_RUN", run)
            monkeypatch.setattr(groups, "_BLOCK", run)
            held = KeyGroups(keys).hold_out(share, seed)
            assert {key for key, is_held in zip(keys, held, strict=True) if is_held} == expected(share, seed)
    assert repeated([hash_text(key) for key in keys]) == {hash_text(key) for key, n in sizes.items() if n > 1}


def test_ids_given_twice_are_named_beside_other_errors(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", *({**conversation(), "id": name} for name in "abca"))
    with rows.open("a", encoding="utf-8") as file:
        file.write("{broken\n" + json.dumps({**conversation(), "id": "a"}) + "\n")
    with pytest.raises(InputError) as caught:
        read_rows(rows)
    lines = str(caught.value).splitlines()
    assert lines[0] == "rows.jsonl:4: id: 'a' is that of rows.jsonl:1 too; ids must differ" and "not JSON" in lines[1]
    assert lines[2] == "rows.jsonl:6: id: 'a' is that of rows.jsonl:4 too; ids must differ" and len(lines) == 3


def rewritten(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("5", "7"), encoding="utf-8")


def shorter(path: Path) -> None:
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(True)[:-1]), encoding="utf-8")


@pytest.mark.parametrize("change", [rewritten, shorter])
def test_a_file_that_changes_between_readings_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", *(conversation(said=f"5 {i}") for i in range(6)))
    rows = gather_rows(path, None, 0.0, 0, print)
    assert len(list(rows.read())) == 6 == len(rows)
    reading = rows.read()
    next(reading)
    change(path)
    with pytest.raises(InputError, match=r"rows\.jsonl: changed while the rows were read"):
        list(reading)
    with pytest.raises(InputError, match="changed while"):
        next(rows.read())


def test_rows_in_memory_may_come_from_anywhere(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", *(conversation(said=f"5 {'ابت'[i % 3]}") for i in range(9)))
    listed = read_rows(path)
    jobs = [prepare(given, None, None, ["data.holdout=0.3"], None) for given in (path, listed, iter(listed))]  # type: ignore[arg-type]
    first, *others = [(hash_rows(job.plan.rows), hash_rows(job.plan.heldout)) for job in jobs]
    assert others == [first, first] and len(jobs[0].plan.heldout) == 3


def test_garbage_is_collected_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), gather._rare_collections():
        assert gc.get_threshold()[0] == 100 * before[0]
        _ = 1 / 0
    assert gc.get_threshold() == before


def test_tokens_wait_beside_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert store_folder(tmp_path / "a" / "run") == store_folder(tmp_path / "file" / "run") == tmp_path
    assert store_folder(tmp_path) == tmp_path and store_folder(None).is_dir()


GROWTH = """
import json, sys
from pathlib import Path
from dozan.train.prepare import prepare

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

peaks, steps = [], []
for count in (2_000, 20_000):
    path = Path(sys.argv[1]) / f"{count}.jsonl"
    with path.open("w") as rows:
        for i in range(count):
            word = "".join(chr(97 + i // 26**n % 26) for n in range(4))
            said = [{"role": "user", "content": f"repeat {word}"}, {"role": "assistant", "content": f"{word} " * 12}]
            rows.write(json.dumps({"messages": said, "tools": []}) + "\\n")
    plan = prepare(path, None, None, ["data.holdout=0.01", "train.batch_size=256"], None).plan
    steps = [len(plan.prepare(step).rows) for step in range(20)]
    peaks.append(peak())
print(json.dumps([peaks, len(plan.rows), sum(steps)]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc for the peak")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """18,000 more rows of some 60 tokens: 76 MB when rows and tokens were held, under 10 now."""
    command = [sys.executable, "-c", GROWTH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    (few, many), rows, taken = json.loads(done.stdout)
    assert rows == 19_800 and taken == 20 * 256 and many - few < 16 * 2**20, f"{(many - few) / 2**20:.0f} MiB"
