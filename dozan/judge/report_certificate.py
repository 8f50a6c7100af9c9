"""A report's certificate: how far the merged model and each GGUF are from base and adapter, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from dozan.html.page import definitions, isolated
from dozan.judge.report_parts import number, per_cent, span, unbroken
from dozan.rows.example import Json


def certificate_section(found: Mapping[str, Json]) -> str:
    """The section, of what `parity.json` of an export holds."""
    files: Mapping[str, Mapping[str, Json]] = found["files"]
    scored = any(said.get("scores") for said in files.values())
    head = ["", "MiB", "logits apart by at most", "KL, nats", "same first choice", "llama.cpp alone"]
    head += ["strictly right"] if scored else []
    rows = [_row("merged, fp32", found["merged"], None, scored)] if found.get("merged") else []
    rows += [_row(name, said, found, scored) for name, said in files.items()]
    titles = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in head)
    model = found["scores"].get("model") if scored else None
    ours = f" The model itself: {counted(model['strict'])}." if model else ""
    caption = (
        f"Against {escape(str(found['reference']))}, on {number(found['probe_rows'], 'row')} "
        f"({number(found['tokens'], 'token')}). Logits in units of their spread, gates beneath. llama.cpp alone: its "
        f"KL from our forward pass with the same weights.{ours}"
    )
    table = (f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{titles}</tr></thead>'
             f"<tbody>{''.join(rows)}</tbody></table></div>")  # fmt: skip
    return f'<section id="certificate"><h2>Certificate</h2><p>{_verdict(files)}</p>{table}{_made_of(found)}</section>'


def _verdict(files: Mapping[str, Mapping[str, Json]]) -> str:
    bad = {name: said for name, said in files.items() if said["failures"]}
    failed = "".join(f'<br><span class="bad">{isolated(name)}: {escape("; ".join(said["failures"]))}</span>'
                     for name, said in bad.items())  # fmt: skip
    good = [said for said in files.values() if not said["failures"]]
    if not good:
        return f"No file computes what was trained.{failed}"
    lines = good[0]["lines"]
    stops = number(len(good[0]["stop_ids"]), "stop token")
    whole = "Every file computes" if not bad else f"{number(len(good), 'file computes', 'files compute')}"
    return (
        f"{whole} what was trained, within the gate of its type: {number(lines, 'text')} become the same token ids, "
        f"llama.cpp ends at each of the {stops}, and every tensor is the model’s, rounded.{failed}"
    )


def _row(name: str, said: Mapping[str, Json], found: Mapping[str, Json] | None, scored: bool) -> str:
    title = f'<th scope="row">{isolated(name)}</th>'
    if "difference" not in said:
        return f"<tr>{title}<td></td>{'<td>–</td>' * (4 + scored)}</tr>"
    apart, gate = said["difference"], said["gate"]
    size = f"{said['bytes'] / 2**20:,.1f}" if found else ""
    relative = apart["max_abs"] / max(1.0, apart["spread"])
    forward = nats(said["forward"]["mean_kl"]) if found else "–"
    cells = [
        size, _with(f"{relative:.2g}", f"{gate['difference']:.2g}"),
        _with(nats(apart["mean_kl"]), f"{gate['kl']:.2g}"),
        _with(per_cent(apart["top1"]), per_cent(gate["top1"])), forward,
    ]  # fmt: skip
    if scored:
        cells.append(_share(said["scores"]["strict"]) if said.get("scores") else "–")
    return f"<tr>{title}{''.join(f'<td>{each}</td>' for each in cells)}</tr>"


def _with(value: str, gate: str) -> str:
    return f"{value}<small>{gate}</small>"


def nats(value: float) -> str:
    return f"{value:.4f}" if value >= 5e-5 else f"{value:.0e}"


def _share(found: Mapping[str, Json]) -> str:
    right = unbroken(f"{found['right']:,} of {found['n']:,}")
    return f"{right}<small>{span(found['low'], found['high'])}</small>"


def counted(found: Mapping[str, Json]) -> str:
    """`42 of 50 (71.5–91.7 %)`"""
    return unbroken(f"{found['right']:,} of {found['n']:,} ({span(found['low'], found['high'])}\u202f%)")


def _made_of(found: Mapping[str, Json]) -> str:
    hashes = {"base": found.get("base_sha256"), "adapter": found.get("adapter_sha256")}
    hashes |= {name: said.get("sha256") for name, said in found["files"].items()}
    return f'<div class="facts"><h3>SHA-256</h3>{definitions({k: v for k, v in hashes.items() if v})}</div>'
