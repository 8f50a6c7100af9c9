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
from dozan.chat.format import Call
from dozan.errors import InputError
from dozan.html.charts import Line, bar, line_chart, thin, ticks
from dozan.html.page import show_calls
from dozan.judge.compare import compare
from dozan.judge.gates import check_gates, read_gate
from dozan.judge.intervals import wilson
from dozan.judge.report import report_run, verdict, write_report
from dozan.judge.report_curves import curves_section, points, running_mean
from dozan.judge.report_errors import NO_CALL, confusion_section, confusions, errors_section
from dozan.judge.report_parts import details, particular
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
    links = {value for _, found in page.seen for key, value in found.items() if key in ("src", "href")}
    assert links == {f"#{found['id']}" for _, found in page.seen if "id" in found} and "#scores" in links
    assert "url(" not in text and "@import" not in text and len(text.encode()) < 2 * 2**20
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert sum(found.get("class") == "chart" for tag, found in page.seen if tag == "svg") == 3


def test_every_figure_is_there(tmp_path: Path) -> None:
    text = plain(written(tmp_path))
    assert all(figure in text for figure in ("33.3 %", "9.7–70.0", "66.7 %", "71.4 %"))
    assert all(name in text for name in ("gulf", "egyptian", "transfer", "remind", "copied", "computed", "absent"))
    assert "tuned gets 4 of 6 rows exactly right ( 66.7 %, 30.0–90.3 ), base 2 ( 33.3 %, 9.7–70.0 )" in text
    assert "which chance alone may explain (McNemar, p = 0.62). It gets better on 3 rows and worse on 1." in text
    assert "tuned gets 1 row wrong that base gets right, and 3 right the other way round." in text
    for fact in ("Recipe", "adapter rank 32", "q_proj, v_proj", "embedded", f"dozan, of this page {dozan.__version__}"):
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
    assert "base gets 2 of 6 rows exactly right ( 33.3 %, 9.7–70.0 ). Exactly right" in text
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
        "tuned gets 20 of 20 rows exactly right (100.0\u202f%, 83.9–100.0), base 0 (0.0\u202f%, 0.0–16.1): a "
        "difference of +100.0 points (+76.8 to +100.0), more than chance would give (McNemar, p &lt; 0.0001). It gets "
        "better on 20 rows and worse on none."
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


def test_a_run_without_metrics_with_what_was_found_and_said(tmp_path: Path) -> None:
    found = {"code": "DZ9", "name": "nine", "severity": "warning", "title": "Nine is odd", "remedy": "Take `ten`.",
             "count": 3}  # fmt: skip
    facts = {
        "base": "b", "said": [{"step": 1207, "text": "the answer 'شغل' <never> stops"}],
        "findings": {"errors": 0, "warnings": 3, "findings": [found]},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(facts))
    report_run(tmp_path / "report.html", tmp_path, pair())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="chart"' not in text and "&lt;never&gt; stops" in text
    shown = plain(text)
    assert "The check before training found 0 errors, 3 warnings." in shown and "DZ9 Nine is odd" in shown
    assert "Said while it trained" in shown and "1,207" in shown and shown.count("Nine is odd") == 1
    report_run(tmp_path / "report.html", tmp_path, pair(), findings={**facts["findings"], "stats": {}, "warnings": 4})
    assert "dozan data check found 0 errors, 4 warnings." in plain((tmp_path / "report.html").read_text())


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
    assert "the same rows in packs of at most 456 tokens" in shown and "adapter.rank=32" in shown
    assert sum(found.get("class") == "bar" for tag, found in page.seen if tag == "svg") > 0
    for missing in (None, {}):
        (tmp_path / "run.json").write_text(json.dumps(facts | {"memory": missing}))
        report_run(tmp_path / "report.html", tmp_path, pair())
        assert "<h2>Memory</h2>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_shows_what_was_skipped_and_mended(tmp_path: Path) -> None:
    lines = [{"step": 3, "train/loss": 1.0}, {"step": 7, "train/loss": None, "train/skipped": True, "train/skipped_why":
             "not finite, update skipped; rows: r<7>; it began in model.layers.4.mlp.down_proj"}]  # fmt: skip
    facts = {
        "base": "b", "sealed": {"data/train.jsonl": {"bytes": 1, "sha256": "5ea1" * 16}},
        "recoveries": [
            {"step": 8, "resumed_from": 4, "skipped": 3, "rate_factor": 1.0, "fp32_layers": [4],
             "why": "not finite in 3 steps in a row, last in rows r8; it began in model.layers.4.mlp.down_proj"},
            {"step": 9, "resumed_from": 6, "skipped": 0, "rate_factor": 0.5}],
        "oom_retries": [{"step": 1, "tokens": 913, "rows": 1, "pack_tokens": 456, "recompute": 18, "offload": True}],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report_run(tmp_path / "report.html", tmp_path, pair())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = plain(text)
    assert "1 skipped step, 2 returns to a checkpoint, 1 retry for memory." in shown and 'href="#troubles"' in text
    assert "rows: r&lt;7&gt;; it began in model.layers.4.mlp.down_proj" in text and "5ea15ea1" not in text
    assert "back to the checkpoint of step 4, 1 × the rate, model.layers.4 in float32" in shown
    assert "memory ended amid the update: back to the checkpoint of step 6, 0.5 × the rate" in shown
    assert "a pack of 913 tokens did not fit" in shown and "18 layers computed again, their inputs in host" in shown
    assert shown.index("a pack of 913") < shown.index("r&lt;7&gt;" if "r&lt;7&gt;" in shown else "r<7>")
    (tmp_path / "run.json").write_text('{"base": "b", "recoveries": [], "oom_retries": []}')
    (tmp_path / "metrics.jsonl").write_text("")
    report_run(tmp_path / "report.html", tmp_path, pair())
    assert "troubles" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_sections_come_in_order_regressions_before_errors(tmp_path: Path) -> None:
    text = written(tmp_path)
    found = re.findall('<section id="([a-z]+)"', text)
    assert found == ["scores", "lessons", "training", "where", "confusion", "regressions", "errors", "made"]


def test_what_is_wrong_in_an_answer_is_marked() -> None:
    asked = Call("transfer", {"to": "سارة", "amount": 1})
    wrong = show_calls([Call("transfer", {"to": "منى", "amount": 1.0, "note": "x"})], "", [asked])
    assert re.findall("<mark>(.*?)</mark>", wrong) == [
        '<bdi dir="ltr">note</bdi>: “<bdi dir="ltr">x</bdi>”', '<bdi dir="ltr">to</bdi>: “<bdi dir="rtl">منى</bdi>”'
    ]  # fmt: skip
    assert re.findall("<mark>(.*?)</mark>", show_calls([Call("light", {"on": True})], "", [asked])) == [
        '<bdi dir="ltr">light</bdi>'
    ]
    assert "<mark>" in show_calls([Call("transfer", {"to": "سارة", "amount": True})], "", [asked])
    assert "<mark>" not in show_calls([asked], "", [asked]) + show_calls([asked], "")


def test_a_malformed_answer_stands_left_to_right_as_it_is(tmp_path: Path) -> None:
    broken = score(row("a", "حوّل 50 لسارة", PAY), problems=("at 4: no end",))
    runs = {"base": Scores((replace(broken, prediction="<escape>to:سارة<escape>"),))}
    text = written(tmp_path, runs)
    assert '<code dir="ltr">&lt;escape&gt;to:<bdi dir="rtl">سارة</bdi>&lt;escape&gt;</code>' in text


def test_confusions_equal_the_hand_count() -> None:
    assert confusions(hand_made()) == {
        ("transfer", "transfer"): 2, ("remind", "remind"): 1, ("light", NO_CALL): 1, (NO_CALL, "light"): 1,
        (NO_CALL, NO_CALL): 1,
    }  # fmt: skip
    swapped = score(row("a", "حوّل", PAY), ("remind", {"text": "x"}), ("light", {}))
    assert confusions(Scores((swapped,))) == {("transfer", "remind"): 1, (NO_CALL, "light"): 1}


def test_the_most_confused_tools_are_shown_in_full(tmp_path: Path) -> None:
    rows = []
    for i in range(20):
        call = (f"tool_{i:02}", {})
        rows += [score(row(f"{i}-{j}", "شغّل", call), (f"tool_{(i + 1) % 20:02}", {})) for j in range(i + 1)]
    text = confusion_section(Scores(tuple(rows)), "tuned")
    shown = re.findall(r'<th scope="row"><bdi dir="ltr">([^<]+)', text)
    # tool_00 was called 20 times for the last; of the others the later ones are in more confusions
    assert shown == ["tool_00", *(f"tool_{i:02}" for i in range(6, 20))]
    assert "What no row asks for has a column only." in text and "<span><bdi dir=\"ltr\">no call" in text
    assert '<td class="off" style="--share:1.00">19</td>' in text and "210 calls went to the wrong tool" in text
    assert f"{1 + 2 + 3 + 4 + 5 + 6} confusions of others left out" in text
    assert confusion_section(Scores((score(row("a", "حوّل", PAY), PAY),)), "tuned") == ""


def test_a_tool_taken_for_another_stands_before_it_whatever_their_script() -> None:
    sides = '<bdi dir="ltr"><bdi dir="ltr">transfer</bdi> → <bdi dir="rtl">حوّل</bdi></bdi>'
    found = score(row("a", "حوّل 50 لسارة", PAY), ("حوّل", {}))
    assert details(found) == sides and particular("transfer.to") == '<bdi dir="ltr">transfer.to</bdi>'


def test_errors_are_grouped_gravest_first_with_differing_examples(tmp_path: Path) -> None:
    wrong = [("remind", {"text": "x"}), ("remind", {"text": "x"}), ("light", {})]
    rows = [score(row(str(i), f"حوّل 50 لسارة {i}", PAY), call) for i, call in enumerate(wrong)]
    rows.append(score(row("m", "شغّل الكشاف", ("light", {}))))
    text = errors_section({"base": Scores(tuple(rows))}, "base")
    assert re.findall("<h4>([^:]+):", text)[0] == "Missed call"
    told = re.sub("<[^>]+>", "", text)
    assert "light (1)." in told and "transfer → remind (2), transfer → light (1)." in told
    quoted = re.findall(r'<p class="query" dir="rtl"><bdi dir="rtl">([^<]+)', text)
    assert quoted == ["شغّل الكشاف", "حوّل 50 لسارة 0", "حوّل 50 لسارة 2"]
    assert text.count('<mark><bdi dir="ltr">remind</bdi></mark>') == 1


def test_data_findings_recipe_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n")
    checked = dozan.data.check(tmp_path / "rows.jsonl").to_dict()
    assert checked["findings"]
    facts = {
        "rows": 1200, "heldout_rows": 40, "tokens": 99, "notes": ["rows: 12 x DZ1 `a` (a warning)", "warm-up is short"],
        "overridden": {"DZ2": 3}, "base_sha256": "ab" * 32, "fingerprint": {"rows": "cd" * 32, "secret": "no"},
        "final": {"steps": 1234, "seconds": 3700.2, "tokens": 5678},
    }  # fmt: skip
    metrics = [{"step": i, "train/tokens_per_second": 100.0 * i, "train/memory_bytes": i * 2**30} for i in (1, 2, 3)]
    write_report(tmp_path / "report.html", "t", pair(), metrics, facts, findings=checked)
    text = plain((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "training rows 1,200 held-out rows 40" in text and checked["findings"][0]["title"] in text
    assert "12 x DZ1" not in text and "trained on in spite of errors: 3 × DZ2" in text
    assert "SHA-256 base " + "ab" * 32 in text and "cd" * 32 in text and "secret" not in text
    assert "1:01:40 h" in text and "3.00 GiB" in text and "200 median; nine in ten from 100 to 300" in text
    assert "Said at the start warm-up is short" in text
    write_report(tmp_path / "report.html", "t", pair(), metrics, facts)
    text = plain((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "12 x DZ1 a (a warning)" in text and "trained on in spite of errors: 3 × DZ2" in text


def test_gates_are_told(tmp_path: Path) -> None:
    gates = check_gates([read_gate("strict>=0.9"), read_gate("regressions<=1")], pair())
    write_report(tmp_path / "report.html", "t", pair(), [], {}, gates=gates)
    text = plain((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "strict&gt;=0.9 tuned 0.6667 0.9 missed" in text and "regressions&lt;=1 tuned 1 1 met" in text


def test_scores_by_generation_are_drawn_with_their_interval() -> None:
    figures = {"score/normalised": 0.6, "score/tool_name": 0.9, "score/parse_failures": 0.1, "score/rows": 100}
    metrics = [{"step": step, "score/strict": share, **figures} for step, share in ((10, 0.2), (20, 0.5))]
    text = curves_section(metrics)
    assert "Score by generation, % of 100 held-out rows" in text and text.count('class="band fill1"') == 1
    low, high = wilson(50, 100)
    top, bottom = (190.0 - 180.0 * 100 * share / 100 for share in (high, low))
    assert f"L628.0 {top:.1f}L628.0 {bottom:.1f}L" in text


def test_a_large_run_stays_under_two_megabytes(tmp_path: Path) -> None:
    rows = []
    for i in range(400):
        asked = (f"tool_{i % 200}", {"to": "سارة " * 200})
        example = row(f"{i}", "حوّل خمسين لسارة", asked, dialect=f"d{i % 90}")
        scored = score(example, (f"tool_{(i + 1) % 200}", {f"key_{j}": "منى " * 200 for j in range(5)}))
        rows.append(replace(scored, query="حوّل خمسين لسارة " * 5000))
    right = [replace(score(row(one.id, one.query, PAY), PAY), query=one.query, gold=one.gold) for one in rows]
    runs = {"base": Scores(tuple(right)), **{f"tuned {i}": Scores(tuple(rows)) for i in range(3)}}
    metrics = [{"step": i, "train/loss": 1 / i, "train/grad_norm": 0.1 * (i % 7)} for i in range(1, 50_001)]
    assert len(written(tmp_path, runs, metrics=metrics).encode()) < 2 * 2**20


def test_a_step_without_a_finite_loss_is_left_out() -> None:
    assert points([{"step": 1, "a": 2.0}, {"step": 2, "a": float("nan")}, {"step": 3}], "a") == ((1.0, 2.0),)


def test_a_long_loss_curve_has_a_running_mean() -> None:
    assert running_mean([(i, 1.0) for i in range(79)]) == ()
    curve = [(float(i), float(i % 2)) for i in range(200)]
    smooth = running_mean(curve)
    assert len(smooth) == 200 and smooth[100] == (100.0, 2 / 5) and smooth[0] == (0.0, 1 / 3)


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
