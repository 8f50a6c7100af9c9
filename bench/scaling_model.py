"""`python -m bench.scaling_model [RECORD]`: the step measured on one GPU, carried to many by `dozan.train.scaling`.

Nothing is fitted to steps on several GPUs: the record's one-GPU steps and the rate of its largest sum of gradients,
measured apart from steps, give every prediction. It prints predictions beside the record's points, and goes on to
64 … 1,024 GPUs on machines of 8 over three networks: seconds, bytes, efficiency, GPU hours, and cost at a price.
`--write` puts the tables into docs/en/scaling.md, between comments that name them, and the picture into
docs/images/scaling.svg. A record is what `bench.scaling` writes. Without one the one-GPU seconds are those that `dozan
plan` expects of an H200, and the links are others' figures; what is to be measured says not measured.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.depth import standalone
from bench.scaling import LARGE, PACK_TOKENS
from dozan.html.charts import Line, line_chart
from dozan.recipe import AdapterRecipe, load_recipe
from dozan.train.cards import CARDS, step_seconds
from dozan.train.deal import head_cost
from dozan.train.memory_setup import Setup
from dozan.train.reduce import buffers_of
from dozan.train.scaling import (
    LINKS,
    NETWORKS,
    Cluster,
    Exchange,
    Part,
    Point,
    Rows,
    all_reduce_seconds,
    inside_of,
    measured,
    pays_up_to,
    reduced_bytes,
    step,
)
from dozan.train.shapes import shape_of
from dozan.train.spread import exchange_of

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "bench" / "records" / "2026-11-22-scaling-h200.json"
PAGE, PICTURE = ROOT / "docs" / "en" / "scaling.md", ROOT / "docs" / "images" / "scaling.svg"
TODO = "not measured"
CHECKED, CARRIED = (2, 4, 8), (64, 128, 256, 512, 1024)
_MACHINE = 8
_LAYER_SECONDS = 0.45e-3
"""As train/cards.py has it, where one workload alone cannot tell."""
_ROW, _ANSWER, _DECLARATION = 75.0, 39.5, 800
"""Tokens of a row of bench.workloads' tool rows: its own, those supervised, and those that all begin with."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A workload: its rows, what a step moves, the seconds of a step on one GPU, and of its floor a pack."""

    name: str
    fsdp: bool
    rows: Rows
    exchange: Exchange
    alone: float
    floor: float

    def __str__(self) -> str:
        return f"{self.name}, in shares" if self.fsdp else self.name

    def has(self, point: Json) -> bool:
        """Whether a point of the record is of this workload."""
        return (point["workload"], point.get("fsdp", False)) == (self.name, self.fsdp)

    def part(self, gpus: int, times: float = 1.0) -> Part:
        """Of the rank that has most, of a step of `times` as many rows."""
        cost, packs = self.rows.part(1)
        return measured(self.alone, cost, packs, self.floor)(*self.larger(times).part(gpus))

    def larger(self, times: float) -> Rows:
        """A step of `times` as many rows."""
        rows = self.rows
        return replace(rows, rows=round(times * rows.rows), own=times * rows.own, weight=times * rows.weight)

    def on(self, gpus: int, cluster: Cluster, overlap: float = 1.0, times: float = 1.0) -> Point:
        """A step on so many GPUs."""
        parts, alone = [self.part(gpus, times)] * gpus, self.part(1, times).seconds
        return step(parts, alone, self.exchange, cluster, overlap)


@cache
def setup_of(name: str, shards: int) -> tuple[Setup, Rows]:
    """What bench.scaling trains under this name, over so many shares of the base, and a step's rows."""
    large = name in LARGE
    size, rows, length = LARGE[name] if large else ("270m", int(name.partition("-")[2]), PACK_TOKENS)
    config = shape_of(size)
    assert config is not None, f"{name} is of no known size"
    adapter = load_recipe("gemma3-12b-trinity").adapter if large else AdapterRecipe()
    setup = Setup(config, adapter, length, length // 2, quantise="nf4" if large else "none", shards=shards)
    trunk, own, answer = (0, float(length), length / 2) if large else (_DECLARATION, _ROW, _ANSWER)
    return setup, Rows(rows, trunk, rows * own, rows * (own + head_cost(config) * answer), length)


def works(record: Json) -> list[Work]:
    """The workloads of a record that have a step on one GPU, those with the base in shares apart."""
    alone = {p["workload"]: p["step_seconds"] for p in record["points"] if p["gpus"] == 1}
    found = []
    for name, fsdp in dict.fromkeys((p["workload"], p.get("fsdp", False)) for p in record["points"]):
        if name in alone:
            setup, rows = setup_of(name, 2 if fsdp else 1)
            floor = min(_floor(name, alone), alone[name] / rows.part(1)[1])
            found.append(Work(name, fsdp, rows, exchange_of(setup), alone[name], floor))
    return found


def _floor(name: str, alone: Mapping[str, float]) -> float:
    """Seconds of a pack however short it is: from the two one-GPU steps of the model that differ most, else as
    expected."""
    config = setup_of(name, 1)[0].config
    known = [(*setup_of(other, 1)[1].part(1), seconds) for other, seconds in alone.items()
             if setup_of(other, 1)[0].config == config]  # fmt: skip
    (least, few, short), (most, many, long) = min(known), max(known)
    across = few * most - many * least
    if len(known) < 2 or not across:
        return _LAYER_SECONDS * config.num_hidden_layers
    return max(0.0, (short * most - long * least) / across)


def cluster(record: Json, network: str) -> Cluster:
    """Machines of 8 whose GPUs are joined as the record measured it, by the largest sum of gradients on the most GPUs
    that it has apart from steps, and a network between them."""
    inside = inside_of("h200")
    summed = [(p["gpus"], p["reduced_bytes"], p["reduce_seconds"]) for p in record["points"]
              if p["gpus"] > 1 and p.get("reduce_seconds")]  # fmt: skip
    if summed:
        gpus, size, seconds = max(summed)
        source = f"{size / 2**20:,.0f} MiB of gradients on {gpus} GPUs"
        rate = reduced_bytes(size, gpus) / seconds
        inside = replace(inside, bandwidth=rate, measured=True, source=source)
    return Cluster(inside, LINKS[network], _MACHINE)


def compared(record: Json, overlap: float = 1.0) -> str:
    """Predictions beside what was measured on several GPUs, as a table."""
    lines = _head("workload", "GPUs", "s a step: predicted", "measured", "off by", "times one: predicted", "measured",
                  "ms to sum the gradients: predicted", "measured")  # fmt: skip
    here = cluster(record, NETWORKS[0])
    for work in works(record):
        told = {p["gpus"]: p for p in record["points"] if work.has(p)}
        lines.append(f"| {work} | 1 | | {_seconds(work.alone, record)} | | | | | |")
        for gpus in sorted({*(() if work.fsdp else CHECKED), *told} - {1}):
            point, seen = work.on(gpus, here, overlap), told.get(gpus, {})
            took, summed = seen.get("step_seconds"), work.exchange.summed
            buffers = buffers_of(summed)
            alone = 1e3 * buffers * all_reduce_seconds(summed / buffers, gpus, here)
            lines.append(
                f"| {work} | {gpus} | {point.seconds:.4g} | {_or_todo(took, '.4g')} | "
                f"{_or_todo(took and point.seconds / took - 1, '+.1%')} | {point.speedup:.2f} | "
                f"{_or_todo(took and work.alone / took, '.2f')} | {alone:.2f} | "
                f"{_or_todo(1e3 * seen['reduce_seconds'] if seen.get('reduce_seconds') else None, '.2f')} |"
            )
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    """The first lines of a table: names to the left in the first column, figures to the right."""
    return [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]


def _seconds(value: float, record: Json) -> str:
    return f"{TODO} (expected: {value:.4g})" if record.get("expected") else f"{value:.4g}"


def _or_todo(value: float | None, form: str) -> str:
    return TODO if value is None else format(value, form)


def carried(record: Json, work: Work, kept: bool, overlap: float = 1.0, price: float | None = None) -> str:
    """A step on 64 to 1,024 GPUs over each network, as a table. kept: each GPU has as many rows as one of 8 has, so
    that a step grows; else the step is the same, and no more GPUs than rows share it. price: of a GPU hour."""
    cost = () if price is None else (f"cost at {price:g} an hour",)
    lines = _head("network", "GPUs", "rows a step", "s a step", "of which waits", "efficiency", "MiB a GPU sends",
                  "GPU hours for a million rows", *cost)  # fmt: skip
    for gpus in CARRIED:
        times = gpus / _MACHINE if kept else 1.0
        for network in NETWORKS:
            if not kept and gpus > work.rows.rows:
                continue
            point, rows = work.on(gpus, cluster(record, network), overlap, times), work.larger(times).rows
            hours = gpus * point.seconds / rows * 1e6 / 3600
            sent = work.exchange.sent(gpus, work.part(gpus, times).packs) / 2**20
            paid = "" if price is None else f" {price * hours:,.0f} |"
            lines.append(f"| {network} | {gpus:,} | {rows:,} | {point.seconds:.3g} | {point.waiting:.2g} | "
                         f"{point.efficiency:.0%} | {sent:,.0f} | {hours:,.3g} |{paid}")  # fmt: skip
    return "\n".join(lines)


def paying(record: Json, overlap: float = 1.0) -> str:
    """How many GPUs each workload pays on, over each network."""
    lines = _head("workload", "rows a step", *NETWORKS)

    def efficiency(gpus: int, work: Work, network: str) -> float:
        return work.on(gpus, cluster(record, network), overlap).efficiency

    for work in works(record):
        bound = min(CARRIED[-1], work.rows.rows)
        most = [pays_up_to(partial(efficiency, work=work, network=network), bound) for network in NETWORKS]
        lines.append(f"| {work} | {work.rows.rows:,} | {' | '.join(f'{n:,}' for n in most)} |")
    return "\n".join(lines)


def links(record: Json) -> str:
    """What is taken of each link, and where it is from."""
    inside = cluster(record, NETWORKS[0]).inside
    lines = ["| link | GB/s | µs a hop | µs a chunk | from |", "|---|---:|---:|---:|---|"]
    for link in [inside if link.name == inside.name else link for link in LINKS.values()]:
        source = f"**measured by us**: {link.source}" if link.measured else link.source
        shared = " a machine" if link.shared else ""
        rate, hop, chunk = link.bandwidth / 1e9, 1e6 * link.hop, 1e6 * link.chunk
        lines.append(f"| {link.name} | {rate:.3g}{shared} | {hop:g} | {chunk:g} | {source} |")
    return "\n".join(lines)


def drawing(record: Json, overlap: float = 1.0) -> str:
    """Efficiency over GPUs: the first workload's step divided, and grown with the GPUs; what was measured as dots."""
    work = max(works(record), key=lambda each: each.rows.rows)
    slow, fast = (cluster(record, name) for name in (NETWORKS[0], NETWORKS[-1]))
    most = int(math.log2(min(CARRIED[-1], work.rows.rows)))

    def line(name: str, here: Cluster, colour: int, kept: bool) -> Line:
        counts = [2**i for i in range(3 if kept else 0, 11 if kept else most + 1)]
        found = [work.on(n, here, overlap, n / _MACHINE if kept else 1.0).efficiency for n in counts]
        return Line(name, tuple((math.log2(n), 100 * y) for n, y in zip(counts, found, strict=True)), colour)

    seen = [(math.log2(p["gpus"]), 100 * work.alone / p["gpus"] / p["step_seconds"])
            for p in record["points"] if work.has(p)]  # fmt: skip
    lines = [
        line(f"{work.rows.rows:,} rows a step, {fast.network.name}", fast, 1, False),
        line(f"the same, {slow.network.name}", slow, 2, False),
        line(f"{work.rows.rows // _MACHINE} rows a GPU, {fast.network.name}", fast, 3, True),
        line(f"the same, {slow.network.name}", slow, 4, True),
    ]
    if not record.get("expected"):
        lines.append(Line("measured", tuple(seen), 0, dots=True))
    title = f"Efficiency in % of {work.name} by GPUs"
    chart = line_chart(lines, title, "efficiency in %, by GPUs", lambda x: f"{2**x:.0f}")
    return standalone(chart, lines, left=70, top=115)


def expected() -> Json:
    """A record without measurements: what `dozan plan` expects of one H200."""
    points = []
    for name in ("tool-64", "tool-2048", "12b-trinity"):
        setup, rows = setup_of(name, 1)
        _, packs = rows.part(1)
        supervised = round((rows.weight - rows.own) / head_cost(setup.config) / packs)
        one = replace(setup, tokens=round(rows.trunk + rows.own / packs), supervised=supervised)
        seconds = packs * step_seconds(one, CARDS["h200"], rows.trunk + rows.own / rows.rows)
        points.append({"workload": name, "gpus": 1, "step_seconds": seconds})
    return {"expected": True, "points": points}


def tables(record: Json, overlap: float = 1.0, price: float | None = None) -> dict[str, str]:
    """Every table by the name that the page has for it."""
    found = {"links": links(record), "compared": compared(record, overlap), "paying": paying(record, overlap)}
    for work in works(record):
        if work.rows.rows >= CARRIED[0]:
            found[f"{work}, the same step"] = carried(record, work, False, overlap, price)
        found[f"{work}, the same rows a GPU"] = carried(record, work, True, overlap, price)
    return found


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with each table between its comments. Raises ValueError for a comment that names no table."""

    def put(match: re.Match[str]) -> str:
        if match["name"] not in made:
            raise ValueError(f"no table {match['name']!r}; there are {', '.join(made)}")
        return f"<!-- table: {match['name']} -->\n{made[match['name']]}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[^\n]*?) -->\n.*?<!-- end -->", put, page, flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; with --write, put them and the picture into the documentation."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling_model", description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path, nargs="?", help="a record of 1, 2, … GPUs; without one: as expected")
    parser.add_argument("--overlap", type=float, default=1.0, help="share of the computing that exchanges can use")
    parser.add_argument("--price", type=float, help="of a GPU hour")
    parser.add_argument("--write", action="store_true", help="write the page's tables and the picture")
    chosen = parser.parse_args(arguments)
    path = chosen.record or (RECORD if RECORD.exists() else None)
    record = expected() if path is None else json.loads(path.read_text(encoding="utf-8"))
    made = tables(record, chosen.overlap, chosen.price)
    for name, table in made.items():
        print(f"\n{name}\n{table}")
    if chosen.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
        PICTURE.write_text(drawing(record, chosen.overlap), encoding="utf-8")


if __name__ == "__main__":
    main()
