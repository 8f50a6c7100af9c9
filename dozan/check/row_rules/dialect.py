"""DZ650: a row's dialect label against words that only one variety has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.view import RowView, texts
from dozan.rows.arabic import fold

LABEL = Rule(
    "DZ650",
    "dialect-label",
    "warning",
    "row",
    "A dialect label that the words contradict",
    "Figures by dialect, and a set balanced by dialect, are then about something else.",
    "Correct the label.",
)
RULES = Catalog([LABEL])

LABEL_KEYS = ("dialect", "variety", "lang_variety")
_NAMES = {
    "msa": "msa",
    "fusha": "msa",
    "standard": "msa",
    "modern standard arabic": "msa",
    "فصحى": "msa",
    "arb": "msa",
    "egyptian": "egyptian",
    "egypt": "egyptian",
    "arz": "egyptian",
    "masri": "egyptian",
    "مصري": "egyptian",
    "levantine": "levantine",
    "apc": "levantine",
    "shami": "levantine",
    "شامي": "levantine",
    "gulf": "gulf",
    "khaleeji": "gulf",
    "afb": "gulf",
    "خليجي": "gulf",
    "saudi": "gulf",
    "maghrebi": "maghrebi",
    "moroccan": "maghrebi",
    "ary": "maghrebi",
    "darija": "maghrebi",
    "مغربي": "maghrebi",
    "tunisian": "maghrebi",
    "algerian": "maghrebi",
}
_OWN = {
    "egyptian": "عايز عايزه عايزين عاوز عاوزه عاوزين دلوقتي دلوقت النهارده ازاي ازيك بتاعتي بتاعي كده برضه قوللي",
    "levantine": "بدي بدك بدنا بدو هلق قديش قديه هيدا هيدي هيك منيح منيحه عنجد",
    "gulf": "ابغي ابغا الحين وايد ابيك وشو",
    "maghrebi": "واش كيفاش ديال ديالي ديالك دابا شحال بزاف كاين كاينه علاش فاش بغيتك شنوه برشا",
}
"""Words that one variety alone has; those of several (مش, شنو, وين) tell only that a text is not MSA."""
_COLLOQUIAL = "مش عشان علشان كويس كويسه فين وين شو شنو شلون احنا اللي ليش هون لسه بتاع ايش زينه دورلي تشوفلنا"
_WORDS = {fold(word): name for name, words in _OWN.items() for word in words.split()}
_WORDS |= {fold(word): "colloquial" for word in _COLLOQUIAL.split()}
_FIND = re.compile(r"(?<!\w)و?(" + "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True)) + r")(?!\w)")


def dialect_findings(view: RowView) -> Iterator[Found]:
    """A label in the row's own keys, when the request has words of another variety alone."""
    meta = view.example.meta
    key, label = next(((key, meta[key]) for key in LABEL_KEYS if isinstance(meta.get(key), str)), ("", ""))
    named = _NAMES.get(str(label).strip().lower())
    if named is None or not view.query:
        return
    found: dict[str, str] = {}
    quoted = fold(" ".join(value for _, call in view.calls for _, value in texts(call.arguments, "")))
    for word in _FIND.findall(fold(view.query)):
        if word not in quoted:
            found.setdefault(_WORDS[word], word)
    if named == "msa" and found:
        yield LABEL, key, f"labelled {label}, but {next(iter(found.values()))!r} is no MSA"
    found.pop("colloquial", None)
    if named not in ("msa", *found) and len(found) == 1:
        variety, word = next(iter(found.items()))
        yield LABEL, key, f"labelled {label}, but {word!r} is {variety}"
