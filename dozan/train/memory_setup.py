"""What the memory of a run depends on, with a formula in one place for each part that is not an activation.

Bytes throughout. What is not built yet in a part of the engine is a value here all the same, so that a plan can show
what it would give; `memory_fit.PROTOCOL` says what may be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dozan.model.gemma3 import SLIDING, Gemma3Config
from dozan.recipe import ALL_TARGETS, AdapterRecipe

Dtype = Literal["bfloat16", "float16", "float32"]
Path = Literal["triton", "efficient", "cpu"]
"""How a device computes: all in Triton; Triton but for attention, which is PyTorch's memory-efficient one by blocks
(capability 7.5); products op by op on a CPU."""
Quantise = Literal["none", "nf4"]
Embedding = Literal["gpu", "int8", "cpu"]
Optimiser = Literal["adamw", "adamw_8bit"]

WIDE = 4
"""Bytes of an fp32 number."""
GRANULE = 512
"""The CUDA allocator hands out multiples of this."""
CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 512 * 2**20}
"""As kernels/cross_entropy.py has it."""
_BLOCKS = {"triton": 64, "efficient": 128, "cpu": 64}
"""Queries of a block, as the kernels have them."""
_TOGETHER = {"triton": 1, "efficient": 1, "cpu": 8}
_GATHERED = 2**16
"""Keys that a call of the efficient attention gathers, times their heads."""
TILE = 8192
"""Words at a time where the embedding is not at hand, as kernels/cross_entropy_tiled.py has it."""
CUBLAS_WORKSPACE = 8 * 4096 * 1024
"""CUBLAS_WORKSPACE_CONFIG=:4096:8, which `kernels.precision` sets."""
_NF4_BLOCK, _NF4_NEST = 64, 256
_EIGHT_BIT_BLOCK = 256


@dataclass(frozen=True)
class Setup:
    """One configuration. tokens: of the largest pack, padded; supervised: its predictions, padded; row_tokens: of the
    longest row, which bounds what a token sees."""

    config: Gemma3Config
    adapter: AdapterRecipe
    tokens: int
    supervised: int
    dtype: Dtype = "bfloat16"
    recompute: int = 0
    offload: bool = False
    quantise: Quantise = "none"
    embedding: Embedding = "gpu"
    optimiser: Optimiser = "adamw"
    path: Path = "triton"
    eager: bool = False
    """Op by op though the passes could be captured."""
    full: bool = False
    """Every weight is trained, and there is no adapter (`train.full`)."""
    shards: int = 1
    """Ranks of which each holds its share of the base (`train.fsdp`); with `full` of masters, gradients and moments."""

    @property
    def compute_bytes(self) -> int:
        """Of a number in the products."""
        return 4 if self.dtype == "float32" else 2

    @property
    def residual_bytes(self) -> int:
        """Of a number in the residual stream, which passes fp16's range in Gemma 3."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def fused(self) -> bool:
        """Norms, GeGLU and the loss's gradient are one kernel each."""
        return self.path != "cpu"

    @property
    def graphs(self) -> bool:
        """The passes are captured as CUDA graphs (`train.passes.make_passes`)."""
        fixed = self.path == "triton" and (self.full or not self.adapter.dropout)
        return fixed and not self.eager and self.shards == 1

    @property
    def on_cpu(self) -> bool:
        return self.path == "cpu"

    @property
    def targets(self) -> frozenset[str]:
        """The adapted linears, without `_proj`."""
        return frozenset() if self.full else frozenset(name.removesuffix("_proj") for name in self.adapter.targets)

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of a layer's linears, without `_proj`."""
        c = self.config
        q, k = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        d, f = c.hidden_size, c.intermediate_size
        sizes = ((q, d), (k, d), (k, d), (d, q), (f, d), (f, d), (d, f))
        return dict(zip((name.removesuffix("_proj") for name in ALL_TARGETS), sizes, strict=True))

    @property
    def linear_weights(self) -> int:
        """Numbers in the linears of all layers."""
        return self.config.num_hidden_layers * sum(o * i for o, i in self.linears.values())

    def linear_bytes(self) -> int:
        """Of the linears. NF4: half a byte a weight, a byte for 64 of them, fp32 for 256 of those bytes."""
        sizes = [o * i for o, i in self.linears.values()]
        dense = [_up(size * self.compute_bytes) for size in sizes]
        return self.config.num_hidden_layers * sum(dense if self.quantise == "none" else map(_nf4_bytes, sizes))

    def embedding_bytes(self) -> int:
        """Of the embedding, which is the head too, on the device. int8: a byte a number and an fp32 scale a row."""
        rows, width = self.config.vocab_size, self.config.hidden_size
        if self.embedding == "gpu":
            return _up(rows * width * self.compute_bytes)
        return _up(rows * width) + _up(rows * WIDE) if self.embedding == "int8" else 0

    def norm_bytes(self) -> int:
        """Of all norms' weights."""
        c, b = self.config, self.compute_bytes
        a_layer = 4 * _up(c.hidden_size * b) + 2 * _up(c.head_dim * b)
        return c.num_hidden_layers * a_layer + _up(c.hidden_size * b)

    def share(self, size: int) -> int:
        """A rank's share of what all hold together."""
        return size if self.shards == 1 else _up(-(-size // self.shards))

    def layer_bytes(self) -> int:
        """Of a layer's weights as they are computed with."""
        last_norm = _up(self.config.hidden_size * self.compute_bytes)
        return (self.linear_bytes() + self.norm_bytes() - last_norm) // self.config.num_hidden_layers

    @property
    def is_embedding_shared(self) -> bool:
        """Whether a rank holds its share of the embedding: in 8 bits or in host memory it is whole on each."""
        return self.shards > 1 and self.embedding == "gpu"

    def gathered_bytes(self) -> int:
        """What a rank has of layers that others hold: the one at hand, and of the next one what arrives and what it is
        copied to (`model.shard`)."""
        return 0 if self.shards == 1 else 3 * self.layer_bytes()

    def scattered_bytes(self) -> int:
        """A layer's whole gradients where they are summed in shares: in the compute dtype, and in fp32 on their way."""
        if self.shards == 1 or not self.full:
            return 0
        return sum(_up(self.compute_bytes * n) + _up(WIDE * n) for n in self.trained)

    @property
    def matrices(self) -> tuple[int, ...]:
        """The numbers in each A and B of a layer, or in each of its linears where these are trained."""
        if self.full:
            return tuple(outputs * inputs for outputs, inputs in self.linears.values())
        chosen = [size for name, size in self.linears.items() if name in self.targets]
        return tuple(self.adapter.rank * length for outputs, inputs in chosen for length in (inputs, outputs))

    @property
    def vectors(self) -> tuple[int, ...]:
        """The numbers in each of DoRA's magnitudes of a layer, or in each of its norms where these are trained."""
        if self.full:
            return (self.config.hidden_size,) * 4 + (self.config.head_dim,) * 2
        return tuple(o for name, (o, _) in self.linears.items() if name in self.targets and self.adapter.dora)

    @property
    def trained(self) -> tuple[int, ...]:
        """The numbers in each trained tensor of a layer."""
        return self.matrices + self.vectors

    @property
    def trained_numbers(self) -> int:
        """In all that is trained."""
        return self.config.num_hidden_layers * sum(self.trained) + sum(self.outside)

    @property
    def outside(self) -> tuple[int, ...]:
        """The numbers in what is trained outside of the layers: the embedding, a matrix, and the last norm."""
        c = self.config
        return (c.vocab_size * c.hidden_size, c.hidden_size) if self.full else ()

    def adapter_bytes(self) -> int:
        """Adapters in fp32; beside DoRA's magnitudes the norms of the rows, frozen and present. Where every weight is
        trained, its fp32 master unless it is fp32 itself."""
        if self.full:
            return self.gradient_bytes() if self.compute_bytes < WIDE else 0
        held = (*self.trained, *self.vectors, *self.vectors)
        return self.config.num_hidden_layers * sum(_up(WIDE * n) for n in held)

    def gradient_bytes(self) -> int:
        """Gradients of what is trained, fp32."""
        outside = sum(_up(WIDE * n) for n in self.outside)
        return self.config.num_hidden_layers * sum(_up(WIDE * n) for n in self.trained) + outside

    def optimiser_bytes(self) -> int:
        """AdamW: two fp32 moments; with 8 bits two bytes a number of a matrix, and two fp32 scales for 256 numbers;
        the rate and the count of updates."""
        wide = sum(_up(WIDE * n) for n in self.vectors)
        narrow = self.optimiser == "adamw_8bit"
        wide += sum(_narrow_moment(n) if narrow else _up(WIDE * n) for n in self.matrices)
        layers = self.config.num_hidden_layers * wide
        matrices, vectors = self.outside[:1], self.outside[1:]
        layers += sum(_narrow_moment(n) if narrow else _up(WIDE * n) for n in matrices)
        return 2 * (layers + sum(_up(WIDE * n) for n in vectors)) + 2 * GRANULE

    def workspace_bytes(self) -> int:
        """cuBLAS', for each thread that multiplies (forward, and autograd's), and for the stream on which DoRA's norms
        are computed."""
        return 0 if self.on_cpu else (3 if self.adapter.dora and not self.full else 2) * CUBLAS_WORKSPACE

    def dequantised_bytes(self) -> int:
        """The largest linear in the compute dtype, when weights are NF4."""
        return max(o * i for o, i in self.linears.values()) * self.compute_bytes if self.quantise == "nf4" else 0

    def update_bytes(self) -> int:
        """What an update takes for a moment: DoRA's norms need W Aᵀ and its like, and W itself where it is NF4."""
        if not self.adapter.dora or self.full:
            return 0
        rank, chosen = self.adapter.rank, [size for name, size in self.linears.items() if name in self.targets]
        return max(4 * WIDE * o * rank + self.compute_bytes * rank * i for o, i in chosen) + self.dequantised_bytes()

    def pack_bytes(self) -> int:
        """Ids, positions, ends; places, targets and weights."""
        return 3 * _up(8 * self.tokens) + 2 * _up(8 * self.supervised) + _up(4 * self.supervised)

    @property
    def mask_bytes(self) -> int:
        """What tells attention who sees whom, for sliding and full layers."""
        kinds = set(self.config.layer_types)
        if self.path == "triton":
            blocks = self.tokens // (64 if self.compute_bytes == 2 else 32)
            lists = 2 * _up(4 * blocks * blocks) + 2 * _up(8 * blocks)
            return 2 * _up(4 * self.tokens) + len(kinds) * lists
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        heads = groups * (self.config.num_key_value_heads if self.on_cpu else 1)
        windows = [self.config.sliding_window if kind == SLIDING else self.tokens for kind in kinds]
        return sum(self.pairs(window) for window in windows) * heads * self.compute_bytes

    def pairs(self, window: int) -> int:
        """Pairs of a query and a key, of one head, that blocks of queries come to in a layer of this window: at most,
        which is one long row."""
        return sum(self._groups(window))

    def _groups(self, window: int) -> list[int]:
        """The same by blocks that run together, whose lists have one length, the last one's."""
        size, together = _BLOCKS[self.path], _TOGETHER[self.path]
        blocks, widest = -(-self.tokens // size), -(-window // size) + 1
        return [
            size * together * size * min(first + together, blocks, widest) for first in range(0, blocks, together)
        ]

    def attention_work(self, window: int, backward: bool) -> int:
        """What attention takes for a moment beside its results: queries, outputs and gradients in the order of their
        blocks, keys and values gathered. Triton's needs none."""
        if self.path == "triton":
            return 0
        c, b = self.config, self.compute_bytes
        queries = self.tokens * c.num_attention_heads * c.head_dim * b
        if self.on_cpu:
            gathered = self.pairs(window) // _BLOCKS["cpu"] * c.num_key_value_heads * c.head_dim * b
            scores = max(self._groups(window)) * c.num_attention_heads * b
            return 4 * queries + 4 * gathered + 2 * scores if backward else 3 * queries + 2 * gathered + scores
        blocks = -(-self.tokens // _BLOCKS["efficient"])
        longest = min(self.tokens, window + _BLOCKS["efficient"])
        # Lists have four lengths between two powers of two; where a window bounds them nearly all have one.
        alike = blocks if window < self.tokens else -(-blocks // 4)
        gathered = min(_GATHERED, alike * longest * c.num_key_value_heads) * c.head_dim * b
        return (6 if backward else 4) * queries + (4 if backward else 2) * gathered


def _up(size: int) -> int:
    return -(-size // GRANULE) * GRANULE


def _narrow_moment(numbers: int) -> int:
    return _up(numbers) + _up(WIDE * -(-numbers // _EIGHT_BIT_BLOCK))


def _nf4_bytes(weights: int) -> int:
    scales = -(-weights // _NF4_BLOCK)
    return _up(-(-weights // 2)) + _up(scales) + _up(WIDE * -(-scales // _NF4_NEST)) + _up(256 * WIDE) + GRANULE
