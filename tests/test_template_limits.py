"""A stranger's chat template takes no more than its share of time, memory and output; with each guard gone, it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dozan.chat import FUNCTIONGEMMA, template_limits, template_worker
from dozan.chat.template import template_difference
from dozan.chat.template_limits import ChatTemplate, Limits, TemplateFailed, functiongemma_template
from dozan.errors import InputError

ROW = [{"role": "user", "content": "مرحبا"}]
SMALL = Limits(seconds=0.3, memory_bytes=2**28, output_bytes=2**16)
RANGES = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
BOMBS = {
    "nested ranges": (RANGES, "more than 0.3 s of the processor"),
    "one long operation": ("{{ (7 ** 99999999) % 2 }}", "more than 0.3 s of the processor"),
    "while compiling": ("{{ 7 }}{% if x %}" * 15 + "{% endif %}" * 15 + "{% set y = 1 %}" * 30_000,
                        "more than 0.3 s of the processor"),
    "a long string": ("{{ 'x' * 10 ** 10 }}", "more than 256 MiB of memory"),
    "a wide number": ("{{ '%1000000000d' % 1 }}", "more than 256 MiB of memory"),
    "a growing text": ("{% set n = namespace(x='x' * 999) %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}"
                       "{% endfor %}", "more than 256 MiB of memory"),
    "much output": ("{% for i in range(90000) %}abcdefgh{% endfor %}", "writes more than 65,536 bytes"),
    "one long piece": ("{{ 'é' * 40000 }}", "writes more than 65,536 bytes"),
}  # fmt: skip
FAILING = {
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "a range beyond the sandbox": "{% for i in range(10 ** 9) %}{% endfor %}",
    "division": "{{ 1 // 0 }}",
    "a sum of 20,000": "{{ " + "1 + " * 20_000 + "1 }}",
    "deep brackets": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "Python's insides": "{{ ''.__class__.__mro__ }}",
    "its own error": "{{ raise_exception('no') }}",
    "half a surrogate": "{{ messages[0].content.encode('ascii') }}",
}


def limits_of(bomb: str) -> Limits:
    """Filling memory takes a busy machine long."""
    return replace(SMALL, seconds=5.0) if bomb in BOMBS and "memory" in BOMBS[bomb][1] else SMALL


def rendered(text: str, limits: Limits = SMALL) -> str:
    with ChatTemplate(text, "base", limits) as template:
        return template.render(ROW, [], row="row 1")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_with_the_remedy(name: str) -> None:
    text, words = BOMBS[name]
    with pytest.raises(InputError, match=f"base: the chat template .*{words} in row 1; .*put the original"):
        rendered(text, limits_of(name))


@pytest.mark.parametrize("name", FAILING)
def test_a_template_that_fails_is_told_and_the_next_row_is_rendered(name: str) -> None:
    text = "{% if messages|length > 1 %}well{% else %}" + FAILING[name] + "{% endif %}"
    with ChatTemplate(FAILING[name], "base") as template, pytest.raises(TemplateFailed):
        template.render(ROW, [])
    if name in ("deep brackets", "a sum of 20,000"):
        return
    with ChatTemplate(text, "base") as template:
        with pytest.raises(TemplateFailed):
            template.render(ROW, [])
        assert template.render(ROW * 2, []) == "well"


def test_it_writes_what_jinja_writes_and_stays_for_all_rows() -> None:
    text = ("{{ bos_token }}{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ m.role }}: "
            "{{ m['content'] | trim }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
            "{{ add_generation_prompt }}")  # fmt: skip
    rows = [[{"role": "user", "content": f"ع\ud800 {i}\n"}] * 5 for i in range(50)]
    tool = {"type": "function", "function": {"name": "وقت"}}
    with ChatTemplate(text, "base") as template:
        found = [template.render(row, [tool] * (i % 2), bool(i % 3)) for i, row in enumerate(rows)]
        child = template._child
        assert child is not None and child.poll() is None
    assert child.poll() is not None, "the process ends with the context"
    compiled = template_worker.compiled(text)
    names = {"bos_token": "<bos>", "eos_token": "<eos>"}
    assert found == [compiled.render(messages=row, tools=[tool] * (i % 2) or None, add_generation_prompt=bool(i % 3),
                                     **names) for i, row in enumerate(rows)]  # fmt: skip
    with pytest.raises(InputError, match="the chat template has 1,048,577 bytes"):
        ChatTemplate("x" * (2**20 + 1), "base")


def test_our_own_needs_no_process() -> None:
    with ChatTemplate(functiongemma_template(), "ours") as template:
        template.render(ROW, [])
        assert template._child is None
    with ChatTemplate(functiongemma_template() + " ", "theirs") as template:
        template.render(ROW, [])
        assert template._child is not None


def test_the_process_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/planted/lib")
    with ChatTemplate("x", "base") as template:
        template.render(ROW, [])
        assert template._child is not None
        environment = Path(f"/proc/{template._child.pid}/environ").read_bytes()
    assert b"hf_planted" not in environment and b"PYTHONPATH" in environment
    assert b"LD_LIBRARY_PATH=/planted/lib" in environment, "a Python may lie by it"


def test_a_checkpoint_with_a_bomb_is_refused() -> None:
    with pytest.raises(InputError, match="models/theirs: the chat template takes more than 2 s of the processor in a"):
        template_difference(RANGES, FUNCTIONGEMMA, [], "models/theirs")


MUTATIONS: dict[str, tuple[str, str, str]] = {
    "no timer": ("nested ranges", 'signal.setitimer(signal.ITIMER_PROF, begun["seconds"])', "pass"),
    "a timer that Python handles": ("one long operation", "    for line in sys.stdin.buffer:\n",
                                    "    signal.signal(signal.SIGPROF, signal.default_int_handler)\n"
                                    "    for line in sys.stdin.buffer:\n"),
    "no limit of memory": ("a growing text", "resource.setrlimit(resource.RLIMIT_AS, (most, most))", "pass"),
    "no limit of output": ("much output", "size > most_bytes", "False"),
    "a sandbox without Jinja's": ("Python's insides", "ImmutableSandboxedEnvironment(\n", "jinja2.Environment(\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_guard_is_missed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker without it lets the bomb pass: it writes, or does not come to an end within ten times its share."""
    bomb, old, new = MUTATIONS[name]
    source = Path(template_worker.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, old
    worker = tmp_path / "worker.py"
    worker.write_text(source.replace(old, new), encoding="utf-8")
    text = FAILING[bomb] if bomb in FAILING else BOMBS[bomb][0]
    if bomb == "a growing text":
        text = text.replace("range(40)", "range(18)") + "{{ n.x | length }}"  # 250 MiB, and half of it before
    clock: list[bool] = []
    ends = template_limits._ends
    monkeypatch.setattr(template_limits, "_ends", lambda child: clock.append(ends(child)) or clock[-1])
    monkeypatch.setattr(template_limits, "_WAITING", 3)
    limits = limits_of(bomb)
    with_guard = outcome(text, limits)
    assert False not in clock, "it is held by more than the clock"
    monkeypatch.setattr(template_limits, "_WORKER", worker)
    assert outcome(text, limits) != with_guard or False in clock


def outcome(text: str, limits: Limits) -> str:
    try:
        return rendered(text, limits)[:20]
    except (InputError, TemplateFailed) as error:
        return str(error)
