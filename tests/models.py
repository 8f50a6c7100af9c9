"""Small random models and rows for the tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from dozan.chat.encode import Tokens
from dozan.model.adapter import adapter_parameters
from dozan.model.gemma3 import Gemma3, Gemma3Config

TINY: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "sliding_window": 8, "query_pre_attn_scalar": 8,
}  # fmt: skip


def tiny_model(seed: int = 0, **changes: Any) -> Gemma3:
    """A random fp32 model of 7 layers (the sixth is full attention) with a window of 8 tokens."""
    torch.manual_seed(seed)
    model = Gemma3(Gemma3Config.from_json({**TINY, **changes}))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2 if "norm" in name else 0.15)
    return model


def move_adapter(model: Gemma3) -> Gemma3:
    """The model with random B in its adapter, which begins at zero, where it changes nothing."""
    torch.manual_seed(5)
    for name, parameter in adapter_parameters(model):
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def tree_rows(seed: int = 0) -> list[Tokens]:
    """Ragged rows over nested shared prefixes, one row a prefix of another, two equal, supervised on trunk and
    branches."""
    draw = random.Random(seed)

    def words(count: int) -> list[int]:
        return [draw.randrange(10, 320) for _ in range(count)]

    trunk = [2, *words(40)]
    twig = trunk + words(9)
    ids = [
        trunk + words(5),
        twig + words(13),
        twig + words(1),
        trunk[:20] + words(7),
        trunk,
        [2, *words(3)],
        twig + words(30),
    ]
    ids.append(ids[1])
    return [row(str(i), tokens, draw) for i, tokens in enumerate(ids)]


def row(name: str, ids: Sequence[int], draw: random.Random) -> Tokens:
    """A row of which about a third of the tokens are supervised, with unequal weights."""
    weights = [draw.choice((0.0, 0.0, 1.0, 0.5)) for _ in ids]
    weights[0], weights[-1] = 0.0, 1.0
    return Tokens(name, tuple(ids), tuple(weights))
