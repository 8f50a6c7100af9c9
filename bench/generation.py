"""`python -m bench.generation [--rows 256] [--new 64] [--out FILE]`: greedy answers of ours and transformers', timed.

Both have the same random weights at the shape of the 270M model, the same rows (800 shared tokens, then 16 to 55 of
their own) and make the same number of tokens, in one batch of all rows. The weights are such that an answer depends on
its prompt: each token has two likely successors, and what the layers make of the prompt decides between them. The
answers must agree in 95 % of the tokens up to a row's first difference (in bf16 two tokens can be as likely); the exit
status is 1 when they do not. `--tiny` tries all this out in fp32 on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from bench.workloads import SHAPE_270M
from dozan.judge.generate import generate_ids
from dozan.model.gemma3 import Gemma3, Gemma3Config

SHAPES: dict[str, dict[str, int]] = {
    "270m": SHAPE_270M,
    "tiny": {
        "vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 128, "sliding_window": 24,
        "query_pre_attn_scalar": 16,
    },
}  # fmt: skip
CHAIN = 8
"""Tokens in a chain of neighbours; a vocabulary is a multiple of it."""

LEAST_AGREEMENT = 0.95


def main() -> None:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() and not options.tiny else "cpu")
    name, prefix = ("tiny", 40) if options.tiny else ("270m", 800)
    theirs = random_model(SHAPES[name], getattr(torch, options.dtype), device)
    ours = same_model(theirs)
    prompts = rows(options.rows, prefix, SHAPES[name]["vocab_size"])
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "dtype": options.dtype, "shape": name, "rows": options.rows, "new_tokens": options.new,
        "prefix_tokens": prefix,
    }  # fmt: skip
    runs: dict[str, Callable[[], list[list[int]]]] = {
        "ours": lambda: generate_ids(ours, prompts, options.new, set(), batch_rows=options.rows),
        "transformers": lambda: their_answers(theirs, prompts, options.new, None),
    }
    if options.static:
        runs["transformers, static cache"] = lambda: their_answers(theirs, prompts, options.new, "static")
    answers = {}
    for run, call in runs.items():
        answers[run], record[run] = timed(call, options.repeats, options.rows * options.new)
        print(f"{run}: {json.dumps(record[run])}", flush=True)
    for run in [run for run in runs if run != "ours"]:
        record[f"times {run}"] = round(record[run]["seconds"] / record["ours"]["seconds"], 2)
    record |= agreement(answers["ours"], answers["transformers"])
    print(json.dumps(record, indent=1))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if record["agreement"] < LEAST_AGREEMENT:
        sys.exit(f"the answers agree in {record['agreement']:.1%} of their tokens, less than {LEAST_AGREEMENT:.0%}")


@torch.no_grad()
def random_model(shape: dict[str, int], dtype: torch.dtype, device: torch.device) -> Gemma3ForCausalLM:
    """transformers' model whose next token is one of two neighbours of the last, as the prompt will have it."""
    torch.manual_seed(0)
    with torch.device(device):
        config = Gemma3TextConfig(**shape, max_position_embeddings=32768, pad_token_id=0, bos_token_id=2)
        model = Gemma3ForCausalLM(config)
        width, layers = config.hidden_size, config.num_hidden_layers
        for part, weight in model.named_parameters():
            if "norm" in part:
                # All layers together weigh as much as the last token; attention is sharp.
                weight.fill_((2 * layers) ** -0.5 - 1.0 if "post_" in part else 0.5 if "self_attn" in part else 0.0)
            elif "embed" not in part:
                weight.normal_(std=weight.shape[1] ** -0.5)
        # With these signs no token is like itself, and neighbours are like one another.
        sign = torch.randint(0, 2, (width,)) * 2.0 - 1.0
        model.model.norm.weight.copy_(sign - 1.0)
        words = torch.randn(config.vocab_size // CHAIN, CHAIN, width)
        for i in range(1, CHAIN):
            words[:, i] = 0.6 * sign * words[:, i - 1] + 0.8 * words[:, i]
        model.model.embed_tokens.weight.copy_(words.flatten(0, 1) * width**-0.5)
    model.generation_config.eos_token_id = None  # every row makes all its tokens
    return model.to(dtype).eval()


def same_model(theirs: Gemma3ForCausalLM) -> Gemma3:
    """Ours with the same weights."""
    weights = {name: weight for name, weight in theirs.state_dict().items() if name != "lm_head.weight"}
    with torch.device("meta"):
        ours = Gemma3(Gemma3Config.from_json(theirs.config.to_dict()))
    ours.load_state_dict(weights, assign=True)
    return ours.requires_grad_(False).eval()


def rows(count: int, prefix: int, vocabulary: int) -> list[list[int]]:
    """Prompts that share `prefix` tokens and go on with 16 to 55 random ones."""
    draw = random.Random(0)
    shared = [2, *(draw.randrange(3, vocabulary) for _ in range(prefix - 1))]
    return [shared + [draw.randrange(3, vocabulary) for _ in range(draw.randint(16, 55))] for _ in range(count)]


@torch.inference_mode()
def their_answers(
    model: Gemma3ForCausalLM, prompts: list[list[int]], new: int, cache_implementation: str | None
) -> list[list[int]]:
    """transformers' own greedy answers of `new` tokens, the prompts padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    chosen = {"cache_implementation": cache_implementation} if cache_implementation else {}
    found: Tensor = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new, pad_token_id=0, **chosen
    )
    return found[:, longest:].tolist()


def timed(call: Callable[[], list[list[int]]], repeats: int, tokens: int) -> tuple[list[list[int]], dict[str, float]]:
    """What a call gives, and its figures: the first call apart, which compiles, and the best of the others."""
    seconds = []
    for _ in range(repeats + 1):
        _wait()
        begun = time.perf_counter()
        found = call()
        _wait()
        seconds.append(time.perf_counter() - begun)
    best = min(seconds[1:])
    figures = {"seconds": best, "tokens_per_second": tokens / best, "first_seconds": seconds[0]}
    if torch.cuda.is_available():
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return found, {name: round(value, 4) for name, value in figures.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> dict[str, float]:
    """How many tokens agree of those up to and with a row's first difference; how many rows do; how many differ."""
    same = compared = equal = 0
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b), f"{len(a)} tokens of ours, {len(b)} of transformers'"
        first = next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), len(a))
        same, compared, equal = same + first, compared + min(first + 1, len(a)), equal + (first == len(a))
    distinct = len({tuple(answer) for answer in ours}) / len(ours)
    return {
        "agreement": round(same / compared, 5), "equal_rows": round(equal / len(ours), 4),
        "distinct_answers": round(distinct, 4),
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=__doc__)
    parser.add_argument("--rows", type=int, help="256, or 8 when tiny")
    parser.add_argument("--new", type=int, help="tokens of every answer: 64, or 24 when tiny")
    parser.add_argument("--repeats", type=int, default=2, help="calls after the first")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="bfloat16, or float32 when tiny")
    parser.add_argument("--static", action="store_true", help="also transformers' static cache, which compiles first")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, help="the record, as JSON")
    options = parser.parse_args()
    options.rows = options.rows or (8 if options.tiny else 256)
    options.new = options.new or (24 if options.tiny else 64)
    options.dtype = options.dtype or ("float32" if options.tiny else "bfloat16")
    return options


if __name__ == "__main__":
    main()
