"""What one layer's passes allocate, keep and free, op by op, in the order of the model.

Nothing is computed: a tape adds up sizes. Each function mirrors one op of `model/gemma3.py` and `kernels/`: what its
forward pass makes and saves for the backward pass, and what its backward pass makes before it lets go of that. A block
that two ops save is counted once. tests/test_memory.py runs the real code on tensors without storage and compares it
with the tape; whoever changes what an op keeps changes its line here.
Shapes: T tokens, D model, H query heads, K key heads, E head size, F feed-forward, R rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dozan.model.gemma3 import SLIDING
from dozan.train.memory_setup import WIDE, Setup
from dozan.train.memory_tape import FLOW, Block, Tape


@dataclass
class Linears:
    """What `low_rank_linears` over outputs O_i saves beside its input, and with DoRA (`held`) the outputs, which others
    have let go of by the time it needs them. apart: each linear is an op of its own."""

    outputs: tuple[int, ...]
    adapted: tuple[bool, ...]
    saved: list[Block]
    held: tuple[str, ...]
    apart: bool

    @property
    def chosen(self) -> tuple[int, ...]:
        """The outputs of those that have an adapter."""
        return tuple(size for size, has in zip(self.outputs, self.adapted, strict=True) if has)


class LayerTape:
    """One layer's passes on the tape. `forward` fills `kept` with what the backward pass needs, by name."""

    def __init__(self, tape: Tape, setup: Setup, part: str, index: int) -> None:
        self.tape, self.setup, self.part = tape, setup, part
        sliding = setup.config.layer_types[index] == SLIDING
        self.window = setup.config.sliding_window if sliding else setup.tokens
        # The first layer's input needs no gradient: it is the embedding, which is frozen unless all is trained.
        self.first = index == 0 and not setup.full
        self._held, self._waiting = False, list[Block]()
        self.kept: dict[str, Block] = {}
        self.linears: dict[str, Linears] = {}

    def make(self, name: str, *shape: int, number: int = 0) -> Block:
        """A block of the given shape, in the compute dtype or of `number` bytes each, kept under `name`."""
        block = self.kept[name] = self._block(*shape, number=number)
        return block

    def drop(self, *names: str) -> None:
        """Let go of what is kept under these names, if it is and no linear to come holds it."""
        held = {name for linears in self.linears.values() for name in linears.held}
        self.tape.free(*(self.kept.pop(name, None) for name in names if name not in held))

    def drop_all(self) -> None:
        """Let go of everything that is kept."""
        for linears in self.linears.values():
            self.tape.free(*linears.saved)
        self.linears.clear()
        self.drop(*self.kept)

    def _block(self, *shape: int, number: int = 0, part: str = "") -> Block:
        size = number or self.setup.compute_bytes
        for length in shape:
            size *= length
        return self.tape.new(size, part or self.part)

    def forward(self) -> Block:
        """The layer's output [T, D]; the input belongs to the caller."""
        s, c = self.setup, self.setup.config
        width, heads, shared = c.hidden_size, c.num_attention_heads, c.num_key_value_heads
        queries, keys, size = heads * c.head_dim, shared * c.head_dim, c.intermediate_size
        self._norm("normed 1", "inverse 1", width, residual=False)
        self._project("qkv", width, (("q", "y_q", queries), ("k", "y_k", keys), ("v", "v", keys)))
        self._rotated_norm("q", queries, heads)
        self._rotated_norm("k", keys, shared)
        self._attention(queries, heads)
        self._project("o", queries, (("o", "y_o", width),))
        self._norm("middle", "inverse 2", width, residual=True)
        self._norm("normed 2", "inverse 3", width, residual=False)
        self._project("gate, up", width, (("gate", "gate", size), ("up", "up", size)))
        self._geglu(size)
        self._project("down", size, (("down", "y_down", width),))
        out = self._norm("out", "inverse 4", width, residual=True)
        if self.first:
            self.drop("inverse 1", *(f"y_{name}" for name in ("q", "k") if name not in s.targets))
        for name, after in (("normed 1", "qkv"), ("normed 2", "gate, up"), ("product", "down")):
            if not (self.linears[after].chosen or s.full):
                self.drop(name)
        del self.kept["out"]
        return out

    def _norm(self, out: str, inverse: str, width: int, residual: bool) -> Block:
        """`rms_norm`: saves its input and one number a row. Where Triton does not run, fp32 copies come and go."""
        s = self.setup
        made = s.residual_bytes if residual else s.compute_bytes
        if not s.fused:
            self.tape.free(self._block(s.tokens, width, number=WIDE), self._block(s.tokens, width, number=WIDE))
        block = self.make(out, s.tokens, width, number=made)
        self.make(inverse, s.tokens, number=WIDE)
        return block

    def _rotated_norm(self, name: str, width: int, heads: int) -> None:
        """`rotated_norm`: saves its input, one number a row and head, and the rotary table, which all layers share."""
        tokens = self.setup.tokens
        if not self.setup.fused:
            self.tape.free(self._block(tokens, width, number=WIDE), self._block(tokens, width, number=WIDE))
        self.make(name, tokens, width)
        self.make(f"inverse {name}", tokens, heads, number=WIDE)

    def _attention(self, queries: int, heads: int) -> None:
        """Attention: saves q, k, v, its output and one number a row and head; weights only on a CPU."""
        s = self.setup
        self.make("attended", s.tokens, queries)
        if s.on_cpu:
            self.make("weights", s.pairs(self.window), heads)
        else:
            self.make("lse", s.tokens, heads, number=WIDE)
        self.tape.free(self.tape.new(s.attention_work(self.window, backward=False), self.part))

    def _geglu(self, size: int) -> None:
        """`geglu`: saves gate and up; without Triton gelu(gate) too."""
        if not self.setup.fused:
            self.make("gelu", self.setup.tokens, size)
        self.make("product", self.setup.tokens, size)

    def _project(self, name: str, inputs: int, outs: Sequence[tuple[str, str, int]]) -> None:
        """`adapter.project`: adapters of one input run as one op; what it saves lies in `self.linears[name]`."""
        s, chosen = self.setup, self.setup.targets
        adapted = tuple(linear in chosen for linear, _, _ in outs)
        held = tuple(kept for (_, kept, _), has in zip(outs, adapted, strict=True) if has and s.adapter.dora)
        together = all(adapted) and len(outs) > 1 and not s.adapter.dropout
        apart = len(outs) > 1 and not together
        linears = self.linears[name] = Linears(tuple(size for *_, size in outs), adapted, [], held, apart)
        if together:
            linears.saved += self._low_rank(inputs, linears.outputs)
        for (_, kept, size), has in zip(outs, adapted, strict=True):
            if has and not together:
                linears.saved += self._low_rank(inputs, (size,))
            self.tape.free(self._weight(inputs, size, has))
            self.make(kept, s.tokens, size)

    def _low_rank(self, inputs: int, outputs: Sequence[int]) -> list[Block]:
        """`low_rank_linears`: A and B in the compute dtype, x Aᵀ, and with dropout its mask and what it left of x."""
        s, count, rank = self.setup, len(outputs), self.setup.adapter.rank
        saved = []
        if s.adapter.dropout:
            saved += [self._block(s.tokens, inputs), self._block(s.tokens, inputs)]
        wide = self._block(count * rank, inputs, number=WIDE) if count > 1 else None
        saved.append(self._block(count * rank, inputs))
        self.tape.free(wide)
        if s.compute_bytes < WIDE or s.adapter.dora:
            saved += [self._block(size, rank) for size in outputs]
        if s.adapter.dora:
            saved += [self._block(size, number=WIDE) for size in outputs]
        saved.append(self._block(s.tokens, count * rank))
        return saved

    def _weight(self, inputs: int, outputs: int, adapted: bool) -> Block | None:
        """A weight that is made for one product: dequantised, or with DoRA's factor on its rows."""
        s = self.setup
        if s.quantise == "none" and not (s.adapter.dora and adapted):
            return None
        return self._flow(outputs, inputs)

    def backward(self, outer: Block, held: bool) -> Block | None:
        """From the gradient of the output to that of the input (None for the first layer), both [T, D].

        held: the caller holds `outer` until the layer is done, as a recomputed layer's does; its adapters' gradients
        then wait there too.
        """
        self._held, self._waiting = held, list[Block]()
        c = self.setup.config
        width, size = c.hidden_size, c.intermediate_size
        queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        b, wide = self.setup.compute_bytes, self.setup.residual_bytes
        d_down = self._through_norm(width, b)
        self.drop("y_down", "inverse 4")
        d_product = self._through_linears("down", [d_down], size, "product")
        d_gate, d_up = self._through_geglu(d_product, size)
        d_normed = self._through_linears("gate, up", [d_gate, d_up], width, "normed 2")
        d_middle = self._through_norm(width, wide)
        self.tape.free(d_normed)
        self.drop("middle", "inverse 3")
        outer = self._sum(outer, d_middle, held)
        d_o = self._through_norm(width, b)
        self.drop("y_o", "inverse 2")
        if self.first:
            self.tape.free(outer)
        d_attended = self._through_linears("o", [d_o], queries, "")
        d_qkv = self._through_attention(d_attended, queries, keys)
        d_normed = self._through_linears("qkv", d_qkv, width, "normed 1", needed=not self.first)
        if not self.first:
            d_x = self._through_norm(width, wide)
            self.tape.free(d_normed)
            self.drop("inverse 1")
            outer = self._sum(outer, d_x, held=False)
        self.tape.free(*self._waiting)
        return None if self.first else outer

    def _sum(self, old: Block, new: Block, held: bool) -> Block:
        """Gradients of one tensor from two ops are added in place, unless someone else holds the first."""
        total = self.tape.new(old.bytes, FLOW) if held else old
        self.tape.free(new)
        return total

    def _through_norm(self, width: int, number: int) -> Block:
        s = self.setup
        if not s.fused or s.full:  # fp32 copies, of which a norm's own gradient is made too
            wide = [self._flow(s.tokens, width, number=WIDE) for _ in range(3)]
            self.tape.free(*wide)
        if s.full:
            self._trained(self._flow(width))
        return self._flow(s.tokens, width, number=number)

    def _trained(self, gradient: Block) -> None:
        """A weight's gradient goes to its master at once, or waits where a layer is computed again."""
        if self._held:
            self._waiting.append(gradient)
        else:
            self.tape.free(gradient)

    def _flow(self, *shape: int, number: int = 0) -> Block:
        return self._block(*shape, number=number, part=FLOW)

    def _through_linears(
        self, name: str, grads: Sequence[Block], inputs: int, saved_input: str, needed: bool = True
    ) -> Block | None:
        """The gradient of the input [T, I]; those of A and B are fp32."""
        linears, s, rank = self.linears.pop(name), self.setup, self.setup.adapter.rank
        grads, work = list(grads), list[Block]()
        chosen, apart = linears.chosen, linears.apart
        if chosen:
            d_low = self._flow(s.tokens, rank * len(chosen))
            work.append(self._flow(rank * len(chosen), inputs, number=WIDE))
            work += [self._flow(size, rank, number=WIDE) for size in chosen]
            if s.adapter.dora:
                work += [self._flow(size, number=WIDE) for size in chosen]
        d_x: Block | None = None
        for size, has in zip(linears.outputs, linears.adapted, strict=True):
            if needed:
                weight = self._weight(inputs, size, has)
                d_x = d_x or self._flow(s.tokens, inputs)
                self.tape.free(weight)
            if s.full:
                self._trained(self._flow(size, inputs))
        if apart and needed:  # each op gives a gradient of the input, and they are added up
            self.tape.free(self._flow(s.tokens, inputs))
        if chosen:
            self.tape.free(d_low)
        self.tape.free(*grads, *linears.saved)
        self.drop(saved_input, *linears.held)
        if self._held:
            self._waiting += work
        else:
            self.tape.free(*work)
        return d_x

    def _through_geglu(self, d_product: Block | None, size: int) -> tuple[Block, Block]:
        tokens = self.setup.tokens
        d_gate, d_up = self._flow(tokens, size), self._flow(tokens, size)
        self.tape.free(d_product)
        self.drop("gate", "up", "gelu")
        return d_gate, d_up

    def _through_attention(self, d_out: Block | None, queries: int, keys: int) -> list[Block]:
        """Gradients of q, k and v before norm and rotation; those of keys and values are summed in fp32."""
        s = self.setup
        d_q, inner = self._flow(s.tokens, queries), self._flow(s.tokens, s.config.num_attention_heads, number=WIDE)
        wide = [self._flow(s.tokens, keys, number=WIDE) for _ in range(2)]
        self.tape.free(self.tape.new(s.attention_work(self.window, backward=True), FLOW))
        # In fp32 these are handed on as they are.
        d_k, d_v = wide if s.compute_bytes == WIDE else [self._flow(s.tokens, keys) for _ in range(2)]
        self.tape.free(d_out, inner, *(wide if s.compute_bytes < WIDE else []))
        self.drop("q", "k", "v", "attended", "lse", "weights")
        d_y_k = self._flow(s.tokens, keys)
        self.tape.free(d_k)
        self.drop("y_k", "inverse k")
        d_y_q = self._flow(s.tokens, queries)
        self.tape.free(d_q)
        self.drop("y_q", "inverse q")
        return [d_y_q, d_y_k, d_v]
