"""How the time of a step falls with the number of GPUs: the slowest rank's computing, and what is seen of the exchange.

Pure functions over seconds and bytes. N ranks stand on machines of g GPUs, h = N / g of them; S bytes, bandwidth B of a
rank's way out (bus bandwidth, as NVIDIA/nccl-tests doc/PERFORMANCE.md defines it), a latency for each hop:

    all-reduce, ring   2 (N-1)/N S / B + 2 (h-1) a_net + 2 (N-h) a_in
    all-reduce, tree   2 S / (0.9 B) + 2 log2(h) c_net + 2 (g-1) c_in         (c: of a chunk)
    all-gather         (N-1)/N S / B + (h-1) a_net + (N-h) a_in               (reduce-scatter the same)

as NCCL chooses between them itself (src/graph/tuning.cc). An exchange in n pieces, each begun as soon as it can be,
beside computing of u seconds, is seen for max(c/n, c - o u (1 - 1/n)) of its c seconds, o the share that overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dozan.train.reduce import buffers_of

BACKWARD_SHARE = 2 / 3
"""Of a pack's time, its backward pass, beside which gradients are summed."""
MOST_GPUS = 1024
WORTH = 0.5
"""A GPU pays as long as the efficiency is above this."""
_GB, _US = 1e9, 1e-6
_RING_START, _TREE_BANDWIDTH = 8.4 * _US, 0.9
"""NCCL's figures for its simple protocol (tuning.cc)."""


@dataclass(frozen=True)
class Link:
    """What joins GPUs. bandwidth: bus bandwidth, bytes/s, of a GPU, or of a machine where its GPUs share the port
    (`shared`); hop, chunk: seconds, of a step of a ring and of a tree's chunk. between: it joins machines. source:
    where the bandwidth is from; `measured` where it is from a record of ours."""

    name: str
    bandwidth: float
    hop: float
    chunk: float
    source: str
    between: bool = False
    shared: bool = False
    measured: bool = False


# Latencies: hwLat of NCCL's tuning.cc for NVLink, PCIe and a network (simple protocol, read 2026-11-22). One bandwidth
# is measured by us, of 1 GiB in 63 buffers; NVIDIA/nccl-tests issues 212 (2024-05) and 309 (2025-05) have
# 370 GB/s for larger ones without SHARP. The others are the vendor's or others', or assumed.
_NVLINK, _PCIE, _NET = (3.4 * _US, 28 * _US), (5.7 * _US, 28 * _US), (9.6 * _US, 50 * _US)
_TCP = 20 * _US
"""What the host's network stack adds to a hop: assumed."""
LINKS = {
    link.name: link
    for link in (
        Link("nvlink-3", 235 * _GB, *_NVLINK, "NCCL's ceiling for an A100 (tuning.cc)"),
        Link("nvlink-4", 253 * _GB, *_NVLINK, "4 H200s, bench/records/2026-11-22-scaling-h200.json", measured=True),
        Link("nvlink-5", 695 * _GB, *_NVLINK, "NVIDIA/nccl issue 2140 (2026-04), a B300 without SHARP"),
        Link("pcie-3", 12 * _GB, *_PCIE, "NCCL's figure for 16 lanes (topo.h)"),
        Link("pcie-4", 24 * _GB, *_PCIE, "NCCL's figure for 16 lanes (topo.h)"),
        Link("pcie-5", 48 * _GB, *_PCIE, "NCCL's figure for 16 lanes (topo.h)"),
        Link("ethernet-25", 2.5 * _GB, _NET[0] + _TCP, _NET[1] + _TCP, "80 % of the line: assumed", True, True),
        Link("ethernet-100", 10 * _GB, _NET[0] + _TCP, _NET[1] + _TCP, "80 % of the line: assumed", True, True),
        Link("infiniband-400", 40 * _GB, *_NET, "NVIDIA/nccl issue 1221 (2024-03): 320 GB/s of 8 ports", True),
    )
}
_INSIDE = {"a100-40": "nvlink-3", "a100-80": "nvlink-3", "h100": "nvlink-4", "h200": "nvlink-4", "b200": "nvlink-5",
           "t4": "pcie-3", "rtx2080ti": "pcie-3", "rtx5090": "pcie-5"}  # fmt: skip
NETWORKS = tuple(name for name, link in LINKS.items() if link.between)


def inside_of(card: str) -> Link:
    """What joins cards of this name in one machine: NVLink for those made with it, else PCIe."""
    return LINKS[_INSIDE.get(card, "pcie-4")]


@dataclass(frozen=True)
class Cluster:
    """Machines of `machine` GPUs each, joined by `inside` within and `network` between them."""

    inside: Link
    network: Link = LINKS["ethernet-100"]
    machine: int = 8

    def machines(self, gpus: int) -> int:
        """How many machines so many GPUs take."""
        return -(-gpus // self.machine)

    def bandwidth(self, gpus: int) -> float:
        """Bytes/s of the narrowest place on a ring through all of them."""
        together = min(gpus, self.machine)
        inside = self.inside.bandwidth if together > 1 else math.inf
        if self.machines(gpus) == 1:
            return inside
        return min(inside, self.network.bandwidth * (1 if self.network.shared else together))

    def limit(self, gpus: int) -> Link:
        """The link that is the narrowest place."""
        alone = self.machines(gpus) == 1
        return self.inside if alone or self.bandwidth(gpus) == self.inside.bandwidth else self.network


def reduced_bytes(size: float, gpus: int) -> float:
    """What a rank sends to sum `size` bytes over all."""
    return 2 * (gpus - 1) / gpus * size


def gathered_bytes(size: float, gpus: int) -> float:
    """What a rank receives of `size` bytes that all hold a part of; the same is sent to sum and scatter them."""
    return (gpus - 1) / gpus * size


def all_reduce_seconds(size: float, gpus: int, cluster: Cluster) -> float:
    """Of one all-reduce of `size` bytes: the faster of ring and tree."""
    if gpus == 1:
        return 0.0
    inside, network, machines = cluster.inside, cluster.network, cluster.machines(gpus)
    bandwidth, together = cluster.bandwidth(gpus), min(gpus, cluster.machine)
    ring = _RING_START + reduced_bytes(size, gpus) / bandwidth
    ring += 2 * (machines - 1) * network.hop + 2 * (gpus - machines) * inside.hop
    tree = 2 * size / (_TREE_BANDWIDTH * bandwidth)
    tree += 2 * math.ceil(math.log2(machines)) * network.chunk + 2 * (together - 1) * inside.chunk
    return min(ring, tree)


def all_gather_seconds(size: float, gpus: int, cluster: Cluster) -> float:
    """Of one all-gather that ends with `size` bytes on each rank, or of a reduce-scatter that begins with them."""
    if gpus == 1:
        return 0.0
    machines = cluster.machines(gpus)
    hops = (machines - 1) * cluster.network.hop + (gpus - machines) * cluster.inside.hop
    return _RING_START + hops + gathered_bytes(size, gpus) / cluster.bandwidth(gpus)


def seen(exchange: float, beside: float, pieces: int, overlap: float = 1.0) -> float:
    """Seconds of an exchange in equal pieces that are not hidden beside `beside` seconds of computing, over which the
    pieces become ready one after the other."""
    assert pieces >= 1 and 0 <= overlap <= 1
    return max(exchange / pieces, exchange - overlap * beside * (1 - 1 / pieces))


@dataclass(frozen=True)
class Exchange:
    """What a step moves between ranks, in bytes before the share of a rank.

    summed: all-reduced once a step. gathered, scattered: all-gathered and reduce-scattered for each pack, in `groups`
    collectives of their own (layers times passes). once: gathered once a step, for DoRA's norms.
    """

    summed: int = 0
    gathered: int = 0
    scattered: int = 0
    groups: int = 1
    once: int = 0
    once_groups: int = 1

    def sent(self, gpus: int, packs: int = 1) -> float:
        """Bytes a rank sends in a step of so many packs."""
        collected = packs * (self.gathered + self.scattered) + self.once
        return reduced_bytes(self.summed, gpus) + gathered_bytes(collected, gpus)

    def seconds(self, gpus: int, packs: int, compute: float, cluster: Cluster, overlap: float = 1.0) -> float:
        """Seconds a step waits for it. compute: of the packs of a rank."""
        if gpus == 1:
            return 0.0
        each, waits = compute / max(packs, 1), 0.0
        if self.summed:
            buffers = buffers_of(self.summed)
            takes = buffers * all_reduce_seconds(self.summed / buffers, gpus, cluster)
            waits += seen(takes, BACKWARD_SHARE * each, buffers, overlap)
        moved = self.gathered + self.scattered
        if moved:
            takes = self.groups * all_gather_seconds(moved / self.groups, gpus, cluster)
            waits += packs * seen(takes, each, self.groups, overlap)
        if self.once:
            waits += self.once_groups * all_gather_seconds(self.once / self.once_groups, gpus, cluster)
        return waits


@dataclass(frozen=True)
class Part:
    """A rank's part of a step: seconds that it computes, in so many packs."""

    seconds: float
    packs: int = 1


@dataclass(frozen=True)
class Point:
    """A step on `gpus` GPUs. seconds: of the step; waiting: of them, those of the exchange and the host; efficiency:
    the time on one over N times this one."""

    gpus: int
    seconds: float
    waiting: float
    efficiency: float

    @property
    def speedup(self) -> float:
        """How many times as fast as one."""
        return self.gpus * self.efficiency


def step(
    parts: Sequence[Part], alone: float, exchange: Exchange, cluster: Cluster, overlap: float = 1.0, floor: float = 0.0
) -> Point:
    """A step whose ranks compute `parts`. alone: seconds of the same step on one GPU; floor: seconds of the host on
    each step that nothing hides, where there is more than one rank."""
    gpus = len(parts)
    slowest = max(part.seconds for part in parts)
    packs = max(part.packs for part in parts)
    waiting = exchange.seconds(gpus, packs, slowest, cluster, overlap) + (floor if gpus > 1 else 0.0)
    seconds = slowest + waiting
    return Point(gpus, seconds, waiting, alone / (gpus * seconds))


@dataclass(frozen=True)
class Rows:
    """A step of rows that begin alike, in closed form. own: tokens after the `trunk` tokens that all share, of all rows
    together; weight: the same with the head's work, in tokens; pack_tokens: of a pack at most.

    What a rank computes: one trunk for each of its packs, and its rows' own tokens.
    """

    rows: int
    trunk: int
    own: float
    weight: float
    pack_tokens: int

    def part(self, gpus: int) -> tuple[float, int]:
        """Of the rank that has most: cost in tokens, and packs."""
        share = -(-self.rows // gpus) / self.rows
        packs = max(1, math.ceil(share * self.own / max(1, self.pack_tokens - self.trunk)))
        return packs * self.trunk + share * self.weight, packs


def measured(seconds: float, cost: float, packs: int, floor: float) -> Callable[[float, int], Part]:
    """(cost, packs) -> Part, from a step that was measured on one GPU: `floor` seconds a pack, and the rest in
    proportion to the cost."""
    assert 0 <= floor * packs <= seconds * (1 + 1e-9) and cost > 0
    rate = max(0.0, seconds - floor * packs) / cost
    return lambda other, count: Part(floor * count + rate * other, count)


def pays_up_to(efficiency: Callable[[int], float], most: int = MOST_GPUS) -> int:
    """The most GPUs up to `most` whose efficiency is above a half, if it falls with their number."""
    low, high = 1, 2
    while high <= most and efficiency(high) > WORTH:
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if efficiency(middle) > WORTH else (low, middle)
    return low
