"""A report's account of what went wrong while training and what was done: skipped steps, recoveries, retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from dozan.html.page import prose
from dozan.judge.report_parts import number
from dozan.rows.example import Json

_SHOWN = 20


def troubles_section(metrics: Sequence[Mapping[str, Json]], facts: Mapping[str, Json]) -> str:
    """A table by step of steps without an update (with rows and module, as metrics.jsonl has them), of returns to a
    checkpoint and of steps that memory did not do for (as run.json has them); "" where there were none."""
    skipped = [(line["step"], "skipped", line.get("train/skipped_why") or "not finite, update skipped")
               for line in metrics if line.get("train/skipped")]  # fmt: skip
    recovered = [(each["step"], "went back", _recovery(each)) for each in facts.get("recoveries") or ()]
    retried = [(each["step"], "memory", _retry(each)) for each in facts.get("oom_retries") or ()]
    found = sorted([*skipped, *recovered, *retried], key=lambda each: each[0])
    if not found:
        return ""
    body = "".join(
        f'<tr><th scope="row">{step:,}</th><td>{escape(kind)}</td><td>{prose(what)}</td></tr>'
        for step, kind, what in found[:_SHOWN]
    )
    left = len(found) - _SHOWN
    more = f" {number(left, 'event')} more {'is' if left == 1 else 'are'} left out." if left > 0 else ""
    counts = [number(len(skipped), "skipped step")] * bool(skipped)
    counts += [number(len(recovered), "return to a checkpoint", "returns to a checkpoint")] * bool(recovered)
    counts += [number(len(retried), "retry for memory", "retries for memory")] * bool(retried)
    caption = f"What went wrong while training, and what was done: {', '.join(counts)}.{more}"
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("step", "what", "why, and what was done"))
    head = f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead>"
    table = f'<table class="said">{head}<tbody>{body}</tbody></table>'
    return f'<section id="troubles"><h2>Skipped and retried</h2>{table}</section>'


def _recovery(each: Mapping[str, Json]) -> str:
    """One return to a checkpoint."""
    back = each["resumed_from"]
    wide = ", ".join(f"model.layers.{layer}" for layer in each.get("fp32_layers") or ())
    place = f"the checkpoint of step {back:,}" if back else "the beginning"
    did = f"back to {place}, {each['rate_factor']:g} × the rate" + (f", {wide} in float32" if wide else "")
    why = each.get("why") or ("" if each["skipped"] else "memory ended amid the update")
    return f"{why}: {did}" if why else did


def _retry(each: Mapping[str, Json]) -> str:
    """One retry of a step that memory did not do for."""
    failed = f"a pack of {each['tokens']:,} tokens did not fit: " if "tokens" in each else ""
    again = f", {each['recompute']} layers computed again" if each["recompute"] else ""
    host = ", their inputs in host memory" if each.get("offload") else ""
    return f"{failed}the same rows in packs of at most {each['pack_tokens']:,} tokens{again}{host}"
