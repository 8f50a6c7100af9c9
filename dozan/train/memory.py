"""The memory of a run before anything is loaded: a table of bytes from a configuration alone.

Weights, adapters, gradients and the optimiser's state are exact; activations are what `memory_tape` adds up, op by op.
The peak is the highest of the moments: the loss, the backward pass of the last layers, that of the layers that are
computed again, and the update. What lies outside PyTorch's allocator (CUDA's context, the kernels) is told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dozan.train.memory_passes import record
from dozan.train.memory_setup import Setup
from dozan.train.memory_tape import FLOW, PACK

CONTEXT_BYTES = 600 * 2**20
"""CUDA's context, the kernels that are loaded, and NCCL's like: outside the allocator."""
POOLS_BYTES = 128 * 2**20
"""What the allocator holds beyond what it has given away: the rest of its pools' last pages."""
_GATHERED = "layers, gathered"
MARGIN = 0.04
"""Of a card's memory that a plan leaves free: what the allocator cannot place, and what this table does not know."""


@dataclass(frozen=True)
class Table:
    """Bytes of a configuration.

    parts: of the peak, by name, in the order in which they are shown; they add up to `allocated`. moment: when the
    peak is. allocated: what PyTorch's allocator has given away then (`torch.cuda.max_memory_allocated`). apart: what it
    holds though it is not in use: the rest of its pages, and with graphs the other moment's pool. context: outside it.
    """

    setup: Setup
    parts: Mapping[str, int]
    moment: str
    apart: int
    context: int

    @property
    def allocated(self) -> int:
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """What the card must have free before the process starts."""
        return self.allocated + self.apart + self.context


def predict(setup: Setup) -> Table:
    """The memory of a run's steps from the second one on, when the optimiser's state is there."""
    tape, update = record(setup), setup.update_bytes()
    held = _base(setup) | _trained(setup)
    held |= {"the pack": setup.pack_bytes(), "workspace": setup.workspace_bytes()}
    parts, moment = held | dict(tape.at_peak), tape.peak_moment
    if update > tape.peak:
        parts, moment = held | {"update": update}, "the update"
    arriving = {**held, _GATHERED: 0, "the embedding on its way": setup.embedding_bytes()}
    if setup.is_embedding_shared and sum(arriving.values()) > sum(parts.values()):
        parts, moment = arriving, "a pass begins"
    shown = {name: size for name, size in parts.items() if size}
    if setup.on_cpu:
        return Table(setup, shown, moment, 0, 0)
    apart = POOLS_BYTES + (min(update, tape.peak) if setup.graphs else 0)
    return Table(setup, shown, moment, apart, CONTEXT_BYTES)


def _base(setup: Setup) -> dict[str, int]:
    """The weights that are computed with; a rank's share of them, and what it gathers of the others'."""
    held = {
        "linears" if setup.full else "frozen linears": setup.linear_bytes(),
        "embedding and head": setup.embedding_bytes(), "norms": setup.norm_bytes(),
    }  # fmt: skip
    if setup.shards == 1:
        return held
    # Shares of weights that are trained are fp32: the masters themselves.
    shares = {} if setup.full else {name: setup.share(size) for name, size in held.items()}
    whole = held["embedding and head"]
    if setup.is_embedding_shared:
        return shares | {"embedding, gathered": whole, _GATHERED: setup.gathered_bytes()}
    return shares | {"embedding and head": whole, _GATHERED: setup.gathered_bytes()}


def _trained(setup: Setup) -> dict[str, int]:
    """What is trained, its gradients and moments; adapters are whole on every rank, whole weights are shared."""
    masters = setup.gradient_bytes() if setup.full and setup.shards > 1 else setup.adapter_bytes()
    held = {
        "weights in fp32" if setup.full else "adapters": masters, "gradients": setup.gradient_bytes(),
        "optimiser": setup.optimiser_bytes(),
    }  # fmt: skip
    if not setup.full or setup.shards == 1:
        return held
    return {name: setup.share(size) for name, size in held.items()} | {"gradients of a layer": setup.scattered_bytes()}


def layer_bytes(setup: Setup) -> int:
    """What one layer more in `recompute` gives back: its activations, less its input."""
    two = replace(setup.config, num_hidden_layers=2, layer_types=setup.config.layer_types[:1] * 2)
    three = replace(setup.config, num_hidden_layers=3, layer_types=setup.config.layer_types[:1] * 3)
    few, more = (record(replace(setup, config=c, recompute=0)).at_peak for c in (two, three))
    return sum(size for part, size in more.items() if part not in (FLOW, PACK)) - sum(
        size for part, size in few.items() if part not in (FLOW, PACK)
    )
