"""A tape of what passes allocate and free: sizes alone, added up by part, and the most that there ever was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dozan.train.memory_setup import GRANULE

KEPT, INPUTS, AGAIN = "activations kept", "layer inputs", "one layer, computed again"
FLOW, LOSS, PACK = "gradients on their way", "loss", "positions and masks"
HEAD = "gradient of the embedding"


class Block:
    """Memory that was taken: its bytes, and the part of the table that it belongs to."""

    __slots__ = ("bytes", "part")

    def __init__(self, size: int, part: str) -> None:
        self.bytes, self.part = size, part


@dataclass
class Tape:
    """What is taken at present by part, and the most that ever was, with its parts and the moment."""

    live: Counter[str] = field(default_factory=Counter)
    total: int = 0
    peak: int = 0
    at_peak: Mapping[str, int] = field(default_factory=dict)
    moment: str = ""
    peak_moment: str = ""

    def new(self, size: int, part: str) -> Block:
        """Take `size` bytes, in the granules of the allocator."""
        block = Block(-(-size // GRANULE) * GRANULE, part)
        self.total += block.bytes
        self.live[part] += block.bytes
        if self.total > self.peak:
            self.peak, self.peak_moment = self.total, self.moment
            self.at_peak = {part: size for part, size in self.live.items() if size}
        return block

    def move(self, block: Block, part: str) -> Block:
        """The same block counted with another part."""
        self.live[block.part] -= block.bytes
        self.live[part] += block.bytes
        block.part = part
        return block

    def free(self, *blocks: Block | None) -> None:
        """Give blocks back; None is what was never made."""
        for block in blocks:
            if block is not None:
                self.total -= block.bytes
                self.live[block.part] -= block.bytes
