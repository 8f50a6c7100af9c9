"""The embedded Arabic data set: shape, schema, grounding, times, and a split that shares nothing."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.mobile_actions_ar import build, times  # noqa: E402
from scripts.mobile_actions_ar.dialects import DIALECTS  # noqa: E402
from scripts.mobile_actions_ar.dialects.base import TimeWords  # noqa: E402
from scripts.mobile_actions_ar.similar import Neighbours, folded  # noqa: E402
from scripts.mobile_actions_ar.stats import calls, frames_of, read, row_tools  # noqa: E402

FOLDER = ROOT / "dozan" / "assets" / "mobile_actions_ar"
TOOLS = {tool["function"]["name"]: tool["function"]["parameters"]
         for tool in json.loads((FOLDER / "tools.json").read_text(encoding="utf-8"))}
TRAIN, DEV, TEST = read(FOLDER / "train.jsonl.gz"), read(FOLDER / "dev.jsonl"), read(FOLDER / "test.jsonl")
ROWS = TRAIN + DEV + TEST
HELD_OUT = pytest.mark.parametrize(("where", "held_out"), [("dev", DEV), ("test", TEST)], ids=("dev", "test"))
NOW = re.compile(r"Now is (\d{4}-\d\d-\d\dT\d\d:\d\d) (\w+)")
PROCLITIC = r"(?:و|ف)?(?:ل|لـ|ب|بـ|ال|لل)?"
ASCII = {value: key for key, value in times.ARABIC_DIGITS.items()}
Row = dict[str, Any]


def user(row: Row) -> str:
    return str(row["messages"][2]["content"])


def values(rows: list[Row]) -> set[str]:
    return {str(value) for row in rows for call in calls(row) for value in call["arguments"].values()}


def copied(row: Row) -> list[str]:
    kinds = [kind for kind in row["argument_kinds"] if kind != "absent"]
    with_arguments = [call["arguments"] for call in calls(row) if call["arguments"]]
    return [str(call[key]) for call, kind in zip(with_arguments, kinds, strict=True)
            for key, how in kind.items() if how == "copied"]


def problems(call: Row) -> list[str]:
    """What is wrong with a call by its declaration."""
    schema = TOOLS[call["name"]]
    types = {"STRING": str, "INTEGER": int}
    found = [f"missing {key}" for key in schema.get("required", []) if key not in call["arguments"]]
    for key, value in call["arguments"].items():
        if key not in schema["properties"]:
            found.append(f"unknown {key}")
        elif type(value) is not types[schema["properties"][key]["type"]]:
            found.append(f"type of {key}")
    return found


def grounded(value: str, text: str) -> bool:
    """Whether the value stands in the text as whole words, a proclitic allowed before it."""
    return re.search(rf"(?<!\w){PROCLITIC}{re.escape(value)}(?!\w)", text.translate(ASCII)) is not None


def test_counts() -> None:
    assert len(TRAIN) >= 3000 and len(TEST) == len(DEV) == 400
    for rows in (DEV, TEST):
        kinds = Counter(row["kind"] for row in rows)
        assert 0.06 <= kinds["no_call"] / 400 <= 0.10 and 0.06 <= kinds["parallel"] / 400 <= 0.08
        dated = sum(bool({"set_alarm", "create_calendar_event"} & set(row_tools(row))) for row in rows)
        assert 0.18 <= dated / 400 <= 0.28
    for rows in (TRAIN, DEV, TEST):
        dialects = Counter(row["dialect"] for row in rows)
        assert len(dialects) == 5 and max(dialects.values()) <= 1.1 * min(dialects.values())
        assert {name for row in rows for name in row_tools(row)} == {*TOOLS, "no_call"}


def test_every_row_has_the_same_shape() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row["tools"] == "tools.json"
        assert [message["role"] for message in row["messages"]] == ["developer", "developer", "user", "assistant"]
        match = NOW.fullmatch(row["messages"][1]["content"])
        assert match and datetime.fromisoformat(match[1]).strftime("%A") == match[2], row["id"]
        assert len(calls(row)) == {"call": 1, "parallel": 2, "no_call": 0}[row["kind"]]
        assert len(row["argument_kinds"]) == len(calls(row))
        assert calls(row) or row["messages"][3]["content"].strip()
        assert user(row) == " ".join(user(row).split()) and not re.search(r"[{}|()]", user(row))


def test_calls_validate_against_the_tools() -> None:
    assert [(row["id"], found) for row in ROWS for call in calls(row) if (found := problems(call))] == []
    assert problems({"name": "set_timer", "arguments": {"minutes": "5"}}) == ["type of minutes"]
    assert problems({"name": "make_call", "arguments": {"to": "x"}}) == ["missing recipient", "unknown to"]


def test_argument_kinds_name_the_arguments() -> None:
    for row in ROWS:
        for call, kinds in zip(calls(row), row["argument_kinds"], strict=True):
            assert kinds == "absent" if not call["arguments"] else set(kinds) == set(call["arguments"]), row["id"]
            if "datetime" in call["arguments"]:
                assert kinds["datetime"] == "computed"


def test_copied_values_stand_in_the_request() -> None:
    assert [(row["id"], value) for row in ROWS for value in copied(row) if not grounded(value, user(row))] == []
    assert grounded("سارة", "رسالة لسارة الآن") and not grounded("سار", "رسالة لسارة الآن")


def test_attached_proclitics_are_rare() -> None:
    def attached(row: Row) -> bool:
        text = user(row).translate(ASCII)
        return any(not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) for value in copied(row))

    for rows in (TRAIN, DEV, TEST):
        assert sum(map(attached, rows)) <= 0.08 * len(rows)


def test_values_are_written_for_machines() -> None:
    for row in ROWS:
        for call in calls(row):
            arguments = call["arguments"]
            assert not re.search("[٠-٩]", json.dumps(arguments, ensure_ascii=False)), row["id"]
            if "datetime" in arguments:
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00", arguments["datetime"])
                now = NOW.fullmatch(row["messages"][1]["content"])
                assert now and datetime.fromisoformat(arguments["datetime"]) > datetime.fromisoformat(now[1])
    texts = "".join(user(row) for row in ROWS)
    assert re.search("[٠-٩]", texts) and re.search("[0-9]", texts)


@HELD_OUT
@pytest.mark.parametrize("what", ["template", "now"])
def test_sides_share_no_template_and_no_now(what: str, where: str, held_out: list[Row]) -> None:
    def keys(rows: list[Row]) -> set[str]:
        return {row["template"] if what == "template" else row["messages"][1]["content"] for row in rows}

    assert keys(TRAIN).isdisjoint(keys(held_out))


@cache
def frames(where: str) -> set[str]:
    """Folded, every sentence frame of a side."""
    plain = [frame for dialect in DIALECTS for tool in TOOLS for group in build.cell_frames(dialect, tool, where)
             for _, frame in group]
    plain += [frame for dialect in DIALECTS for _, frame in build.cell_clauses(dialect, where)]
    return {folded(build.masked(frame)) for frame in plain}


@HELD_OUT
def test_sides_share_no_sentence_frame(where: str, held_out: list[Row]) -> None:
    train, other = frames("train"), frames(where)
    assert len(train) > 30_000 and len(other) > 200 and train.isdisjoint(other)
    seen = Neighbours()
    for frame in other:
        seen.add(frame)
    assert [frame for frame in train if seen.has_near(frame, 0.8)] == []


@HELD_OUT
def test_sides_share_no_argument_value(where: str, held_out: list[Row]) -> None:
    assert values(TRAIN).isdisjoint(values(held_out))
    assert {folded(value) for value in values(TRAIN)}.isdisjoint(folded(value) for value in values(held_out))


@HELD_OUT
def test_sides_share_no_word_of_a_name(where: str, held_out: list[Row]) -> None:
    def names(rows: list[Row]) -> set[str]:
        return {call["arguments"][key] for row in rows for call in calls(row) for key in ("first_name", "last_name")
                if key in call["arguments"]}

    assert names(TRAIN).isdisjoint(names(held_out)) and len(names(TRAIN)) > 150


@pytest.fixture(scope="module")
def splits() -> tuple[build.Split, build.Split, build.Split]:
    return build.draft_splits()


def test_sides_share_no_time_expression(splits: tuple[build.Split, ...]) -> None:
    keys = {split.where: {key for draft in split.drafts for key in draft.keys} for split in splits}
    assert keys["train"] and keys["dev"] and keys["test"]
    assert keys["train"].isdisjoint(keys["dev"] | keys["test"])


def test_no_near_duplicates_between_the_sides() -> None:
    seen = Neighbours()
    for row in DEV + TEST:
        seen.add(user(row))
    assert [user(row) for row in TRAIN if seen.has_near(user(row), 0.8)] == []
    assert {folded(user(row)) for row in TRAIN}.isdisjoint(folded(user(row)) for row in DEV + TEST)
    for rows in (TRAIN, DEV, TEST):
        assert len({folded(user(row)) for row in rows}) == len(rows)
    assert seen.nearest(user(TEST[0])) == 1.0 and seen.has_near(user(TEST[0]), 1.0)


def test_training_frames_are_many() -> None:
    counts = {(dialect.name, tool): frames_of(dialect.name, tool) for dialect in DIALECTS for tool in TOOLS}
    assert {key: count for key, count in counts.items() if count < 25} == {}


def test_the_files_are_what_the_generator_writes(
    tmp_path: Path, splits: tuple[build.Split, build.Split, build.Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "draft_splits", lambda seed: splits)
    build.write(tmp_path)
    for name in ("tools.json", "dev.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    assert read(tmp_path / "train.jsonl.gz") == TRAIN


def any_of(phrases: Iterable[str]) -> str:
    """A pattern of whole phrases, the longest first."""
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))


def read_day(words: TimeWords, text: str, now: datetime) -> tuple[int, str] | None:
    """Days from now that the text names, and the text without them; None when it names no day."""
    if match := re.search(words.days["in_days"][0].replace("{n}", r"(\d+)"), text) or re.search(
            words.days["in_days"][-1].replace("{n}", r"(\d+)"), text):
        return int(match[1]), text.replace(match[0], "")
    ahead = {phrase: days for kind, days in (("next_week", 7), ("after_tomorrow", 2), ("tomorrow", 1), ("today", 0),
                                             ("tonight", 0)) for phrase in words.days[kind]}
    if match := re.search(rf"(?<!\w)(?<!مو )(?:{any_of(ahead)})(?!\w)", text):
        return ahead[match[0]], text.replace(match[0], "")
    if match := re.search(rf"(?<!\w)(?:{any_of(words.weekdays)})(?!\w)", text):
        day = now + timedelta(days=1)
        while day.weekday() != words.weekdays.index(match[0]):
            day += timedelta(days=1)
        return (day - now).days, text
    return None


def read_clock(words: TimeWords, text: str) -> tuple[int, int]:
    """Hour and minute that the text names."""
    periods = {word: kind for kind, named in words.periods.items() for word in named}
    extras = any_of((words.half, words.quarter, words.quarter_to))
    match = re.search(rf"(?<!\w)(?:(\d+)(?::(\d\d))?|({any_of(words.hours)}))(?: ({extras}))?(?: ديال| د)? "
                      rf"({any_of(periods)})(?!\w)", text)
    assert match, text
    hour = int(match[1]) if match[1] else words.hours.index(match[3]) + 1
    minute = int(match[2] or 0) + {None: 0, words.half: 30, words.quarter: 15, words.quarter_to: -15}[match[4]]
    total = (hour % 12 + (0 if periods[match[5]] == "morning" else 12)) * 60 + minute
    total += 720 if periods[match[5]] == "noon" and total < 720 else 0
    return total // 60, total % 60


def read_time(row: Row) -> datetime | None:
    """The moment that a request names, read back from its text; None when it counts from now."""
    words = next(dialect.time for dialect in DIALECTS if dialect.name == row["dialect"])
    text = user(row).translate(ASCII)
    for value in sorted((value for value in copied(row) if len(value) > 2), key=len, reverse=True):
        text = text.replace(value, "#")
    stamped = NOW.fullmatch(row["messages"][1]["content"])
    assert stamped
    now = datetime.fromisoformat(stamped[1])
    day = read_day(words, text, now)
    if day is None:
        return None
    hour, minute = read_clock(words, day[1])
    return now.replace(hour=hour, minute=minute) + timedelta(days=day[0])


def test_times_read_back_as_the_gold_says() -> None:
    gold = [(row, datetime.fromisoformat(call["arguments"]["datetime"])) for row in ROWS for call in calls(row)
            if "datetime" in call["arguments"]]
    said = [(read_time(row), meant, user(row)) for row, meant in gold]
    assert [item for item in said if item[0] is not None and item[0] != item[1]] == []
    assert sum(time is not None for time, _, _ in said) >= 0.85 * len(said)
