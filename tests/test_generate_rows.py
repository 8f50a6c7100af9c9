"""`data generate`: the phone lexicon gives balanced rows that check passes, twice the same; errors name lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

import dozan.data
from dozan.check.generate import Generated
from dozan.errors import InputError
from dozan.rows.arabic import ascii_digits, fold
from dozan.rows.generate.pools import divided, whole
from dozan.rows.generate.reading import read_lexicon
from dozan.rows.generate.rows import cells, generate_rows
from dozan.rows.generate.tools import read_tools_file

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "dozan" / "assets" / "mobile_actions_ar" / "tools.json"
LEXICON = ROOT / "examples" / "lexicon_phone_ar.yaml"
TOMORROW = re.compile(r"(?<!بعد )(?<!عقب )\b(?:بكرة|بكره|بكرا|باكر|غدًا|غدوة)(?!\w)")
Row = dict[str, Any]
Made = tuple[Generated, list[Row], list[Row]]


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def calls(row: Row) -> list[Row]:
    return [call["function"] for call in row["messages"][-1].get("tool_calls", ())]


def said(row: Row) -> str:
    return str(row["messages"][-2]["content"])


def patterns(rows: list[Row]) -> set[tuple[str, str]]:
    """The lines of the lexicon that the rows come from."""
    return {(row["dialect"], line) for row in rows for line in row["template"].rpartition("/")[2].split("+")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    out, held = folder / "rows.jsonl", folder / "eval.jsonl"
    done = dozan.data.generate(TOOLS, LEXICON, out, held, rows=600, seed=1, holdout=0.15)
    return done, read(out), read(held)


def test_five_hundred_rows_pass_check_without_a_warning(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    done = dozan.data.generate(TOOLS, LEXICON, out, rows=500)
    report = dozan.data.check(out)
    assert (report.errors, report.warnings, done.warnings) == (0, 0, ())
    assert done.train_rows == len(read(out)) == 500 and done.eval_rows == 0


def test_rows_are_balanced(made: Made) -> None:
    done, train, held = made
    rows = train + held
    assert (len(train), len(held)) == (510, 90)
    assert set(Counter(row["dialect"] for row in rows).values()) == {120}
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["no_call"] == pytest.approx(60, abs=6) and kinds["parallel"] == pytest.approx(60, abs=6)
    alone = Counter(calls(row)[0]["name"] for row in rows if row["kind"] == "call")
    assert len(alone) == 12 and max(alone.values()) - min(alone.values()) <= 2
    digits = Counter(
        "arabic" if re.search("[٠-٩]", said(row)) else "ascii" for row in rows if re.search(r"\d", said(row))
    )
    assert 0.35 <= digits["arabic"] / digits.total() <= 0.65
    answers = Counter(row["messages"][-1]["content"] for row in rows if row["kind"] == "no_call")
    assert answers.most_common(1)[0][1] <= 0.15 * kinds["no_call"]
    assert done.kinds == dict(kinds)


def test_sides_share_neither_patterns_nor_values_nor_times(made: Made) -> None:
    _, train, held = made
    assert patterns(train).isdisjoint(patterns(held))
    values = [{fold(str(value)) for row in side for call in calls(row) for value in call["arguments"].values()}
              for side in (train, held)]  # fmt: skip
    assert values[0].isdisjoint(values[1]) and len(values[1]) > 40
    nows = [{row["messages"][1]["content"] for row in side} for side in (train, held)]
    assert nows[0].isdisjoint(nows[1])


def test_pools_are_divided_and_cells_even() -> None:
    lexicon = read_lexicon(LEXICON, read_tools_file(TOOLS)[1])
    train, held = divided(lexicon, 0.2, seed=5)
    values = [{fold(value.said) for found in pools.values.values() for value in found} for pools in (train, held)]
    assert values[0].isdisjoint(values[1]) and len(values[1]) == pytest.approx(
        0.2 * len(values[0] | values[1]), rel=0.25
    )
    numbers = [set(pools.numbers["gulf", "set_timer", "minutes"]) for pools in (train, held)]
    assert numbers[0].isdisjoint(numbers[1]) and numbers[0] | numbers[1] == set(range(1, 91))
    keys = [f"بكرة {hour:02d}:{minute:02d}" for hour in range(24) for minute in range(60)]
    assert all(train.owns(key) != held.owns(key) for key in keys)
    assert sum(map(held.owns, keys)) == pytest.approx(0.2 * len(keys), rel=0.2)
    counts = cells(whole(lexicon), 533)
    tools = Counter[str]()
    for (_, what), count in counts.items():
        tools[what] += count
    assert sum(counts.values()) == 533
    assert max(tools[name] for name in lexicon.tools) - min(tools[name] for name in lexicon.tools) <= 1


def test_check_finds_no_leak_between_the_sides(made: Made) -> None:
    done, _, _ = made
    report = dozan.data.check(done.files[0], eval_data=[done.files[1]])
    assert not {"DZ605", "DZ606"} & set(report.counts) and report.errors == 0


def test_values_stand_in_the_request_and_times_are_counted_from_now(made: Made) -> None:
    _, train, held = made
    moments = tomorrows = in_digits = 0
    for row in train + held:
        now = datetime.fromisoformat(row["messages"][1]["content"].split()[2])
        request = ascii_digits(said(row))
        for call in calls(row):
            for name, value in call["arguments"].items():
                if name == "datetime":
                    moments += 1
                    assert now < datetime.fromisoformat(value) <= now + timedelta(days=11)
                    if TOMORROW.search(request):
                        tomorrows += 1
                        assert value[:10] == str((now + timedelta(days=1)).date()), row["id"]
                elif name == "minutes":
                    numbers = re.findall(r"\d+", request) if row["kind"] == "call" else []
                    assert numbers in ([], [str(value)])
                    in_digits += len(numbers)
                else:
                    assert value in request, row["id"]
    assert moments > 60 and tomorrows > 10 and in_digits > 10


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.jsonl" for i in range(6)]
    for seed, out, held in ((7, 0, 1), (7, 2, 3), (8, 4, 5)):
        dozan.data.generate(TOOLS, LEXICON, files[out], files[held], rows=150, seed=seed)
    first, again, other = ([file.read_bytes() for file in files[i : i + 2]] for i in (0, 2, 4))
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


def test_only_the_dialects_asked_for(tmp_path: Path) -> None:
    done = dozan.data.generate(TOOLS, LEXICON, tmp_path / "rows.jsonl", rows=60, dialects=["gulf", "msa"])
    assert done.dialects == {"gulf": 30, "msa": 30}
    with pytest.raises(InputError, match="no dialect 'yemeni'; there are msa, egyptian"):
        dozan.data.generate(TOOLS, LEXICON, tmp_path / "other.jsonl", dialects=["yemeni"])


def test_too_many_rows_are_refused_with_the_number_possible(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        dozan.data.generate(TOOLS, LEXICON, tmp_path / "rows.jsonl", rows=20_000)
    found = re.search(r"--rows (\d+)\)", str(caught.value))
    assert found and "lexicon_phone_ar.yaml:" in str(caught.value) and "dialects.msa.no_call" in str(caught.value)
    most = int(found.group(1))
    assert 1_000 < most < 20_000 and not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="rows wanted"):
        generate_rows(TOOLS, LEXICON, most + 60)


HOME = [
    {"name": "light", "description": "Switch a light", "parameters": {"type": "object", "properties": {
        "room": {"type": "string", "description": "Room"},
        "state": {"type": "string", "enum": ["on", "off"], "description": "On or off"},
        "level": {"type": "integer", "minimum": 1, "maximum": 100, "description": "Percent"}},
        "required": ["room", "state"]}},
    {"name": "shutter", "description": "Open a shutter at a time", "parameters": {"type": "object", "properties": {
        "at": {"type": "string", "format": "time", "description": "HH:MM"},
        "wait": {"type": "integer", "description": "Seconds"},
        "day": {"type": "string", "format": "date", "description": "YYYY-MM-DD"}}, "required": ["at"]}},
]  # fmt: skip
HOME_LEXICON: Row = {
    "kinds": {"level": {"kind": "number", "from": 5, "to": 100, "step": 5},
              "wait": {"kind": "duration", "unit": "seconds"}},
    "values": {"room": {"all": ["المطبخ", "الصالة", "الممر", "المكتب", "السطح", "الحمام"], "egyptian": ["أوضة النوم"]},
               "state": [{"منور": "on"}, {"مطفي": "off"}]},
    "dialects": {"egyptian": {
        "openers": ["لو سمحت"], "joins": [" و"],
        "patterns": {
            "light": "ولع نور {room} => state=on\nخلي نور {room} {state}\nنور {room} على {level} في المية => state=on",
            "shutter": "افتح الشيش {at}\nارفع الشيش {day} {at}\nالشيش يتفتح {at} بعد ما تستنى {wait}"},
        "clauses": {"light": "ولع نور {room} => state=on", "shutter": "ارفع الشيش {at}"},
        "no_call": [{"request": "(عامل|إزيك) (إيه|النهارده) يا (بيت|صاحبي)", "answers": "(تمام|الحمد لله)"}]}},
}  # fmt: skip
Edit = Callable[[Row], object]


@pytest.fixture
def home(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes the two tools and their lexicon, edited, and gives both files."""

    def write(edit: Edit = lambda lexicon: None) -> tuple[Path, Path]:
        lexicon = json.loads(json.dumps(HOME_LEXICON))
        edit(lexicon)
        tools, path = tmp_path / "home.json", tmp_path / "home.yaml"
        tools.write_text(json.dumps(HOME), encoding="utf-8")
        path.write_text(yaml.safe_dump(lexicon, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return tools, path

    return write


def test_tools_of_ones_own_with_an_enum_numbers_dates_and_lengths(
    home: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    tools, lexicon = home()
    dozan.data.generate(tools, lexicon, tmp_path / "rows.jsonl", rows=80)
    report = dozan.data.check(tmp_path / "rows.jsonl")
    assert report.errors == 0
    found = [call["arguments"] for row in read(tmp_path / "rows.jsonl") for call in calls(row)]
    assert {arguments["state"] for arguments in found if "state" in arguments} == {"on", "off"}
    assert {arguments["level"] % 5 for arguments in found if "level" in arguments} == {0}
    assert {arguments["wait"] % 60 for arguments in found if "wait" in arguments} == {0}
    assert all(re.fullmatch(r"\d\d:\d\d", arguments["at"]) for arguments in found if "at" in arguments)
    assert all(datetime.fromisoformat(arguments["day"]) for arguments in found if "day" in arguments)
    assert any("day" in arguments for arguments in found) and any("wait" in arguments for arguments in found)


def pattern(text: str, tool: str = "light") -> Edit:
    return lambda lexicon: lexicon["dialects"]["egyptian"]["patterns"].update({tool: text})


BROKEN: list[tuple[str, Edit, str]] = [
    ("unknown slot", pattern("ولع {rooom} => state=on"),
     r"home\.yaml:\d+: dialects\.egyptian\.patterns\.light: 'ولع \{rooom\}.*no argument 'rooom'.*did you mean 'room'"),
    ("required slot missing", pattern("ولع النور => state=on"), r"light requires room; put \{room\}"),
    ("fixed value outside the enum", pattern("ولع نور {room} => state=dim"), r"'dim' is not in the enum \(on, off\)"),
    ("value outside the enum", lambda lexicon: lexicon["values"].update(state=["منور"]),
     r"home\.yaml:\d+: values\.state\.all: 'منور' is not in the enum \(on, off\).*- منور: on"),
    ("slot without values", lambda lexicon: lexicon["values"].pop("room"), r"no values for \{room\} in egyptian"),
    ("unknown tool", pattern("ولع", "lihgt"), r"patterns\.lihgt: no such tool \(did you mean 'light'\?\)"),
    ("tool without patterns", lambda lexicon: lexicon["dialects"]["egyptian"]["patterns"].pop("shutter"),
     r"patterns\.shutter: no patterns"),
    ("open bracket", pattern("(ولع|نور {room} => state=on"), r"a bracket that never closes"),
    ("bar outside brackets", pattern("ولع|نور {room} => state=on"), r"a bar outside brackets"),
    ("brackets in brackets", pattern("(ولع (نور)) {room} => state=on"), r"brackets inside brackets"),
    ("parts of what has none", pattern("افتح {at.day}", "shutter"), r"only a datetime has parts"),
    ("unknown kind", lambda lexicon: lexicon["kinds"].update(level="numbr"), r"kinds\.level: unknown kind 'numbr'"),
    ("text for a number", lambda lexicon: (lexicon["kinds"].pop("level"), lexicon["values"].update(level=["عشرة"])),
     r"'عشرة' is no integer"),
    ("values in one", lambda lexicon: lexicon["values"].update(room=["المطبخ، الصالة"]), r"holds «،»"),
    ("time words", lambda lexicon: lexicon["dialects"].update(cairene=lexicon["dialects"].pop("egyptian")),
     r"no time words of 'cairene'"),
    ("unknown key", lambda lexicon: lexicon.update(value={}), r"unknown key 'value'.*did you mean 'values'"),
    ("no joins", lambda lexicon: lexicon["dialects"]["egyptian"].pop("joins"), r"joins: none to join clauses with"),
    ("slot in a no-call request", lambda lexicon: lexicon["dialects"]["egyptian"]["no_call"].append(
        {"request": "فين {room}", "answers": "هنا"}), r"nothing fills a slot here"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_lexicon_says_where_and_what_to_do(
    edit: Edit, message: str, home: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    tools, lexicon = home(edit)
    with pytest.raises(InputError, match=message):
        dozan.data.generate(tools, lexicon, tmp_path / "rows.jsonl", rows=20)
    assert not (tmp_path / "rows.jsonl").exists()


def test_the_line_of_an_error_is_that_of_the_file(tmp_path: Path, home: Callable[..., tuple[Path, Path]]) -> None:
    tools, lexicon = home()
    text = (
        "values:\n  room: [المطبخ, الصالة]\n  state:\n    - منور: on\n    - مطفي: 'off'\ndialects:\n  egyptian:\n"
        "    patterns:\n      light: |\n        خلي نور {room} {state}\n\n        ولع {rom} => state=on\n"
        "      shutter:\n        - افتح الشيش {at}\n        - افتح الشيش {att}\n"
    )
    lexicon.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        dozan.data.generate(tools, lexicon, tmp_path / "rows.jsonl")
    lines = text.splitlines()
    for number, word in ((4, "منور"), (12, "{rom}"), (15, "{att}")):
        assert word in lines[number - 1] and re.search(rf"home\.yaml:{number}: ", str(caught.value))
    assert "put it in quotes" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("values: [", r"home\.yaml:\d+: no YAML"), ("- {room} ولع", "no lexicon|no YAML"), ("", "no lexicon"),
     ("values: {}\nvalues: {}", r"home\.yaml:2: no YAML: this key is there already"), ("dialects: 5", "has no keys")],
)  # fmt: skip
def test_what_is_no_lexicon(text: str, message: str, home: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    tools, lexicon = home()
    lexicon.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        dozan.data.generate(tools, lexicon, tmp_path / "rows.jsonl")


def test_rows_that_check_would_refuse_are_not_written(home: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    tools, lexicon = home()
    declared = json.loads(tools.read_text(encoding="utf-8"))
    declared[0]["parameters"]["properties"]["level"]["type"] = "percentage"
    tools.write_text(json.dumps(declared), encoding="utf-8")
    with pytest.raises(InputError, match="DZ305"):
        dozan.data.generate(tools, lexicon, tmp_path / "rows.jsonl", rows=40)
    assert not (tmp_path / "rows.jsonl").exists()


def test_one_line_is_not_enough_for_two_sides(home: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    tools, lexicon = home(pattern("خلي نور {room} {state}"))
    with pytest.raises(InputError, match=r"1 pattern in egyptian; write another for light, or make one file"):
        dozan.data.generate(tools, lexicon, tmp_path / "rows.jsonl", tmp_path / "eval.jsonl", rows=40)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("kept", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        dozan.data.generate(TOOLS, LEXICON, out, rows=50)
    with pytest.raises(InputError, match="give each a file of its own"):
        dozan.data.generate(TOOLS, LEXICON, tmp_path / "new.jsonl", tmp_path / "new.jsonl", rows=50)
    assert out.read_text(encoding="utf-8") == "kept"
