"""The model of scaling: its limits and closed forms; what a plan for several GPUs counts from real rows; the bench that
carries a record to many GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dozan
from bench import scaling_model as bench
from bench.workloads import workload
from dozan.chat.encode import Tokens
from dozan.cli import complete, main
from dozan.errors import InputError
from dozan.html.page import STYLE
from dozan.pack import by_tokens
from dozan.recipe import Recipe, override
from dozan.train.cards import CARDS
from dozan.train.deal import head_cost, parts
from dozan.train.memory import predict
from dozan.train.memory_setup import WIDE, Setup
from dozan.train.memory_text import figures, html
from dozan.train.plan import Plan, make_plan
from dozan.train.scaling import (
    LINKS,
    NETWORKS,
    Cluster,
    Exchange,
    Part,
    Rows,
    all_gather_seconds,
    all_reduce_seconds,
    inside_of,
    measured,
    pays_up_to,
    reduced_bytes,
    seen,
    step,
)
from dozan.train.shapes import shape_of
from dozan.train.spread import assumed, cluster_of, dealt, exchange_of, spread

ROWS = Path(__file__).parents[1] / "examples" / "home_assistant_ar" / "commands.jsonl"
NVLINK = Cluster(LINKS["nvlink-4"])
counts = st.integers(1, 1024)
clusters = st.builds(
    Cluster, st.sampled_from([link for link in LINKS.values() if not link.between]),
    st.sampled_from([LINKS[name] for name in NETWORKS]), st.integers(1, 16),
)  # fmt: skip
exchanges = st.builds(
    Exchange, *[st.integers(0, 10**11) for _ in range(3)], groups=st.integers(1, 500), once=st.integers(0, 10**10),
    once_groups=st.integers(1, 62),
)  # fmt: skip
steps = st.builds(
    lambda rows, trunk, own, head, room: Rows(rows, trunk, rows * own, rows * (own + head), trunk + own + room),
    st.integers(1, 4096), st.integers(0, 3000), st.integers(1, 4096), st.floats(0, 500), st.integers(0, 65536),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(steps, st.floats(1e-3, 100), st.floats(0, 1), exchanges, clusters)
def test_one_gpu_takes_what_was_measured(
    rows: Rows, seconds: float, share: float, moved: Exchange, cluster: Cluster
) -> None:
    cost, packs = rows.part(1)
    part = measured(seconds, cost, packs, share * seconds / packs)(*rows.part(1))
    found = step([part], seconds, moved, cluster, floor=1.0)
    assert found.seconds == pytest.approx(seconds, rel=1e-9) and found.waiting == 0
    assert found.efficiency == pytest.approx(1, rel=1e-9) and moved.sent(1, packs) == 0


@settings(max_examples=200, deadline=None)
@given(steps, counts, st.floats(1e-3, 100), st.floats(0, 1), st.floats(0, 1), exchanges, clusters)
def test_efficiency_is_at_most_one(
    rows: Rows, gpus: int, seconds: float, share: float, overlap: float, moved: Exchange, cluster: Cluster
) -> None:
    cost, packs = rows.part(1)
    own = measured(seconds, cost, packs, share * seconds / packs)(*rows.part(gpus))
    found = step([own] * gpus, seconds, moved, cluster, overlap)
    assert 0 < found.efficiency <= 1 + 1e-9 and found.seconds >= own.seconds
    assert found.speedup <= gpus * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 1023), exchanges, st.integers(1, 50), clusters)
def test_bytes_grow_with_gpus_packs_and_size_and_are_bounded(
    gpus: int, moved: Exchange, packs: int, cluster: Cluster
) -> None:
    sent = moved.sent(gpus, packs)
    whole = 2 * moved.summed + packs * (moved.gathered + moved.scattered) + moved.once
    assert 0 <= sent <= whole and moved.sent(gpus + 1, packs) >= sent and moved.sent(gpus, packs + 1) >= sent
    more = replace(moved, summed=moved.summed + 2**20)
    assert more.sent(gpus, packs) == pytest.approx(sent + reduced_bytes(2**20, gpus))
    assert moved.seconds(gpus, packs, 1.0, cluster, 0.0) >= moved.seconds(gpus, packs, 1.0, cluster, 1.0)


@pytest.mark.parametrize("gpus", [2, 8, 64])
def test_without_an_exchange_rows_divide_in_closed_form(gpus: int) -> None:
    plain, shared = (Rows(2048, trunk, 2048 * 75.0, 2048 * 120.0, 2**30) for trunk in (0, 800))
    for rows in (plain, shared):
        cost, packs = rows.part(1)
        own = measured(2.0, cost, packs, 0.0)(*rows.part(gpus))
        found = step([own] * gpus, 2.0, Exchange(), NVLINK)
        assert found.speedup == pytest.approx(cost / (rows.trunk + 2048 * 120 / gpus))
    assert step([Part(1 / gpus)] * gpus, 1.0, Exchange(), NVLINK).speedup == pytest.approx(gpus)


def test_rows_are_not_divided() -> None:
    ten = Rows(10, 100, 1000.0, 2000.0, 2**20)
    assert ten.part(8) == (100 + 2 * 200.0, 1) and ten.part(10) == ten.part(64) == (100 + 200.0, 1)
    assert Rows(10, 100, 1000.0, 2000.0, 300).part(1) == (5 * 100 + 2000.0, 5)


def test_a_step_waits_for_its_slowest_rank() -> None:
    found = step([Part(1.0), Part(3.0, 2)], 4.0, Exchange(gathered=10**9), NVLINK, floor=0.5)
    two = 2 * seen(all_gather_seconds(10**9, 2, NVLINK), 1.5, 1)
    assert found.seconds == pytest.approx(3.5 + two) and found.waiting == pytest.approx(0.5 + two)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 10), st.floats(0, 10), st.integers(1, 60))
def test_what_is_seen_is_what_a_pipeline_leaves(exchange: float, beside: float, pieces: int) -> None:
    """Each piece begins when it is ready and the one before has ended."""
    free = 0.0
    for piece in range(1, pieces + 1):
        free = max(free, beside * piece / pieces) + exchange / pieces
    assert seen(exchange, beside, pieces) == pytest.approx(free - beside, abs=1e-9)
    assert seen(exchange, beside, pieces, 0.0) == pytest.approx(exchange)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 1024), clusters)
def test_large_sums_take_the_narrowest_places_time(gpus: int, cluster: Cluster) -> None:
    size = 10**13
    rate = reduced_bytes(size, gpus) / all_reduce_seconds(size, gpus, cluster)
    assert rate == pytest.approx(cluster.bandwidth(gpus), rel=0.05)
    assert all_reduce_seconds(1, gpus, cluster) < all_reduce_seconds(size, gpus, cluster)
    limit = cluster.limit(gpus)
    share = min(gpus, cluster.machine) if limit.between and not limit.shared else 1
    assert cluster.bandwidth(gpus) == limit.bandwidth * share


def test_small_sums_over_many_machines_go_by_a_tree() -> None:
    far = Cluster(LINKS["nvlink-4"], LINKS["ethernet-100"])
    ring = 2 * 127 * far.network.hop
    assert all_reduce_seconds(2**20, 1024, far) < ring / 2
    assert all_gather_seconds(2**20, 1024, far) > ring / 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1024), st.integers(1, 1024))
def test_the_last_gpu_that_pays(last: int, most: int) -> None:
    assert pays_up_to(lambda gpus: 1.0 if gpus <= last else 0.5, most) == min(last, most)


# What a plan counts from real rows.


def tool_plan(rows: int, trunk: int, batch: int, *settings: str) -> Plan:
    """Rows of 10 to 19 tokens of their own after a trunk, 2 to 8 of them supervised."""
    made = []
    for i in range(rows):
        ids = [2, *range(1000, 1000 + trunk - 1), *(10_000 + 31 * i + j for j in range(10 + i % 10))]
        made.append(Tokens(str(i), ids, [0.0] * (len(ids) - 2 - i % 7) + [1.0] * (2 + i % 7)))
    return make_plan(override(Recipe(), [f"train.batch_size={batch}", *settings]), made)


def small(**changes: Any) -> Setup:
    config = shape_of("270m")
    assert config is not None
    return Setup(config, Recipe().adapter, **({"tokens": 4096, "supervised": 256} | changes))


def test_a_trunk_is_counted_on_each_rank() -> None:
    planned, setup = tool_plan(64, 100, 64), small()
    deal = dealt(planned, setup)
    one, four = (sum(tokens for of in deal(n, 1)[0] for tokens, _ in of) for n in (1, 4))
    assert four == one + 3 * 100
    found = spread(setup, CARDS["h200"], 4, NVLINK, deal, 64, 64, 115.0)
    assert found.computed == (one, one + 100, four) and [p.gpus for p in found.points] == [1, 2, 4]
    plain = dealt(tool_plan(64, 1, 64), setup)
    alone = spread(setup, CARDS["h200"], 4, NVLINK, plain, 64, 64, 16.0)
    assert found.last is not None and alone.last is not None
    rest = [p.seconds - p.waiting for p in (found.points[0], found.last)]
    bare = [p.seconds - p.waiting for p in (alone.points[0], alone.last)]
    assert rest[1] - bare[1] == pytest.approx(rest[0] - bare[0], rel=0.2), "a trunk costs each rank what it costs one"


def test_the_packs_are_those_of_the_dealt_rows() -> None:
    planned, setup = tool_plan(96, 50, 32, "train.pack_tokens=256"), small()
    rows, cost = sorted(planned.rows_of(1), key=by_tokens), head_cost(setup.config)
    expected = [[(len(b), len(b.at)) for b in planned.pack(part)] for part in parts(rows, 3, cost)]
    assert dealt(planned, setup)(3, 1)[1] == expected
    ranks = [replace(planned, ranks=3, rank=rank, head_cost=cost).prepare(1).batches for rank in range(3)]
    assert [[(len(b), len(b.at)) for b in batches] for batches in ranks] == expected, "as the run deals them"
    twice = dealt(planned, setup)(1, 2)[0]
    two = [*planned.rows_of(0), *planned.rows_of(1)]
    assert sum(supervised for of in twice for _, supervised in of) == sum(len(row.supervised[0]) for row in two)


def test_the_closed_form_is_near_the_real_deal() -> None:
    """Of bench.workloads' rows, whose tokens the bench knows by their means."""
    setup, rows = bench.setup_of("tool-64", 1)
    drawn = workload("tool-64", 1).rows[:64]
    real = [Tokens(str(i), row.ids, tuple(map(float, row.mask))) for i, row in enumerate(drawn)]
    planned = make_plan(override(Recipe(), ["train.batch_size=64", "train.pack_tokens=2048"]), real)
    known, cost = replace(rows, pack_tokens=2048), head_cost(setup.config)
    for gpus in (1, 2, 4, 8, 16):
        most = max(sum(tokens + cost * s for tokens, s in of) for of in dealt(planned, setup)(gpus, 1)[0])
        assert known.part(gpus)[0] == pytest.approx(most, rel=0.1)


def test_a_larger_step_is_only_said_and_the_last_gpu_has_a_row() -> None:
    setup, planned = small(), tool_plan(512, 200, 16)
    found = spread(setup, CARDS["h200"], 8, NVLINK, dealt(planned, setup), 16, 512, 215.0)
    assert found.last is not None and found.last.efficiency < 0.5 and found.pays is not None and found.pays < 8
    packs = assumed(setup, 4)
    whole = spread(setup, CARDS["h200"], 8, NVLINK, packs, 4, 64, 4096.0)
    assert whole.pays == 4 and whole.larger is not None, "7 would have an efficiency of 4/7, three of them with no row"
    assert whole.larger[0] == 8 and whole.larger[1] == pytest.approx(1, abs=0.05)
    few = spread(setup, CARDS["h200"], 8, NVLINK, packs, 4, 7, 4096.0)
    assert few.larger is None, "there are no more rows"


@pytest.mark.parametrize("full", [False, True])
def test_shares_of_the_base(full: bool) -> None:
    one = small(full=full, recompute=18, tokens=16384)
    four = replace(one, shards=4)
    alone, shared = predict(one), predict(four)
    assert one.graphs and not four.graphs
    numbers, layer = one.linear_weights + sum(one.outside), one.layer_bytes()
    assert shared.parts["embedding, gathered"] == one.embedding_bytes()
    assert shared.parts["layers, gathered"] == 3 * layer
    assert alone.allocated == sum(alone.parts.values()) and not {"embedding, gathered"} & set(alone.parts)
    if full:
        mine = sum(shared.parts[name] for name in ("weights in fp32", "gradients", "optimiser"))
        assert mine == pytest.approx(16 * numbers / 4, rel=0.01), "weight, gradient and two moments"
        assert "linears" not in shared.parts and "embedding and head" not in shared.parts
    else:
        assert shared.parts["frozen linears"] == pytest.approx(alone.parts["frozen linears"] / 4, rel=1e-3)
        assert all(shared.parts[name] == alone.parts[name] for name in ("adapters", "gradients", "optimiser"))
        held = predict(replace(four, embedding="int8")).parts
        assert held["embedding and head"] == replace(one, embedding="int8").embedding_bytes(), "whole on each"
        assert "embedding, gathered" not in held


def test_a_pass_begins_with_the_embedding_twice() -> None:
    """What arrives and what it is copied to, where the activations are less."""
    short = small(tokens=64, supervised=8, recompute=18, shards=2)
    table, words = predict(short), short.embedding_bytes()
    assert table.moment == "a pass begins" and "layers, gathered" not in table.parts
    assert table.parts["the embedding on its way"] == table.parts["embedding, gathered"] == words
    assert predict(replace(short, shards=1)).moment != "a pass begins"


def test_what_a_step_moves() -> None:
    plain = small()
    assert exchange_of(plain) == Exchange(summed=WIDE * plain.trained_numbers)
    shared = replace(plain, shards=2)
    assert exchange_of(shared).gathered == 2 * 18 * shared.layer_bytes() + shared.embedding_bytes()
    again = replace(shared, recompute=18)
    assert exchange_of(again).gathered == 3 * 18 * shared.layer_bytes() + shared.embedding_bytes()
    dora = replace(shared, adapter=shared.adapter.model_copy(update={"dora": True}))
    assert exchange_of(dora).once == 18 * shared.layer_bytes() and exchange_of(shared).once == 0
    held = replace(shared, embedding="cpu")
    assert exchange_of(held).gathered == 2 * 18 * shared.layer_bytes()
    whole = exchange_of(replace(again, full=True))
    assert whole.gathered == exchange_of(shared).gathered
    assert (whole.summed, whole.scattered) == (0, WIDE * replace(shared, full=True).trained_numbers)


def test_links_by_card_and_by_name() -> None:
    assert inside_of("h200").name == "nvlink-4" and inside_of("rtx4090").name == "pcie-4"
    assert set(complete.LINKS) == set(LINKS) and cluster_of("t4", None, None) == Cluster(LINKS["pcie-3"])
    assert cluster_of("h100", "ethernet-25", None).machine == 1 and cluster_of("h100", "ethernet-25", 4).machine == 4
    assert cluster_of("t4", "nvlink-3", None).inside == LINKS["nvlink-3"]
    for link, machine, said in (("etherent", None, "ethernet-25"), (None, 0, "at least 1")):
        with pytest.raises(InputError, match=said):
            cluster_of("t4", link, machine)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["plan", *arguments])
    return int(left.value.code or 0), capsys.readouterr().out


def test_a_base_that_one_card_does_not_hold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "plan.json"
    asked = ("--model", "27b", "--gpu", "t4", "--json", str(out))
    code, text = plan(capsys, *asked)
    assert code == 2 and "it fits from 2 of these GPUs on: --gpus 2" in text
    code, text = plan(capsys, *asked, "--gpus", "2")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert code == 0 and found["ranks"]["sharded"] and found["fits_from_gpus"] is None
    assert "each of 2 GPUs holds 1/2 of the base" in text and "layers, gathered" in text
    assert max(len(line) for line in text.splitlines() if line.startswith(("  ", " ─"))) <= 80


def test_shares_are_asked_for_or_refused() -> None:
    kinds = {kind: dozan.plan(model="4b", gpu="t4", gpus=2, overrides=[f"train.fsdp={kind}"])
             for kind in ("auto", "true", "false")}  # fmt: skip
    shared = {kind: found.spread.sharded for kind, found in kinds.items() if found.spread is not None}
    assert shared == {"auto": False, "true": True, "false": False}, "it fits as a whole"
    assert kinds["true"].fit.table.parts["frozen linears"] < 0.51 * kinds["auto"].fit.table.parts["frozen linears"]
    whole = dozan.plan(model="27b", gpu="t4", gpus=2, overrides=["train.fsdp=false"])
    assert not whole.fit.fits and whole.fits_from == 2 and whole.fit.setup.shards == 1


def test_the_fewest_gpus_that_hold_it() -> None:
    small_card = dozan.plan(model="27b", gpu="11", gpus=2)
    least = small_card.fits_from
    assert not small_card.fit.fits and least is not None and least > 2
    assert dozan.plan(model="27b", gpu="11", gpus=least).fit.fits
    assert least == 3 or not dozan.plan(model="27b", gpu="11", gpus=least - 1).fit.fits
    hopeless = dozan.plan(model="27b", gpu="4", gpus=2)
    assert not hopeless.fit.fits and hopeless.fits_from is None
    assert any("does not fit either" in line for line in figures(hopeless))


def test_rows_over_several_cards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    asked = (str(ROWS), "--gpu", "t4", "--gpus", "4", "--link", "ethernet-25", "--json", str(out))
    code, text = plan(capsys, *asked)
    found = json.loads(out.read_text(encoding="utf-8"))
    ranks = found["ranks"]
    assert code == 0 and not ranks["sharded"] and ranks["exchange"]["summed"] == pytest.approx(
        found["parts"]["gradients"], rel=0.01
    )
    assert ranks["sent_bytes"] == round(1.5 * ranks["exchange"]["summed"])
    assert "on 4 machines" in text and f"pays up to {ranks['pays_up_to']} GPUs" in text
    assert [p["gpus"] for p in ranks["points"]] == [1, 2, 4] and ranks["points"][0]["efficiency"] == 1
    near = dozan.plan(ROWS, gpu="t4", gpus=4, link="nvlink-3")
    assert near.spread is not None and near.spread.last is not None and near.hours is not None
    assert near.spread.last.seconds < ranks["points"][-1]["step_seconds"] and near.hours < found["hours"]
    assert near.hours == pytest.approx(near.rows.steps * near.spread.last.seconds / 3600 if near.rows else 0)
    page = html(near)
    assert "<th>efficiency</th>" in page and "each of 4 GPUs holds all of this" in page


def test_a_card_without_a_rate_has_bytes_and_no_times(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = plan(capsys, "--model", "270m", "--gpu", "16", "--gpus", "3")
    assert code == 0 and "A GPU sends" in text and "is not known" in text and "efficiency" not in text


# The bench.


def synthetic() -> bench.Json:
    """Steps that the model itself gives, with a floor of 5 ms a pack; sums of gradients at 300 GB/s."""
    record: bench.Json = {"points": []}
    fast = Cluster(replace(LINKS["nvlink-4"], bandwidth=3e11))
    for name in ("tool-64", "tool-2048", "12b-trinity"):
        setup, rows = bench.setup_of(name, 1)
        cost, packs = rows.part(1)
        work = bench.Work(name, False, rows, exchange_of(setup), 5e-3 * packs + 3e-6 * cost, 5e-3)
        for gpus in (1, 2, 8):
            size = work.exchange.summed
            record["points"].append({
                "workload": name, "gpus": gpus, "step_seconds": work.on(gpus, fast).seconds, "reduced_bytes": size,
                "reduce_seconds": reduced_bytes(size, gpus) / 3e11 if gpus > 1 else None,
            })  # fmt: skip
    return record


def test_the_one_gpu_steps_predict_the_others() -> None:
    record = synthetic()
    works = {work.name: work for work in bench.works(record)}
    assert works["tool-64"].floor == pytest.approx(5e-3) and works["tool-2048"].floor == pytest.approx(5e-3)
    assert bench.cluster(record, NETWORKS[0]).inside.bandwidth == pytest.approx(3e11)
    lines = [line.split(" | ") for line in bench.compared(record).splitlines() if line.startswith("| tool")]
    known = [cells for cells in lines if cells[1] in ("2", "8")]
    assert len(known) == 4 and all(cells[4].strip("+-") == "0.0%" for cells in known)
    assert all(cells[3] == bench.TODO for cells in lines if cells[1] == "4"), "what was not measured says so"
    assert "| 300 | 3.4 | 28 | **measured by us**: 1,008 MiB of gradients on 8 GPUs |" in bench.links(record)


def test_a_base_in_shares_is_a_workload_of_its_own() -> None:
    record = synthetic()
    record["points"].append({"workload": "12b-trinity", "gpus": 2, "fsdp": True, "step_seconds": 9.0})
    whole, shared = (work for work in bench.works(record) if work.name == "12b-trinity")
    assert str(shared) == "12b-trinity, in shares" and shared.exchange.gathered > 0 == whole.exchange.gathered
    assert "| 12b-trinity, in shares | 2 |" in bench.compared(record)


def test_many_gpus_over_slower_networks() -> None:
    record = synthetic()
    work = next(work for work in bench.works(record) if work.name == "tool-2048")
    seconds = {}
    for line in bench.carried(record, work, False, price=2.0).splitlines()[2:]:
        network, gpus, rows, took, *_, hours, price = line.strip("| ").split(" | ")
        seconds[network, gpus] = float(took)
        assert rows == "2,048" and float(price) == pytest.approx(2 * float(hours), abs=0.6)
    assert len(seconds) == 15
    for gpus in ("64", "1,024"):
        assert seconds["ethernet-25", gpus] > seconds["ethernet-100", gpus] > seconds["infiniband-400", gpus]
    grown = bench.carried(record, work, True).splitlines()[-1]
    assert "| 262,144 |" in grown and "cost" not in bench.carried(record, work, True)
    few = next(work for work in bench.works(record) if work.name == "tool-64")
    assert len(bench.carried(record, few, False).splitlines()) == 2 + 3, "no more GPUs than rows"


def test_tables_and_picture_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, record = tmp_path / "page.md", tmp_path / "record.json"
    page.write_text("a\n<!-- table: paying -->\nold\n<!-- end -->\nb\n", encoding="utf-8")
    record.write_text(json.dumps(synthetic()), encoding="utf-8")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "PICTURE", tmp_path / "scaling.svg")
    bench.main([str(record), "--write"])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("a\n<!-- table: paying -->\n| workload |") and "old" not in text and text.endswith("\nb\n")
    picture = (tmp_path / "scaling.svg").read_text(encoding="utf-8")
    assert STYLE in picture and picture.count("<circle") == 3 and "measured" in picture
    with pytest.raises(ValueError, match="no table 'gone'"):
        bench.filled("<!-- table: gone -->\n<!-- end -->", bench.tables(synthetic()))


def test_the_documentation_has_the_figures_of_the_bench() -> None:
    there = bench.RECORD.exists()
    record = json.loads(bench.RECORD.read_text(encoding="utf-8")) if there else bench.expected()
    text = bench.PAGE.read_text(encoding="utf-8")
    assert bench.filled(text, bench.tables(record)) == text, "python -m bench.scaling_model --write"
    assert there or bench.TODO in text


def test_expected_steps_are_near_those_measured_before() -> None:
    """tool-64 on one H200, bench/records/2026-11-21-bench-h200.json."""
    record = json.loads((bench.ROOT / "bench" / "records" / "2026-11-21-bench-h200.json").read_text(encoding="utf-8"))
    seconds = record["first"]["impls"]["ours"]["works"]["tool-64"]["step_s"]
    found = {p["workload"]: p["step_seconds"] for p in bench.expected()["points"]}
    assert found["tool-64"] == pytest.approx(seconds, rel=0.1)
