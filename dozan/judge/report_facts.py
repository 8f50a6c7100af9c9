"""A report's end: the rows and what a check found in them, the recipe, versions and hashes."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from dozan.html.page import definitions, isolated, prose
from dozan.judge.report_parts import number
from dozan.rows.example import Json

_OF_DATA = {"rows": "training rows", "heldout_rows": "held-out rows", "tokens": "tokens", "packing": "packing"}
_HASHES = {"base": "base_sha256", "training rows": "rows", "held-out rows": "heldout rows"}
_SAID = "rows: "
_SHOWN = 20


def data_section(facts: Mapping[str, Json], findings: Mapping[str, Json] | None) -> str:
    """Rows and tokens, what training said of the rows, and findings as `Report.to_dict` of a check has them."""
    counts = {title: f"{facts[name]:,}" if isinstance(facts[name], int) else facts[name]
              for name, title in _OF_DATA.items() if facts.get(name) is not None}  # fmt: skip
    notes = [note for note in facts.get("notes") or () if note.startswith(_SAID) and not findings]
    passed = facts.get("overridden") or {}
    notes += [f"trained on in spite of errors: {count:,} × {rule}" for rule, count in passed.items()]
    listed = f"<ul>{''.join(f'<li>{prose(note.removeprefix(_SAID))}</li>' for note in notes)}</ul>" if notes else ""
    body = (definitions(counts) if counts else "") + (_findings(findings) if findings else "") + listed
    if body and not findings and not notes:
        body += "<p>Training’s check had nothing to say of the rows.</p>"
    return f'<section id="data" class="facts"><h2>Data</h2>{body}</section>' if body else ""


def _findings(findings: Mapping[str, Json]) -> str:
    """Rules that were broken, errors first."""
    order = ("error", "warning", "note")
    found = sorted(findings["findings"], key=lambda each: (order.index(each["severity"]), -each["count"]))
    if not found:
        return "<p>The check found nothing.</p>"
    body = "".join(
        f'<tr><th scope="row"><span class="sev {each["severity"]}">{each["severity"]}</span> {escape(each["code"])} '
        f'{escape(each["title"])}<div class="remedy">{prose(each["remedy"])}</div></th><td>{each["count"]:,}</td></tr>'
        for each in found[:_SHOWN]
    )
    left = len(found) - _SHOWN
    more = f" {number(left, 'rule')} more are left out." if left > 0 else ""
    by = "<code>dozan data check</code>" if "stats" in findings else "The check before training"
    caption = f"{by} found {number(findings['errors'], 'error')}, {number(findings['warnings'], 'warning')}.{more}"
    head = '<thead><tr><th scope="col">finding, and what to do</th><th scope="col">times</th></tr></thead>'
    return f'<table class="findings"><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>'


def facts_section(facts: Mapping[str, Json]) -> str:
    """Plain facts first, then a section for each mapping; long lists of settings in columns."""
    plain = {name: value for name, value in facts.items() if not isinstance(value, Mapping) and value not in (None, [])}
    notes = plain.pop("notes", ())
    parts = [definitions(plain)] if plain else []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            parts.append(f"<h3>{isolated(name[:1].upper() + name[1:])}</h3>{_settings(value)}")
    listed = "".join(f"<li>{prose(note)}</li>" for note in notes)
    parts += [f"<h3>Said at the start</h3><ul>{listed}</ul>"] if listed else []
    return f'<section id="made" class="facts"><h2>How it was made</h2>{"".join(parts)}</section>' if parts else ""


def _settings(value: Mapping[str, Json]) -> str:
    """Single settings, then each part of them under its name."""
    single = {name: each for name, each in value.items() if not isinstance(each, Mapping)}
    parts: list[tuple[str, Mapping[str, Json]]] = [("", single)] if single else []
    parts += [(name, each) for name, each in value.items() if isinstance(each, Mapping) and each]
    drawn = "".join(
        f'<div class="part">{f"<h4>{isolated(name)}</h4>" if name else ""}{definitions(each)}</div>'
        for name, each in parts
    )
    return f'<div class="settings">{drawn}</div>'


def hashes(facts: Mapping[str, Json]) -> dict[str, Json]:
    """SHA-256 of the base and of the rows, as run.json has them."""
    known = {**(facts.get("fingerprint") or {}), "base_sha256": facts.get("base_sha256")}
    return {name: known[at] for name, at in _HASHES.items() if known.get(at)}
