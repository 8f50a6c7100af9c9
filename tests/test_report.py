"""The report: every figure is there, nothing is loaded, and no text of a row can become markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import pair
from test_score import PAY, hand_made, row, score

import dozan
from dozan.errors import InputError
from dozan.html.charts import Line, bar, line_chart, thin, ticks
from dozan.judge.compare import compare
from dozan.judge.report import report_run, verdict, write_report
from dozan.judge.summary import Scores
from dozan.train.memory_record import record

METRICS = [
    *({"step": i, "train/loss": 3.0 / i, "train/learning_rate": 1e-3, "train/grad_norm": 0.5} for i in range(1, 30)),
    {"step": 29, "eval/loss": 0.2},
]
FACTS = {"base": "embedded", "recipe": {"adapter": {"rank": 32, "targets": ["q_proj", "v_proj"]}, "seed": 0}}
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Collects the page's tags, and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def written(tmp_path: Path, runs: Any = None, title: str = "Tuned", metrics: Any = METRICS, facts: Any = FACTS) -> str:
    path = tmp_path / "out" / "report.html"
    write_report(path, title, runs or pair(), metrics, facts)
    assert list(path.parent.iterdir()) == [path]
    return path.read_text(encoding="utf-8")


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text.split("</style>")[1]))


def test_the_page_stands_alone(tmp_path: Path) -> None:
    text = written(tmp_path)
    page = parse(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.seen}
    assert not [value for _, found in page.seen for key, value in found.items() if key in ("src", "href")]
    assert "url(" not in text and "@import" not in text and len(text.encode()) < 2 * 2**20
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert sum(found.get("class") == "chart" for tag, found in page.seen if tag == "svg") == 3


def test_every_figure_is_there(tmp_path: Path) -> None:
    text = plain(written(tmp_path))
    assert all(figure in text for figure in ("33.3 %", "9.7–70.0", "66.7 %", "71.4 %"))
    assert all(name in text for name in ("gulf", "egyptian", "transfer", "remind", "copied", "computed", "absent"))
    assert "wins 3 rows and loses 1, which chance alone may explain (McNemar, p = 0.62)" in text
    assert "Strict: tuned wins 3 rows over base and loses 1 (McNemar p = 0.6250)" in text
    for fact in ("recipe", "adapter.rank", "32", "q_proj, v_proj", "embedded"):
        assert fact in text


def test_arabic_is_isolated(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert '<bdi dir="rtl">حوّل 50 لسارة</bdi>' in text and '“<bdi dir="rtl">منى</bdi>”' in text
    outside = re.sub(r"<bdi[^>]*>.*?</bdi>", "", text)
    assert not re.search("[\u0600-\u06ff]", outside)
    assert not re.search("[\u200e\u200f\u2066-\u2069]", text)


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    example = row(evil, evil, PAY, dialect=evil, kind=evil)
    scored = score(example, (evil, {evil: {evil: [evil]}}), problems=(f"at 1: {evil}",))
    runs = {evil: Scores((replace(scored, prediction=evil),)), "b": Scores((scored,))}
    text = written(tmp_path, runs, evil, METRICS, {evil: evil, "recipe": {evil: evil}})
    assert "<script" not in text and "script" not in {tag for tag, _ in parse(text).seen}
    assert "&lt;script&gt;" in text


def test_a_single_run_without_metrics_or_facts(tmp_path: Path) -> None:
    text = plain(written(tmp_path, {"base": hand_made()}, metrics=[], facts={}))
    assert "answers 33.3 % of 6 rows exactly right ." in text or "answers 33.3 % of 6 rows exactly right." in text
    assert "Training" not in text and "Regressions" not in text and "How it was made" not in text


def test_all_right_has_no_errors(tmp_path: Path) -> None:
    right = Scores((score(row("a", "حوّل 50 لسارة", PAY), PAY),))
    text = plain(written(tmp_path, {"base": right, "tuned": right}))
    assert "None: every row is strictly right." in text and "No row that base gets right is wrong now." in text


def test_significant_change_is_called_so() -> None:
    example = row("r", "حوّل 50 لسارة", PAY)
    right, wrong = score(example, PAY), score(example)
    rows = [[replace(one, id=str(i)) for i in range(20)] for one in (wrong, right)]
    found = compare({"base": Scores(tuple(rows[0])), "tuned": Scores(tuple(rows[1])), "gguf": Scores(tuple(rows[1]))})
    text = re.sub("<[^>]+>", "", verdict(found))
    assert text == (
        "tuned answers 100.0 % of 20 rows exactly right, where base answers 0.0 %. It wins 20 rows and loses 0, "
        "more than chance would give (McNemar, p &lt; 0.0001). gguf answers 100.0 %."
    )


def test_a_run_folder_is_reported_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(InputError, match="not a run that can be reported on"):
        report_run(tmp_path / "report.html", run, pair())
    (run / "run.json").write_text(json.dumps({"base": "models/tiny", "fingerprint": {"secret-key": 1}, "steps": 29}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in METRICS))
    report_run(tmp_path / "report.html", run, pair())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tiny, tuned" in text and "secret-key" not in text and 'class="chart"' in text


def test_a_run_shows_its_memory_and_what_it_did_for_it(tmp_path: Path) -> None:
    plan = dozan.plan(model="12b", gpu="t4", quantise="nf4")
    memory = record("a <base>", plan.card.name, plan.card.bytes, plan.fit)
    retries = [{"step": 8, "tokens": 913, "rows": 4, "pack_tokens": 456, "recompute": 0, "offload": False}]
    facts = {"base": "b", "memory": memory, "oom_retries": retries, "adapted": ["adapter.rank=32"]}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "metrics.jsonl").write_text("")
    report_run(tmp_path / "report.html", tmp_path, pair())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = parse(text)
    shown = plain(text)
    assert f"{plan.fit.table.total:,}" in shown and "frozen linears" in shown and "a &lt;base&gt; (NF4)" in shown
    assert "step 8: packs of at most 456 tokens" in shown and "adapter.rank=32" in shown
    assert sum(found.get("class") == "bar" for tag, found in page.seen if tag == "svg") > 0
    for missing in (None, {}):
        (tmp_path / "run.json").write_text(json.dumps(facts | {"memory": missing}))
        report_run(tmp_path / "report.html", tmp_path, pair())
        assert "<h2>Memory</h2>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_ticks_are_round_and_cover() -> None:
    assert ticks(0, 3, 4) == [0, 1, 2, 3] and ticks(0, 0.0011, 4)[-1] >= 0.0011
    assert ticks(1, 400, 7, whole=True) == [100, 200, 300, 400] and ticks(1, 3, 7, whole=True) == [1, 2, 3]
    assert ticks(0, 0, 4)[0] == 0 and ticks(5, 5, 7, whole=True) == [5]


def test_lines_are_drawn_where_the_figures_are() -> None:
    chart = line_chart([Line("loss", ((0, 0.0), (50, 2.0), (100, 1.0)))], "Loss")
    assert 'd="M56.0 190.0L342.0 10.0L628.0 100.0"' in chart
    assert line_chart([Line("none", ())], "x") == "" == line_chart([Line("nan", ((1, float("nan")),))], "x")
    assert "<circle" in line_chart([Line("one", ((1, 1.0),))], "x")


def test_thinning_keeps_every_spike() -> None:
    points = [(float(i), 1.0) for i in range(50_000)]
    points[31_337] = (31_337.0, 99.0)
    assert len(thin(points)) <= 800 and (31_337.0, 99.0) in thin(points)


def test_bars_are_as_long_as_the_share() -> None:
    assert 'width="25.00"' in bar(0.25, 0.2, 0.3, 1) and 'd="M20.00 6H30.00"' in bar(0.25, 0.2, 0.3, 1)
