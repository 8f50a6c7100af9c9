"""`python -m bench.judging --out FILE`: how long a thousand rows take to be scored, and what a grammar costs.

A model of the 270M shape with random weights computes everything, but what it answers are the test rows' own answers:
its logits are topped up along these scripts, one a place in the batch. `--refused` tokens of a thousand are topped up
to one that no grammar allows. Scoring is timed from a file of rows to all figures, in a process that has warmed up.
The grammar's cost is that of decoding: free and held to the rows' tools in turn, each shape captured before.
`--model` measures a real model's decoding too. The exit status is 1 when scoring takes 10 s, or decoding with a grammar
over 10 % longer. `--tiny` tries all this out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dozan
from bench.workloads import SHAPE_270M
from dozan.chat import Tokenizer, detect_chat
from dozan.chat.encode import encode_prompt, encode_rows
from dozan.chat.grammar import row_grammars
from dozan.demo import TEST, TRAIN
from dozan.judge import generate
from dozan.judge.decode import Decoder, Shape, State
from dozan.judge.evaluate import evaluate
from dozan.judge.guide import Guides
from dozan.judge.opened import open_for_judging
from dozan.model.bundle import Bundle
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.rows.example import Example
from dozan.rows.readers import read_rows

LONGEST_SECONDS, HIGHEST_COST = 10.0, 0.10
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 64, "query_pre_attn_scalar": 16,
}  # fmt: skip
_WANTED, _BARRED = 1e3, 1e4


class Scripted(Gemma3):
    """A model whose row b of a batch answers `script` int64 [B, N], padded; where `barred` bool [B, N] it would say
    `refused`."""

    script: Tensor
    barred: Tensor
    refused: int
    count: Tensor | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, D] -> [B, V]."""
        found = super().logits(hidden)
        rows = torch.arange(len(found), device=found.device)
        at = self.count if self.count is not None else torch.zeros_like(rows)
        at = at.clamp(max=self.script.shape[1] - 1)
        found = found.scatter(1, self.script[rows, at][:, None], _WANTED)
        found[:, self.refused] = torch.where(self.barred[rows, at], _BARRED, -_BARRED)
        return found


class TimedDecoder(Decoder):
    """Tells a scripted model where its rows are, and counts the seconds of decoding alone."""

    seconds = 0.0

    def step(self, state: State) -> None:
        """As ever."""
        if isinstance(self._model, Scripted):
            self._model.count = state.count
            super().step(state)
            self._model.count = None
        else:
            super().step(state)

    def decode(self, shape: Shape, *rest: Any, **named: Any) -> list[list[int]]:
        """Captured first, by a step of rows that have all ended, in the last slot."""
        if shape not in self._steps:
            state = self._states[shape]
            state.ended.fill_(True)
            state.slot.fill_(shape.own - 1)
            self._next(shape)
        _wait()
        begun = time.perf_counter()
        found = super().decode(shape, *rest, **named)
        _wait()
        TimedDecoder.seconds += time.perf_counter() - begun
        return found


def scripted(script: Tensor, refused: int, share: float, tiny: bool) -> Scripted:
    """Random weights on the device that is there."""
    shape = {**SHAPE_270M, **({**TINY, "vocab_size": 8192} if tiny else {})}
    config = Gemma3Config.from_json({**shape, "max_position_embeddings": 32768, "sliding_window_pattern": 6})
    device = torch.device("cpu" if tiny else "cuda")
    torch.manual_seed(0)
    with torch.device(device):
        model = Scripted(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.02 if weight.dim() > 1 else 0.0)
        model = model.to(torch.float32 if tiny else torch.bfloat16).requires_grad_(False).eval()
        model.script, model.refused = script.to(device), refused
        model.barred = torch.rand(script.shape) < share
        model.barred[:, 0] = False
    return model


def scoring(bundle: Bundle, rows: int, tiny: bool) -> dict[str, float]:
    """Seconds of `evaluate` on so many rows from a file, after a first call on a few."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        data = read_rows(TRAIN)[:rows]
        whole = [{"id": row.id, "messages": list(row.messages), "tools": list(row.tools)} for row in data]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole), encoding="utf-8")
        evaluate(bundle, path, limit=min(8, rows))
        _wait()
        begun = time.perf_counter()
        scores = evaluate(bundle, path)
        _wait()
        seconds = time.perf_counter() - begun
    assert len(scores.rows) == rows and not any(row.problems for row in scores.rows), "an answer is not the script"
    return {"rows": rows, "seconds": round(seconds, 3), "rows_per_second": round(rows / seconds, 1)}


def guided(bundle: Bundle, rows: Sequence[Example], repeats: int) -> dict[str, float]:
    """Seconds to decode one batch of these rows without and with their grammars, and to make their guides."""
    prompts = [encode_prompt(row, bundle.chat, bundle.tokenizer) for row in rows]
    grammars = row_grammars(rows, bundle.chat)
    stops = {bundle.tokenizer.id(token) for token in bundle.chat.stop_tokens}
    seconds: dict[str, list[float]] = {"free": [], "held": [], "guides": []}
    answers = {}
    for _ in range(repeats + 1):
        for name in ("free", "held"):
            begun = time.perf_counter()
            guides = Guides(bundle.tokenizer, stops, grammars) if name == "held" else None
            seconds["guides"] += [time.perf_counter() - begun] if guides else []
            TimedDecoder.seconds = 0.0
            answers[name] = generate.generate_ids(
                bundle.model, prompts, 256, stops, batch_rows=len(rows), guides=guides
            )
            seconds[name].append(TimedDecoder.seconds)
    assert guides is not None
    guides.check_answers(answers["held"])
    free, held, made = (min(seconds[name][1:]) for name in ("free", "held", "guides"))
    tokens = sum(map(len, answers["held"]))
    return {
        "rows": len(rows), "tokens": tokens, "free_seconds": round(free, 5), "held_seconds": round(held, 5),
        "cost": round(held / free - 1, 4), "guides_seconds": round(made, 5),
        "rows_that_differ": sum(a != b for a, b in zip(answers["free"], answers["held"], strict=True)),
    }  # fmt: skip


def main() -> None:
    options = _options()
    generate.Decoder = TimedDecoder  # type: ignore[misc]
    if options.tiny:
        generate.decodes_statically = lambda device: True
    tokenizer = Tokenizer.load(dozan.EMBEDDED_BASE)
    chat, test = detect_chat(tokenizer), read_rows(TEST)
    answers = [
        [token for token, weight in zip(row.ids, row.weights, strict=True) if weight]
        for row in encode_rows(test, chat, tokenizer, 4096)
    ]
    longest = max(map(len, answers))
    script = torch.tensor([answer + answer[-1:] * (longest - len(answer)) for answer in answers])
    refused = tokenizer.id("<start_of_turn>")
    record: dict[str, Any] = {
        "what": "python -m bench.judging", "device": "cpu" if options.tiny else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "dozan": dozan.__version__},
        "answer_tokens": {"mean": sum(map(len, answers)) / len(answers), "longest": longest},
        "refused_of_a_thousand": options.refused, "grammar": {},
    }  # fmt: skip

    def bundled(share: float) -> Bundle:
        model = scripted(script, refused, share, options.tiny)
        return Bundle(model, model.config, tokenizer, chat, Path(dozan.EMBEDDED_BASE), None)

    models = {"270m shape": bundled(0.0)}
    record["scoring"] = scoring(models["270m shape"], options.rows, options.tiny)
    print(json.dumps(record["scoring"]), flush=True)
    models["270m shape, some refused"] = bundled(options.refused / 1000)
    models |= {Path(path).name: open_for_judging(path) for path in options.model}
    rows = read_rows(TRAIN)[: max(options.batches)]
    for name, bundle in models.items():
        record["grammar"][name] = []
        for batch in options.batches:
            record["grammar"][name].append(guided(bundle, rows[:batch], options.repeats))
            print(name, json.dumps(record["grammar"][name][-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    worst = max(figures["cost"] for name in list(models)[:2] for figures in record["grammar"][name])
    if record["scoring"]["seconds"] >= LONGEST_SECONDS or worst > HIGHEST_COST:
        sys.exit(f"scoring took {record['scoring']['seconds']:.1f} s, a grammar cost {worst:.1%} at the most")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.judging", description=__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="rows that are scored")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256], help="rows that are decoded together")
    parser.add_argument("--refused", type=float, default=1.0, help="refused tokens of a thousand")
    parser.add_argument("--repeats", type=int, default=5, help="calls after the first")
    parser.add_argument("--model", nargs="*", default=[], help="real models whose decoding is measured too")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, help="the record, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
