"""What a model's scores and a run's curves teach, in words: each lesson with its figures and what to try next."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dozan.html.page import isolated, prose
from dozan.judge.intervals import wilson
from dozan.judge.paired import Paired
from dozan.judge.report_curves import points
from dozan.judge.report_errors import NO_CALL, confusions
from dozan.judge.report_parts import counted, number, particular, per_cent, span, unbroken
from dozan.judge.summary import Scores
from dozan.rows.example import Json

_NAMES_RIGHT, _VALUES_BEHIND = 0.9, 0.05
_OFTEN, _RARE, _WIDE, _FEW = 0.05, 0.01, 0.10, 5
_RISE, _GAP, _HEART, _HIGH_NORM = 1.02, 2.0, 0.002, 1.0
_WINDOW, _SHOWN = 50, 3
_VALUE_FAULTS = ("wrong_value", "ungrounded", "wrong_language", "wrong_year", "digits", "surface_form", "type_error",
                 "missing_required", "missing_optional", "extra_argument", "off_schema_key")  # fmt: skip
_KINDS = {
    "ungrounded": ("Values are made up", "stand nowhere in the conversation",
                   "rows in which such values are copied from the text, in many wordings; dozan data check names "
                   "training rows whose own values stand nowhere"),
    "wrong_language": ("Values come in another script", "are in another script than the right one",
                       "one convention for names in the training rows: as they are spoken, or as the schema has them"),
    "wrong_year": ("Dates fall in another year", "are the right day of another year",
                   "training rows whose current date differs from row to row, so that the year must be read there"),
}  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """What was seen and what to try, as HTML; `rows` is how many it is about, which orders them."""

    title: str
    seen: str
    remedy: str
    rows: float = 0


def lessons_section(
    scores: Scores, name: str, paired: Paired | None, metrics: Sequence[Mapping[str, Json]],
    said: Sequence[Mapping[str, Json]] = (),
) -> str:  # fmt: skip
    """The lessons as a list, what concerns most rows first; then what was said while the run trained."""
    found = lessons(scores, paired, metrics)
    items = "".join(
        f"<li><b>{lesson.title}.</b> {lesson.seen} <span class='try'><i>To try:</i> {lesson.remedy}.</span></li>"
        for lesson in found
    )
    body = f'<ol class="lessons">{items}</ol>' if items else "<p>No figure stands out.</p>"
    lead = f"<p>What the figures of {isolated(name)} say.</p>"
    words = "".join(f"<tr><th scope='row'>{each['step']:,}</th><td>{prose(each['text'])}</td></tr>" for each in said)
    told = ("<h3>Said while it trained</h3><table class='said'><thead><tr><th scope='col'>step</th>"
            f"<th scope='col'>what its figures gave reason to say</th></tr></thead><tbody>{words}</tbody></table>"
            if words else "")  # fmt: skip
    return f'<section id="lessons"><h2>Lessons, and what to try next</h2>{lead}{body}{told}</section>'


def lessons(scores: Scores, paired: Paired | None, metrics: Sequence[Mapping[str, Json]]) -> list[Lesson]:
    """Every rule that the figures set off."""
    of_scores = (_values, _names, _value_kinds, _copying, _never_called, _no_calls, _missed, _malformed, _spelling,
                 _too_few)  # fmt: skip
    found = [lesson for rule in of_scores for lesson in rule(scores)]
    found += _lagging(scores)
    found += [lesson for curve in (_held_out, _calls, _by_heart, _restless, _unended) for lesson in curve(metrics)]
    if paired is not None and paired.regressions:
        found += _lost(paired, scores)
    return sorted(found, key=lambda lesson: -lesson.rows)


def _values(scores: Scores) -> list[Lesson]:
    calls = scores.summary()["calls"]
    named, whole = calls["tool_name"], calls["strict"]
    if not calls["n"] or named < _NAMES_RIGHT or named - whole < _VALUES_BEHIND:
        return []
    behind = calls["intervals"]["tool_name"]["right"] - calls["intervals"]["strict"]["right"]
    found: Counter[str] = Counter()
    for row in scores.rows:
        found.update(fault.detail for fault in row.faults if fault.kind in _VALUE_FAULTS)
    worst = _list(found)
    seen = (f"The tool is right in {counted(calls, 'tool_name')} rows that ask for a call, all of the call in "
            f"{counted(calls, 'strict')}. Most often wrong: {worst}.")  # fmt: skip
    return [Lesson("Names are right, values are wrong", seen,
                   "more rows for these arguments, in varied wording and with values that no other row has; a higher "
                   "rank will not help", behind)]  # fmt: skip


def _names(scores: Scores) -> list[Lesson]:
    calls = scores.summary()["calls"]
    wrong = Counter({pair: n for pair, n in confusions(scores).items() if NO_CALL not in pair and pair[0] != pair[1]})
    if not calls["n"] or wrong.total() < max(2, _RARE * calls["n"]):
        return []
    most = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    said = ", ".join(
        f"<code>{isolated(came)}</code> for <code>{isolated(asked)}</code> ({n:,})" for (asked, came), n in most
    )
    return [Lesson("Tools are taken for one another", f"{number(wrong.total(), 'call')} went to another tool: {said}.",
                   "descriptions that say when one tool is meant and not the other, and pairs of rows that differ in "
                   "just that", wrong.total())]  # fmt: skip


def _value_kinds(scores: Scores) -> list[Lesson]:
    found = []
    for kind, (title, what, remedy) in _KINDS.items():
        part = scores.summary()["errors"][kind]
        if part["count"] >= max(2, _RARE * len(scores.rows)):
            seen = f"{number(part['count'], 'value')} {what}: {_list(part['by'])}."
            found.append(Lesson(title, seen, remedy, part["rows"]))
    return found


def _copying(scores: Scores) -> list[Lesson]:
    parts = scores.summary()["by_argument_kind"]
    copied, computed = parts["copied"], parts["computed"]
    if not (copied["n"] and computed["n"]):
        return []
    first, second = copied["intervals"]["strict"], computed["intervals"]["strict"]
    seen = (
        f"Right are {counted(copied, 'strict')} values that stand in the text, "
        f"{counted(computed, 'strict')} that do not."
    )
    if first["high"] < second["low"]:
        return [Lesson("Copying is harder than computing", seen,
                       "names, places and texts that are rare and differ from row to row: a value seen often is "
                       "recited, not copied", first["n"] - first["right"])]  # fmt: skip
    if second["high"] < first["low"]:
        return [Lesson("Computing is harder than copying", seen,
                       "more rows with relative dates, times and written-out numbers, each with the current date it is "
                       "reckoned from", second["n"] - second["right"])]  # fmt: skip
    return []


def _lagging(scores: Scores) -> list[Lesson]:
    """Groups whose interval lies wholly beneath that of all the others."""
    summary = scores.summary()
    titles: dict[str, tuple[Callable[[str], str], str, str]] = {
        "by_dialect": (lambda name: f"The dialect {name} lags", "rows", "more rows in it, by people who speak it"),
        "by_kind": (lambda name: f"Rows of the kind {name} lag", "rows", "more rows of the kind"),
        "by_length": (lambda name: f"Commands of {name} words lag", "rows", "more rows as long"),
        "by_tool": (lambda name: f"The tool {name} lags", "calls", "more rows that ask for it, its arguments varied"),
    }
    found = []
    for group, (title, unit, remedy) in titles.items():
        parts = {name: part["intervals"]["strict"] for name, part in summary[group].items()}
        for name, part in parts.items():
            n, right = (sum(other[key] for other in parts.values()) - part[key] for key in ("n", "right"))
            if not n or part["high"] >= wilson(right, n)[0]:
                continue
            rest = f"{right:,} of {n:,} ({unbroken(f'{per_cent(right / n)}, {span(*wilson(right, n))}')})"
            seen = f"{counted(summary[group][name], 'strict')} {unit} are right, of all others {rest}."
            found.append(Lesson(title(isolated(name)), seen, remedy, part["n"] - part["right"]))
    return found


def _never_called(scores: Scores) -> list[Lesson]:
    parts = scores.summary()["by_tool"]
    never = {name: part["n"] for name, part in parts.items() if not part["tool_name"]}
    if not never:
        return []
    asked = sum(never.values())
    rare = " Some are asked for too seldom to tell." if any(n < _FEW for n in never.values()) else ""
    seen = f"Never called where they are asked for: {_list(never)}.{rare}"
    return [Lesson("Tools that are never called", seen,
                   "rows that ask for them (dozan data check counts training rows by tool); if there are such, a name "
                   "and a description that say more", asked)]  # fmt: skip


def _no_calls(scores: Scores) -> list[Lesson]:
    part = scores.summary()["no_calls"]
    if not part["n"]:
        return [Lesson("Restraint is not measured", "No row asks for no call.",
                       "test and training rows that no tool answers, among them near misses")]  # fmt: skip
    if part["false_calls"] < _OFTEN:
        return []
    tools = Counter(call.name for row in scores.rows if not row.gold for call in row.calls)
    named = f": {_list(tools)}" if tools else ""
    return [Lesson("It calls where nothing asks for a call",
                   f"{counted(part, 'false_calls')} such rows get one{named}.",
                   "more training rows without a call, near misses of the tools that are called for nothing",
                   part["intervals"]["false_calls"]["right"])]  # fmt: skip


def _missed(scores: Scores) -> list[Lesson]:
    part = scores.summary()["calls"]
    if not part["n"] or part["missed_calls"] < _OFTEN:
        return []
    tools = Counter(call.name for row in scores.rows if row.gold and not row.calls for call in row.gold)
    seen = f"{counted(part, 'missed_calls')} rows get no call: {_list(tools)}."
    return [Lesson("It does not call where it should", seen,
                   "fewer training rows without a call, or more that ask for these tools; look whether the answers are "
                   "refusals or malformed", part["intervals"]["missed_calls"]["right"])]  # fmt: skip


def _malformed(scores: Scores) -> list[Lesson]:
    summary = scores.summary()
    if summary["parse_failures"] < _RARE:
        return []
    said = _list(summary["errors"]["parse_failure"]["by"])
    return [Lesson("Answers are malformed", f"{counted(summary, 'parse_failures')} rows: {said}.",
                   "generation held to the grammar of the tools, which leaves no other answer; more steps, if the loss "
                   "was still falling", summary["intervals"]["parse_failures"]["right"])]  # fmt: skip


def _spelling(scores: Scores) -> list[Lesson]:
    summary = scores.summary()
    right = {key: summary["intervals"][key]["right"] for key in ("strict", "normalised")}
    gap = right["normalised"] - right["strict"]
    if gap < max(2, _RARE * len(scores.rows)):
        return []
    seen = f"{number(gap, 'row')} are right once digits, dates and spelling are normalised."
    return [Lesson("Right but for how it is written", seen, "the same normalising in the program that takes the calls; "
                   "or one spelling in the training rows (dozan data fix)", gap)]  # fmt: skip


def _too_few(scores: Scores) -> list[Lesson]:
    interval = scores.summary()["intervals"]["strict"]
    half = (interval["high"] - interval["low"]) / 2
    if 2 * half <= _WIDE:
        return []
    seen = f"{number(interval['n'], 'row')} tell strict to ±{100 * half:.0f} points: smaller changes cannot be seen."
    return [Lesson("The rows are few", seen, "more test rows; four times as many halve the interval")]  # fmt: skip


def _lost(paired: Paired, scores: Scores) -> list[Lesson]:
    lost, kept = len(paired.regressions), sum(row.strict for row in scores.rows) - len(paired.wins)
    if lost < _OFTEN * (lost + kept):
        return []
    seen = f"{lost:,} of {number(lost + kept, 'row')} that the first model gets right are wrong now."
    return [Lesson("Something that worked was unlearnt", seen, "rows of what it could do before, mixed in; a lower "
                   "learning rate or fewer epochs", lost)]  # fmt: skip


def _held_out(metrics: Sequence[Mapping[str, Json]]) -> list[Lesson]:
    curve, trained = points(metrics, "eval/loss"), [loss for _, loss in points(metrics, "train/loss")]
    if not curve:
        return []
    (best, low), (last, end) = min(curve, key=lambda point: point[1]), curve[-1]
    if best < last and end > _RISE * low:
        strict = points(metrics, "score/strict")
        better = strict and max(strict, key=lambda point: point[1])[0] > best
        calls = " Calls were at their best later, so the loss is no reason to stop." if better else ""
        seen = f"The loss on held-out rows was lowest after step {best:,.0f} ({low:.3f}) and rose to {end:.3f}.{calls}"
        return [Lesson("Rows are learnt by heart", seen, "fewer epochs, more rows, or score.patience, which ends a run "
                       "whose calls get no better")]  # fmt: skip
    level = statistics.mean(trained[-_WINDOW:]) if trained else 0.0
    if level > 0 and end > _GAP * level and end - level > 0.05:
        seen = f"Their loss is {end:.3f}, that of the last steps {level:.3f}."
        return [Lesson("Held-out rows are much harder than training rows", seen,
                       "training rows from more templates, writers and values")]  # fmt: skip
    return []


def _calls(metrics: Sequence[Mapping[str, Json]]) -> list[Lesson]:
    curve = points(metrics, "score/strict")
    if len(curve) < 2:
        return []
    (best, most), (last, end) = max(curve, key=lambda point: point[1]), curve[-1]
    if most > end:
        seen = f"Strict was {per_cent(most)} after step {best:,.0f} and is {per_cent(end)} after step {last:,.0f}."
        return [Lesson("Calls were best before the end", seen, "score.patience, which ends a run whose calls get no "
                       "better; the best adapter is kept in any case")]  # fmt: skip
    if end > curve[-2][1]:
        seen = f"Strict rose from {per_cent(curve[-2][1])} to {per_cent(end)} with the last scoring."
        return [Lesson("Calls were still getting better", seen, "more epochs")]  # fmt: skip
    return []


def _by_heart(metrics: Sequence[Mapping[str, Json]]) -> list[Lesson]:
    losses = [loss for _, loss in points(metrics, "train/loss")][-_WINDOW:]
    if len(losses) < _WINDOW or statistics.mean(losses) > _HEART:
        return []
    return [Lesson("The training rows are known by heart", f"The loss of the last {_WINDOW} steps is "
                   f"{statistics.mean(losses):.4f}.", "fewer epochs, a lower learning rate, or more rows")]  # fmt: skip


def _restless(metrics: Sequence[Mapping[str, Json]]) -> list[Lesson]:
    norms = [norm for _, norm in points(metrics, "train/grad_norm")][-2 * _WINDOW :]
    high = sum(norm > _HIGH_NORM for norm in norms)
    if len(norms) < 2 * _WINDOW or high < 0.9 * len(norms):
        return []
    seen = f"Its norm was above {_HIGH_NORM:g} in {high} of the last {len(norms)} steps."
    return [Lesson("The gradient stays large", seen,
                   "half the learning rate; a look for contradicting rows (dozan data check)")]  # fmt: skip


def _unended(metrics: Sequence[Mapping[str, Json]]) -> list[Lesson]:
    curve = points(metrics, "score/unended")
    if not curve or curve[-1][1] < _RARE:
        return []
    return [Lesson("Answers never stop", f"{per_cent(curve[-1][1])} of the answers were cut off at the last scoring.",
                   "a look at a row with dozan data show: is the stop token trained? If answers are long by nature, a "
                   "higher score.max_new_tokens")]  # fmt: skip


def _list(counts: Mapping[str, int]) -> str:
    """The commonest, with their counts; the number of the others."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    said = ", ".join(f"{particular(name)} ({count:,})" for name, count in ordered[:_SHOWN])
    left = len(ordered) - _SHOWN
    return f"{said} and {number(left, 'other')}" if left > 0 else said
