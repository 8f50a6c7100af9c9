"""Errors in Arabic: the catalogue has every message of the source, says it with its values, and nobody else sees it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from arabic_templates import HOLE, templates

from dozan import arabic_errors
from dozan.arabic_errors import CATALOGUE, arabic, speaks_arabic, told

ARABIC_LETTER = re.compile("[ء-ي]")
ISOLATES = re.compile("[⁨⁩]")
FOREIGN = "# From Typer, pydantic and the operating system, whose texts are not in this source; and joints of messages."
VALUES = ("/data/one.jsonl:3", "'q_proj'", "17", "[2]", "xyz", "8")


def read(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(set(lines[::2])) == len(lines[::2]), "an English line is there twice"
    return dict(zip(lines[::2], lines[1::2], strict=True))


OURS, FOREIGN_TEXTS = (read(part) for part in CATALOGUE.read_text(encoding="utf-8").split(FOREIGN))
ALL = {**OURS, **FOREIGN_TEXTS}


def test_every_message_of_the_source_is_in_the_catalogue() -> None:
    missing = {text: place for text, place in templates().items() if text not in ALL}
    said = "\n\n".join(f"# {place}\n{text}\n…" for text, place in missing.items())
    assert not missing, f"add to {CATALOGUE.name}, each with its Arabic below:\n\n{said}"


def test_the_catalogue_has_no_message_that_is_gone() -> None:
    gone = [text for text in OURS if text not in templates()]
    assert not gone, f"take out of {CATALOGUE.name}, or change with the source: {gone}"


def test_templates_are_read_through_helpers_constants_and_lines() -> None:
    found = templates()
    assert len(found) > 400
    assert "row {0} has other tools in {1} than in {2}; score both under the same tools" in found
    assert "not found on the hub; check the spelling, and set HF_TOKEN if it is private" in found  # a helper's return
    assert "{0} is {1}, must be {2}" in found  # an item of a list that is joined
    assert any("normalised>=0.9" in text for text in found)  # a constant of the module, within its text


@pytest.mark.parametrize("part", [OURS, FOREIGN_TEXTS], ids=["ours", "foreign"])
def test_each_translation_has_the_values_of_its_message(part: dict[str, str]) -> None:
    wrong = [text for text in part if sorted(HOLE.findall(text)) != sorted(HOLE.findall(part[text]))]
    code_alone = {"expected {", "missing: ", "merged"}
    latin = [text for text in part if not ARABIC_LETTER.search(part[text]) and not text.startswith(tuple(code_alone))]
    assert (wrong, latin) == ([], [])


def filled(text: str) -> str:
    return HOLE.sub(lambda hole: VALUES[int(hole[0][1:-1]) % len(VALUES)], text)


def outside(line: str) -> str:
    """What of a line no isolate holds."""
    while (shorter := re.sub("⁨[^⁨⁩]*⁩", "", line)) != line:
        line = shorter
    return line


def told_wrongly(english: str) -> str | None:
    """How a message is told if not by its own Arabic, its values in their places and all Latin isolated."""
    said = arabic(filled(english)) or ""
    own = ISOLATES.sub("", said) == filled(ALL[english]).replace("؟؛", "؟")
    return None if own and not re.search("[A-Za-z0-9⁨⁩]", outside(said)) else f"{english}: {said!r}"


def test_a_message_is_told_with_its_own_words_and_values() -> None:
    assert [wrong for english in ALL if " " in english and (wrong := told_wrongly(english))] == []


def test_lines_and_values_that_are_messages_are_told_too() -> None:
    row = "r.jsonl:1: messages[0].role: unknown role 'usr'; use one of user"
    message = f"2 of 3 rows cannot be used:\n{row}\nwords of no catalogue"
    said = arabic(message)
    assert said is not None
    first, second, third = ISOLATES.sub("", said).split("\n")
    assert first == "لا يمكن استخدام 2 من أصل 3 من الصفوف:"
    assert second == "r.jsonl:1: messages[0].role: الدور 'usr' غير معروف؛ استخدم واحدًا من user"
    assert third == "words of no catalogue"
    hub = "x/y: the hub refused (403 Forbidden); give HF_TOKEN a token with write access to that account"
    assert "ضع في ⁨HF_TOKEN⁩ رمز دخول" in str(arabic(hub))
    assert arabic("nothing here is in the catalogue: at all; not a word") is None


def test_a_long_message_takes_no_time() -> None:
    given = (("a: (b) ; is ", 3000), ("x: a; b: no such file; ", 600), ("b: no such file; ", 88), (": ", 700))
    for part, times in given:
        arabic_errors._line.cache_clear()
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            arabic(part * times)
        finally:
            sys.setprofile(None)
        assert calls < 3_000_000


LOCALES = {
    "LANG=ar": True, "LANG=ar_EG.UTF-8": True, "LANG=AR_SA": True, "LANG=ar@latin": True,
    "LC_MESSAGES=ar_EG LANG=en_US": True, "LC_ALL=en_US LC_MESSAGES=ar_EG LANG=ar_EG": False,
    "LC_ALL=ar_EG LANG=en_US": True, "LC_MESSAGES=C LANG=ar_EG": False, "LANG=en_US LANGUAGE=ar": True,
    "LANG=ar_EG LANGUAGE=en": False, "LANG=ar_EG LANGUAGE=fr": True, "LANG=en_US LANGUAGE=fr:ar_SA:en": True,
    "LANG=C LANGUAGE=ar": False, "LANG=C.UTF-8 LANGUAGE=ar": False, "LANGUAGE=ar": False, "LANG= LC_ALL=": False,
    "LANG=arn_CL": False, "LANG=fr_FR.UTF-8": False, "LANG=POSIX": False, "": False,
}  # fmt: skip


@pytest.mark.parametrize("given", LOCALES)
def test_the_locale_decides_as_in_gettext(given: str) -> None:
    assert speaks_arabic(dict(item.split("=", 1) for item in given.split())) is LOCALES[given]


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_the_english_is_under_it_dim_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "rows.jsonl: no such file; . has train.jsonl"
    shown = f"dozan: {message}"
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.delenv("LANGUAGE", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LANG", "fr_FR.UTF-8")
    assert told(message, shown, Terminal(io.BytesIO(), "utf-8")) == shown
    monkeypatch.setenv("LANG", "ar_EG.UTF-8")
    said = "⁨dozan⁩: ⁨rows.jsonl⁩: لا يوجد ملف بهذا الاسم؛ في ⁨.⁩ توجد ⁨train.jsonl⁩"
    assert told(message, shown, Terminal(io.BytesIO(), "utf-8")) == f"{said}\n\033[2m{shown}\033[0m"
    assert told(message, shown, io.TextIOWrapper(io.BytesIO(), "UTF-8")) == f"{said}\n{shown}"
    assert told(message, shown, io.TextIOWrapper(io.BytesIO(), "iso8859-6")) == shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert told(message, shown, Terminal(io.BytesIO(), "utf-8")) == f"{said}\n{shown}"


ROW = {"messages": [{"role": "user", "content": "شغّل الكشاف"}, {"role": "assistant", "content": "حسنا"}]}
CASES = """
trian|train --foo|eval|eval --data a --limit x|eval --data a --limit 0|export|train|train --data none.jsonl
train --data folder|train --data broken.jsonl|train --data latin.jsonl|train --data role.jsonl|train --data empty.jsonl
train --data rows.jsonl --model nowhere/folder/model|train --data rows.jsonl --out file.txt
train --data rows.jsonl --out other|train --data rows.jsonl --recipe embeded|train --set adapter.rankk=3 --print-config
train --set adapter.rank=0 --print-config|train --set train --print-config|train --set train.dtype=x --print-config
train --recipe bad.yaml --print-config|resume folder|runs nowhere|eval --data rows.jsonl --predictions none.jsonl
eval --data rows.jsonl --predictions p.jsonl|eval --data rows.jsonl --purpose nothing
eval --data rows.jsonl --purpose code --grammar|compare one.json|merge folder --out m|export folder --gguf q9
export none.gguf --gguf q8_0|data check|data check none.jsonl|data check rows.jsonl --only DZ000
data prepare rows.jsonl --out other|data split rows.jsonl --holdout 2|plan --gpus 0|plan --gpu Z9|push folder someone/x
"""
LOOP = """
import contextlib, io, json, os, sys
from dozan.cli import main
assert "dozan.arabic_errors" not in sys.modules, "loaded before there is an error"

def run(line):
    heard, sys.stderr = sys.stderr, io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(line.split())
    except SystemExit as left:
        sys.stderr.flush()
        return left.code, sys.stderr.buffer.getvalue().decode()
    finally:
        sys.stderr = heard

def both(line):
    told = run(line)
    os.environ["LANG"] = "en_US.UTF-8"
    plain = run(line)
    os.environ["LANG"] = "ar_EG.UTF-8"
    return told, plain

print(json.dumps({line: both(line) for line in json.loads(sys.argv[1])}))
"""


def files(folder: Path) -> None:
    for name in ("folder", "other"):
        (folder / name).mkdir()
    (folder / "other" / "something").write_text("x")
    (folder / "file.txt").write_text("x")
    (folder / "empty.jsonl").write_text("")
    (folder / "rows.jsonl").write_text(json.dumps(ROW, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"messages": [}\n')
    (folder / "latin.jsonl").write_bytes('{"messages": "é"}\n'.encode("latin-1"))
    (folder / "role.jsonl").write_text(json.dumps({"messages": [{"role": "usr", "content": "x"}]}) + "\n")
    (folder / "bad.yaml").write_text("train: [\n")
    (folder / "p.jsonl").write_text('{"prediction": "x"}\n')


def test_errors_of_real_commands_are_told_in_arabic_and_only_there(tmp_path: Path) -> None:
    files(tmp_path)
    cases = [line for part in CASES.split("\n") for line in part.split("|") if line]

    environment = {"PATH": "/usr/bin", "LANG": "ar_EG.UTF-8", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOOP, json.dumps(cases)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    english_alone = []
    for line, ((status, said), (same_status, plain)) in found.items():
        assert status == same_status and status, line
        assert not ARABIC_LETTER.search(plain.replace(ROW["messages"][0]["content"], "")), line
        assert said.endswith(plain), line
        above = said.removesuffix(plain)
        if not above:
            english_alone.append(line)
        else:
            assert above.startswith("⁨dozan⁩: "), line
            assert ARABIC_LETTER.search(outside(above.split("\n")[0])), above
    assert english_alone == []
    assert len({said.split("\n")[0] for (_, said), _ in found.values()}) > 30
