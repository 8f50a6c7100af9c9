"""Cards that a run can be planned for, and what a step costs them in arithmetic.

Memory is what a process finds (below the label); rates are the maker's dense ones with fp32 sums, TFLOP/s in the 16-bit
dtype that the card trains in; bandwidth GB/s.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from itertools import pairwise

from dozan.errors import InputError
from dozan.model.gemma3 import SLIDING
from dozan.train.memory_setup import Setup

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A device; `bytes` is its usable memory. A capability of (0, 0) is a CPU, a rate of 0 one that is not known."""

    name: str
    bytes: int
    capability: tuple[int, int]
    teraflops: float
    bandwidth: float

    @property
    def on_cpu(self) -> bool:
        return self.capability == (0, 0)


def _card(name: str, gib: float, capability: tuple[int, int], teraflops: float, bandwidth: float) -> Card:
    return Card(name, int(gib * GIB), capability, teraflops, bandwidth)


CARDS = {
    card.name: card
    for card in (
        _card("t4", 14.7, (7, 5), 65, 320),
        _card("rtx2080ti", 10.7, (7, 5), 54, 616),
        _card("rtx3060-12g", 11.6, (8, 6), 25, 360),
        _card("rtx3090", 23.6, (8, 6), 71, 936),
        _card("rtx4060ti-16g", 15.6, (8, 9), 44, 288),
        _card("rtx4090", 23.6, (8, 9), 165, 1008),
        _card("rtx5090", 31.3, (12, 0), 209, 1792),
        _card("a10", 22.1, (8, 6), 125, 600),
        _card("l4", 22.1, (8, 9), 121, 300),
        _card("a6000", 47.4, (8, 6), 155, 768),
        _card("l40s", 44.4, (8, 9), 362, 864),
        _card("a100-40", 39.4, (8, 0), 312, 1555),
        _card("a100-80", 79.2, (8, 0), 312, 2039),
        _card("h100", 79.1, (9, 0), 989, 3350),
        _card("h200", 139.8, (9, 0), 989, 4800),
        _card("b200", 178.3, (10, 0), 2250, 8000),
    )
}
_OTHERS = {"a100": "a100-80", "3060": "rtx3060-12g", "rtx3060": "rtx3060-12g", "3090": "rtx3090", "4090": "rtx4090",
           "5090": "rtx5090", "2080ti": "rtx2080ti", "a10g": "a10", "4060ti": "rtx4060ti-16g"}  # fmt: skip


def card_named(text: str) -> Card:
    """A card by name, or any of that much memory in GiB (`16`, `14.7GiB`), taken to train in bfloat16.

    Raises InputError with the nearest name.
    """
    name = text.strip().lower().replace(" ", "").removeprefix("nvidia").removeprefix("geforce")
    if _OTHERS.get(name, name) in CARDS:
        return CARDS[_OTHERS.get(name, name)]
    number = name.removesuffix("gib").removesuffix("gb").removesuffix("g")
    if number.replace(".", "", 1).isdigit() and float(number) > 0:
        return Card(f"{float(number):g} GiB", int(float(number) * GIB), (8, 0), 0.0, 0.0)
    close = difflib.get_close_matches(name, [*CARDS, *_OTHERS], n=1)
    guess = f": did you mean {close[0]!r}?" if close else ""
    raise InputError(f"--gpu {text!r} is no card that we know{guess}; known: {', '.join(CARDS)}; or give its memory "
                     "in GiB, such as 16")  # fmt: skip


def card_like(name: str, total: int, capability: tuple[int, int]) -> Card:
    """The card that a driver calls so, with the memory that it has; its rates when it is one that we know."""
    plain = name.lower().replace("nvidia", "").replace("geforce", "").replace("tesla", "").replace(" ", "")
    known = [card for card in CARDS.values() if plain.startswith(card.name.split("-")[0])]
    near = min(known, key=lambda card: abs(card.bytes - total), default=None)
    return Card(name, total, capability, near.teraflops if near else 0.0, near.bandwidth if near else 0.0)


_EFFICIENCY = ((640, 0.30), (1152, 0.42), (2560, 0.53), (3840, 0.56))
"""Share of the 16-bit peak that the products of a step reach, by the model's width; with the next two figures fitted to
bench/records of 2026-11-21 (`bench.memory`) on an H200."""
_LAYER_SECONDS = 0.45e-3
"""Of a layer in a pack, forward and backward, however short the pack is."""
_EAGER_SECONDS, _AGAIN_SECONDS, _FOLDED_SECONDS = 8e-3, 2e-3, 5e-3
"""Of a layer where the host launches op by op: the least; where it is computed again; where weights are made."""
_BANDWIDTH_SHARE = 0.5


def efficiency(width: int) -> float:
    """The share of a card's peak that products reach: measured at four widths on an H200, between them by the
    logarithm."""
    if width <= _EFFICIENCY[0][0]:
        return _EFFICIENCY[0][1]
    for (low, least), (high, most) in pairwise(_EFFICIENCY):
        if width <= high:
            return least + (most - least) * math.log(width / low) / math.log(high / low)
    return _EFFICIENCY[-1][1]


def flops_a_token(setup: Setup, row_tokens: float) -> float:
    """Floating-point operations for one computed token: linears 4 N, adapters 6 P, attention 3.5 x 4 H E visible, and
    once more forward for the layers that are computed again; the head 4 V D for a supervised token. Where every weight
    is trained linears take 6 N, and the head, whose logits are made twice, 8 V D."""
    c = setup.config
    again = setup.recompute / c.num_hidden_layers
    visible = sum(
        _visible(row_tokens, c.sliding_window if kind == SLIDING else math.inf) for kind in c.layer_types
    )
    attention = 4 * c.num_attention_heads * c.head_dim * visible * (3.5 + again)
    head = 4 * c.vocab_size * c.hidden_size * setup.supervised / setup.tokens
    if setup.full:
        return setup.linear_weights * (6 + 2 * again) + attention + 2 * head
    return setup.linear_weights * (4 + 2 * again) + setup.trained_numbers * (6 + 2 * again) + attention + head


def _visible(row: float, window: float) -> float:
    """How many keys a query of a row sees on average."""
    if row <= window:
        return row / 2
    return (window * window / 2 + window * (row - window)) / row


def step_seconds(setup: Setup, card: Card, row_tokens: float) -> float:
    """Seconds of one pack that we expect on a card whose rates are known: products, weights that are dequantised or
    folded, and the time of a layer however short the pack is; op by op at least what the host needs."""
    layers, again = setup.config.num_hidden_layers, setup.recompute / setup.config.num_hidden_layers
    rate = card.teraflops * 1e12 * efficiency(setup.config.hidden_size)
    seconds = flops_a_token(setup, row_tokens) * setup.tokens / rate
    made = setup.quantise == "nf4" or (setup.adapter.dora and not setup.full)
    if made:
        moved = 2.6 if setup.quantise == "nf4" else 12.0  # bytes a weight, read and written
        seconds += setup.linear_weights * moved * (2 + again) / (card.bandwidth * 1e9 * _BANDWIDTH_SHARE)
    seconds += layers * _LAYER_SECONDS
    if setup.graphs:
        return seconds
    return max(seconds, layers * (_EAGER_SECONDS + again * _AGAIN_SECONDS + made * _FOLDED_SECONDS))


def tokens_per_second(setup: Setup, card: Card, row_tokens: float) -> float:
    """Computed tokens a second that we expect of packs like the setup's."""
    return setup.tokens / step_seconds(setup, card, row_tokens)
