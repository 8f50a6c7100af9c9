"""A run's report: one self-contained HTML page with verdict, scores, lessons, curves, errors, data and recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import dozan
from dozan.errors import InputError
from dozan.html.page import isolated, page
from dozan.judge.compare import Comparison, Figure, compare
from dozan.judge.gates import Verdict
from dozan.judge.report_certificate import certificate_section
from dozan.judge.report_curves import Metrics, curves_section, speed_section
from dozan.judge.report_errors import confusion_section, errors_section, regressions_section
from dozan.judge.report_facts import data_section, facts_section, hashes
from dozan.judge.report_lessons import lessons_section
from dozan.judge.report_parts import Runs, number, per_cent, span, unbroken
from dozan.judge.report_scores import groups_section, points, scores_section
from dozan.judge.report_style import STYLE
from dozan.judge.report_troubles import troubles_section
from dozan.rows.example import Json

_CONTENTS = {
    "scores": "Scores", "lessons": "Lessons", "training": "Training", "troubles": "Skipped and retried",
    "where": "Where it is right",
    "confusion": "Confusion", "regressions": "Regressions", "errors": "Errors", "certificate": "Certificate",
    "speed": "Speed and memory", "data": "Data", "made": "How it was made",
}  # fmt: skip
_ELSEWHERE = ("fingerprint", "state", "memory", "final", "base_sha256", "overridden", "rows", "heldout_rows", "tokens",
              "packing", "steps", "findings", "said", "given", "recoveries", "oom_retries", "sealed")  # fmt: skip
"""What run.json has and the list of facts need not repeat."""


def write_report(
    path: str | Path, title: str, runs: Runs, metrics: Metrics, facts: Mapping[str, Json],
    memory: Mapping[str, Json] | None = None, findings: Mapping[str, Json] | None = None, gates: Sequence[Verdict] = (),
    certificate: Mapping[str, Json] | None = None,
) -> None:  # fmt: skip
    """Writes the page. `runs`: scores by name, the baseline first, the model in question second, others after.

    `metrics` are the records of metrics.jsonl; `facts` are those of run.json or others: what has no place of its own is
    listed at the end, a mapping as a part of its own. `memory` is the run's plan of its GPU's memory, `findings` what
    `check.Report.to_dict` makes, `gates` what was demanded, `certificate` the parity.json of an export. Raises
    InputError when the runs were not scored on the same rows.
    """
    comparison = compare(runs)
    subject = list(runs)[min(1, len(runs) - 1)]
    body = "\n".join(
        filter(
            None,
            (
                scores_section(comparison, runs, gates),
                lessons_section(runs[subject], subject, comparison.strict, metrics, facts.get("said") or ()),
                curves_section(metrics),
                troubles_section(metrics, facts),
                groups_section(runs),
                confusion_section(runs[subject], subject),
                regressions_section(comparison, runs),
                errors_section(runs, subject),
                certificate_section(certificate) if certificate else "",
                speed_section(metrics, facts.get("final") or {}, memory),
                data_section(facts, findings),
                facts_section(_listed(facts)),
            ),
        )
    )
    head = f'<h1>{isolated(title)}</h1><p class="verdict">{verdict(comparison)}</p>{_also(comparison)}{_contents(body)}'
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(page(title, f"{head}\n{body}", STYLE), encoding="utf-8")
    staging.replace(path)


def report_run(
    path: str | Path, run: str | Path, runs: Runs, title: str = "", findings: Mapping[str, Json] | None = None,
    certificate: Mapping[str, Json] | None = None, gates: Sequence[Verdict] = (),
) -> None:  # fmt: skip
    """`write_report` of a run folder: its metrics.jsonl, if it is there, and what its run.json has. Without `findings`
    of a whole check it shows those of the training rows."""
    folder = Path(run)
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        kept = folder / "metrics.jsonl"
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
        metrics = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a run that can be reported on ({error}); give a run folder") from None
    title = title or f"{Path(str(facts.get('base', ''))).name}, tuned"
    found = findings or facts.get("findings")
    write_report(path, title, runs, metrics, facts, facts.get("memory"), found, gates, certificate)


def _listed(facts: Mapping[str, Json]) -> dict[str, Json]:
    """The facts of a run that have no place of their own, with versions and hashes."""
    found = {name: value for name, value in facts.items() if name not in _ELSEWHERE}
    if "notes" in found:
        found["notes"] = [note for note in found["notes"] if not note.startswith("rows: ")]
    if facts:
        found["versions"] = {"dozan, of this page": dozan.__version__, **(found.get("versions") or {})}
    digests = hashes(facts)
    return {**found, "SHA-256": digests} if digests else found


def _contents(body: str) -> str:
    links = " ".join(f'<a href="#{name}">{title}</a>' for name, title in _CONTENTS.items() if f'id="{name}"' in body)
    return f'<nav aria-label="contents">{links}</nav>'


def verdict(comparison: Comparison) -> str:
    """What came of it in a sentence or two, as HTML."""
    names = list(comparison.figures)
    strict = {name: figures["strict"] for name, figures in comparison.figures.items()}
    subject, first = names[min(1, len(names) - 1)], names[0]
    found = strict[subject]
    text = f"<b>{isolated(subject)}</b> gets {_right(found)} of {found.n:,} rows exactly right {_share(found)}"
    if comparison.strict is None:
        return text + "."
    paired, difference = comparison.strict, comparison.versus[subject].differences["strict"]
    assert difference.value is not None and difference.low is not None and difference.high is not None
    won, lost = len(paired.wins), len(paired.regressions)
    bounds = unbroken(f"{points(difference.low)} to {points(difference.high)}")
    odds = "p &lt; 0.0001" if paired.p < 1e-4 else f"p = {paired.p:.4f}" if paired.p < 0.05 else f"p = {paired.p:.2f}"
    chance = "more than chance would give" if paired.p < 0.05 else "which chance alone may explain"
    worse = f"worse on {lost:,}" if lost else "worse on none"
    return (
        f"{text}, {isolated(first)} {_right(strict[first])} {_share(strict[first])}: a difference of "
        f"{points(difference.value)} points ({bounds}), {chance} "
        f"(McNemar, {odds}). It gets better on {number(won, 'row')} and {worse}."
    )


def _right(found: Figure) -> str:
    return f"{round((found.value or 0.0) * found.n):,}"


def _share(found: Figure) -> str:
    return f"({unbroken(f'{per_cent(found.value)}, {span(found.low, found.high)}')})"


def _also(comparison: Comparison) -> str:
    """The models after the second, and what stands in parentheses."""
    others = [f"{isolated(name)} gets {_right(figures['strict'])} right {_share(figures['strict'])}"
              for name, figures in list(comparison.figures.items())[2:]]  # fmt: skip
    said = f"{'; '.join(others)}. " if others else ""
    meant = "Exactly right means every call, argument and value; in parentheses 95\u202f% intervals."
    return f'<p class="also">{said}{meant}</p>'
