"""What the passes of one pack allocate, from the first layer to the loss and back."""

from __future__ import annotations

from collections.abc import Sequence

from dozan.train.memory_layer import LayerTape
from dozan.train.memory_setup import CHUNK_BYTES, TILE, WIDE, Setup
from dozan.train.memory_tape import AGAIN, FLOW, HEAD, INPUTS, KEPT, LOSS, PACK, Block, Tape


def record(setup: Setup) -> Tape:
    """The passes of one pack, forward and backward, on a fresh tape."""
    tape, c = Tape(), setup.config
    layers, again = c.num_hidden_layers, setup.recompute
    tape.moment = "forward"
    kinds = len(set(c.layer_types))  # sliding and full layers turn by tables of their own
    table = [tape.new(setup.tokens * c.head_dim * setup.compute_bytes, PACK) for _ in range(2 * kinds)]
    masks = tape.new(setup.mask_bytes, PACK)
    x = tape.new(setup.tokens * c.hidden_size * setup.residual_bytes, KEPT if again == 0 else INPUTS)
    inputs: list[Block | None] = []
    kept: list[LayerTape] = []
    for index in range(layers):
        layer = LayerTape(tape, setup, AGAIN if index < again else KEPT, index)
        out = layer.forward()
        inputs.append(x)
        if index < again:
            layer.drop_all()
            if setup.offload:
                tape.free(x)
                inputs[-1] = None
        elif index == 0 and not setup.full:
            tape.free(x)
            inputs[-1] = None
        kept.append(layer)
        x = tape.move(out, INPUTS if index + 1 < again else KEPT)
    grad = _loss(tape, setup, x)
    _backward(tape, setup, kept, inputs, grad)
    tape.free(*table, masks)
    assert tape.total == 0, f"{tape.total} bytes are left on the tape: {dict(tape.live)}"
    return tape


def _loss(tape: Tape, setup: Setup, x: Block) -> Block:
    """Final norm, the loss in chunks of the vocabulary, and back through both: the gradient of the last layer."""
    c, s = setup.config, setup
    tape.moment = "the loss"
    hidden = tape.new(s.tokens * c.hidden_size * s.compute_bytes, LOSS)
    inverse = tape.new(s.tokens * WIDE, LOSS)
    chosen = tape.new(s.supervised * c.hidden_size * s.compute_bytes, LOSS)
    if s.full:
        return _trained_head(tape, s, chosen, hidden, inverse, x)
    gradient = _in_chunks(tape, s) if s.embedding == "gpu" else _in_tiles(tape, s)
    tape.free(chosen, hidden)
    tape.moment = "backward, the last layers"
    scaled = tape.new(s.supervised * c.hidden_size * s.compute_bytes, LOSS)
    tape.free(gradient)
    spread = tape.new(s.tokens * c.hidden_size * s.compute_bytes, FLOW)
    tape.free(scaled)
    grad = tape.new(s.tokens * c.hidden_size * s.residual_bytes, FLOW)
    tape.free(spread, inverse, x)
    return grad


def _trained_head(tape: Tape, s: Setup, chosen: Block, hidden: Block, inverse: Block, x: Block) -> Block:
    """The loss with a head that is trained: a tile of words at a time, once forward and once back; the gradient of all
    words stays until that of the embedding's rows is added to it."""
    width, positions = s.config.hidden_size, s.supervised
    log_sum = tape.new(positions * WIDE, LOSS)
    logits = positions * min(TILE, s.config.vocab_size) * s.compute_bytes
    tape.free(tape.new(logits, LOSS), hidden)
    tape.moment = "backward, the head"
    wide = tape.new(positions * width * WIDE, LOSS)
    tape.new(s.config.vocab_size * width * s.compute_bytes, HEAD)
    tape.free(tape.new(logits, LOSS), tape.new(positions * width * s.compute_bytes, LOSS))
    gradient = tape.new(positions * width * s.compute_bytes, LOSS)
    tape.free(wide, log_sum, chosen)
    tape.moment = "backward, the last layers"
    spread = tape.new(s.tokens * width * s.compute_bytes, FLOW)
    tape.free(gradient)
    norm = [tape.new(s.tokens * width * WIDE, FLOW) for _ in range(3)]
    tape.free(*norm)
    grad = tape.new(s.tokens * width * s.residual_bytes, FLOW)
    tape.free(spread, inverse, x)
    return grad


def _embedding(tape: Tape, s: Setup, grad: Block) -> None:
    """Back through the embedding's rows: a gradient of all words, added to that of the head."""
    tape.moment = "backward, the embedding"
    words = s.config.vocab_size * s.config.hidden_size * s.compute_bytes
    scaled = tape.new(s.tokens * s.config.hidden_size * s.compute_bytes, FLOW)
    tape.free(grad)
    rows = tape.new(words, HEAD)
    tape.free(scaled)
    total = tape.new(words, HEAD)
    head = Block(tape.live[HEAD] - rows.bytes - total.bytes, HEAD)
    tape.free(head, rows)
    if s.shards > 1:  # in fp32 on its way to the ranks' shares
        tape.free(tape.new(s.config.vocab_size * s.config.hidden_size * WIDE, HEAD))
    tape.free(total)


def _in_chunks(tape: Tape, s: Setup) -> Block:
    """The gradient [S, D]: logits of some positions at a time, which become their gradient in place; without Triton in
    fp32, beside a rounded copy."""
    gradient = tape.new(s.supervised * s.config.hidden_size * s.compute_bytes, LOSS)
    rows = max(1, CHUNK_BYTES["cpu" if s.on_cpu else "cuda"] // (WIDE * s.config.vocab_size))
    numbers = min(rows, s.supervised) * s.config.vocab_size
    logits = [tape.new(numbers * s.compute_bytes, LOSS)]
    if not s.fused and s.compute_bytes < WIDE:
        logits.append(tape.new(numbers * WIDE, LOSS))
    tape.free(*logits)
    return gradient


def _in_tiles(tape: Tape, s: Setup) -> Block:
    """The gradient [S, D] where the embedding comes in tiles: summed in fp32."""
    width, positions = s.config.hidden_size, s.supervised
    sums = [tape.new(positions * WIDE, LOSS) for _ in range(4)]
    wide = tape.new(positions * width * WIDE, LOSS)
    tile, logits = TILE * width * s.compute_bytes, positions * TILE * s.compute_bytes
    parts = [tape.new(tile, LOSS), tape.new(logits, LOSS), tape.new(positions * width * s.compute_bytes, LOSS)]
    tape.free(*parts)
    gradient = tape.new(positions * width * s.compute_bytes, LOSS)
    tape.free(wide, *sums)
    return gradient


def _backward(
    tape: Tape, setup: Setup, kept: Sequence[LayerTape], inputs: Sequence[Block | None], grad: Block
) -> None:
    arrived: Block | None = None
    for index in reversed(range(setup.config.num_hidden_layers)):
        layer, given = kept[index], grad
        if index >= setup.recompute:
            after = layer.backward(given, held=False)
            tape.free(inputs[index])
        else:
            tape.moment = "backward, a layer computed again"
            x = inputs[index]
            if setup.offload:  # this input, and the one that arrives meanwhile for the layer below
                size = setup.tokens * setup.config.hidden_size * setup.residual_bytes
                x = arrived or tape.new(size, INPUTS)
                arrived = tape.new(size, INPUTS) if index else None
            out = layer.forward()
            after = layer.backward(given, held=True)
            layer.drop_all()
            tape.free(out, x, given)
        if after is not None:
            grad = after
    if setup.full:
        _embedding(tape, setup, grad)
